//! What the engine knows of an entry beside its bytes.

use crate::api::{Attrs, Condition};
use crate::index::KeyHash;

/// What a cached value is put with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) attrs: Attrs,
    pub(crate) version: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

impl Meta {
    /// Whether the entry has expired at `unix_ms`.
    pub(crate) fn expired(&self, unix_ms: u64) -> bool {
        self.attrs.expiry_ms != 0 && self.attrs.expiry_ms <= unix_ms
    }
}

/// A put on its way: what it asked for, with its key.
#[derive(Debug)]
pub(crate) struct OwnedPut {
    pub(crate) hash: KeyHash,
    pub(crate) namespace: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) len: u64,
    pub(crate) attrs: Attrs,
    pub(crate) condition: Condition,
}

/// Whether a condition holds when the key's live entry has version `current`.
pub(crate) fn condition_holds(condition: Condition, current: Option<u64>) -> bool {
    match condition {
        Condition::None => true,
        Condition::IfAbsent => current.is_none(),
        Condition::IfVersion(version) => current == Some(version),
    }
}
