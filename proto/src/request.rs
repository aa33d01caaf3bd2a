//! Control parts of requests.
//!
//! ```text
//! keyed (Get, BatchRead, Delete, Exists)   namespace 4 | count 4 | count × { key_len 2 | key }
//! writes (Put, BatchWrite)                 count 4 | count × { namespace 4 | flags 4 | expiry_ms 8 | if_version 8 |
//!                                            value_len 8 | crc32c 4 | key_len 2 | type_tag 1 | class 4 bits low,
//!                                            condition 4 bits high | key }
//! Cancel   request_id 8        Ping   echo 8        Stat   nothing        Connect   see the connect module
//! ```
//!
//! A decoder checks everything once; the iterators it returns borrow from the control part and can't fail.

mod encode;

use crate::blocks::{TraceContext, read_trace};
use crate::connect::Connect;
use crate::frame::FrameHead;
use crate::limits;
use crate::op::{Attrs, Class, Condition, OpCode, PutEntry};
use crate::wire::{DecodeError, Reader};

pub(crate) use encode::set_count;
pub use encode::{
    encode_cancel, encode_connect, encode_keys, encode_ping, encode_stat, encode_writes,
};

/// Bytes of an entry of a write, without its key.
const WRITE_ENTRY_BYTES: usize = 40;

/// A decoded request. Puts and Gets are batches of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// Store one value.
    Put(WriteEntries<'a>),
    /// Store several.
    BatchWrite(WriteEntries<'a>),
    /// Read one value.
    Get(KeyEntries<'a>),
    /// Read several.
    BatchRead(KeyEntries<'a>),
    /// Remove keys.
    Delete(KeyEntries<'a>),
    /// Ask which keys are there.
    Exists(KeyEntries<'a>),
    /// Exchange queue pair data and fabric facts.
    Connect(Connect<'a>),
    /// Take back a request.
    Cancel {
        /// Which one.
        request_id: u64,
    },
    /// Ask for a sign of life.
    Ping {
        /// Comes back as it is.
        echo: u64,
    },
    /// Ask for key figures.
    Stat,
}

impl<'a> Request<'a> {
    /// Decodes a control part that the session has verified, and its trace context if there is one.
    ///
    /// Keys and values may be out of bounds: that is an entry's outcome, see [`PutEntry::check`] and
    /// [`limits::check_key`]. Borrows; doesn't allocate.
    ///
    /// # Errors
    /// [`DecodeError`]; the connection may go on once the payload is skipped, the request can't.
    pub fn decode(
        head: &FrameHead,
        control: &'a [u8],
    ) -> Result<(Option<TraceContext>, Request<'a>), DecodeError> {
        let mut reader = Reader::new(control);
        let trace = read_trace(head.flags, &mut reader)?;
        let request = match head.op {
            OpCode::Put => Request::Put(WriteEntries::read(&mut reader, head, 1)?),
            OpCode::BatchWrite => {
                let entries = WriteEntries::read(&mut reader, head, limits::BATCH_ENTRIES_MAX)?;
                Request::BatchWrite(entries)
            }
            OpCode::Get => Request::Get(KeyEntries::read(&mut reader, 1)?),
            OpCode::BatchRead => {
                Request::BatchRead(KeyEntries::read(&mut reader, limits::BATCH_ENTRIES_MAX)?)
            }
            OpCode::Delete => {
                Request::Delete(KeyEntries::read(&mut reader, limits::BATCH_ENTRIES_MAX)?)
            }
            OpCode::Exists => {
                Request::Exists(KeyEntries::read(&mut reader, limits::BATCH_ENTRIES_MAX)?)
            }
            OpCode::Connect => Request::Connect(Connect::read(&mut reader)?),
            OpCode::Cancel => Request::Cancel {
                request_id: reader.u64("request id")?,
            },
            OpCode::Ping => Request::Ping {
                echo: reader.u64("echo")?,
            },
            OpCode::Stat => Request::Stat,
            OpCode::Hello | OpCode::HelloReply | OpCode::Finish | OpCode::Refusal => {
                let value = u64::from(head.op.to_wire());
                return Err(DecodeError::BadValue { field: "op", value });
            }
        };
        reader.end()?;
        Ok((trace, request))
    }

    /// Its op.
    pub fn op(&self) -> OpCode {
        match self {
            Request::Put(_) => OpCode::Put,
            Request::BatchWrite(_) => OpCode::BatchWrite,
            Request::Get(_) => OpCode::Get,
            Request::BatchRead(_) => OpCode::BatchRead,
            Request::Delete(_) => OpCode::Delete,
            Request::Exists(_) => OpCode::Exists,
            Request::Connect(_) => OpCode::Connect,
            Request::Cancel { .. } => OpCode::Cancel,
            Request::Ping { .. } => OpCode::Ping,
            Request::Stat => OpCode::Stat,
        }
    }
}

/// The keys of a request, checked and not copied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyEntries<'a> {
    namespace: u32,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> KeyEntries<'a> {
    fn read(reader: &mut Reader<'a>, count_max: usize) -> Result<Self, DecodeError> {
        let namespace = reader.u32("namespace")?;
        let count = single_or_batch(reader.count(2)?, count_max)?;
        let bytes = reader.rest();
        for _ in 0..count {
            let len = reader.u16("key length")?;
            reader.bytes("key", usize::from(len))?;
        }
        Ok(KeyEntries {
            namespace,
            count,
            bytes: &bytes[..bytes.len() - reader.left()],
        })
    }

    /// The name space of all its keys.
    pub fn namespace(&self) -> u32 {
        self.namespace
    }

    /// How many there are, 1 to [`limits::BATCH_ENTRIES_MAX`].
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: a request has at least one key.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The keys, in order. Some may be empty or too long, see [`limits::check_key`].
    pub fn iter(&self) -> Keys<'a> {
        Keys {
            left: self.count,
            rest: self.bytes,
        }
    }
}

impl<'a> IntoIterator for &KeyEntries<'a> {
    type Item = &'a [u8];
    type IntoIter = Keys<'a>;
    fn into_iter(self) -> Keys<'a> {
        self.iter()
    }
}

/// Iterates over the keys of a request without copying.
#[derive(Clone, Debug)]
pub struct Keys<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
        self.rest = rest;
        self.left -= 1;
        Some(key)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Keys<'_> {}

/// The entries of a write, checked and not copied. Their lengths add up to the frame's payload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WriteEntries<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> WriteEntries<'a> {
    fn read(
        reader: &mut Reader<'a>,
        head: &FrameHead,
        count_max: usize,
    ) -> Result<Self, DecodeError> {
        let count = single_or_batch(reader.count(WRITE_ENTRY_BYTES)?, count_max)?;
        let bytes = reader.rest();
        let mut payload_len = 0u64;
        for _ in 0..count {
            payload_len = payload_len.saturating_add(read_write_entry(reader)?.value_len);
        }
        if payload_len != head.payload_len {
            let (value, expected) = (head.payload_len, payload_len);
            return Err(DecodeError::Mismatch {
                field: "payload_len",
                value,
                expected,
            });
        }
        Ok(WriteEntries {
            count,
            bytes: &bytes[..bytes.len() - reader.left()],
        })
    }

    /// How many there are, 1 to [`limits::BATCH_ENTRIES_MAX`].
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: a request has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries, in the order of their payloads. Some may be out of bounds, see [`PutEntry::check`].
    pub fn iter(&self) -> Writes<'a> {
        Writes {
            left: self.count,
            reader: Reader::new(self.bytes),
        }
    }
}

impl<'a> IntoIterator for &WriteEntries<'a> {
    type Item = PutEntry<'a>;
    type IntoIter = Writes<'a>;
    fn into_iter(self) -> Writes<'a> {
        self.iter()
    }
}

