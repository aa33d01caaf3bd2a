//! Handshake messages, byte by byte.
//!
//! ```text
//! all      0 magic "MKVS" | 4 format 1 | 5 op 1 | 6 length of all 2      this prefix stays in every version
//! hellos   8 version_min | 9 version_max (reply: the chosen one, twice) | 10 node_len | 11 key_use (reply) |
//!          12 zero 4 | 16 supported 8 | 24 required 8 | 32 unix_ns 8 | 40 key_id 8 | 48 nonce 32 | 80 node | MAC 32
//!          (reply)
//! Finish   8 MAC 32
//! ```

use super::keys::{KeyId, KeyUse};
use crate::limits::NODE_BYTES_MAX;
use crate::op::OpCode;
use crate::wire::{DecodeError, Reader, reserved};

/// The first bytes of every handshake message.
pub(crate) const SESSION_MAGIC: [u8; 4] = *b"MKVS";
/// The format of handshake messages; a byte of its own, because hellos are what versions are agreed on with.
pub(crate) const FORMAT: u8 = 1;
/// Longest handshake message of any version, in bytes. Read no more before the handshake is done.
pub const MESSAGE_BYTES_MAX: usize = 512;
/// Length of a Finish.
pub(crate) const FINISH_BYTES: usize = 40;
/// What begins every handshake message of any version, in bytes: enough for [`message_len`].
pub const PREFIX_BYTES: usize = 8;

/// What a side can do and what it insists on, one bit per feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// What it can do; contains `required`.
    pub supported: u64,
    /// What it doesn't work without.
    pub required: u64,
}

impl Features {
    /// Payloads carry a keyed BLAKE3. Every build can; it is on if either side requires it.
    pub const PAYLOAD_MAC: u64 = 1;
    const KNOWN: u64 = Self::PAYLOAD_MAC;
    /// Features that are on only if a side requires them; others are on if both can.
    const ON_DEMAND: u64 = Self::PAYLOAD_MAC;

    /// What this build can do, of which `required` is insisted on.
    pub fn requiring(required: u64) -> Self {
        Features {
            supported: Self::KNOWN | required,
            required,
        }
    }

    /// What is on between `self` and `other`; the features that a side requires and the other lacks as an error.
    /// Symmetric, so that both sides come to the same.
    pub(crate) fn agree(self, other: Features) -> Result<u64, u64> {
        let both = self.supported & other.supported;
        let required = self.required | other.required;
        if required & !both != 0 {
            return Err(required & !both);
        }
        Ok(both & (required | !Self::ON_DEMAND))
    }
}

impl Default for Features {
    fn default() -> Self {
        Features::requiring(0)
    }
}

/// Why bytes can't become a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The first bytes aren't ours: another protocol on this port?
    #[error(
        "the bytes aren't a memkv handshake; is the port right, and TLS or HTTP not spoken to it?"
    )]
    NotASession,
    /// The message says that it is shorter than its prefix or longer than any.
    #[error("handshake message of {0} bytes; they have 8 to 512")]
    Length(usize),
}

/// How long the handshake message is that starts with `bytes`; `None` while its first 8 bytes aren't there.
///
/// # Errors
/// [`MessageError`] as soon as the bytes can't become a message.
pub fn message_len(bytes: &[u8]) -> Result<Option<usize>, MessageError> {
    let seen = bytes.len().min(SESSION_MAGIC.len());
    if bytes[..seen] != SESSION_MAGIC[..seen] {
        return Err(MessageError::NotASession);
    }
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_le_bytes([prefix[6], prefix[7]]));
    if (PREFIX_BYTES..=MESSAGE_BYTES_MAX).contains(&len) {
        Ok(Some(len))
    } else {
        Err(MessageError::Length(len))
    }
}

/// Either hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello<'a> {
    pub(crate) version_min: u8,
    pub(crate) version_max: u8,
    pub(crate) key_use: KeyUse,
    pub(crate) features: Features,
    pub(crate) unix_ns: u64,
    pub(crate) key_id: KeyId,
    pub(crate) nonce: [u8; 32],
    pub(crate) node: &'a str,
}

