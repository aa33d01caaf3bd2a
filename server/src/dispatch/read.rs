//! Get and BatchRead: lookups, what waits for the drives, and what is put into which part of the reply.
//!
//! Hits in RAM answer at once and go first; values of up to [`COPIED_BYTES_MAX`] are copied into a part together with
//! others, so that their leases are given back at once, longer ones are sent as they lie. Entries that wait for a drive
//! follow as they come, each charged from its lookup on by the most that it may bring. A batch of 64 × 4 MiB so never
//! holds more than the connection's share and one value, in RAM or on its way from a drive: who has its share of value
//! bytes looks no further keys up until the client has taken some, or what came was shorter than it might have been.

use std::rc::Rc;

use memkv_engine::{Get, GetError, GetStep, IoTimes, ReadLease, Step, Token};
use memkv_proto::Flags;
use memkv_proto::blocks::ReplyBlocks;
use memkv_proto::limits::check_key;
use memkv_proto::op::{Attrs, Class, ErrorCode, Outcome, Segment};
use memkv_proto::request::KeyEntries;
use memkv_telemetry::clock::{self, Tick};
use memkv_telemetry::{Stage, Tier};

use super::request::{EntryOf, Request};
use super::{Connection, Purpose, State};
use crate::admission::{Charge, Stall};
use crate::status::{Failure, RETRY_AFTER_US};

/// Longest value that is copied into its reply. Below it a copy costs less than keeping a lease until the client has
/// taken it, and one frame carries many values.
const COPIED_BYTES_MAX: u64 = 16 << 10;

/// From here on a part is sent without waiting for more.
const PART_BYTES: usize = 256 << 10;

/// Keys per call of the engine: enough to hide memory latency.
const GROUP: usize = 32;

/// What one thread's reads reuse.
#[derive(Default)]
pub(crate) struct Scratch {
    steps: Vec<GetStep>,
}

/// What a read waits for.
#[derive(Debug)]
pub(crate) enum Awaited {
    /// The value of an entry, and what was charged for it.
    Entry(EntryOf, Charge),
    /// The next window of a value that is being sent.
    Window(EntryOf),
}

/// Keys of a request that were not looked up yet, because the connection holds its share of value bytes.
pub(crate) struct Waiting {
    bytes: Vec<u8>,
    lens: Vec<u16>,
    /// The entry of the first of them.
    first_idx: u32,
    /// Those that were looked up meanwhile, in keys and in bytes.
    done: (usize, usize),
    since: Tick,
}

/// What a client is told of a value, but for the stretch of it.
pub(crate) fn segment_of(entry_idx: u32, namespace: u32, lease: &ReadLease) -> Segment {
    let attrs = lease.attrs();
    let class = match attrs.class {
        memkv_engine::Class::Evictable => Class::Evictable,
        memkv_engine::Class::Durable => Class::Durable,
    };
    Segment {
        entry_idx,
        outcome: Outcome::Ok,
        attrs: Attrs {
            namespace,
            type_tag: attrs.type_tag,
            flags: attrs.flags,
            expiry_ms: attrs.expiry_ms,
            class,
        },
        version: lease.version(),
        value_len: lease.len(),
        crc: lease.crc(),
        offset: 0,
        chunk_len: 0,
    }
}

/// How many keys to look up after `group`: many while values are short, so that the engine can fetch ahead; one by one
/// when they are long.
fn next_group(group: usize, state: &State, key_of: usize) -> usize {
    let Some(request) = state.requests.get(key_of) else {
        return 1;
    };
    if request.bulky {
        1
    } else {
        (group * 8).min(GROUP)
    }
}

/// How many of a group have room, were each a whole block; one at least. A connection so overdraws its share by one value
/// only, and by more only where several of a group are longer than a block.
fn that_fit(group: usize, room: u64, block_bytes: u64) -> usize {
    usize::try_from(room / block_bytes).map_or(group, |fit| group.min(fit.max(1)))
}

fn tier_of(lease: &ReadLease) -> Tier {
    match lease.tier() {
        memkv_engine::Tier::Ram => Tier::Ram,
        memkv_engine::Tier::Drive => Tier::Drive,
    }
}

