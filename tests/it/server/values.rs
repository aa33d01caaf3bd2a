//! Values of every size, there and back.

use memkv_proto::op::{ErrorCode, Outcome};
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::{WireClient, value};

#[test]
fn a_value_comes_back_as_it_was_put() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    assert_eq!(client.get(b"key"), Ok(None));
    assert_eq!(client.put(b"key", b"value"), Outcome::Ok);
    assert_eq!(client.get(b"key"), Ok(Some(b"value".to_vec())));
    assert_eq!(
        client.exists(&[b"key", b"other"]),
        [Outcome::Ok, Outcome::Miss]
    );
    assert_eq!(
        client.delete(&[b"key", b"other"]),
        [Outcome::Ok, Outcome::Miss]
    );
    assert_eq!(client.get(b"key"), Ok(None));
}

#[test]
fn values_of_every_size_come_back_whole() {
    let server = Builder::memory("768 MiB").start();
    let mut client = WireClient::connect(server.address());
    let block = 2 << 20;
    let sizes = [
        0,
        1,
        4095,
        4096,
        4097,
        16_384,
        16_385,
        65_535,
        65_537,
        262_143,
        262_145,
        block - 1,
        block,
        block + 1,
        2 * block - 1,
        2 * block,
        2 * block + 1,
    ];
    for (seed, len) in sizes.into_iter().enumerate() {
        let (key, value) = (format!("size-{len}"), value(seed as u64, len));
        assert_eq!(
            client.put(key.as_bytes(), &value),
            Outcome::Ok,
            "{len} bytes"
        );
        assert!(client.get(key.as_bytes()) == Ok(Some(value)), "{len} bytes");
    }
}

#[test]
fn a_batch_comes_back_in_full_whatever_its_sizes() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let sizes = [10, 100_000, 0, 3 << 20, 20_000, 1, 300_000, 1 << 20];
    let values: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(i, len)| value(i as u64, *len))
        .collect();
    let keys: Vec<_> = (0..sizes.len()).map(|i| format!("batch-{i}")).collect();
    let entries: Vec<_> = keys
        .iter()
        .zip(&values)
        .map(|(key, value)| (key.as_bytes(), &value[..]))
        .collect();
    assert_eq!(client.put_many(&entries), vec![Outcome::Ok; sizes.len()]);
    let mut asked: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    asked.insert(3, b"absent");
    let mut expected: Vec<_> = values.into_iter().map(|value| Ok(Some(value))).collect();
    expected.insert(3, Ok(None));
    assert!(client.get_many(&asked) == expected);
}

#[test]
fn a_key_out_of_bounds_fails_alone() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let longest = [b'k'; 512];
    assert_eq!(client.put(&longest, b"v"), Outcome::Ok);
    assert_eq!(client.get(&longest), Ok(Some(b"v".to_vec())));
    for len in [0, 513] {
        assert_eq!(
            memkv_proto::limits::check_key(&vec![b'k'; len]),
            Err(ErrorCode::BadKey)
        );
    }
}

#[test]
fn a_batch_of_the_most_and_longest_keys_comes_back() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let keys: Vec<Vec<u8>> = (0..1024u32)
        .map(|i| [&i.to_le_bytes()[..], &[b'k'; 508]].concat())
        .collect();
    let values: Vec<_> = (0..1024).map(|i| value(i, i as usize)).collect();
    let entries: Vec<_> = keys
        .iter()
        .zip(&values)
        .map(|(key, value)| (&key[..], &value[..]))
        .collect();
    assert_eq!(client.put_many(&entries), vec![Outcome::Ok; 1024]);
    let asked: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let expected: Vec<_> = values.into_iter().map(|value| Ok(Some(value))).collect();
    assert!(client.get_many(&asked) == expected);
    assert_eq!(client.exists(&asked), vec![Outcome::Ok; 1024]);
    assert_eq!(client.delete(&asked), vec![Outcome::Ok; 1024]);
    assert_eq!(client.exists(&asked), vec![Outcome::Miss; 1024]);
}
