//! What each op promises beyond its values: order, deadlines, cancellation, back-pressure, explanations.

use std::time::{Duration, Instant};

use memkv_proto::Flags;
use memkv_proto::blocks::TraceContext;
use memkv_proto::connect::{Connect, ControlCarrier, Facts, RdmaTransport};
use memkv_proto::op::{Attrs, Class, Condition, ErrorCode, OpCode, Outcome, PutEntry};
use memkv_proto::reply::{CancelState, Reply, ServerState};
use memkv_proto::stat::StatKey;
use memkv_telemetry::Stage;
use memkv_tests::http::{get, metric};
use memkv_tests::poll::until;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::{WireClient, collect, entry, value, written};

fn rejected(server: &TestServer, reason: &str) -> f64 {
    metric(
        server,
        &format!("memkv_rejected_total{{reason=\"{reason}\"}}"),
    )
}

#[test]
fn ping_and_stat_say_how_the_server_is() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    client.put(b"key", b"value");
    let mut control = Vec::new();
    let head = memkv_proto::request::encode_ping(&mut control, 42);
    client.send(head, &control, &[]);
    let frame = client.receive().unwrap();
    match Reply::decode(&frame.head, &frame.control).unwrap().1 {
        Reply::Pong(pong) => {
            assert_eq!((pong.echo, pong.state), (42, ServerState::Ready));
            assert!(memkv_tests::wire::unix_ns().abs_diff(pong.unix_ns) < 10_000_000_000);
        }
        other => panic!("{other:?}"),
    }
    client.send(memkv_proto::request::encode_stat(), &[], &[]);
    let frame = client.receive().unwrap();
    match Reply::decode(&frame.head, &frame.control).unwrap().1 {
        Reply::Stat(stat) => {
            assert_eq!(stat.get(StatKey::Entries), Some(1));
            assert_eq!(stat.get(StatKey::Connections), Some(1));
            assert!(stat.get(StatKey::PoolBytes).unwrap() > 0);
            // In memory mode the longest value is what the store holds, not what the protocol could carry.
            let longest = stat.get(StatKey::ValueBytesMax);
            assert_eq!(longest, stat.get(StatKey::CapacityBytes));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn connect_is_unsupported_by_name() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let mut control = Vec::new();
    let connect = Connect {
        version_min: 1,
        version_max: 1,
        transport: RdmaTransport::Rc,
        control: ControlCarrier::Tcp,
        channel: 1,
        qp_num: 17,
        psn: 4711,
        gid: [1; 16],
        dc_key: 0,
        lid: 0,
        mtu: 4096,
        port: 1,
        max_rd_atomic: 16,
        max_dest_rd_atomic: 16,
        rail_idx: 0,
        facts: Facts::default(),
    };
    let head = memkv_proto::request::encode_connect(&mut control, None, &connect).unwrap();
    client.send(head, &control, &[]);
    let frame = client.receive().unwrap();
    match Reply::decode(&frame.head, &frame.control).unwrap().1 {
        Reply::Failed(failure) => assert_eq!(failure.code, ErrorCode::Unsupported),
        other => panic!("{other:?}"),
    }
    assert!(client.is_alive());
}

#[test]
fn conditions_and_attributes_are_kept() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let mut put = |condition, attrs| {
        let mut control = Vec::new();
        let put = PutEntry {
            condition,
            attrs,
            ..entry(b"key", b"value")
        };
        let head =
            memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, [put]).unwrap();
        client.send(head, &control, b"value");
        let frame = client.receive().unwrap();
        let Reply::Written(results) = Reply::decode(&frame.head, &frame.control).unwrap().1 else {
            panic!("{frame:?}")
        };
        results.iter().next().unwrap()
    };
    let attrs = Attrs {
        namespace: 0,
        type_tag: 7,
        flags: 0xdead,
        expiry_ms: 0,
        class: Class::Evictable,
    };
    let first = put(Condition::IfAbsent, attrs);
    assert_eq!(first.outcome, Outcome::Ok);
    let failed = Outcome::Error(ErrorCode::ConditionFailed);
    assert_eq!(put(Condition::IfAbsent, attrs).outcome, failed);
    assert_eq!(
        put(Condition::IfVersion(first.version + 1), attrs).outcome,
        failed
    );
    let second = put(Condition::IfVersion(first.version), attrs);
    assert_eq!(second.outcome, Outcome::Ok);
    assert!(second.version > first.version);
    client.send_keys(OpCode::Get, &[b"key"]);
    let frame = client.receive().unwrap();
    let Reply::Values(segments) = Reply::decode(&frame.head, &frame.control).unwrap().1 else {
        panic!("{frame:?}")
    };
    let segment = segments.iter().next().unwrap();
    assert_eq!((segment.attrs, segment.version), (attrs, second.version));
}

