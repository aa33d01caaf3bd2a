//! Control parts of replies.
//!
//! ```text
//! values (Get, BatchRead)     retry_after_us 4 | count 4 | count × segment 56; payload: the segments' bytes in order
//!   segment   entry_idx 4 | outcome 2 | type_tag 1 | class 1 | namespace 4 | flags 4 | expiry_ms 8 | version 8 |
//!             value_len 8 | offset 8 | chunk_len 4 | crc32c 4
//! written (Put, BatchWrite)   retry_after_us 4 | count 4 | count × { outcome 2 | version 8 }
//! outcomes (Delete, Exists)   retry_after_us 4 | count 4 | count × outcome 2
//! Cancel   state 1     Ping   echo 8 | unix_ns 8 | state 1     Stat   see the stat module     Connect   see connect
//! failed (any op, flag FAILED)   code 2 | detail_len 2 | retry_after_us 4 | detail, UTF-8
//! ```
//!
//! Written and outcomes answer every entry of the request, in order. Values may come in several frames (flag MORE on
//! all but the last) and in any order of entries; the segments of one value come in rising offsets.

mod encode;

use crate::blocks::ReplyBlocks;
use crate::connect::Connect;
use crate::frame::{Flags, FrameHead};
use crate::limits;
use crate::op::{Attrs, Class, ErrorCode, OpCode, Outcome, Segment, wire_enum};
use crate::stat::StatFields;
use crate::wire::{DecodeError, Reader};

pub use encode::{
    encode_cancelled, encode_connected, encode_failed, encode_outcomes, encode_pong, encode_stat,
    encode_values, encode_written,
};

/// Bytes of a segment on the wire.
pub const SEGMENT_BYTES: usize = 56;
const WRITTEN_BYTES: usize = 10;
const OUTCOME_BYTES: usize = 2;

wire_enum! {
    /// What became of the request that a Cancel named.
    CancelState: u8, "cancel state" {
        /// It was stopped; its own reply says `cancelled`, or has been sent.
        Stopped = 0, "stopped";
        /// It isn't known: answered already, or never sent. Either way the server is done with it.
        NotFound = 1, "not_found";
    }
}

wire_enum! {
    /// What the server says of itself in answer to a Ping.
    ServerState: u8, "server state" {
        /// Serves.
        Ready = 0, "ready";
        /// Alive, but not ready to serve.
        Starting = 1, "starting";
        /// Finishes what it has and takes nothing new.
        Draining = 2, "draining";
    }
}