impl Connection {
    pub(crate) fn begin_read(self: &Rc<Self>, mut request: Request, keys: &KeyEntries<'_>) {
        let started = clock::now();
        if let Some(code) = request.expired(started) {
            self.refuse(request, Failure::plain(code), "");
            return;
        }
        request.unresolved = keys.len() as u32;
        request.namespace = keys.namespace();
        request.timeline.key_hash = keys
            .iter()
            .next()
            .map(|key| self.thread.shared.key_hash(key));
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let key_of = state.requests.insert(request);
        let mut keys = keys.iter();
        let (mut entry_idx, mut group) = (0, 1);
        let block_bytes = self.thread.engine.block_bytes();
        while keys.len() > 0 {
            let room = match state.account.room() {
                Ok(room) if state.stalled.is_empty() => room,
                _ => {
                    self.wait(state, key_of, entry_idx, keys, started);
                    break;
                }
            };
            let next = keys.by_ref().take(that_fit(group, room, block_bytes));
            entry_idx += self.look_up(state, key_of, entry_idx, next);
            group = next_group(group, state, key_of);
        }
        if let Some(request) = state.requests.get_mut(key_of) {
            request.timeline.stamp(Stage::Index, started, clock::now());
        }
        self.flush(state, key_of);
    }

    /// Looks up to [`GROUP`] keys up; returns how many.
    fn look_up<'k>(
        self: &Rc<Self>,
        state: &mut State,
        key_of: usize,
        first_idx: u32,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> u32 {
        let namespace = state.requests[key_of].namespace;
        let none = Get {
            token: Token(0),
            namespace,
            key: &[],
        };
        let (mut gets, mut entries) = ([none; GROUP], [0; GROUP]);
        let (mut len, mut seen) = (0, 0);
        for key in keys {
            let entry_idx = first_idx + seen;
            seen += 1;
            let entry = EntryOf {
                request: key_of,
                entry_idx,
            };
            if let Err(code) = check_key(key) {
                self.without_value(state, entry, Outcome::Error(code));
                continue;
            }
            let purpose = Purpose::Read(self.clone(), Awaited::Entry(entry, Charge::default()));
            let token = self.thread.pending.borrow_mut().open(purpose);
            gets[len] = Get {
                token,
                namespace,
                key,
            };
            entries[len] = entry_idx;
            len += 1;
        }
        let mut steps = std::mem::take(&mut self.thread.scratch.borrow_mut().steps);
        let engine = &self.thread.engine;
        if let [get] = &gets[..len] {
            steps.push(engine.get(&self.thread.queue, get.token, namespace, get.key));
        } else {
            engine.get_many(&self.thread.queue, &gets[..len], &mut steps);
        }
        for (at, step) in steps.drain(..).enumerate() {
            let entry = EntryOf {
                request: key_of,
                entry_idx: entries[at],
            };
            let result = match step {
                Ok(Step::Pending) => {
                    self.expect(state, &gets[at]);
                    continue;
                }
                Ok(Step::Ready(found)) => Ok(found),
                Err(error) => Err(error),
            };
            self.thread.pending.borrow_mut().close(gets[at].token);
            self.found(state, entry, Charge::default(), result);
        }
        self.thread.scratch.borrow_mut().steps = steps;
        seen
    }

    /// Charges what a drive is bringing.
    fn expect(&self, state: &mut State, get: &Get<'_>) {
        let bytes = self.thread.engine.get_bytes_max(get.namespace, get.key);
        let mut pending = self.thread.pending.borrow_mut();
        if let Some(Purpose::Read(_, Awaited::Entry(_, charged))) = pending.get_mut(get.token) {
            *charged = state.account.expect(bytes);
        }
    }

