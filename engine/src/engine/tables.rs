//! What is in memory: index, hot tier, pool, versions, which drives serve.
//!
//! Callers' threads and drives' steps look at it and change it; each structure in it does its own
//! locking. Nothing in here waits, and nothing has a thread, a clock, randomness or a system call
//! (the pool asks its observer for the time, and tells its waiters through their sinks): the same
//! calls in the same order give the same answers. Counters go to `metrics` and are never read
//! back.

use std::sync::atomic::{AtomicU64, Ordering};

use memkv_telemetry::{EngineMetrics, EvictionReason, SlabState};

use super::drive_set::DriveSet;
use super::memory;
use crate::cache::{Cache, CacheConfig, CacheKey, Evicted};
use crate::config::{EngineConfig, Mode};
use crate::entry::Meta;
use crate::index::{Change, If, Index, KeyHash, KeyHasher, Location};
use crate::slab::{ReadMemory, SlabPool, WriteMemory};
use crate::stream::{StripeTable, Stripes};

/// See the module docs.
pub(crate) struct Tables {
    pub(crate) config: EngineConfig,
    pub(crate) hasher: KeyHasher,
    pub(crate) index: Index,
    pub(crate) cache: Cache<Meta>,
    pub(crate) pool: SlabPool,
    pub(crate) stripes: StripeTable,
    pub(crate) drives: DriveSet,
    /// Values longer than this are striped.
    pub(crate) part_bytes: u64,
    /// Bytes of data that the drives have room for; 0 in memory mode.
    pub(crate) data_bytes: u64,
    pub(crate) metrics: EngineMetrics,
    versions: AtomicU64,
    evictions: AtomicU64,
    never_read_bytes: AtomicU64,
}

/// What the tables begin with.
pub(crate) struct Begin {
    pub(crate) hasher: KeyHasher,
    pub(crate) index: Index,
    pub(crate) pool: SlabPool,
    pub(crate) stripes: StripeTable,
    pub(crate) drives: DriveSet,
    /// The longest extent that every drive takes.
    pub(crate) part_bytes_max: u64,
    /// Bytes of data that the drives have room for.
    pub(crate) data_bytes: u64,
    /// The last version that was given out.
    pub(crate) version: u64,
}

