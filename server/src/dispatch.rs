//! From requests to the engine and back to replies. The only caller of the engine's data path.
//!
//! A front hands in a verified request ([`Connection::begin`]) and, for writes, the payload through an [`Intake`]; it gets
//! back frames to send, in the order they should go, from [`Connection::next_out`]. Everything that is decided is decided
//! here: deadlines, admission, fairness, draining, cancellation, what goes first. Sockets, sealing and MACs are the
//! front's.
//!
//! Everything in here lives on one data thread: no locks, no atomics but the shared budgets. What the engine can't answer
//! at once comes back through the thread's completion queue, as a token whose [`Purpose`] says where it belongs.
//!
//! In flight and bounded, per connection: requests, their control parts, small replies waiting to be sent, value bytes
//! pinned or copied ([`crate::admission`]). A connection above a bound isn't read until it is below it again.

mod keys;
mod outbox;
mod pending;
mod read;
mod request;
mod sharing;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use memkv_engine::{Completion, CompletionQueue, CompletionResult, Engine};
use memkv_proto::op::{ErrorCode, OpCode};
use memkv_proto::session::KeyId;
use memkv_proto::{Flags, FrameHead};
use memkv_telemetry::clock::{self, Tick};
use memkv_telemetry::{AuthFailure, ProtocolFault, Recorder};
use slab::Slab;

use crate::admission::Account;
use crate::buffers::BufferPool;
use crate::front::stream::ReceiveBuffers;
use crate::front::{Progress, Taking};
use crate::limits::Limits;
use crate::shared::Shared;
use crate::status::{Failure, RETRY_AFTER_US};

use outbox::Outbox;
pub(crate) use outbox::{Out, Sent, Slice};
use pending::Pending;
use request::Request;
pub(crate) use request::{Begun, Received};
pub(crate) use sharing::Portions;
use sharing::SmallOps;
pub(crate) use write::{Intake, Slot, sleep_until};

/// For so long after an op was held up by what others hold the sweeper is impatient with them.
const PRESSED_RECENT_NS: u64 = 1_000_000_000;

/// A chunk that takes longer than this part of the longest stall is waited for byte by byte.
const CHUNK_PATIENCE: u64 = 8;

/// A full socket is looked at once it was full for this part of the longest stall; at once where others wait.
const LOOKS: u32 = 4;

/// How much longer a client that has read before is borne with when others wait: with megabytes of buffers, one that takes
/// 1 MB/s confirms nothing for half a second at a time, and one that takes 300 kB/s for more than a second.
const READER_PATIENCE: u32 = 4;

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// What the tasks of one data thread share.
pub(crate) struct Thread {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Engine,
    pub(crate) queue: CompletionQueue,
    pub(crate) buffers: BufferPool,
    pub(crate) receive: Rc<ReceiveBuffers>,
    recorder: RefCell<Recorder>,
    pending: RefCell<Pending<Purpose>>,
    connections: RefCell<Slab<Rc<Connection>>>,
    scratch: RefCell<read::Scratch>,
    small_ops: SmallOps,
}

/// What an engine call in flight is for.
pub(crate) enum Purpose {
    /// A value of a read, or its next window.
    Read(Rc<Connection>, read::Awaited),
    /// A put that is being committed.
    Commit(Rc<Connection>, write::Committing),
    /// A key that is being deleted.
    Delete(Rc<Connection>, request::EntryOf),
    /// Memory that the connection's reader waits for.
    Intake(Rc<Connection>),
    /// Nobody waits any more; what comes is dropped.
    Abandoned,
}

/// Why a connection ends, as the sweeper and the front see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client said goodbye between two frames.
    Closed,
    /// The stream broke, or ended within a frame.
    Broken,
    /// The handshake took too long.
    HandshakeTimeout,
    /// A frame that had begun stalled or trickled.
    FrameStalled,
    /// The client doesn't take its replies.
    NeverReads,
    /// It had no session yet, and another one needed its place.
    Crowded,
    /// The session's key is gone.
    KeyRemoved,
    /// Something wasn't authentic.
    Auth(AuthFailure),
    /// Something wasn't our protocol.
    Protocol(ProtocolFault),
}

/// One connection, as dispatch sees it.
pub(crate) struct Connection {
    pub(crate) thread: Rc<Thread>,
    pub(crate) number: u64,
    pub(crate) progress: Rc<Progress>,
    pub(crate) taking: Taking,
    slot: Cell<usize>,
    opened: Tick,
    /// Set once the handshake is over: the id of the session's key.
    session_key: Cell<Option<KeyId>>,
    ending: Cell<Option<End>>,
    /// Set while the reader waits for room.
    reader_waits: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    state: RefCell<State>,
}

/// What changes with every request.
pub(crate) struct State {
    requests: Slab<Request>,
    outbox: Outbox,
    account: Account,
    /// Reads that wait for value bytes, oldest first.
    stalled: VecDeque<usize>,
    /// When the first of them is answered `Busy`.
    stalled_until: Option<Tick>,
    /// The answer that the reader waits for.
    intake: Option<Completion>,
    closed: bool,
}

