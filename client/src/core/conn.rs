//! One connection: socket, handshake, pipelined requests, replies in any order.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use memkv_proto::frame::{FrameHead, HEADER_BYTES};
use memkv_proto::mac::FrameMac;
use memkv_proto::op::OpCode;
use memkv_proto::payload::{PayloadMac, TRAILER_BYTES};
use memkv_proto::reply::Reply;
use memkv_proto::request::encode_cancel;
use memkv_proto::session::{
    ClientHandshake, Features, HandshakeError, MESSAGE_BYTES_MAX, Opener, Sealer, message_len,
};
use memkv_telemetry::ConnectionState;
use memkv_telemetry::clock::{self, Tick};
use mio::Interest;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::inbound::{Arrived, Buffer};
use super::job::{OpId, Phase as JobPhase};
use super::op::{BareReply, Op, Sink};
use super::outbound::Outbound;
use super::{CoreServer, Notice, OpTable, State};
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
    /// The peer has closed its side: its end comes behind whatever is left to read, and no further event will say so.
    ending: bool,
    writable: bool,
    wanted: bool,
    failure: Option<TransportCause>,
    shown: Option<ConnectionState>,
    spare_pieces: VecDeque<Piece>,
}

/// Frames are sealed only while less than this many wait for the kernel, so that a checksum is computed shortly before its
/// bytes leave, and a withdrawn op was really never sent.
const SEALED_FRAMES_MAX: usize = 32;

