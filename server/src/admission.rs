//! Who may start work, and with how many bytes: the one place where overload becomes waiting or `Busy`.
//!
//! Two budgets, both shared by every connection of the server:
//!
//! - **value bytes**: payload being received into leases and values pinned for replies. Below half of the capacity
//!   anybody may take what is free; above it, or while anybody waits, a connection is held to its fair share: the
//!   capacity divided by the connections that hold bytes or wait for them, and one more. So there is always room for who
//!   comes next, and what a closed connection held goes to many and not to the first that is woken.
//! - **control bytes**: request descriptions kept while a request is unfinished, claimed by the header's length before
//!   one byte of them is buffered.
//!
//! Reads are charged by the lookup: what is in RAM by its size, what a drive has yet to bring by the most that it may
//! turn out to be ([`Account::expect`]), which becomes its size when it is there ([`Account::settle`]). A connection may so
//! overdraw its share by one value (or by a few that were looked up together, where they are longer than a block), and
//! starts nothing more until it has paid back (a deficit, not a refusal). Who holds nothing waits for bytes of others with a bound: the caller parks itself with [`Admission::park`] and answers `Busy`
//! when its patience (about 50 ms) is over.
//!
//! A client that doesn't take its replies, or stops within a payload, keeps what it holds only as long as nobody else
//! needs it: each refusal that others are the reason of is noted, and [`Admission::was_pressed`] tells the sweeper to be
//! impatient with it.
//!
//! Nothing here knows a socket, a frame or an engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use memkv_telemetry::clock::{self, Tick};
use parking_lot::Mutex;

/// The budgets of one server, shared by all of its data threads.
#[derive(Debug)]
pub(crate) struct Admission {
    value_bytes_max: u64,
    value_bytes: AtomicU64,
    control_bytes_max: u64,
    control_bytes: AtomicU64,
    holders: AtomicU64,
    /// Connections that hold nothing and wait for value bytes.
    waiters: AtomicU64,
    /// When an op was last held up by what others hold, as a [`Tick`]; 0 is never.
    pressed_at: AtomicU64,
    has_parked: AtomicBool,
    /// Those that wait, by their connection's number.
    parked: Mutex<BTreeMap<u64, Waker>>,
}

/// Why a charge was not granted; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The server as a whole has no bytes left.
    Exhausted,
    /// There are bytes left, but this connection holds its fair share already.
    OverShare,
}

/// What a read that may not start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stall {
    /// The client taking values that this connection holds: its own progress.
    Own,
    /// Bytes that other connections hold; nobody waits long for that.
    Others,
}

/// Value bytes that an [`Account`] was charged: what [`Account::release`] takes, and nothing else makes one, so that
/// what is given back is what was taken, whatever was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "bytes that are never given back are lost until the connection ends"]
pub(crate) struct Charge(u64);

impl Charge {
    /// Both as one.
    pub(crate) fn join(&mut self, other: Charge) {
        self.0 += other.0;
    }
}

