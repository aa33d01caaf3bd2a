//! A value's checksum travels from the caller's memory to the store and back: whatever changes in between is found by the
//! other end, and nothing wrong is stored or handed out. (What changes on a drive: `faults/corruption.rs`.)

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use memkv_client::config::PayloadMac;
use memkv_client::pool::Load;
use memkv_client::pump::op::{Body, Bytes, Op, WriteEntry};
use memkv_client::pump::{Core, CoreConfig, CoreServer, OpTable, Token};
use memkv_client::{Attrs, Client, ClientConfig, Condition, EntryOutcome, ErrorCode, OpError};
use memkv_proto::HmacSha256;
use memkv_proto::op::OpCode;
use memkv_proto::request::encode_writes;
use memkv_settings::AuthKey;
use memkv_telemetry::clock::{self, Tick};
use memkv_tests::http::metric;
use memkv_tests::poll::until;
use memkv_tests::relay::{Relay, Way};
use memkv_tests::server::{Builder, KEY, TestServer};
use memkv_tests::wire::{self, WireClient, closes_within, value};

const LEN: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// Deep in the value, whatever stands before it.
const DEEP: usize = LEN / 2;

fn client(relay: &Relay, payload_mac: PayloadMac) -> Client {
    let mut config = ClientConfig::new([relay.address().to_string()], AuthKey::new(KEY));
    config.payload_mac = payload_mac;
    Client::new(config).unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, OpError>) -> EntryOutcome {
    result.expect_err("a byte was flipped").outcome()
}

#[test]
fn a_byte_that_flips_on_the_wire_is_found_at_the_other_end() {
    let server = TestServer::memory();
    let relay = Relay::to(server.address());
    let client = client(&relay, PayloadMac::Auto);
    let value = value(1, LEN);
    client.put(b"k", b"before").unwrap();
    let mismatch = EntryOutcome::Error(ErrorCode::CrcMismatch);
    relay.flip(Way::Up, DEEP);
    assert_eq!(code(client.put(b"k", &value)), mismatch);
    assert!(relay.has_flipped());
    assert_eq!(
        client.get(b"k").unwrap().unwrap(),
        b"before",
        "nothing of it was stored"
    );
    client.put(b"k", &value).unwrap();
    relay.flip(Way::Down, DEEP);
    assert_eq!(code(client.get(b"k")), mismatch);
    assert!(relay.has_flipped());
    relay.flip(Way::Down, DEEP);
    let mut buffer = vec![0; LEN];
    assert_eq!(code(client.get_into(b"k", &mut buffer)), mismatch);
    assert!(
        client.get(b"k").unwrap().unwrap() == value,
        "the stored value is well"
    );
}

#[test]
fn a_byte_that_flips_in_a_header_or_control_part_ends_the_connection() {
    let server = TestServer::memory();
    let relay = Relay::to(server.address());
    let client = client(&relay, PayloadMac::Auto);
    let (value, other) = (value(1, LEN), value(2, LEN));
    client.put(b"k", &value).unwrap();
    for at in [60, 110] {
        relay.flip(Way::Up, at);
        let put = client.put(b"k", &other);
        assert_eq!(code(put), EntryOutcome::Transport, "byte {at}, up");
        assert!(relay.has_flipped());
        assert!(client.exists(b"k").unwrap(), "a new connection serves");
        relay.flip(Way::Down, at);
        let got = client.get(b"k");
        assert_eq!(code(got), EntryOutcome::Transport, "byte {at}, down");
        assert!(relay.has_flipped());
        let kept = client.get(b"k").unwrap().unwrap();
        assert!(kept == value, "byte {at}: what was stored is well");
    }
}

#[test]
fn a_byte_that_flips_in_a_signed_value_is_told_from_an_accident() {
    let server = TestServer::memory();
    let relay = Relay::to(server.address());
    let client = client(&relay, PayloadMac::Required);
    let (value, other) = (value(1, LEN), value(2, LEN));
    client.put(b"k", &value).unwrap();
    relay.flip(Way::Up, DEEP);
    client.put(b"k", &other).unwrap_err();
    until("the server counts an attack", PATIENCE, || {
        let count = metric(&server, "memkv_auth_failures_total{reason=\"bad_mac\"}");
        (count > 0.0).then_some(())
    });
    // The connection was closed behind the answer; whoever uses it next learns that.
    let _ = client.exists(b"k");
    let kept = client.get(b"k").unwrap().unwrap();
    assert!(kept == value, "nothing of it was stored");
    relay.flip(Way::Down, DEEP);
    client.get(b"k").unwrap_err();
    assert!(relay.has_flipped());
    assert!(client.get(b"k").unwrap().unwrap() == value);
}

