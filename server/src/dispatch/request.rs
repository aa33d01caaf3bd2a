//! One request from its first byte to the last byte of its reply.

use std::rc::Rc;

use memkv_engine::IoTimes;
use memkv_proto::blocks::TraceContext;
use memkv_proto::op::{ErrorCode, OpCode, Outcome, Segment};
use memkv_proto::reply::{CancelState, Failure as FailedReply, Pong, ServerState, WriteResult};
use memkv_proto::request::Request as Decoded;
use memkv_proto::{Flags, FrameHead};
use memkv_telemetry::clock::{self, Tick};
use memkv_telemetry::{OpKind, OutcomeLabel, Stage, Tier, Timeline, Transport};

use super::{Connection, Intake, State, Thread};
use crate::admission::Charge;
use crate::shared::Shared;
use crate::status::Failure;

/// When the parts of a frame were there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Its first byte.
    pub(crate) first: Tick,
    /// Its control part.
    pub(crate) complete: Tick,
    /// Its MAC and digest had been checked.
    pub(crate) verified: Tick,
    /// Whether its payload carries a MAC.
    pub(crate) payload_mac: bool,
}

/// What a front does after it handed a request in.
pub(crate) enum Begun {
    /// Nothing: there is no payload.
    Done,
    /// Feed the payload.
    Payload(Box<Intake>),
    /// Read the payload and forget it; the request is answered.
    Skip,
}

/// One entry of a request in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryOf {
    pub(crate) request: usize,
    pub(crate) entry_idx: u32,
}

/// A request that isn't answered completely.
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) op: OpCode,
    pub(crate) timeline: Timeline,
    /// What it is in metrics; `None` for those that move no values (Ping, Stat, Cancel, Connect).
    pub(crate) kind: Option<OpKind>,
    pub(crate) flags: Flags,
    pub(crate) deadline: Option<Tick>,
    /// Entries without an outcome.
    pub(crate) unresolved: u32,
    /// Parts of the reply in the outbox or on their way.
    pub(crate) unsent: u32,
    /// Read: values whose last slice the front doesn't have yet.
    pub(crate) open_values: u32,
    /// Name space of a read's keys.
    pub(crate) namespace: u32,
    /// Read: results that wait to be put into a part.
    pub(crate) segments: Vec<Segment>,
    /// Read: the bytes of `segments`.
    pub(crate) payload: Vec<u8>,
    /// Value bytes charged for `payload`.
    pub(crate) payload_charged: Charge,
    /// Read: keys that were not looked up yet.
    pub(crate) waiting: Option<super::read::Waiting>,
    /// Write, Delete, Exists: an outcome and a version per entry.
    pub(crate) results: Vec<WriteResult>,
    /// The longest of the entries' hints.
    pub(crate) retry_after_us: u32,
    /// A part went the bulk way; later parts follow it there, so that the last stays the last.
    pub(crate) bulky: bool,
    pub(crate) cancelled: bool,
    /// Cancels that are answered when this request is done.
    pub(crate) cancelled_by: Vec<usize>,
    /// Counted as in flight for a drain.
    pub(crate) counted: bool,
    /// When the reply was ready to be sent.
    pub(crate) replied: Option<Tick>,
    /// Write: a value went out window by window, each I/O after the one before.
    pub(crate) windowed: bool,
}

impl Request {
    pub(crate) fn new(
        thread: &Thread,
        head: &FrameHead,
        received: &Received,
        trace: Option<TraceContext>,
    ) -> Self {
        let kind = op_kind(head.op);
        let op = kind.unwrap_or(OpKind::Get);
        let trace = trace.map(|trace| memkv_telemetry::TraceContext {
            trace_id: trace.trace_id,
            span_id: trace.span_id,
            flags: trace.flags,
        });
        let mut recorder = thread.recorder.borrow_mut();
        let mut timeline = recorder.begin(op, Transport::Tcp, received.first, trace);
        timeline.stamp(Stage::Receive, received.first, received.complete);
        timeline.stamp(Stage::Verify, received.complete, received.verified);
        let budget = std::time::Duration::from_micros(head.deadline_us.into());
        let deadline = (head.deadline_us > 0).then(|| received.first.after(budget));
        Self {
            id: head.request_id,
            op: head.op,
            timeline,
            kind,
            flags: head.flags,
            deadline,
            unresolved: 0,
            unsent: 0,
            open_values: 0,
            namespace: 0,
            segments: Vec::new(),
            payload: Vec::new(),
            payload_charged: Charge::default(),
            waiting: None,
            results: Vec::new(),
            retry_after_us: 0,
            bulky: false,
            cancelled: false,
            cancelled_by: Vec::new(),
            counted: false,
            replied: None,
            windowed: false,
        }
    }

    /// Its timeline, if it leaves one.
    pub(crate) fn timeline_mut(&mut self) -> Option<&mut Timeline> {
        // An active probe stays out of the users' metrics.
        let leaves_one = self.kind.is_some() && !self.flags.contains(Flags::PROBE);
        leaves_one.then_some(&mut self.timeline)
    }

