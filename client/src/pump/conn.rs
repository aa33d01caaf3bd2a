//! One connection: socket, handshake, pipelined requests, replies in any order.

mod connect;
mod receive;
mod send;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use memkv_proto::frame::FrameHead;
use memkv_proto::mac::FrameMac;
use memkv_proto::payload::PayloadMac;
use memkv_proto::session::{ClientHandshake, Opener, Sealer};
use memkv_telemetry::ConnectionState;
use memkv_telemetry::clock::{self, Tick};
use mio::Interest;
use mio::net::TcpStream;

use super::inbound::Buffer;
use super::job::{OpId, Phase as JobPhase};
use super::op::Sink;
use super::outbound::Outbound;
use super::{Notice, OpTable, State};
use crate::error::TransportCause;

/// How far a connection is.
enum Phase<M: FrameMac> {
    /// There is no socket.
    Down,
    /// The kernel is connecting.
    Connecting,
    /// Our hello is out.
    Shaking(Box<ClientHandshake<M>>),
    /// Ops may flow.
    Up {
        sealer: Sealer<M>,
        opener: Opener<M>,
    },
}

/// What the next bytes are.
enum Stage {
    /// The server's answer to our hello.
    Hello,
    Header,
    Control(FrameHead),
    Payload(Payload),
}

/// The payload of the frame that is coming in.
struct Payload {
    id: OpId,
    more: bool,
    pieces: VecDeque<Piece>,
    mac: Option<Box<PayloadMac>>,
}

/// A stretch of payload that is still to come.
#[derive(Debug, Clone, Copy)]
struct Piece {
    entry: usize,
    left: usize,
    sink: Sink,
}

pub(super) struct Conn<M: FrameMac> {
    idx: usize,
    server: usize,
    phase: Phase<M>,
    stage: Stage,
    stream: Option<TcpStream>,
    addresses: VecDeque<SocketAddr>,
    started: Tick,
    connect_deadline: Option<Tick>,
    queue: VecDeque<OpId>,
    cancels: VecDeque<OpId>,
    /// Cancellations on their way: the id of the Cancel frame, and what it cancels.
    cancelling: Vec<(u64, OpId)>,
    cancel_sequence: u64,
    outbound: Outbound,
    buffer: Buffer,
    in_flight: usize,
    readable: bool,
    /// Bytes that wake the poller; see [`Conn::set_low_water`].
    low_water: usize,
    /// What the poller watches the socket for; see [`Conn::watch`].
    interest: Interest,
    /// The peer has closed its side: its end comes behind whatever is left to read, and no further event will say so.
    ending: bool,
    writable: bool,
    wanted: bool,
    failure: Option<TransportCause>,
    shown: Option<ConnectionState>,
    spare_pieces: VecDeque<Piece>,
}

impl<M: FrameMac> Conn<M> {
    pub(super) fn new(idx: usize, server: usize) -> Self {
        Self {
            idx,
            server,
            phase: Phase::Down,
            stage: Stage::Header,
            stream: None,
            addresses: VecDeque::new(),
            started: Tick::default(),
            connect_deadline: None,
            queue: VecDeque::new(),
            cancels: VecDeque::new(),
            cancelling: Vec::new(),
            cancel_sequence: 0,
            outbound: Outbound::default(),
            buffer: Buffer::new(),
            in_flight: 0,
            readable: false,
            low_water: 1,
            interest: Interest::READABLE,
            ending: false,
            writable: false,
            wanted: false,
            failure: None,
            shown: None,
            spare_pieces: VecDeque::new(),
        }
    }

    /// Tells whoever counts connections that this one's state has changed.
    fn show(&mut self, state: &mut State, to: ConnectionState) {
        let from = self.shown.replace(to);
        if from != Some(to) {
            state.notices.push_back(Notice::Moved {
                server: self.server,
                from,
                to,
            });
        }
    }

