//! The way out: what a client asks, appended to a buffer that the caller reuses.

use crate::blocks::{TraceContext, write_trace};
use crate::connect::Connect;
use crate::frame::{Flags, FrameHead};
use crate::limits;
use crate::op::{Condition, OpCode, PutEntry};
use crate::wire::{EncodeError, appending, control_len};

/// Appends the control part of a keyed request (Get, BatchRead, Delete, Exists) to `out`; returns the head to seal.
///
/// # Errors
/// [`EncodeError`], with `out` as it was: no keys, too many, or one that isn't 1 to 512 bytes.
pub fn encode_keys<'k, I>(
    out: &mut Vec<u8>,
    op: OpCode,
    trace: Option<&TraceContext>,
    namespace: u32,
    keys: I,
) -> Result<FrameHead, EncodeError>
where
    I: IntoIterator<Item = &'k [u8]>,
{
    if !op.is_keyed() {
        return Err(EncodeError::WrongOp(op));
    }
    appending(out, |out| {
        let start = out.len();
        let flags = write_trace(trace, out);
        out.extend_from_slice(&namespace.to_le_bytes());
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0;
        for key in keys {
            check_key(count, key)?;
            out.extend_from_slice(&(key.len() as u16).to_le_bytes());
            out.extend_from_slice(key);
            count += 1;
        }
        set_count(
            out,
            count_at,
            count,
            if op == OpCode::Get { 1 } else { usize::MAX },
        )?;
        Ok(FrameHead::new(op, flags, control_len(out, start)?, 0))
    })
}

/// Appends the control part of a write (Put, BatchWrite) to `out`; returns the head to seal, with the payload's length.
///
/// # Errors
/// [`EncodeError`], with `out` as it was: no entries, too many, or a key or value out of bounds.
pub fn encode_writes<'k, I>(
    out: &mut Vec<u8>,
    op: OpCode,
    trace: Option<&TraceContext>,
    entries: I,
) -> Result<FrameHead, EncodeError>
where
    I: IntoIterator<Item = PutEntry<'k>>,
{
    if !op.is_write() {
        return Err(EncodeError::WrongOp(op));
    }
    appending(out, |out| {
        let start = out.len();
        let flags = write_trace(trace, out);
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let (mut count, mut payload_len) = (0, 0);
        for entry in entries {
            check_key(count, entry.key)?;
            if entry.value_len > limits::VALUE_BYTES_MAX {
                let (value, bound) = (entry.value_len, limits::VALUE_BYTES_MAX);
                return Err(EncodeError::TooLarge {
                    field: "value in bytes",
                    value,
                    bound,
                });
            }
            write_entry(out, &entry);
            payload_len += entry.value_len;
            count += 1;
        }
        set_count(
            out,
            count_at,
            count,
            if op == OpCode::Put { 1 } else { usize::MAX },
        )?;
        Ok(FrameHead::new(
            op,
            flags,
            control_len(out, start)?,
            payload_len,
        ))
    })
}

fn write_entry(out: &mut Vec<u8>, entry: &PutEntry<'_>) {
    let (kind, if_version) = match entry.condition {
        Condition::None => (0u8, 0),
        Condition::IfAbsent => (1, 0),
        Condition::IfVersion(version) => (2, version),
    };
    out.extend_from_slice(&entry.attrs.namespace.to_le_bytes());
    out.extend_from_slice(&entry.attrs.flags.to_le_bytes());
    out.extend_from_slice(&entry.attrs.expiry_ms.to_le_bytes());
    out.extend_from_slice(&if_version.to_le_bytes());
    out.extend_from_slice(&entry.value_len.to_le_bytes());
    out.extend_from_slice(&entry.crc.to_le_bytes());
    out.extend_from_slice(&(entry.key.len() as u16).to_le_bytes());
    out.push(entry.attrs.type_tag);
    out.push(kind << 4 | entry.attrs.class.to_wire());
    out.extend_from_slice(entry.key);
}

/// Appends the control part of a Cancel of request `cancelled` to `out`.
pub fn encode_cancel(out: &mut Vec<u8>, cancelled: u64) -> FrameHead {
    out.extend_from_slice(&cancelled.to_le_bytes());
    FrameHead::new(OpCode::Cancel, Flags::NONE, 8, 0)
}

/// Appends the control part of a Ping to `out`; `echo` comes back.
pub fn encode_ping(out: &mut Vec<u8>, echo: u64) -> FrameHead {
    out.extend_from_slice(&echo.to_le_bytes());
    FrameHead::new(OpCode::Ping, Flags::NONE, 8, 0)
}

/// The head of a Stat, which has no control part.
pub fn encode_stat() -> FrameHead {
    FrameHead::new(OpCode::Stat, Flags::NONE, 0, 0)
}

/// Appends the control part of a Connect to `out`.
///
/// # Errors
/// [`EncodeError`] with `out` as it was, if a fact is too long or the whole exceeds a control part.
pub fn encode_connect(
    out: &mut Vec<u8>,
    trace: Option<&TraceContext>,
    connect: &Connect<'_>,
) -> Result<FrameHead, EncodeError> {
    appending(out, |out| {
        let start = out.len();
        let flags = write_trace(trace, out);
        connect.write(out)?;
        Ok(FrameHead::new(
            OpCode::Connect,
            flags,
            control_len(out, start)?,
            0,
        ))
    })
}

fn check_key(entry_idx: usize, key: &[u8]) -> Result<(), EncodeError> {
    limits::check_key(key).map_err(|_| EncodeError::BadKey {
        entry_idx,
        bytes: key.len(),
    })
}

/// Writes the number of entries where room was left for it, and checks it.
pub(crate) fn set_count(
    out: &mut [u8],
    at: usize,
    count: usize,
    count_max: usize,
) -> Result<(), EncodeError> {
    let bound = count_max.min(limits::BATCH_ENTRIES_MAX);
    if count == 0 {
        return Err(EncodeError::Empty);
    }
    if count > bound {
        let (value, bound) = (count as u64, bound as u64);
        return Err(EncodeError::TooLarge {
            field: "entry count",
            value,
            bound,
        });
    }
    out[at..at + 4].copy_from_slice(&(count as u32).to_le_bytes());
    Ok(())
}
