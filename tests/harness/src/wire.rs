//! A client that speaks the protocol by hand, frame by frame, so that tests can say it wrong.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memkv_proto::checksum::crc32c;
use memkv_proto::op::{Attrs, Condition, ErrorCode, OpCode, Outcome, PutEntry};
use memkv_proto::reply::Reply;
use memkv_proto::session::{
    ClientHandshake, Features, Opener, Sealer, Session, SessionInfo, message_len,
};
use memkv_proto::{FrameHead, HEADER_BYTES};

use crate::server::key;

/// One connection with a session.
pub struct WireClient {
    /// The socket.
    pub stream: TcpStream,
    /// Signs what is sent.
    pub sealer: Sealer,
    /// Verifies what is received.
    pub opener: Opener,
    /// What is known of the session.
    pub info: SessionInfo,
    next_id: u64,
}

/// What became of one entry of a read: its value, a miss, or an error.
pub type Found = Result<Option<Vec<u8>>, ErrorCode>;

/// A frame as it was received and verified.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its header.
    pub head: FrameHead,
    /// Its control part.
    pub control: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Nanoseconds of Unix time.
pub fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// Connects without a handshake.
///
/// # Panics
/// If nobody listens.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time limit");
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .expect("a time limit");
    stream
}

/// Reads one handshake message.
///
/// # Errors
/// What the socket says; `UnexpectedEof` when the server closed.
pub fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes)?;
    let len = message_len(&bytes).map_err(io::Error::other)?.unwrap_or(8);
    bytes.resize(len, 0);
    stream.read_exact(&mut bytes[8..])?;
    Ok(bytes)
}

/// Reads until the server closes; what it said before.
pub fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset says the same as an orderly close.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

/// Whether the server has closed the connection, waiting up to `limit` for it.
pub fn closes_within(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).expect("a time limit");
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                );
            }
        }
    }
}

impl WireClient {
    /// Connects and shakes hands.
    ///
    /// # Panics
    /// If the server doesn't let it in.
    pub fn connect(address: SocketAddr) -> Self {
        Self::with_features(address, Features::default())
    }

    /// The same, with features.
    ///
    /// # Panics
    /// If the server doesn't let it in.
    pub fn with_features(address: SocketAddr, features: Features) -> Self {
        let mut stream = connect(address);
        let session = shake_hands(&mut stream, features).expect("a session");
        Self::from_session(stream, session)
    }

    /// A client over a session that was made otherwise.
    pub fn from_session(stream: TcpStream, session: Session) -> Self {
        let Session {
            info,
            sealer,
            opener,
            ..
        } = session;
        Self {
            stream,
            sealer,
            opener,
            info,
            next_id: 1,
        }
    }

    /// A request id that wasn't used yet.
    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// Seals a frame; its bytes.
    pub fn seal(&mut self, head: FrameHead, control: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = self.sealer.seal(&head, control);
        let mut frame = [&header[..], control, payload].concat();
        if !payload.is_empty()
            && let Some(key) = self.sealer.payload_key()
        {
            let mut mac = key.for_header(&header);
            mac.update(payload);
            frame.extend_from_slice(&mac.finish());
        }
        frame
    }

    /// Seals a frame and sends it.
    ///
    /// # Panics
    /// If the socket doesn't take it.
    pub fn send(&mut self, head: FrameHead, control: &[u8], payload: &[u8]) {
        let frame = self.seal(head, control, payload);
        self.stream.write_all(&frame).expect("the server reads");
    }

