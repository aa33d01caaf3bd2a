//! A ring of Timelines with one producer and one consumer.
//!
//! Slots are mutexes that are never contended: the indices keep the two sides in different slots, so
//! locking costs two uncontended atomic operations and the module needs no unsafe code.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::timeline::Timeline;

pub(crate) struct Ring {
    slots: Box<[Mutex<Option<Timeline>>]>,
    /// Written by the producer only.
    pushed: AtomicU64,
    /// Written by the consumer only.
    popped: AtomicU64,
    lost: AtomicU64,
}

impl Ring {
    /// `capacity` is rounded up to a power of two.
    pub(crate) fn new(capacity: usize) -> Ring {
        let slots = (0..capacity.next_power_of_two())
            .map(|_| Mutex::new(None))
            .collect();
        Ring {
            slots,
            pushed: AtomicU64::new(0),
            popped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn slot(&self, position: u64) -> &Mutex<Option<Timeline>> {
        &self.slots[position as usize & (self.slots.len() - 1)]
    }

    /// Returns how many it holds now; a Timeline that finds it full is lost and counted.
    #[inline]
    pub(crate) fn push(&self, timeline: &Timeline) -> usize {
        let pushed = self.pushed.load(Ordering::Relaxed);
        let held = pushed.wrapping_sub(self.popped.load(Ordering::Acquire)) as usize;
        if held >= self.slots.len() {
            self.lost
                .store(self.lost.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return held;
        }
        *self.slot(pushed).lock() = Some(*timeline);
        self.pushed.store(pushed + 1, Ordering::Release);
        held + 1
    }

    /// The oldest one, of those pushed so far.
    pub(crate) fn pop(&self) -> Option<Timeline> {
        let popped = self.popped.load(Ordering::Relaxed);
        if popped == self.pushed.load(Ordering::Acquire) {
            return None;
        }
        let timeline = self.slot(popped).lock().take();
        self.popped.store(popped + 1, Ordering::Release);
        timeline
    }

    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Tick;
    use crate::labels::{OpKind, Transport};

    fn timeline(id: u64) -> Timeline {
        let mut timeline = Timeline::begin(OpKind::Get, Transport::Tcp, Tick(0));
        timeline.connection_id = id;
        timeline
    }

    #[test]
    fn a_full_ring_loses_the_new_one_and_counts_it() {
        let ring = Ring::new(4);
        for id in 0..6 {
            ring.push(&timeline(id));
        }
        assert_eq!(ring.lost(), 2);
        let kept: Vec<_> = std::iter::from_fn(|| ring.pop())
            .map(|t| t.connection_id)
            .collect();
        assert_eq!(kept, [0, 1, 2, 3]);
        assert_eq!(ring.push(&timeline(9)), 1);
        assert_eq!(ring.pop().unwrap().connection_id, 9);
    }

    #[test]
    fn across_threads_all_arrive_in_order_or_are_counted_as_lost() {
        let ring = Ring::new(64);
        const PUSHED: u64 = 20_000;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..PUSHED).for_each(|id| _ = ring.push(&timeline(id))));
            let (mut last, mut seen) = (None, 0);
            while seen + ring.lost() < PUSHED {
                match ring.pop() {
                    Some(timeline) => {
                        assert!(last < Some(timeline.connection_id));
                        last = Some(timeline.connection_id);
                        seen += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
            assert!(ring.pop().is_none());
        });
    }
}
