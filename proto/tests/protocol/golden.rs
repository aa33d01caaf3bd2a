//! Golden bytes of version 1: encoders still give them, decoders still read them.
//!
//! `MEMKV_BLESS=1` writes them anew, those that changed too: look at the diff. Once a version is in use its files can't
//! change any more, and a change of the format is a version of its own.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use memkv_proto::op::OpCode;
use memkv_proto::reply::Reply;
use memkv_proto::request::Request;
use memkv_proto::session::{
    AuthKey, Features, KeyRing, Refusal, RefusalCode, ServerHandshake, ServerIdentity,
};
use memkv_proto::{HEADER_BYTES, HmacSha256};

use crate::scenario::{self, KEY, NOW_NS, pair, pair_with};

fn path(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/golden/wire-v1");
    root.join(format!("{name}.hex"))
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

pub(crate) fn golden(name: &str) -> Vec<u8> {
    let path = path(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn check(name: &str, bytes: &[u8]) {
    let current = || std::fs::read_to_string(path(name)).is_ok_and(|text| text == to_hex(bytes));
    if std::env::var_os("MEMKV_BLESS").is_some() && !current() {
        std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        std::fs::write(path(name), to_hex(bytes)).unwrap();
    }
    assert_eq!(
        to_hex(&golden(name)),
        to_hex(bytes),
        "{name} is encoded differently than in v1"
    );
}

#[test]
fn encoders_give_the_golden_bytes_of_version_1() {
    let mut pair = pair();
    for (name, bytes) in ["hello", "hello_reply", "finish"]
        .iter()
        .zip(&pair.messages)
    {
        check(&format!("session_{name}"), bytes);
    }
    let mut refusal = Refusal::new(RefusalCode::ClockSkew, NOW_NS).with_retry_after_us(77);
    refusal.skew_ns = -61_000_000_000;
    check("session_refusal", &refusal.to_bytes());
    for (name, head, control) in scenario::requests() {
        let frame = scenario::seal(&mut pair.client.sealer, &head, &control);
        check(&format!("request_{name}"), &frame);
    }
    for (name, head, control) in scenario::replies() {
        let frame = scenario::seal(&mut pair.server.sealer, &head, &control);
        check(&format!("reply_{name}"), &frame);
    }
}

#[test]
fn every_op_of_a_frame_has_a_golden_request_and_reply() {
    let requests = scenario::requests();
    let replies = scenario::replies();
    for op in OpCode::ALL.iter().filter(|op| op.is_frame()) {
        let request = requests.iter().any(|(_, head, _)| head.op == *op);
        let reply = replies.iter().any(|(_, head, _)| head.op == *op);
        assert!(request, "no golden request of {op}: add one to scenario.rs");
        assert!(reply, "no golden reply to {op}: add one to scenario.rs");
    }
}

#[test]
fn golden_frames_of_version_1_still_open_and_decode() {
    // A server of today, fed with a client of then.
    let ring = KeyRing::new(AuthKey::new(KEY), None);
    let identity = ServerIdentity {
        node_id: "server-1:9900",
        features: Features::default(),
    };
    let hello = golden("session_hello");
    let (reply, waiting) = ServerHandshake::<HmacSha256>::on_hello(
        &hello,
        &ring,
        &identity,
        NOW_NS + 1000,
        [0xfe; 32],
    )
    .unwrap();
    assert_eq!(reply, golden("session_hello_reply"));
    let mut server = waiting
        .on_finish(&golden("session_finish"), NOW_NS)
        .unwrap();
    assert_eq!(server.info.peer_node, "client-1");
    for (name, expected, control) in scenario::requests() {
        let frame = golden(&format!("request_{name}"));
        let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        let head = server.opener.open(header).unwrap();
        server.opener.check_control(&head, body).unwrap();
        assert_eq!(head, expected, "{name}");
        assert_eq!(
            Request::decode(&head, body),
            Request::decode(&expected, &control),
            "{name}"
        );
        assert!(Request::decode(&head, body).is_ok(), "{name}");
    }
    let mut client = pair().client;
    for (name, _, control) in scenario::replies() {
        let frame = golden(&format!("reply_{name}"));
        let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        let head = client.opener.open(header).unwrap();
        client.opener.check_control(&head, body).unwrap();
        assert!(Reply::decode(&head, body).is_ok(), "{name}");
        assert_eq!(
            Reply::decode(&head, body),
            Reply::decode(&head, &control),
            "{name}"
        );
    }
    let refusal = Refusal::decode(&golden("session_refusal")).unwrap();
    assert_eq!(
        (refusal.code, refusal.skew_ns),
        (RefusalCode::ClockSkew, -61_000_000_000)
    );
}

#[test]
fn golden_payload_trailer_of_version_1_is_still_given_and_taken() {
    let required = Features::requiring(Features::PAYLOAD_MAC);
    let mut pair = pair_with(required, Features::default(), 1);
    let payload = [0x5a; 4096];
    let (_, head, control) = scenario::requests().swap_remove(0);
    let header = pair.client.sealer.seal(&head, &control);
    let mut mac = pair
        .client
        .sealer
        .payload_key()
        .unwrap()
        .for_header(&header);
    mac.update(&payload);
    let trailer = mac.finish();
    check("payload_trailer", &trailer);
    let head = pair.server.opener.open(&header).unwrap();
    let mut mac = pair.server.opener.payload_key().unwrap().for_head(&head);
    payload.chunks(1000).for_each(|piece| mac.update(piece));
    assert!(mac.verify(golden("payload_trailer").first_chunk().unwrap()));
}
