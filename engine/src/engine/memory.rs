//! Memory mode: the hot tier is the store, and what is evicted from it is gone.
//!
//! A key's changes are serialised by one of a few locks; the index follows each change before
//! the value becomes readable, and an eviction removes only the index entry of the very value
//! that left, so neither can undo a later put.

use memkv_telemetry::EvictionReason;
use parking_lot::Mutex;

use super::Shared;
use crate::api::{Class, Committed};
use crate::cache::CacheKey;
use crate::entry::{Meta, OwnedPut, condition_holds};
use crate::error::PutError;
use crate::index::{If, Index, KeyHash, Location};
use crate::slab::WriteMemory;

const LOCKS: usize = 256;

/// The locks of memory mode.
pub(super) struct MemoryStore {
    locks: Vec<Mutex<()>>,
}

impl MemoryStore {
    pub(super) fn new() -> Self {
        Self {
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
        }
    }

    fn lock(&self, hash: KeyHash) -> parking_lot::MutexGuard<'_, ()> {
        self.locks[hash.0 as usize % LOCKS].lock()
    }

    pub(super) fn commit(
        &self,
        shared: &Shared,
        put: OwnedPut,
        memory: WriteMemory,
        crc: u32,
    ) -> Result<Committed, PutError> {
        let key = CacheKey {
            hash: put.hash,
            namespace: put.namespace,
            key: &put.key,
        };
        let keep = put.attrs.class == Class::Durable || !shared.tables.config.eviction;
        let version;
        {
            let _guard = self.lock(put.hash);
            let current = shared.tables.cache.peek(&key).map(|hit| hit.meta);
            let current = current.filter(|meta| !meta.expired(unix_ms_for(shared, meta)));
            let current = current.map(|meta| meta.version);
            if !condition_holds(put.condition, current) {
                return Err(PutError::ConditionFailed { current });
            }
            version = shared.tables.next_version();
            let meta = Meta {
                attrs: put.attrs,
                version,
                len: put.len,
                crc,
            };
            let index = &shared.tables.index;
            index.note_expiry(&location(version), put.attrs.expiry_ms);
            index.put(put.hash, location(version), If::Always);
            let _ = shared
                .tables
                .cache
                .insert(&key, memory.freeze(), meta, keep, &mut |evicted| {
                    shared.tables.evicted(&evicted);
                });
        }
        shared.relieve_waiters();
        Ok(Committed { version })
    }

    pub(super) fn delete(&self, shared: &Shared, key: &CacheKey<'_>) -> bool {
        let _guard = self.lock(key.hash);
        let Some(hit) = shared.tables.cache.remove(key) else {
            return false;
        };
        forget(&shared.tables.index, key.hash, &hit.meta);
        !hit.meta.expired(unix_ms_for(shared, &hit.meta))
    }

    /// Removes an entry that has expired, unless it was replaced meanwhile.
    pub(super) fn expire(&self, shared: &Shared, key: &CacheKey<'_>) {
        let _guard = self.lock(key.hash);
        let now = shared.unix_ms();
        if let Some(hit) = shared.tables.cache.remove_if(key, |meta| meta.expired(now)) {
            forget(&shared.tables.index, key.hash, &hit.meta);
            let metrics = &shared.tables.metrics;
            metrics.evicted(EvictionReason::Expired, 1, 0);
        }
    }
}

/// Removes the index entry of one very value.
pub(super) fn forget(index: &Index, hash: KeyHash, meta: &Meta) {
    index.remove(hash, If::At(location(meta.version)));
}

/// The wall clock, read only where it matters.
fn unix_ms_for(shared: &Shared, meta: &Meta) -> u64 {
    if meta.attrs.expiry_ms == 0 {
        0
    } else {
        shared.unix_ms()
    }
}

/// In memory mode the index needs no place, only something that tells one value of a key from
/// the next: the low bits of its version.
fn location(version: u64) -> Location {
    Location {
        drive_idx: 0,
        segment_idx: 0,
        offset: (version as u32 & 0x00ff_ffff) << 4,
        generation: 0,
        kind: 0,
        hint: (version >> 24) as u8,
    }
}

#[cfg(test)]
mod tests;
