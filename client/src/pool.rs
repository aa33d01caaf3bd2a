//! Lanes: who of many calling threads may use which connections now.
//!
//! A *lane* is one of everything that a blocking call needs (for the blocking client: a core with one connection per
//! server). A call checks one out, drives it on its own thread, and puts it back. Lanes come in two kinds:
//!
//! * `general` ones, `num_connections` of them, serve any call;
//! * `priority` ones serve a call whose bytes are few, when no general one is free. So an exists or a small get never
//!   waits for a bulk transfer of the same process, however many threads have one under way. A get of unknown size may take
//!   one too, but never the last.
//!
//! The lane that came back last goes out first: its caches and its congestion window are warm, and a program with one
//! thread opens one connection, not eight. Waiting is bounded by the caller's deadline and first come first served as far
//! as the lock is fair.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// What a call is going to move, as far as the caller can tell before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Few bytes for certain: exists, delete, ping, a small put, a get into a small buffer.
    Small,
    /// Who knows: one get of a value whose size only the server knows.
    Unknown,
    /// Many bytes, or a batch that may have many.
    Bulk,
}

/// Payloads up to this many bytes are [`Load::Small`]: 64 KiB take a tenth of a millisecond at 5 Gb/s.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;

impl Load {
    /// The load of a call that moves at most `bytes` of payload.
    pub fn of_bytes(bytes: u64) -> Self {
        if bytes <= SMALL_BYTES_MAX {
            Self::Small
        } else {
            Self::Bulk
        }
    }
}

/// No lane came free in time, or there will never be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckoutError {
    /// The deadline passed while all lanes were out.
    TimedOut,
    /// The pool was closed.
    Closed,
}

#[derive(Debug)]
struct State<T> {
    general: Vec<T>,
    priority: Vec<T>,
    out: usize,
    closed: bool,
}

/// The lanes of one client.
#[derive(Debug)]
pub struct Pool<T> {
    state: Mutex<State<T>>,
    general_back: Condvar,
    any_back: Condvar,
}

/// A lane that is out, with the kind that it goes back as.
#[derive(Debug)]
pub struct Checkout<T> {
    /// The lane itself.
    pub lane: T,
    priority: bool,
}

impl<T> Pool<T> {
    /// A pool of lanes that are all free. At least one of each kind.
    ///
    /// # Panics
    /// If either list is empty.
    pub fn new(general: Vec<T>, priority: Vec<T>) -> Self {
        assert!(
            !general.is_empty() && !priority.is_empty(),
            "a pool needs lanes of both kinds"
        );
        let state = State {
            general,
            priority,
            out: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            general_back: Condvar::new(),
            any_back: Condvar::new(),
        }
    }

    /// Takes a lane for `load`, waiting until `deadline` for one to come back.
    ///
    /// # Errors
    /// When the deadline passes first, or the pool is closed.
    pub fn checkout(&self, load: Load, deadline: Instant) -> Result<Checkout<T>, CheckoutError> {
        let mut state = self.state.lock();
        let mut late = false;
        loop {
            if state.closed {
                return Err(CheckoutError::Closed);
            }
            if let Some(lane) = state.general.pop() {
                state.out += 1;
                return Ok(Checkout {
                    lane,
                    priority: false,
                });
            }
            let back = match load {
                Load::Small | Load::Unknown => {
                    // The last one is kept for what is certainly small: two large values must not hold both.
                    let kept = usize::from(load == Load::Unknown);
                    if state.priority.len() > kept {
                        let lane = state.priority.pop().expect("there are more than are kept");
                        state.out += 1;
                        return Ok(Checkout {
                            lane,
                            priority: true,
                        });
                    }
                    &self.any_back
                }
                Load::Bulk => &self.general_back,
            };
            if late {
                return Err(CheckoutError::TimedOut);
            }
            // After a timeout it looks once more: the lane may have come back between the timer and the lock.
            late = back.wait_until(&mut state, deadline).timed_out();
        }
    }

    /// Puts a lane back, or drops it where the pool has been closed meanwhile.
    pub fn checkin(&self, checkout: Checkout<T>) {
        let mut state = self.state.lock();
        state.out -= 1;
        if state.closed {
            drop(state);
            self.general_back.notify_all();
            return;
        }
        if checkout.priority {
            state.priority.push(checkout.lane);
            drop(state);
            // All, because a waiter of unknown size may be woken that mustn't take the last one.
            self.any_back.notify_all();
        } else {
            state.general.push(checkout.lane);
            drop(state);
            // One waiter of either kind may take it. Both wake: whoever loses the race sees no lane and waits again.
            self.any_back.notify_one();
            self.general_back.notify_one();
        }
    }

