//! Who gets which memory: regions cut into slabs, small leases cut out of slabs.
//!
//! ```text
//! region (one mapping)   | 1 GiB piece                   | 1 GiB piece          |
//! slabs                  | 0 | 1 | 2 | ...           |gap| n | n+1 | ...        |
//!                              └ carved: | slot | slot | slot | ... |
//! ```
//!
//! A lease is whole slabs plus, for what is left of its length, a slot of a size class, so a
//! small value never occupies a slab. Nothing crosses a 1 GiB boundary of its region, because a
//! ring's fixed buffer can't be longer. Leases are granted whole and first come first served:
//! nobody overtakes a waiter, not even for a slot that is free.
//!
//! All decisions sit in `State`, which has no thread, clock or randomness in it, behind one
//! mutex held for tens of nanoseconds; grants are delivered outside it, one at a time, by the
//! thread that released the memory. The pool makes no decision about what to evict.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::lease::{Held, Piece, Pieces, WHOLE_SLAB, WriteMemory};
use crate::mapping::Mapping;

mod carve;
mod shared;
mod state;

use state::State;

/// A ring's fixed buffer is at most this long.
pub(crate) const PIECE_BYTES: usize = 1 << 30;
/// Alignment of slabs, and of every lease of at least this many bytes.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Backtraces kept of frees of memory that was free.
const DOUBLE_FREE_TRACES_MAX: usize = 8;

/// Which memory a region stands on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegionTier {
    /// DRAM.
    #[default]
    Fast,
    /// Persistent memory or CXL.
    Slow,
}

/// One mapping to cut up.
#[derive(Debug)]
pub struct RegionConfig {
    /// The memory.
    pub mapping: Mapping,
    /// What it is.
    pub tier: RegionTier,
}

/// What a pool is made of.
#[derive(Debug)]
pub struct PoolConfig {
    /// `memory.block_size`: a multiple of 4 KiB from 64 KiB to 1 GiB.
    pub slab_bytes: usize,
    /// The regions; their order is the order of use, their index is `Location::region_idx`.
    pub regions: Vec<RegionConfig>,
    /// `MEMKV_SLAB_DOUBLE_FREE_TRACE`: keep backtraces of double frees, at most 8.
    pub double_free_trace: bool,
}

/// Why a pool can't be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PoolError {
    /// `memory.block_size` doesn't work.
    #[error("memory.block_size is {bytes} bytes: must be a multiple of 4 KiB, 64 KiB to 1 GiB")]
    SlabBytes {
        /// The size given.
        bytes: usize,
    },
    /// Not one slab fits.
    #[error(
        "memory.max_size of {bytes} bytes holds no slab of {slab_bytes} bytes: \
         raise memory.max_size or lower memory.block_size"
    )]
    NoSlab {
        /// Bytes of all regions.
        bytes: usize,
        /// Bytes of a slab.
        slab_bytes: usize,
    },
    /// More than the pool can number.
    #[error("{count} {what}: the pool takes at most {max}; raise memory.block_size")]
    TooMany {
        /// How many there are.
        count: usize,
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
}

/// Why a lease can never be granted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LeaseError {
    /// Longer than the pool, however empty.
    #[error("lease {len} bytes: the pool holds {max}; stream the value or raise memory.max_size")]
    TooLarge {
        /// Bytes asked for.
        len: usize,
        /// Bytes of all slabs.
        max: usize,
    },
}

/// Told about waits; hands in the clock, because the pool has none.
pub trait PoolObserver: Send + Sync {
    /// Nanoseconds on any monotonic scale.
    fn now_ns(&self) -> u64;
    /// A lease was granted after waiting this long; not called for those granted at once.
    fn waited(&self, waited_ns: u64);
    /// Memory was freed that was free: a bug of ours.
    fn freed_twice(&self);
}

/// Observes nothing: every wait is 0 ns long.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl PoolObserver for NoObserver {
    fn now_ns(&self) -> u64 {
        0
    }
    fn waited(&self, _waited_ns: u64) {}
    fn freed_twice(&self) {}
}

