//! The store on files: what is put is read, also after a stop, and never anything else.

use std::path::Path;
use std::time::Duration;

use super::harness::{Client, value_of};
use crate::{
    Attrs, Condition, DriveConfig, DriveOpenError, Engine, EngineConfig, EngineMetrics, OpenError,
    PutError, Sync,
};

/// Small drives and a small pool.
pub(crate) fn files(dir: &Path, count: usize, bytes: u64) -> EngineConfig {
    let drive = |idx| DriveConfig {
        media: dir.join(format!("drive{idx}")),
        max_size: Some(bytes),
    };
    EngineConfig {
        drives: (0..count).map(drive).collect(),
        extent_bytes: 1 << 20,
        slab_bytes: 256 << 10,
        pool_bytes: 8 << 20,
        ..EngineConfig::default()
    }
}

fn stop(client: Client) {
    client
        .engine
        .shutdown(Duration::from_secs(20))
        .expect("clean stop");
}

#[test]
fn values_of_all_sizes_are_read_back_from_ram_and_after_a_restart() {
    for sync in [Sync::Always, Sync::Everysec, Sync::No] {
        let dir = tempfile::tempdir().expect("dir");
        let config = EngineConfig {
            sync,
            ..files(dir.path(), 1, 64 << 20)
        };
        let sizes = [
            0usize, 1, 100, 4095, 4096, 40_000, 65_535, 65_536, 65_537, 200_000, 262_144,
        ];
        let client = Client::open(config.clone());
        for len in sizes {
            client
                .put(&len.to_le_bytes(), &value_of(len as u64, len))
                .expect("put");
            assert_eq!(
                client.get(&len.to_le_bytes()),
                Some(value_of(len as u64, len)),
                "{len}"
            );
        }
        stop(client);
        let client = Client::open(config);
        for len in sizes {
            assert!(
                client.exists(&len.to_le_bytes()),
                "{len} exists after a restart"
            );
            assert_eq!(
                client.get(&len.to_le_bytes()),
                Some(value_of(len as u64, len)),
                "{len}"
            );
        }
        assert_eq!(client.engine.status().entries, sizes.len() as u64);
        stop(client);
    }
}

#[test]
fn deleted_and_overwritten_values_stay_so_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 2, 64 << 20);
    let client = Client::open(config.clone());
    for idx in 0..100u64 {
        client
            .put(&idx.to_le_bytes(), &value_of(idx, 2600 * idx as usize))
            .expect("put");
    }
    for idx in (0..100u64).step_by(3) {
        assert!(client.delete(&idx.to_le_bytes()).expect("delete"));
        assert!(!client.delete(&idx.to_le_bytes()).expect("delete"));
    }
    for idx in (1..100u64).step_by(3) {
        client
            .put(&idx.to_le_bytes(), &value_of(idx + 1000, 1000))
            .expect("put");
    }
    stop(client);
    for _ in 0..3 {
        let client = Client::open(config.clone());
        for idx in 0..100u64 {
            let expected = match idx % 3 {
                0 => None,
                1 => Some(value_of(idx + 1000, 1000)),
                _ => Some(value_of(idx, 2600 * idx as usize)),
            };
            assert_eq!(client.get(&idx.to_le_bytes()), expected, "key {idx}");
        }
        stop(client);
    }
}

#[test]
fn versions_rise_over_a_restart_and_conditions_see_them() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 64 << 20);
    let client = Client::open(config.clone());
    let small = client.put(b"small", b"1").expect("put").version;
    let large = client.put(b"large", &[1; 100_000]).expect("put").version;
    assert!(large > small);
    stop(client);
    let client = Client::open(config);
    let put = |key: &[u8], value: &[u8], condition| {
        client.put_with(0, key, value, Attrs::default(), condition)
    };
    let failed = |result| match result {
        Err(PutError::ConditionFailed { current }) => current,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        failed(put(b"small", b"x", Condition::IfAbsent)),
        Some(small)
    );
    assert_eq!(
        failed(put(b"large", b"x", Condition::IfAbsent)),
        Some(large)
    );
    assert_eq!(
        failed(put(b"small", b"x", Condition::IfVersion(large))),
        Some(small)
    );
    let next = put(b"small", b"2", Condition::IfVersion(small))
        .expect("right version")
        .version;
    assert!(next > large);
    put(b"large", b"2", Condition::IfVersion(large)).expect("right version");
    put(b"new", b"2", Condition::IfAbsent).expect("absent");
    assert_eq!(client.get(b"small").as_deref(), Some(&b"2"[..]));
}