#[test]
fn a_reply_says_where_the_time_went_if_asked() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    client.put(b"key", b"value");
    let trace = TraceContext {
        version: 0,
        trace_id: [3; 16],
        span_id: [4; 8],
        flags: 1,
    };
    let mut control = Vec::new();
    let head = memkv_proto::request::encode_keys(
        &mut control,
        OpCode::Get,
        Some(&trace),
        0,
        [&b"key"[..]],
    )
    .unwrap();
    client.send(head.with_flags(Flags::WANT_STAGES), &control, &[]);
    let frame = client.receive().unwrap();
    let (blocks, _) = Reply::decode(&frame.head, &frame.control).unwrap();
    assert_ne!(blocks.span_id.expect("the server's span"), [0; 8]);
    let stages = blocks.stages.expect("a summary");
    let measured: Vec<bool> = (0..10).map(|stage| stages.get(stage).is_some()).collect();
    // receive verify admit lease index transfer queue device complete reply: what didn't happen, or hasn't yet, is absent.
    let expected = [
        true, true, false, false, true, false, false, false, false, false,
    ];
    assert_eq!(measured, expected);
    // Nobody asked.
    client.send_keys(OpCode::Get, &[b"key"]);
    let frame = client.receive().unwrap();
    assert!(
        Reply::decode(&frame.head, &frame.control)
            .unwrap()
            .0
            .stages
            .is_none()
    );
}

#[test]
fn the_stages_of_a_value_that_streams_to_a_drive_fit_into_its_time() {
    let server = Builder::file("512 MiB").pool("64 MiB").start();
    let mut client = WireClient::connect(server.address());
    // Seven windows of a quarter of the pool.
    let big = value(1, 100 << 20);
    let mut control = Vec::new();
    let entries = [entry(b"big", &big)];
    let head =
        memkv_proto::request::encode_writes(&mut control, OpCode::Put, None, entries).unwrap();
    let start = Instant::now();
    client.send(head.with_flags(Flags::WANT_STAGES), &control, &big);
    let frame = client.receive().unwrap();
    let took = start.elapsed().as_nanos() as u64;
    assert_eq!(written(&frame, 1), [Outcome::Ok]);
    let (blocks, _) = Reply::decode(&frame.head, &frame.control).unwrap();
    let stages = blocks.stages.expect("a summary");
    let ns = |stage: Stage| u64::from(stages.get(stage.idx()).unwrap_or(0));
    let all: u64 = Stage::ALL.iter().map(|stage| ns(*stage)).sum();
    assert!(all <= took, "{all} ns of stages in {took} ns: {stages:?}");
    assert!(ns(Stage::Transfer) > 0, "{stages:?}");
    // Each window is written before the next is filled: that is the drive's time, not the pool's or the client's.
    assert!(ns(Stage::Device) > ns(Stage::Lease), "{stages:?}");
    let waited = ns(Stage::Lease) + ns(Stage::Queue) + ns(Stage::Device) + ns(Stage::Complete);
    assert!(
        2 * (waited + ns(Stage::Transfer)) > took,
        "{stages:?} of {took} ns"
    );
}

#[test]
fn a_deadline_that_passed_before_the_work_began_is_counted_and_the_work_is_not_done() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let big = value(1, 8 << 20);
    let mut control = Vec::new();
    // The second value's turn comes when 8 MiB have arrived, and the budget is one µs.
    let entries = [entry(b"first", &big), entry(b"late", b"value")];
    let head = memkv_proto::request::encode_writes(&mut control, OpCode::BatchWrite, None, entries)
        .unwrap();
    client.send(
        head.with_deadline_us(1),
        &control,
        &[&big[..], b"value"].concat(),
    );
    let reply = client.receive().unwrap();
    let late = Outcome::Error(ErrorCode::DeadlineExceeded);
    assert_eq!(written(&reply, 2)[1], late);
    assert_eq!(client.get(b"late"), Ok(None));
    assert!(rejected(&server, "deadline") >= 1.0);
    // A budget that is long enough changes nothing.
    assert_eq!(client.put(b"big", &big), Outcome::Ok);
    let mut control = Vec::new();
    let head = memkv_proto::request::encode_keys(&mut control, OpCode::Get, None, 0, [&b"big"[..]]);
    client.send(head.unwrap().with_deadline_us(10_000_000), &control, &[]);
    assert!(client.receive_values(1) == [Ok(Some(big))]);
}

