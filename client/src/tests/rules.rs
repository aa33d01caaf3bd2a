//! What a server may say and what not; what a client sends, where, and how often.

use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memkv_proto::op::{OpCode, Outcome, Segment};
use memkv_proto::request::Request;
use memkv_proto::session::Features;
use memkv_telemetry::{Role, Telemetry, TelemetryConfig};

use super::peer::{Asked, Identity, Peer, listen, serve, store, whole};
use super::verbs::block_on;
use super::{client, config};
use crate::config::PayloadMac;
use crate::{AsyncClient, CallOptions, Client, OpError, TransportCause};

const PATIENCE: Duration = Duration::from_secs(60);

fn within(timeout: Duration) -> CallOptions {
    CallOptions {
        timeout: Some(timeout),
        ..CallOptions::default()
    }
}

fn cause<T: std::fmt::Debug>(result: Result<T, OpError>) -> TransportCause {
    match result {
        Err(OpError::Transport { cause, .. }) => cause,
        other => panic!("expected a transport error, got {other:?}"),
    }
}

fn violates<T: std::fmt::Debug>(result: Result<T, OpError>, rule: &str) {
    match cause(result) {
        TransportCause::Protocol(what) => assert!(what.contains(rule), "{what}"),
        other => panic!("expected a protocol violation, got {other:?}"),
    }
}

/// A client of a peer that answers every request with `reply`.
fn answered(
    identity: Identity,
    reply: impl Fn(&mut Peer, &Asked) + Send + Sync + 'static,
) -> Client {
    let address = serve(identity, move |_, peer| {
        while let Some(asked) = peer.next() {
            reply(peer, &asked);
        }
    });
    client(&[address])
}

/// A peer that answers nothing and tells what it was asked: on which connection, and what.
fn silent() -> (SocketAddr, Receiver<(usize, Asked)>) {
    let (told, asked) = mpsc::channel();
    let told = Mutex::new(told);
    let address = serve(Identity::default(), move |idx, peer| {
        while let Some(asked) = peer.next() {
            if asked.op() == OpCode::Cancel {
                peer.cancelled(&asked);
            } else if told.lock().unwrap().send((idx, asked)).is_err() {
                return;
            }
        }
    });
    (address, asked)
}

fn ok(version: u64) -> memkv_proto::reply::WriteResult {
    memkv_proto::reply::WriteResult {
        outcome: Outcome::Ok,
        version,
    }
}

#[test]
fn replies_have_one_outcome_per_entry_and_no_more() {
    let client = answered(Identity::default(), |peer, asked| match asked.op() {
        OpCode::Put => peer.written(asked, &[ok(1), ok(2)]),
        _ => peer.outcomes(asked, &[Outcome::Ok, Outcome::Ok]),
    });
    violates(client.put(b"k", b"v"), "another number of entries");
    violates(client.exists(b"k"), "another number of entries");
    let client = answered(Identity::default(), |peer, asked| {
        let misses = [0, 0].map(|idx| Segment::without_value(idx, Outcome::Miss));
        let bytes = peer.part(asked, &misses, &[], false);
        peer.write(&bytes);
    });
    for found in client.batch_get(&[b"a", b"b"]) {
        match found {
            Ok(None) => {}
            found => violates(found, "settles an entry twice"),
        }
    }
}

#[test]
fn a_put_never_misses() {
    let client = answered(Identity::default(), |peer, asked| {
        let miss = memkv_proto::reply::WriteResult {
            outcome: Outcome::Miss,
            version: 0,
        };
        peer.written(asked, &[miss]);
    });
    violates(client.put(b"k", b"v"), "a put can't miss");
}

#[test]
fn a_reply_is_of_its_requests_op() {
    let client = answered(Identity::default(), |peer, asked| {
        let mut deleted = asked.clone();
        deleted.head.op = OpCode::Delete;
        peer.outcomes(&deleted, &[Outcome::Ok]);
    });
    violates(client.exists(b"k"), "another op");
}

#[test]
fn a_cancellation_that_was_never_asked_for_is_a_violation() {
    let client = answered(Identity::default(), |peer, asked| peer.cancelled(asked));
    violates(client.get(b"k"), "never sent");
}