impl Admission {
    /// Budgets of `value_bytes_max` bytes of values and `control_bytes_max` bytes of request descriptions.
    pub(crate) fn new(value_bytes_max: u64, control_bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            value_bytes_max,
            value_bytes: AtomicU64::new(0),
            control_bytes_max,
            control_bytes: AtomicU64::new(0),
            holders: AtomicU64::new(0),
            waiters: AtomicU64::new(0),
            pressed_at: AtomicU64::new(0),
            has_parked: AtomicBool::new(false),
            parked: Mutex::default(),
        })
    }

    /// Value bytes in flight now.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.value_bytes.load(Ordering::Relaxed)
    }

    /// The most value bytes that may be in flight.
    pub(crate) fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// Request description bytes held now.
    pub(crate) fn control_bytes(&self) -> u64 {
        self.control_bytes.load(Ordering::Relaxed)
    }

    /// Notes that an op waits for value bytes that other connections hold.
    fn press(&self) {
        self.pressed_at.store(clock::now().0, Ordering::Relaxed);
    }

    /// Whether an op waited for value bytes of other connections within the last `within_ns` before `now`.
    pub(crate) fn was_pressed(&self, now: Tick, within_ns: u64) -> bool {
        let at = self.pressed_at.load(Ordering::Relaxed);
        at != 0 && now.0.saturating_sub(at) <= within_ns
    }

    /// Wakes `waker` when bytes were given back, the connection that was opened first before all others: a client that is
    /// thrown out for what it held, and comes back for more, comes last. Spurious wake-ups happen; the caller tries again
    /// and parks again.
    pub(crate) fn park(&self, connection: u64, waker: &Waker) {
        let mut parked = self.parked.lock();
        let known = parked.entry(connection).or_insert_with(|| waker.clone());
        known.clone_from(waker);
        self.has_parked.store(true, Ordering::SeqCst);
    }

    fn wake_parked(&self) {
        if self.has_parked.load(Ordering::SeqCst) {
            let wakers = {
                let mut parked = self.parked.lock();
                self.has_parked.store(false, Ordering::SeqCst);
                std::mem::take(&mut *parked)
            };
            for waker in wakers.into_values() {
                waker.wake();
            }
        }
    }

    /// The most that a connection that holds bytes may hold while `used` are taken.
    fn share(&self, used: u64) -> u64 {
        let waiters = self.waiters.load(Ordering::Relaxed);
        if used <= self.value_bytes_max / 2 && waiters == 0 {
            return self.value_bytes_max;
        }
        self.value_bytes_max / (self.holders.load(Ordering::Relaxed) + waiters + 1)
    }
}

/// What one connection holds of the budgets. Dropping it gives everything back.
#[derive(Debug)]
pub(crate) struct Account {
    shared: Arc<Admission>,
    value_bytes: u64,
    /// Those of `value_bytes` that drives have yet to bring.
    expected_bytes: u64,
    control_bytes: u64,
    waits: bool,
}

impl Account {
    pub(crate) fn new(shared: Arc<Admission>) -> Self {
        Self {
            shared,
            value_bytes: 0,
            expected_bytes: 0,
            control_bytes: 0,
            waits: false,
        }
    }