    /// One lookup ended; `expected` is what was charged for it.
    fn found(
        &self,
        state: &mut State,
        entry: EntryOf,
        expected: Charge,
        result: Result<Option<ReadLease>, GetError>,
    ) {
        let Some(request) = state.requests.get_mut(entry.request) else {
            return state.account.unmet(expected);
        };
        let lease = match result {
            Ok(Some(lease)) if !request.cancelled => lease,
            Ok(Some(_)) => {
                state.account.unmet(expected);
                return self.without_value(state, entry, Outcome::Error(ErrorCode::Cancelled));
            }
            Ok(None) => {
                state.account.unmet(expected);
                return self.without_value(state, entry, Outcome::Miss);
            }
            Err(error) => {
                state.account.unmet(expected);
                let timeline = Some(&request.timeline);
                let shared = &self.thread.shared;
                let failure = shared.log_failure((&error).into(), &error, timeline);
                let outcome = request.failed(failure);
                return self.without_value(state, entry, outcome);
            }
        };
        request.count(&self.thread.shared, Outcome::Ok, tier_of(&lease));
        request.unresolved -= 1;
        let len = lease.len();
        if len > COPIED_BYTES_MAX {
            let window = lease.window();
            let charged = state.account.settle(expected, window.end - window.start);
            state.push_bulk(entry, lease, charged);
            return;
        }
        let segment = Segment {
            chunk_len: len as u32,
            ..segment_of(entry.entry_idx, request.namespace, &lease)
        };
        request.segments.push(segment);
        if request.payload.capacity() == 0 {
            request.payload = self.thread.buffers.take(len as usize);
        }
        for piece in lease.pieces() {
            request.payload.extend_from_slice(piece);
        }
        let full = request.payload.len() >= PART_BYTES;
        request
            .payload_charged
            .join(state.account.settle(expected, len));
        if full {
            self.flush(state, entry.request);
        }
    }

    /// Notes an entry that has no value to show.
    fn without_value(&self, state: &mut State, entry: EntryOf, outcome: Outcome) {
        let Some(request) = state.requests.get_mut(entry.request) else {
            return;
        };
        request.count(&self.thread.shared, outcome, Tier::None);
        request.unresolved -= 1;
        request
            .segments
            .push(Segment::without_value(entry.entry_idx, outcome));
    }

    /// Sends what was gathered as one part of the reply.
    pub(crate) fn flush(&self, state: &mut State, key: usize) {
        let Some(request) = state.requests.get_mut(key) else {
            return;
        };
        if request.segments.is_empty() {
            return;
        }
        // Parts overtake values that are sent slice by slice, and never each other.
        let is_last = request.unresolved == 0 && request.open_values == 0;
        let segments = std::mem::take(&mut request.segments);
        let payload = std::mem::take(&mut request.payload);
        let charged = std::mem::take(&mut request.payload_charged);
        request.replied.get_or_insert_with(clock::now);
        let blocks = if is_last {
            self.blocks(&state.requests[key])
        } else {
            ReplyBlocks::default()
        };
        let request = &mut state.requests[key];
        let mut control = self.thread.buffers.take(0);
        let (op, retry) = (request.op, request.retry_after_us);
        match memkv_proto::reply::encode_values(&mut control, op, &blocks, retry, &segments) {
            Ok(head) => {
                let head = if is_last {
                    head
                } else {
                    head.with_flags(Flags::MORE)
                };
                state.push_small(key, head, control, payload, charged);
            }
            Err(error) => {
                // A batch has at most as many entries as a reply.
                tracing::error!(%error, "a reply can't be encoded");
                self.end(super::End::Broken);
            }
        }
    }

    /// A pending lookup, or the next window of a value, is there.
    pub(crate) fn got(
        self: &Rc<Self>,
        awaited: Awaited,
        result: Result<Option<ReadLease>, GetError>,
        io: &IoTimes,
    ) {
        let entry = match &awaited {
            Awaited::Entry(entry, _) | Awaited::Window(entry) => entry,
        };
        if let Some(request) = self.state.borrow_mut().requests.get_mut(entry.request) {
            request.stamp_io(io);
        }
        match awaited {
            Awaited::Window(entry) => self.windowed(entry, result),
            Awaited::Entry(entry, expected) => {
                let mut state = self.state.borrow_mut();
                let state = &mut *state;
                if state.closed {
                    // Its memory first: nobody may think that it is free before it is.
                    drop(result);
                    return state.account.unmet(expected);
                }
                self.found(state, entry, expected, result);
                if state
                    .requests
                    .get(entry.request)
                    .is_some_and(|r| r.unresolved == 0)
                {
                    self.flush(state, entry.request);
                }
            }
        }
    }