impl<'a> Hello<'a> {
    /// Reads a hello of either kind, but for the reply's MAC; returns what is left.
    pub(crate) fn read(bytes: &'a [u8], op: OpCode) -> Result<(Self, &'a [u8]), DecodeError> {
        let mut reader = Reader::new(bytes);
        read_prefix(&mut reader, bytes.len(), op)?;
        let version_min = reader.u8("version_min")?;
        let version_max = reader.u8("version_max")?;
        let node_len = usize::from(reader.u8("node length")?);
        let key_use = match (reader.u8("key use")?, op) {
            (0, _) => KeyUse::Current,
            (1, OpCode::HelloReply) => KeyUse::Previous,
            (value, _) => return Err(bad("key use", value)),
        };
        reserved(&mut reader, 4)?;
        let supported = reader.u64("supported features")?;
        let required = reader.u64("required features")?;
        let unix_ns = reader.u64("unix_ns")?;
        let key_id = KeyId(reader.array("key id")?);
        let nonce = reader.array("nonce")?;
        let node = std::str::from_utf8(reader.bytes("node", node_len)?)
            .map_err(|error| bad("node (utf-8)", error.valid_up_to() as u8))?;
        if version_min == 0 || version_min > version_max {
            return Err(bad("version_min", version_min));
        }
        if required & !supported != 0 {
            let value = required;
            return Err(DecodeError::BadValue {
                field: "required features",
                value,
            });
        }
        let features = Features {
            supported,
            required,
        };
        let hello = Hello {
            version_min,
            version_max,
            key_use,
            features,
            unix_ns,
            key_id,
            nonce,
            node,
        };
        Ok((hello, reader.rest()))
    }

    /// Writes a hello; the length in its prefix counts `trailing` bytes that are still to come.
    pub(crate) fn write(&self, op: OpCode, trailing: usize) -> Vec<u8> {
        debug_assert!(self.node.len() <= NODE_BYTES_MAX);
        let mut out = Vec::with_capacity(80 + self.node.len() + trailing);
        write_prefix(&mut out, op, 80 + self.node.len() + trailing);
        out.extend_from_slice(&[self.version_min, self.version_max, self.node.len() as u8]);
        out.push(u8::from(self.key_use == KeyUse::Previous));
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.features.supported.to_le_bytes());
        out.extend_from_slice(&self.features.required.to_le_bytes());
        out.extend_from_slice(&self.unix_ns.to_le_bytes());
        out.extend_from_slice(&self.key_id.0);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(self.node.as_bytes());
        out
    }
}

/// Reads a Finish; its MAC.
pub(crate) fn read_finish(bytes: &[u8]) -> Result<[u8; 32], DecodeError> {
    let mut reader = Reader::new(bytes);
    read_prefix(&mut reader, bytes.len(), OpCode::Finish)?;
    let tag = reader.array("finish MAC")?;
    reader.end()?;
    Ok(tag)
}

pub(crate) fn write_finish(tag: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FINISH_BYTES);
    write_prefix(&mut out, OpCode::Finish, FINISH_BYTES);
    out.extend_from_slice(tag);
    out
}

pub(crate) fn write_prefix(out: &mut Vec<u8>, op: OpCode, len: usize) {
    out.extend_from_slice(&SESSION_MAGIC);
    out.extend_from_slice(&[FORMAT, op.to_wire()]);
    out.extend_from_slice(&(len as u16).to_le_bytes());
}

/// Reads and checks a prefix. The format comes before the op, so that a later format is told from garbage.
pub(crate) fn read_prefix(
    reader: &mut Reader<'_>,
    have: usize,
    op: OpCode,
) -> Result<(), DecodeError> {
    if reader.array::<4>("magic")? != SESSION_MAGIC {
        return Err(DecodeError::BadValue {
            field: "magic",
            value: 0,
        });
    }
    match reader.u8("format")? {
        FORMAT => {}
        other => return Err(bad(FORMAT_FIELD, other)),
    }
    match reader.u8("op")? {
        found if found == op.to_wire() => {}
        other => return Err(bad("op", other)),
    }
    let expected = u64::from(reader.u16("length")?);
    if expected != have as u64 {
        let value = have as u64;
        return Err(DecodeError::Mismatch {
            field: "message length",
            value,
            expected,
        });
    }
    Ok(())
}

/// How a foreign format is told in a [`DecodeError`].
pub(crate) const FORMAT_FIELD: &str = "handshake format";

fn bad(field: &'static str, value: u8) -> DecodeError {
    DecodeError::BadValue {
        field,
        value: u64::from(value),
    }
}
