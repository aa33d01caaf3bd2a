//! What a client sees of servers that go away, come back or don't know it.

use std::time::Duration;

use memkv_client::{
    AsyncClient, CallOptions, Client, EntryOutcome, OpError, TransportCause, outcome_of,
};
use memkv_settings::AuthKey;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::value;

use super::{client, config};

#[test]
fn a_wrong_key_is_named_as_such() {
    let server = Builder::memory("64 MiB").allow("auth").allow("key").start();
    let mut config = config(&[&server]);
    config.auth_key = AuthKey::new([1; 32]);
    let refused = Client::new(config).unwrap().get(b"k").unwrap_err();
    assert!(refused.nothing_sent());
    match refused {
        OpError::Transport {
            cause: TransportCause::Refused(text),
            ..
        } => assert!(text.contains("auth_key"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_stopped_fails_only_its_own_keys() {
    let (stays, goes) = (TestServer::memory(), TestServer::memory());
    let client = client(&[&stays, &goes]);
    let keys: Vec<Vec<u8>> = (0..100).map(|n| format!("key/{n}").into_bytes()).collect();
    let items: Vec<(&[u8], &[u8])> = keys
        .iter()
        .map(|key| (key.as_slice(), b"v".as_slice()))
        .collect();
    assert!(client.batch_put(&items).iter().all(Result::is_ok));
    goes.stop();
    for (key, found) in keys.iter().zip(client.batch_get(&keys)) {
        let want = if client.server_of(key) == 0 {
            EntryOutcome::Ok
        } else {
            EntryOutcome::Transport
        };
        assert_eq!(outcome_of(&found), want);
    }
}

#[test]
fn an_idle_client_notices_a_restart_by_itself() {
    // The admin port is the data port plus one, so both must be free both times: below the range that the kernel takes
    // the ports of outgoing connections from.
    let start = |address: &str| Builder::memory("64 MiB").try_start(address);
    let first = 10_000 + std::process::id() % 4_000 * 2;
    let server = (first..first + 100)
        .step_by(2)
        .find_map(|port| start(&format!("127.0.0.1:{port}")).ok())
        .expect("two free ports");
    let address = server.address();
    let client = client(&[&server]);
    client.put(b"k", b"v").unwrap();
    server.stop();
    let _again = start(&address.to_string()).expect("the ports are free again");
    // A lane that rested looks whether its connection still stands before it sends on it.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(
        client.get(b"k").unwrap(),
        None,
        "no error, and memory mode forgets"
    );
}

#[test]
fn cancelled_bulk_leaves_the_server_well_and_small_calls_quick() {
    let server = Builder::memory("768 MiB").start();
    let client = AsyncClient::new(config(&[&server])).unwrap();
    let value = value(1, 64 << 20);
    for _ in 0..5 {
        let call = client.put(b"big".to_vec(), value.clone());
        std::thread::sleep(Duration::from_millis(5));
        drop(call);
    }
    client.close();
    let client = super::client(&[&server]);
    let options = CallOptions {
        timeout: Some(Duration::from_secs(5)),
        ..CallOptions::default()
    };
    assert!(client.with(&options).exists(b"big").is_ok());
    client.with(&options).put(b"small", b"v").unwrap();
}

#[test]
fn expired_calls_are_fenced_and_reported_as_such() {
    let server = Builder::memory("768 MiB").start();
    let client = client(&[&server]);
    let value = value(1, 200 << 20);
    let within = |timeout| CallOptions {
        timeout: Some(timeout),
        ..CallOptions::default()
    };
    let over = within(Duration::from_nanos(1));
    let refused = client.with(&over).put(b"big", &value).unwrap_err();
    assert_eq!(refused.outcome(), EntryOutcome::Transport, "{refused:?}");
    assert_eq!(client.get(b"big").unwrap(), None, "it was never sent");
    // Time is over while its bytes leave: it is refused, given up, or answered before it could be.
    let short = within(Duration::from_millis(3));
    if let Err(refused) = client.with(&short).put(b"big", &value) {
        assert!(
            matches!(
                refused.outcome(),
                EntryOutcome::Transport | EntryOutcome::Error(_)
            ),
            "{refused:?}"
        );
    }
    // Nothing of the first try is left that could undo this.
    client.put(b"big", b"after").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.get(b"big").unwrap().unwrap(), b"after");
}
