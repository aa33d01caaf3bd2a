//! The payload of one write: where its bytes go, what is waited for before them, what becomes of each entry.
//!
//! Whatever is waited for here (a share of the value bytes, memory, a window's write) has a limit: beyond it the entry is
//! answered `Busy`, and its bytes are skipped.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use memkv_engine::{
    Completion, CompletionResult, Condition, Put, PutError, Step, Token, WriteLease,
};
use memkv_proto::checksum::Crc32c;
use memkv_proto::op::{self, ErrorCode};
use memkv_telemetry::clock::{self, Tick};
use memkv_telemetry::{Stage, Tier};

use super::{Committing, Plan, engine_attrs};
use crate::admission::Charge;
use crate::dispatch::request::EntryOf;
use crate::dispatch::{Connection, Purpose};
use crate::status::{Failure, RETRY_AFTER_US};

/// Bytes per second that a drive writes at least: a window that takes longer is given up.
const WRITTEN_PER_S_MIN: u64 = 16 << 20;

/// Takes the payload of one write.
pub(crate) struct Intake {
    connection: Rc<Connection>,
    request: usize,
    keys: Vec<u8>,
    plans: Vec<Plan>,
    next: usize,
    current: Current,
    /// Payload MAC: entries that are whole and wait for it.
    deferred: Option<Vec<(Committing, WriteLease, u32)>>,
    /// Since when the time for bytes from the client runs, and how much of it went for memory and drives.
    transfer_since: Tick,
    waited_ns: u64,
}

/// What the next bytes of the payload are for.
enum Current {
    /// The entry at `next` has not begun.
    Between,
    /// They go into `lease`, of which `at` bytes are filled.
    Filling {
        lease: WriteLease,
        at: u64,
        digest: Crc32c,
        committing: Committing,
    },
    /// They are forgotten, `left` of them.
    Skipping { left: u64 },
}

/// Where a front puts the next bytes of a payload.
pub(crate) enum Slot<'a> {
    /// Into this memory, from its start; then [`Intake::filled`].
    Fill(&'a mut [u8]),
    /// Nowhere, up to this many; then [`Intake::skipped`].
    Skip(u64),
}

impl Intake {
    pub(super) fn new(
        connection: &Rc<Connection>,
        request: usize,
        keys: Vec<u8>,
        plans: Vec<Plan>,
        payload_mac: bool,
        now: Tick,
    ) -> Self {
        Self {
            connection: connection.clone(),
            request,
            keys,
            plans,
            next: 0,
            current: Current::Between,
            deferred: payload_mac.then(Vec::new),
            transfer_since: now,
            waited_ns: 0,
        }
    }

