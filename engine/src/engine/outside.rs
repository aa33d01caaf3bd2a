//! What the engine's logic can't do itself: tell the time, and reach a drive's log.
//!
//! The logic runs on callers' threads and on the drives'. Whatever it does beyond the memory of
//! [`Tables`](super::Tables) is an effect of a step (see `segment_log::Effects`), a completion to
//! whoever made the queue (see `queue::Complete`), or one of these calls. So a simulator that
//! implements this trait, keeps the I/Os of each step and hands them back in an order of its own
//! runs the very same code without a thread, a ring or a clock.

use crate::clock::Tick;
use crate::segment_log::Event;

/// See the module docs. None of the calls blocks, or calls back into the engine.
pub(crate) trait Outside: Send + Sync {
    /// The time on the monotonic scale.
    fn now(&self) -> Tick;

    /// Wall-clock milliseconds, for expiry.
    fn unix_ms(&self) -> u64;

    /// An event of a caller for a drive's log; comes back when too many wait, or when nobody
    /// listens any more.
    fn offer(&self, drive: u8, event: Event) -> Result<(), Event>;

    /// An event of the engine itself, which what callers have in flight bounds; comes back when
    /// nobody listens any more.
    fn post(&self, drive: u8, event: Event) -> Result<(), Event>;
}
