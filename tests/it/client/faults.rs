//! What a client sees of servers that go away, come back or don't know it.

use std::time::Duration;

use memkv_client::{
    AsyncClient, CallOptions, Client, ClientConfig, EntryOutcome, OpError, TransportCause,
    outcome_of,
};
use memkv_settings::AuthKey;
use memkv_tests::poll::until;
use memkv_tests::relay::Relay;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::value;

use super::{client, config};

const PATIENCE: Duration = Duration::from_secs(60);

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
    let server = TestServer::memory();
    // The address stays, although the kernel gives the second server another port.
    let relay = Relay::to(server.address());
    let key = AuthKey::new(memkv_tests::server::KEY);
    let client = Client::new(ClientConfig::new([relay.address().to_string()], key)).unwrap();
    client.put(b"k", b"v").unwrap();
    server.stop();
    relay.cut();
    let again = TestServer::memory();
    relay.join(again.address());
    // A lane that rested looks whether its connection still stands before it sends on it: what is waited for is the rest.
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
    let probe = super::client(&[&server]);
    let value = value(1, 64 << 20);
    let at_work = || server.running().requests_in_flight() > 0;
    for round in 0..5 {
        let key = format!("big/{round}").into_bytes();
        let call = client.put(key.clone(), value.clone());
        until("the server works on the put, or did", PATIENCE, || {
            (at_work() || probe.exists(&key).unwrap()).then_some(())
        });
        drop(call);
    }
    client.close();
    until("the server is done with them", PATIENCE, || {
        (!at_work()).then_some(())
    });
    let client = super::client(&[&server]);
    let options = CallOptions {
        timeout: Some(Duration::from_secs(5)),
        ..CallOptions::default()
    };
    assert!(client.with(&options).exists(b"big/0").is_ok());
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
    until("the server works on nothing", PATIENCE, || {
        (server.running().requests_in_flight() == 0).then_some(())
    });
    assert_eq!(client.get(b"big").unwrap().unwrap(), b"after");
}