/// Where grants go. Called by the thread that released the memory, never under the pool's lock;
/// it may lease and release, and must not block or panic.
pub trait GrantSink: Send + Sync {
    /// Takes the memory; dropping it gives it to the next waiter.
    fn granted(&self, grant: Grant);
}

/// Memory for one who waited.
#[derive(Debug)]
pub struct Grant {
    /// The waiter's own token.
    pub token: u64,
    /// What it waited for.
    pub memory: WriteMemory,
    /// How long that took.
    pub waited_ns: u64,
}

/// One who would wait.
#[derive(Clone)]
pub struct Waiter {
    /// Where the grant goes.
    pub sink: Arc<dyn GrantSink>,
    /// Comes back with the grant.
    pub token: u64,
}

/// Names a place in the queue, to cancel it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// Names a slab of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlabId(pub(super) u32);

/// A carved slab, and who must give up memory for it to become whole.
#[derive(Clone, Debug)]
pub struct SparseSlab {
    /// The slab.
    pub slab: SlabId,
    /// Whose its slots are: see [`ReadMemory::set_owner`](super::ReadMemory::set_owner).
    pub owners: Vec<u64>,
}

/// How a lease went that may wait.
#[derive(Debug)]
pub enum Leased {
    /// Here it is.
    Now(WriteMemory),
    /// Queued; the sink will get it.
    Later(Ticket),
}

/// Slabs by state. They sum to `capacity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabCounts {
    /// Nobody's.
    pub free: usize,
    /// Cut into slots of a size class.
    pub carved: usize,
    /// Leased for writing.
    pub writing: usize,
    /// Leased and frozen.
    pub reading: usize,
    /// All.
    pub capacity: usize,
    /// Bytes of slots in use, within the carved slabs; not a state.
    pub slot_bytes: usize,
    /// Leases that a device works on; not a state.
    pub in_flight: usize,
    /// Bytes whose lease was dropped in flight, never to be used again; not a state.
    pub leaked_bytes: usize,
    /// Leases that wait; not a state.
    pub waiting: usize,
}

impl SlabCounts {
    /// The states by name: the label of `memkv_slabs`.
    pub fn states(&self) -> [(&'static str, usize); 4] {
        [
            ("free", self.free),
            ("carved", self.carved),
            ("writing", self.writing),
            ("reading", self.reading),
        ]
    }
}

/// A region as the pool keeps it.
pub struct Region {
    mapping: Mapping,
    tier: RegionTier,
    first_slab: u32,
    slab_count: u32,
}

impl Region {
    /// The mapping: what a ring or a NIC registers, in pieces of [`PIECE_BYTES`].
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// What memory it stands on.
    pub fn tier(&self) -> RegionTier {
        self.tier
    }

    /// Its slabs.
    pub fn slab_count(&self) -> usize {
        self.slab_count as usize
    }
}

/// The pool; clones share it. Its memory lives until the last lease is gone.
#[derive(Clone, Debug)]
pub struct SlabPool {
    shared: Arc<Shared>,
}

impl SlabPool {
    /// Cuts the regions into slabs.
    ///
    /// # Errors
    /// [`PoolError`], where sizes don't fit together.
    pub fn new(config: PoolConfig, observer: Arc<dyn PoolObserver>) -> Result<Self, PoolError> {
        Shared::new(config, observer).map(|shared| Self {
            shared: Arc::new(shared),
        })
    }

    /// Bytes of a slab.
    pub fn slab_bytes(&self) -> usize {
        self.shared.slab_bytes
    }

    /// Bytes of all slabs.
    pub fn capacity_bytes(&self) -> usize {
        self.shared.capacity_bytes()
    }

    /// The longest lease an operation should take; what is longer streams in windows of this.
    pub fn window_bytes(&self) -> usize {
        let slabs = self.shared.capacity_bytes() / self.shared.slab_bytes;
        (slabs / 4).max(1) * self.shared.slab_bytes
    }

    /// The regions, by `Location::region_idx`.
    pub fn regions(&self) -> &[Region] {
        &self.shared.regions
    }

