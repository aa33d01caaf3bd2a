//! Peers that lie, garble or go away: each is a typed outcome, soon, and nothing wrong is ever handed out.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use memkv_proto::op::{ErrorCode, OpCode, Outcome, Segment};
use memkv_proto::reply::{self, Failure};
use memkv_proto::session::{Refusal, RefusalCode};
use memkv_telemetry::clock;

use super::peer::{Identity, Peer, listen, pattern, piece, serve, whole};
use super::{client, config};
use crate::{Client, OpError, TransportCause};

fn cause(result: Result<Option<Vec<u8>>, OpError>) -> TransportCause {
    match result {
        Err(OpError::Transport { cause, .. }) => cause,
        other => panic!("expected a transport error, got {other:?}"),
    }
}

/// A peer whose first connection answers a get with what `garble` makes of the reply, and whose others answer well.
fn garbling(garble: impl Fn(&mut Peer, &super::peer::Asked) + Send + Sync + 'static) -> SocketAddr {
    serve(Identity::default(), move |idx, peer| {
        while let Some(asked) = peer.next() {
            if idx == 0 {
                garble(peer, &asked);
                return;
            }
            let bytes = peer.value(&asked, b"good");
            peer.write(&bytes);
        }
    })
}

fn protocol_violation(
    garble: impl Fn(&mut Peer, &super::peer::Asked) + Send + Sync + 'static,
    says: &str,
) {
    let client = client(&[garbling(garble)]);
    match cause(client.get(b"k")) {
        TransportCause::Protocol(what) => assert!(what.contains(says), "{what}"),
        other => panic!("expected a protocol violation, got {other:?}"),
    }
    assert_eq!(
        client.get(b"k").unwrap().unwrap(),
        b"good",
        "a new connection serves the next call"
    );
}