    /// Value bytes this connection holds.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.value_bytes
    }

    /// Takes `bytes` of value budget before work starts.
    ///
    /// A connection that holds nothing is granted up to the whole capacity whatever its share, so that a large value
    /// is never impossible, only late.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<Charge, Refused> {
        let max = self.shared.value_bytes_max;
        let bytes = bytes.min(max);
        let before = self.shared.value_bytes.fetch_add(bytes, Ordering::SeqCst);
        let after = before + bytes;
        let refusal = if after > max {
            Some(Refused::Exhausted)
        } else if self.value_bytes > 0 && self.value_bytes + bytes > self.shared.share(after) {
            Some(Refused::OverShare)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.shared.value_bytes.fetch_sub(bytes, Ordering::SeqCst);
            if refusal == Refused::Exhausted && before > self.value_bytes {
                self.shared.press();
                self.waits(true);
            }
            return Err(refusal);
        }
        Ok(self.hold(bytes))
    }

    /// Takes `bytes` for a value that was looked up; never refused, see [`Account::stall`].
    pub(crate) fn charge_after(&mut self, bytes: u64) -> Charge {
        self.shared.value_bytes.fetch_add(bytes, Ordering::SeqCst);
        self.hold(bytes)
    }

    /// Takes `bytes` for a value that a drive is bringing, the most that it may be; never refused, see
    /// [`Account::stall`]. Its end goes through [`Account::settle`] or [`Account::unmet`].
    pub(crate) fn expect(&mut self, bytes: u64) -> Charge {
        self.expected_bytes += bytes;
        self.charge_after(bytes)
    }

    /// A value is there, and is `bytes` long; `expected` is nothing if it was at once.
    pub(crate) fn settle(&mut self, mut expected: Charge, bytes: u64) -> Charge {
        self.expected_bytes -= expected.0;
        if bytes > expected.0 {
            expected.join(self.charge_after(bytes - expected.0));
            return expected;
        }
        self.release(Charge(expected.0 - bytes));
        Charge(bytes)
    }

    /// What was expected is not there, or nobody wants it any more.
    pub(crate) fn unmet(&mut self, expected: Charge) {
        self.expected_bytes -= expected.0;
        self.release(expected);
    }

    /// Why this connection may not start another read now; `None` if it may.
    pub(crate) fn stall(&mut self) -> Option<Stall> {
        self.room().err()
    }

    /// How many bytes reads that are started now may bring without ado; more is a deficit.
    pub(crate) fn room(&mut self) -> Result<u64, Stall> {
        let (used, max) = (self.shared.value_bytes(), self.shared.value_bytes_max);
        if self.value_bytes == 0 {
            let exhausted = used >= max;
            if exhausted {
                self.shared.press();
            }
            self.waits(exhausted);
            if exhausted {
                return Err(Stall::Others);
            }
        }
        let share = self.shared.share(used);
        if self.value_bytes > 0 && (used >= max || self.value_bytes >= share) {
            return Err(Stall::Own);
        }
        // Anybody may take what is free below half, but no more at once.
        let free = if share == max { max / 2 } else { max };
        let own = share.saturating_sub(self.value_bytes);
        Ok(own.min(free.saturating_sub(used)))
    }

    /// What it waited for was answered `Busy`: others need not leave room for it any more.
    pub(crate) fn gave_up(&mut self) {
        self.waits(false);
    }

    /// Notes whether it waits for bytes that others hold.
    fn waits(&mut self, waits: bool) {
        let waits = waits && self.value_bytes == 0;
        match (self.waits, waits) {
            (false, true) => self.shared.waiters.fetch_add(1, Ordering::SeqCst),
            (true, false) => self.shared.waiters.fetch_sub(1, Ordering::SeqCst),
            _ => return,
        };
        self.waits = waits;
    }

    /// Gives everything back, but for what drives are still bringing: that takes memory until it is there.
    pub(crate) fn clear(&mut self) {
        self.waits(false);
        self.release(Charge(self.value_bytes - self.expected_bytes));
        self.release_control(self.control_bytes);
    }

    /// Gives value budget back.
    ///
    /// # Panics
    /// If it is another account's, or was cleared: the ledger would be wrong for good.
    pub(crate) fn release(&mut self, charge: Charge) {
        let Charge(bytes) = charge;
        if bytes == 0 {
            return;
        }
        assert!(
            bytes <= self.value_bytes,
            "released {bytes} of {} value bytes",
            self.value_bytes
        );
        self.value_bytes -= bytes;
        if self.value_bytes == 0 {
            self.shared.holders.fetch_sub(1, Ordering::SeqCst);
        }
        self.shared.value_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.shared.wake_parked();
    }

    /// Takes `bytes` of control budget, before they are buffered.
    pub(crate) fn charge_control(&mut self, bytes: u64) -> Result<(), Refused> {
        let before = self.shared.control_bytes.fetch_add(bytes, Ordering::SeqCst);
        if before + bytes > self.shared.control_bytes_max {
            self.shared.control_bytes.fetch_sub(bytes, Ordering::SeqCst);
            return Err(Refused::Exhausted);
        }
        self.control_bytes += bytes;
        Ok(())
    }

    /// Gives `bytes` of control budget back.
    ///
    /// # Panics
    /// If more is given back than was charged.
    pub(crate) fn release_control(&mut self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        assert!(
            bytes <= self.control_bytes,
            "released {bytes} of {} bytes",
            self.control_bytes
        );
        self.control_bytes -= bytes;
        self.shared.control_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.shared.wake_parked();
    }

    fn hold(&mut self, bytes: u64) -> Charge {
        self.waits(false);
        if self.value_bytes == 0 && bytes > 0 {
            self.shared.holders.fetch_add(1, Ordering::SeqCst);
        }
        self.value_bytes += bytes;
        Charge(bytes)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.expected_bytes = 0;
        self.clear();
    }
}

#[cfg(test)]
mod tests;
