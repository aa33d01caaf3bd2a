//! What an attacker, a broken client or a broken network sends: the connection closes, the reason is counted, everybody else
//! goes on.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::time::Duration;

use memkv_proto::op::{ErrorCode, OpCode, Outcome};
use memkv_proto::reply::Reply;
use memkv_proto::session::{ClientHandshake, Features, Refusal, RefusalCode};
use memkv_proto::{Flags, FrameHead, FrameMac, HmacSha256};
use memkv_tests::http::metric;
use memkv_tests::server::{Builder, TestServer, key};
use memkv_tests::wire::{WireClient, closes_within, connect, read_message, read_to_close, unix_ns};

const SOON: Duration = Duration::from_secs(5);

fn auth_failures(server: &TestServer, reason: &str) -> f64 {
    metric(
        server,
        &format!("memkv_auth_failures_total{{reason=\"{reason}\"}}"),
    )
}

fn protocol_faults(server: &TestServer, fault: &str) -> f64 {
    metric(
        server,
        &format!("memkv_protocol_faults_total{{fault=\"{fault}\"}}"),
    )
}

/// Sends what `make` makes of a good connection, expects it to be closed and counted, and another one to work.
fn check(count: fn(&TestServer, &str) -> f64, reason: &str, attack: impl FnOnce(&mut WireClient)) {
    let server = TestServer::memory();
    let mut good = WireClient::connect(server.address());
    let mut bad = WireClient::connect(server.address());
    assert_eq!(bad.put(b"before", b"1"), Outcome::Ok);
    attack(&mut bad);
    assert!(closes_within(&mut bad.stream, SOON), "{reason}: still open");
    assert_eq!(count(&server, reason), 1.0, "{reason}");
    assert_eq!(good.get(b"before"), Ok(Some(b"1".to_vec())), "{reason}");
}

/// The bytes of a sealed Get.
fn sealed_get(client: &mut WireClient) -> Vec<u8> {
    let mut control = Vec::new();
    let head =
        memkv_proto::request::encode_keys(&mut control, OpCode::Get, None, 0, [&b"before"[..]]);
    let id = client.next_id();
    client.seal(head.unwrap().with_request_id(id), &control, &[])
}

#[test]
fn garbage_in_a_session_closes_it() {
    check(protocol_faults, "magic", |bad| {
        bad.stream.write_all(&[0xa5; 4096]).unwrap()
    });
}

#[test]
fn a_frame_with_a_wrong_mac_closes_the_connection() {
    check(auth_failures, "bad_mac", |bad| {
        let mut frame = sealed_get(bad);
        frame[80] ^= 1;
        bad.stream.write_all(&frame).unwrap();
    });
}

#[test]
fn an_altered_header_closes_the_connection() {
    check(auth_failures, "bad_mac", |bad| {
        let mut frame = sealed_get(bad);
        frame[8] ^= 1;
        bad.stream.write_all(&frame).unwrap();
    });
}

#[test]
fn an_altered_control_part_closes_the_connection() {
    check(protocol_faults, "digest", |bad| {
        let mut frame = sealed_get(bad);
        *frame.last_mut().unwrap() ^= 1;
        bad.stream.write_all(&frame).unwrap();
    });
}

#[test]
fn a_frame_of_another_version_closes_the_connection() {
    check(protocol_faults, "version", |bad| {
        let mut frame = sealed_get(bad);
        frame[4] = 99;
        bad.stream.write_all(&frame).unwrap();
    });
}

#[test]
fn a_frame_replayed_on_its_connection_closes_it() {
    check(auth_failures, "sequence", |bad| {
        let frame = sealed_get(bad);
        bad.stream.write_all(&frame).unwrap();
        bad.receive().unwrap();
        bad.stream.write_all(&frame).unwrap();
    });
}

#[test]
fn a_frame_replayed_on_another_connection_closes_that() {
    let server = TestServer::memory();
    let mut first = WireClient::connect(server.address());
    let mut second = WireClient::connect(server.address());
    let frame = sealed_get(&mut first);
    first.stream.write_all(&frame).unwrap();
    second.stream.write_all(&frame).unwrap();
    assert!(closes_within(&mut second.stream, SOON));
    assert!(first.receive().is_ok());
    assert_eq!(auth_failures(&server, "bad_mac"), 1.0);
}

#[test]
fn a_dropped_frame_is_noticed_at_the_next_one() {
    check(auth_failures, "sequence", |bad| {
        let _dropped = sealed_get(bad);
        let frame = sealed_get(bad);
        bad.stream.write_all(&frame).unwrap();
    });
}