    /// Receives and verifies one frame.
    ///
    /// # Errors
    /// What the socket says.
    ///
    /// # Panics
    /// If the server sent what it mustn't.
    pub fn receive(&mut self) -> io::Result<Frame> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header)?;
        let head = self.opener.open(&header).expect("an authentic header");
        let mut control = vec![0; head.control_len as usize];
        self.stream.read_exact(&mut control)?;
        self.opener
            .check_control(&head, &control)
            .expect("an authentic control part");
        let mut payload = vec![0; head.payload_len as usize];
        self.stream.read_exact(&mut payload)?;
        if self.opener.trailer_len(&head) > 0 {
            let mut trailer = [0; 32];
            self.stream.read_exact(&mut trailer)?;
            let mut mac = self
                .opener
                .payload_key()
                .expect("a payload key")
                .for_head(&head);
            mac.update(&payload);
            assert!(mac.verify(&trailer), "the payload's MAC doesn't verify");
        }
        Ok(Frame {
            head,
            control,
            payload,
        })
    }

    /// Puts one value; the outcome of its entry, or of the request.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        self.put_many(&[(key, value)])[0]
    }

    /// Puts values in one frame; one outcome each.
    ///
    /// # Panics
    /// If the server answers otherwise.
    pub fn put_many(&mut self, values: &[(&[u8], &[u8])]) -> Vec<Outcome> {
        let id = self.send_put(values);
        let frame = self.receive().expect("a reply");
        assert_eq!(frame.head.request_id, id);
        written(&frame, values.len())
    }

    /// Sends a write; its request id.
    pub fn send_put(&mut self, values: &[(&[u8], &[u8])]) -> u64 {
        let op = if values.len() == 1 {
            OpCode::Put
        } else {
            OpCode::BatchWrite
        };
        let mut control = Vec::new();
        let entries = values.iter().map(|(key, value)| entry(key, value));
        let head = memkv_proto::request::encode_writes(&mut control, op, None, entries);
        let id = self.next_id();
        let payload = values
            .iter()
            .map(|(_, value)| *value)
            .collect::<Vec<_>>()
            .concat();
        self.send(
            head.expect("an encodable write").with_request_id(id),
            &control,
            &payload,
        );
        id
    }

    /// Sends a request about keys; its request id.
    pub fn send_keys(&mut self, op: OpCode, keys: &[&[u8]]) -> u64 {
        let mut control = Vec::new();
        let head =
            memkv_proto::request::encode_keys(&mut control, op, None, 0, keys.iter().copied());
        let id = self.next_id();
        self.send(
            head.expect("encodable keys").with_request_id(id),
            &control,
            &[],
        );
        id
    }

    /// Gets one value.
    ///
    /// # Errors
    /// The entry's or the request's error.
    pub fn get(&mut self, key: &[u8]) -> Found {
        self.send_keys(OpCode::Get, &[key]);
        self.receive_values(1).remove(0)
    }

    /// Gets values in one batch.
    pub fn get_many(&mut self, keys: &[&[u8]]) -> Vec<Found> {
        self.send_keys(OpCode::BatchRead, keys);
        self.receive_values(keys.len())
    }

    /// Receives all parts of the reply to a read of `count` keys.
    ///
    /// # Panics
    /// If a value isn't whole, or its checksum is wrong.
    pub fn receive_values(&mut self, count: usize) -> Vec<Found> {
        let mut values: Vec<Option<Found>> = vec![None; count];
        loop {
            let frame = self.receive().expect("a reply");
            if !collect(&frame, &mut values) {
                break;
            }
        }
        values
            .into_iter()
            .map(|value| value.expect("every entry is answered"))
            .collect()
    }

    /// Asks which keys are there.
    ///
    /// # Panics
    /// If the server answers otherwise.
    pub fn exists(&mut self, keys: &[&[u8]]) -> Vec<Outcome> {
        self.outcomes(OpCode::Exists, keys)
    }

    /// Deletes keys.
    pub fn delete(&mut self, keys: &[&[u8]]) -> Vec<Outcome> {
        self.outcomes(OpCode::Delete, keys)
    }

    fn outcomes(&mut self, op: OpCode, keys: &[&[u8]]) -> Vec<Outcome> {
        let id = self.send_keys(op, keys);
        let frame = self.receive().expect("a reply");
        assert_eq!(frame.head.request_id, id);
        match Reply::decode(&frame.head, &frame.control)
            .expect("a reply")
            .1
        {
            Reply::Outcomes(outcomes) => outcomes.iter().collect(),
            Reply::Failed(failure) => vec![Outcome::Error(failure.code); keys.len()],
            other => panic!("{other:?}"),
        }
    }

    /// Whether the server still answers on this connection.
    pub fn is_alive(&mut self) -> bool {
        let mut control = Vec::new();
        let head = memkv_proto::request::encode_ping(&mut control, 7);
        let id = self.next_id();
        let frame = self.seal(head.with_request_id(id), &control, &[]);
        self.stream.write_all(&frame).is_ok() && self.receive().is_ok()
    }
}

