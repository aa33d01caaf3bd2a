//! Records: small values, tombstones and the part lists of striped values, packed one after
//! another, each behind a header of 64 bytes that makes it its own journal entry.
//!
//! ```text
//!  0 magic u32      4 kind u8  5 class u8  6 type u8  7 0
//!  8 version u64   16 key bytes u32       20 body bytes u32
//! 24 expiry u64    32 namespace u32       36 flags u32
//! 40 body crc u32  44 header crc u32      48 segment generation u32  52 value crc u32
//! 56 value bytes u64
//! 64 key … body … zeroes up to a multiple of 16
//! ```
//!
//! The header's checksum covers header and key and begins with the drive's UUID; with the
//! segment's generation in it, a record of an earlier life of the segment never passes.

use super::bytes::{COUNTER_MAX, array, crc_of, set, u32_at, u64_at};
use crate::api::{Attrs, Class, KEY_BYTES_MAX};

/// Bytes of a header.
pub(crate) const HEADER: usize = 64;
/// Records begin at multiples of this.
pub(crate) const ALIGN: usize = 16;
const MAGIC: u32 = 0x5652_6b6d;
const CRC_AT: usize = 44;
/// Longest body: a small value, or the part list of the longest value.
pub(crate) const BODY_MAX: usize = 1 << 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Value,
    Tombstone,
    /// The part list of a striped value.
    Stripes,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) namespace: u32,
    pub(crate) attrs: Attrs,
    pub(crate) version: u64,
    pub(crate) generation: u32,
    pub(crate) key_len: u32,
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    /// Of the whole value, which for stripes is elsewhere.
    pub(crate) value_len: u64,
    pub(crate) value_crc: u32,
}

impl Header {
    /// Bytes of the whole record, padding included.
    pub(crate) fn record_len(&self) -> usize {
        record_len(self.key_len as usize, self.body_len as usize)
    }

    /// Writes header and key to the start of `out`.
    pub(crate) fn encode(&self, seed: &[u8; 16], key: &[u8], out: &mut [u8]) {
        debug_assert_eq!(key.len(), self.key_len as usize);
        let mut head = [0u8; HEADER];
        set(&mut head, 0, &MAGIC.to_le_bytes());
        head[4] = match self.kind {
            Kind::Value => 1,
            Kind::Tombstone => 2,
            Kind::Stripes => 3,
        };
        head[5] = class_byte(self.attrs.class);
        head[6] = self.attrs.type_tag;
        set(&mut head, 8, &self.version.to_le_bytes());
        set(&mut head, 16, &self.key_len.to_le_bytes());
        set(&mut head, 20, &self.body_len.to_le_bytes());
        set(&mut head, 24, &self.attrs.expiry_ms.to_le_bytes());
        set(&mut head, 32, &self.namespace.to_le_bytes());
        set(&mut head, 36, &self.attrs.flags.to_le_bytes());
        set(&mut head, 40, &self.body_crc.to_le_bytes());
        set(&mut head, 48, &self.generation.to_le_bytes());
        set(&mut head, 52, &self.value_crc.to_le_bytes());
        set(&mut head, 56, &self.value_len.to_le_bytes());
        let crc = crc_of(seed, &[&head, key]);
        set(&mut head, CRC_AT, &crc.to_le_bytes());
        out[..HEADER].copy_from_slice(&head);
        out[HEADER..HEADER + key.len()].copy_from_slice(key);
    }

    /// Reads header and key from the start of `bytes`, which may end before the body does;
    /// `None` for anything that isn't a record of this generation of this drive. Never panics.
    pub(crate) fn decode<'a>(
        seed: &[u8; 16],
        generation: u32,
        bytes: &'a [u8],
    ) -> Option<(Self, &'a [u8])> {
        let mut head: [u8; HEADER] = array(bytes.get(..HEADER)?, 0);
        if u32_at(&head, 0) != MAGIC || u32_at(&head, 48) != generation {
            return None;
        }
        let key_len = u32_at(&head, 16);
        let body_len = u32_at(&head, 20);
        if key_len == 0 || key_len as usize > KEY_BYTES_MAX || body_len as usize > BODY_MAX {
            return None;
        }
        if u64_at(&head, 8) > COUNTER_MAX {
            return None;
        }
        let key = bytes.get(HEADER..HEADER + key_len as usize)?;
        let crc = u32_at(&head, CRC_AT);
        set(&mut head, CRC_AT, &[0; 4]);
        if crc_of(seed, &[&head, key]) != crc {
            return None;
        }
        let kind = match head[4] {
            1 => Kind::Value,
            2 => Kind::Tombstone,
            3 => Kind::Stripes,
            _ => return None,
        };
        let attrs = Attrs {
            type_tag: head[6],
            flags: u32_at(&head, 36),
            expiry_ms: u64_at(&head, 24),
            class: class_of(head[5]),
        };
        let header = Self {
            kind,
            namespace: u32_at(&head, 32),
            attrs,
            version: u64_at(&head, 8),
            generation,
            key_len,
            body_len,
            body_crc: u32_at(&head, 40),
            value_len: u64_at(&head, 56),
            value_crc: u32_at(&head, 52),
        };
        Some((header, key))
    }
}

/// Bytes of a record with this key and body.
pub(crate) fn record_len(key_len: usize, body_len: usize) -> usize {
    (HEADER + key_len + body_len).next_multiple_of(ALIGN)
}

pub(crate) fn class_byte(class: Class) -> u8 {
    match class {
        Class::Evictable => 0,
        Class::Durable => 1,
    }
}

pub(crate) fn class_of(byte: u8) -> Class {
    if byte == 1 {
        Class::Durable
    } else {
        Class::Evictable
    }
}

#[cfg(test)]
mod tests;
