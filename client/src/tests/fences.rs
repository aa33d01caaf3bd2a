//! Deadlines: a call that gives up leaves nothing behind that could touch its memory or overtake its successor.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memkv_proto::op::{ErrorCode, OpCode, Outcome, Segment};
use memkv_proto::reply::{Failure, WriteResult, encode_failed};
use memkv_proto::request::Request;

use super::peer::{Asked, Identity, pattern, serve};
use super::verbs::block_on;
use super::{client, config};
use crate::{AsyncClient, CallOptions, Client, OpError, TransportCause};

const PATIENCE: Duration = Duration::from_secs(60);

fn soon() -> CallOptions {
    CallOptions {
        timeout: Some(Duration::from_millis(60)),
        ..CallOptions::default()
    }
}

/// A client whose connection stands, so that a call of little time is sent at once however busy the machine is, and that
/// waits for the acknowledgement of a cancellation as long as it takes.
fn standing(address: SocketAddr) -> Client {
    let mut config = config(&[address]);
    config.fence_timeout = PATIENCE;
    stood(Client::new(config).unwrap())
}

fn stood(client: Client) -> Client {
    client.ping(0).unwrap();
    client
}

fn cause<T: std::fmt::Debug>(result: Result<T, OpError>) -> TransportCause {
    match result {
        Err(OpError::Transport { cause, .. }) => cause,
        other => panic!("expected a transport error, got {other:?}"),
    }
}

#[test]
fn a_timed_out_put_is_fenced_before_it_is_reported() {
    let (log, asked) = mpsc::channel();
    let (let_go, may_let_go) = mpsc::channel::<()>();
    let (log, may_let_go) = (Mutex::new(log), Mutex::new(may_let_go));
    let address = serve(Identity::default(), move |idx, peer| {
        let mut stalled: Option<Asked> = None;
        while let Some(asked) = peer.next() {
            log.lock().unwrap().send((idx, asked.op())).unwrap();
            match asked.request() {
                Request::Put(_) if stalled.is_none() => stalled = Some(asked),
                Request::Cancel { request_id } => {
                    assert_eq!(request_id, stalled.as_ref().unwrap().head.request_id);
                    // The server lets go of it when the test says so.
                    may_let_go.lock().unwrap().recv().unwrap();
                    peer.cancelled(&asked);
                }
                _ => peer.written(
                    &asked,
                    &[WriteResult {
                        outcome: Outcome::Ok,
                        version: 2,
                    }],
                ),
            }
        }
    });
    let client = standing(address);
    let next = || asked.recv_timeout(Duration::from_secs(5));
    std::thread::scope(|scope| {
        let put = scope.spawn(|| cause(client.with(&soon()).put(b"k", b"first")));
        assert_eq!(next(), Ok((0, OpCode::Put)));
        assert_eq!(next(), Ok((0, OpCode::Cancel)));
        // Its deadline is over, and the server still has it.
        assert!(!put.is_finished(), "reported before the server let go");
        let_go.send(()).unwrap();
        let got = put.join().unwrap();
        assert!(matches!(got, TransportCause::DeadlineFenced), "{got:?}");
    });
    assert_eq!(client.put(b"k", b"second").unwrap(), 2);
    let rest: Vec<_> = asked.try_iter().collect();
    let expected = [(0, OpCode::Put)];
    assert_eq!(rest, expected, "one connection, nothing sent twice");
}

#[test]
fn without_an_acknowledgement_the_connection_is_closed_first() {
    let (gone, closed) = mpsc::channel();
    let gone = Mutex::new(gone);
    let address = serve(Identity::default(), move |idx, peer| {
        while let Some(asked) = peer.next() {
            if idx > 0 {
                peer.written(
                    &asked,
                    &[WriteResult {
                        outcome: Outcome::Ok,
                        version: 2,
                    }],
                );
            }
        }
        gone.lock().unwrap().send(idx).unwrap();
    });
    let client = stood(client(&[address]));
    let got = cause(client.with(&soon()).put(b"k", b"first"));
    assert!(matches!(got, TransportCause::DeadlineClosed), "{got:?}");
    assert_eq!(
        closed.recv_timeout(Duration::from_secs(5)),
        Ok(0),
        "the peer sees the connection end"
    );
    assert_eq!(client.put(b"k", b"second").unwrap(), 2);
}

#[test]
fn a_peer_that_never_reads_is_given_up_in_time() {
    let (done, is_done) = mpsc::channel::<()>();
    let is_done = Mutex::new(is_done);
    let address = serve(Identity::default(), move |_, peer| {
        let ping = peer.next_control().unwrap();
        peer.pong(&ping);
        // Its end of the connection stays open until the test is over.
        _ = is_done.lock().unwrap().recv();
    });
    let mut config = config(&[address]);
    config.op_timeout = Duration::from_secs(3600);
    let client = stood(Client::new(config).unwrap());
    let value = vec![1; 64 << 20];
    let start = Instant::now();
    let got = cause(client.with(&soon()).put(b"k", &value));
    assert!(matches!(got, TransportCause::DeadlineClosed), "{got:?}");
    // Its own deadline and the fence behind it, not the client's hour; a busy machine needs a while for the checksum.
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    drop(done);
}

