//! Drives that are lost while the store runs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use memkv_telemetry::EvictionReason;

use super::harness::{Client, value_of};
use super::tests::files;
use crate::drive::faulty::Faults;
use crate::{
    CompletionResult, DriveOpenError, DriveState, Engine, EngineConfig, EngineMetrics, HugePages,
    Mode, OpenError, PutError, Step, Token,
};

/// Waits until a drive is down, and says why it is.
fn why_down(client: &Client, drive: usize) -> String {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let DriveState::Down(why) = &client.engine.status().drives[drive].state
            && !why.is_empty()
        {
            return why.clone();
        }
        assert!(Instant::now() < until, "the drive stays up");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn one(dir: &tempfile::TempDir) -> EngineConfig {
    files(dir.path(), 1, 16 << 20)
}

#[test]
fn calls_for_a_drive_whose_backend_cannot_start_end_with_an_error() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().expect("dir");
        let config = one(&dir);
        let faults = Faults::plan(&config.drives[0].media);
        faults.start.store(true, Ordering::SeqCst);
        let client = Client::open(config);
        // Some of these are in the inbox before the thread finds out, some come later.
        for key in 0..20u64 {
            let error = client.put(&key.to_le_bytes(), b"value").expect_err("lost");
            let typed = matches!(error, PutError::Io { .. } | PutError::Busy { .. });
            assert!(typed || matches!(error, PutError::NoDrive), "{error:?}");
            assert!(client.delete(&key.to_le_bytes()).is_err());
            assert_eq!(client.get(&key.to_le_bytes()), None);
        }
        let why = why_down(&client, 0);
        assert!(why.contains("no i/o backend"), "{why}");
        client
            .engine
            .shutdown(Duration::from_secs(20))
            .expect("ends");
    }
}

#[test]
fn calls_in_flight_on_a_ring_that_fails_end_with_an_error() {
    let dir = tempfile::tempdir().expect("dir");
    let config = one(&dir);
    let faults = Faults::plan(&config.drives[0].media);
    let client = Client::open(config);
    for key in 0..4u64 {
        client
            .put(&key.to_le_bytes(), &value_of(key, 3 << 20))
            .expect("put");
    }
    faults.backend.store(true, Ordering::SeqCst);
    let mut pending = 0;
    for key in 0..4u64 {
        let step = client
            .engine
            .get(&client.queue, Token(key), 0, &key.to_le_bytes());
        pending += usize::from(matches!(step, Ok(Step::Pending)));
    }
    let mut failed = 0;
    let mut out = Vec::new();
    while failed < pending {
        assert!(
            client.queue.wait(Duration::from_secs(20)).expect("poll"),
            "{failed} of {pending} were answered"
        );
        client.queue.drain(&mut out);
        for completion in out.drain(..) {
            let CompletionResult::Got(got) = completion.result else {
                panic!("{completion:?}")
            };
            assert!(!matches!(got, Ok(Some(_))), "{got:?}");
            failed += 1;
        }
    }
    assert!(pending > 0, "not all were in RAM");
    let why = why_down(&client, 0);
    assert!(why.contains("the ring failed"), "{why}");
    client.put(b"key", b"value").expect_err("lost");
}

/// As in direct mode, on files; without huge pages, which few machines have reserved.
fn direct(dir: &tempfile::TempDir) -> EngineConfig {
    let config = files(dir.path(), 2, 16 << 20);
    for drive in &config.drives {
        let file = std::fs::File::create(&drive.media).expect("file");
        file.set_len(16 << 20).expect("length");
    }
    EngineConfig {
        mode: Mode::Direct,
        huge_pages: HugePages::Off,
        ..config
    }
}

