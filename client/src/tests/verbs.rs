//! Every verb, of both facades, against a peer that keeps a map.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use memkv_proto::op::{Attrs, Class, Condition, OpCode};
use memkv_proto::request::Request;
use memkv_proto::session::Features;
use memkv_proto::stat::StatKey;

use super::peer::{Identity, pattern, serve, store};
use super::{client, config};
use crate::{
    AsyncClient, CallOptions, Client, EntryOutcome, OpError, TraceContext, TransportCause,
    outcome_of,
};

const SIZES: &[usize] = &[0, 1, 100, 4095, 4096, 40_000, 262_144, 262_145, 5 << 20];

#[test]
fn values_of_every_size_come_back_as_they_went() {
    let (address, _) = store(Identity::default());
    let client = client(&[address]);
    for (seed, &size) in SIZES.iter().enumerate() {
        let (key, value) = (format!("k{size}"), pattern(seed as u64, size));
        let version = client.put(key.as_bytes(), &value).unwrap();
        let back = client
            .get_value(key.as_bytes())
            .unwrap()
            .expect("it was just put");
        assert!(
            back.bytes == value && back.version == version,
            "{size} bytes"
        );
        let mut buffer = vec![0xee; size + 10];
        assert_eq!(
            client.get_into(key.as_bytes(), &mut buffer).unwrap(),
            Some(size)
        );
        assert!(
            buffer[..size] == value && buffer[size..] == [0xee; 10],
            "nothing is written past the value"
        );
    }
    assert_eq!(client.get(b"nowhere").unwrap(), None);
}

#[test]
fn payload_mac_goes_with_every_payload_when_either_side_requires_it() {
    let (address, _) = store(Identity {
        required: Features::PAYLOAD_MAC,
        ..Identity::default()
    });
    let client = client(&[address]);
    for &size in SIZES {
        let value = pattern(1, size);
        client.put(b"k", &value).unwrap();
        assert!(client.get(b"k").unwrap().unwrap() == value, "{size} bytes");
    }
    let keys: Vec<Vec<u8>> = (0..50).map(|n| format!("b{n}").into_bytes()).collect();
    let items: Vec<(Vec<u8>, Vec<u8>)> = keys
        .iter()
        .map(|key| (key.clone(), pattern(2, 3000)))
        .collect();
    assert!(client.batch_put(&items).iter().all(Result::is_ok));
    let mut small = [0; 10];
    let refused = client.get_into(b"b1", &mut small);
    assert!(
        matches!(
            refused,
            Err(OpError::BufferTooSmall {
                need: 3000,
                have: 10
            })
        ),
        "dropped bytes are MACed too"
    );
    assert!(
        client
            .batch_get(&keys)
            .into_iter()
            .all(|value| value.unwrap().unwrap() == pattern(2, 3000))
    );
}

#[test]
fn a_batch_of_any_size_over_several_servers_answers_in_order() {
    let peers = [
        store(Identity::default()),
        store(Identity::default()),
        store(Identity::default()),
    ];
    let client = client(&[peers[0].0, peers[1].0, peers[2].0]);
    let keys: Vec<Vec<u8>> = (0..3000).map(|n| format!("key/{n}").into_bytes()).collect();
    let items: Vec<(&[u8], Vec<u8>)> = keys
        .iter()
        .enumerate()
        .step_by(2)
        .map(|(n, key)| (key.as_slice(), pattern(n as u64, n % 700)))
        .collect();
    let views: Vec<(&[u8], &[u8])> = items
        .iter()
        .map(|(key, value)| (*key, value.as_slice()))
        .collect();
    assert!(client.batch_put_views(&views).iter().all(Result::is_ok));
    let there: Vec<bool> = client
        .batch_exists(&keys)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(
        there
            .iter()
            .enumerate()
            .all(|(n, there)| *there == (n % 2 == 0))
    );
    for (n, value) in client.batch_get(&keys).into_iter().enumerate() {
        assert_eq!(
            value.unwrap(),
            (n % 2 == 0).then(|| pattern(n as u64, n % 700)),
            "entry {n}"
        );
    }
    let mut buffers = vec![vec![0_u8; 700]; keys.len()];
    let mut views: Vec<(&[u8], &mut [u8])> = keys
        .iter()
        .zip(&mut buffers)
        .map(|(key, buffer)| (key.as_slice(), buffer.as_mut_slice()))
        .collect();
    for (n, len) in client.batch_get_into(&mut views).into_iter().enumerate() {
        assert_eq!(len.unwrap(), (n % 2 == 0).then_some(n % 700), "entry {n}");
    }
    let gone: Vec<bool> = client
        .batch_delete(&keys)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(gone, there);
    for (_, kept) in &peers {
        let kept = kept.lock().unwrap();
        assert!(kept.values.is_empty());
        assert!(kept.log.len() > 10, "every server had its share");
        for (op, entries) in &kept.log {
            let bound = if matches!(op, OpCode::Exists | OpCode::Delete) {
                1024
            } else {
                64
            };
            assert!(*entries <= bound, "{op} with {entries} entries");
        }
    }
}