#[test]
fn a_late_reply_never_lands_in_a_reused_buffer() {
    let (go, wait) = mpsc::channel::<()>();
    let (came, late_came) = mpsc::channel();
    let (wait, came) = (Mutex::new(wait), Mutex::new(came));
    let address = serve(Identity::default(), move |idx, peer| {
        if idx == 0 {
            let first = peer.next().unwrap();
            let late = peer.value(&first, &pattern(66, 200_000));
            // Half of the reply, then nothing until the client has given up and uses its buffer for something else.
            peer.write(&late[..100_000]);
            wait.lock().unwrap().recv().unwrap();
            peer.write(&late[100_000..]);
            came.lock().unwrap().send(()).unwrap();
        }
        while let Some(asked) = peer.next() {
            let bytes = peer.value(&asked, b"good");
            peer.write(&bytes);
        }
    });
    let client = stood(client(&[address]));
    let mut buffer = vec![0; 200_000];
    let got = cause(client.with(&soon()).get_into(b"k", &mut buffer));
    assert!(matches!(got, TransportCause::DeadlineClosed), "{got:?}");
    buffer.fill(0x77);
    go.send(()).unwrap();
    assert_eq!(late_came.recv_timeout(PATIENCE), Ok(()));
    // The client polls its sockets once more.
    assert_eq!(client.get(b"k").unwrap().unwrap(), b"good");
    assert!(buffer.iter().all(|byte| *byte == 0x77));
}

#[test]
fn an_answer_that_races_the_cancellation_wins() {
    let address = serve(Identity::default(), |_, peer| {
        let mut stalled: Option<Asked> = None;
        while let Some(asked) = peer.next() {
            match (asked.op(), stalled.take()) {
                (OpCode::Cancel, Some(first)) => {
                    let bytes = peer.value(&first, b"just in time");
                    peer.write(&bytes);
                    peer.cancelled(&asked);
                }
                (OpCode::Get, None) => stalled = Some(asked),
                other => panic!("{other:?}"),
            }
        }
    });
    let client = standing(address);
    for _ in 0..2 {
        assert_eq!(
            client.with(&soon()).get(b"k").unwrap().unwrap(),
            b"just in time"
        );
    }
}

#[test]
fn the_server_gets_what_is_left_of_the_deadline() {
    let (budget, told) = mpsc::channel();
    let budget = Mutex::new(budget);
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            budget.lock().unwrap().send(asked.head.deadline_us).unwrap();
            let bytes = peer.value(&asked, b"v");
            peer.write(&bytes);
        }
    });
    let client = client(&[address]);
    let options = CallOptions {
        timeout: Some(Duration::from_secs(2)),
        ..CallOptions::default()
    };
    client.with(&options).get(b"k").unwrap();
    let told = told.recv().unwrap();
    assert!((1_000_000..=2_000_000).contains(&told), "{told} µs");
}

#[test]
fn small_calls_pass_bulk_that_is_stuck_even_with_one_connection_configured() {
    let (told, stuck) = mpsc::channel();
    let told = Mutex::new(told);
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            match asked.op() {
                OpCode::Exists => peer.outcomes(&asked, &[Outcome::Ok]),
                OpCode::Cancel => peer.cancelled(&asked),
                other => told.lock().unwrap().send(other).unwrap(),
            }
        }
    });
    let client = client(&[address]);
    std::thread::scope(|scope| {
        let options = CallOptions {
            timeout: Some(Duration::from_secs(2)),
            ..CallOptions::default()
        };
        let bulk = scope.spawn({
            let client = &client;
            move || client.with(&options).batch_get(&[b"a", b"b"])
        });
        assert_eq!(stuck.recv_timeout(PATIENCE), Ok(OpCode::BatchRead));
        let start = Instant::now();
        assert!(client.exists(b"k").unwrap());
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
        assert!(!bulk.is_finished(), "the bulk call still waits");
        assert!(bulk.join().unwrap().iter().all(Result::is_err));
    });
    let client = AsyncClient::new(config(&[address])).unwrap();
    let call = client.batch_get(vec![b"a".to_vec(), b"b".to_vec()]);
    assert_eq!(stuck.recv_timeout(PATIENCE), Ok(OpCode::BatchRead));
    assert!(block_on(client.exists(b"k".to_vec())).unwrap());
    drop(call);
}

