//! Every verb does what it says.

use memkv_client::{Attrs, CallOptions, Class, Condition, ErrorCode, OpError, StatKey};
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::value;

use super::client;

#[test]
fn values_of_every_size_come_back_as_they_went() {
    let server = Builder::memory("768 MiB").start();
    let client = client(&[&server]);
    for len in [
        0,
        1,
        1024,
        65_536,
        65_537,
        (2 << 20) - 1,
        2 << 20,
        (4 << 20) + 1,
        100 << 20,
    ] {
        let (key, value) = (format!("size/{len}"), value(len as u64, len));
        let version = client.put(key.as_bytes(), &value).unwrap();
        let back = client
            .get_value(key.as_bytes())
            .unwrap()
            .expect("it was just put");
        assert!(
            back.bytes == value && back.version == version,
            "{len} bytes"
        );
        let mut buffer = vec![0; len];
        assert_eq!(
            client.get_into(key.as_bytes(), &mut buffer).unwrap(),
            Some(len)
        );
        assert!(buffer == value, "{len} bytes");
        assert!(client.delete(key.as_bytes()).unwrap());
        assert_eq!(client.get(key.as_bytes()).unwrap(), None);
    }
}

#[test]
fn a_batch_over_three_servers_answers_in_order() {
    let servers = [
        TestServer::memory(),
        TestServer::memory(),
        TestServer::memory(),
    ];
    let client = client(&[&servers[0], &servers[1], &servers[2]]);
    let keys: Vec<Vec<u8>> = (0..2500).map(|n| format!("key/{n}").into_bytes()).collect();
    let len = |n: usize| {
        if n.is_multiple_of(500) {
            3 << 20
        } else {
            n % 2000
        }
    };
    let items: Vec<(&[u8], Vec<u8>)> = keys
        .iter()
        .enumerate()
        .step_by(2)
        .map(|(n, key)| (key.as_slice(), value(n as u64, len(n))))
        .collect();
    assert!(client.batch_put(&items).iter().all(Result::is_ok));
    for (n, there) in client.batch_exists(&keys).into_iter().enumerate() {
        assert_eq!(there.unwrap(), n % 2 == 0, "entry {n}");
    }
    for (n, found) in client.batch_get(&keys).into_iter().enumerate() {
        let want = (n % 2 == 0).then(|| value(n as u64, len(n)));
        assert!(found.unwrap() == want, "entry {n}");
    }
    for server in 0..3 {
        assert!(
            client.stat(server).unwrap().get(StatKey::Entries).unwrap() > 300,
            "server {server} has its share"
        );
    }
}

#[test]
fn conditions_and_attributes_hold() {
    let server = TestServer::memory();
    let client = client(&[&server]);
    let refused = |result: Result<u64, OpError>| match result {
        Err(OpError::Server { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    let attrs = Attrs {
        flags: 7,
        type_tag: 3,
        class: Class::Durable,
        ..Attrs::default()
    };
    let first = client
        .put_with(b"k", b"one", attrs, Condition::IfAbsent)
        .unwrap();
    assert_eq!(client.get_value(b"k").unwrap().unwrap().attrs, attrs);
    let again = client.put_with(b"k", b"two", attrs, Condition::IfAbsent);
    assert_eq!(refused(again), ErrorCode::ConditionFailed);
    let second = client
        .put_with(b"k", b"two", attrs, Condition::IfVersion(first))
        .unwrap();
    assert!(second > first);
    let stale = client.put_with(b"k", b"three", attrs, Condition::IfVersion(first));
    assert_eq!(refused(stale), ErrorCode::ConditionFailed);
    assert_eq!(client.get(b"k").unwrap().unwrap(), b"two");
    let elsewhere = CallOptions {
        namespace: 9,
        ..CallOptions::default()
    };
    assert_eq!(client.with(&elsewhere).get(b"k").unwrap(), None);
}

#[test]
fn payload_mac_works_when_the_server_requires_it() {
    let server = Builder::memory("256 MiB")
        .network("payload_mac: required")
        .start();
    let client = client(&[&server]);
    for len in [0, 1, 70_000, 5 << 20] {
        let value = value(3, len);
        client.put(b"k", &value).unwrap();
        assert!(client.get(b"k").unwrap().unwrap() == value, "{len} bytes");
    }
}

#[test]
fn warm_connections_answer_pings() {
    let server = TestServer::memory();
    let client = client(&[&server]);
    assert_eq!(
        client.warmup().unwrap(),
        10,
        "eight general lanes and two for small calls"
    );
    assert!(client.ping(0).unwrap().as_secs() < 5);
    assert!(client.identity_mismatches().is_empty());
}

#[test]
fn callers_memory_is_sent_from_and_read_into_in_batches() {
    let server = TestServer::memory();
    let client = client(&[&server]);
    let values: Vec<Vec<u8>> = (0..100).map(|n| value(n, 1 + 700 * n as usize)).collect();
    let keys: Vec<String> = (0..100).map(|n| format!("view/{n}")).collect();
    let views: Vec<(&[u8], &[u8])> = keys
        .iter()
        .zip(&values)
        .map(|(key, value)| (key.as_bytes(), value.as_slice()))
        .collect();
    let mut memory = vec![0; 100 * (70 << 10)];
    let region = (memory.as_ptr() as usize, memory.len());
    client.register_region(region.0, region.1).unwrap();
    client
        .register_region(region.0 + 1, 1)
        .expect_err("it is registered already");
    assert!(client.batch_put_views(&views).iter().all(Result::is_ok));
    let mut items: Vec<(&[u8], &mut [u8])> = keys
        .iter()
        .map(String::as_bytes)
        .zip(memory.chunks_mut(70 << 10))
        .collect();
    // One key that isn't there, and one buffer that is a byte too short.
    items[7].0 = b"nowhere";
    let short = values[50].len() - 1;
    let chunk = std::mem::take(&mut items[50].1);
    items[50].1 = &mut chunk[..short];
    for (n, got) in client.batch_get_into(&mut items).into_iter().enumerate() {
        match (n, got) {
            (7, got) => assert!(matches!(got, Ok(None)), "{got:?}"),
            (50, Err(OpError::BufferTooSmall { need, have })) => {
                assert_eq!((need, have), (short as u64 + 1, short as u64));
            }
            (n, got) => {
                assert_eq!(got.unwrap(), Some(values[n].len()), "entry {n}");
                assert!(items[n].1[..values[n].len()] == values[n], "entry {n}");
            }
        }
    }
    client.deregister_region(region.0, region.1).unwrap();
    client
        .deregister_region(region.0, region.1)
        .expect_err("it is forgotten");
}