#[test]
fn entries_that_break_a_limit_fail_alone_and_are_never_sent() {
    let (address, kept) = store(Identity::default());
    let client = client(&[address]);
    let long = vec![b'x'; 513];
    let longest = vec![b'x'; 512];
    let items: Vec<(&[u8], &[u8])> =
        vec![(b"", b"1"), (&long, b"2"), (&longest, b"3"), (b"a", b"4")];
    let outcomes: Vec<EntryOutcome> = client
        .batch_put_views(&items)
        .into_iter()
        .map(|result| outcome_of(&result.map(Some)))
        .collect();
    let names: Vec<&str> = outcomes.iter().map(|outcome| outcome.name()).collect();
    assert_eq!(names, ["error", "error", "ok", "ok"]);
    assert_eq!(kept.lock().unwrap().values.len(), 2);
    let refused = client.get(&long).unwrap_err();
    assert!(matches!(refused, OpError::BadKey { len: 513, max: 512 }) && refused.nothing_sent());
    assert!(client.batch_get::<&[u8]>(&[]).is_empty());
}

#[test]
fn attributes_and_name_spaces_travel_with_the_entry() {
    let (address, _) = store(Identity::default());
    let client = client(&[address]);
    let attrs = Attrs {
        namespace: 3,
        type_tag: 2,
        flags: 9,
        expiry_ms: 1 << 40,
        class: Class::Durable,
    };
    client
        .put_with(b"k", b"there", attrs, Condition::IfAbsent)
        .unwrap();
    client.put(b"k", b"here").unwrap();
    let options = CallOptions {
        namespace: 3,
        ..CallOptions::default()
    };
    let there = client.with(&options).get_value(b"k").unwrap().unwrap();
    assert_eq!(
        (there.bytes.as_slice(), there.attrs),
        (b"there".as_slice(), attrs)
    );
    assert_eq!(client.get(b"k").unwrap().unwrap(), b"here");
    assert!(client.with(&options).delete(b"k").unwrap());
    assert!(client.exists(b"k").unwrap() && !client.with(&options).exists(b"k").unwrap());
}

#[test]
fn warmup_opens_every_connection_and_ping_and_stat_answer() {
    let (address, _) = store(Identity::default());
    let mut config = config(&[address]);
    config.num_connections = 3;
    let client = Client::new(config).unwrap();
    assert_eq!(
        client.warmup().unwrap(),
        5,
        "three general lanes and two for small calls"
    );
    client.put(b"k", b"v").unwrap();
    assert!(client.ping(0).unwrap().as_secs() < 5);
    assert_eq!(client.stat(0).unwrap().get(StatKey::Entries), Some(1));
    assert_eq!(client.servers(), [address.to_string()]);
    assert!(client.close(std::time::Duration::from_secs(5)));
    assert!(matches!(client.get(b"k"), Err(OpError::Closed)));
}

#[test]
fn a_server_of_another_name_is_a_finding_where_names_were_configured() {
    let (address, _) = store(Identity {
        node: "kv-b",
        ..Identity::default()
    });
    let mut config = config(&[address]);
    config.servers[0].identity = "kv-a".to_owned();
    config.explicit_node_ids = true;
    let client = Client::new(config).unwrap();
    client.exists(b"k").unwrap();
    let found = client.identity_mismatches();
    assert_eq!(
        (found[0].expected.as_str(), found[0].announced.as_str()),
        ("kv-a", "kv-b")
    );
    assert_eq!(client.metrics().identity_mismatches(), 1);
}

#[test]
fn many_threads_share_one_client() {
    let (address, _) = store(Identity::default());
    let client = client(&[address]);
    std::thread::scope(|scope| {
        for thread in 0..6_u64 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..50 {
                    let key = format!("{thread}/{round}");
                    let value = pattern(thread * 100 + round, 1000);
                    client.put(key.as_bytes(), &value).unwrap();
                    assert_eq!(client.get(key.as_bytes()).unwrap().unwrap(), value);
                }
            });
        }
    });
}

