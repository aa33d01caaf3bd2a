//! The slab pool: every byte of value memory, in regions that are registered once.
//!
//! [`pool`] decides who gets which memory; [`lease`] is the right to use it.

#[expect(
    unsafe_code,
    reason = "hands out slices of a region; see the module docs"
)]
mod lease;
mod pool;

pub(crate) use lease::{InFlight, Location, RawPiece, ReadMemory, WriteMemory};
pub(crate) use pool::{Grant, GrantSink, Leased, PoolObserver, SlabId, Ticket, Waiter};
pub use pool::{NoObserver, PoolConfig, RegionConfig, RegionTier, SlabPool};
