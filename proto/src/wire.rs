//! Little-endian reading and writing, bounded and total; and the errors of all codecs.

use crate::limits;
use crate::op::ErrorCode;

/// Why bytes aren't a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends before `field` does.
    #[error("{field} needs {need} bytes, {have} are left")]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Bytes it takes.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// Bytes are left after the last field.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// A field has a value that this version doesn't define.
    #[error("{field} is {value}, which this version doesn't define")]
    BadValue {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A field is above its limit.
    #[error("{field} is {value}, above the limit of {bound}; split the request")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The most it may hold.
        bound: u64,
    },
    /// Two fields that must agree don't.
    #[error("{field} is {value}, but the rest of the frame says {expected}")]
    Mismatch {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it should hold.
        expected: u64,
    },
}

impl DecodeError {
    /// The code that a server answers with.
    pub fn code(&self) -> ErrorCode {
        match self {
            DecodeError::TooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::BadRequest,
        }
    }
}

/// Why a message can't be encoded; the caller asked for more than the protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A field is above its limit.
    #[error("{field} is {value}, above the limit of {bound}; split the batch or shorten it")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The most it may hold.
        bound: u64,
    },
    /// A key is empty or too long.
    #[error("key of entry {entry_idx} has {bytes} bytes; a key has 1 to 512, so hash longer ones")]
    BadKey {
        /// Which entry, from 0.
        entry_idx: usize,
        /// Its key's length.
        bytes: usize,
    },
    /// A batch without entries.
    #[error("the batch has no entries")]
    Empty,
    /// An op that this encoder doesn't encode.
    #[error("op {0:?} takes another kind of message")]
    WrongOp(crate::op::OpCode),
}

impl EncodeError {
    /// The outcome that the caller of a client sees.
    pub fn code(&self) -> ErrorCode {
        match self {
            EncodeError::TooLarge { .. } => ErrorCode::TooLarge,
            EncodeError::BadKey { .. } => ErrorCode::BadKey,
            EncodeError::Empty | EncodeError::WrongOp(_) => ErrorCode::BadRequest,
        }
    }
}

/// A cursor over borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn bytes(
        &mut self,
        field: &'static str,
        need: usize,
    ) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(need) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(DecodeError::Truncated {
                field,
                need,
                have: self.rest.len(),
            }),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => Err(DecodeError::Truncated {
                field,
                need: N,
                have: self.rest.len(),
            }),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    #[inline]
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    #[inline]
    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Reads a count of entries, at least `1` and at most a batch, that fit into what is left at `each` bytes or more.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, DecodeError> {
        let count = self.u32("entry count")? as usize;
        if count == 0 {
            return Err(DecodeError::BadValue {
                field: "entry count",
                value: 0,
            });
        }
        let bound = limits::BATCH_ENTRIES_MAX;
        if count > bound {
            let (value, bound) = (count as u64, bound as u64);
            return Err(DecodeError::TooLarge {
                field: "entry count",
                value,
                bound,
            });
        }
        if count * each > self.left() {
            let (need, have) = (count * each, self.left());
            return Err(DecodeError::Truncated {
                field: "entries",
                need,
                have,
            });
        }
        Ok(count)
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing(self.rest.len()))
        }
    }
}

/// Reads bytes that must be zero, so that a later version can give them a meaning.
pub(crate) fn reserved(reader: &mut Reader<'_>, len: usize) -> Result<(), DecodeError> {
    match reader
        .bytes("reserved bytes", len)?
        .iter()
        .find(|byte| **byte != 0)
    {
        Some(byte) => Err(DecodeError::BadValue {
            field: "reserved bytes",
            value: u64::from(*byte),
        }),
        None => Ok(()),
    }
}

/// Checks that what an encoder appended to `out` since `start` is a control part of legal length.
pub(crate) fn control_len(out: &[u8], start: usize) -> Result<u32, EncodeError> {
    let len = out.len() - start;
    if len > limits::CONTROL_BYTES_MAX {
        return Err(EncodeError::TooLarge {
            field: "control part in bytes",
            value: len as u64,
            bound: limits::CONTROL_BYTES_MAX as u64,
        });
    }
    Ok(len as u32)
}

/// Runs an encoder; if it fails, takes back what it appended.
pub(crate) fn appending<T>(
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<T, EncodeError>,
) -> Result<T, EncodeError> {
    let start = out.len();
    let result = encode(out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}
