//! SIGHUP with live clients.

use std::time::Duration;

use memkv_client::{OpError, TransportCause};
use memkv_tests::poll::until;
use memkv_tests::program::Setup;
use memkv_tests::server::{KEY, key_hex};
use rustix::process::Signal;
use tempfile::TempDir;

const NEXT: [u8; 32] = [0xa7; 32];

#[test]
fn sighup_rotates_the_key_under_live_clients() {
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    let server = setup.start();
    let old = server.client();
    old.put(b"key", b"value").unwrap();
    let reloads = |count: usize| {
        until("the server has reloaded", Duration::from_secs(10), || {
            (server.stderr().matches("\"reloaded\"").count() == count).then_some(())
        });
    };

    // The new key comes, the old one stays for a while.
    setup.auth_key = key_hex(&NEXT);
    setup.network = vec![format!("auth_key_previous: {}", key_hex(&KEY))];
    setup.write();
    server.signal(Signal::HUP);
    reloads(1);
    let new = server.client_with(NEXT);
    assert_eq!(new.get(b"key").unwrap(), Some(b"value".to_vec()));
    assert_eq!(
        old.get(b"key").unwrap(),
        Some(b"value".to_vec()),
        "its session lives on"
    );
    let late = server.client_with(KEY);
    assert_eq!(
        late.get(b"key").unwrap(),
        Some(b"value".to_vec()),
        "the previous key lets in"
    );
    let uses = |which| {
        server
            .metric("memkv_auth_key_uses_total", &[which])
            .unwrap()
    };
    assert_eq!(uses("key=\"previous\""), 1.0);
    let stays = until("the log says who stays", Duration::from_secs(10), || {
        server.line("a client uses the previous key")
    });
    let peer = stays["peer"].as_str().unwrap_or_default();
    assert!(peer.starts_with("127.0.0.1:"), "{stays}");

    // The old key goes, and with it its sessions.
    setup.network.clear();
    setup.write();
    server.signal(Signal::HUP);
    reloads(2);
    let closed = until("old sessions are closed", Duration::from_secs(10), || {
        old.get(b"key").err()
    });
    assert!(matches!(closed, OpError::Transport { .. }), "{closed:?}");
    let refused = until("the old key is refused", Duration::from_secs(10), || {
        late.get(b"key").err()
    });
    let refused = match refused {
        // The first call after the close may still find its connection lost.
        OpError::Transport {
            cause: TransportCause::Refused(_) | TransportCause::Handshake(_),
            ..
        } => refused,
        _ => late.get(b"key").unwrap_err(),
    };
    assert!(
        matches!(
            refused,
            OpError::Transport {
                cause: TransportCause::Refused(_) | TransportCause::Handshake(_),
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(
        new.get(b"key").unwrap(),
        Some(b"value".to_vec()),
        "never disturbed"
    );
    assert!(server.metric("memkv_auth_failures_total", &[]).unwrap() >= 1.0);
    server.stop();
}