    /// Why its entries mustn't be started any more, if so.
    pub(crate) fn expired(&self, now: Tick) -> Option<ErrorCode> {
        if self.cancelled {
            return Some(ErrorCode::Cancelled);
        }
        self.deadline
            .filter(|deadline| now >= *deadline)
            .map(|_| ErrorCode::DeadlineExceeded)
    }

    /// Notes how one entry fared, for metrics and for the worst of the batch.
    pub(crate) fn count(&mut self, shared: &Shared, outcome: Outcome, tier: Tier) {
        let label = match outcome {
            Outcome::Ok => OutcomeLabel::Ok,
            Outcome::Miss => OutcomeLabel::Miss,
            Outcome::Error(code) => {
                self.timeline.fail(code.to_wire());
                shared.rejected(code);
                OutcomeLabel::Error
            }
        };
        self.timeline.count(tier, label, 1);
    }

    /// Notes where a call to the engine spent its time.
    pub(crate) fn stamp_io(&mut self, io: &IoTimes) {
        let timeline = &mut self.timeline;
        let started = io.first_start.map_or(timeline.start, |tick| Tick(tick.0));
        if let Some(ns) = io.lease_wait_ns {
            timeline.add(Stage::Lease, Tick(started.0.saturating_sub(ns)), ns);
        }
        // Without probes `device` runs from submission to completion, and what the kernel did before and after isn't
        // known; the engine's own queue in front of the ring is.
        // Completions come in the order of the I/Os' ends: the last one stands for the batch. Those of a value's windows
        // follow each other, and add up.
        let put = if self.windowed {
            Timeline::add
        } else {
            Timeline::replace
        };
        if let Some(ns) = io.queue_ns {
            put(
                timeline,
                Stage::Queue,
                Tick(started.0.saturating_sub(ns)),
                ns,
            );
        }
        if let Some(ns) = io.device_ns {
            put(timeline, Stage::Device, started, ns);
            timeline.count_io(io.io_count, ns);
            if let Some(after) = io.complete_ns {
                put(timeline, Stage::Complete, Tick(started.0 + ns), after);
            }
        }
        if let Some(drive) = io.drive {
            timeline.drive_idx = Some(drive.0);
        }
    }

    /// The outcome of an entry that failed.
    pub(crate) fn failed(&mut self, failure: Failure) -> Outcome {
        self.retry_after_us = self.retry_after_us.max(failure.retry_after_us);
        failure.outcome()
    }
}

/// What an op is in metrics; nothing where it moves no values and asks for no keys.
fn op_kind(op: OpCode) -> Option<OpKind> {
    Some(match op {
        OpCode::Put => OpKind::Put,
        OpCode::Get => OpKind::Get,
        OpCode::Delete => OpKind::Delete,
        OpCode::Exists => OpKind::Exists,
        OpCode::BatchWrite => OpKind::BatchWrite,
        OpCode::BatchRead => OpKind::BatchRead,
        OpCode::Connect | OpCode::Cancel | OpCode::Ping | OpCode::Stat => return None,
        OpCode::Hello | OpCode::HelloReply | OpCode::Finish | OpCode::Refusal => return None,
    })
}

impl Connection {
    /// Takes a verified request. `control` may be reused once this returns.
    pub(crate) fn begin(
        self: &Rc<Self>,
        head: &FrameHead,
        control: &[u8],
        received: &Received,
    ) -> Begun {
        let shared = &self.thread.shared;
        let (trace, decoded) = match Decoded::decode(head, control) {
            Ok(decoded) => decoded,
            Err(error) => {
                let request = Request::new(&self.thread, head, received, None);
                return self.refuse(request, Failure::plain(error.code()), &error.to_string());
            }
        };
        let mut request = Request::new(&self.thread, head, received, trace);
        request.timeline.bytes_in = head.payload_len;
        request.timeline.connection_id = self.number;
        if request.kind.is_some() && shared.draining() {
            let draining = Failure::plain(ErrorCode::Draining);
            return self.refuse(request, draining, "the server is draining; use another");
        }
        request.counted = request.kind.is_some();
        if request.counted {
            shared.request_started();
        }
        match decoded {
            Decoded::Get(keys) | Decoded::BatchRead(keys) => self.begin_read(request, &keys),
            Decoded::Put(entries) | Decoded::BatchWrite(entries) => {
                return self.begin_write(request, received.payload_mac, &entries);
            }
            Decoded::Exists(keys) => self.exists(request, &keys),
            Decoded::Delete(keys) => self.delete(request, &keys),
            Decoded::Cancel { request_id } => self.cancel(request, request_id),
            Decoded::Ping { echo } => self.ping(request, echo),
            Decoded::Stat => self.stat(request),
            Decoded::Connect(_) => {
                let unsupported = Failure::plain(ErrorCode::Unsupported);
                return self.refuse(request, unsupported, "this build has no RDMA; use tcp");
            }
        }
        Begun::Done
    }

