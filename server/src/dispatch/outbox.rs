//! What waits to be sent on one connection, and what goes first.
//!
//! Small replies (a lookup's answer, an error, a short value) go before everything else, between any two slices of a bulk
//! value. A frame is at most [`Portions::frame`](super::Portions) of one value, and an `Exists` never waits longer than
//! that. Within each of the two queues it is first come, first served.

use std::collections::VecDeque;

use memkv_engine::{GetError, ReadLease, Step};
use memkv_proto::blocks::{ReplyBlocks, StageSummary};
use memkv_proto::op::Segment;
use memkv_proto::{Flags, FrameHead};
use memkv_telemetry::clock;
use memkv_telemetry::{Stage, Tier};

use super::read::{Awaited, segment_of};
use super::request::{EntryOf, Request};
use super::{Connection, Purpose, State};
use crate::admission::Charge;
use crate::status::Failure;
use std::rc::Rc;

/// A part up to this size is small: it goes first.
pub(super) const SMALL_BYTES: usize = 16 << 10;

/// The queues.
#[derive(Default)]
pub(crate) struct Outbox {
    small: VecDeque<Part>,
    parts: VecDeque<Part>,
    bulk: VecDeque<Bulk>,
    small_bytes: usize,
}

/// A frame that is ready but for its seal.
pub(crate) struct Part {
    request: usize,
    head: FrameHead,
    pub(crate) control: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    charged: Charge,
}

/// A value that is sent slice by slice as it lies.
pub(crate) struct Bulk {
    entry: EntryOf,
    /// Absent while its next window is awaited.
    lease: Option<ReadLease>,
    next: u64,
    charged: Charge,
}

/// What a front sends next.
pub(crate) enum Out {
    /// A whole frame.
    Part(FrameHead, Sent, Vec<u8>, Vec<u8>),
    /// A frame whose payload is a slice of a lease.
    Slice(FrameHead, Vec<u8>, Slice),
}

/// What cutting a slice came to.
enum Cut {
    /// A slice.
    Out(Out),
    /// The next window of the value is awaited.
    Waits(Bulk),
    /// The rest of the value can't be had; that is queued.
    Failed,
}

/// What to report once the last byte of a part was taken.
#[derive(Debug)]
pub(crate) struct Sent {
    request: usize,
    charged: Charge,
    payload: u64,
}

/// A slice of a value on its way. The lease stays pinned until it is handed back.
pub(crate) struct Slice {
    bulk: Bulk,
    /// Bytes of the value, as offsets from the window's start.
    pub(crate) from: u64,
    pub(crate) to: u64,
    is_last: bool,
}

impl Slice {
    /// The bytes from `skip` on, piece by piece.
    pub(crate) fn pieces(&self, skip: u64) -> impl Iterator<Item = &[u8]> {
        let (from, to) = (self.from + skip, self.to);
        let mut at = 0u64;
        let pieces = self
            .bulk
            .lease
            .as_ref()
            .map(ReadLease::pieces)
            .into_iter()
            .flatten();
        pieces.filter_map(move |piece| {
            let (start, end) = (at, at + piece.len() as u64);
            at = end;
            let (low, high) = (from.max(start), to.min(end));
            (low < high).then(|| &piece[(low - start) as usize..(high - start) as usize])
        })
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.to - self.from
    }
}

impl Outbox {
    /// Bytes of ready frames that wait.
    pub(crate) fn small_bytes(&self) -> usize {
        self.small_bytes
    }
}

impl State {
    /// Queues a frame. Its `MORE` flag was decided by whoever encoded it.
    pub(crate) fn push_small(
        &mut self,
        key: usize,
        head: FrameHead,
        control: Vec<u8>,
        payload: Vec<u8>,
        charged: Charge,
    ) {
        let request = &mut self.requests[key];
        let head = head.with_request_id(request.id);
        request.unsent += 1;
        request.replied.get_or_insert_with(clock::now);
        let bytes = control.len() + payload.len();
        self.outbox.small_bytes += bytes;
        let part = Part {
            request: key,
            head,
            control,
            payload,
            charged,
        };
        if bytes > SMALL_BYTES || request.bulky {
            request.bulky = true;
            self.outbox.parts.push_back(part);
        } else {
            self.outbox.small.push_back(part);
        }
    }

    /// Queues a value to be sent as it lies.
    pub(crate) fn push_bulk(&mut self, entry: EntryOf, lease: ReadLease, charged: Charge) {
        let request = &mut self.requests[entry.request];
        request.unsent += 1;
        request.open_values += 1;
        request.bulky = true;
        request.replied.get_or_insert_with(clock::now);
        let next = lease.window().start;
        self.outbox.bulk.push_back(Bulk {
            entry,
            lease: Some(lease),
            next,
            charged,
        });
    }
}

