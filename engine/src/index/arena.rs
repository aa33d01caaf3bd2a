//! Memory of the buckets: chunks of 16 KiB, cut from blocks of 2 MiB that all shards share.
//!
//! A lookup in a table of some GiB would pay for a page walk as well as for its cache miss, so
//! blocks stand on transparent huge pages once there are a few; reserved ones are the pool's.
//! Chunks never move and are never given back before the whole index goes.
//!
//! Aliasing: an arena gives each chunk out once, to one table, which keeps the arena, hence the
//! mapping, alive for as long as anybody can borrow a bucket from it. Buckets are atomics all
//! through, for which the kernel's zeroes are valid, so shared references are all there is.

use std::alloc::Layout;
use std::fmt;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::slot::Bucket;
use crate::mapping::{HUGE_PAGE_BYTES, Mapping, MappingConfig, PagePolicy};

/// Buckets of a chunk.
pub(super) const CHUNK_BUCKETS: usize = 256;
const CHUNK_BYTES: usize = CHUNK_BUCKETS * size_of::<Bucket>();
const BLOCK_CHUNKS: usize = HUGE_PAGE_BYTES / CHUNK_BYTES;
/// Blocks that take plain pages, of which only those in use cost memory.
const PLAIN_BLOCKS: usize = 16;
/// Spans of a table; span n has 2ⁿ chunks.
const SPANS: usize = 18;
/// Buckets that a table can have: whole spans, 64 M.
pub(super) const TABLE_BUCKETS_MAX: u32 = (((1 << SPANS) - 1) * CHUNK_BUCKETS) as u32;

#[derive(Debug, Default)]
struct Blocks {
    mappings: Vec<Mapping>,
    /// Chunks given out of the last block.
    used_chunks: usize,
}

/// Where tables get their chunks.
#[derive(Debug, Default)]
pub(super) struct Arena {
    blocks: Mutex<Blocks>,
}

impl Arena {
    /// Bytes of RAM: whole blocks where they are huge pages, else the chunks given out.
    pub(super) fn bytes(&self) -> usize {
        let blocks = self.blocks.lock();
        match blocks.mappings.len() {
            0 => 0,
            count if count > PLAIN_BLOCKS => count * HUGE_PAGE_BYTES,
            count => (count - 1) * HUGE_PAGE_BYTES + blocks.used_chunks * CHUNK_BYTES,
        }
    }

    /// The first bucket of a fresh chunk, all zero.
    fn chunk(&self) -> NonNull<Bucket> {
        let mut blocks = self.blocks.lock();
        if blocks.mappings.is_empty() || blocks.used_chunks == BLOCK_CHUNKS {
            let plain = blocks.mappings.len() < PLAIN_BLOCKS;
            let config = MappingConfig {
                bytes: HUGE_PAGE_BYTES,
                pages: if plain {
                    PagePolicy::Plain
                } else {
                    PagePolicy::Transparent
                },
                numa_node: None,
                prefault_threads: 0,
            };
            let Ok(mapping) = Mapping::new(&config) else {
                std::alloc::handle_alloc_error(Layout::new::<[Bucket; CHUNK_BUCKETS]>())
            };
            blocks.mappings.push(mapping);
            blocks.used_chunks = 0;
        }
        let offset = blocks.used_chunks * CHUNK_BYTES;
        blocks.used_chunks += 1;
        let block = blocks.mappings.last().expect("one was just made");
        block.pointer_at(offset).cast()
    }
}

/// The chunks of one shard, by number.
pub(super) struct Table {
    arena: Arc<Arena>,
    spans: [OnceLock<Box<[AtomicPtr<Bucket>]>>; SPANS],
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// The span of a chunk and its place in it.
#[inline]
fn place(chunk_idx: usize) -> (usize, usize) {
    let span_idx = (chunk_idx + 1).ilog2() as usize;
    (span_idx, chunk_idx + 1 - (1 << span_idx))
}

impl Table {
    pub(super) fn new(arena: Arc<Arena>) -> Self {
        Self {
            arena,
            spans: [const { OnceLock::new() }; SPANS],
        }
    }

    /// Bytes of RAM beside the chunks.
    pub(super) fn bytes(&self) -> usize {
        self.spans
            .iter()
            .filter_map(OnceLock::get)
            .map(|span| size_of_val(&**span))
            .sum()
    }

    /// Makes the chunk of a bucket, where there is none yet; for one thread at a time.
    pub(super) fn make(&self, bucket_idx: u32) {
        let (span_idx, at) = place(bucket_idx as usize / CHUNK_BUCKETS);
        let span = self.spans[span_idx].get_or_init(|| {
            (0..1usize << span_idx)
                .map(|_| AtomicPtr::default())
                .collect()
        });
        if span[at].load(Ordering::Relaxed).is_null() {
            let chunk = self.arena.chunk().as_ptr();
            // Whoever comes second (it doesn't happen) leaves its chunk unused.
            let (new, old) = (Ordering::Release, Ordering::Relaxed);
            let _ = span[at].compare_exchange(null_mut(), chunk, new, old);
        }
    }

    /// A bucket.
    ///
    /// # Panics
    /// If its chunk was not made.
    #[inline]
    pub(super) fn bucket(&self, bucket_idx: u32) -> &Bucket {
        let (span_idx, at) = place(bucket_idx as usize / CHUNK_BUCKETS);
        let span = self.spans[span_idx]
            .get()
            .expect("made before the count rose");
        let chunk = span[at].load(Ordering::Acquire);
        assert!(!chunk.is_null(), "made before the count rose");
        // SAFETY: the pointer came from the arena, which we keep alive, and starts a chunk of
        // CHUNK_BUCKETS zeroed, aligned buckets that no other table has.
        unsafe { &*chunk.add(bucket_idx as usize % CHUNK_BUCKETS) }
    }
}
