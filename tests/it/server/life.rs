//! Start, reload, drain and stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memkv_proto::op::{ErrorCode, OpCode, Outcome};
use memkv_server::{ListenError, StartError};
use memkv_tests::http::{get, metric};
use memkv_tests::poll::until;
use memkv_tests::server::{Builder, TestServer};
use memkv_tests::wire::{WireClient, closes_within, value};

#[test]
fn a_port_in_use_refuses_the_start_and_names_it() {
    let first = TestServer::memory();
    for taken in [first.address(), first.running().admin_address()] {
        let error = Builder::memory("64 MiB")
            .try_start(&taken.to_string())
            .err()
            .expect("refused");
        assert!(
            matches!(error, StartError::Listen(ListenError::InUse { .. })),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&taken.to_string()) && text.contains("network.address"),
            "{text}"
        );
    }
}

#[test]
fn a_port_is_free_again_right_after_a_stop() {
    let first = TestServer::memory();
    let address = first.address();
    let mut client = WireClient::connect(address);
    client.put(b"key", b"value");
    first.stop();
    // The admin port of a fixed port is the one after it, which may belong to somebody.
    match Builder::memory("64 MiB").try_start(&address.to_string()) {
        Ok(second) => assert_eq!(second.address(), address),
        Err(error) => assert!(error.to_string().contains("admin"), "{error}"),
    }
}

#[test]
fn a_drain_under_load_loses_no_reply_and_refuses_new_work() {
    let server = Builder::memory("256 MiB").start();
    let address = server.address();
    let (done, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let wrong = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|seed| {
            let (done, refused, wrong) = (done.clone(), refused.clone(), wrong.clone());
            std::thread::spawn(move || {
                let mut client = WireClient::connect(address);
                let value = value(seed, 1 << 20);
                let key = format!("key-{seed}");
                loop {
                    let id = client.send_put(&[(key.as_bytes(), &value)]);
                    // A request that was taken is answered before the connection is closed.
                    let Ok(frame) = client.receive() else { return };
                    assert_eq!(frame.head.request_id, id);
                    match memkv_tests::wire::written(&frame, 1)[0] {
                        Outcome::Ok => done.fetch_add(1, Ordering::SeqCst),
                        Outcome::Error(ErrorCode::Draining) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                        _ => {
                            wrong.store(true, Ordering::SeqCst);
                            return;
                        }
                    };
                }
            })
        })
        .collect();
    until("they are at work", Duration::from_secs(30), || {
        (done.load(Ordering::SeqCst) >= 20).then_some(())
    });
    server.running().drain();
    for client in clients {
        client.join().unwrap();
    }
    assert!(!wrong.load(Ordering::SeqCst));
    assert_eq!(refused.load(Ordering::SeqCst), 4, "each client was told");
    assert_eq!(get(&server, "/v1/ready", &[]).status, 503);
    assert_eq!(get(&server, "/v1/health", &[]).status, 200);
    assert_eq!(server.stop().abandoned, 0);
}

#[test]
fn a_stop_waits_for_a_slow_client_only_until_the_deadline() {
    let server = Builder::memory("256 MiB")
        .allow("drain deadline passed")
        .start();
    let mut client = WireClient::connect(server.address());
    let big = value(1, 32 << 20);
    assert_eq!(client.put(b"big", &big), Outcome::Ok);
    client.send_keys(OpCode::Get, &[b"big"]);
    // The client takes none of it.
    until("it is being sent", Duration::from_secs(10), || {
        (metric(&server, "memkv_admitted_bytes") > 0.0).then_some(())
    });
    let started = Instant::now();
    let stopped = server.stop_within(Duration::from_secs(1));
    assert_eq!(stopped.abandoned, 1);
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn removing_a_key_closes_its_sessions_and_no_others() {
    const NEXT: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    let server = TestServer::memory();
    let mut old = WireClient::connect(server.address());
    assert!(old.is_alive());
    let yaml = server.builder().yaml("127.0.0.1:0");
    let ours = yaml
        .lines()
        .find(|line| line.contains("auth_key"))
        .unwrap()
        .to_owned();
    let previous = ours.replace("auth_key", "auth_key_previous");
    let rotated = yaml.replace(&ours, &format!("  auth_key: {NEXT}\n{previous}"));
    let load = |yaml: &str| {
        memkv_server::config::Config::from_yaml(
            "test.yaml",
            yaml.as_bytes(),
            &Default::default(),
            &memkv_server::config::Facts::read(),
            &Default::default(),
        )
        .unwrap()
    };
    let reloaded = server.running().reload(load(&rotated)).unwrap();
    assert!(reloaded.keys);
    assert!(old.is_alive(), "the previous key is still let in");
    let mut late = WireClient::connect(server.address());
    assert!(late.is_alive());
    assert_eq!(
        metric(&server, "memkv_auth_key_uses_total{key=\"previous\"}"),
        1.0
    );
    let removed = yaml.replace(&ours, &format!("  auth_key: {NEXT}"));
    assert!(server.running().reload(load(&removed)).unwrap().keys);
    assert!(closes_within(&mut old.stream, Duration::from_secs(5)));
    assert!(closes_within(&mut late.stream, Duration::from_secs(5)));
    assert!(
        !server.running().reload(load(&removed)).unwrap().keys,
        "nothing changed"
    );
}

#[test]
fn what_a_reload_cant_change_is_named() {
    let server = TestServer::memory();
    let yaml = server
        .builder()
        .yaml("127.0.0.1:0")
        .replace("256 MiB", "512 MiB");
    let config = memkv_server::config::Config::from_yaml(
        "test.yaml",
        yaml.as_bytes(),
        &Default::default(),
        &memkv_server::config::Facts::read(),
        &Default::default(),
    )
    .unwrap();
    let reloaded = server.running().reload(config).unwrap();
    // The bound on what is under way is half of it now, but nobody has set that.
    assert_eq!(reloaded.needs_restart, ["storage.max_size"]);
}
