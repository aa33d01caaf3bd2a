//! The scripted peer.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use memkv_proto::blocks::ReplyBlocks;
use memkv_proto::checksum::crc32c;
use memkv_proto::frame::{Flags, FrameHead, HEADER_BYTES};
use memkv_proto::op::{Attrs, OpCode, Outcome, Segment};
use memkv_proto::payload::TRAILER_BYTES;
use memkv_proto::reply::{self, CancelState, Pong, ServerState, WriteResult};
use memkv_proto::request::Request;
use memkv_proto::session::{
    AuthKey, Features, KeyRing, Opener, Sealer, ServerHandshake, ServerIdentity, message_len,
};
use memkv_proto::stat::StatKey;
use memkv_telemetry::clock;

use super::KEY;

/// How a peer presents itself.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) key: [u8; 32],
    pub(super) node: &'static str,
    pub(super) required: u64,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            key: KEY,
            node: "",
            required: 0,
        }
    }
}

/// Listens on a free port and runs `script` once per connection, in turn, until it returns false.
pub(super) fn listen(
    mut script: impl FnMut(usize, TcpStream) -> bool + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        for (idx, stream) in listener.incoming().enumerate() {
            if !script(idx, stream.unwrap()) {
                return;
            }
        }
    });
    (address, thread)
}

/// As [`listen`], with each connection in a thread of its own after its handshake.
pub(super) fn serve(
    identity: Identity,
    script: impl Fn(usize, &mut Peer) + Send + Sync + 'static,
) -> SocketAddr {
    let script = Arc::new(script);
    let (address, _) = listen(move |idx, stream| {
        let (script, identity) = (Arc::clone(&script), identity.clone());
        std::thread::spawn(move || {
            if let Some(mut peer) = Peer::accept(stream, &identity) {
                script(idx, &mut peer);
            }
        });
        true
    });
    address
}

/// The server's side of one connection.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    sealer: Sealer,
    opener: Opener,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) head: FrameHead,
    pub(super) control: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Asked {
    pub(super) fn request(&self) -> Request<'_> {
        Request::decode(&self.head, &self.control).unwrap().1
    }

    pub(super) fn op(&self) -> OpCode {
        self.head.op
    }

    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        match self.request() {
            Request::Get(keys)
            | Request::BatchRead(keys)
            | Request::Delete(keys)
            | Request::Exists(keys) => keys.iter().map(<[u8]>::to_vec).collect(),
            other => panic!("{other:?} has no keys"),
        }
    }
}

impl Peer {
    /// Shakes hands; none when the client went away.
    pub(super) fn accept(mut stream: TcpStream, identity: &Identity) -> Option<Self> {
        stream.set_nodelay(true).unwrap();
        let keys = KeyRing::new(AuthKey::new(identity.key), None);
        let hello = read_message(&mut stream)?;
        let server = ServerIdentity {
            node_id: identity.node,
            features: Features::requiring(identity.required),
        };
        let (answer, handshake) =
            match ServerHandshake::on_hello(&hello, &keys, &server, clock::unix_ns(), [9; 32]) {
                Ok(answered) => answered,
                Err(refusal) => {
                    stream.write_all(&refusal.to_bytes()).ok()?;
                    return None;
                }
            };
        stream.write_all(&answer).ok()?;
        let finish = read_message(&mut stream)?;
        let session = handshake.on_finish(&finish, clock::unix_ns()).ok()?;
        Some(Self {
            stream,
            sealer: session.sealer,
            opener: session.opener,
        })
    }

    /// The next request that isn't a Ping, which is answered; none when the client has closed.
    pub(super) fn next(&mut self) -> Option<Asked> {
        let mut asked = self.next_control()?;
        while asked.op() == OpCode::Ping {
            self.pong(&asked);
            asked = self.next_control()?;
        }
        asked.payload = vec![0; asked.head.payload_len as usize];
        self.stream.read_exact(&mut asked.payload).ok()?;
        if self.opener.trailer_len(&asked.head) > 0 {
            let mut trailer = [0; TRAILER_BYTES];
            self.stream.read_exact(&mut trailer).ok()?;
            let mut mac = self.opener.payload_key().unwrap().for_head(&asked.head);
            mac.update(&asked.payload);
            assert!(mac.verify(&trailer), "the client's payload MAC holds");
        }
        Some(asked)
    }

