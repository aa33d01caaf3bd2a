//! Connections without a session yet: where there is no room for one more, the oldest makes it.
//!
//! A client that knows the key is through its handshake within a round trip or two, so it is hardly ever the oldest.
//! Whoever opens connections and stays silent closes his own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The longest that the acceptor waits for the oldest to be gone.
const ROOM_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Place {
    /// Its session was opened, or its connection closed.
    left: AtomicBool,
    asked: Notify,
    gone: Notify,
}

/// A connection's place among those without a session; dropping it leaves the place.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen(Arc<Place>);

impl HalfOpen {
    /// Comes back when the place is needed for another connection.
    pub(crate) async fn asked_to_leave(&self) {
        self.0.asked.notified().await;
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.left.store(true, Ordering::Release);
        self.0.gone.notify_one();
    }
}

/// The places, as the acceptor knows them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    oldest_first: VecDeque<Arc<Place>>,
    /// Places left are forgotten when there are so many.
    prune_at: usize,
}

impl Queue {
    /// A place for a connection that was just accepted.
    pub(crate) fn enter(&mut self) -> HalfOpen {
        if self.oldest_first.len() >= self.prune_at {
            self.oldest_first
                .retain(|place| !place.left.load(Ordering::Acquire));
            self.prune_at = 2 * self.oldest_first.len().max(64);
        }
        let place = Arc::new(Place::default());
        self.oldest_first.push_back(place.clone());
        HalfOpen(place)
    }

    /// Has the oldest connection closed and waits for it; `false` where there is none, or it takes too long.
    pub(crate) async fn make_room(&mut self) -> bool {
        while let Some(place) = self.oldest_first.pop_front() {
            if place.left.load(Ordering::Acquire) {
                continue;
            }
            place.asked.notify_one();
            return tokio::time::timeout(ROOM_WAIT, place.gone.notified())
                .await
                .is_ok();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_is_still_there_makes_room() {
        let mut queue = Queue::default();
        assert!(!queue.make_room().await, "nobody is there");
        let (left, oldest, newest) = (queue.enter(), queue.enter(), queue.enter());
        drop(left);
        let leaves = async {
            oldest.asked_to_leave().await;
            drop(oldest);
        };
        let (made, ()) = tokio::join!(queue.make_room(), leaves);
        assert!(made);
        // The one that is next in line doesn't go.
        assert!(!queue.make_room().await);
        drop(newest);
        assert!(!queue.make_room().await);
    }

    #[test]
    fn places_that_were_left_are_forgotten() {
        let mut queue = Queue::default();
        let kept = queue.enter();
        (0..10_000).for_each(|_| drop(queue.enter()));
        assert!(queue.oldest_first.len() <= 128);
        drop(kept);
    }
}
