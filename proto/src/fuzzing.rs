//! Entry points for fuzzing: one function per decoder, plain bytes in, a panic if a property doesn't hold.
//!
//! The properties are: decoding is total; what decodes is walked to its end without failing and stays within its
//! limits; and encoding it again gives the same bytes, so that no message has two forms. Used by the targets in
//! `tests/fuzz` and by the test that replays their corpora.

use crate::blocks::{ReplyBlocks, write_trace};
use crate::connect::Connect;
use crate::frame::{FRAME_MAGIC, Flags, FrameHead, HEADER_BYTES};
use crate::limits;
use crate::mac::HmacSha256;
use crate::op::{OpCode, PutEntry, Segment};
use crate::payload::TRAILER_BYTES;
use crate::reply::{self, Reply, WriteResult};
use crate::request::{self, Request};
use crate::session::{
    AuthKey, ClientHandshake, Features, KeyRing, Opener, Refusal, Sealer, ServerHandshake,
    ServerIdentity, message_len,
};
use crate::stat::{self, StatFields};
use crate::wire::{DecodeError, Reader};

/// A fuzz entry point.
pub type Target = fn(&[u8]);

/// All entry points, by the names of their targets and corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("proto_handshake", fuzz_handshake),
    ("proto_refusal", fuzz_refusal),
    ("proto_header", fuzz_header),
    ("proto_frame", fuzz_frame),
    ("proto_request", fuzz_request),
    ("proto_reply", fuzz_reply),
    ("proto_connect", fuzz_connect),
    ("proto_stat", fuzz_stat),
];

const KEY: [u8; 32] = [7; 32];
const NOW_NS: u64 = 1_700_000_000_000_000_000;

/// Hello, hello reply and Finish, at both sides. No input makes a session: it can't know the key.
pub fn fuzz_handshake(data: &[u8]) {
    if let Ok(Some(len)) = message_len(data) {
        assert!((8..=512).contains(&len));
    }
    let key = AuthKey::new(KEY);
    let ring = KeyRing::new(key.clone(), None);
    let identity = ServerIdentity {
        node_id: "server",
        features: Features::default(),
    };
    let answer = ServerHandshake::<HmacSha256>::on_hello(data, &ring, &identity, NOW_NS, [2; 32]);
    if let Ok((reply, server)) = answer {
        assert!(reply.len() <= 512);
        assert!(
            server.on_finish(data, NOW_NS).is_err(),
            "a hello passed for a Finish"
        );
    }
    let (client, hello) =
        ClientHandshake::<HmacSha256>::start(&key, "client", Features::default(), NOW_NS, [1; 32])
            .expect("a short node identity");
    assert!(
        client.on_hello_reply(data, NOW_NS).is_err(),
        "a forged reply was accepted"
    );
    let (_, server) =
        ServerHandshake::<HmacSha256>::on_hello(&hello, &ring, &identity, NOW_NS, [2; 32])
            .expect("an honest hello");
    assert!(
        server.on_finish(data, NOW_NS).is_err(),
        "a forged Finish was accepted"
    );
}

/// Refusals.
pub fn fuzz_refusal(data: &[u8]) {
    if let Ok(refusal) = Refusal::decode(data) {
        assert_eq!(refusal.to_bytes(), data);
        assert!(!refusal.to_string().is_empty());
    }
    let _ = Refusal::sniff(data);
}

/// Frame headers: parsing in both directions, and an opener that must take none of them.
pub fn fuzz_header(data: &[u8]) {
    let mut header = [0; HEADER_BYTES];
    let len = data.len().min(HEADER_BYTES);
    header[..len].copy_from_slice(&data[..len]);
    for reply in [false, true] {
        if let Ok(head) = FrameHead::parse(&header, reply) {
            assert!(head.control_len as usize <= limits::CONTROL_BYTES_MAX);
            assert!(head.payload_len <= limits::PAYLOAD_BYTES_MAX);
            assert_eq!(head.flags.contains(Flags::REPLY), reply);
        }
        let mut opener = Opener::<HmacSha256>::new(&KEY, None, 1, reply);
        assert!(
            opener.open(&header).is_err(),
            "a forged header was accepted"
        );
    }
}

/// A signed frame that the input alters: `offset 2 | xor 1` each. Whatever changes, something refuses it.
pub fn fuzz_frame(data: &[u8]) {
    let mut control = Vec::new();
    let head = request::encode_keys(&mut control, OpCode::Exists, None, 3, [&b"key"[..], b"k2"])
        .expect("two short keys");
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend_from_slice(&control);
    Sealer::<HmacSha256>::new(&KEY, None, 1, false).seal_in_place(&head, &mut frame);
    let honest = frame.clone();
    for change in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % frame.len();
        frame[at] ^= change[2];
    }
    let (header, control) = frame
        .split_first_chunk::<HEADER_BYTES>()
        .expect("a whole header");
    let mut opener = Opener::<HmacSha256>::new(&KEY, None, 1, false);
    let opened = opener
        .open(header)
        .and_then(|head| opener.check_control(&head, control).map(|()| head));
    assert_eq!(opened.is_ok(), frame == honest);
    assert!(!opened.is_ok_and(|head| opener.trailer_len(&head) == TRAILER_BYTES));
}

/// Splits fuzz input into a head and a control part: `op 1 | flags 2 | payload_len 8 | control`.
fn head_and_control(data: &[u8], reply: bool) -> Option<(FrameHead, &[u8])> {
    let (fields, control) = data.split_first_chunk::<11>()?;
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&FRAME_MAGIC);
    header[5] = fields[0];
    header[6..8].copy_from_slice(&fields[1..3]);
    header[32..40].copy_from_slice(&fields[3..11]);
    let mut head = FrameHead::parse(&header, reply).ok()?;
    head.control_len = u32::try_from(control.len()).ok()?;
    Some((head, control))
}

