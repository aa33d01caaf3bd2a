//! The way out: what a server answers, appended to a buffer that the caller reuses.

use super::{CancelState, Failure, Pong, WriteResult, check_segment};
use crate::blocks::ReplyBlocks;
use crate::connect::Connect;
use crate::frame::{Flags, FrameHead};
use crate::limits;
use crate::op::{OpCode, Outcome, Segment};
use crate::request::set_count;
use crate::stat::StatKey;
use crate::wire::{EncodeError, appending, control_len};

fn encode_with(
    out: &mut Vec<u8>,
    op: OpCode,
    blocks: &ReplyBlocks,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<FrameHead, EncodeError> {
    appending(out, |out| {
        let start = out.len();
        let flags = blocks.write(out);
        body(out)?;
        Ok(FrameHead::new(op, flags, control_len(out, start)?, 0))
    })
}

/// Appends a part of the reply to a Get or BatchRead to `out`; returns the head to seal, with the payload's length.
/// Set [`Flags::MORE`] with [`FrameHead::with_flags`] on all parts but the last.
///
/// # Errors
/// [`EncodeError`] with `out` as it was: no segments, or more than [`limits::BATCH_ENTRIES_MAX`].
///
/// # Panics
/// If a segment isn't one that a client accepts: its stretch exceeds its value, or it has bytes without being ok.
pub fn encode_values(
    out: &mut Vec<u8>,
    op: OpCode,
    blocks: &ReplyBlocks,
    retry_after_us: u32,
    segments: &[Segment],
) -> Result<FrameHead, EncodeError> {
    if !op.is_read() {
        return Err(EncodeError::WrongOp(op));
    }
    let mut payload_len = 0;
    let mut head = encode_with(out, op, blocks, |out| {
        out.extend_from_slice(&retry_after_us.to_le_bytes());
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        set_count(out, count_at, segments.len(), usize::MAX)?;
        for segment in segments {
            assert!(
                check_segment(segment).is_ok(),
                "unsound segment {segment:?}"
            );
            write_segment(out, segment);
            payload_len += u64::from(segment.chunk_len);
        }
        Ok(())
    })?;
    head.payload_len = payload_len;
    Ok(head)
}

fn write_segment(out: &mut Vec<u8>, segment: &Segment) {
    out.extend_from_slice(&segment.entry_idx.to_le_bytes());
    out.extend_from_slice(&segment.outcome.to_wire().to_le_bytes());
    out.push(segment.attrs.type_tag);
    out.push(segment.attrs.class.to_wire());
    out.extend_from_slice(&segment.attrs.namespace.to_le_bytes());
    out.extend_from_slice(&segment.attrs.flags.to_le_bytes());
    out.extend_from_slice(&segment.attrs.expiry_ms.to_le_bytes());
    out.extend_from_slice(&segment.version.to_le_bytes());
    out.extend_from_slice(&segment.value_len.to_le_bytes());
    out.extend_from_slice(&segment.offset.to_le_bytes());
    out.extend_from_slice(&segment.chunk_len.to_le_bytes());
    out.extend_from_slice(&segment.crc.to_le_bytes());
}

/// Appends the reply to a Put or BatchWrite to `out`: one result per entry, in the request's order.
///
/// # Errors
/// [`EncodeError`] with `out` as it was: no results, or too many.
pub fn encode_written<I>(
    out: &mut Vec<u8>,
    op: OpCode,
    blocks: &ReplyBlocks,
    retry_after_us: u32,
    results: I,
) -> Result<FrameHead, EncodeError>
where
    I: IntoIterator<Item = WriteResult>,
{
    if !op.is_write() {
        return Err(EncodeError::WrongOp(op));
    }
    encode_table(out, op, blocks, retry_after_us, results, |out, result| {
        out.extend_from_slice(&result.outcome.to_wire().to_le_bytes());
        out.extend_from_slice(&result.version.to_le_bytes());
    })
}

/// Appends the reply to a Delete or Exists to `out`: one outcome per key, in the request's order.
///
/// # Errors
/// [`EncodeError`] with `out` as it was: no outcomes, or too many.
pub fn encode_outcomes<I>(
    out: &mut Vec<u8>,
    op: OpCode,
    blocks: &ReplyBlocks,
    retry_after_us: u32,
    outcomes: I,
) -> Result<FrameHead, EncodeError>
where
    I: IntoIterator<Item = Outcome>,
{
    if !matches!(op, OpCode::Delete | OpCode::Exists) {
        return Err(EncodeError::WrongOp(op));
    }
    encode_table(out, op, blocks, retry_after_us, outcomes, |out, outcome| {
        out.extend_from_slice(&outcome.to_wire().to_le_bytes());
    })
}

fn encode_table<T>(
    out: &mut Vec<u8>,
    op: OpCode,
    blocks: &ReplyBlocks,
    retry_after_us: u32,
    rows: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) -> Result<FrameHead, EncodeError> {
    encode_with(out, op, blocks, |out| {
        out.extend_from_slice(&retry_after_us.to_le_bytes());
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0;
        for row in rows {
            write(out, row);
            count += 1;
        }
        set_count(out, count_at, count, usize::MAX)
    })
}

/// Appends the reply "failed as a whole" to `out`, for any op. A longer detail is cut at a character.
pub fn encode_failed(
    out: &mut Vec<u8>,
    op: OpCode,
    blocks: &ReplyBlocks,
    failure: &Failure<'_>,
) -> FrameHead {
    let start = out.len();
    let flags = blocks.write(out).with(Flags::FAILED);
    let mut len = failure.detail.len().min(limits::DETAIL_BYTES_MAX);
    while !failure.detail.is_char_boundary(len) {
        len -= 1;
    }
    out.extend_from_slice(&failure.code.to_wire().to_le_bytes());
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(&failure.retry_after_us.to_le_bytes());
    out.extend_from_slice(&failure.detail.as_bytes()[..len]);
    FrameHead::new(op, flags, (out.len() - start) as u32, 0)
}

/// Appends the reply to a Cancel to `out`.
pub fn encode_cancelled(out: &mut Vec<u8>, blocks: &ReplyBlocks, state: CancelState) -> FrameHead {
    let start = out.len();
    let flags = blocks.write(out);
    out.push(state.to_wire());
    FrameHead::new(OpCode::Cancel, flags, (out.len() - start) as u32, 0)
}

/// Appends the reply to a Ping to `out`.
pub fn encode_pong(out: &mut Vec<u8>, blocks: &ReplyBlocks, pong: &Pong) -> FrameHead {
    let start = out.len();
    let flags = blocks.write(out);
    out.extend_from_slice(&pong.echo.to_le_bytes());
    out.extend_from_slice(&pong.unix_ns.to_le_bytes());
    out.push(pong.state.to_wire());
    FrameHead::new(OpCode::Ping, flags, (out.len() - start) as u32, 0)
}

/// Appends the reply to a Stat to `out`; fields come in rising order of their keys, each at most once.
///
/// # Panics
/// If they don't.
pub fn encode_stat(
    out: &mut Vec<u8>,
    blocks: &ReplyBlocks,
    fields: &[(StatKey, u64)],
) -> FrameHead {
    let start = out.len();
    let flags = blocks.write(out);
    crate::stat::write(out, fields);
    FrameHead::new(OpCode::Stat, flags, (out.len() - start) as u32, 0)
}

/// Appends the reply to a Connect to `out`.
///
/// # Errors
/// [`EncodeError`] with `out` as it was, if the facts are too long.
pub fn encode_connected(
    out: &mut Vec<u8>,
    blocks: &ReplyBlocks,
    connect: &Connect<'_>,
) -> Result<FrameHead, EncodeError> {
    encode_with(out, OpCode::Connect, blocks, |out| connect.write(out))
}