/// Drives a future on this thread: the runtime that the client must not depend on.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn async_calls_take_the_options_that_blocking_ones_take() {
    let (address, kept) = store(Identity::default());
    let client = AsyncClient::new(config(&[address])).unwrap();
    let options = CallOptions {
        namespace: 7,
        ..CallOptions::default()
    };
    let there = client.with(&options);
    block_on(there.put(b"k".to_vec(), pattern(1, 10))).unwrap();
    let items = vec![(b"batch".to_vec(), pattern(2, 20).into())];
    assert!(block_on(there.batch_put(items))[0].is_ok());
    let spaces: Vec<u32> = kept
        .lock()
        .unwrap()
        .values
        .keys()
        .map(|key| key.0)
        .collect();
    assert_eq!(spaces, [7, 7], "puts go to the call's name space");
    assert_eq!(block_on(client.get(b"k".to_vec())).unwrap(), None);
    assert_eq!(
        block_on(there.get(b"k".to_vec())).unwrap(),
        Some(pattern(1, 10))
    );
    assert!(!block_on(client.exists(b"k".to_vec())).unwrap());
    assert!(block_on(there.exists(b"k".to_vec())).unwrap());
    let values = block_on(there.batch_get_values(vec![b"k".to_vec(), b"nowhere".to_vec()]));
    let found = values[0].as_ref().unwrap().as_ref().unwrap();
    assert_eq!((found.attrs.namespace, &found.bytes), (7, &pattern(1, 10)));
    assert!(matches!(values[1], Ok(None)));
    let attrs = Attrs {
        namespace: 9,
        flags: 3,
        ..Attrs::default()
    };
    let put = there.put_with(b"k".to_vec(), b"v".to_vec(), attrs, Condition::None);
    block_on(put).unwrap();
    let nine = CallOptions {
        namespace: 9,
        ..options
    };
    let value = block_on(client.with(&nine).get_value(b"k".to_vec()));
    assert_eq!(value.unwrap().unwrap().attrs, attrs);
    let gone = block_on(there.batch_delete(vec![b"k".to_vec(), b"batch".to_vec()]));
    assert!(gone.iter().all(|gone| *gone.as_ref().unwrap()));
    assert_eq!(
        block_on(there.stat(0)).unwrap().get(StatKey::Entries),
        Some(1)
    );
    assert!(block_on(there.ping(0)).unwrap() > Duration::ZERO);
}

#[test]
fn an_async_call_gives_up_at_its_own_deadline_and_hands_its_trace_on() {
    let (sender, asked) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let address = serve(Identity::default(), move |_, peer| {
        // Cancellations are acknowledged, everything else isn't answered.
        while let Some(asked) = peer.next() {
            if asked.op() == OpCode::Cancel {
                peer.cancelled(&asked);
            } else {
                let trace = Request::decode(&asked.head, &asked.control).unwrap().0;
                let told = sender.lock().unwrap().send((asked.head.deadline_us, trace));
                told.unwrap();
            }
        }
    });
    let mut config = config(&[address]);
    config.fence_timeout = Duration::from_secs(60);
    let client = AsyncClient::new(config).unwrap();
    let caller = TraceContext {
        version: 0,
        trace_id: [1; 16],
        span_id: [2; 8],
        flags: 1,
    };
    let options = CallOptions {
        timeout: Some(Duration::from_millis(300)),
        trace: Some(caller),
        ..CallOptions::default()
    };
    block_on(client.warmup()).unwrap();
    let late = block_on(client.with(&options).get(b"k".to_vec())).unwrap_err();
    let OpError::Transport { cause, .. } = late else {
        panic!("{late:?}");
    };
    assert!(matches!(cause, TransportCause::DeadlineFenced), "{cause:?}");
    let (deadline_us, trace) = asked.recv().unwrap();
    assert!((1..=300_000).contains(&deadline_us), "{deadline_us}");
    assert_eq!(trace, Some(caller));
}

#[test]
fn async_verbs_work_on_any_runtime() {
    let peers = [store(Identity::default()), store(Identity::default())];
    let client = AsyncClient::new(config(&[peers[0].0, peers[1].0])).unwrap();
    assert_eq!(
        block_on(client.warmup()).unwrap(),
        4,
        "one small and one bulk connection per server"
    );
    let value = pattern(4, 3 << 20);
    block_on(client.put(b"big".to_vec(), value.clone())).unwrap();
    assert!(block_on(client.get(b"big".to_vec())).unwrap().unwrap() == value);
    let (buffer, len) = block_on(client.get_into(b"big".to_vec(), vec![0; 4 << 20]))
        .unwrap()
        .unwrap();
    assert!(buffer[..len] == value);
    let items = (0..200)
        .map(|n| (format!("{n}").into_bytes(), pattern(n, 50).into()))
        .collect();
    assert!(block_on(client.batch_put(items)).iter().all(Result::is_ok));
    let keys: Vec<Vec<u8>> = (0..201).map(|n| format!("{n}").into_bytes()).collect();
    let found = block_on(client.batch_get(keys.clone()));
    assert!(
        found
            .iter()
            .take(200)
            .enumerate()
            .all(|(n, v)| *v.as_ref().unwrap() == Some(pattern(n as u64, 50)))
    );
    assert!(matches!(found[200], Ok(None)));
    assert_eq!(
        block_on(client.batch_exists(keys))
            .iter()
            .filter(|there| *there.as_ref().unwrap())
            .count(),
        200
    );
    // Many calls at once, awaited in another order than they were started in.
    let calls: Vec<_> = (0..200)
        .map(|n| client.get(format!("{n}").into_bytes()))
        .collect();
    for (n, call) in calls.into_iter().enumerate().rev() {
        assert_eq!(block_on(call).unwrap().unwrap(), pattern(n as u64, 50));
    }
    assert!(block_on(client.delete(b"big".to_vec())).unwrap());
    assert!(!block_on(client.exists(b"big".to_vec())).unwrap());
    let late = client.clone();
    client.close();
    assert!(matches!(
        block_on(late.get(b"k".to_vec())),
        Err(OpError::Closed)
    ));
}
