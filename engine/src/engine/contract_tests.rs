//! What callers are promised of entries and drives, whatever kind of value and mode it is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::harness::{Client, value_of};
use super::tests::files;
use crate::drive::faulty::Faults;
use crate::{
    Attrs, Class, CompletionResult, Condition, Cursor, EngineConfig, PutError, ScanEntry, Step,
    Token,
};

/// A record, an extent and a striped value.
const LENGTHS: [usize; 3] = [3000, 100_000, 5 << 18];

fn stop(client: Client) {
    let stopped = client.engine.shutdown(Duration::from_secs(20));
    stopped.expect("clean stop");
}

fn in_memory() -> EngineConfig {
    EngineConfig {
        slab_bytes: 64 << 10,
        ..EngineConfig::memory(16 << 20)
    }
}

/// Attributes that differ from each other and from the defaults.
fn attrs_of(idx: usize) -> Attrs {
    Attrs {
        type_tag: 7 + idx as u8,
        flags: 0xdead_0000 + idx as u32,
        expiry_ms: 4_000_000_000_000 + idx as u64,
        class: [Class::Durable, Class::Evictable][idx % 2],
    }
}

/// All entries of a namespace, by key.
fn scanned(client: &Client, namespace: u32) -> Vec<ScanEntry> {
    let (mut entries, mut cursor) = (Vec::new(), Some(Cursor::START));
    while let Some(at) = cursor {
        let step = client
            .engine
            .scan(&client.queue, Token(9), namespace, at, 100);
        let page = match step.expect("scan") {
            Step::Ready(page) => page,
            Step::Pending => match client.wait().result {
                CompletionResult::Scanned(page) => page.expect("page"),
                other => panic!("{other:?}"),
            },
        };
        entries.extend(page.entries);
        cursor = page.next;
    }
    entries.sort_by(|one, other| one.key.cmp(&other.key));
    entries
}

/// Compares what a get and a scan say with what was put.
fn attributes_are(client: &Client, versions: &[u64]) {
    for (idx, len) in LENGTHS.into_iter().enumerate() {
        let key = [b'k', idx as u8];
        let lease = client.lease(3, &key).expect("get").expect("it is there");
        assert_eq!(lease.attrs(), attrs_of(idx), "{len}");
        assert_eq!(lease.version(), versions[idx], "{len}");
        assert_eq!(lease.len(), len as u64);
        assert!(client.lease(4, &key).expect("get").is_none(), "namespaces");
    }
    let entries = scanned(client, 3);
    let told = entries.iter().map(|entry| {
        let (attrs, len) = (entry.attrs, entry.value_len as usize);
        (entry.key.clone(), attrs, entry.version, len)
    });
    let put = (0..LENGTHS.len()).map(|idx| {
        let (key, len) = (vec![b'k', idx as u8], LENGTHS[idx]);
        (key, attrs_of(idx), versions[idx], len)
    });
    assert_eq!(told.collect::<Vec<_>>(), put.collect::<Vec<_>>());
    assert!(scanned(client, 4).is_empty());
}

#[test]
fn attributes_come_back_as_they_were_put_with_gets_and_scans_and_after_restarts() {
    let dir = tempfile::tempdir().expect("dir");
    for config in [in_memory(), files(dir.path(), 2, 64 << 20)] {
        let client = Client::open(config.clone());
        let mut versions = Vec::new();
        for (idx, len) in LENGTHS.into_iter().enumerate() {
            let (key, value) = ([b'k', idx as u8], value_of(1, len));
            let put = client.put_with(3, &key, &value, attrs_of(idx), Condition::None);
            versions.push(put.expect("put").version);
        }
        attributes_are(&client, &versions);
        stop(client);
        if config.drives.is_empty() {
            continue;
        }
        let client = Client::open(config);
        attributes_are(&client, &versions);
    }
}