    pub(super) fn server(&self) -> usize {
        self.server
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// Ops that wait here or are under way.
    pub(super) fn load(&self) -> usize {
        self.queue.len() + self.in_flight
    }

    /// When the attempt to connect ends.
    pub(super) fn timer(&self) -> Option<Tick> {
        self.connect_deadline
    }

    pub(super) fn enqueue(&mut self, id: OpId) {
        self.queue.push_back(id);
    }

    /// Takes back what was never sent.
    pub(super) fn withdraw(&mut self, id: OpId) {
        self.queue.retain(|queued| *queued != id);
    }

    /// Asks the server to stop working on `id`.
    pub(super) fn cancel(&mut self, id: OpId) {
        self.cancels.push_back(id);
    }

    /// Asks for a connection although no op needs one yet.
    pub(super) fn want_up(&mut self) {
        self.wanted = !self.is_up();
    }

    /// Why the last attempt failed, once.
    pub(super) fn take_failure(&mut self) -> Option<TransportCause> {
        self.failure.take()
    }

    pub(super) fn on_event(&mut self, event: &mio::event::Event) {
        self.ending |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.ending;
        self.writable |= event.is_writable();
    }

    pub(super) fn wants_work(&self) -> bool {
        let to_send =
            !self.queue.is_empty() || !self.cancels.is_empty() || !self.outbound.is_empty();
        match self.phase {
            Phase::Down => self.wanted || !self.queue.is_empty(),
            Phase::Connecting => self.writable || self.readable,
            Phase::Shaking(_) => self.readable || (self.writable && !self.outbound.is_empty()),
            Phase::Up { .. } => self.readable || (self.writable && to_send),
        }
    }

    /// Whether it paused only to let others have their turn.
    pub(super) fn goes_on(&self) -> bool {
        self.is_up() && self.writable && !self.outbound.is_empty()
    }

    /// Does whatever can be done now without waiting.
    pub(super) fn work<'a, T: OpTable<'a>>(&mut self, state: &mut State, table: &mut T) {
        if let Err(cause) = self.advance(state, table) {
            self.fail(state, table, cause);
        }
    }

    fn advance<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<(), TransportCause> {
        if matches!(self.phase, Phase::Down) {
            if !self.wanted && self.queue.is_empty() {
                return Ok(());
            }
            self.show(state, ConnectionState::Connecting);
            self.resolve(state)?;
            self.connect_next(state)?;
        }
        if matches!(self.phase, Phase::Connecting) && (self.writable || self.readable) {
            self.connected(state)?;
        }
        // First out, then in: a reply can't come before its request, and a request of few bytes shouldn't wait for a look
        // at a socket that has nothing to read.
        self.send(state, table)?;
        if self.readable && self.stream.is_some() && !matches!(self.phase, Phase::Connecting) {
            self.receive(state, table)?;
            self.send(state, table)?;
        }
        self.watch(state)
            .map_err(|error| TransportCause::Lost(Arc::new(error)))
    }

    /// Watches for room in the socket only while something waits for it: the poller would return for it after every reply.
    fn watch(&mut self, state: &State) -> io::Result<()> {
        let wanted = if self.writable {
            Interest::READABLE
        } else {
            Interest::READABLE | Interest::WRITABLE
        };
        if let Some(stream) = &mut self.stream
            && wanted != self.interest
        {
            state
                .registry
                .reregister(stream, mio::Token(self.idx), wanted)?;
            self.interest = wanted;
        }
        Ok(())
    }

    fn drop_stream(&mut self, state: &State) {
        if let Some(mut stream) = self.stream.take() {
            // Deregistering can only fail for a socket that isn't registered; closing it does the same.
            let _ = state.registry.deregister(&mut stream);
        }
    }

    /// Ends the connection. What was sent and not answered fails, unless it is a read that may be sent again; what waits
    /// stays where the connection had stood, and fails where it didn't come about.
    pub(super) fn fail<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        cause: TransportCause,
    ) {
        let stood = self.is_up();
        self.show(state, ConnectionState::Down);
        self.drop_stream(state);
        self.phase = Phase::Down;
        self.stage = Stage::Header;
        self.connect_deadline = None;
        self.outbound.clear();
        self.buffer.clear();
        self.cancels.clear();
        self.cancelling.clear();
        self.in_flight = 0;
        self.readable = false;
        self.ending = false;
        self.writable = false;
        self.wanted = false;
        if !stood {
            self.failure = Some(cause.clone());
        }
        let now = clock::now();
        for id in state.jobs.of_conn(self.idx) {
            let Some(job) = state.jobs.get_mut(id) else {
                continue;
            };
            let cause = match &mut job.phase {
                JobPhase::Queued if stood => continue,
                JobPhase::Queued => cause.clone(),
                JobPhase::Fencing {
                    cause: TransportCause::DeadlineFenced,
                    ..
                } => TransportCause::DeadlineClosed,
                JobPhase::Fencing { cause, .. } => cause.clone(),
                JobPhase::Sent => {
                    let again = stood && job.resent < state.config.retries && job.deadline > now;
                    if again && table.op_mut(job.token).is_some_and(|op| op.reset_read()) {
                        job.phase = JobPhase::Queued;
                        job.resent += 1;
                        state.notices.push_back(Notice::Resent);
                        self.queue.push_back(id);
                        continue;
                    }
                    cause.clone()
                }
            };
            state.finish_with(table, id, self.server, cause);
        }
        let jobs = &state.jobs;
        self.queue.retain(|id| jobs.get(*id).is_some());
        state.notices.push_back(Notice::Disconnected {
            server: self.server,
            cause,
            stood,
        });
    }

    /// Fails what waits here, for a client that is being closed.
    pub(super) fn forget_queue<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        cause: &TransportCause,
    ) {
        for id in std::mem::take(&mut self.queue) {
            state.finish_with(table, id, self.server, cause.clone());
        }
    }
}

fn violation(what: &str) -> TransportCause {
    TransportCause::Protocol(what.into())
}