#[test]
fn a_replayed_frame_closes_the_connection() {
    let address = serve(Identity::default(), |idx, peer| {
        let mut last = Vec::new();
        while let Some(asked) = peer.next() {
            if idx == 0 && !last.is_empty() {
                let replay = last.clone();
                peer.write(&replay);
                return;
            }
            last = peer.value(&asked, b"good");
            let bytes = last.clone();
            peer.write(&bytes);
        }
    });
    let client = client(&[address]);
    assert_eq!(client.get(b"k").unwrap().unwrap(), b"good");
    match cause(client.get(b"k")) {
        TransportCause::Protocol(what) => assert!(what.contains("sequence"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.get(b"k").unwrap().unwrap(), b"good");
}

#[test]
fn altered_headers_and_control_parts_are_refused() {
    protocol_violation(
        |peer, asked| {
            let mut bytes = peer.value(asked, b"evil");
            bytes[30] ^= 1;
            peer.write(&bytes);
        },
        "MAC",
    );
    protocol_violation(
        |peer, asked| {
            let mut bytes = peer.value(asked, b"evil");
            bytes[memkv_proto::HEADER_BYTES + 9] ^= 1;
            peer.write(&bytes);
        },
        "digest",
    );
}

#[test]
fn replies_that_answer_something_else_are_refused() {
    protocol_violation(
        |peer, asked| {
            let bytes = peer.part(asked, &[whole(5, b"evil")], b"evil", false);
            peer.write(&bytes);
        },
        "entry that the request doesn't have",
    );
    protocol_violation(
        |peer, asked| {
            let bytes = peer.part(asked, &[piece(0, b"evil", 1, 3)], b"vil", false);
            peer.write(&bytes);
        },
        "next one of its value",
    );
    protocol_violation(
        |peer, asked| {
            let bytes = peer.part(asked, &[piece(0, b"evil", 0, 3)], b"evi", false);
            peer.write(&bytes);
        },
        "before all its entries are answered",
    );
}

#[test]
fn segments_of_two_versions_are_never_glued_together() {
    protocol_violation(
        |peer, asked| {
            let bytes = peer.part(asked, &[piece(0, b"old value", 0, 4)], b"old ", true);
            peer.write(&bytes);
            let newer = Segment {
                version: 8,
                ..piece(0, b"old value", 4, 5)
            };
            let bytes = peer.part(asked, &[newer], b"VALUE", false);
            peer.write(&bytes);
        },
        "disagree",
    );
}

#[test]
fn a_wrong_checksum_is_an_error_and_never_a_value() {
    for size in [5_usize, 300_000] {
        let address = serve(Identity::default(), move |_, peer| {
            while let Some(asked) = peer.next() {
                let mut value = pattern(1, size);
                let segment = whole(0, &value);
                value[size / 2] ^= 0x10;
                let bytes = peer.part(&asked, &[segment], &value, false);
                peer.write(&bytes);
            }
        });
        let client = client(&[address]);
        let refused = client.get(b"k").unwrap_err();
        assert!(matches!(refused, OpError::Corrupt { .. }), "{refused:?}");
        assert_eq!(
            refused.outcome(),
            crate::EntryOutcome::Error(ErrorCode::CrcMismatch)
        );
        let mut buffer = vec![0; size];
        assert!(matches!(
            client.get_into(b"k", &mut buffer),
            Err(OpError::Corrupt { .. })
        ));
    }
}

#[test]
fn a_forged_refusal_fails_the_call_and_changes_nothing_else() {
    let versions = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&versions);
    let (address, _) = listen(move |idx, mut stream| {
        if idx == 0 {
            let mut hello = [0; 10];
            stream.read_exact(&mut hello).unwrap();
            seen.lock().unwrap().push(hello);
            let forged = Refusal {
                version_min: 0,
                version_max: 0,
                ..Refusal::new(RefusalCode::UnsupportedVersion, 0)
            };
            stream.write_all(&forged.to_bytes()).unwrap();
            return true;
        }
        let mut hello = [0; 10];
        stream.peek(&mut hello).unwrap();
        seen.lock().unwrap().push(hello);
        if let Some(mut peer) = Peer::accept(stream, &Identity::default()) {
            while let Some(asked) = peer.next() {
                let bytes = peer.value(&asked, b"good");
                peer.write(&bytes);
            }
        }
        true
    });
    let client = client(&[address]);
    let refused = client.get(b"k").unwrap_err();
    assert!(refused.nothing_sent());
    assert!(
        matches!(cause(Err(refused)), TransportCause::Refused(what) if what.contains("unsupported_version"))
    );
    assert_eq!(client.get(b"k").unwrap().unwrap(), b"good");
    let versions = versions.lock().unwrap();
    assert_eq!(
        versions[0][8..10],
        versions[1][8..10],
        "the second hello offers the same versions as the first"
    );
}

#[test]
fn a_peer_with_another_key_gets_nothing() {
    let address = serve(
        Identity {
            key: [1; 32],
            ..Identity::default()
        },
        |_, _| panic!("no session"),
    );
    let got = cause(client(&[address]).get(b"k"));
    assert!(
        matches!(&got, TransportCause::Refused(what) if what.contains("auth_key")),
        "{got:?}"
    );
}

#[test]
fn a_web_server_on_the_port_is_named_as_such() {
    let (address, _) = listen(|_, mut stream| {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .is_ok()
    });
    let got = cause(client(&[address]).get(b"k"));
    assert!(
        matches!(&got, TransportCause::Handshake(what) if what.contains("memkv handshake")),
        "{got:?}"
    );
}

#[test]
fn nobody_listening_is_an_error_at_once() {
    let (address, thread) = listen(|_, _| false);
    std::net::TcpStream::connect(address).unwrap();
    thread.join().unwrap();
    let start = Instant::now();
    let got = cause(client(&[address]).get(b"k"));
    assert!(matches!(got, TransportCause::Connect(_)), "{got:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_silent_peer_costs_the_connect_timeout() {
    let (address, _) = listen(|_, stream| {
        std::mem::forget(stream);
        true
    });
    let mut config = config(&[address]);
    config.connect_timeout = Duration::from_millis(100);
    let client = Client::new(config).unwrap();
    let start = Instant::now();
    assert!(matches!(
        cause(client.get(b"k")),
        TransportCause::ConnectTimeout(_)
    ));
    assert!(
        (100..3000).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    assert!(client.warmup().is_err(), "warm-up says it too");
}

#[test]
fn a_reply_cut_off_anywhere_is_a_transport_error() {
    for cut in [1_usize, 103, 104, 120, 190, 5000, 250_000] {
        let address = garbling(move |peer, asked| {
            let bytes = peer.value(asked, &pattern(1, 300_000));
            peer.write(&bytes[..cut]);
        });
        let client = client(&[address]);
        let got = cause(client.get(b"k"));
        assert!(
            matches!(got, TransportCause::ClosedByPeer | TransportCause::Lost(_)),
            "cut at {cut}: {got:?}"
        );
        assert_eq!(client.get(b"k").unwrap().unwrap(), b"good");
    }
}

#[test]
fn a_failure_of_the_whole_request_reaches_every_entry_with_its_reason() {
    let address = serve(Identity::default(), |_, peer| {
        while let Some(asked) = peer.next() {
            let mut control = Vec::new();
            let failure = Failure {
                code: ErrorCode::Busy,
                retry_after_us: 1500,
                detail: "pool is full",
            };
            let head =
                reply::encode_failed(&mut control, asked.op(), &Default::default(), &failure);
            peer.send(head.with_request_id(asked.head.request_id), &control, &[]);
        }
    });
    let client = client(&[address]);
    for result in client.batch_get(&[b"a", b"b"]) {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("pool is full"), "{error}");
        match error {
            OpError::Server {
                code, retry_after, ..
            } => {
                assert_eq!(
                    (code, retry_after),
                    (ErrorCode::Busy, Some(Duration::from_micros(1500)))
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(client.put(b"a", b"v").is_err() && client.exists(b"a").is_err());
}

#[test]
fn parts_in_any_order_make_whole_values() {
    let values: Arc<Vec<Vec<u8>>> = Arc::new((0..3).map(|n| pattern(n, 400_000)).collect());
    let sent = Arc::clone(&values);
    let address = serve(Identity::default(), move |_, peer| {
        while let Some(asked) = peer.next() {
            assert_eq!(asked.op(), OpCode::BatchRead);
            // Two entries interleaved over parts; two stretches of one value in a part; a miss among them; one byte alone.
            let v = &sent;
            let parts: [(Vec<Segment>, Vec<u8>); 4] = [
                (
                    vec![
                        piece(2, &v[2], 0, 300_000),
                        Segment::without_value(3, Outcome::Miss),
                    ],
                    v[2][..300_000].to_vec(),
                ),
                (
                    vec![
                        piece(0, &v[0], 0, 1),
                        piece(0, &v[0], 1, 9),
                        piece(1, &v[1], 0, 5000),
                    ],
                    [&v[0][..10], &v[1][..5000]].concat(),
                ),
                (
                    vec![piece(2, &v[2], 300_000, 100_000)],
                    v[2][300_000..].to_vec(),
                ),
                (
                    vec![piece(1, &v[1], 5000, 395_000), piece(0, &v[0], 10, 399_990)],
                    [&v[1][5000..], &v[0][10..]].concat(),
                ),
            ];
            for (idx, (segments, payload)) in parts.iter().enumerate() {
                let bytes = peer.part(&asked, segments, payload, idx < 3);
                peer.write(&bytes);
            }
        }
    });
    let client = client(&[address]);
    for _ in 0..3 {
        let got = client.batch_get(&[b"0", b"1", b"2", b"3"]);
        for (got, want) in got.iter().zip(values.iter()) {
            assert!(got.as_ref().unwrap().as_ref().unwrap() == want);
        }
        assert!(matches!(got[3], Ok(None)));
    }
}

#[test]
fn replies_in_any_order_find_their_requests() {
    let address = serve(Identity::default(), |_, peer| {
        let asked: Vec<_> = (0..3).map(|_| peer.next().unwrap()).collect();
        for asked in asked.iter().rev() {
            let segments: Vec<Segment> = asked
                .keys()
                .iter()
                .enumerate()
                .map(|(idx, key)| whole(idx as u32, key))
                .collect();
            let payload = asked.keys().concat();
            let bytes = peer.part(asked, &segments, &payload, false);
            peer.write(&bytes);
        }
        peer.next();
    });
    let mut config = config(&[address]);
    config.max_batch_size = 2;
    let client = Client::new(config).unwrap();
    let keys: Vec<Vec<u8>> = (0..6).map(|n| format!("key-{n}").into_bytes()).collect();
    let got: Vec<Vec<u8>> = client
        .batch_get(&keys)
        .into_iter()
        .map(|value| value.unwrap().unwrap())
        .collect();
    assert_eq!(got, keys, "each value is its key's");
}

#[test]
fn reads_are_sent_again_only_where_that_was_asked_for() {
    for (retries, works) in [(0, false), (2, true)] {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        let address = serve(Identity::default(), move |idx, peer| {
            while let Some(asked) = peer.next() {
                counted.fetch_add(1, Ordering::Relaxed);
                if idx < 2 {
                    return;
                }
                let bytes = peer.value(&asked, b"good");
                peer.write(&bytes);
            }
        });
        let mut config = config(&[address]);
        config.retries = retries;
        let client = Client::new(config).unwrap();
        assert_eq!(client.get(b"k").is_ok(), works);
        assert_eq!(tries.load(Ordering::Relaxed), 1 + retries as usize);
    }
}

#[test]
fn a_clock_two_minutes_off_is_named() {
    let (address, _) = listen(|_, mut stream| {
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello);
        let skewed = Refusal {
            skew_ns: 120_000_000_000,
            ..Refusal::new(RefusalCode::ClockSkew, clock::unix_ns())
        };
        stream.write_all(&skewed.to_bytes()).is_ok()
    });
    let got = cause(client(&[address]).get(b"k")).to_string();
    assert!(got.contains("120") && got.contains("synchronise"), "{got}");
}