/// What becomes of a get whose value and checksum are as they should be, if `send` has its way with the reply, of which the
/// last 32 bytes are the MAC.
fn unvouched(send: impl Fn(&mut Peer, Vec<u8>) + Send + Sync + 'static) -> TransportCause {
    let identity = Identity {
        required: Features::PAYLOAD_MAC,
        ..Identity::default()
    };
    let address = serve(identity, move |idx, peer| {
        while let Some(asked) = peer.next() {
            if asked.op() == OpCode::Cancel {
                peer.cancelled(&asked);
                continue;
            }
            let bytes = peer.value(&asked, b"value");
            if idx > 0 {
                peer.write(&bytes);
            } else {
                send(peer, bytes);
            }
        }
    });
    let client = client(&[address]);
    client.ping(0).unwrap();
    let cause = cause(client.with(&within(Duration::from_millis(300))).get(b"k"));
    assert_eq!(client.get(b"k").unwrap().unwrap(), b"value");
    cause
}

#[test]
fn a_value_is_handed_out_only_once_its_mac_is_verified() {
    let forged = unvouched(|peer, mut bytes| {
        *bytes.last_mut().unwrap() ^= 1;
        peer.write(&bytes);
    });
    assert!(forged.to_string().contains("payload MAC"), "{forged}");
    let cut = unvouched(|peer, bytes| {
        peer.write(&bytes[..bytes.len() - 32]);
        peer.stream.shutdown(Shutdown::Both).unwrap();
    });
    let gone = matches!(cut, TransportCause::ClosedByPeer | TransportCause::Lost(_));
    assert!(gone, "{cut:?}");
    // The rest never comes: an acknowledged Cancel can't be told from it, so the connection is closed.
    let held = unvouched(|peer, bytes| peer.write(&bytes[..bytes.len() - 32]));
    let late = matches!(
        held,
        TransportCause::DeadlineClosed | TransportCause::Protocol(_)
    );
    assert!(late, "{held:?}");
}

#[test]
fn a_value_that_no_buffer_holds_costs_no_connection() {
    for required in [0, Features::PAYLOAD_MAC] {
        let identity = Identity {
            required,
            ..Identity::default()
        };
        let address = serve(identity, |idx, peer| {
            while let Some(asked) = peer.next() {
                let bytes = peer.value(&asked, &[idx as u8; 3000]);
                peer.write(&bytes);
            }
        });
        let client = client(&[address]);
        let short = client.get_into(b"k", &mut [0; 10]);
        assert!(
            matches!(short, Err(OpError::BufferTooSmall { .. })),
            "{short:?}"
        );
        assert_eq!(
            client.get(b"k").unwrap().unwrap(),
            [0; 3000],
            "the first connection"
        );
    }
}

#[test]
fn a_client_that_requires_payload_macs_sends_them_to_a_server_that_doesnt() {
    let address = serve(Identity::default(), |_, peer| {
        while let Some(asked) = peer.next() {
            let version = if peer.expects_trailer(&asked) { 1 } else { 0 };
            peer.written(&asked, &[ok(version)]);
        }
    });
    for (payload_mac, signed) in [(PayloadMac::Auto, 0), (PayloadMac::Required, 1)] {
        let mut config = config(&[address]);
        config.payload_mac = payload_mac;
        let client = Client::new(config).unwrap();
        assert_eq!(client.put(b"k", b"v").unwrap(), signed);
    }
}

#[test]
fn puts_and_deletes_are_never_sent_again() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let address = serve(Identity::default(), move |_, peer| {
        // It takes one request, and dies.
        if let Some(asked) = peer.next() {
            log.lock().unwrap().push(asked.op());
        }
    });
    let mut config = config(&[address]);
    config.retries = 2;
    let client = Client::new(config).unwrap();
    for lost in [
        client.put(b"k", b"v").map(drop),
        client.delete(b"k").map(drop),
    ] {
        let lost = lost.unwrap_err();
        assert!(!lost.nothing_sent(), "it may have been done: {lost:?}");
    }
    for (_, lost) in [(); 2]
        .iter()
        .zip(client.batch_put(&[(b"a", b"v"), (b"b", b"v")]))
    {
        lost.unwrap_err();
    }
    let expected = [OpCode::Put, OpCode::Delete, OpCode::BatchWrite];
    assert_eq!(*asked.lock().unwrap(), expected);
    client.exists(b"k").unwrap_err();
    assert_eq!(asked.lock().unwrap()[3..], [OpCode::Exists; 3], "a read is");
}