    /// Answers `request` as failed as a whole.
    pub(crate) fn refuse(&self, request: Request, failure: Failure, detail: &str) -> Begun {
        let mut request = request;
        request.count(
            &self.thread.shared,
            Outcome::Error(failure.code),
            Tier::None,
        );
        let mut state = self.state.borrow_mut();
        let key = state.requests.insert(request);
        self.fail(&mut state, key, failure, detail);
        Begun::Skip
    }

    /// Queues the reply "failed as a whole" of a request without other parts.
    fn fail(&self, state: &mut State, key: usize, failure: Failure, detail: &str) {
        let request = &mut state.requests[key];
        let mut control = self.thread.buffers.take(0);
        let (code, retry_after_us) = (failure.code, failure.retry_after_us);
        let blocks = self.blocks(request);
        let reply = FailedReply {
            code,
            retry_after_us,
            detail,
        };
        let head = memkv_proto::reply::encode_failed(&mut control, request.op, &blocks, &reply);
        state.push_small(key, head, control, Vec::new(), Charge::default());
    }

    /// Notes the outcome of an entry of a write or delete; the last one sends the reply.
    pub(crate) fn resolve(&self, entry: EntryOf, outcome: Outcome, version: u64, tier: Tier) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(request) = state.requests.get_mut(entry.request) else {
            return;
        };
        request.results[entry.entry_idx as usize] = WriteResult { outcome, version };
        request.count(&self.thread.shared, outcome, tier);
        request.unresolved -= 1;
        if request.unresolved > 0 {
            return;
        }
        let mut control = self.thread.buffers.take(0);
        let blocks = self.blocks(request);
        let rows = request.results.iter().copied();
        let retry = request.retry_after_us;
        let head = if request.op == OpCode::Delete {
            let rows = rows.map(|row| row.outcome);
            memkv_proto::reply::encode_outcomes(&mut control, request.op, &blocks, retry, rows)
        } else {
            memkv_proto::reply::encode_written(&mut control, request.op, &blocks, retry, rows)
        };
        self.push_encoded(state, entry.request, head, control);
    }

    /// Queues a reply of one part, however its encoding went.
    pub(super) fn push_encoded(
        &self,
        state: &mut State,
        key: usize,
        head: Result<FrameHead, memkv_proto::EncodeError>,
        control: Vec<u8>,
    ) {
        match head {
            Ok(head) => state.push_small(key, head, control, Vec::new(), Charge::default()),
            Err(error) => {
                tracing::error!(%error, "a reply can't be encoded");
                self.fail(state, key, Failure::plain(ErrorCode::Internal), "");
            }
        }
    }

    /// Takes back a request of this connection. The answer means that the server is done with it.
    fn cancel(&self, request: Request, cancelled: u64) {
        let mut state = self.state.borrow_mut();
        let found = state
            .requests
            .iter()
            .find(|(_, other)| other.id == cancelled && other.kind.is_some())
            .map(|(key, _)| key);
        let key = state.requests.insert(request);
        match found {
            Some(target) if state.requests[target].unresolved > 0 => {
                state.requests[target].cancelled = true;
                state.requests[target].cancelled_by.push(key);
                self.cancel_waiting(&mut state, target);
            }
            _ => self.answer_cancel(&mut state, key, CancelState::NotFound),
        }
    }

    /// Answers a Cancel.
    pub(crate) fn answer_cancel(&self, state: &mut State, key: usize, answer: CancelState) {
        let Some(request) = state.requests.get(key) else {
            return;
        };
        let mut control = self.thread.buffers.take(0);
        let blocks = self.blocks(request);
        let head = memkv_proto::reply::encode_cancelled(&mut control, &blocks, answer);
        state.push_small(key, head, control, Vec::new(), Charge::default());
    }

    fn ping(&self, request: Request, echo: u64) {
        let shared = &self.thread.shared;
        let state = if shared.draining() {
            ServerState::Draining
        } else {
            ServerState::Ready
        };
        let pong = Pong {
            echo,
            unix_ns: clock::unix_ns(),
            state,
        };
        self.answer(request, |control, blocks| {
            memkv_proto::reply::encode_pong(control, blocks, &pong)
        });
    }

    fn stat(&self, request: Request) {
        let fields = self.thread.shared.stat();
        self.answer(request, |control, blocks| {
            memkv_proto::reply::encode_stat(control, blocks, &fields)
        });
    }

    fn answer(
        &self,
        request: Request,
        encode: impl FnOnce(&mut Vec<u8>, &memkv_proto::blocks::ReplyBlocks) -> FrameHead,
    ) {
        let mut control = self.thread.buffers.take(0);
        let head = encode(&mut control, &self.blocks(&request));
        let mut state = self.state.borrow_mut();
        let key = state.requests.insert(request);
        state.push_small(key, head, control, Vec::new(), Charge::default());
    }
}
