//! The slab pool: every byte of value memory, in regions that are registered once.
//!
//! [`pool`] decides who gets which memory; [`lease`] is the right to use it.

#[expect(
    unsafe_code,
    reason = "hands out slices of a region; see the module docs"
)]
pub mod lease;
pub mod pool;

pub use lease::{InFlight, Location, RawPiece, ReadMemory, WriteMemory};
pub use pool::{
    Grant, GrantSink, LeaseError, Leased, NoObserver, PoolConfig, PoolError, PoolObserver, Region,
    RegionConfig, RegionTier, SlabCounts, SlabId, SlabPool, SparseSlab, Ticket, Waiter,
};