#[test]
fn a_cancel_is_answered_when_the_server_is_done_with_the_request() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let values: Vec<_> = (0..32)
        .map(|i| (format!("key-{i}"), value(i, 4 << 20)))
        .collect();
    for (key, value) in &values {
        assert_eq!(client.put(key.as_bytes(), value), Outcome::Ok);
    }
    let keys: Vec<&[u8]> = values.iter().map(|(key, _)| key.as_bytes()).collect();
    let read = client.send_keys(OpCode::BatchRead, &keys);
    let mut control = Vec::new();
    let head = memkv_proto::request::encode_cancel(&mut control, read);
    let cancel = client.next_id();
    client.send(head.with_request_id(cancel), &control, &[]);
    let mut answered = vec![None; keys.len()];
    let (mut read_done, mut cancelled) = (false, None);
    while !read_done || cancelled.is_none() {
        let frame = client.receive().unwrap();
        if frame.head.request_id == cancel {
            let Reply::Cancelled(state) = Reply::decode(&frame.head, &frame.control).unwrap().1
            else {
                panic!("{:?}", frame.head)
            };
            cancelled = Some((state, read_done));
        } else {
            read_done = !collect(&frame, &mut answered);
        }
    }
    let stopped = answered
        .iter()
        .filter(|value| **value == Some(Err(ErrorCode::Cancelled)))
        .count();
    match cancelled {
        // The server holds nothing of a request that it says it stopped.
        Some((CancelState::Stopped, read_done)) => assert!(read_done && stopped > 0),
        Some((CancelState::NotFound, _)) => assert_eq!(stopped, 0),
        None => unreachable!(),
    }
    // Of what was never sent nothing is known.
    let head = memkv_proto::request::encode_cancel(&mut Vec::new(), 999);
    client.send(head, &999u64.to_le_bytes(), &[]);
    let frame = client.receive().unwrap();
    let answer = Reply::decode(&frame.head, &frame.control).unwrap().1;
    assert_eq!(answer, Reply::Cancelled(CancelState::NotFound));
}

#[test]
fn small_replies_overtake_bulk() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let values: Vec<_> = (0..16)
        .map(|i| (format!("key-{i}"), value(i, 4 << 20)))
        .collect();
    for (key, value) in &values {
        assert_eq!(client.put(key.as_bytes(), value), Outcome::Ok);
    }
    assert_eq!(client.put(b"small", b"value"), Outcome::Ok);
    let keys: Vec<&[u8]> = values.iter().map(|(key, _)| key.as_bytes()).collect();
    let bulk = client.send_keys(OpCode::BatchRead, &keys);
    // Some of the bulk is on its way when the question is asked.
    let mut answered = vec![None; keys.len()];
    assert!(collect(&client.receive().unwrap(), &mut answered));
    let mut small = vec![
        client.send_keys(OpCode::Exists, &[b"key-1"]),
        client.send_keys(OpCode::Get, &[b"small"]),
    ];
    let (mut before, mut after) = (0u64, 0u64);
    loop {
        let frame = client.receive().unwrap();
        if let Some(at) = small.iter().position(|id| *id == frame.head.request_id) {
            small.remove(at);
            continue;
        }
        assert_eq!(frame.head.request_id, bulk);
        let overtaken = small.is_empty();
        *(if overtaken { &mut after } else { &mut before }) += frame.head.payload_len;
        if !collect(&frame, &mut answered) {
            break;
        }
    }
    assert!(small.is_empty(), "both are answered");
    // What was in the sockets' buffers could not be overtaken any more; the rest was.
    assert!(
        after > 8 << 20,
        "{before} bytes before the small replies, {after} after them"
    );
    for ((_, value), answer) in values.iter().zip(answered) {
        assert!(answer == Some(Ok(Some(value.clone()))));
    }
}

#[test]
fn bulk_goes_in_shorter_frames_where_another_connection_of_its_thread_has_small_ops() {
    let server = Builder::memory("256 MiB").network("threads: 1").start();
    let mut bulk = WireClient::connect(server.address());
    let mut small = WireClient::connect(server.address());
    let big = value(1, 4 << 20);
    assert_eq!(bulk.put(b"big", &big), Outcome::Ok);
    assert_eq!(small.put(b"small", &[1; 1 << 10]), Outcome::Ok);
    let mut longest_frame = || {
        let mut answered = vec![None];
        let mut longest = 0;
        bulk.send_keys(OpCode::Get, &[b"big"]);
        loop {
            let frame = bulk.receive().unwrap();
            longest = longest.max(frame.head.payload_len);
            if !collect(&frame, &mut answered) {
                assert!(answered[0] == Some(Ok(Some(big.clone()))));
                return longest;
            }
        }
    };
    let patience = Duration::from_secs(10);
    // How soon one asks after the other depends on the machine; that it comes to this doesn't.
    until("it has the thread for itself", patience, || {
        (longest_frame() == 4 << 20).then_some(())
    });
    until("it shares the thread", patience, || {
        assert_eq!(small.get(b"small"), Ok(Some(vec![1; 1 << 10])));
        (longest_frame() == 1 << 20).then_some(())
    });
    until("it has the thread for itself again", patience, || {
        (longest_frame() == 4 << 20).then_some(())
    });
}

