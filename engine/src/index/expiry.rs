//! When entries expire: a table beside the slots, of those alone that ever do.
//!
//! It goes by place, segment by segment, so that it forgets a segment at once when that is
//! reclaimed. Where nothing expires a look costs one load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::Location;

const SHARDS: usize = 64;
/// Bytes of one entry with the room that a map keeps free, at most.
const ENTRY_BYTES: usize = 40;

/// Drive and segment.
type Segment = (u8, u32);
/// By offset in units of 16 bytes, and generation.
type Times = HashMap<u32, u64>;

/// See the module docs.
#[derive(Debug)]
pub(super) struct Expiries {
    count: AtomicUsize,
    /// An index of one segment, as in memory mode, goes by offsets.
    by_offset: bool,
    shards: Box<[RwLock<HashMap<Segment, Times>>]>,
}

fn segment_of(at: &Location) -> Segment {
    (at.drive_idx, at.segment_idx)
}

fn place_of(at: &Location) -> u32 {
    ((at.offset / 16) << 8) | u32::from(at.generation)
}

impl Expiries {
    pub(super) fn new(segment_count: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            by_offset: segment_count <= 1,
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    fn shard(&self, at: &Location) -> &RwLock<HashMap<Segment, Times>> {
        let number = match self.by_offset {
            true => at.offset as usize / 16,
            false => at.segment_idx as usize + 7 * usize::from(at.drive_idx),
        };
        &self.shards[number % SHARDS]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    pub(super) fn bytes(&self) -> usize {
        let shards = size_of_val(&*self.shards);
        shards + self.count.load(Ordering::Relaxed) * ENTRY_BYTES
    }

    pub(super) fn get(&self, at: &Location) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let shard = self.shard(at).read();
        shard.get(&segment_of(at))?.get(&place_of(at)).copied()
    }

    pub(super) fn set(&self, at: &Location, expiry_ms: u64) {
        // Counted first: who finds the entry in its slot must look here.
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.shard(at).write();
        let times = shard.entry(segment_of(at)).or_default();
        if times.insert(place_of(at), expiry_ms).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, at: &Location) {
        if self.is_empty() {
            return;
        }
        let mut shard = self.shard(at).write();
        let Some(times) = shard.get_mut(&segment_of(at)) else {
            return;
        };
        if times.remove(&place_of(at)).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        if times.is_empty() {
            shard.remove(&segment_of(at));
        }
    }

    /// How many entries of a segment have expired.
    pub(super) fn expired_in(&self, at: &Location, unix_ms: u64) -> u64 {
        let shard = self.shard(at).read();
        let times = shard.get(&segment_of(at));
        let expired = |times: &Times| times.values().filter(|ms| **ms <= unix_ms).count();
        times.map_or(0, expired) as u64
    }

    pub(super) fn forget_segment(&self, at: &Location) {
        if self.is_empty() {
            return;
        }
        if let Some(times) = self.shard(at).write().remove(&segment_of(at)) {
            self.count.fetch_sub(times.len(), Ordering::Relaxed);
        }
    }
}