#[test]
fn a_put_of_any_size_whose_mac_is_wrong_is_never_stored() {
    for builder in [Builder::memory("256 MiB"), Builder::file("256 MiB")] {
        // A value of 40 MiB streams through a pool of 64, and is cut into parts of 4.
        let server = builder.network("payload_mac: required").start();
        for (count, len) in (1..).zip([5, 100_000, 5 << 20, 40 << 20]) {
            let forged = value(1, len);
            let mut wire = WireClient::connect(server.address());
            let mut control = Vec::new();
            let entry = wire::entry(b"forged", &forged);
            let head = encode_writes(&mut control, OpCode::Put, None, [entry]).unwrap();
            let mut frame = wire.seal(head, &control, &forged);
            // The value and its checksum still agree; only the MAC is wrong.
            *frame.last_mut().unwrap() ^= 1;
            wire.stream.write_all(&frame).unwrap();
            assert!(closes_within(&mut wire.stream, PATIENCE), "{len} bytes");
            let counted = metric(&server, "memkv_auth_failures_total{reason=\"bad_mac\"}");
            assert_eq!(counted, f64::from(count), "{len} bytes");
            let found = WireClient::connect(server.address()).get(b"forged");
            assert!(found == Ok(None), "{len} bytes");
        }
    }
}

/// One op whose memory the test changes while the core sends it.
struct One(Op<'static>);

impl OpTable<'static> for One {
    fn op(&self, _: Token) -> Option<&Op<'static>> {
        Some(&self.0)
    }
    fn op_mut(&mut self, _: Token) -> Option<&mut Op<'static>> {
        Some(&mut self.0)
    }
}

fn core(server: &TestServer) -> Core<HmacSha256> {
    let config = CoreConfig {
        servers: vec![CoreServer {
            identity: String::new(),
            name: Arc::from(server.address().to_string()),
            bind: None,
        }],
        auth_key: memkv_tests::server::key(),
        payload_mac: false,
        connect_timeout: PATIENCE,
        fence_timeout: PATIENCE,
        retries: 0,
        small_connections: 0,
        bulk_connections: 1,
        window: 1,
    };
    Core::new(Arc::new(config)).unwrap()
}

/// Puts `value` through a core of the test's own; `change` is called once between two polls, when the value's checksum is
/// computed and most of its bytes are still to leave.
fn put_changing(
    server: &TestServer,
    value: Vec<u8>,
    change: impl FnOnce(&mut Vec<u8>),
) -> Result<u64, OpError> {
    let entry = WriteEntry {
        key: Bytes::Borrowed(b"k"),
        value: Bytes::Vec(value),
        attrs: Attrs::default(),
        condition: Condition::None,
        result: None,
    };
    let now = clock::now();
    let deadline = Tick(now.0 + PATIENCE.as_nanos() as u64);
    let body = Body::Write(vec![entry]);
    let mut table = One(Op::new(0, OpCode::Put, Load::Bulk, deadline, body));
    let mut core = core(server);
    core.submit(Token(0), &mut table.0, now);
    let mut change = Some(change);
    while core.next_done().is_none() {
        core.poll(&mut table, None).unwrap();
        let Body::Write(entries) = &mut table.0.body else {
            unreachable!("it is a put")
        };
        if table.0.steps.begun.is_some()
            && let Some(change) = change.take()
            && let Bytes::Vec(value) = &mut entries[0].value
        {
            assert!(
                table.0.steps.sent.is_none(),
                "it left at once; give it more bytes"
            );
            change(value);
        }
    }
    let Body::Write(mut entries) = table.0.body else {
        unreachable!("it is a put")
    };
    entries[0].result.take().expect("it is settled")
}

#[test]
fn a_byte_that_changes_in_the_callers_memory_while_it_is_sent_is_found_by_the_server() {
    let server = Builder::memory("256 MiB").start();
    let value = value(1, 64 << 20);
    put_changing(&server, value.clone(), |_| ()).unwrap();
    let put = put_changing(&server, value.clone(), |value| {
        *value.last_mut().unwrap() ^= 1
    });
    assert_eq!(code(put), EntryOutcome::Error(ErrorCode::CrcMismatch));
    let client = super::client(&[&server]);
    assert!(
        client.get(b"k").unwrap().unwrap() == value,
        "the first put's value is still there"
    );
}
