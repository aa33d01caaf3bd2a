//! Values of every size, there and back.

use memkv_proto::op::{ErrorCode, OpCode, Outcome};
use memkv_proto::reply::Reply;
use memkv_proto::{Flags, FrameHead};
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::{Frame, WireClient, collect, entry, value, written};

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
fn a_key_of_512_bytes_is_the_longest() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let longest = [b'k'; 512];
    assert_eq!(client.put(&longest, b"v"), Outcome::Ok);
    assert_eq!(client.get(&longest), Ok(Some(b"v".to_vec())));
}

/// A request whose key has `len` bytes, which no encoder makes.
fn with_key_len(client: &mut WireClient, op: OpCode, len: usize) -> Frame {
    let mut control = Vec::new();
    let (key_len_at, payload): (usize, &[u8]) = if op == OpCode::Put {
        memkv_proto::request::encode_writes(&mut control, op, None, [entry(b"k", b"value")])
            .unwrap();
        (40, b"value")
    } else {
        memkv_proto::request::encode_keys(&mut control, op, None, 0, [&b"k"[..]]).unwrap();
        (8, b"")
    };
    control.pop();
    control[key_len_at..key_len_at + 2].copy_from_slice(&(len as u16).to_le_bytes());
    control.resize(control.len() + len, b'k');
    let head = FrameHead::new(op, Flags::NONE, control.len() as u32, payload.len() as u64);
    client.send(head.with_request_id(1), &control, payload);
    client.receive().unwrap()
}

#[test]
fn keys_of_no_bytes_and_of_513_are_bad_keys_and_nothing_else() {
    let server = TestServer::memory();
    let mut client = WireClient::connect(server.address());
    let bad = Outcome::Error(ErrorCode::BadKey);
    for len in [0, 513] {
        let reply = with_key_len(&mut client, OpCode::Put, len);
        assert_eq!(written(&reply, 1), [bad], "put, key of {len}");
        let reply = with_key_len(&mut client, OpCode::Get, len);
        let mut values = vec![None];
        assert!(!collect(&reply, &mut values));
        assert_eq!(values, [Some(Err(ErrorCode::BadKey))], "get, key of {len}");
        for op in [OpCode::Exists, OpCode::Delete] {
            let reply = with_key_len(&mut client, op, len);
            match Reply::decode(&reply.head, &reply.control).unwrap().1 {
                Reply::Outcomes(outcomes) => {
                    assert_eq!(
                        outcomes.iter().collect::<Vec<_>>(),
                        [bad],
                        "{op}, key of {len}"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(client.is_alive());
}

#[test]
fn a_value_that_no_room_is_for_is_refused_and_the_connection_goes_on() {
    let server = Builder::memory("64 MiB").start();
    let mut client = WireClient::connect(server.address());
    let huge = value(9, 256 << 20);
    let outcome = client.put(b"huge", &huge);
    assert!(
        matches!(
            outcome,
            Outcome::Error(ErrorCode::TooLarge | ErrorCode::NoSpace)
        ),
        "{outcome:?}"
    );
    assert_eq!(client.get(b"huge"), Ok(None));
    assert_eq!(client.put(b"small", b"value"), Outcome::Ok);
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