/// Adds what a part of a reply says; whether more follow.
///
/// # Panics
/// If a value isn't whole, or its checksum is wrong.
pub fn collect(frame: &Frame, values: &mut [Option<Found>]) -> bool {
    let segments = match Reply::decode(&frame.head, &frame.control)
        .expect("a reply")
        .1
    {
        Reply::Values(segments) => segments,
        Reply::Failed(failure) => {
            values.fill(Some(Err(failure.code)));
            return false;
        }
        other => panic!("{other:?}"),
    };
    let mut at = 0;
    for segment in segments.iter() {
        let slot = &mut values[segment.entry_idx as usize];
        match segment.outcome {
            Outcome::Miss => *slot = Some(Ok(None)),
            Outcome::Error(code) => *slot = Some(Err(code)),
            Outcome::Ok => {
                let mut value = match slot.take() {
                    Some(Ok(Some(value))) => value,
                    _ => Vec::new(),
                };
                assert_eq!(value.len() as u64, segment.offset, "segments come in order");
                let end = at + segment.chunk_len as usize;
                value.extend_from_slice(&frame.payload[at..end]);
                at = end;
                if segment.is_last() {
                    assert_eq!(crc32c(&value), segment.crc, "the value's checksum");
                }
                *slot = Some(Ok(Some(value)));
            }
        }
    }
    frame.head.has_more()
}

/// The outcomes of a reply to a write of `count` entries.
///
/// # Panics
/// If it isn't one.
pub fn written(frame: &Frame, count: usize) -> Vec<Outcome> {
    match Reply::decode(&frame.head, &frame.control)
        .expect("a reply")
        .1
    {
        Reply::Written(results) => {
            assert_eq!(results.len(), count);
            results.iter().map(|result| result.outcome).collect()
        }
        Reply::Failed(failure) => vec![Outcome::Error(failure.code); count],
        other => panic!("{other:?}"),
    }
}

/// The entry that puts `value` under `key`.
pub fn entry<'a>(key: &'a [u8], value: &[u8]) -> PutEntry<'a> {
    PutEntry {
        key,
        attrs: Attrs::default(),
        condition: Condition::None,
        value_len: value.len() as u64,
        crc: crc32c(value),
    }
}

/// Shakes hands over a connected socket.
///
/// # Errors
/// What the socket says, or why there is no session.
pub fn shake_hands(stream: &mut TcpStream, features: Features) -> io::Result<Session> {
    let mut nonce = [0; 32];
    nonce[..8].copy_from_slice(&unix_ns().to_le_bytes());
    let local = stream.local_addr()?.port().to_le_bytes();
    nonce[8..10].copy_from_slice(&local);
    let (handshake, hello) = ClientHandshake::start(&key(), "test", features, unix_ns(), nonce)
        .map_err(io::Error::other)?;
    stream.write_all(&hello)?;
    let reply = read_message(stream)?;
    let (finish, session, _) = handshake
        .on_hello_reply(&reply, unix_ns())
        .map_err(io::Error::other)?;
    stream.write_all(&finish)?;
    Ok(session)
}

/// A value of `len` bytes that tells where each byte belongs.
pub fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