impl Thread {
    /// A thread's share of the server: its completion queue, buffers and recorder.
    pub(crate) fn new(shared: Arc<Shared>, completions: usize) -> io::Result<Self> {
        let engine = shared
            .engine()
            .cloned()
            .ok_or_else(|| io::Error::other("no engine"))?;
        let queue = engine.completion_queue(completions)?;
        let recorder = RefCell::new(shared.telemetry().recorder());
        Ok(Self {
            engine,
            queue,
            recorder,
            shared,
            buffers: BufferPool::default(),
            receive: Rc::default(),
            pending: RefCell::default(),
            connections: RefCell::default(),
            scratch: RefCell::default(),
            small_ops: SmallOps::default(),
        })
    }

    /// Registers a connection that was accepted.
    pub(crate) fn connect(self: &Rc<Self>) -> Rc<Connection> {
        let connection = Rc::new(Connection {
            thread: self.clone(),
            number: self.shared.next_connection(),
            progress: Rc::default(),
            taking: Taking::default(),
            slot: Cell::new(0),
            opened: clock::now(),
            session_key: Cell::new(None),
            ending: Cell::new(None),
            reader_waits: Cell::new(false),
            waker: RefCell::new(None),
            state: RefCell::new(State {
                requests: Slab::new(),
                outbox: Outbox::default(),
                account: Account::new(self.shared.admission().clone()),
                stalled: VecDeque::new(),
                stalled_until: None,
                intake: None,
                closed: false,
            }),
        });
        connection
            .slot
            .set(self.connections.borrow_mut().insert(connection.clone()));
        connection
    }

    /// Hands one completion to whom it belongs.
    pub(crate) fn deliver(&self, completion: Completion) {
        let Some(purpose) = self.pending.borrow_mut().close(completion.token) else {
            // Every token is opened before its call and closed by its completion alone.
            tracing::error!(token = completion.token.0, "a completion for no call");
            return;
        };
        match purpose {
            Purpose::Read(connection, awaited) => {
                if let CompletionResult::Got(result) = completion.result {
                    connection.got(awaited, result, &completion.io);
                }
                connection.wake();
            }
            Purpose::Commit(connection, committing) => {
                if let CompletionResult::Committed(result) = completion.result {
                    connection.committed(committing, result, &completion.io);
                }
                connection.wake();
            }
            Purpose::Delete(connection, entry) => {
                if let CompletionResult::Deleted(result) = completion.result {
                    connection.deleted(entry, result, &completion.io);
                }
                connection.wake();
            }
            Purpose::Intake(connection) => {
                connection.state.borrow_mut().intake = Some(completion);
                connection.wake();
            }
            Purpose::Abandoned => {}
        }
    }

    /// Ends connections that stall; called a few times within the shortest limit.
    pub(crate) fn sweep(&self) {
        let now = clock::now();
        let limits = self.shared.limits();
        let admission = self.shared.admission();
        let is_pressed = admission.was_pressed(now, PRESSED_RECENT_NS);
        for (_, connection) in self.connections.borrow().iter() {
            if let Some(end) = connection.overdue(now, limits, is_pressed) {
                connection.end(end);
            }
        }
    }

    /// Ends the sessions of keys that are gone.
    pub(crate) fn check_keys(&self) {
        for (_, connection) in self.connections.borrow().iter() {
            if connection
                .session_key
                .get()
                .is_some_and(|key| !self.shared.key_is_valid(key))
            {
                connection.end(End::KeyRemoved);
            }
        }
    }

    /// How much of a bulk value goes at once, now.
    pub(crate) fn portions(&self) -> Portions {
        self.small_ops.portions(clock::now())
    }

    /// Leaves the timeline of a request that is done.
    fn record(&self, request: &Request) {
        if request.timeline.bytes_in + request.timeline.bytes_out < outbox::SMALL_BYTES as u64 {
            self.small_ops.done(request.timeline.end);
        }
        self.recorder.borrow_mut().record(&request.timeline);
    }

    /// Drops what is left when the thread ends.
    pub(crate) fn stop(&self) {
        self.connections.borrow_mut().clear();
    }
}

impl Connection {
    /// The handshake is over; from now on the session lives as long as its key.
    pub(crate) fn authenticated(&self, key: KeyId) {
        self.session_key.set(Some(key));
    }

