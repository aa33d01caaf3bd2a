//! Expiry: every call says of an expired key what a get says, without reading it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memkv_telemetry::EvictionReason;

use super::harness::{Client, value_of};
use super::tests::files;
use crate::{Attrs, Condition, Engine, EngineConfig, EngineMetrics};

/// A record, a record of several pages, an extent and a striped value.
const LENGTHS: [usize; 4] = [100, 20_000, 100_000, 3 << 20];

fn soon(ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64 + ms
}

fn put(client: &Client, key: &[u8], len: usize, expiry_ms: u64, condition: Condition) -> bool {
    let attrs = Attrs {
        expiry_ms,
        ..Attrs::default()
    };
    let value = value_of(len as u64, len);
    client.put_with(0, key, &value, attrs, condition).is_ok()
}

fn key(len: usize, what: &str) -> Vec<u8> {
    format!("{what}-{len}").into_bytes()
}

fn stop(client: Client) {
    let stopped = client.engine.shutdown(Duration::from_secs(20));
    stopped.expect("clean stop");
}

fn all_agree(client: &Client, lengths: &[usize]) {
    for len in lengths {
        let (past, later, never) = (key(*len, "past"), key(*len, "later"), key(*len, "never"));
        for there in [&later, &never] {
            assert!(client.exists(there), "{len}: it hasn't expired");
            assert!(client.get(there).is_some());
            assert!(!put(client, there, 9, 0, Condition::IfAbsent));
        }
        assert!(!client.exists(&past), "{len}: it has expired");
        assert_eq!(client.get(&past), None);
        assert!(!client.exists(&past));
        assert!(!client.delete(&past).expect("delete"), "{len}: it was gone");
    }
}

fn fill(client: &Client, lengths: &[usize]) {
    for len in lengths {
        assert!(put(client, &key(*len, "past"), *len, 1, Condition::None));
        assert!(put(client, &key(*len, "absent"), *len, 1, Condition::None));
        let later = soon(3_600_000);
        assert!(put(
            client,
            &key(*len, "later"),
            *len,
            later,
            Condition::None
        ));
        assert!(put(client, &key(*len, "never"), *len, 1, Condition::None));
        assert!(put(client, &key(*len, "never"), *len, 0, Condition::None));
    }
}

#[test]
fn exists_delete_and_conditions_agree_with_get_of_expired_keys_in_memory() {
    let client = Client::open(EngineConfig {
        slab_bytes: 64 << 10,
        ..EngineConfig::memory(32 << 20)
    });
    fill(&client, &LENGTHS[..3]);
    all_agree(&client, &LENGTHS[..3]);
    for len in &LENGTHS[..3] {
        let absent = key(*len, "absent");
        assert!(put(&client, &absent, 9, 0, Condition::IfAbsent));
        assert!(client.exists(&absent) && client.delete(&absent).expect("delete"));
    }
}

#[test]
fn exists_delete_and_conditions_agree_with_get_of_expired_keys_on_drives() {
    let dir = tempfile::tempdir().expect("dir");
    let client = Client::open(files(dir.path(), 2, 64 << 20));
    fill(&client, &LENGTHS);
    all_agree(&client, &LENGTHS);
    for len in LENGTHS {
        let absent = key(len, "absent");
        assert!(put(&client, &absent, 9, 0, Condition::IfAbsent), "{len}");
        assert!(client.exists(&absent) && client.delete(&absent).expect("delete"));
    }
}

#[test]
fn what_expires_is_known_after_a_clean_stop_and_after_a_second_one() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 64 << 20);
    let client = Client::open(config.clone());
    fill(&client, &LENGTHS);
    stop(client);
    // The second time it comes from a checkpoint that was made of a checkpoint.
    for _ in 0..2 {
        let client = Client::open(config.clone());
        for len in LENGTHS {
            assert!(!client.exists(&key(len, "past")), "{len}");
            assert!(client.exists(&key(len, "later")), "{len}");
            assert!(client.exists(&key(len, "never")), "{len}");
        }
        stop(client);
    }
    all_agree(&Client::open(config), &LENGTHS);
}

#[test]
fn what_expires_is_known_after_a_stop_without_a_checkpoint() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 64 << 20);
    let client = Client::open(config.clone());
    fill(&client, &LENGTHS);
    // As a kill leaves it: a copy of the drive while it is in use.
    let copy = tempfile::tempdir().expect("dir");
    std::fs::copy(dir.path().join("drive0"), copy.path().join("drive0")).expect("copy");
    let after = Client::open(files(copy.path(), 1, 64 << 20));
    all_agree(&after, &LENGTHS);
}

#[test]
fn an_expired_value_on_a_drive_is_counted_as_expired_when_its_room_is_reused() {
    let dir = tempfile::tempdir().expect("dir");
    let metrics = EngineMetrics::detached();
    let config = files(dir.path(), 1, 64 << 20);
    let client = Client::new(Engine::open(config, metrics.clone()).expect("opens"));
    for idx in 0..400u32 {
        assert!(put(
            &client,
            &idx.to_le_bytes(),
            500_000,
            1,
            Condition::None
        ));
    }
    assert!(metrics.evictions(EvictionReason::Expired) > 100);
    assert_eq!(metrics.evictions(EvictionReason::Capacity), 0);
    assert_eq!(client.engine.status().never_read_bytes, 0);
}