impl Connection {
    /// The blocks of a reply: the server's span, and where the time went if the client asked.
    pub(crate) fn blocks(&self, request: &Request) -> ReplyBlocks {
        if request.kind.is_none() {
            return ReplyBlocks::default();
        }
        let stages = request.flags.contains(Flags::WANT_STAGES).then(|| {
            let mut summary = StageSummary::EMPTY;
            for stage in Stage::ALL {
                if let Some(time) = request.timeline.stage(*stage) {
                    summary.set(stage.idx(), time.dur_ns);
                }
            }
            summary
        });
        let traced = request.flags.contains(Flags::TRACE);
        let slow = self.thread.shared.telemetry().slow_policy();
        ReplyBlocks {
            span_id: traced.then_some(request.timeline.span_id),
            stages,
            is_kept: traced && request.timeline.is_kept_hint(slow, clock::now()),
        }
    }

    /// The next frame to send; `None` when there is nothing, or only values whose next window is awaited.
    pub(crate) fn next_out(self: &Rc<Self>) -> Option<Out> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        loop {
            let outbox = &mut state.outbox;
            if let Some(part) = outbox
                .small
                .pop_front()
                .or_else(|| outbox.parts.pop_front())
            {
                outbox.small_bytes -= part.control.len() + part.payload.len();
                let payload = part.payload.len() as u64;
                let sent = Sent {
                    request: part.request,
                    charged: part.charged,
                    payload,
                };
                return Some(Out::Part(part.head, sent, part.control, part.payload));
            }
            let mut failed = false;
            for _ in 0..state.outbox.bulk.len() {
                let bulk = state.outbox.bulk.pop_front()?;
                match self.slice(state, bulk) {
                    Cut::Out(out) => return Some(out),
                    Cut::Waits(waiting) => state.outbox.bulk.push_back(waiting),
                    Cut::Failed => failed = true,
                }
            }
            // The rest of a value could not be read: its failure now waits among the parts.
            if !failed {
                return None;
            }
        }
    }

    /// Cuts the next slice of `bulk`.
    fn slice(self: &Rc<Self>, state: &mut State, mut bulk: Bulk) -> Cut {
        let Some(lease) = &bulk.lease else {
            return Cut::Waits(bulk);
        };
        let window = lease.window();
        if bulk.next == window.end && window.end < lease.len() {
            return self.advance(state, bulk).map_or(Cut::Failed, Cut::Waits);
        }
        let frame_bytes = self.thread.portions().frame;
        let len = (window.end - bulk.next).min(frame_bytes as u64);
        let (from, is_value_end) = (bulk.next, bulk.next + len == lease.len());
        let request = &mut state.requests[bulk.entry.request];
        request.open_values -= u32::from(is_value_end);
        let request = &state.requests[bulk.entry.request];
        // All parts went before; a value that is waiting for its window still counts.
        let is_last = is_value_end && request.unresolved == 0 && request.open_values == 0;
        let segment = Segment {
            offset: from,
            chunk_len: len as u32,
            ..segment_of(bulk.entry.entry_idx, request.namespace, lease)
        };
        let blocks = if is_last {
            self.blocks(request)
        } else {
            ReplyBlocks::default()
        };
        let mut control = self.thread.buffers.take(0);
        let head = memkv_proto::reply::encode_values(
            &mut control,
            request.op,
            &blocks,
            request.retry_after_us,
            &[segment],
        );
        let Ok(head) = head else { return Cut::Failed };
        let head = head.with_request_id(request.id);
        let head = if is_last {
            head
        } else {
            head.with_flags(Flags::MORE)
        };
        bulk.next += len;
        let start = from - window.start;
        let slice = Slice {
            bulk,
            from: start,
            to: start + len,
            is_last: is_value_end,
        };
        Cut::Out(Out::Slice(head, control, slice))
    }

    /// Asks for the next window of a value that streams.
    fn advance(self: &Rc<Self>, state: &mut State, mut bulk: Bulk) -> Option<Bulk> {
        let lease = bulk.lease.take()?;
        let awaited = Awaited::Window(bulk.entry);
        let purpose = Purpose::Read(self.clone(), awaited);
        let token = self.thread.pending.borrow_mut().open(purpose);
        match lease.advance(&self.thread.queue, token) {
            Ok(Step::Pending) => Some(bulk),
            Ok(Step::Ready(lease)) => {
                self.thread.pending.borrow_mut().close(token);
                bulk.lease = Some(lease);
                self.wake();
                Some(bulk)
            }
            Err(error) => {
                self.thread.pending.borrow_mut().close(token);
                let failure = self.log_failure(state, bulk.entry, &error);
                state.account.release(bulk.charged);
                self.fail_value(state, bulk.entry, failure);
                None
            }
        }
    }

    /// The next window of a value that streams is there, or isn't.
    pub(crate) fn windowed(
        self: &Rc<Self>,
        entry: EntryOf,
        result: Result<Option<ReadLease>, GetError>,
    ) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let position = state.outbox.bulk.iter().position(|bulk| {
            bulk.lease.is_none()
                && bulk.entry.request == entry.request
                && bulk.entry.entry_idx == entry.entry_idx
        });
        let Some(position) = position else { return };
        let failure = match result {
            Ok(Some(lease)) => {
                state.outbox.bulk[position].lease = Some(lease);
                return;
            }
            Ok(None) => Failure::from(&GetError::Gone),
            Err(error) => self.log_failure(state, entry, &error),
        };
        if let Some(bulk) = state.outbox.bulk.remove(position) {
            state.account.release(bulk.charged);
            self.fail_value(state, entry, failure);
        }
    }

    /// Logs why a value can't be completed, with its request's trace.
    fn log_failure(&self, state: &State, entry: EntryOf, error: &GetError) -> Failure {
        let request = state.requests.get(entry.request);
        let timeline = request.map(|request| &request.timeline);
        let failure = error.into();
        self.thread.shared.log_failure(failure, error, timeline)
    }

    /// A value that had begun to be sent can't be completed: its entry is an error after all.
    fn fail_value(&self, state: &mut State, entry: EntryOf, failure: Failure) {
        let request = &mut state.requests[entry.request];
        request.unsent -= 1;
        request.open_values -= 1;
        let outcome = request.failed(failure);
        request.count(&self.thread.shared, outcome, Tier::None);
        request
            .segments
            .push(Segment::without_value(entry.entry_idx, outcome));
        self.flush(state, entry.request);
    }

    /// A slice was taken by the client's socket, whole. Gives the value back or queues its rest.
    pub(crate) fn sliced(self: &Rc<Self>, slice: Slice) {
        let mut state = self.state.borrow_mut();
        let len = slice.len();
        let (bulk, is_last) = (slice.bulk, slice.is_last);
        let entry = bulk.entry;
        if let Some(request) = state.requests.get_mut(entry.request) {
            request.timeline.bytes_out += len;
        }
        if is_last {
            let Bulk { lease, charged, .. } = bulk;
            drop(lease);
            state.account.release(charged);
            self.sent_part(&mut state, entry.request);
        } else {
            // To the front: a value that was begun is finished before the next, so that leases are given back early.
            state.outbox.bulk.push_front(bulk);
        }
        drop(state);
        self.resume_reads();
    }

    /// A part was taken by the client's socket, whole.
    pub(crate) fn sent(self: &Rc<Self>, sent: Sent) {
        let mut state = self.state.borrow_mut();
        state.account.release(sent.charged);
        if let Some(request) = state.requests.get_mut(sent.request) {
            request.timeline.bytes_out += sent.payload;
        }
        self.sent_part(&mut state, sent.request);
        let stalled = !state.stalled.is_empty();
        drop(state);
        if stalled {
            self.resume_reads();
        }
    }

    /// One part fewer to send; the last one ends the request.
    fn sent_part(&self, state: &mut State, key: usize) {
        let Some(request) = state.requests.get_mut(key) else {
            return;
        };
        request.unsent -= 1;
        if request.unsent > 0 || request.unresolved > 0 {
            return;
        }
        let mut request = state.requests.remove(key);
        let now = clock::now();
        let replied = request.replied.unwrap_or(now);
        if let Some(timeline) = request.timeline_mut() {
            timeline.stamp(Stage::Reply, replied, now);
            timeline.finish(now);
            self.thread.record(&request);
        }
        if request.counted {
            self.thread.shared.request_finished();
        }
        for cancel in std::mem::take(&mut request.cancelled_by) {
            self.answer_cancel(state, cancel, memkv_proto::reply::CancelState::Stopped);
        }
        self.thread
            .buffers
            .give(std::mem::take(&mut request.payload));
    }

    /// Whether the outbox is empty and no request is open.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state.borrow().requests.is_empty()
    }
}