    /// Whether the client has kept the server waiting for too long; less is enough where others need what it holds. Only
    /// what was seen counts against it: how long nobody looked does not, or those who were slow when others began to wait
    /// would be taken for those who have stopped.
    fn overdue(&self, now: Tick, limits: &Limits, is_pressed: bool) -> Option<End> {
        if self.session_key.get().is_none() {
            let waited = now.0.saturating_sub(self.opened.0);
            return (waited > ns(limits.handshake)).then_some(End::HandshakeTimeout);
        }
        let (mut reply_stall, mut frame_stall) = (limits.reply_stall, limits.frame_stall);
        let mut unwatched = reply_stall / LOOKS;
        if is_pressed && self.holds_values() {
            let patience = if self.taking.has_read() {
                READER_PATIENCE
            } else {
                1
            };
            reply_stall = reply_stall.min(limits.stall_pressed * patience);
            frame_stall = frame_stall.min(limits.stall_pressed);
            unwatched = Duration::ZERO;
        }
        if self.taking.seen_untaken_ns() > ns(reply_stall) {
            return Some(End::NeverReads);
        }
        if self.taking.untaken_ns(now) > ns(unwatched) {
            self.taking.watch();
            self.wake();
        }
        let (frame_stall, pace) = (ns(frame_stall), limits.frame_bytes_per_second_min);
        if self.progress.stalled(now, frame_stall, pace) {
            return Some(End::FrameStalled);
        }
        if self
            .progress
            .loses_patience(now, frame_stall / CHUNK_PATIENCE)
        {
            self.wake();
        }
        None
    }

    /// Has the connection's task end it.
    pub(crate) fn end(&self, end: End) {
        if self.ending.get().is_none() {
            self.ending.set(Some(end));
            self.wake();
        }
    }

    /// Whether and why it must end.
    pub(crate) fn ending(&self) -> Option<End> {
        self.ending.get()
    }

    /// Remembers whom to wake; called at the start of each poll of the connection's task.
    pub(crate) fn polled(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether another request may be read: what is unanswered is below its bounds.
    pub(crate) fn may_read(&self) -> bool {
        let limits = self.thread.shared.limits();
        let state = self.state.borrow();
        let may = state.requests.len() < limits.requests_per_connection_max
            && state.outbox.small_bytes() < limits.reply_bytes_per_connection_max
            && state.stalled.is_empty();
        self.reader_waits.set(!may);
        may
    }

    /// Has the task polled again if its reader waits and may go on; what was sent meanwhile made room.
    pub(crate) fn wake_reader(&self) {
        if self.reader_waits.get() && self.may_read() {
            self.wake();
        }
    }

    /// Whether value bytes are charged to it.
    fn holds_values(&self) -> bool {
        self.state.borrow().account.value_bytes() > 0
    }

    /// Whether reads wait for value bytes.
    pub(crate) fn has_stalled(&self) -> bool {
        !self.state.borrow().stalled.is_empty()
    }

    /// A buffer for a control part of `len` bytes; `None` when the server holds too many.
    pub(crate) fn control_buffer(&self, len: usize) -> Option<Vec<u8>> {
        self.state
            .borrow_mut()
            .account
            .charge_control(len as u64)
            .ok()?;
        Some(self.thread.buffers.take(0))
    }

    /// Gives a buffer of [`Connection::control_buffer`] back.
    pub(crate) fn give_control_buffer(&self, buffer: Vec<u8>, len: usize) {
        self.thread.buffers.give(buffer);
        self.state.borrow_mut().account.release_control(len as u64);
    }

    /// A frame above the protocol's limits.
    pub(crate) fn too_large(&self, op: OpCode, request_id: u64, detail: &str, first: Tick) {
        let head = FrameHead::new(op, Flags::NONE, 0, 0).with_request_id(request_id);
        let received = Received {
            first,
            complete: first,
            verified: first,
            payload_mac: false,
        };
        let request = Request::new(&self.thread, &head, &received, None);
        self.refuse(request, Failure::plain(ErrorCode::TooLarge), detail);
    }

    /// There is no memory to read the description of a request.
    pub(crate) fn too_busy(&self, head: &FrameHead, first: Tick) {
        let received = Received {
            first,
            complete: first,
            verified: first,
            payload_mac: false,
        };
        let request = Request::new(&self.thread, head, &received, None);
        let busy = Failure::busy(RETRY_AFTER_US);
        self.refuse(request, busy, "too many requests are being described");
    }

    /// Gives everything back. What the engine still has in flight is dropped as it completes.
    pub(crate) fn close(&self) {
        self.thread
            .connections
            .borrow_mut()
            .try_remove(self.slot.get());
        self.thread
            .shared
            .connection_closed(self.session_key.get().is_some());
        let mut state = self.state.borrow_mut();
        state.closed = true;
        let state = &mut *state;
        for request in state.requests.drain() {
            self.abandon(request);
        }
        state.outbox = Outbox::default();
        state.stalled.clear();
        state.intake = None;
        state.account.clear();
        *self.waker.borrow_mut() = None;
    }

    fn abandon(&self, mut request: Request) {
        if request.counted {
            self.thread.shared.request_finished();
        }
        if let Some(timeline) = request.timeline_mut() {
            timeline.fail(ErrorCode::Cancelled.to_wire());
            timeline.finish(clock::now());
            self.thread.record(&request);
        }
    }
}