#[test]
fn full_drive_evicts_the_oldest_and_serves_the_rest() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 16 << 20);
    let client = Client::open(config.clone());
    let len = |idx: u64| if idx.is_multiple_of(2) { 65_536 } else { 5000 };
    for idx in 0..1500u64 {
        client
            .put(&idx.to_le_bytes(), &value_of(idx, len(idx)))
            .expect("put");
    }
    let there: Vec<u64> = (0..1500u64)
        .filter(|idx| client.exists(&idx.to_le_bytes()))
        .collect();
    assert!(there.contains(&1499), "the newest is there");
    assert!(!there.contains(&0), "the oldest is gone");
    assert!(there.len() > 150, "{} values fit in 16 MiB", there.len());
    let status = client.engine.status();
    assert_eq!(status.evictions, 1500 - there.len() as u64);
    assert!(status.never_read_bytes > 10 << 20, "{status:?}");
    stop(client);
    let client = Client::open(config);
    for idx in 0..1500u64 {
        let value = client.get(&idx.to_le_bytes());
        assert_eq!(value.is_some(), there.contains(&idx), "key {idx}");
        if let Some(value) = value {
            assert_eq!(value, value_of(idx, len(idx)));
        }
    }
}

#[test]
fn full_drive_without_eviction_says_no_space_and_deletes_still_work() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        eviction: false,
        ..files(dir.path(), 1, 16 << 20)
    };
    let client = Client::open(config.clone());
    let mut count = 0u64;
    let error = loop {
        match client.put(&count.to_le_bytes(), &value_of(count, 65_536)) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, PutError::NoSpace { .. }), "{error:?}");
    assert!(count > 150, "{count} values of 64 KiB fit in 16 MiB");
    for idx in 0..count {
        assert_eq!(
            client.get(&idx.to_le_bytes()),
            Some(value_of(idx, 65_536)),
            "key {idx}"
        );
    }
    for idx in 0..count / 2 {
        assert!(
            client
                .delete(&idx.to_le_bytes())
                .expect("deletes always work")
        );
    }
    for idx in 0..count / 4 {
        client
            .put(&idx.to_le_bytes(), &value_of(idx + 7, 65_536))
            .expect("there is room again");
    }
    stop(client);
    let client = Client::open(config);
    assert_eq!(client.get(&0u64.to_le_bytes()), Some(value_of(7, 65_536)));
    assert_eq!(client.get(&(count / 2 - 1).to_le_bytes()), None);
    assert_eq!(
        client.get(&(count - 1).to_le_bytes()),
        Some(value_of(count - 1, 65_536))
    );
}

#[test]
fn drive_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 16 << 20);
    let client = Client::open(config.clone());
    let error = Engine::open(config.clone(), EngineMetrics::detached()).expect_err("is open");
    assert!(
        matches!(
            error,
            OpenError::Drive {
                source: DriveOpenError::InUse { .. },
                ..
            }
        ),
        "{error:?}"
    );
    stop(client);
    stop(Client::open(config));
}

/// Bytes used on all drives, once they are as expected; waits two seconds for that.
fn used_once(client: &Client, expected: impl Fn(u64) -> bool) -> u64 {
    for _ in 0..200 {
        let drives = client.engine.status().drives;
        let used = drives.iter().map(|drive| drive.used_bytes).sum();
        if expected(used) {
            return used;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?}", client.engine.status().drives);
}

#[test]
fn long_values_are_striped_streamed_and_read_back_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 3, 64 << 20);
    let client = Client::open(config.clone());
    // A part is 256 KiB here, a window 2 MiB.
    let sizes = [
        262_145usize,
        524_288,
        1_000_001,
        2 << 20,
        (2 << 20) + 1,
        9_999_999,
    ];
    for len in sizes {
        client
            .put(&len.to_le_bytes(), &value_of(len as u64, len))
            .expect("put");
        assert_eq!(
            client.get(&len.to_le_bytes()),
            Some(value_of(len as u64, len)),
            "{len}"
        );
    }
    client.put(b"replaced", &value_of(1, 3 << 20)).expect("put");
    client.put(b"replaced", &value_of(2, 1 << 20)).expect("put");
    client.put(b"shrunk", &value_of(3, 3 << 20)).expect("put");
    client.put(b"shrunk", b"small").expect("put");
    client.put(b"deleted", &value_of(4, 3 << 20)).expect("put");
    assert!(client.delete(b"deleted").expect("delete"));
    let live: usize = sizes.iter().sum::<usize>() + (1 << 20);
    // Drives hear of what died on them a moment later.
    let bounds = live as u64..(live + (1 << 20)) as u64;
    let used = used_once(&client, |used| bounds.contains(&used));
    stop(client);
    let client = Client::open(config);
    for len in sizes {
        assert_eq!(
            client.get(&len.to_le_bytes()),
            Some(value_of(len as u64, len)),
            "{len}"
        );
    }
    assert_eq!(client.get(b"replaced"), Some(value_of(2, 1 << 20)));
    assert_eq!(client.get(b"shrunk").as_deref(), Some(&b"small"[..]));
    assert_eq!(client.get(b"deleted"), None);
    assert!(!client.exists(b"deleted"));
    let after = used_once(&client, |after| after == used);
    assert_eq!(
        after, used,
        "what was replaced or deleted is counted as dead"
    );
}