    /// Keeps keys that can't be looked up yet.
    fn wait<'k>(
        &self,
        state: &mut State,
        key_of: usize,
        first_idx: u32,
        keys: impl Iterator<Item = &'k [u8]>,
        since: Tick,
    ) {
        let (mut bytes, mut lens) = (self.thread.buffers.take(0), Vec::new());
        for key in keys {
            bytes.extend_from_slice(key);
            lens.push(key.len() as u16);
        }
        let waiting = Waiting {
            bytes,
            lens,
            first_idx,
            done: (0, 0),
            since,
        };
        state.requests[key_of].waiting = Some(waiting);
        state.stalled.push_back(key_of);
        // The next poll watches the time.
        self.wake();
    }

    /// Looks up keys that waited, as far as the connection's share goes.
    pub(crate) fn resume_reads(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        while let Some(&key_of) = state.stalled.front() {
            let now = clock::now();
            let Some(request) = state.requests.get_mut(key_of) else {
                state.stalled.pop_front();
                continue;
            };
            if let Some(code) = request.expired(now) {
                state.stalled.pop_front();
                self.give_up(state, key_of, Failure::plain(code));
                continue;
            }
            match state.account.stall() {
                None => state.stalled_until = None,
                Some(Stall::Own) => {
                    state.stalled_until = None;
                    return;
                }
                Some(Stall::Others) => {
                    let patience = self.thread.shared.limits().admission_wait;
                    let until = *state
                        .stalled_until
                        .get_or_insert_with(|| now.after(patience));
                    if now < until {
                        return;
                    }
                    state.stalled_until = None;
                    state.stalled.pop_front();
                    self.give_up(state, key_of, Failure::busy(RETRY_AFTER_US));
                    continue;
                }
            }
            let Some(mut waiting) = request.waiting.take() else {
                state.stalled.pop_front();
                continue;
            };
            request.timeline.stamp(Stage::Admit, waiting.since, now);
            let (done, start) = waiting.done;
            let lens = &waiting.lens[done..=done];
            let mut at = start;
            let keys = lens.iter().map(|len| {
                let key = &waiting.bytes[at..at + usize::from(*len)];
                at += usize::from(*len);
                key
            });
            let seen = self.look_up(state, key_of, waiting.first_idx + done as u32, keys);
            waiting.done = (done + seen as usize, at);
            let after = clock::now();
            waiting.since = after;
            let request = &mut state.requests[key_of];
            request.timeline.stamp(Stage::Index, now, after);
            if waiting.done.0 < waiting.lens.len() {
                request.waiting = Some(waiting);
            } else {
                self.thread.buffers.give(waiting.bytes);
                state.stalled.pop_front();
            }
            self.flush(state, key_of);
        }
        state.stalled_until = None;
    }

    /// When reads that wait for bytes held by others are answered `Busy`; nothing waits so if `None`.
    pub(crate) fn stalled_until(&self) -> Option<Tick> {
        self.state.borrow().stalled_until
    }

    /// Answers the entries of `key_of` that still wait with `failure`.
    fn give_up(&self, state: &mut State, key_of: usize, failure: Failure) {
        let Some(request) = state.requests.get_mut(key_of) else {
            return;
        };
        let Some(waiting) = request.waiting.take() else {
            return;
        };
        request
            .timeline
            .stamp(Stage::Admit, waiting.since, clock::now());
        state.account.gave_up();
        let outcome = request.failed(failure);
        let first = waiting.first_idx + waiting.done.0 as u32;
        for entry_idx in first..waiting.first_idx + waiting.lens.len() as u32 {
            self.without_value(
                state,
                EntryOf {
                    request: key_of,
                    entry_idx,
                },
                outcome,
            );
        }
        self.thread.buffers.give(waiting.bytes);
        self.flush(state, key_of);
    }

    /// Answers what a cancelled request has not started.
    pub(crate) fn cancel_waiting(&self, state: &mut State, key_of: usize) {
        state.stalled.retain(|key| *key != key_of);
        self.give_up(state, key_of, Failure::plain(ErrorCode::Cancelled));
    }
}