    /// Where the next bytes go; `None` when the payload is complete. Waits for memory, at most as long as admission
    /// may take.
    pub(crate) async fn next(&mut self) -> Option<Slot<'_>> {
        loop {
            match &self.current {
                Current::Between => {
                    if self.next == self.plans.len() {
                        return None;
                    }
                    self.begin_entry().await;
                }
                Current::Skipping { left: 0 } => self.current = Current::Between,
                Current::Filling { lease, at, .. } => {
                    if *at == lease.len() {
                        self.end_entry();
                    } else if *at == lease.window().end {
                        self.advance().await;
                    } else {
                        break;
                    }
                }
                Current::Skipping { .. } => break,
            }
        }
        match &mut self.current {
            Current::Filling { lease, at, .. } => Some(Slot::Fill(lease.piece_at(*at))),
            Current::Skipping { left } => Some(Slot::Skip(*left)),
            Current::Between => None,
        }
    }

    /// `count` bytes were put into the slot that [`Intake::next`] gave.
    pub(crate) fn filled(&mut self, count: usize) {
        let Current::Filling {
            lease, at, digest, ..
        } = &mut self.current
        else {
            unreachable!("only a slot that was given is filled")
        };
        // Right after they arrived, while they are in the cache.
        digest.update(&lease.piece_at(*at)[..count]);
        *at += count as u64;
    }

    /// `count` bytes were read and forgotten.
    pub(crate) fn skipped(&mut self, count: u64) {
        if let Current::Skipping { left } = &mut self.current {
            *left -= count;
        }
    }

    /// The bytes that the last `count` filled, for a payload MAC.
    pub(crate) fn last_filled(&mut self, count: usize) -> &[u8] {
        match &mut self.current {
            Current::Filling { lease, at, .. } => &lease.piece_at(*at)[..count],
            _ => &[],
        }
    }

    /// The payload is complete and, where it has one, its MAC was checked.
    pub(crate) fn finish(mut self) {
        self.stamp_transfer();
        for (committing, lease, crc) in self.deferred.take().into_iter().flatten() {
            self.connection.commit(committing, lease, crc);
        }
        self.connection
            .thread
            .buffers
            .give(std::mem::take(&mut self.keys));
    }

    async fn begin_entry(&mut self) {
        let at = self.next;
        self.next += 1;
        let (len, refusal) = (self.plans[at].len, self.plans[at].refusal);
        let entry = EntryOf {
            request: self.request,
            entry_idx: at as u32,
        };
        let started = clock::now();
        if let Some(code) = refusal.or_else(|| self.expired(started)) {
            return self.skip(entry, Failure::plain(code), len);
        }
        let patience = self.connection.thread.shared.limits().admission_wait;
        let until = started.after(patience);
        let held = self.connection.thread.shared.bytes_held(len);
        let Some(charged) = self.admit(held, until).await else {
            return self.skip(entry, Failure::busy(RETRY_AFTER_US), len);
        };
        let admitted = clock::now();
        self.stamp(Stage::Admit, started, admitted);
        match self.reserve(at, until).await {
            Ok(lease) => {
                let leased = clock::now();
                self.stamp(Stage::Lease, admitted, leased);
                self.waited_ns += leased.since(started);
                let digest = Crc32c::new();
                self.current = Current::Filling {
                    lease,
                    at: 0,
                    digest,
                    committing: Committing { entry, charged },
                };
            }
            Err(failure) => {
                self.waited_ns += clock::now().since(started);
                self.release(charged);
                self.skip(entry, failure, len);
            }
        }
    }

    fn expired(&self, now: Tick) -> Option<ErrorCode> {
        let state = self.connection.state.borrow();
        state
            .requests
            .get(self.request)
            .and_then(|request| request.expired(now))
    }

    /// Takes `bytes` of the connection's share, waiting until `until` for them.
    async fn admit(&self, bytes: u64, until: Tick) -> Option<Charge> {
        let charge = || {
            self.connection
                .state
                .borrow_mut()
                .account
                .charge(bytes)
                .ok()
        };
        if let Some(charged) = charge() {
            return Some(charged);
        }
        let mut patience = std::pin::pin!(sleep_until(until));
        poll_fn(|cx| {
            // Parked before it tries, so that what is given back in between isn't missed.
            let admission = self.connection.thread.shared.admission();
            admission.park(self.connection.number, cx.waker());
            if let Some(charged) = charge() {
                return Poll::Ready(Some(charged));
            }
            patience.as_mut().poll(cx).map(|()| {
                self.connection.state.borrow_mut().account.gave_up();
                None
            })
        })
        .await
    }

    /// Memory for the entry at `at`.
    async fn reserve(&self, at: usize, until: Tick) -> Result<WriteLease, Failure> {
        let plan = &self.plans[at];
        let put = Put {
            namespace: plan.attrs.namespace,
            key: &self.keys[plan.key.0..plan.key.1],
            len: plan.len,
            attrs: engine_attrs(&plan.attrs),
            condition: match plan.condition {
                op::Condition::None => Condition::None,
                op::Condition::IfAbsent => Condition::IfAbsent,
                op::Condition::IfVersion(version) => Condition::IfVersion(version),
            },
        };
        let thread = &self.connection.thread;
        let token = self.open();
        let step = thread.engine.reserve(&thread.queue, token, &put);
        self.lease(token, step, until).await
    }

    /// A token whose completion the reader waits for.
    fn open(&self) -> Token {
        let purpose = Purpose::Intake(self.connection.clone());
        self.connection.thread.pending.borrow_mut().open(purpose)
    }

    /// Waits for memory that was asked for under `token`.
    async fn lease(
        &self,
        token: Token,
        step: Result<Step<WriteLease>, PutError>,
        until: Tick,
    ) -> Result<WriteLease, Failure> {
        let thread = &self.connection.thread;
        let result = match step {
            Ok(Step::Ready(lease)) => {
                thread.pending.borrow_mut().close(token);
                return Ok(lease);
            }
            Err(error) => {
                thread.pending.borrow_mut().close(token);
                Err(error)
            }
            Ok(Step::Pending) => {
                let Some(completion) = self.completion(until).await else {
                    // What comes too late is dropped, which gives the memory back.
                    if let Some(purpose) = thread.pending.borrow_mut().get_mut(token) {
                        *purpose = Purpose::Abandoned;
                    }
                    return Err(Failure::busy(RETRY_AFTER_US));
                };
                // A first lease is measured by who asked for it. A later one waits for its window's write as well.
                if matches!(completion.result, CompletionResult::Advanced(_))
                    && let Some(request) = self
                        .connection
                        .state
                        .borrow_mut()
                        .requests
                        .get_mut(self.request)
                {
                    request.windowed = true;
                    request.stamp_io(&completion.io);
                }
                match completion.result {
                    CompletionResult::Reserved(result) | CompletionResult::Advanced(result) => {
                        result
                    }
                    _ => return Err(Failure::plain(ErrorCode::Internal)),
                }
            }
        };
        result.map_err(|error| {
            let state = self.connection.state.borrow();
            let timeline = state
                .requests
                .get(self.request)
                .map(|request| &request.timeline);
            let failure = (&error).into();
            thread.shared.log_failure(failure, &error, timeline)
        })
    }

    /// The completion that the reader waits for; `None` once `until` has passed.
    async fn completion(&self, until: Tick) -> Option<Completion> {
        let take = || self.connection.state.borrow_mut().intake.take();
        let mut patience = std::pin::pin!(sleep_until(until));
        poll_fn(|cx| {
            if let Some(completion) = take() {
                return Poll::Ready(Some(completion));
            }
            patience.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// A window is full: has it written out and takes the next.
    async fn advance(&mut self) {
        let current = std::mem::replace(&mut self.current, Current::Between);
        let Current::Filling {
            lease,
            at,
            digest,
            committing,
        } = current
        else {
            return;
        };
        let len = lease.len();
        let window = lease.window();
        let started = clock::now();
        let token = self.open();
        let step = lease.advance(&self.connection.thread.queue, token);
        let admission_wait = self.connection.thread.shared.limits().admission_wait;
        let until = started.after(window_patience(admission_wait, window.end - window.start));
        let leased = self.lease(token, step, until).await;
        self.waited_ns += clock::now().since(started);
        match leased {
            Ok(lease) => {
                self.current = Current::Filling {
                    lease,
                    at,
                    digest,
                    committing,
                };
            }
            Err(failure) => {
                self.release(committing.charged);
                self.skip(committing.entry, failure, len - at);
            }
        }
    }

    /// All bytes of an entry are there: checks them and commits, or waits for the payload's MAC.
    fn end_entry(&mut self) {
        let current = std::mem::replace(&mut self.current, Current::Between);
        let Current::Filling {
            lease,
            digest,
            committing,
            ..
        } = current
        else {
            return;
        };
        // Before the reply is written, which tells it.
        self.stamp_transfer();
        let crc = self.plans[committing.entry.entry_idx as usize].crc;
        if digest.finish() != crc {
            drop(lease);
            self.release(committing.charged);
            self.connection.thread.shared.crc_mismatch();
            return self.skip(committing.entry, Failure::plain(ErrorCode::CrcMismatch), 0);
        }
        match &mut self.deferred {
            Some(deferred) => deferred.push((committing, lease, crc)),
            None => self.connection.commit(committing, lease, crc),
        }
    }

    /// The entry failed; its `left` bytes are skipped.
    fn skip(&mut self, entry: EntryOf, failure: Failure, left: u64) {
        let outcome = {
            let mut state = self.connection.state.borrow_mut();
            let Some(request) = state.requests.get_mut(entry.request) else {
                return;
            };
            request.failed(failure)
        };
        self.current = Current::Skipping { left };
        self.connection.resolve(entry, outcome, 0, Tier::None);
    }

    fn release(&self, charged: Charge) {
        self.connection.state.borrow_mut().account.release(charged);
    }

    /// Counts what went for bytes from the client since it was last called.
    fn stamp_transfer(&mut self) {
        let now = clock::now();
        let spent = now
            .since(self.transfer_since)
            .saturating_sub(self.waited_ns);
        let from = Tick(now.0 - spent);
        self.stamp(Stage::Transfer, from, now);
        self.transfer_since = now;
        self.waited_ns = 0;
    }

    fn stamp(&self, stage: Stage, from: Tick, to: Tick) {
        if let Some(request) = self
            .connection
            .state
            .borrow_mut()
            .requests
            .get_mut(self.request)
        {
            request.timeline.stamp(stage, from, to);
        }
    }
}

impl Drop for Intake {
    /// A payload that broke off: what it held is given back, nothing of it is published.
    fn drop(&mut self) {
        let mut state = self.connection.state.borrow_mut();
        if state.closed {
            return;
        }
        let current = std::mem::replace(&mut self.current, Current::Between);
        if let Current::Filling { committing, .. } = current {
            state.account.release(committing.charged);
        }
        for (committing, ..) in self.deferred.take().into_iter().flatten() {
            state.account.release(committing.charged);
        }
    }
}

/// How long it may take until a full window of `bytes` is written out and the next is there: what the first was waited
/// for, and the time that the slowest drive worth having takes to write.
fn window_patience(admission_wait: Duration, bytes: u64) -> Duration {
    let ms = u128::from(bytes) * 1000 / u128::from(WRITTEN_PER_S_MIN);
    admission_wait + Duration::from_millis(ms.try_into().unwrap_or(u64::MAX))
}

/// Ends when `until` has come.
pub(crate) fn sleep_until(until: Tick) -> tokio::time::Sleep {
    tokio::time::sleep(Duration::from_nanos(until.since(clock::now())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_given_the_time_of_a_slow_drive_beyond_the_wait_for_memory() {
        let admission_wait = Duration::from_millis(50);
        for (bytes, writing_ms) in [
            (0, 0),
            (64 << 10, 3),
            (WRITTEN_PER_S_MIN, 1_000),
            (256 << 20, 16_000),
            (u64::MAX, 1_099_511_627_775_999),
        ] {
            let expected = admission_wait + Duration::from_millis(writing_ms);
            assert_eq!(window_patience(admission_wait, bytes), expected, "{bytes}");
        }
        assert!(window_patience(Duration::ZERO, 1 << 30) > Duration::from_secs(60));
    }
}