#[test]
fn abandoned_stream_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("dir");
    let client = Client::open(files(dir.path(), 2, 64 << 20));
    let put = crate::Put {
        namespace: 0,
        key: b"key",
        len: 8 << 20,
        attrs: Attrs::default(),
        condition: Condition::None,
    };
    let lease = client.reserve(&put).expect("reserve");
    assert_eq!(lease.window(), 0..2 << 20);
    let step = lease
        .advance(&client.queue, crate::Token(1))
        .expect("advance");
    assert!(matches!(step, crate::Step::Pending));
    let crate::CompletionResult::Advanced(Ok(lease)) = client.wait().result else {
        panic!("the first window goes out")
    };
    assert_eq!(lease.window(), 2 << 20..4 << 20);
    drop(lease);
    assert_eq!(client.get(b"key"), None);
    client.put(b"other", b"x").expect("put");
    used_once(&client, |used| used < 1 << 20);
}

#[test]
fn many_long_reads_at_once_share_the_pool() {
    let dir = tempfile::tempdir().expect("dir");
    let client = Client::open(files(dir.path(), 2, 128 << 20));
    for key in 0..8u8 {
        client
            .put(&[key], &value_of(key.into(), 6 << 20))
            .expect("put");
    }
    std::thread::scope(|scope| {
        for reader in 0..8u8 {
            let engine = client.engine.clone();
            scope.spawn(move || {
                let client = Client::new(engine);
                for key in 0..8u8 {
                    let key = (key + reader) % 8;
                    assert_eq!(client.get(&[key]), Some(value_of(key.into(), 6 << 20)));
                }
            });
        }
    });
}

#[test]
fn scan_meets_every_entry_of_a_namespace() {
    let dir = tempfile::tempdir().expect("dir");
    let memory = EngineConfig {
        slab_bytes: 64 << 10,
        ..EngineConfig::memory(8 << 20)
    };
    for config in [files(dir.path(), 2, 32 << 20), memory] {
        let client = Client::open(config);
        for key in 0..300u32 {
            let len = if key.is_multiple_of(50) {
                400_000
            } else {
                10 * key as usize
            };
            let namespace = 1 + key % 2;
            let value = value_of(key.into(), len);
            let put = client.put_with(
                namespace,
                &key.to_le_bytes(),
                &value,
                Attrs::default(),
                Condition::None,
            );
            put.expect("put");
        }
        let mut met = std::collections::BTreeMap::new();
        let mut cursor = Some(crate::Cursor::START);
        while let Some(at) = cursor {
            let page = match client
                .engine
                .scan(&client.queue, crate::Token(9), 1, at, 17)
            {
                Ok(crate::Step::Ready(page)) => page,
                Ok(crate::Step::Pending) => match client.wait().result {
                    crate::CompletionResult::Scanned(page) => page.expect("page"),
                    other => panic!("{other:?}"),
                },
                Err(error) => panic!("{error:?}"),
            };
            met.extend(
                page.entries
                    .into_iter()
                    .map(|entry| (entry.key, entry.value_len)),
            );
            cursor = page.next;
        }
        let expected: std::collections::BTreeMap<Vec<u8>, u64> = (0..300u32)
            .filter(|key| key.is_multiple_of(2))
            .map(|key| {
                let len = if key.is_multiple_of(50) {
                    400_000
                } else {
                    10 * u64::from(key)
                };
                (key.to_le_bytes().to_vec(), len)
            })
            .collect();
        assert_eq!(met, expected);
        stop(client);
    }
}

/// What a thread logs, as lines.
#[derive(Clone, Default)]
struct LogText(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for LogText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn memory_freed_twice_is_given_out_once_counted_and_its_place_logged_eight_times() {
    const SLAB: usize = 256 << 10;
    for traced in [false, true] {
        let metrics = EngineMetrics::detached();
        let config = EngineConfig {
            mode: crate::Mode::Memory,
            memory_bytes: 8 << 20,
            slab_bytes: SLAB as u64,
            double_free_trace: traced,
            ..EngineConfig::default()
        };
        let engine = Engine::open(config, metrics.clone()).expect("opens");
        let pool = &engine.shared.tables.pool;
        let (free, text) = (pool.counts().free, LogText::default());
        let writer = text.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(log.finish(), || {
            for len in [100, SLAB] {
                pool.free_too_often(len, 6);
                assert_eq!(pool.counts().free, free);
            }
        });
        assert_eq!((metrics.slab_double_frees(), pool.double_frees()), (12, 12));
        let text = String::from_utf8(text.0.lock().clone()).expect("is text");
        assert_eq!(
            text.matches("slab memory freed twice").count(),
            12,
            "{text}"
        );
        let places: Vec<&str> = text.split(" ERROR ").collect();
        let places = places.iter().filter(|line| line.contains("free_too_often"));
        let traces = pool.double_free_traces();
        let expected = if traced { 8 } else { 0 };
        assert_eq!(
            (places.count(), traces.len()),
            (expected, expected),
            "{text}"
        );
        engine
            .shutdown(Duration::from_secs(20))
            .expect("clean stop");
    }
}