/// Iterates over the entries of a write without copying.
#[derive(Clone, Debug)]
pub struct Writes<'a> {
    left: usize,
    reader: Reader<'a>,
}

impl<'a> Iterator for Writes<'a> {
    type Item = PutEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<PutEntry<'a>> {
        let entry = read_write_entry(&mut self.reader).ok()?;
        self.left -= 1;
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Writes<'_> {}

fn single_or_batch(count: usize, count_max: usize) -> Result<usize, DecodeError> {
    if count <= count_max {
        return Ok(count);
    }
    let (value, bound) = (count as u64, count_max as u64);
    Err(DecodeError::TooLarge {
        field: "entry count",
        value,
        bound,
    })
}

fn read_write_entry<'a>(reader: &mut Reader<'a>) -> Result<PutEntry<'a>, DecodeError> {
    let namespace = reader.u32("namespace")?;
    let flags = reader.u32("entry flags")?;
    let expiry_ms = reader.u64("expiry_ms")?;
    let if_version = reader.u64("if_version")?;
    let value_len = reader.u64("value_len")?;
    let crc = reader.u32("crc")?;
    let key_len = reader.u16("key length")?;
    let type_tag = reader.u8("type tag")?;
    let packed = reader.u8("class and condition")?;
    let condition = match (packed >> 4, if_version) {
        (0, 0) => Condition::None,
        (1, 0) => Condition::IfAbsent,
        (2, version) => Condition::IfVersion(version),
        (0 | 1, value) => {
            return Err(DecodeError::BadValue {
                field: "if_version",
                value,
            });
        }
        (kind, _) => {
            return Err(DecodeError::BadValue {
                field: "condition",
                value: u64::from(kind),
            });
        }
    };
    let class = Class::from_wire(packed & 0xf)?;
    let key = reader.bytes("key", usize::from(key_len))?;
    let attrs = Attrs {
        namespace,
        type_tag,
        flags,
        expiry_ms,
        class,
    };
    Ok(PutEntry {
        key,
        attrs,
        condition,
        value_len,
        crc,
    })
}