    /// The next request without its payload.
    pub(super) fn next_control(&mut self) -> Option<Asked> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).ok()?;
        let head = self.opener.open(&header).expect("the client seals well");
        let mut control = vec![0; head.control_len as usize];
        self.stream.read_exact(&mut control).ok()?;
        self.opener
            .check_control(&head, &control)
            .expect("the client's digest holds");
        Some(Asked {
            head,
            control,
            payload: Vec::new(),
        })
    }

    /// Whether a MAC follows the payload of that request.
    pub(super) fn expects_trailer(&self, asked: &Asked) -> bool {
        self.opener.trailer_len(&asked.head) > 0
    }

    /// The payload that [`Peer::next_control`] left.
    pub(super) fn read_payload(&mut self, asked: &Asked) -> Vec<u8> {
        let mut payload = vec![0; asked.head.payload_len as usize];
        self.stream
            .read_exact(&mut payload)
            .expect("the client sends what it announced");
        payload
    }

    /// A frame's bytes, as they would go out.
    pub(super) fn sealed(&mut self, head: FrameHead, control: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = self.sealer.seal(&head, control);
        let mut bytes = [&header, control, payload].concat();
        if let Some(key) = self.sealer.payload_key().filter(|_| !payload.is_empty()) {
            let mut mac = key.for_header(&header);
            mac.update(payload);
            bytes.extend_from_slice(&mac.finish());
        }
        bytes
    }

    /// Sends bytes; whether the client still takes them is its business.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(super) fn send(&mut self, head: FrameHead, control: &[u8], payload: &[u8]) {
        let bytes = self.sealed(head, control, payload);
        self.write(&bytes);
    }

    /// One part of the reply to a read.
    pub(super) fn part(
        &mut self,
        asked: &Asked,
        segments: &[Segment],
        payload: &[u8],
        more: bool,
    ) -> Vec<u8> {
        let mut control = Vec::new();
        let head = reply::encode_values(
            &mut control,
            asked.op(),
            &ReplyBlocks::default(),
            0,
            segments,
        )
        .unwrap();
        let flags = if more { Flags::MORE } else { Flags::NONE };
        self.sealed(
            head.with_request_id(asked.head.request_id)
                .with_flags(flags),
            &control,
            payload,
        )
    }

    /// The whole reply to a read of one value.
    pub(super) fn value(&mut self, asked: &Asked, value: &[u8]) -> Vec<u8> {
        self.part(asked, &[whole(0, value)], value, false)
    }

    pub(super) fn outcomes(&mut self, asked: &Asked, outcomes: &[Outcome]) {
        let mut control = Vec::new();
        let blocks = ReplyBlocks::default();
        let head = reply::encode_outcomes(
            &mut control,
            asked.op(),
            &blocks,
            0,
            outcomes.iter().copied(),
        )
        .unwrap();
        self.send(head.with_request_id(asked.head.request_id), &control, &[]);
    }

    pub(super) fn written(&mut self, asked: &Asked, results: &[WriteResult]) {
        let mut control = Vec::new();
        let blocks = ReplyBlocks::default();
        let head = reply::encode_written(
            &mut control,
            asked.op(),
            &blocks,
            0,
            results.iter().copied(),
        )
        .unwrap();
        self.send(head.with_request_id(asked.head.request_id), &control, &[]);
    }

    pub(super) fn pong(&mut self, asked: &Asked) {
        let Request::Ping { echo } = asked.request() else {
            panic!("{asked:?} is no ping")
        };
        let mut control = Vec::new();
        let pong = Pong {
            echo,
            unix_ns: clock::unix_ns(),
            state: ServerState::Ready,
        };
        let head = reply::encode_pong(&mut control, &ReplyBlocks::default(), &pong);
        self.send(head.with_request_id(asked.head.request_id), &control, &[]);
    }

    pub(super) fn cancelled(&mut self, asked: &Asked) {
        let mut control = Vec::new();
        let head =
            reply::encode_cancelled(&mut control, &ReplyBlocks::default(), CancelState::Stopped);
        self.send(head.with_request_id(asked.head.request_id), &control, &[]);
    }
}

/// The segment of entry `idx`'s whole value.
pub(super) fn whole(idx: u32, value: &[u8]) -> Segment {
    piece(idx, value, 0, value.len())
}