/// Stretches shorter than this go through the buffer: copying them is cheaper than a system call of their own.
const DIRECT_BYTES_MIN: usize = 4096;

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
        Ok(())
    }

    /// Finds the server's addresses. Looks a name up at every attempt, since its address may have changed; blocks as long
    /// as the resolver does, and not at all for a literal address.
    fn resolve(&mut self, state: &State) -> Result<(), TransportCause> {
        let server = &state.config.servers[self.server];
        let found = server.name.to_socket_addrs();
        let found = found.map_err(|error| TransportCause::Resolve(Arc::new(error)))?;
        let fits = |address: &SocketAddr| {
            server
                .bind
                .is_none_or(|bind| bind.is_ipv4() == address.is_ipv4())
        };
        self.addresses = found.filter(fits).collect();
        if self.addresses.is_empty() {
            let text = match server.bind {
                Some(bind) => format!(
                    "{} has no address of the family of bind address {bind}",
                    server.name
                ),
                None => format!("{} has no address", server.name),
            };
            return Err(TransportCause::Resolve(Arc::new(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                text,
            ))));
        }
        self.started = clock::now();
        self.connect_deadline = Some(Tick(
            self.started.0 + state.config.connect_timeout.as_nanos() as u64,
        ));
        self.wanted = false;
        self.failure = None;
        Ok(())
    }

    /// Starts to connect to the next address that lets us.
    fn connect_next(&mut self, state: &State) -> Result<(), TransportCause> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        while let Some(address) = self.addresses.pop_front() {
            match open(address, &state.config.servers[self.server]) {
                Ok(mut stream) => {
                    let both = Interest::READABLE | Interest::WRITABLE;
                    let registered =
                        state
                            .registry
                            .register(&mut stream, mio::Token(self.idx), both);
                    registered.map_err(|error| TransportCause::Connect(Arc::new(error)))?;
                    self.stream = Some(stream);
                    self.phase = Phase::Connecting;
                    self.readable = false;
                    self.ending = false;
                    self.writable = false;
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(TransportCause::Connect(Arc::new(last)))
    }

    /// The kernel says something about the attempt: it stands, it failed, or it is too early.
    fn connected(&mut self, state: &mut State) -> Result<(), TransportCause> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        let outcome = match stream.take_error() {
            Ok(None) => stream.peer_addr().map(|_| ()),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.start_handshake(state),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.writable = false;
                self.readable = false;
                Ok(())
            }
            Err(error) => {
                self.drop_stream(state);
                if self.addresses.is_empty() {
                    return Err(TransportCause::Connect(Arc::new(error)));
                }
                self.connect_next(state)
            }
        }
    }

    /// The socket stands: sends our hello.
    fn start_handshake(&mut self, state: &State) -> Result<(), TransportCause> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| {
            TransportCause::Handshake(format!("no random numbers: {error}").into())
        })?;
        let config = &state.config;
        let required = if config.payload_mac {
            Features::PAYLOAD_MAC
        } else {
            0
        };
        let features = Features::requiring(required);
        let start = ClientHandshake::start(
            &config.auth_key,
            &config.node,
            features,
            clock::unix_ns(),
            nonce,
        );
        let (handshake, hello) =
            start.map_err(|error| TransportCause::Handshake(error.to_string().into()))?;
        self.outbound.push(hello, None, None);
        self.stage = Stage::Hello;
        self.phase = Phase::Shaking(Box::new(handshake));
        // Whoever connects may write; the kernel says so once and not again.
        self.writable = true;
        Ok(())
    }

    /// Takes in the server's hello; false when it isn't whole yet.
    fn parse_hello(&mut self, state: &mut State) -> Result<bool, TransportCause> {
        let bytes = self.buffer.filled();
        let len = message_len(bytes)
            .map_err(|error| TransportCause::Handshake(error.to_string().into()))?;
        let Some(len) = len.filter(|len| bytes.len() >= *len) else {
            self.buffer.reserve(MESSAGE_BYTES_MAX);
            return Ok(false);
        };
        let Phase::Shaking(handshake) = std::mem::replace(&mut self.phase, Phase::Down) else {
            return Err(violation("hello outside of a handshake"));
        };
        let answer = handshake.on_hello_reply(&bytes[..len], clock::unix_ns());
        let (finish, session, hello) = answer.map_err(|error| match error {
            HandshakeError::Refused(refusal) => TransportCause::Refused(refusal.to_string().into()),
            other => TransportCause::Handshake(with_sources(&other).into()),
        })?;
        self.buffer.consume(len);
        self.outbound.push(finish, None, None);
        self.phase = Phase::Up {
            sealer: session.sealer,
            opener: session.opener,
        };
        self.stage = Stage::Header;
        self.connect_deadline = None;
        self.show(state, ConnectionState::Ready);
        let took = Duration::from_nanos(clock::now().since(self.started));
        let (node_id, clock_skew_ns) = (hello.node_id, hello.clock_skew_ns);
        state.notices.push_back(Notice::Connected {
            server: self.server,
            node_id,
            clock_skew_ns,
            took,
        });
        Ok(true)
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

impl<M: FrameMac> Conn<M> {
    /// Seals what may go now and writes until the kernel takes no more.
    fn send<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<(), TransportCause> {
        loop {
            self.seal_ready(state, table);
            let Some(stream) = &mut self.stream else {
                return Ok(());
            };
            if !self.writable || self.outbound.is_empty() {
                return Ok(());
            }
            let mut sent = std::mem::take(&mut state.scratch);
            let wrote = self.outbound.write(stream, &state.jobs, table, &mut sent);
            let now = clock::now();
            for id in sent.drain(..) {
                if let Some(op) = state.jobs.get(id).and_then(|job| table.op_mut(job.token)) {
                    op.steps.sent = Some(now);
                }
            }
            state.scratch = sent;
            match wrote {
                Ok(true) => {}
                Ok(false) => self.writable = false,
                Err(error) => return Err(TransportCause::Lost(Arc::new(error))),
            }
        }
    }

    /// Seals cancellations first, then requests, as far as the window and the frames already waiting allow.
    fn seal_ready<'a, T: OpTable<'a>>(&mut self, state: &mut State, table: &mut T) {
        while self.is_up() && self.outbound.len() < SEALED_FRAMES_MAX {
            if let Some(id) = self.cancels.pop_front() {
                self.seal_cancel(state, id);
            } else if self.in_flight < state.config.window
                && let Some(id) = self.queue.pop_front()
            {
                self.seal_request(state, table, id);
            } else {
                break;
            }
        }
    }

    fn seal_cancel(&mut self, state: &State, id: OpId) {
        if state.jobs.get(id).is_none() {
            return;
        }
        // Ids of ops have a sequence of at least 1 in their high half, so these never collide with one.
        self.cancel_sequence = self.cancel_sequence % u64::from(u32::MAX) + 1;
        self.cancelling.push((self.cancel_sequence, id));
        let mut frame = self.outbound.buffer();
        frame.resize(HEADER_BYTES, 0);
        let head = encode_cancel(&mut frame, id.0).with_request_id(self.cancel_sequence);
        self.seal(&head, &mut frame);
        self.outbound.push(frame, None, None);
    }

    fn seal_request<'a, T: OpTable<'a>>(&mut self, state: &mut State, table: &mut T, id: OpId) {
        let Some(job) = state.jobs.get_mut(id) else {
            return;
        };
        let Some(op) = table.op_mut(job.token) else {
            return;
        };
        let now = clock::now();
        // A budget of 0 would mean none.
        let budget_us =
            (job.deadline.0.saturating_sub(now.0) / 1000).clamp(1, u32::MAX.into()) as u32;
        let mut frame = self.outbound.buffer();
        frame.resize(HEADER_BYTES, 0);
        let head = match op.encode(&mut frame) {
            Ok(head) => head.with_request_id(id.0).with_deadline_us(budget_us),
            Err(error) => {
                // Plans keep every limit, so this is a fault of ours; it stays one of this op alone.
                let text = format!("request can't be encoded: {error}");
                state.finish_with(
                    table,
                    id,
                    self.server,
                    TransportCause::Protocol(text.into()),
                );
                return;
            }
        };
        job.phase = JobPhase::Sent;
        op.steps.begun = Some(now);
        let header = self.seal(&head, &mut frame);
        let trailer = self.trailer(&header, op);
        op.steps.sealed = Some(clock::now());
        self.in_flight += 1;
        self.outbound
            .push(frame, Some((id, op.payload_count())), trailer);
    }

    /// Puts the sealed header in front of a control part that `frame` holds behind the header's place.
    fn seal(&mut self, head: &FrameHead, frame: &mut [u8]) -> [u8; HEADER_BYTES] {
        let Phase::Up { sealer, .. } = &mut self.phase else {
            unreachable!("only a connection that stands seals")
        };
        let header = sealer.seal(head, &frame[HEADER_BYTES..]);
        frame[..HEADER_BYTES].copy_from_slice(&header);
        header
    }

    /// The payload MAC of a write, where one was agreed on.
    fn trailer(&self, header: &[u8; HEADER_BYTES], op: &Op<'_>) -> Option<[u8; TRAILER_BYTES]> {
        let Phase::Up { sealer, .. } = &self.phase else {
            return None;
        };
        let mut mac = sealer.payload_key()?.for_header(header);
        let mut bytes = 0;
        for idx in 0..op.payload_count() {
            mac.update(op.payload(idx));
            bytes += op.payload(idx).len();
        }
        (bytes > 0).then(|| mac.finish())
    }

    /// Reads and takes in until the socket has nothing more.
    fn receive<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<(), TransportCause> {
        loop {
            let arrived = self
                .read(state, table)
                .map_err(|error| TransportCause::Lost(Arc::new(error)))?;
            let full = match arrived {
                Arrived::Nothing => {
                    self.readable = false;
                    return Ok(());
                }
                Arrived::End => return Err(TransportCause::ClosedByPeer),
                Arrived::Some { direct, full } => {
                    if direct > 0 {
                        self.payload_arrived(state, table, direct)?;
                    }
                    full
                }
            };
            while self.parse(state, table)? {}
            // A stream that gave less than there was room for is empty, and tells when there is more.
            if !full && !self.ending {
                self.readable = false;
                return Ok(());
            }
        }
    }

    fn read<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> io::Result<Arrived> {
        let Some(stream) = &mut self.stream else {
            return Ok(Arrived::Nothing);
        };
        if let Stage::Payload(payload) = &self.stage
            && let Some(&Piece {
                entry,
                left,
                sink: Sink::Entry,
            }) = payload.pieces.front()
            && left >= DIRECT_BYTES_MIN
            && self.buffer.filled().is_empty()
            && let Some(op) = state
                .jobs
                .get(payload.id)
                .and_then(|job| table.op_mut(job.token))
            && let Some(dest) = op.dest(entry, left)
        {
            return self.buffer.read_direct(stream, dest);
        }
        self.buffer.read(stream)
    }

    /// Takes in one step's worth of what is in the buffer; false when it needs more bytes.
    fn parse<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<bool, TransportCause> {
        match &mut self.stage {
            Stage::Hello => self.parse_hello(state),
            Stage::Header => self.parse_header(state, table),
            Stage::Control(head) => {
                let head = *head;
                let need = head.control_len as usize;
                if self.buffer.filled().len() < need {
                    self.buffer.reserve(need);
                    return Ok(false);
                }
                self.parse_control(state, table, &head)?;
                self.buffer.consume(need);
                Ok(true)
            }
            Stage::Payload(_) => self.parse_payload(state, table),
        }
    }

    fn parse_header<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<bool, TransportCause> {
        let Some(header) = self.buffer.filled().first_chunk::<HEADER_BYTES>() else {
            self.buffer.reserve(HEADER_BYTES);
            return Ok(false);
        };
        let Phase::Up { opener, .. } = &mut self.phase else {
            return Err(violation("frame before the handshake"));
        };
        let head = opener
            .open(header)
            .map_err(|error| violation(&error.to_string()))?;
        self.buffer.consume(HEADER_BYTES);
        let answered = state
            .jobs
            .get(OpId(head.request_id))
            .and_then(|job| table.op_mut(job.token));
        if let Some(op) = answered {
            op.steps.answered.get_or_insert_with(clock::now);
        }
        self.stage = Stage::Control(head);
        Ok(true)
    }

    fn parse_control<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        head: &FrameHead,
    ) -> Result<(), TransportCause> {
        let Phase::Up { opener, .. } = &mut self.phase else {
            return Err(violation("frame before the handshake"));
        };
        let control = &self.buffer.filled()[..head.control_len as usize];
        opener
            .check_control(head, control)
            .map_err(|error| violation(&error.to_string()))?;
        let (blocks, reply) =
            Reply::decode(head, control).map_err(|error| violation(&error.to_string()))?;
        self.stage = Stage::Header;
        if head.op == OpCode::Cancel {
            return self.cancelled(state, table, head.request_id);
        }
        let id = OpId(head.request_id);
        let server = &state.config.servers[self.server].name;
        let job = state
            .jobs
            .get(id)
            .filter(|job| job.conn == self.idx && !matches!(job.phase, JobPhase::Queued));
        let op = job.and_then(|job| table.op_mut(job.token));
        let mut pieces = std::mem::take(&mut self.spare_pieces);
        pieces.clear();
        match (op, reply) {
            (Some(op), reply) => {
                op.reply_span = blocks.span_id.or(op.reply_span);
                if head.op != op.code {
                    return Err(violation("reply of another op than the request's"));
                }
                let taken = take_in(op, server, reply, &mut pieces);
                taken.map_err(violation)?;
            }
            // The answer to what was cancelled or timed out meanwhile: nobody waits for it, its bytes go nowhere.
            (None, Reply::Values(_)) => {
                let left = usize::try_from(head.payload_len)
                    .map_err(|_| violation("payload is too long"))?;
                pieces.push_back(Piece {
                    entry: 0,
                    left,
                    sink: Sink::Discard,
                });
            }
            (None, _) => {}
        }
        pieces.retain(|piece| piece.left > 0);
        let mac = opener
            .payload_key()
            .filter(|_| head.payload_len > 0)
            .map(|key| Box::new(key.for_head(head)));
        if pieces.is_empty() && mac.is_none() {
            self.spare_pieces = pieces;
            return self.frame_done(state, table, id, head.has_more());
        }
        self.stage = Stage::Payload(Payload {
            id,
            more: head.has_more(),
            pieces,
            mac,
        });
        Ok(())
    }

    /// The server will not touch a cancelled op any more.
    fn cancelled<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        cancel: u64,
    ) -> Result<(), TransportCause> {
        let found = self.cancelling.iter().position(|(sent, _)| *sent == cancel);
        let found =
            found.ok_or_else(|| violation("acknowledges a cancellation that was never sent"))?;
        let (_, id) = self.cancelling.swap_remove(found);
        let cause = match state.jobs.get(id).map(|job| &job.phase) {
            Some(JobPhase::Fencing { cause, .. }) => cause.clone(),
            // Its answer came first.
            _ => return Ok(()),
        };
        self.in_flight -= 1;
        state.finish_with(table, id, self.server, cause);
        Ok(())
    }

    /// Takes payload (and its MAC) out of the buffer; false when it needs more bytes.
    fn parse_payload<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<bool, TransportCause> {
        let Stage::Payload(payload) = &mut self.stage else {
            return Ok(false);
        };
        let Some(&Piece { entry, left, sink }) = payload.pieces.front() else {
            let Some(trailer) = self.buffer.filled().first_chunk::<TRAILER_BYTES>() else {
                self.buffer.reserve(TRAILER_BYTES);
                return Ok(false);
            };
            if !payload.mac.as_ref().is_none_or(|mac| mac.verify(trailer)) {
                return Err(violation("payload MAC doesn't match"));
            }
            self.buffer.consume(TRAILER_BYTES);
            self.payload_done(state, table)?;
            return Ok(true);
        };
        let have = self.buffer.filled().len().min(left);
        if have == 0 {
            self.buffer.reserve(1);
            return Ok(false);
        }
        let op = state
            .jobs
            .get(payload.id)
            .and_then(|job| table.op_mut(job.token));
        match op
            .and_then(|op| op.dest(entry, have))
            .filter(|_| sink == Sink::Entry)
        {
            Some(dest) => dest.copy_from_slice(&self.buffer.filled()[..have]),
            None => {
                // Bytes that go nowhere still count for the MAC.
                if let Some(mac) = &mut payload.mac {
                    mac.update(&self.buffer.filled()[..have]);
                }
            }
        }
        self.buffer.consume(have);
        self.payload_arrived(state, table, have)?;
        Ok(true)
    }

    /// Accounts for `count` bytes of the current piece that are where they belong.
    fn payload_arrived<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        count: usize,
    ) -> Result<(), TransportCause> {
        let Stage::Payload(payload) = &mut self.stage else {
            return Ok(());
        };
        let Some(piece) = payload.pieces.front_mut() else {
            return Ok(());
        };
        let entry = piece.entry;
        piece.left -= count;
        let piece_done = piece.left == 0;
        if let Some(op) = state
            .jobs
            .get(payload.id)
            .and_then(|job| table.op_mut(job.token))
        {
            if let (Some(mac), Some(bytes)) = (&mut payload.mac, op.filled(entry, count)) {
                mac.update(bytes);
            }
            op.advance(&state.config.servers[self.server].name, entry, count);
        }
        if piece_done {
            payload.pieces.pop_front();
            if payload.pieces.is_empty() && payload.mac.is_none() {
                return self.payload_done(state, table);
            }
        }
        Ok(())
    }

    fn payload_done<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<(), TransportCause> {
        let Stage::Payload(payload) = std::mem::replace(&mut self.stage, Stage::Header) else {
            return Ok(());
        };
        self.spare_pieces = payload.pieces;
        self.frame_done(state, table, payload.id, payload.more)
    }

    /// A whole frame is in; if it was its reply's last, the op is done.
    fn frame_done<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        id: OpId,
        more: bool,
    ) -> Result<(), TransportCause> {
        let Some(op) = state.jobs.get(id).and_then(|job| table.op_mut(job.token)) else {
            return Ok(());
        };
        if more {
            return Ok(());
        }
        if !op.is_settled() {
            return Err(violation("reply ends before all its entries are answered"));
        }
        op.steps.settled = Some(clock::now());
        self.in_flight -= 1;
        state.finish(id);
        Ok(())
    }
}