/// A decoded reply, or one part of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<'a> {
    /// To Get and BatchRead: values, whole or in stretches.
    Values(Segments<'a>),
    /// To Put and BatchWrite.
    Written(WriteResults<'a>),
    /// To Delete and Exists.
    Outcomes(Outcomes<'a>),
    /// To Connect.
    Connected(Connect<'a>),
    /// To Cancel. From here on the server doesn't touch what the cancelled request named.
    Cancelled(CancelState),
    /// To Ping.
    Pong(Pong),
    /// To Stat.
    Stat(StatFields<'a>),
    /// The request failed as a whole; no entry was done.
    Failed(Failure<'a>),
}

/// The answer to a Ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// What the Ping brought.
    pub echo: u64,
    /// The server's wall clock, in ns of Unix time.
    pub unix_ns: u64,
    /// How the server is.
    pub state: ServerState,
}

/// Why a request failed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The reason.
    pub code: ErrorCode,
    /// When to try again, in µs; 0 if the server has no opinion.
    pub retry_after_us: u32,
    /// For people; at most [`limits::DETAIL_BYTES_MAX`] bytes, may be empty.
    pub detail: &'a str,
}

impl<'a> Reply<'a> {
    /// Decodes a control part that the session has verified, and its blocks. Borrows; doesn't allocate.
    ///
    /// # Errors
    /// [`DecodeError`]; a server that sends such a reply is broken, so a client closes the connection.
    pub fn decode(
        head: &FrameHead,
        control: &'a [u8],
    ) -> Result<(ReplyBlocks, Reply<'a>), DecodeError> {
        let mut reader = Reader::new(control);
        let blocks = ReplyBlocks::read(head.flags, &mut reader)?;
        let reply = if head.flags.contains(Flags::FAILED) {
            Reply::Failed(Failure::read(&mut reader)?)
        } else {
            match head.op {
                OpCode::Get | OpCode::BatchRead => {
                    Reply::Values(Segments::read(&mut reader, head)?)
                }
                OpCode::Put | OpCode::BatchWrite => {
                    Reply::Written(WriteResults(Table::read(&mut reader, WRITTEN_BYTES)?))
                }
                OpCode::Delete | OpCode::Exists => {
                    Reply::Outcomes(Outcomes(Table::read(&mut reader, OUTCOME_BYTES)?))
                }
                OpCode::Connect => Reply::Connected(Connect::read(&mut reader)?),
                OpCode::Cancel => {
                    Reply::Cancelled(CancelState::from_wire(reader.u8("cancel state")?)?)
                }
                OpCode::Ping => Reply::Pong(Pong {
                    echo: reader.u64("echo")?,
                    unix_ns: reader.u64("unix_ns")?,
                    state: ServerState::from_wire(reader.u8("server state")?)?,
                }),
                OpCode::Stat => Reply::Stat(StatFields::read(&mut reader)?),
                OpCode::Hello | OpCode::HelloReply | OpCode::Finish | OpCode::Refusal => {
                    let value = u64::from(head.op.to_wire());
                    return Err(DecodeError::BadValue { field: "op", value });
                }
            }
        };
        reader.end()?;
        Ok((blocks, reply))
    }
}

impl<'a> Failure<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let code = ErrorCode::from_wire(reader.u16("error code")?)?;
        let len = usize::from(reader.u16("detail length")?);
        if len > limits::DETAIL_BYTES_MAX {
            let (value, bound) = (len as u64, limits::DETAIL_BYTES_MAX as u64);
            return Err(DecodeError::TooLarge {
                field: "detail length",
                value,
                bound,
            });
        }
        let retry_after_us = reader.u32("retry_after_us")?;
        let detail = std::str::from_utf8(reader.bytes("detail", len)?).map_err(|error| {
            DecodeError::BadValue {
                field: "detail (utf-8)",
                value: error.valid_up_to() as u64,
            }
        })?;
        Ok(Failure {
            code,
            retry_after_us,
            detail,
        })
    }
}

/// Rows of fixed size, of which each is an outcome and maybe more, all checked.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Table<'a> {
    retry_after_us: u32,
    rows: &'a [u8],
}

impl<'a> Table<'a> {
    fn read(reader: &mut Reader<'a>, row_bytes: usize) -> Result<Self, DecodeError> {
        let retry_after_us = reader.u32("retry_after_us")?;
        let count = reader.count(row_bytes)?;
        let rows = reader.bytes("entries", count * row_bytes)?;
        for row in rows.chunks_exact(row_bytes) {
            Outcome::from_wire(u16::from_le_bytes([row[0], row[1]]))?;
        }
        Ok(Table {
            retry_after_us,
            rows,
        })
    }
}

fn row_outcome(row: &[u8]) -> Outcome {
    let code = u16::from_le_bytes([row[0], row[1]]);
    Outcome::from_wire(code).unwrap_or(Outcome::Error(ErrorCode::Internal))
}

/// How each key of a Delete or Exists fared, in the request's order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcomes<'a>(Table<'a>);

impl<'a> Outcomes<'a> {
    /// When to try the busy ones again, in µs; 0 if none is.
    pub fn retry_after_us(&self) -> u32 {
        self.0.retry_after_us
    }

    /// How many there are; a client checks that it is what it asked for.
    pub fn len(&self) -> usize {
        self.0.rows.len() / OUTCOME_BYTES
    }

    /// Never: a reply has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.0.rows.is_empty()
    }

    /// The outcomes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Outcome> + use<'a> {
        self.0.rows.chunks_exact(OUTCOME_BYTES).map(row_outcome)
    }
}

/// How one put fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteResult {
    /// Ok, or why not; a put never misses.
    pub outcome: Outcome,
    /// The version that it got; 0 unless ok.
    pub version: u64,
}

/// How each entry of a write fared, in the request's order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WriteResults<'a>(Table<'a>);

impl<'a> WriteResults<'a> {
    /// When to try the busy ones again, in µs; 0 if none is.
    pub fn retry_after_us(&self) -> u32 {
        self.0.retry_after_us
    }