#[test]
fn a_store_that_may_not_evict_says_no_space_and_takes_deletes() {
    let server = Builder::memory("64 MiB").storage("eviction: off").start();
    let mut client = WireClient::connect(server.address());
    let value = value(1, 4 << 20);
    let mut stored = Vec::new();
    let refusal = loop {
        let key = format!("key-{}", stored.len());
        match client.put(key.as_bytes(), &value) {
            Outcome::Ok => stored.push(key),
            refusal => break refusal,
        }
        assert!(stored.len() < 32, "more than there is room for");
    };
    assert_eq!(refusal, Outcome::Error(ErrorCode::NoSpace));
    assert!(rejected(&server, "no_space") >= 1.0);
    assert_eq!(client.delete(&[stored[0].as_bytes()]), [Outcome::Ok]);
    assert_eq!(client.put(b"again", &value), Outcome::Ok);
}

#[test]
fn overload_is_busy_soon_and_never_a_long_wait() {
    let server = Builder::memory("64 MiB")
        .limit("max_in_flight: 8 MiB")
        .limits(|limits| {
            limits.reply_stall = Duration::from_secs(20);
            limits.stall_pressed = Duration::from_secs(20);
        })
        .start();
    let mut hog = WireClient::connect(server.address());
    let mut other = WireClient::connect(server.address());
    let big = value(1, 4 << 20);
    assert_eq!(hog.put(b"big", &big), Outcome::Ok);
    // The hog asks for far more than it takes, so that the whole budget stays taken.
    for _ in 0..8 {
        hog.send_keys(OpCode::Get, &[b"big"]);
    }
    until("the budget is taken", Duration::from_secs(10), || {
        (metric(&server, "memkv_admitted_bytes") >= (8 << 20) as f64).then_some(())
    });
    let started = Instant::now();
    other.send_put(&[(b"other", &big)]);
    let busy = other.receive().unwrap();
    assert_eq!(written(&busy, 1), [Outcome::Error(ErrorCode::Busy)]);
    match Reply::decode(&busy.head, &busy.control).unwrap().1 {
        Reply::Written(results) => assert!(results.retry_after_us() > 0, "it says when"),
        other => panic!("{other:?}"),
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(other.get(b"big"), Err(ErrorCode::Busy));
    // What needs no value bytes is served all the while.
    assert_eq!(other.exists(&[b"big"]), [Outcome::Ok]);
    assert!(rejected(&server, "busy") >= 2.0);
    for _ in 0..8 {
        assert!(hog.receive_values(1) == [Ok(Some(big.clone()))]);
    }
    assert_eq!(other.put(b"other", &big), Outcome::Ok);
}

#[test]
fn every_op_leaves_its_times_and_the_slowest_are_taken_apart() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let big = value(1, 4 << 20);
    client.put(b"key", &big);
    client.get(b"key").unwrap();
    client.exists(&[b"key"]);
    client.delete(&[b"key"]);
    client.put_many(&[(b"a", b"1"), (b"b", b"2")]);
    client.get_many(&[b"a", b"b", b"c"]);
    let ops = [
        "put",
        "get",
        "exists",
        "delete",
        "batch_write",
        "batch_read",
    ];
    until("every op is counted", Duration::from_secs(5), || {
        let text = get(&server, "/v1/metrics", &[]).body;
        ops.iter()
            .all(|op| text.contains(&format!("memkv_op_duration_seconds_count{{op=\"{op}\"")))
            .then_some(())
    });
    let text = get(&server, "/v1/metrics", &[]).body;
    for (op, stages) in [
        (
            "put",
            &["receive", "verify", "admit", "lease", "transfer", "reply"][..],
        ),
        ("get", &["receive", "verify", "index", "reply"]),
    ] {
        for stage in stages {
            let series =
                format!("memkv_stage_duration_seconds_count{{op=\"{op}\",stage=\"{stage}\"}}");
            assert!(text.contains(&series), "{series}");
        }
        let series = format!("memkv_stage_duration_seconds_count{{op=\"{op}\",stage=\"device\"}}");
        assert!(!text.contains(&series), "no drive was asked");
    }
    let misses = "memkv_entries_total{op=\"batch_read\",tier=\"none\",outcome=\"miss\"}";
    assert_eq!(metric(&server, misses), 1.0);
    let slowest = until("the slow ring has them", Duration::from_secs(5), || {
        let slow = get(&server, "/v1/slow?sort=slowest&limit=3", &[]).json();
        (slow.as_array().unwrap().len() == 3).then_some(slow)
    });
    let text = slowest.to_string();
    assert!(
        text.contains("\"stage\":\"transfer\"") || text.contains("\"stage\":\"reply\""),
        "{text}"
    );
    assert!(!text.contains("\"key\""), "keys are never shown: {text}");
}