/// Hands a reply to its op; where a value's bytes go is added to `pieces`, in the order in which they come.
fn take_in(
    op: &mut Op<'_>,
    server: &Arc<str>,
    reply: Reply<'_>,
    pieces: &mut VecDeque<Piece>,
) -> Result<(), &'static str> {
    match reply {
        Reply::Values(segments) => {
            for segment in segments.iter() {
                let entry = segment.entry_idx as usize;
                let sink = op.value(server, &segment, segments.retry_after_us())?;
                pieces.push_back(Piece {
                    entry,
                    left: segment.chunk_len as usize,
                    sink,
                });
            }
            Ok(())
        }
        Reply::Written(results) => op.written(server, &results),
        Reply::Outcomes(outcomes) => op.outcomes(server, &outcomes),
        Reply::Failed(failure) => {
            op.failed(server, &failure);
            Ok(())
        }
        Reply::Pong(pong) => op.bare(BareReply::Pong(pong)),
        Reply::Stat(fields) => op.bare(BareReply::Stat(fields.iter().collect())),
        Reply::Connected(_) | Reply::Cancelled(_) => Err("reply of another op than the request's"),
    }
}

/// An error and what is behind it, in one line: the chain doesn't survive a clone to every op of a connection.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn violation(what: &str) -> TransportCause {
    TransportCause::Protocol(what.into())
}

/// A socket that is connecting to `address`.
fn open(address: SocketAddr, server: &CoreServer) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bind) = server.bind {
        socket.bind(&SockAddr::from(SocketAddr::new(bind, 0)))?;
    }
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => {}
        // EINPROGRESS has no kind of its own.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}