impl Tables {
    pub(crate) fn new(config: EngineConfig, metrics: EngineMetrics, begin: Begin) -> Self {
        let pool = begin.pool;
        let cache = Cache::new(&CacheConfig {
            capacity_bytes: pool.capacity_bytes(),
            small_percent: 30,
            shards: 16,
        });
        let part_bytes = begin
            .part_bytes_max
            .min(config.extent_bytes)
            .min(pool.window_bytes() as u64);
        Self {
            config,
            hasher: begin.hasher,
            index: begin.index,
            cache,
            pool,
            stripes: begin.stripes,
            drives: begin.drives,
            part_bytes,
            data_bytes: begin.data_bytes,
            metrics,
            versions: AtomicU64::new(begin.version),
            evictions: AtomicU64::new(0),
            never_read_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn in_memory(&self) -> bool {
        self.config.mode == Mode::Memory
    }

    pub(crate) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn last_version(&self) -> u64 {
        self.versions.load(Ordering::Relaxed)
    }

    /// Where a key's value lies, if that drive serves: what a lost one has is as good as gone.
    pub(crate) fn locate(&self, hash: KeyHash) -> Option<Location> {
        let location = self.index.get(hash)?;
        self.drives.serves(location.drive_idx).then_some(location)
    }

    /// The version of a value in RAM that hasn't expired at a time, which is only asked for where it
    /// may have. It may be on no drive any more, and is served all the same.
    pub(crate) fn cached_version(
        &self,
        key: &CacheKey<'_>,
        unix_ms: impl FnOnce() -> u64,
    ) -> Option<u64> {
        let meta = self.cache.peek(key)?.meta;
        let live = meta.attrs.expiry_ms == 0 || !meta.expired(unix_ms());
        live.then_some(meta.version)
    }

    /// Where a change of a key goes: to the drive that has it, else always to the same one, and
    /// while that is lost to another, see [`DriveSet::instead_of`].
    pub(crate) fn home(&self, hash: KeyHash) -> Option<u8> {
        if let Some(location) = self.locate(hash) {
            return Some(location.drive_idx);
        }
        let pick = (hash.0 >> 64) as usize % self.drives.members().len().max(1);
        if self.drives.serves(pick as u8) {
            return Some(pick as u8);
        }
        self.drives.instead_of(pick as u8, (hash.0 >> 32) as u32)
    }

    /// The drive of a part: the next ones after the key's own that serve, round and round.
    pub(crate) fn stripe_drive(&self, home: u8, part: u64) -> u8 {
        let serving = || self.drives.serving();
        let count = serving().count().max(1) as u64;
        let first = serving().position(|idx| idx == home).unwrap_or(0) as u64;
        serving()
            .nth(((first + part) % count) as usize)
            .unwrap_or(home)
    }

    /// Leases memory, evicting from the hot tier what it takes.
    pub(crate) fn lease_now(&self, bytes: usize) -> Option<WriteMemory> {
        loop {
            // One that could never be granted is nobody's to evict for.
            if let Some(memory) = self.pool.try_lease(bytes).ok()? {
                return Some(memory);
            }
            let wanted = bytes.max(self.pool.shortage_bytes()).max(1);
            if self.make_room(wanted) == 0 {
                return self.pool.try_lease(bytes).ok()?;
            }
        }
    }

    /// Evicts from the hot tier; returns how many bytes that were.
    pub(crate) fn make_room(&self, bytes: usize) -> usize {
        self.cache
            .make_room(&self.pool, bytes, &mut |evicted| self.evicted(&evicted))
    }

    /// Lets the first who waits for memory have what the hot tier can spare; false where
    /// somebody waits and it can spare nothing.
    pub(crate) fn spare(&self) -> bool {
        let shortage = self.pool.shortage_bytes();
        shortage == 0 || self.make_room(shortage) > 0
    }

    /// Makes a value that lies in the pool the cached one of its key. Not for memory mode.
    pub(crate) fn adopt(&self, key: &CacheKey<'_>, memory: ReadMemory, meta: Meta) {
        let _ = self.cache.insert(key, memory, meta, false, &mut drop);
        self.spare();
    }

    /// Takes note of a value that left the hot tier for want of room.
    pub(crate) fn evicted(&self, evicted: &Evicted<Meta>) {
        if !self.in_memory() {
            return;
        }
        memory::forget(&self.index, evicted.hash, &evicted.meta);
        let unread = if evicted.was_read {
            0
        } else {
            evicted.meta.len
        };
        self.count_evictions(1, unread);
    }

    /// Ends a striped value, unless another has taken its place. Returns whether it was there, and the
    /// places of it that are dead now: each is told once, whoever else ends the value meanwhile.
    pub(crate) fn end_stripes(&self, stripes: &Stripes) -> (bool, Vec<Location>) {
        let list = stripes.list;
        let change = self.index.remove(stripes.hash, If::At(list));
        let was_there = matches!(change, Change::Done(_));
        let mut dead: Vec<Location> = was_there.then_some(list).into_iter().collect();
        if let Some(taken) = self.stripes.take(stripes.hash, &list) {
            dead.extend_from_slice(&taken.parts);
        }
        (was_there, dead)
    }

    pub(crate) fn count_evictions(&self, count: u64, never_read_bytes: u64) {
        self.evictions.fetch_add(count, Ordering::Relaxed);
        self.never_read_bytes
            .fetch_add(never_read_bytes, Ordering::Relaxed);
        self.metrics
            .evicted(EvictionReason::Capacity, count, never_read_bytes);
    }

    /// Counts entries that had expired when their room was reused.
    pub(crate) fn count_expired(&self, count: u64) {
        if count > 0 {
            self.metrics.evicted(EvictionReason::Expired, count, 0);
        }
    }

    /// Counts entries that went with their drive.
    pub(crate) fn count_lost(&self, count: u64) {
        self.metrics.evicted(EvictionReason::DriveLost, count, 0);
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    pub(crate) fn never_read_bytes(&self) -> u64 {
        self.never_read_bytes.load(Ordering::Relaxed)
    }

    /// Sets the gauges that nobody else keeps.
    pub(crate) fn refresh_gauges(&self) {
        let slabs = self.pool.counts();
        let values = (slabs.capacity - slabs.free - slabs.writing) as u64;
        let (hot, stored) = if self.in_memory() {
            (0, values)
        } else {
            (values, 0)
        };
        self.metrics.set_slabs(SlabState::Free, slabs.free as u64);
        self.metrics
            .set_slabs(SlabState::Leased, slabs.writing as u64);
        self.metrics.set_slabs(SlabState::Hot, hot);
        self.metrics.set_slabs(SlabState::Stored, stored);
        self.metrics.set_index_entries(self.index.len() as u64);
    }
}