/// The segment of `len` bytes from `offset` of entry `idx`'s value.
pub(super) fn piece(idx: u32, value: &[u8], offset: usize, len: usize) -> Segment {
    Segment {
        entry_idx: idx,
        outcome: Outcome::Ok,
        attrs: Attrs::default(),
        version: 7,
        value_len: value.len() as u64,
        crc: crc32c(value),
        offset: offset as u64,
        chunk_len: len as u32,
    }
}

fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
        if message_len(&bytes).ok()? == Some(bytes.len()) {
            return Some(bytes);
        }
    }
}

/// A value that differs from its neighbours everywhere.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(byte).collect()
}

/// A value, its attributes and its version.
type Stored = (Vec<u8>, Attrs, u64);

/// What the peer of [`store`] keeps, and what it was asked.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) values: BTreeMap<(u32, Vec<u8>), Stored>,
    pub(super) log: Vec<(OpCode, usize)>,
    version: u64,
}

/// A peer that serves a map, as a server would.
pub(super) fn store(identity: Identity) -> (SocketAddr, Arc<Mutex<Kept>>) {
    let kept = Arc::new(Mutex::new(Kept::default()));
    let shared = Arc::clone(&kept);
    let address = serve(identity, move |_, peer| {
        while let Some(asked) = peer.next() {
            answer(peer, &asked, &mut shared.lock().unwrap());
        }
    });
    (address, kept)
}

fn answer(peer: &mut Peer, asked: &Asked, kept: &mut Kept) {
    match asked.request() {
        Request::Put(entries) | Request::BatchWrite(entries) => {
            kept.log.push((asked.op(), entries.len()));
            let mut at = 0;
            let mut results = Vec::new();
            for entry in entries.iter() {
                let value = asked.payload[at..at + entry.value_len as usize].to_vec();
                at += value.len();
                assert_eq!(crc32c(&value), entry.crc, "the client's checksum holds");
                kept.version += 1;
                let row = (value, entry.attrs, kept.version);
                kept.values
                    .insert((entry.attrs.namespace, entry.key.to_vec()), row);
                results.push(WriteResult {
                    outcome: Outcome::Ok,
                    version: kept.version,
                });
            }
            peer.written(asked, &results);
        }
        Request::Get(keys) | Request::BatchRead(keys) => {
            kept.log.push((asked.op(), keys.len()));
            let found: Vec<_> = keys
                .iter()
                .map(|key| kept.values.get(&(keys.namespace(), key.to_vec())))
                .collect();
            let (mut segments, mut payload) = (Vec::new(), Vec::new());
            for (idx, found) in found.iter().enumerate() {
                let idx = idx as u32;
                segments.push(match found {
                    Some((value, attrs, version)) => {
                        payload.extend_from_slice(value);
                        Segment {
                            attrs: *attrs,
                            version: *version,
                            ..whole(idx, value)
                        }
                    }
                    None => Segment::without_value(idx, Outcome::Miss),
                });
            }
            let bytes = peer.part(asked, &segments, &payload, false);
            peer.write(&bytes);
        }
        Request::Exists(keys) | Request::Delete(keys) => {
            kept.log.push((asked.op(), keys.len()));
            let space = keys.namespace();
            let outcome = |there: bool| if there { Outcome::Ok } else { Outcome::Miss };
            let outcomes: Vec<Outcome> = match asked.op() {
                OpCode::Delete => keys
                    .iter()
                    .map(|key| outcome(kept.values.remove(&(space, key.to_vec())).is_some()))
                    .collect(),
                _ => keys
                    .iter()
                    .map(|key| outcome(kept.values.contains_key(&(space, key.to_vec()))))
                    .collect(),
            };
            peer.outcomes(asked, &outcomes);
        }
        Request::Cancel { .. } => peer.cancelled(asked),
        Request::Ping { .. } => unreachable!("a peer answers them itself"),
        Request::Stat => {
            let mut control = Vec::new();
            let fields = [(StatKey::Entries, kept.values.len() as u64)];
            let head = reply::encode_stat(&mut control, &ReplyBlocks::default(), &fields);
            peer.send(head.with_request_id(asked.head.request_id), &control, &[]);
        }
        Request::Connect(_) => panic!("the client has no RDMA"),
    }
}