#[test]
fn direct_mode_refuses_to_start_without_enough_memlock_and_file_mode_goes_on() {
    let dir = tempfile::tempdir().expect("dir");
    let config = direct(&dir);
    let faults = Faults::plan(&config.drives[1].media);
    faults.registration.store(true, Ordering::SeqCst);
    let error = Engine::open(config.clone(), EngineMetrics::detached()).expect_err("refused");
    let OpenError::Memlock { bytes, drives, .. } = &error else {
        panic!("{error:?}")
    };
    // Each of two rings: the pool of 8 MiB and buffers of 12 MiB.
    assert_eq!((*bytes, *drives), (40 << 20, 2));
    let text = error.to_string();
    assert!(text.contains("LimitMEMLOCK=infinity"), "{text}");
    assert!(text.contains("memory.max_size"), "{text}");
    let client = Client::open(EngineConfig {
        mode: Mode::File,
        ..config.clone()
    });
    let findings = client.engine.status().findings;
    let registered = |finding: &String| finding.contains("isn't registered");
    assert!(findings.iter().any(registered), "{findings:?}");
    client
        .engine
        .shutdown(Duration::from_secs(20))
        .expect("clean stop");
    drop(client);
    // Nothing of the refused start stays behind.
    faults.registration.store(false, Ordering::SeqCst);
    match Engine::open(config, EngineMetrics::detached()) {
        Ok(engine) => Client::new(engine)
            .put(b"key", b"value")
            .map(drop)
            .expect("put"),
        Err(OpenError::Memlock { limit, .. }) => {
            assert!(limit < 40 << 20, "this machine really has too little");
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn direct_mode_refuses_to_start_without_huge_pages() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        huge_pages: HugePages::Auto,
        // More than anybody has reserved.
        pool_bytes: 1 << 44,
        ..direct(&dir)
    };
    let error = Engine::open(config, EngineMetrics::detached()).expect_err("refused");
    assert!(error.to_string().contains("memory.max_size"), "{error}");
    let OpenError::Pool { source, .. } = error else {
        panic!("{error:?}")
    };
    let text = source.to_string();
    assert!(text.contains("sysctl vm.nr_hugepages=8388608"), "{text}");
}

/// 150 values over three drives, more than the pool holds.
fn put_all(client: &Client, generation: u64) -> Vec<u64> {
    let put = |key: &u64| {
        let value = value_of(key + 1000 * generation, 100_000);
        client.put(&key.to_le_bytes(), &value).is_ok()
    };
    (0..150).filter(put).collect()
}

#[test]
fn drives_that_remain_take_the_puts_of_one_that_is_lost_and_what_it_had_misses() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        flap_threshold: 2,
        ..files(dir.path(), 3, 32 << 20)
    };
    let lost_media = config.drives[1].media.clone();
    let faults = Faults::plan(&lost_media);
    let metrics = EngineMetrics::detached();
    let engine = Engine::open(config.clone(), metrics.clone()).expect("open");
    let client = Client::new(engine);
    assert_eq!(put_all(&client, 0).len(), 150);
    let gauge = metrics.drive(&lost_media.display().to_string());
    assert!(gauge.is_up());

    faults.io.store(true, Ordering::SeqCst);
    let until = Instant::now() + Duration::from_secs(30);
    let mut failed = 0;
    while put_all(&client, 1).len() < 150 {
        failed += 1;
        assert!(Instant::now() < until, "its keys find no other drive");
    }
    assert!(
        failed > 0,
        "puts on the lost drive fail until it is taken out"
    );
    let why = why_down(&client, 1);
    let written = why.contains("os error 5") || why.contains("superblock");
    assert!(written, "{why}");
    assert!(!gauge.is_up());
    for key in 0..150u64 {
        let found = client.get(&key.to_le_bytes());
        assert!(found == Some(value_of(key + 1000, 100_000)), "key {key}");
    }
    client
        .engine
        .shutdown(Duration::from_secs(20))
        .expect("clean stop");
    drop(client);

    // What is on it may be stale: it is refused, and missed without harm.
    faults.io.store(false, Ordering::SeqCst);
    let error = Engine::open(config.clone(), metrics).expect_err("stale");
    let OpenError::Drive { media, source } = error else {
        panic!("{error:?}")
    };
    assert_eq!(media, lost_media);
    assert!(matches!(source, DriveOpenError::Stale { .. }), "{source:?}");
    std::fs::remove_file(&lost_media).expect("wipe");
    let client = Client::open(config);
    for key in 0..150u64 {
        let found = client.get(&key.to_le_bytes());
        assert!(found == Some(value_of(key + 1000, 100_000)), "key {key}");
    }
}

