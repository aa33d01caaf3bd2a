//! How a client is doing with the frame that it is sending.

use std::cell::Cell;

use memkv_telemetry::clock::{self, Tick};

/// For less than this a wake-up is not worth the system call that saves it.
const CHUNK_WAIT_MIN: usize = 32 << 10;

/// How a client is doing with the frame it is sending; the sweeper reads it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Since when the connection waits for bytes of a frame that has begun.
    waiting_since: Cell<Option<Tick>>,
    /// Nanoseconds waited for earlier bytes of this frame.
    waited_ns: Cell<u64>,
    /// Bytes of this frame received.
    frame_bytes: Cell<u64>,
    in_frame: Cell<bool>,
    /// Whether the connection sleeps until a chunk is there.
    waits_for_chunk: Cell<bool>,
    /// Whether that chunk has been too long in coming: what trickles in must be seen, or a slow client looks like a
    /// stalled one.
    trickles: Cell<bool>,
}

impl Progress {
    /// A frame has begun (`true`) or ended (`false`).
    pub(super) fn frame(&self, begun: bool) {
        self.in_frame.set(begun);
        self.waiting_since.set(None);
        self.waited_ns.set(0);
        self.frame_bytes.set(0);
        self.waits_for_chunk.set(false);
        self.trickles.set(false);
    }

    pub(super) fn is_in_frame(&self) -> bool {
        self.in_frame.get()
    }

    pub(super) fn received(&self, bytes: usize) {
        self.frame_bytes.set(self.frame_bytes.get() + bytes as u64);
        if let Some(since) = self.waiting_since.take() {
            let waited = clock::now().0.saturating_sub(since.0);
            self.waited_ns.set(self.waited_ns.get() + waited);
        }
    }

    /// The connection waits for `bytes` more of a frame, where one has begun. Returns how many of them are to wake it.
    pub(super) fn waits(&self, bytes: usize) -> usize {
        let mark = if bytes < CHUNK_WAIT_MIN || self.trickles.get() {
            1
        } else {
            bytes
        };
        self.waits_for_chunk.set(mark > 1);
        if self.in_frame.get() && self.waiting_since.get().is_none() {
            self.waiting_since.set(Some(clock::now()));
        }
        mark
    }

    /// Whether a wait for a chunk has lasted for `patience_ns`. If so, this frame's bytes are waited for one by one from
    /// here on, and the connection's task must be woken to do so.
    pub(crate) fn loses_patience(&self, now: Tick, patience_ns: u64) -> bool {
        let overdue = self.waits_for_chunk.get()
            && self
                .waiting_since
                .get()
                .is_some_and(|since| now.0.saturating_sub(since.0) > patience_ns);
        if overdue {
            self.trickles.set(true);
        }
        overdue
    }

    /// Whether the client has stalled a frame, or trickles it slower than `bytes_per_second_min`. Never as long as a chunk
    /// is waited for: much of it may be there, and nobody has looked.
    pub(crate) fn stalled(&self, now: Tick, stall_ns: u64, bytes_per_second_min: u64) -> bool {
        let Some(since) = self.waiting_since.get() else {
            return false;
        };
        if self.waits_for_chunk.get() {
            return false;
        }
        let waiting = now.0.saturating_sub(since.0);
        let waited = self.waited_ns.get() + waiting;
        let due = u128::from(waited) * u128::from(bytes_per_second_min) / 1_000_000_000;
        waiting > stall_ns || (waited > stall_ns && u128::from(self.frame_bytes.get()) < due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const CHUNK: usize = 256 << 10;

    /// A frame whose next chunk is waited for, and the time a while later.
    fn waiting_for_a_chunk() -> (Progress, Tick) {
        let progress = Progress::default();
        progress.frame(true);
        assert_eq!(progress.waits(CHUNK), CHUNK);
        (progress, Tick(clock::now().0 + 3 * SECOND))
    }

    #[test]
    fn nobody_is_taken_for_stalled_before_what_is_there_of_a_chunk_was_read() {
        let (progress, later) = waiting_for_a_chunk();
        assert!(!progress.stalled(later, SECOND, 4096), "nobody has looked");
        assert!(progress.loses_patience(later, SECOND));
        assert!(
            !progress.stalled(later, SECOND, 4096),
            "nor has the task yet"
        );
        progress.received(CHUNK / 2);
        assert_eq!(progress.waits(CHUNK), 1, "byte by byte from here on");
        assert!(!progress.loses_patience(later, SECOND));
        let soon = Tick(clock::now().0 + SECOND / 2);
        assert!(!progress.stalled(soon, SECOND, 4096), "it had sent some");
    }

    #[test]
    fn a_client_that_had_sent_nothing_of_its_chunk_is_stalled_once_that_was_seen() {
        let (progress, later) = waiting_for_a_chunk();
        assert!(progress.loses_patience(later, SECOND));
        assert_eq!(progress.waits(CHUNK), 1);
        assert!(progress.stalled(later, SECOND, 4096));
    }
}
