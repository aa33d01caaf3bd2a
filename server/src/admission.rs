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
//! Reads are charged after the lookup, when their size is known: a connection may so overdraw its share by one value,
//! and starts nothing more until it has paid back (a deficit, not a refusal). Nobody waits here without a bound: the
//! caller parks itself with [`Admission::park`] and answers `Busy` when its patience (about 50 ms) is over.
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
    control_bytes: u64,
    waits: bool,
}

impl Account {
    pub(crate) fn new(shared: Arc<Admission>) -> Self {
        Self {
            shared,
            value_bytes: 0,
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

    /// Takes `bytes` for a value whose size was learnt by looking it up; never refused, see [`Account::stall`].
    pub(crate) fn charge_after(&mut self, bytes: u64) -> Charge {
        self.shared.value_bytes.fetch_add(bytes, Ordering::SeqCst);
        self.hold(bytes)
    }

    /// Why this connection may not start another read now; `None` if it may.
    pub(crate) fn stall(&mut self) -> Option<Stall> {
        let (used, max) = (self.shared.value_bytes(), self.shared.value_bytes_max);
        if self.value_bytes == 0 {
            let exhausted = used >= max;
            if exhausted {
                self.shared.press();
            }
            self.waits(exhausted);
            return exhausted.then_some(Stall::Others);
        }
        let is_over = used >= max || self.value_bytes >= self.shared.share(used);
        is_over.then_some(Stall::Own)
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

    /// Gives everything back.
    pub(crate) fn clear(&mut self) {
        self.waits(false);
        self.release(Charge(self.value_bytes));
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
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn one_connection_alone_leaves_room_for_another() {
        let shared = Admission::new(64 * MIB, MIB);
        let mut only = Account::new(shared.clone());
        for _ in 0..32 {
            let _ = only.charge(MIB).unwrap();
        }
        assert_eq!(only.charge(1), Err(Refused::OverShare));
        let mut next = Account::new(shared.clone());
        let _ = next.charge(32 * MIB).unwrap();
        assert_eq!(
            Account::new(shared.clone()).charge(1),
            Err(Refused::Exhausted)
        );
        drop((only, next));
        assert_eq!(shared.value_bytes(), 0);
    }

    #[test]
    fn a_greedy_connection_is_held_to_its_share_once_others_hold_bytes() {
        let shared = Admission::new(60 * MIB, MIB);
        let (mut greedy, mut modest) = (Account::new(shared.clone()), Account::new(shared.clone()));
        let first = greedy.charge(11 * MIB).unwrap();
        for _ in 11..30 {
            let _ = greedy.charge(MIB).unwrap();
        }
        let _ = modest.charge(MIB).unwrap();
        assert_eq!(greedy.charge(MIB), Err(Refused::OverShare));
        greedy.release(first);
        let _ = modest.charge(19 * MIB).unwrap();
        let _ = greedy.charge(MIB).unwrap();
        assert_eq!(greedy.charge(1), Err(Refused::OverShare));
        assert_eq!(modest.charge(1), Err(Refused::OverShare));
    }

    #[test]
    fn a_value_above_the_whole_capacity_is_charged_as_the_capacity_and_gives_back_as_much() {
        let shared = Admission::new(4 * MIB, MIB);
        let mut account = Account::new(shared.clone());
        let charge = account.charge(256 * MIB).unwrap();
        assert_eq!(account.value_bytes(), 4 * MIB);
        account.release(charge);
        assert_eq!((account.value_bytes(), shared.value_bytes()), (0, 0));
        let mut two = account.charge(MIB).unwrap();
        two.join(account.charge_after(256 * MIB));
        assert_eq!(shared.value_bytes(), 257 * MIB);
        account.release(two);
        assert_eq!((account.value_bytes(), shared.value_bytes()), (0, 0));
    }

    #[test]
    fn reads_overdraw_once_and_then_wait_for_the_debt() {
        let shared = Admission::new(8 * MIB, MIB);
        let mut reader = Account::new(shared.clone());
        assert_eq!(reader.stall(), None);
        let paid = reader.charge_after(12 * MIB);
        let _ = reader.charge_after(4 * MIB);
        assert_eq!(reader.stall(), Some(Stall::Own));
        assert_eq!(Account::new(shared).stall(), Some(Stall::Others));
        reader.release(paid);
        assert_eq!(reader.stall(), None);
    }

    #[test]
    fn what_comes_free_is_shared_by_those_that_wait_and_not_taken_by_the_first() {
        let shared = Admission::new(32 * MIB, MIB);
        let mut gone = Account::new(shared.clone());
        let _ = gone.charge(32 * MIB).unwrap();
        let mut waiting: Vec<_> = (0..7).map(|_| Account::new(shared.clone())).collect();
        for account in &mut waiting {
            assert_eq!(account.stall(), Some(Stall::Others));
        }
        drop(gone);
        // Seven that wait and one more: a share of 4 MiB each, whatever is free.
        let first = &mut waiting[0];
        let _ = first.charge(3 * MIB).unwrap();
        assert_eq!(first.stall(), None);
        let _ = first.charge_after(MIB);
        assert_eq!(first.stall(), Some(Stall::Own));
        assert_eq!(first.charge(MIB), Err(Refused::OverShare));
        // Those that give up, or end, leave theirs to the others.
        waiting[1..4].iter_mut().for_each(Account::gave_up);
        waiting.truncate(4);
        assert_eq!(waiting[0].stall(), None);
        assert_eq!(shared.waiters.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn control_bytes_are_bounded_over_all_connections() {
        let shared = Admission::new(MIB, 100);
        let (mut one, mut two) = (Account::new(shared.clone()), Account::new(shared.clone()));
        one.charge_control(80).unwrap();
        assert_eq!(two.charge_control(30), Err(Refused::Exhausted));
        one.release_control(80);
        two.charge_control(30).unwrap();
        assert_eq!(shared.control_bytes(), 30);
    }

    #[test]
    fn giving_bytes_back_wakes_whoever_is_parked() {
        use std::sync::atomic::AtomicU32;
        use std::task::Wake;
        struct Count(AtomicU32);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let shared = Admission::new(MIB, MIB);
        let mut account = Account::new(shared.clone());
        let charge = account.charge(MIB).unwrap();
        let count = Arc::new(Count(AtomicU32::new(0)));
        shared.park(1, &Waker::from(count.clone()));
        account.release(charge);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn whose_connection_was_opened_first_is_woken_first() {
        use std::task::Wake;
        struct Note(u64, Arc<Mutex<Vec<u64>>>);
        impl Wake for Note {
            fn wake(self: Arc<Self>) {
                self.1.lock().push(self.0);
            }
        }
        let shared = Admission::new(MIB, MIB);
        let mut account = Account::new(shared.clone());
        let charge = account.charge(MIB).unwrap();
        let woken = Arc::new(Mutex::new(Vec::new()));
        for number in [7, 3, 9, 3, 1] {
            let note = Arc::new(Note(number, woken.clone()));
            shared.park(number, &Waker::from(note));
        }
        account.release(charge);
        assert_eq!(*woken.lock(), [1, 3, 7, 9]);
    }

    #[test]
    fn pressure_is_what_others_cause_and_passes() {
        let second = 1_000_000_000;
        let shared = Admission::new(8 * MIB, MIB);
        let mut alone = Account::new(shared.clone());
        let _ = alone.charge(4 * MIB).unwrap();
        assert_eq!(alone.charge(4 * MIB), Err(Refused::OverShare));
        assert!(
            !shared.was_pressed(clock::now(), second),
            "it holds itself up"
        );
        let _ = alone.charge_after(4 * MIB);
        assert_eq!(
            Account::new(shared.clone()).charge(MIB),
            Err(Refused::Exhausted)
        );
        let now = clock::now();
        assert!(shared.was_pressed(now, second));
        assert!(!shared.was_pressed(Tick(now.0 + 2 * second), second));
    }
}