#[test]
fn values_of_a_lost_drive_miss_and_those_of_others_are_read() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        flap_threshold: 1,
        ..files(dir.path(), 3, 32 << 20)
    };
    let faults = Faults::plan(&config.drives[2].media);
    let metrics = EngineMetrics::detached();
    let client = Client::new(Engine::open(config, metrics.clone()).expect("open"));
    assert_eq!(put_all(&client, 0).len(), 150);
    // Longer than an extent, so that every drive has a part of it.
    let striped = value_of(7, 5 << 20);
    client.put(b"striped", &striped).expect("put");
    let on_it = |client: &Client| client.engine.shared.tables.index.len();
    let before = on_it(&client);
    faults.io.store(true, Ordering::SeqCst);
    let mut key = 0u64;
    while matches!(client.get_in(0, &key.to_le_bytes()), Ok(Some(_))) {
        key += 1;
    }
    why_down(&client, 2);
    assert!(!client.exists(b"striped"), "a part less is no value");
    assert_eq!(client.get(b"striped"), None);
    let (mut hits, mut misses) = (0, 0);
    for key in 0..150u64 {
        // What is still in RAM is served, so it exists; asked for first, because a read evicts.
        let exists = client.exists(&key.to_le_bytes());
        match client.get_in(0, &key.to_le_bytes()).expect("no error") {
            Some(value) => {
                assert!(value == value_of(key, 100_000), "key {key}");
                assert!(exists, "key {key}");
                hits += 1;
            }
            None => {
                assert!(!exists, "key {key}");
                misses += 1;
            }
        }
    }
    assert!(hits > 50 && misses > 5, "{hits} hits, {misses} misses");
    let lost = metrics.evictions(EvictionReason::DriveLost) as usize;
    assert!(lost > misses, "{lost} counted, {misses} miss");
    let left = (0..150u64).filter(|key| {
        let hash = client
            .engine
            .shared
            .tables
            .hasher
            .hash(0, &key.to_le_bytes());
        client.engine.shared.tables.locate(hash).is_some()
    });
    assert_eq!(left.count() + lost, before);
}

/// A value of a lost drive that RAM still has, and one of those that it hasn't.
fn in_ram_and_not(client: &Client) -> (u64, u64) {
    let exists = |key: &u64| client.exists(&key.to_le_bytes());
    let is_located = |key: &u64| {
        let hash = client
            .engine
            .shared
            .tables
            .hasher
            .hash(0, &key.to_le_bytes());
        client.engine.shared.tables.locate(hash).is_some()
    };
    let off_drive = || (0..150u64).filter(|key| !is_located(key));
    let kept = off_drive().find(exists).expect("RAM holds some");
    let gone = off_drive().find(|key| !exists(key)).expect("not all");
    (kept, gone)
}

#[test]
fn exists_get_delete_and_conditions_agree_on_what_only_ram_still_has_of_a_lost_drive() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        flap_threshold: 1,
        ..files(dir.path(), 2, 32 << 20)
    };
    let faults = Faults::plan(&config.drives[1].media);
    let client = Client::open(config);
    assert_eq!(put_all(&client, 0).len(), 150);
    faults.io.store(true, Ordering::SeqCst);
    // Its keys' puts fail until it is lost and the other has that on record.
    let until = Instant::now() + Duration::from_secs(30);
    let put = |key: u64| client.put(&key.to_le_bytes(), b"probe").is_ok();
    while !(1000..1020).all(put) {
        assert!(Instant::now() < until, "its keys find no other drive");
    }
    let (kept, gone) = in_ram_and_not(&client);
    let if_absent = |key: u64| {
        let attrs = crate::Attrs::default();
        let key = key.to_le_bytes();
        let put = client.put_with(0, &key, b"new", attrs, crate::Condition::IfAbsent);
        put.is_ok()
    };
    assert!(!if_absent(kept), "it is there");
    assert!(if_absent(gone), "it isn't");
    assert_eq!(
        client.get(&kept.to_le_bytes()),
        Some(value_of(kept, 100_000))
    );
    assert!(client.delete(&kept.to_le_bytes()).expect("delete"));
    assert!(!client.exists(&kept.to_le_bytes()));
    assert_eq!(client.get(&kept.to_le_bytes()), None);
    assert!(!client.delete(&kept.to_le_bytes()).expect("delete"));
}