#[test]
fn when_every_lane_is_out_a_call_fails_at_its_deadline_unsent() {
    let (told, stuck) = mpsc::channel();
    let told = Mutex::new(told);
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            told.lock().unwrap().send(asked.op()).unwrap();
        }
    });
    let mut config = config(&[address]);
    config.fence_timeout = Duration::from_secs(5);
    let client = Client::new(config).unwrap();
    std::thread::scope(|scope| {
        let options = CallOptions {
            timeout: Some(Duration::from_millis(400)),
            ..CallOptions::default()
        };
        scope.spawn({
            let client = &client;
            move || client.with(&options).batch_get(&[b"a", b"b"])
        });
        assert_eq!(stuck.recv_timeout(PATIENCE), Ok(OpCode::BatchRead));
        let got = client
            .with(&soon())
            .put(b"k", &vec![0; 1 << 20])
            .unwrap_err();
        assert!(
            matches!(got, OpError::NoLane { .. }) && got.nothing_sent(),
            "{got:?}"
        );
    });
}

#[test]
fn dropping_a_future_cancels_its_call_and_keeps_its_memory_until_that_is_acknowledged() {
    let (log, asked) = mpsc::channel();
    let (let_go, may_let_go) = mpsc::channel::<()>();
    let (log, may_let_go) = (Mutex::new(log), Mutex::new(may_let_go));
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            log.lock().unwrap().send(asked.op()).unwrap();
            match asked.request() {
                Request::Cancel { .. } => {
                    may_let_go.lock().unwrap().recv().unwrap();
                    peer.cancelled(&asked);
                }
                Request::BatchRead(_) => {
                    let misses = [0, 1].map(|idx| Segment::without_value(idx, Outcome::Miss));
                    let bytes = peer.part(&asked, &misses, &[], false);
                    peer.write(&bytes);
                }
                _ => {}
            }
        }
    });
    let client = AsyncClient::new(config(&[address])).unwrap();
    let value: Arc<[u8]> = pattern(1, 100_000).into();
    let call = client.put(b"k".to_vec(), Arc::clone(&value));
    assert_eq!(asked.recv_timeout(Duration::from_secs(5)), Ok(OpCode::Put));
    drop(call);
    assert_eq!(
        asked.recv_timeout(Duration::from_secs(5)),
        Ok(OpCode::Cancel)
    );
    assert_eq!(Arc::strong_count(&value), 2, "the op still holds the value");
    let_go.send(()).unwrap();
    // What is answered behind the acknowledgement, on the same connection, is reported behind it.
    let next = client.batch_get(vec![b"a".to_vec(), b"b".to_vec()]);
    assert!(block_on(next).iter().all(|found| matches!(found, Ok(None))));
    assert_eq!(Arc::strong_count(&value), 1, "it is let go");
}

#[test]
fn closing_the_async_client_fails_what_is_under_way() {
    let (told, under_way) = mpsc::channel();
    let told = Mutex::new(told);
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            told.lock().unwrap().send(asked.op()).unwrap();
        }
    });
    let client = AsyncClient::new(config(&[address])).unwrap();
    let calls: Vec<_> = (0..10)
        .map(|n| client.get(format!("{n}").into_bytes()))
        .collect();
    for _ in &calls {
        assert_eq!(under_way.recv_timeout(PATIENCE), Ok(OpCode::Get));
    }
    client.close();
    for call in calls {
        assert!(matches!(
            cause(block_on(call)),
            TransportCause::ClientClosed
        ));
    }
}

#[test]
fn a_refusal_that_overtakes_its_payload_keeps_the_buffer_lent_until_that_is_out() {
    let address = serve(Identity::default(), |idx, peer| {
        if idx == 0 {
            // Reads the control part alone, refuses, and only then takes the payload. The kernel can't hold all of that, so
            // the client sees the refusal while most of it is still to leave.
            let asked = peer.next_control().unwrap();
            let failure = Failure {
                code: ErrorCode::NoSpace,
                retry_after_us: 0,
                detail: "",
            };
            let mut control = Vec::new();
            let head = encode_failed(&mut control, asked.op(), &Default::default(), &failure);
            peer.send(head.with_request_id(asked.head.request_id), &control, &[]);
            let payload = peer.read_payload(&asked);
            assert!(
                payload == pattern(5, 40 << 20),
                "what leaves late is still what was to be sent"
            );
        }
        while let Some(asked) = peer.next() {
            peer.written(
                &asked,
                &[WriteResult {
                    outcome: Outcome::Ok,
                    version: 2,
                }],
            );
        }
    });
    let client = client(&[address]);
    let value = pattern(5, 40 << 20);
    match client.put(b"k", &value) {
        Err(OpError::Server {
            code: ErrorCode::NoSpace,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        client.put(b"k", b"second").unwrap(),
        2,
        "the connection is still in step"
    );
}