    /// Takes every lane that is free now, of both kinds: to open connections ahead of need.
    pub fn checkout_all_free(&self) -> Vec<Checkout<T>> {
        let mut state = self.state.lock();
        let general: Vec<T> = state.general.drain(..).collect();
        let priority: Vec<T> = state.priority.drain(..).collect();
        state.out += general.len() + priority.len();
        drop(state);
        let general = general.into_iter().map(|lane| Checkout {
            lane,
            priority: false,
        });
        general
            .chain(priority.into_iter().map(|lane| Checkout {
                lane,
                priority: true,
            }))
            .collect()
    }

    /// Closes the pool: free lanes are handed out to be dropped, later checkouts fail, lanes that are out are dropped when
    /// they come back. Waits until `deadline` for those; true when none is out any more.
    pub fn close(&self, deadline: Instant) -> (Vec<T>, bool) {
        let mut state = self.state.lock();
        state.closed = true;
        let mut lanes: Vec<T> = state.general.drain(..).collect();
        lanes.append(&mut state.priority);
        self.any_back.notify_all();
        self.general_back.notify_all();
        while state.out > 0 {
            let step = deadline.min(Instant::now() + Duration::from_millis(20));
            let timed_out = self.general_back.wait_until(&mut state, step).timed_out();
            if timed_out && Instant::now() >= deadline {
                break;
            }
        }
        (lanes, state.out == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    #[test]
    fn last_lane_back_goes_out_first() {
        let pool = Pool::new(vec![0, 1, 2], vec![9]);
        let first = pool.checkout(Load::Bulk, soon()).unwrap();
        let second = pool.checkout(Load::Bulk, soon()).unwrap();
        let lane = first.lane;
        pool.checkin(second);
        pool.checkin(first);
        assert_eq!(pool.checkout(Load::Small, soon()).unwrap().lane, lane);
    }

    #[test]
    fn small_call_gets_a_lane_while_bulk_holds_all_general_ones() {
        let pool = Pool::new(vec![0, 1], vec![9]);
        let _bulk = [
            pool.checkout(Load::Bulk, soon()).unwrap(),
            pool.checkout(Load::Bulk, soon()).unwrap(),
        ];
        assert_eq!(
            pool.checkout(Load::Bulk, soon()).unwrap_err(),
            CheckoutError::TimedOut
        );
        let small = pool.checkout(Load::Small, soon()).unwrap();
        assert_eq!(small.lane, 9);
        pool.checkin(small);
        assert_eq!(
            pool.checkout(Load::Bulk, soon()).unwrap_err(),
            CheckoutError::TimedOut
        );
        assert_eq!(pool.checkout(Load::Small, soon()).unwrap().lane, 9);
    }

    #[test]
    fn last_priority_lane_is_kept_for_what_is_certainly_small() {
        let pool = Pool::new(vec![0], vec![8, 9]);
        let _bulk = pool.checkout(Load::Bulk, soon()).unwrap();
        let _unknown = pool.checkout(Load::Unknown, soon()).unwrap();
        assert_eq!(
            pool.checkout(Load::Unknown, soon()).unwrap_err(),
            CheckoutError::TimedOut
        );
        assert!(pool.checkout(Load::Small, soon()).is_ok());
    }

    #[test]
    fn waiters_of_both_kinds_are_all_served() {
        let pool = Arc::new(Pool::new(vec![0, 1], vec![8, 9]));
        let deadline = Instant::now() + Duration::from_secs(30);
        std::thread::scope(|scope| {
            for n in 0..12 {
                let pool = Arc::clone(&pool);
                scope.spawn(move || {
                    for round in 0..200 {
                        let load = [Load::Bulk, Load::Small, Load::Unknown][(n + round) % 3];
                        let lane = pool
                            .checkout(load, deadline)
                            .expect("no waiter is forgotten");
                        std::thread::yield_now();
                        pool.checkin(lane);
                    }
                });
            }
        });
        assert_eq!(pool.checkout_all_free().len(), 4);
    }

    #[test]
    fn closing_refuses_new_calls_and_reports_lanes_still_out() {
        let pool = Pool::new(vec![0, 1], vec![9]);
        let out = pool.checkout(Load::Bulk, soon()).unwrap();
        let (lanes, all_back) = pool.close(soon());
        assert_eq!((lanes.len(), all_back), (2, false));
        assert_eq!(
            pool.checkout(Load::Small, soon()).unwrap_err(),
            CheckoutError::Closed
        );
        pool.checkin(out);
        assert!(pool.close(soon()).1);
    }
}