#[test]
fn a_call_that_found_no_connection_in_time_was_never_sent() {
    let (address, _) = listen(|_, stream| {
        std::mem::forget(stream);
        true
    });
    let client = client(&[address]);
    let late = client
        .with(&within(Duration::from_millis(50)))
        .put(b"k", b"v")
        .unwrap_err();
    assert!(late.nothing_sent(), "{late:?}");
    assert!(matches!(
        cause::<()>(Err(late)),
        TransportCause::DeadlineUnsent
    ));
}

#[test]
fn a_budget_that_is_used_up_is_never_sent_as_none() {
    let (address, asked) = silent();
    let client = client(&[address]);
    client.ping(0).unwrap();
    let over = within(Duration::from_nanos(1));
    client.with(&over).get(b"k").unwrap_err();
    let (_, asked) = asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(asked.head.deadline_us, 1, "0 would be no deadline");
}

#[test]
fn a_buffer_that_is_too_short_says_so_to_async_callers_too() {
    let (address, _) = store(Identity::default());
    let client = AsyncClient::new(config(&[address])).unwrap();
    block_on(client.put(b"k".to_vec(), vec![7; 100])).unwrap();
    let short = block_on(client.get_into(b"k".to_vec(), vec![0; 99]));
    assert!(matches!(
        short,
        Err(OpError::BufferTooSmall {
            need: 100,
            have: 99
        })
    ));
    let (buffer, len) = block_on(client.get_into(b"k".to_vec(), vec![0; 100]))
        .unwrap()
        .unwrap();
    assert_eq!((buffer, len), (vec![7; 100], 100));
}

#[test]
fn small_calls_and_bulk_have_connections_of_their_own_and_the_idlest_is_taken() {
    let (address, asked) = silent();
    let mut config = config(&[address]);
    config.num_connections = 3;
    let client = AsyncClient::new(config).unwrap();
    let bulk = [(); 2].map(|()| client.batch_get(vec![b"a".to_vec(), b"b".to_vec()]));
    let small = [(); 2].map(|()| client.exists(b"k".to_vec()));
    let mut on = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        let (idx, asked) = asked.recv_timeout(PATIENCE).unwrap();
        on[usize::from(asked.op() == OpCode::Exists)].push(idx);
    }
    let [bulk_on, small_on] = on;
    assert_ne!(
        bulk_on[0], bulk_on[1],
        "the second batch takes the idle connection"
    );
    assert_eq!(small_on[0], small_on[1]);
    assert!(!bulk_on.contains(&small_on[0]));
    drop((bulk, small));
}

#[test]
fn a_reply_on_another_connection_is_a_violation_and_answers_nothing() {
    let (get_came, other) = mpsc::channel::<Asked>();
    let (answer_came, may_answer) = mpsc::channel();
    let (get_came, other) = (Mutex::new(get_came), Mutex::new(other));
    let may_answer = Mutex::new(may_answer);
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            if asked.op() == OpCode::Get {
                get_came.lock().unwrap().send(asked.clone()).unwrap();
                may_answer.lock().unwrap().recv().unwrap();
                let bytes = peer.value(&asked, b"good");
                peer.write(&bytes);
            } else {
                let other = other.lock().unwrap().recv().unwrap();
                let bytes = peer.value(&other, b"evil");
                peer.write(&bytes);
                peer.outcomes(&asked, &[Outcome::Ok]);
            }
        }
    });
    let client = AsyncClient::new(config(&[address])).unwrap();
    let get = client.get(b"k".to_vec());
    // The small connection's peer answers for the bulk one, whose own answer comes last.
    violates(block_on(client.exists(b"k".to_vec())), "never sent");
    answer_came.send(()).unwrap();
    assert_eq!(block_on(get).unwrap().unwrap(), b"good");
}

