//! The hot tier: recently read or written values in slabs, S3-FIFO.
//!
//! A value comes in at the tail of the *small*, probationary queue. At its head it moves on to
//! the *main* queue if it was read meanwhile, else it leaves and its fingerprint is kept in the
//! *ghost*; a key that comes back while its ghost is there goes to the main queue directly. At
//! the head of the main queue a value that was read goes round again, once per read up to 3.
//! The small queue has 30 % of the bytes: on public LLM traces that ties with LRU, where 10 %
//! loses a third of the prefix hits.
//!
//! Shards only divide the lock. Which entry leaves is decided over all of them, by the order in
//! which entries came in, so that a tier of a few large values evicts the oldest as well. The
//! hit path takes one shard's lock and changes two fields of the entry.
//!
//! Bytes are those that leases occupy in the pool. The cache holds a share of each value, so
//! memory of an evicted value comes back when its last reader is done.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::index::KeyHash;
use crate::slab::{ReadMemory, SlabId, SlabPool};

mod queue;
mod shard;
#[cfg(test)]
mod tests;

use shard::{Entry, Queue, Shard};

const SHARDS_MAX: usize = 256;

/// How the hot tier is sized.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes of pool memory that entries may occupy.
    pub capacity_bytes: usize,
    /// Share of the probationary queue, in percent, clamped to 10 to 50; 30 is good.
    pub small_percent: u8,
    /// Shards; rounded up to a power of two, at most 256.
    pub shards: usize,
}

/// A key with its hash.
#[derive(Clone, Copy, Debug)]
pub struct CacheKey<'a> {
    /// Keyed hash of namespace and key.
    pub hash: KeyHash,
    /// Namespace.
    pub namespace: u32,
    /// The key.
    pub key: &'a [u8],
}

/// What a lookup gives.
#[derive(Clone, Debug)]
pub struct Hit<M> {
    /// The value.
    pub memory: ReadMemory,
    /// What was put with it.
    pub meta: M,
}

/// An entry on its way out.
#[derive(Debug)]
pub struct Evicted<M> {
    /// Its hash.
    pub hash: KeyHash,
    /// Its namespace.
    pub namespace: u32,
    /// Its key.
    pub key: Box<[u8]>,
    /// The value: dropping it frees the memory, unless a reader still has it.
    pub memory: ReadMemory,
    /// What was put with it.
    pub meta: M,
    /// False: nobody ever read it.
    pub was_read: bool,
}

/// Counters; all but the first two since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Entries now.
    pub entries: usize,
    /// Bytes of pool memory that they occupy now.
    pub bytes: usize,
    /// Lookups that hit.
    pub hits: u64,
    /// Lookups that missed.
    pub misses: u64,
    /// Entries evicted.
    pub evictions: u64,
    /// Bytes evicted that nobody ever read.
    pub never_read_bytes: u64,
}

/// The hot tier; shared by reference between threads.
pub struct Cache<M> {
    shards: Box<[Shard<M>]>,
    capacity_bytes: usize,
    small_percent: usize,
    /// Numbers entries as they come in or go round.
    sequence: AtomicUsize,
    bytes: AtomicUsize,
    /// Bytes of the two queues; what is kept is in neither.
    small_bytes: AtomicUsize,
    main_bytes: AtomicUsize,
}

impl<M> std::fmt::Debug for Cache<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl<M: Clone> Cache<M> {
    /// An empty one.
    pub fn new(config: &CacheConfig) -> Self {
        let shards = config.shards.clamp(1, SHARDS_MAX).next_power_of_two();
        Self {
            shards: (0..shards).map(|_| Shard::new()).collect(),
            capacity_bytes: config.capacity_bytes,
            small_percent: usize::from(config.small_percent.clamp(10, 50)),
            sequence: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            small_bytes: AtomicUsize::new(0),
            main_bytes: AtomicUsize::new(0),
        }
    }

    fn shard(&self, hash: KeyHash) -> &Shard<M> {
        self.shard_of(hash.0 as u64)
    }