    /// Leases `len` bytes at once, or not at all: `None` when they aren't free or somebody waits.
    ///
    /// From 4096 bytes up each piece is page-aligned, with whole pages to itself. Never blocks;
    /// allocates only for more than one piece.
    ///
    /// # Errors
    /// [`LeaseError::TooLarge`], when no release could ever help.
    pub fn try_lease(&self, len: usize) -> Result<Option<WriteMemory>, LeaseError> {
        let shape = self.shared.shape(len)?;
        let pieces = {
            let mut state = self.shared.state.lock();
            if state.waiting.is_empty() {
                state.take(shape, &self.shared)
            } else {
                None
            }
        };
        Ok(pieces.map(|pieces| self.shared.own(pieces, len)))
    }

    /// Leases `len` bytes, or queues the waiter, who gets them through its sink.
    ///
    /// # Errors
    /// [`LeaseError::TooLarge`], when no release could ever help.
    pub fn lease(&self, len: usize, waiter: Waiter) -> Result<Leased, LeaseError> {
        let shape = self.shared.shape(len)?;
        let since_ns = self.shared.observer.now_ns();
        let pieces = {
            let mut state = self.shared.state.lock();
            let free = if state.waiting.is_empty() {
                state.take(shape, &self.shared)
            } else {
                None
            };
            match free {
                Some(pieces) => pieces,
                None => return Ok(Leased::Later(state.queue(waiter, len, shape, since_ns))),
            }
        };
        Ok(Leased::Now(self.shared.own(pieces, len)))
    }

    /// Takes a waiter out of the queue; false when it was granted (or cancelled) before.
    pub fn cancel(&self, ticket: Ticket) -> bool {
        let cancelled = self.shared.state.lock().cancel(ticket);
        // Those behind it may fit where it didn't.
        self.shared.deliver();
        cancelled
    }

    /// Bytes that must be freed before the first waiter can be served, as far as bytes tell:
    /// fragmented slots may need more. 0 where nobody waits.
    pub fn shortage_bytes(&self) -> usize {
        let state = self.shared.state.lock();
        let Some(first) = state.waiting.front() else {
            return 0;
        };
        let slabs = first.shape.slabs + usize::from(first.shape.class.is_some());
        slabs.saturating_sub(state.free_count()).max(1) * self.shared.slab_bytes
    }

    /// Whole slabs that must become free before `len` bytes can be leased, or the first waiter
    /// be served: where small leases leave many slabs partly full, freeing any bytes won't do.
    pub fn slabs_missing(&self, len: usize) -> usize {
        let shape = self.shared.shape(len).ok();
        let state = self.shared.state.lock();
        let waiting = state.waiting.front().map(|first| first.shape);
        let missing = shape
            .into_iter()
            .chain(waiting)
            .map(|shape| state.missing(shape));
        missing.max().unwrap_or(0)
    }

    /// Up to `count` carved slabs that become free when the owners of their slots let go, those
    /// with the fewest bytes in use first. One with a slot that has no owner (somebody writes it,
    /// or it must be kept) is left out. Looks at every slab under the pool's lock: microseconds
    /// per thousand, for when memory is short.
    pub fn sparsest_slabs(&self, count: usize) -> Vec<SparseSlab> {
        self.shared.state.lock().sparsest(count, &self.shared)
    }

    /// Slabs by state.
    pub fn counts(&self) -> SlabCounts {
        self.shared.counts()
    }

    /// Frees of memory that was free; more than 0 is a bug of ours.
    pub fn double_frees(&self) -> usize {
        self.shared.state.lock().double_frees
    }

    /// Backtraces of the first 8 of those, where tracing is on.
    pub fn double_free_traces(&self) -> Vec<String> {
        self.shared.traces.lock().clone()
    }
}

/// What all leases of a pool share.
pub(super) struct Shared {
    slab_bytes: usize,
    slab_count: usize,
    regions: Vec<Region>,
    classes: Vec<u32>,
    state: Mutex<State>,
    observer: Arc<dyn PoolObserver>,
    double_free_trace: bool,
    traces: Mutex<Vec<String>>,
    frozen_slabs: AtomicUsize,
    in_flight: AtomicUsize,
    leaked_bytes: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlabPool")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
