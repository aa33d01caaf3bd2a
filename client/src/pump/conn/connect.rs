//! How a connection comes about: addresses, the kernel's connect, the handshake.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use memkv_proto::mac::FrameMac;
use memkv_proto::session::{
    ClientHandshake, Features, HandshakeError, MESSAGE_BYTES_MAX, message_len,
};
use memkv_telemetry::ConnectionState;
use memkv_telemetry::clock::{self, Tick};
use mio::Interest;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Conn, Phase, Stage, violation};
use crate::error::TransportCause;
use crate::pump::{CoreServer, Notice, State};

impl<M: FrameMac> Conn<M> {
    /// Finds the server's addresses. Looks a name up at every attempt, since its address may have changed; blocks as long
    /// as the resolver does, and not at all for a literal address.
    pub(super) fn resolve(&mut self, state: &State) -> Result<(), TransportCause> {
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
    pub(super) fn connect_next(&mut self, state: &State) -> Result<(), TransportCause> {
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
                    self.low_water = 1;
                    self.interest = both;
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
    pub(super) fn connected(&mut self, state: &mut State) -> Result<(), TransportCause> {
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
            &config.servers[self.server].identity,
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
    pub(super) fn parse_hello(&mut self, state: &mut State) -> Result<bool, TransportCause> {
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