#[test]
fn no_more_than_a_window_of_requests_is_unanswered_and_closing_fails_those_that_wait() {
    const WINDOW: usize = 256;
    let (address, asked) = silent();
    let client = AsyncClient::new(config(&[address])).unwrap();
    let start = |count: usize| -> Vec<_> {
        (0..count)
            .map(|n| client.get(format!("{n}").into_bytes()))
            .collect()
    };
    let mut calls = start(WINDOW + 50);
    for _ in 0..WINDOW {
        asked.recv_timeout(PATIENCE).unwrap();
    }
    // What was not sent is taken back, what was is cancelled: in this order, because a request that is
    // cancelled makes room for one that waits.
    drop(calls.split_off(WINDOW));
    drop(calls);
    let calls = start(WINDOW + 50);
    let keys: Vec<Vec<u8>> = (0..WINDOW)
        .map(|_| asked.recv_timeout(PATIENCE).unwrap().1.keys().remove(0))
        .collect();
    let expected: Vec<Vec<u8>> = (0..WINDOW).map(|n| format!("{n}").into_bytes()).collect();
    assert_eq!(
        keys, expected,
        "nothing of the first calls came behind the window"
    );
    client.close();
    for call in calls {
        assert!(matches!(
            cause(block_on(call)),
            TransportCause::ClientClosed
        ));
    }
}

#[test]
fn all_frames_of_a_call_are_in_one_trace() {
    let (told, traces) = mpsc::channel();
    let told = Mutex::new(told);
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            let (trace, _) = Request::decode(&asked.head, &asked.control).unwrap();
            told.lock().unwrap().send(trace.unwrap()).unwrap();
            let segments: Vec<Segment> = (0..asked.keys().len() as u32)
                .map(|idx| whole(idx, b"v"))
                .collect();
            let bytes = peer.part(&asked, &segments, &vec![b'v'; segments.len()], false);
            peer.write(&bytes);
        }
    });
    let mut config = config(&[address]);
    config.max_batch_size = 1;
    let telemetry = Telemetry::new(TelemetryConfig::new(Role::Client, "test")).unwrap();
    let client = Client::with_telemetry(config, telemetry).unwrap();
    let mut calls = [(); 2].map(|()| {
        let values = client.batch_get(&[b"a", b"b", b"c"]);
        assert!(values.iter().all(Result::is_ok));
        [(); 3].map(|()| traces.recv_timeout(PATIENCE).unwrap())
    });
    for call in &mut calls {
        assert!(
            call.iter()
                .all(|trace| trace.is_valid() && trace.trace_id == call[0].trace_id)
        );
        let mut spans = call.map(|trace| trace.span_id);
        spans.sort_unstable();
        assert!(
            spans[0] != spans[1] && spans[1] != spans[2],
            "each frame is a span"
        );
    }
    assert_ne!(calls[0][0].trace_id, calls[1][0].trace_id);
}

#[test]
fn writes_are_cut_into_frames_of_16_mib() {
    let (address, kept) = store(Identity::default());
    let client = client(&[address]);
    let value = vec![7; 5 << 20];
    let items: Vec<(Vec<u8>, &[u8])> = (0..5).map(|n| (vec![n], value.as_slice())).collect();
    assert!(client.batch_put(&items).iter().all(Result::is_ok));
    let expected = [(OpCode::BatchWrite, 3), (OpCode::BatchWrite, 2)];
    assert_eq!(kept.lock().unwrap().log, expected);
}

#[test]
fn a_value_above_the_limit_is_refused_before_it_is_sent() {
    let (address, kept) = store(Identity::default());
    // Zeroed pages that nobody touches cost no memory.
    let value = vec![0; (1 << 30) + 1];
    let refused = client(&[address]).put(b"k", &value).unwrap_err();
    let expected = (1 << 30) + 1;
    assert!(matches!(refused, OpError::TooLarge { len, max } if (len, max) == (expected, 1 << 30)));
    assert!(refused.nothing_sent() && kept.lock().unwrap().log.is_empty());
}

#[test]
fn connections_come_from_the_bind_address() {
    let (told, from) = mpsc::channel();
    let (address, _) = listen(move |_, stream| {
        told.send(stream.peer_addr().unwrap().ip()).unwrap();
        false
    });
    let mut config = config(&[address]);
    config.servers[0].bind = Some([127, 0, 0, 7].into());
    let client = Client::new(config).unwrap();
    client.exists(b"k").unwrap_err();
    let from = from.recv_timeout(PATIENCE).unwrap();
    assert_eq!(from, std::net::IpAddr::from([127, 0, 0, 7]));
}