/// Decodes; where only the payload's length is wrong, takes the right one, so that fuzzing gets past it.
fn with_payload_len<T>(
    head: &mut FrameHead,
    decode: impl Fn(&FrameHead) -> Result<T, DecodeError>,
) -> Option<T> {
    match decode(head) {
        Err(DecodeError::Mismatch {
            field: "payload_len",
            expected,
            ..
        }) => {
            head.payload_len = expected;
            decode(head).ok()
        }
        result => result.ok(),
    }
}

/// Control parts of requests, of every op.
pub fn fuzz_request(data: &[u8]) {
    let Some((mut head, control)) = head_and_control(data, false) else {
        return;
    };
    let Some((trace, request)) = with_payload_len(&mut head, |head| Request::decode(head, control))
    else {
        return;
    };
    assert_eq!(request.op(), head.op);
    let mut out = Vec::new();
    let encoded = match &request {
        Request::Put(entries) | Request::BatchWrite(entries) => {
            let listed: Vec<PutEntry<'_>> = entries.iter().collect();
            assert_eq!(listed.len(), entries.len());
            assert!(listed.len() <= limits::BATCH_ENTRIES_MAX);
            let total = listed
                .iter()
                .fold(0, |sum: u64, entry| sum.saturating_add(entry.value_len));
            assert_eq!(total, head.payload_len);
            request::encode_writes(&mut out, head.op, trace.as_ref(), listed)
        }
        Request::Get(keys)
        | Request::BatchRead(keys)
        | Request::Delete(keys)
        | Request::Exists(keys) => {
            assert_eq!(keys.iter().count(), keys.len());
            assert!(keys.len() <= limits::BATCH_ENTRIES_MAX);
            request::encode_keys(&mut out, head.op, trace.as_ref(), keys.namespace(), keys)
        }
        Request::Connect(connect) => request::encode_connect(&mut out, trace.as_ref(), connect),
        Request::Cancel { request_id } => {
            write_trace(trace.as_ref(), &mut out);
            Ok(request::encode_cancel(&mut out, *request_id))
        }
        Request::Ping { echo } => {
            write_trace(trace.as_ref(), &mut out);
            Ok(request::encode_ping(&mut out, *echo))
        }
        Request::Stat => {
            write_trace(trace.as_ref(), &mut out);
            Ok(request::encode_stat())
        }
    };
    // What a client may not send (a key of 0 bytes, say) decodes, because it is the outcome of its entry alone.
    if encoded.is_ok() {
        assert_eq!(out, control);
    }
}

/// Control parts of replies, of every op, whole failures included.
pub fn fuzz_reply(data: &[u8]) {
    let Some((mut head, control)) = head_and_control(data, true) else {
        return;
    };
    let Some((blocks, reply)) = with_payload_len(&mut head, |head| Reply::decode(head, control))
    else {
        return;
    };
    let mut out = Vec::new();
    let encoded = encode_reply(&mut out, &head, &blocks, &reply);
    assert_eq!(encoded.payload_len, head.payload_len);
    match reply {
        // Figures that this build doesn't know are skipped, so they don't come back.
        Reply::Stat(_) => {}
        _ => assert_eq!(out, control),
    }
}

fn encode_reply(
    out: &mut Vec<u8>,
    head: &FrameHead,
    blocks: &ReplyBlocks,
    reply: &Reply<'_>,
) -> FrameHead {
    let op = head.op;
    let encoded = match reply {
        Reply::Values(segments) => {
            let listed: Vec<Segment> = segments.iter().collect();
            assert_eq!(listed.len(), segments.len());
            reply::encode_values(out, op, blocks, segments.retry_after_us(), &listed)
        }
        Reply::Written(results) => {
            let listed: Vec<WriteResult> = results.iter().collect();
            reply::encode_written(out, op, blocks, results.retry_after_us(), listed)
        }
        Reply::Outcomes(outcomes) => {
            let retry_after_us = outcomes.retry_after_us();
            reply::encode_outcomes(out, op, blocks, retry_after_us, outcomes.iter())
        }
        Reply::Connected(connect) => reply::encode_connected(out, blocks, connect),
        Reply::Cancelled(state) => Ok(reply::encode_cancelled(out, blocks, *state)),
        Reply::Pong(pong) => Ok(reply::encode_pong(out, blocks, pong)),
        Reply::Stat(fields) => {
            let listed: Vec<_> = fields.iter().collect();
            Ok(reply::encode_stat(out, blocks, &listed))
        }
        Reply::Failed(failure) => Ok(reply::encode_failed(out, op, blocks, failure)),
    };
    encoded.expect("what decodes can be encoded")
}

/// Connect bodies and their facts.
pub fn fuzz_connect(data: &[u8]) {
    let mut reader = Reader::new(data);
    if let Ok(connect) = Connect::read(&mut reader) {
        let mut out = Vec::new();
        connect
            .write(&mut out)
            .expect("what decodes can be encoded");
        assert_eq!(out, data[..data.len() - reader.left()]);
        for (tag, value) in connect.facts.iter() {
            assert!(tag < crate::connect::FACT_CRITICAL);
            assert!(value.len() <= crate::connect::FACT_BYTES_MAX);
        }
    }
}

/// Stat bodies.
pub fn fuzz_stat(data: &[u8]) {
    let mut reader = Reader::new(data);
    if let Ok(fields) = StatFields::read(&mut reader) {
        let listed: Vec<_> = fields.iter().collect();
        for (key, value) in &listed {
            assert_eq!(fields.get(*key), Some(*value));
        }
        let mut out = Vec::new();
        stat::write(&mut out, &listed);
        assert!(out.len() <= data.len() - reader.left());
    }
}