    /// By bits of the lower half, because the pool remembers that of an owner, but others than
    /// those by which a map takes its buckets.
    fn shard_of(&self, low: u64) -> &Shard<M> {
        &self.shards[(low >> 40) as usize & (self.shards.len() - 1)]
    }

    fn queue_bytes(&self, queue: Queue) -> Option<&AtomicUsize> {
        match queue {
            Queue::Small => Some(&self.small_bytes),
            Queue::Main => Some(&self.main_bytes),
            Queue::Kept => None,
        }
    }

    fn count_in(&self, queue: Queue, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue_bytes(queue)
            .map(|sum| sum.fetch_add(bytes, Ordering::Relaxed));
    }

    fn count_out(&self, queue: Queue, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.queue_bytes(queue)
            .map(|sum| sum.fetch_sub(bytes, Ordering::Relaxed));
    }

    /// Looks a value up and notes that it was read.
    pub fn get(&self, key: &CacheKey<'_>) -> Option<Hit<M>> {
        self.shard(key.hash).get(key, true)
    }

    /// Looks a value up without noting it.
    pub fn peek(&self, key: &CacheKey<'_>) -> Option<Hit<M>> {
        self.shard(key.hash).get(key, false)
    }

    /// Puts a value in place of the key's last one, which it returns; evicts what exceeds the
    /// capacity into `evicted`. With `keep`, it is never evicted (class durable in memory mode),
    /// and kept entries alone may exceed the capacity: the pool bounds them.
    ///
    /// `evicted` is called under no lock.
    pub fn insert(
        &self,
        key: &CacheKey<'_>,
        memory: ReadMemory,
        meta: M,
        keep: bool,
        evicted: &mut dyn FnMut(Evicted<M>),
    ) -> Option<Hit<M>> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let entry = Entry::new(key, memory, meta, sequence);
        let bytes = entry.bytes();
        entry.set_owner(keep);
        let before = self
            .shard(key.hash)
            .insert(entry, keep, &mut |queue, bytes_before| {
                self.count_in(queue.now, bytes);
                if let Some(was) = queue.before {
                    self.count_out(was, bytes_before);
                }
            });
        let excess = self
            .bytes
            .load(Ordering::Relaxed)
            .saturating_sub(self.capacity_bytes);
        if excess > 0 {
            self.evict_down_to(self.capacity_bytes, excess, evicted);
        }
        // Another key with the same hash gave way: that's an eviction.
        let before = before?;
        if before.is(key) {
            return Some(before.into_hit());
        }
        evicted(before.into_evicted());
        None
    }

    /// Takes a value out.
    pub fn remove(&self, key: &CacheKey<'_>) -> Option<Hit<M>> {
        self.remove_if(key, |_| true)
    }

    /// Takes a value out if `condition`, called under the shard's lock, says so of it.
    pub fn remove_if(
        &self,
        key: &CacheKey<'_>,
        condition: impl FnOnce(&M) -> bool,
    ) -> Option<Hit<M>> {
        let (entry, queue) = self.shard(key.hash).remove_if(key, condition)?;
        self.count_out(queue, entry.bytes());
        Some(entry.into_hit())
    }

    /// Evicts entries until they occupied `bytes`, and returns what they did: less, if nothing
    /// else can be evicted. Memory that a reader still has comes back later.
    ///
    /// `evicted` is called under no lock.
    pub fn evict(&self, bytes: usize, evicted: &mut dyn FnMut(Evicted<M>)) -> usize {
        self.evict_down_to(0, bytes, evicted)
    }

    /// Evicts what it takes to lease `len` bytes of `pool`, or to serve its first waiter: the
    /// oldest entries of that many bytes, and where that leaves slabs partly full, all entries of
    /// those with the least in them. So at most twice the bytes go, whatever the entries' sizes.
    /// Returns what they occupied; 0 if nothing can be evicted.
    ///
    /// `evicted` is called under no lock.
    pub fn make_room(
        &self,
        pool: &SlabPool,
        len: usize,
        evicted: &mut dyn FnMut(Evicted<M>),
    ) -> usize {
        let wanted = len.max(pool.shortage_bytes()).max(1);
        let mut freed = self.evict(wanted, evicted);
        let missing = pool.slabs_missing(len);
        if missing > 0 {
            for sparse in pool.sparsest_slabs(missing) {
                for owner in sparse.owners {
                    freed += self.evict_from_slab(owner, sparse.slab, evicted);
                }
            }
        }
        freed
    }

    /// Evicts the entry of an owner where it lies in that slab; the bytes that it occupied.
    fn evict_from_slab(
        &self,
        owner: u64,
        slab: SlabId,
        evicted: &mut dyn FnMut(Evicted<M>),
    ) -> usize {
        let Some((entry, queue)) = self.shard_of(owner).evict_from_slab(owner, slab) else {
            return 0;
        };
        let bytes = entry.bytes();
        self.count_out(queue, bytes);
        evicted(entry.into_evicted());
        bytes
    }

    /// Evicts up to `bytes`, but nothing once the tier is at `floor_bytes`.
    fn evict_down_to(
        &self,
        floor_bytes: usize,
        bytes: usize,
        evicted: &mut dyn FnMut(Evicted<M>),
    ) -> usize {
        let mut freed = 0;
        while freed < bytes && self.bytes.load(Ordering::Relaxed) > floor_bytes {
            match self.evict_one() {
                Step::Evicted(entry, occupied) => {
                    freed += occupied;
                    evicted(entry);
                }
                Step::Again => {}
                Step::Nothing => break,
            }
        }
        freed
    }

    /// Takes the oldest entry of the queue that is over its share, and decides on it. Each step
    /// evicts, or uses up a read of an entry, so a run of steps ends.
    fn evict_one(&self) -> Step<M> {
        let small = self.small_bytes.load(Ordering::Relaxed);
        let main = self.main_bytes.load(Ordering::Relaxed);
        let small_first = small * 100 >= (small + main) * self.small_percent;
        let order = match small_first {
            true => [Queue::Small, Queue::Main],
            false => [Queue::Main, Queue::Small],
        };
        let oldest = order.into_iter().find_map(|queue| {
            let heads = self.shards.iter().map(|shard| (shard.head(queue), shard));
            let (head, shard) = heads.min_by_key(|(head, _)| *head)?;
            (head != usize::MAX).then_some((queue, shard))
        });
        let Some((queue, shard)) = oldest else {
            return Step::Nothing;
        };
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        match shard.decide(queue, sequence) {
            shard::Decision::Evict(entry) => {
                let bytes = entry.bytes();
                self.count_out(queue, bytes);
                Step::Evicted(entry.into_evicted(), bytes)
            }
            shard::Decision::ToMain(bytes) => {
                self.count_in(Queue::Main, bytes);
                self.count_out(queue, bytes);
                Step::Again
            }
            // Somebody took it out meanwhile.
            shard::Decision::Gone => Step::Again,
        }
    }

    /// Shows entries to `visit` from a cursor on (0 starts), until about `limit` were seen, and
    /// returns where to go on; `None` at the end. One that is there all the time is seen.
    ///
    /// `visit` is called under a shard's lock.
    pub fn scan(
        &self,
        cursor: u64,
        limit: usize,
        visit: &mut dyn FnMut(CacheKey<'_>, &M),
    ) -> Option<u64> {
        let (mut shard, mut place) = ((cursor >> 32) as usize, cursor as u32 as usize);
        let mut left = limit.max(1);
        while let Some(part) = self.shards.get(shard) {
            match part.scan(place, &mut left, visit) {
                Some(next) => return Some((shard as u64) << 32 | next as u64),
                None => (shard, place) = (shard + 1, 0),
            }
        }
        None
    }

    /// Counters.
    pub fn counts(&self) -> CacheCounts {
        let mut counts = CacheCounts {
            bytes: self.bytes.load(Ordering::Relaxed),
            ..CacheCounts::default()
        };
        self.shards
            .iter()
            .for_each(|shard| shard.add_counts(&mut counts));
        counts
    }
}

/// What one step of eviction did.
enum Step<M> {
    Evicted(Evicted<M>, usize),
    Again,
    Nothing,
}
