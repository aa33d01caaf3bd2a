//! What one client, or all of them together, can make the server hold beside values.

use std::io::Write;
use std::time::Duration;

use memkv_proto::op::{ErrorCode, OpCode, Outcome};
use memkv_proto::reply::Reply;
use memkv_proto::session::{Refusal, RefusalCode};
use memkv_tests::http::{get, metric};
use memkv_tests::poll::until;
use memkv_tests::server::Builder;
use memkv_tests::wire::{WireClient, connect, read_to_close};

const SOON: Duration = Duration::from_secs(10);

/// A batch of so many keys of 508 bytes, which aren't there: header and control part.
fn long_read(client: &mut WireClient, count: u32) -> (u64, Vec<u8>) {
    let keys: Vec<Vec<u8>> = (0..count)
        .map(|i| [&i.to_le_bytes()[..], &[b'k'; 504]].concat())
        .collect();
    let mut control = Vec::new();
    let keys = keys.iter().map(|key| &key[..]);
    let head =
        memkv_proto::request::encode_keys(&mut control, OpCode::BatchRead, None, 0, keys).unwrap();
    let id = client.next_id();
    (id, client.seal(head.with_request_id(id), &control, &[]))
}

#[test]
fn who_leaves_small_replies_unread_is_not_read_any_further() {
    const REPLIES_MAX: usize = 256 << 10;
    /// What the sender has gathered, and the reply that went beyond the bound.
    const SLACK: usize = 128 << 10;
    let server = Builder::memory("64 MiB")
        .limits(|limits| limits.reply_bytes_per_connection_max = REPLIES_MAX)
        .start();
    let mut deaf = WireClient::connect(server.address());
    assert_eq!(deaf.put(b"key", &[7; 8 << 10]), Outcome::Ok);
    // Four times what the sockets' buffers take.
    for _ in 0..4000 {
        deaf.send_keys(OpCode::Get, &[b"key"]);
    }
    let mut last = Vec::new();
    let held = until("no more is read of it", SOON, || {
        last.push(metric(&server, "memkv_admitted_bytes"));
        let settled = last.rchunks(5).next().filter(|looks| looks.len() == 5)?;
        let is_same = settled
            .iter()
            .all(|held| *held > 0.0 && *held == settled[0]);
        is_same.then_some(settled[0])
    });
    assert!(
        held <= (REPLIES_MAX + SLACK) as f64,
        "{held} bytes are held"
    );
    assert!(WireClient::connect(server.address()).is_alive());
}

#[test]
fn descriptions_of_requests_are_bounded_over_all_connections() {
    let server = Builder::memory("64 MiB")
        .limits(|limits| limits.control_bytes_max = 600 << 10)
        .start();
    let mut first = WireClient::connect(server.address());
    let (_, frame) = long_read(&mut first, 1000);
    let (sent, rest) = frame.split_at(frame.len() / 2);
    first.stream.write_all(sent).unwrap();
    until("its description is being read", SOON, || {
        let status = get(&server, "/v1/status", &[]).json();
        let held = status["memory"]["request_bytes"].as_u64().unwrap();
        (held > 500_000).then_some(())
    });
    let mut second = WireClient::connect(server.address());
    let (id, frame) = long_read(&mut second, 1000);
    second.stream.write_all(&frame).unwrap();
    let reply = second.receive().unwrap();
    assert_eq!(reply.head.request_id, id);
    match Reply::decode(&reply.head, &reply.control).unwrap().1 {
        Reply::Failed(failed) => {
            assert_eq!(failed.code, ErrorCode::Busy);
            assert!(failed.retry_after_us > 0);
        }
        other => panic!("{other:?}"),
    }
    // What is short needs none of that, and the frame that was skipped leaves the session whole.
    assert_eq!(second.put(b"key", b"value"), Outcome::Ok);
    first.stream.write_all(rest).unwrap();
    assert!(
        first
            .receive_values(1000)
            .iter()
            .all(|found| *found == Ok(None))
    );
    let (_, frame) = long_read(&mut second, 1000);
    second.stream.write_all(&frame).unwrap();
    assert!(
        second
            .receive_values(1000)
            .iter()
            .all(|found| *found == Ok(None))
    );
}

#[test]
fn connections_beyond_the_most_are_closed_and_counted() {
    let server = Builder::memory("64 MiB")
        .limit("max_connections: 2")
        .start();
    let mut sessions = [
        WireClient::connect(server.address()),
        WireClient::connect(server.address()),
    ];
    assert!(sessions.iter_mut().all(WireClient::is_alive));
    assert!(read_to_close(&mut connect(server.address())).is_empty());
    let refused = || metric(&server, "memkv_rejected_total{reason=\"connections\"}");
    assert_eq!(refused(), 1.0);
    assert!(sessions.iter_mut().all(WireClient::is_alive));
    let [_, left] = sessions;
    drop(left);
    until("there is room for another", SOON, || {
        (metric(&server, "memkv_connections{transport=\"tcp\"}") == 1.0).then_some(())
    });
    assert!(WireClient::connect(server.address()).is_alive());
}

#[test]
fn a_server_that_drains_refuses_new_sessions_by_name() {
    let server = Builder::memory("64 MiB").start();
    server.running().drain();
    let mut late = connect(server.address());
    let hello = memkv_proto::session::ClientHandshake::<memkv_proto::HmacSha256>::start(
        &memkv_tests::server::key(),
        "test",
        Default::default(),
        memkv_tests::wire::unix_ns(),
        [3; 32],
    );
    late.write_all(&hello.unwrap().1).unwrap();
    let refusal = Refusal::decode(&read_to_close(&mut late)).expect("exactly one refusal");
    assert_eq!(refusal.code, RefusalCode::Draining);
}