#[test]
fn durable_values_on_drives_are_never_evicted_and_fill_the_store() {
    let dir = tempfile::tempdir().expect("dir");
    let client = Client::open(files(dir.path(), 1, 16 << 20));
    let durable = Attrs {
        class: Class::Durable,
        ..Attrs::default()
    };
    let put = |key: u64| {
        let value = value_of(key, LENGTHS[key as usize % 2]);
        client.put_with(0, &key.to_le_bytes(), &value, durable, Condition::None)
    };
    for key in 0..20 {
        put(key).expect("put");
    }
    // Three times the drive of others.
    for key in 1000..1500u64 {
        let value = value_of(key, 100_000);
        client.put(&key.to_le_bytes(), &value).expect("put");
    }
    assert!(client.engine.status().evictions > 100);
    let full = (20..1000).find_map(|key| put(key).err());
    assert!(matches!(full, Some(PutError::NoSpace { .. })), "{full:?}");
    for key in 0..20u64 {
        let expected = value_of(key, LENGTHS[key as usize % 2]);
        assert!(client.get(&key.to_le_bytes()) == Some(expected), "{key}");
    }
}

#[test]
fn store_works_without_io_uring_and_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 64 << 20);
    let faults = Faults::plan(&config.drives[0].media);
    faults.uring.store(true, Ordering::SeqCst);
    let told = |client: &Client| {
        let findings = client.engine.status().findings;
        findings.iter().any(|text| text.contains("no io_uring"))
    };
    let client = Client::open(config.clone());
    for (key, len) in LENGTHS.into_iter().enumerate() {
        let value = value_of(key as u64, len);
        client.put(&[key as u8], &value).expect("put");
    }
    client.put(b"gone", b"x").expect("put");
    assert!(client.delete(b"gone").expect("delete"));
    assert!(told(&client));
    stop(client);
    for uring in [true, false] {
        faults.uring.store(uring, Ordering::SeqCst);
        let client = Client::open(config.clone());
        assert_eq!(told(&client), uring);
        for (key, len) in LENGTHS.into_iter().enumerate() {
            let found = client.get(&[key as u8]);
            assert!(found == Some(value_of(key as u64, len)), "{len}");
        }
        assert_eq!(client.get(b"gone"), None);
        stop(client);
    }
}

#[test]
fn room_of_deleted_values_is_there_for_the_next_put_where_nothing_may_be_evicted() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        eviction: false,
        ..files(dir.path(), 1, 32 << 20)
    };
    let client = Client::open(config);
    // Longer than a part of so small a drive.
    let put = |key: u64| client.put(&key.to_le_bytes(), &value_of(key, 700_000));
    let stored = (0..1000).take_while(|key| put(*key).is_ok()).count() as u64;
    assert!(stored > 20, "{stored} fit");
    for key in 0..stored / 2 {
        assert!(client.delete(&key.to_le_bytes()).expect("delete"));
    }
    for key in 5000..5000 + stored / 4 {
        put(key).unwrap_or_else(|error| panic!("{key}: {error:?}"));
    }
}

#[test]
fn no_pending_get_brings_more_than_was_told_of_it() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 2, 64 << 20);
    // The longest streams: its first window is 2 MiB.
    let lengths = LENGTHS.into_iter().chain([(2 << 20) + 1]);
    let client = Client::open(config.clone());
    for len in lengths.clone() {
        let value = value_of(len as u64, len);
        client.put(&len.to_le_bytes(), &value).expect("put");
    }
    stop(client);
    let client = Client::open(config);
    assert_eq!(client.engine.block_bytes(), 256 << 10);
    for (len, told) in lengths.zip([3072, 256 << 10, 5 << 18, 2 << 20]) {
        let key = len.to_le_bytes();
        assert_eq!(client.engine.get_bytes_max(0, &key), told, "{len}");
        let lease = client.lease(0, &key).expect("get").expect("a value");
        assert!(lease.window().end <= told, "{len}: {:?}", lease.window());
    }
}
