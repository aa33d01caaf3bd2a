//! How a client is doing with the replies that wait for it.

use std::cell::Cell;

use memkv_telemetry::clock::{self, Tick};

/// What the kernel of a client takes of itself while its program never reads is far less than this.
const TAKEN_UNREAD_MAX: u64 = 1 << 20;

/// Whether the client takes its replies; the sender writes it, the sweeper reads it.
///
/// What can be written to the socket is progress, and so is what the client confirms of a full one: a socket with megabytes
/// of buffers is writable again only once a third of them is free, which takes a slow client seconds. So how long a client
/// has taken nothing is what looks at its socket find, from the first of them on, and not what the clock says.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    /// Since when replies wait of which the client is known to have taken nothing.
    untaken_since: Cell<Option<Tick>>,
    /// For how long it had taken nothing when the socket was last looked at.
    seen_untaken_ns: Cell<u64>,
    /// Bytes that the socket has taken in all.
    written: Cell<u64>,
    /// Whether the client had taken more than it can without reading when that was last asked.
    has_read: Cell<bool>,
    /// Whether the sweeper wants to know how full the socket is.
    is_watched: Cell<bool>,
    /// How many bytes the client had not confirmed when that was last asked.
    unacknowledged: Cell<Option<usize>>,
}

impl Taking {
    /// Nothing waits any more.
    pub(super) fn took_all(&self) {
        self.untaken_since.set(None);
        self.seen_untaken_ns.set(0);
    }

    /// The socket took `bytes`; more may wait.
    pub(super) fn took_some(&self, bytes: usize) {
        self.written.set(self.written.get() + bytes as u64);
        self.untaken_since.set(Some(clock::now()));
        self.seen_untaken_ns.set(0);
        self.unacknowledged.set(None);
    }

    /// The socket is full; `unacknowledged` tells how full, and is asked only if the sweeper wants to know.
    pub(super) fn is_full(&self, unacknowledged: impl FnOnce() -> Option<usize>) {
        if self.untaken_since.get().is_none() {
            self.untaken_since.set(Some(clock::now()));
        }
        if self.is_watched.take() {
            let left = unacknowledged();
            let before = self.unacknowledged.replace(left);
            // The first look has nothing to compare: all may have been taken a moment ago.
            if left.is_some_and(|left| before.is_none_or(|before| left < before)) {
                self.untaken_since.set(Some(clock::now()));
            }
            self.seen_untaken_ns.set(self.untaken_ns(clock::now()));
            let taken = left.map_or(0, |left| self.written.get().saturating_sub(left as u64));
            self.has_read.set(taken > TAKEN_UNREAD_MAX);
        }
    }

    /// Whether the client is known to read, if maybe not now.
    pub(crate) fn has_read(&self) -> bool {
        self.has_read.get()
    }

    /// Asks how full the socket is; the connection's task must be woken to answer.
    pub(crate) fn watch(&self) {
        self.is_watched.set(true);
    }

    /// For how long looks have found that the client takes nothing of what waits for it.
    pub(crate) fn seen_untaken_ns(&self) -> u64 {
        self.seen_untaken_ns.get()
    }

    /// For how long the client may have taken nothing of what waits for it.
    pub(crate) fn untaken_ns(&self, now: Tick) -> u64 {
        let since = self.untaken_since.get();
        since.map_or(0, |since| now.0.saturating_sub(since.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LONG_AGO: Option<Tick> = Some(Tick(1));

    /// Whether a look at a socket that holds so much finds that the client takes nothing.
    fn is_stuck(taking: &Taking, unacknowledged: usize) -> bool {
        taking.untaken_since.set(LONG_AGO);
        taking.watch();
        taking.is_full(|| Some(unacknowledged));
        taking.seen_untaken_ns() > SECOND
    }

    #[test]
    fn a_full_socket_that_empties_is_progress_and_one_that_stays_full_is_not() {
        let taking = Taking::default();
        assert!(
            !is_stuck(&taking, 1000),
            "the first look has nothing to compare"
        );
        assert!(is_stuck(&taking, 1000));
        assert!(!is_stuck(&taking, 999));
        assert!(is_stuck(&taking, 999));
        taking.took_all();
        assert_eq!(taking.seen_untaken_ns(), 0);
    }

    #[test]
    fn however_long_a_socket_was_full_nothing_is_held_against_the_client_before_two_looks() {
        let taking = Taking::default();
        taking.took_some(4000);
        taking.untaken_since.set(LONG_AGO);
        assert_eq!(taking.seen_untaken_ns(), 0, "no look");
        assert!(!is_stuck(&taking, 3000), "one look");
        taking.took_some(1000);
        assert!(!is_stuck(&taking, 3500), "one look since more was written");
        assert!(is_stuck(&taking, 3500));
        taking.took_some(1);
        assert_eq!(taking.seen_untaken_ns(), 0, "it took some");
    }

    #[test]
    fn where_nobody_knows_how_full_a_socket_is_the_clock_counts() {
        let taking = Taking::default();
        taking.untaken_since.set(LONG_AGO);
        taking.watch();
        taking.is_full(|| None);
        assert!(taking.seen_untaken_ns() > SECOND);
    }

    #[test]
    fn a_client_is_known_to_read_once_it_has_taken_more_than_its_kernel_would() {
        let taking = Taking::default();
        let buffered = 4 << 20;
        taking.took_some(buffered);
        is_stuck(&taking, buffered - (128 << 10));
        assert!(!taking.has_read());
        taking.took_some(2 << 20);
        is_stuck(&taking, buffered);
        assert!(taking.has_read());
    }

    #[test]
    fn a_socket_that_nobody_watches_is_not_asked() {
        let taking = Taking::default();
        taking.is_full(|| unreachable!("nobody asked"));
        assert!(taking.untaken_ns(Tick(u64::MAX)) > 0);
        taking.took_all();
        assert_eq!(taking.untaken_ns(Tick(u64::MAX)), 0);
    }
}
