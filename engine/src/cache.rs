//! The hot tier: recently read or written values in slabs, S3-FIFO.

use crate::index::KeyHash;
use crate::slab::ReadMemory;

/// How the hot tier is sized.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes of pool memory that entries may occupy.
    pub capacity_bytes: usize,
    /// Share of the probationary queue, in percent: 10 to 50.
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

/// Counters since the start.
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
    _meta: std::marker::PhantomData<M>,
}

impl<M: Clone> Cache<M> {
    /// An empty one.
    pub fn new(_config: &CacheConfig) -> Self {
        todo!()
    }
    /// Looks a value up and notes that it was read.
    pub fn get(&self, _key: &CacheKey<'_>) -> Option<Hit<M>> {
        todo!()
    }
    /// Looks a value up without noting it.
    pub fn peek(&self, _key: &CacheKey<'_>) -> Option<Hit<M>> {
        todo!()
    }
    /// Puts a value in place of the key's last one, which it returns; evicts what exceeds the
    /// capacity into `evicted`. With `keep`, it is never evicted (class durable in memory mode).
    pub fn insert(
        &self,
        _key: &CacheKey<'_>,
        _memory: ReadMemory,
        _meta: M,
        _keep: bool,
        _evicted: &mut dyn FnMut(Evicted<M>),
    ) -> Option<Hit<M>> {
        todo!()
    }
    /// Takes a value out.
    pub fn remove(&self, _key: &CacheKey<'_>) -> Option<Hit<M>> {
        todo!()
    }
    /// Takes a value out if `condition` says so of it.
    pub fn remove_if(
        &self,
        _key: &CacheKey<'_>,
        _condition: impl FnOnce(&M) -> bool,
    ) -> Option<Hit<M>> {
        todo!()
    }
    /// Evicts entries until they occupied `bytes`; returns what they did. Memory that a reader
    /// still has comes back later.
    pub fn evict(&self, _bytes: usize, _evicted: &mut dyn FnMut(Evicted<M>)) -> usize {
        todo!()
    }
    /// Counters.
    pub fn counts(&self) -> CacheCounts {
        todo!()
    }
}
