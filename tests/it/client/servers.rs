//! Several servers: keys stay where they are placed, whatever becomes of one of them.

use std::time::Duration;

use memkv_client::{Client, ClientConfig, EntryOutcome, OpError, StatKey, outcome_of};
use memkv_settings::AuthKey;
use memkv_tests::http;
use memkv_tests::poll::until;
use memkv_tests::program::{Program, Setup};
use memkv_tests::relay::Relay;
use memkv_tests::server::{Builder, KEY, TestServer};
use memkv_tests::wire::value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const COUNT: usize = 300;

fn keys() -> Vec<Vec<u8>> {
    (0..COUNT)
        .map(|n| format!("block/{n}").into_bytes())
        .collect()
}

fn value_of(n: usize) -> Vec<u8> {
    value(n as u64, 100 + n * 40)
}

/// How entries fare whose server `gone` is.
fn expected(client: &Client, key: &[u8], gone: usize) -> EntryOutcome {
    if client.server_of(key) == gone {
        EntryOutcome::Transport
    } else {
        EntryOutcome::Ok
    }
}

#[test]
fn one_of_three_servers_is_killed_and_comes_back_with_its_keys() {
    let home = TempDir::new().unwrap();
    let setups: Vec<Setup> = (0..3)
        .map(|n| {
            let home = home.path().join(n.to_string());
            std::fs::create_dir(&home).unwrap();
            Setup::new(&home, "64 MiB").pool("16 MiB")
        })
        .collect();
    let mut servers: Vec<Option<Program>> =
        setups.iter().map(|setup| Some(setup.start())).collect();
    let relays: Vec<Relay> = servers
        .iter()
        .flatten()
        .map(|server| Relay::to(server.data))
        .collect();
    let addresses = relays.iter().map(|relay| relay.address().to_string());
    let client = Client::new(ClientConfig::new(addresses, AuthKey::new(KEY))).unwrap();
    let keys = keys();
    let items: Vec<(&[u8], Vec<u8>)> = (0..COUNT)
        .map(|n| (keys[n].as_slice(), value_of(n)))
        .collect();
    assert!(client.batch_put(&items).iter().all(Result::is_ok));
    let held = |server: usize| client.stat(server).unwrap().get(StatKey::Entries).unwrap();
    let before = [0, 1, 2].map(held);
    assert_eq!(
        before.iter().sum::<u64>(),
        COUNT as u64,
        "each key is on one server"
    );
    assert!(before.iter().all(|&held| held > 50), "{before:?}");

    let gone = 1;
    servers[gone].take().unwrap().kill();
    relays[gone].cut();
    for (n, found) in client.batch_get(&keys).into_iter().enumerate() {
        let outcome = expected(&client, &keys[n], gone);
        assert_eq!(outcome_of(&found), outcome, "entry {n}");
        if outcome == EntryOutcome::Ok {
            assert!(found.unwrap() == Some(value_of(n)), "entry {n}");
        }
    }
    for (n, put) in client.batch_put(&items).into_iter().enumerate() {
        let outcome = expected(&client, &keys[n], gone);
        assert_eq!(outcome_of(&put.map(Some)), outcome, "entry {n}");
    }
    for server in [0, 2] {
        assert_eq!(
            held(server),
            before[server],
            "no key has moved to server {server}"
        );
    }

    let again = setups[gone].start();
    relays[gone].join(again.data);
    servers[gone] = Some(again);
    let found = until("all keys are served again", PATIENCE, || {
        client
            .batch_get(&keys)
            .into_iter()
            .collect::<Result<Vec<_>, OpError>>()
            .ok()
    });
    for (n, found) in found.into_iter().enumerate() {
        assert!(found == Some(value_of(n)), "entry {n}");
    }
    assert_eq!([0, 1, 2].map(held), before);
    for server in servers.into_iter().flatten() {
        server.stop();
    }
}

#[test]
fn a_server_that_moves_keeps_the_keys_of_its_identity() {
    let start = |id: &str| {
        Builder::file("64 MiB")
            .network(&format!("node_id: {id}"))
            .allow("places this server's keys by another identity")
            .start()
    };
    let client = |servers: [(&TestServer, &str); 2]| {
        let addresses = servers
            .iter()
            .map(|(server, _)| server.address().to_string());
        let mut config = ClientConfig::new(addresses, AuthKey::new(KEY));
        for (server, (_, id)) in config.servers.iter_mut().zip(servers) {
            server.identity = id.to_owned();
        }
        config.explicit_node_ids = true;
        Client::new(config).unwrap()
    };
    let (a, b) = (start("kv-a"), start("kv-b"));
    let keys = keys();
    let items: Vec<(&[u8], Vec<u8>)> = (0..COUNT)
        .map(|n| (keys[n].as_slice(), value_of(n)))
        .collect();
    let first = client([(&a, "kv-a"), (&b, "kv-b")]);
    assert!(first.batch_put(&items).iter().all(Result::is_ok));
    assert!(first.close(PATIENCE));
    let before = b.address();
    let b = b.restart();
    assert_ne!(b.address(), before);
    // Another client lists them the other way round.
    let second = client([(&b, "kv-b"), (&a, "kv-a")]);
    for (n, found) in second.batch_get(&keys).into_iter().enumerate() {
        assert!(found.unwrap() == Some(value_of(n)), "entry {n}");
    }
    assert!(second.identity_mismatches().is_empty());
    assert_eq!(taken_for(&a), "");
    // One that takes them for each other finds nothing, and both sides are told why.
    let wrong = client([(&b, "kv-a"), (&a, "kv-b")]);
    assert!(
        wrong
            .batch_get(&keys)
            .iter()
            .all(|found| matches!(found, Ok(None)))
    );
    let mut found = wrong.identity_mismatches();
    found.sort_by(|a, b| a.expected.cmp(&b.expected));
    let told: Vec<_> = found
        .iter()
        .map(|it| (it.expected.as_str(), it.announced.as_str()))
        .collect();
    assert_eq!(told, [("kv-a", "kv-b"), ("kv-b", "kv-a")]);
    assert!(taken_for(&a).contains("\"kv-b\", and it is \"kv-a\""));
    assert!(taken_for(&b).contains("\"kv-a\", and it is \"kv-b\""));
}

/// What a server says about clients that place its keys by another identity.
fn taken_for(server: &TestServer) -> String {
    let status = http::get(server, "/v1/status", &[]).json();
    let findings = status["findings"].as_array().unwrap();
    let mut mismatches = findings
        .iter()
        .filter(|finding| finding["id"] == "identity.mismatch")
        .map(|finding| finding["text"].as_str().unwrap().to_owned());
    let found = mismatches.next().unwrap_or_default();
    assert_eq!(mismatches.next(), None);
    found
}

#[test]
fn an_address_written_in_another_way_is_no_disagreement() {
    let server = Builder::memory("16 MiB").start();
    let address = format!("localhost:{}", server.address().port());
    let client = Client::new(ClientConfig::new([address], AuthKey::new(KEY))).unwrap();
    client.put(b"k", b"v").unwrap();
    assert!(client.identity_mismatches().is_empty());
    assert_eq!(client.metrics().identity_mismatches(), 0);
    assert_eq!(taken_for(&server), "");
}