#[test]
fn reordered_frames_close_the_connection() {
    check(auth_failures, "sequence", |bad| {
        let first = sealed_get(bad);
        let second = sealed_get(bad);
        bad.stream.write_all(&[second, first].concat()).unwrap();
    });
}

#[test]
fn a_reply_reflected_to_the_server_closes_the_connection() {
    check(auth_failures, "bad_mac", |bad| {
        let frame = sealed_get(bad);
        bad.stream.write_all(&frame).unwrap();
        let mut reply = vec![0; memkv_proto::HEADER_BYTES];
        bad.stream.read_exact(&mut reply).unwrap();
        bad.stream.write_all(&reply).unwrap();
    });
}

#[test]
fn a_length_that_nobody_signed_is_not_believed() {
    check(auth_failures, "bad_mac", |bad| {
        let mut frame = sealed_get(bad);
        frame[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
        bad.stream.write_all(&frame).unwrap();
    });
}

thread_local! {
    static KEYS: RefCell<Vec<[u8; 32]>> = const { RefCell::new(Vec::new()) };
}

/// A MAC that keeps the keys that it is made with: a client that signs what no library of ours would.
#[derive(Clone)]
struct Signer(HmacSha256);

impl FrameMac for Signer {
    fn new(key: &[u8; 32]) -> Self {
        KEYS.with_borrow_mut(|keys| keys.push(*key));
        Self(HmacSha256::new(key))
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.0.tag(parts)
    }
}

/// Sends an authentic header in which a field's bytes at `at` are `bytes`; the detail of the refusal.
fn refused_field(server: &TestServer, at: usize, bytes: &[u8]) -> String {
    let mut stream = connect(server.address());
    let (handshake, hello) =
        ClientHandshake::<Signer>::start(&key(), "test", Features::default(), unix_ns(), [10; 32])
            .unwrap();
    stream.write_all(&hello).unwrap();
    let reply = read_message(&mut stream).unwrap();
    let (finish, mut session, _) = handshake.on_hello_reply(&reply, unix_ns()).unwrap();
    stream.write_all(&finish).unwrap();
    let head = FrameHead::new(OpCode::Put, Flags::NONE, 0, 0).with_request_id(7);
    let mut header = session.sealer.seal(&head, &[]);
    let (signed, tag) = header.split_at_mut(72);
    let keys = KEYS.with_borrow(Clone::clone).into_iter();
    let mac = keys
        .map(|key| HmacSha256::new(&key))
        .find(|mac| mac.tag(&[signed]) == *tag)
        .expect("the key that signs what we send");
    signed[at..at + bytes.len()].copy_from_slice(bytes);
    tag.copy_from_slice(&mac.tag(&[signed]));
    stream.write_all(&header).unwrap();
    let mut reply = [0; memkv_proto::HEADER_BYTES];
    stream.read_exact(&mut reply).unwrap();
    let head = session.opener.open(&reply).unwrap();
    assert_eq!(head.request_id, 7);
    let mut control = vec![0; head.control_len as usize];
    stream.read_exact(&mut control).unwrap();
    assert!(read_to_close(&mut stream).is_empty(), "and nothing more");
    match Reply::decode(&head, &control).unwrap().1 {
        Reply::Failed(failed) => {
            assert_eq!(failed.code, ErrorCode::TooLarge);
            failed.detail.to_owned()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_authentic_frame_above_the_limits_is_told_so_and_its_connection_closed() {
    use memkv_proto::limits::{CONTROL_BYTES_MAX, PAYLOAD_BYTES_MAX};
    let server = TestServer::memory();
    let control_len = CONTROL_BYTES_MAX as u32 + 1;
    let detail = refused_field(&server, 28, &control_len.to_le_bytes());
    assert!(
        detail.contains("control_len") && detail.contains("1048577"),
        "{detail}"
    );
    let detail = refused_field(&server, 32, &(PAYLOAD_BYTES_MAX + 1).to_le_bytes());
    assert!(detail.contains("payload_len"), "{detail}");
    assert_eq!(protocol_faults(&server, "header"), 2.0);
    assert!(WireClient::connect(server.address()).is_alive());
}

#[test]
fn a_frame_cut_off_is_forgotten() {
    let server = TestServer::memory();
    for cut in [1, 50, 103, 104, 110] {
        let mut bad = WireClient::connect(server.address());
        let frame = sealed_get(&mut bad);
        bad.stream
            .write_all(&frame[..cut.min(frame.len() - 1)])
            .unwrap();
        bad.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(closes_within(&mut bad.stream, SOON), "cut at {cut}");
    }
    assert_eq!(protocol_faults(&server, "truncated"), 5.0);
    assert!(WireClient::connect(server.address()).is_alive());
}

#[test]
fn a_put_cut_off_in_its_payload_is_not_there() {
    let server = TestServer::memory();
    let mut good = WireClient::connect(server.address());
    let value = memkv_tests::wire::value(1, 3 << 20);
    for cut in [1, 1 << 20, value.len() - 1] {
        let mut bad = WireClient::connect(server.address());
        let mut control = Vec::new();
        let entry = memkv_tests::wire::entry(b"cut", &value);
        let head =
            memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, [entry]).unwrap();
        let frame = bad.seal(head, &control, &value);
        bad.stream
            .write_all(&frame[..frame.len() - value.len() + cut])
            .unwrap();
        drop(bad);
        assert_eq!(good.get(b"cut"), Ok(None), "cut at {cut}");
    }
    // Nothing of it holds memory: the whole store can be filled again.
    assert_eq!(good.put(b"cut", &value), Outcome::Ok);
}

#[test]
fn garbage_instead_of_a_hello_is_refused_in_one_small_frame() {
    let server = TestServer::memory();
    let mut stream = connect(server.address());
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let said = read_to_close(&mut stream);
    let refusal = Refusal::decode(&said).expect("exactly one refusal");
    assert_eq!(refusal.code, RefusalCode::Malformed);
    assert_eq!(protocol_faults(&server, "magic"), 1.0);
}

#[test]
fn an_op_before_the_handshake_is_refused() {
    let server = TestServer::memory();
    let mut session = WireClient::connect(server.address());
    let frame = sealed_get(&mut session);
    let mut stream = connect(server.address());
    stream.write_all(&frame).unwrap();
    assert!(closes_within(&mut stream, SOON));
    assert_eq!(auth_failures(&server, "no_session"), 1.0);
}

/// Sends a Hello that `change` has changed; what the server answers.
fn refused_hello(
    server: &TestServer,
    key: memkv_proto::session::AuthKey,
    skew_ns: i64,
    change: impl FnOnce(&mut Vec<u8>),
) -> Refusal {
    let mut stream = connect(server.address());
    let now = unix_ns().saturating_add_signed(skew_ns);
    let (_, mut hello) = ClientHandshake::<memkv_proto::HmacSha256>::start(
        &key,
        "test",
        Features::default(),
        now,
        [7; 32],
    )
    .unwrap();
    change(&mut hello);
    stream.write_all(&hello).unwrap();
    Refusal::decode(&read_to_close(&mut stream)).expect("exactly one refusal")
}

#[test]
fn a_clock_more_than_a_minute_off_is_refused_and_counted() {
    let server = TestServer::memory();
    for seconds in [-61, 61] {
        let refusal = refused_hello(&server, key(), seconds * 1_000_000_000, |_| {});
        assert_eq!(refusal.code, RefusalCode::ClockSkew);
        let said = refusal.skew_ns - seconds * 1_000_000_000;
        assert!(
            said.abs() < 500_000_000,
            "it says how far off: {}",
            refusal.skew_ns
        );
    }
    assert_eq!(auth_failures(&server, "clock_skew"), 2.0);
    let info = WireClient::connect(server.address()).info;
    assert!(info.clock_skew_ns.abs() < 1_000_000_000);
    assert!(metric(&server, "memkv_clock_skew_seconds").abs() < 1.0);
}

#[test]
fn another_key_is_refused_and_counted() {
    let server = TestServer::memory();
    let other = memkv_proto::session::AuthKey::new([1; 32]);
    assert_eq!(
        refused_hello(&server, other, 0, |_| {}).code,
        RefusalCode::UnknownKey
    );
    assert_eq!(auth_failures(&server, "unknown_key"), 1.0);
}

#[test]
fn a_version_from_the_future_is_refused_by_name() {
    let server = TestServer::memory();
    let refusal = refused_hello(&server, key(), 0, |hello| hello[4] = 9);
    assert_eq!(refusal.code, RefusalCode::UnsupportedVersion);
    assert_eq!(refusal.version_max, memkv_proto::VERSION_MAX);
    assert_eq!(protocol_faults(&server, "version"), 1.0);
}

#[test]
fn a_wrong_proof_gets_no_session() {
    let server = TestServer::memory();
    let mut stream = connect(server.address());
    let (handshake, hello) = ClientHandshake::<memkv_proto::HmacSha256>::start(
        &key(),
        "test",
        Features::default(),
        unix_ns(),
        [8; 32],
    )
    .unwrap();
    stream.write_all(&hello).unwrap();
    let reply = read_message(&mut stream).unwrap();
    let (mut finish, ..) = handshake.on_hello_reply(&reply, unix_ns()).unwrap();
    *finish.last_mut().unwrap() ^= 1;
    stream.write_all(&finish).unwrap();
    let said = read_to_close(&mut stream);
    assert_eq!(Refusal::decode(&said).unwrap().code, RefusalCode::BadMac);
    assert_eq!(auth_failures(&server, "bad_mac"), 1.0);
}

#[test]
fn a_recorded_handshake_opens_nothing_the_second_time() {
    let server = TestServer::memory();
    let mut stream = connect(server.address());
    let (handshake, hello) = ClientHandshake::<memkv_proto::HmacSha256>::start(
        &key(),
        "test",
        Features::default(),
        unix_ns(),
        [9; 32],
    )
    .unwrap();
    stream.write_all(&hello).unwrap();
    let reply = read_message(&mut stream).unwrap();
    let (finish, ..) = handshake.on_hello_reply(&reply, unix_ns()).unwrap();
    let mut replayed = connect(server.address());
    replayed.write_all(&[&hello[..], &finish].concat()).unwrap();
    assert!(closes_within(&mut replayed, SOON));
    assert_eq!(auth_failures(&server, "bad_mac"), 1.0);
}

#[test]
fn a_payload_altered_on_the_wire_is_an_error_of_its_entry_alone() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let values = [
        (&b"a"[..], &b"first"[..]),
        (b"b", b"second"),
        (b"c", b"third"),
    ];
    let mut control = Vec::new();
    let entries = values
        .iter()
        .map(|(key, value)| memkv_tests::wire::entry(key, value));
    let head = memkv_proto::request::encode_writes(&mut control, OpCode::BatchWrite, None, entries)
        .unwrap();
    let mut frame = client.seal(head.with_request_id(1), &control, b"firstsecondthird");
    let at = frame.len() - 7;
    frame[at] ^= 1;
    client.stream.write_all(&frame).unwrap();
    let reply = client.receive().unwrap();
    let crc = Outcome::Error(memkv_proto::op::ErrorCode::CrcMismatch);
    assert_eq!(
        memkv_tests::wire::written(&reply, 3),
        [Outcome::Ok, crc, Outcome::Ok]
    );
    assert_eq!(client.get(b"b"), Ok(None));
    assert_eq!(
        metric(&server, "memkv_crc_mismatches_total{source=\"put\"}"),
        1.0
    );
}

#[test]
fn an_altered_payload_closes_the_connection_where_payloads_are_signed() {
    let server = Builder::memory("64 MiB")
        .network("payload_mac: required")
        .start();
    let mut client = WireClient::connect(server.address());
    assert_eq!(client.put(b"key", b"value"), Outcome::Ok);
    assert_eq!(client.get(b"key"), Ok(Some(b"value".to_vec())));
    let big = memkv_tests::wire::value(3, 5 << 20);
    assert_eq!(client.put(b"big", &big), Outcome::Ok);
    assert!(client.get(b"big") == Ok(Some(big)));
    let mut control = Vec::new();
    let entry = memkv_tests::wire::entry(b"forged", b"value");
    let head =
        memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, [entry]).unwrap();
    let mut frame = client.seal(head, &control, b"value");
    // The value and its checksum still agree; only the MAC is wrong.
    *frame.last_mut().unwrap() ^= 1;
    client.stream.write_all(&frame).unwrap();
    assert!(closes_within(&mut client.stream, SOON));
    assert_eq!(auth_failures(&server, "bad_mac"), 1.0);
    assert_eq!(
        WireClient::connect(server.address()).get(b"forged"),
        Ok(None)
    );
}

#[test]
fn a_control_part_that_makes_no_sense_is_answered_and_the_connection_goes_on() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let control = [0xff; 40];
    client.send(
        FrameHead::new(OpCode::Get, Flags::NONE, 40, 0).with_request_id(5),
        &control,
        &[],
    );
    let reply = client.receive().unwrap();
    assert_eq!(reply.head.request_id, 5);
    assert!(reply.head.flags.contains(Flags::FAILED));
    assert!(client.is_alive());
}