    /// How many there are; a client checks that it is what it asked for.
    pub fn len(&self) -> usize {
        self.0.rows.len() / WRITTEN_BYTES
    }

    /// Never: a reply has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.0.rows.is_empty()
    }

    /// The results.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = WriteResult> + use<'a> {
        self.0.rows.chunks_exact(WRITTEN_BYTES).map(|row| {
            let mut version = [0; 8];
            version.copy_from_slice(&row[2..]);
            WriteResult {
                outcome: row_outcome(row),
                version: u64::from_le_bytes(version),
            }
        })
    }
}

/// The segments of one frame of values; their `chunk_len`s add up to its payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segments<'a> {
    retry_after_us: u32,
    rows: &'a [u8],
}

impl<'a> Segments<'a> {
    fn read(reader: &mut Reader<'a>, head: &FrameHead) -> Result<Self, DecodeError> {
        let retry_after_us = reader.u32("retry_after_us")?;
        let count = reader.count(SEGMENT_BYTES)?;
        let rows = reader.bytes("segments", count * SEGMENT_BYTES)?;
        let mut payload_len = 0u64;
        for row in rows.chunks_exact(SEGMENT_BYTES) {
            let segment = read_segment(&mut Reader::new(row))?;
            check_segment(&segment)?;
            payload_len += u64::from(segment.chunk_len);
        }
        if payload_len != head.payload_len {
            let (value, expected) = (head.payload_len, payload_len);
            return Err(DecodeError::Mismatch {
                field: "payload_len",
                value,
                expected,
            });
        }
        Ok(Segments {
            retry_after_us,
            rows,
        })
    }

    /// When to try the busy entries again, in µs; 0 if none is.
    pub fn retry_after_us(&self) -> u32 {
        self.retry_after_us
    }

    /// How many there are, 1 to [`limits::BATCH_ENTRIES_MAX`].
    pub fn len(&self) -> usize {
        self.rows.len() / SEGMENT_BYTES
    }

    /// Never: a frame of values has at least one segment.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The segments, in the order of their bytes in the payload.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + Clone + use<'a> {
        self.rows
            .chunks_exact(SEGMENT_BYTES)
            .filter_map(|row| read_segment(&mut Reader::new(row)).ok())
    }
}

fn read_segment(reader: &mut Reader<'_>) -> Result<Segment, DecodeError> {
    let entry_idx = reader.u32("entry_idx")?;
    let outcome = Outcome::from_wire(reader.u16("outcome")?)?;
    let type_tag = reader.u8("type tag")?;
    let class = Class::from_wire(reader.u8("class")?)?;
    let namespace = reader.u32("namespace")?;
    let flags = reader.u32("entry flags")?;
    let expiry_ms = reader.u64("expiry_ms")?;
    let version = reader.u64("version")?;
    let value_len = reader.u64("value_len")?;
    let offset = reader.u64("offset")?;
    let chunk_len = reader.u32("chunk_len")?;
    let crc = reader.u32("crc")?;
    let attrs = Attrs {
        namespace,
        type_tag,
        flags,
        expiry_ms,
        class,
    };
    Ok(Segment {
        entry_idx,
        outcome,
        attrs,
        version,
        value_len,
        crc,
        offset,
        chunk_len,
    })
}

/// What makes a segment safe to act on: its stretch lies in its value, and only what is ok has bytes.
fn check_segment(segment: &Segment) -> Result<(), DecodeError> {
    let too_large = |field, value, bound| {
        Err(DecodeError::TooLarge {
            field,
            value,
            bound,
        })
    };
    if segment.entry_idx as usize >= limits::BATCH_ENTRIES_MAX {
        let bound = limits::BATCH_ENTRIES_MAX as u64 - 1;
        return too_large("entry_idx", u64::from(segment.entry_idx), bound);
    }
    if segment.value_len > limits::VALUE_BYTES_MAX {
        return too_large("value_len", segment.value_len, limits::VALUE_BYTES_MAX);
    }
    if segment.outcome != Outcome::Ok && segment.value_len != 0 {
        let value = segment.value_len;
        return Err(DecodeError::Mismatch {
            field: "value_len",
            value,
            expected: 0,
        });
    }
    let end = segment.offset.saturating_add(u64::from(segment.chunk_len));
    if end > segment.value_len {
        return too_large("end of segment", end, segment.value_len);
    }
    Ok(())
}
