//! A file system that fills up under a drive, and I/O errors below `flap_threshold`.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memkv_telemetry::DriveOp;

use super::fake::World;
use super::harness::{Client, crc_of, value_of};
use super::tests::files;
use crate::drive::faulty::Faults;
use crate::{
    Attrs, CompletionResult, Condition, DeleteError, DriveOpenError, DriveState, Engine,
    EngineConfig, EngineMetrics, GetError, OpenError, Put, PutError, Step, Sync, Token,
};

const MIB: u64 = 1 << 20;
/// A record, an extent and a striped value.
const LENGTHS: [usize; 3] = [3000, 100_000, 5 << 18];

fn value(key: u64) -> Vec<u8> {
    value_of(key, LENGTHS[key as usize % 3])
}

fn faulty(config: EngineConfig) -> (Client, Arc<Faults>) {
    let faults = Faults::plan(&config.drives[0].media);
    (Client::open(config), faults)
}

fn stop(client: Client) {
    let stopped = client.engine.shutdown(Duration::from_secs(20));
    stopped.expect("clean stop");
}

fn is_up(client: &Client) -> bool {
    client.engine.status().drives[0].state == DriveState::Up
}

/// Puts until one is taken.
fn put_again(client: &Client, key: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = client.put(&key.to_le_bytes(), &value(key)) {
        assert!(matches!(error, PutError::DriveFull { .. }), "{error:?}");
        assert!(Instant::now() < until, "there is room again");
    }
}

fn full_and_roomy_again(sync: Sync) {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        sync,
        ..files(dir.path(), 1, 128 * MIB)
    };
    let (client, faults) = faulty(config.clone());
    let fill = |keys: std::ops::Range<u64>| keys.for_each(|key| put_again(&client, key));
    fill(0..30);
    for round in 1..4u64 {
        faults.no_room.store(true, Ordering::SeqCst);
        // Many more than errors that take a drive out.
        for key in 0..40u64 {
            let error = client.put(&(1000 + key).to_le_bytes(), &value(key));
            let error = error.expect_err("there is no room");
            assert!(matches!(error, PutError::DriveFull { .. }), "{error:?}");
        }
        let error = client.delete(&0u64.to_le_bytes()).expect_err("no room");
        assert!(matches!(error, DeleteError::DriveFull { .. }), "{error:?}");
        assert!(is_up(&client));
        let status = client.engine.status();
        assert_eq!(status.drives[0].errors, 0, "that isn't the drive's fault");
        assert_eq!(status.evictions, 0, "nothing had to go for what wasn't put");
        // More than RAM holds.
        for key in 0..30 * round {
            let found = client.get(&key.to_le_bytes());
            assert!(found == Some(value(key)), "{sync:?}: key {key}");
        }
        faults.no_room.store(false, Ordering::SeqCst);
        fill(30 * round..30 * (round + 1));
    }
    assert!(client.delete(&0u64.to_le_bytes()).expect("delete"));
    // As a kill leaves it: a copy of the drive while it is in use.
    let copy = tempfile::tempdir().expect("dir");
    fs::copy(dir.path().join("drive0"), copy.path().join("drive0")).expect("copy");
    let killed = EngineConfig {
        drives: files(copy.path(), 1, 128 * MIB).drives,
        ..config.clone()
    };
    stop(client);
    for config in [killed, config] {
        let client = Client::open(config);
        assert_eq!(client.get(&0u64.to_le_bytes()), None);
        for key in 1..120u64 {
            let found = client.get(&key.to_le_bytes());
            assert!(found == Some(value(key)), "{sync:?}: key {key}");
        }
        stop(client);
    }
}

#[test]
fn full_file_system_refuses_puts_and_serves_what_is_stored_with_sync_always() {
    full_and_roomy_again(Sync::Always);
}

#[test]
fn full_file_system_refuses_puts_and_serves_what_is_stored_with_sync_everysec() {
    full_and_roomy_again(Sync::Everysec);
}

#[test]
fn store_whose_file_system_is_full_stops_and_starts_again() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 64 * MIB);
    let (client, faults) = faulty(config.clone());
    (0..10).for_each(|key| put_again(&client, key));
    faults.no_room.store(true, Ordering::SeqCst);
    stop(client);
    faults.no_room.store(false, Ordering::SeqCst);
    let client = Client::open(config);
    for key in 0..10u64 {
        assert!(client.get(&key.to_le_bytes()) == Some(value(key)), "{key}");
    }
}

/// Puts a value and ends all I/O, then lets a second pass.
fn put_in(world: &mut World, key: u64, len: usize) -> Result<(), PutError> {
    let (bytes, value) = (key.to_le_bytes(), vec![key as u8; len]);
    let put = Put {
        namespace: 0,
        key: &bytes,
        len: len as u64,
        attrs: Attrs::default(),
        condition: Condition::None,
    };
    let step = world.shared.reserve(world.sender(), Token(1), &put)?;
    let Step::Ready(mut lease) = step else {
        panic!("{step:?}")
    };
    lease.copy_from(0, &value);
    let (crc, sender) = (crc_of(&value), world.sender());
    let _pending = world.shared.commit(lease, crc, sender, Token(2))?;
    world.settle();
    while world.ios_pending() > 0 {
        world.end_an_io();
    }
    world.pass(1_000_000_000);
    world.settle();
    let done = world.queue.0.lock().pop().expect("an answer");
    match done.result {
        CompletionResult::Committed(result) => result.map(drop),
        other => panic!("{other:?}"),
    }
}

#[test]
fn puts_that_find_no_room_use_none_up() {
    let config = EngineConfig {
        slab_bytes: 64 << 10,
        pool_bytes: 8 << 20,
        ..EngineConfig::default()
    };
    let mut world = World::new(config, 32 * MIB, 1);
    let lengths = [3000, 100_000];
    for (key, len) in (0..).zip(lengths) {
        put_in(&mut world, key, len).expect("put");
    }
    let free = world.free_segments();
    world.full = true;
    // Most of what both drives hold.
    for key in 0..1000u64 {
        let error = put_in(&mut world, key, lengths[key as usize % 2]);
        let error = error.expect_err("no room");
        assert!(matches!(error, PutError::DriveFull { .. }), "{error:?}");
    }
    assert_eq!(world.shared.tables.evictions(), 0);
    // At most those that hadn't been begun are now.
    assert!(world.free_segments() + 4 >= free, "{free} were free");
    world.full = false;
    for key in 10..30u64 {
        put_in(&mut world, key, lengths[key as usize % 2]).expect("put");
    }
    assert!(world.shut_down(), "the logs end");
}

#[test]
fn journal_frame_that_finds_no_room_leaves_its_place_to_the_next() {
    let mut world = World::new(EngineConfig::default(), 32 * MIB, 1);
    // Where frames of one row were written, in order.
    let frames = |world: &World| -> Vec<String> {
        let writes = world.trace.iter().filter_map(|effect| {
            let (drive, write) = effect.split_once(": write IoId(")?;
            let mut words = write.split(' ').skip(1);
            let (offset, len) = (words.next()?, words.next()?);
            (len == "4096").then(|| format!("{drive}: {offset}"))
        });
        writes.collect()
    };
    // Its segment's header and its data are written; what is left is the frame.
    let put = |world: &mut World, full| {
        let lease = match world.shared.reserve(world.sender(), Token(1), &extent()) {
            Ok(Step::Ready(lease)) => lease,
            other => panic!("{other:?}"),
        };
        let crc = crc_of(&vec![0; extent().len as usize]);
        let _pending = world.shared.commit(lease, crc, world.sender(), Token(2));
        world.settle();
        let before = world.trace.len();
        while world.trace[before..].is_empty() {
            world.end_an_io();
        }
        world.full = full;
        while world.ios_pending() > 0 {
            world.end_an_io();
        }
        world.full = false;
        world.pass(1_000_000_000);
        world.settle();
        world.queue.0.lock().pop().expect("an answer").result
    };
    let first = put(&mut world, true);
    let CompletionResult::Committed(Err(PutError::DriveFull { .. })) = first else {
        panic!("{first:?}")
    };
    let failed = frames(&world).pop().expect("a frame");
    let second = put(&mut world, false);
    assert!(
        matches!(second, CompletionResult::Committed(Ok(_))),
        "{second:?}"
    );
    let again = frames(&world).iter().filter(|at| **at == failed).count();
    assert_eq!(again, 2, "{failed} in {:?}", frames(&world));
}

fn extent() -> Put<'static> {
    Put {
        namespace: 0,
        key: b"extent",
        len: 100_000,
        attrs: Attrs::default(),
        condition: Condition::None,
    }
}

#[test]
fn drive_is_taken_out_by_as_many_errors_as_flap_threshold_says_and_no_fewer() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        flap_threshold: 5,
        ..files(dir.path(), 1, 128 * MIB)
    };
    let (client, faults) = faulty(config);
    (0..120).for_each(|key| put_again(&client, key));
    let cold = (1..120u64).step_by(3).filter(|key| {
        let tables = &client.engine.shared.tables;
        let hash = tables.hasher.hash(0, &key.to_le_bytes());
        let bytes = key.to_le_bytes();
        let key = crate::cache::CacheKey {
            hash,
            namespace: 0,
            key: &bytes,
        };
        tables.locate(hash).is_some() && tables.cache.peek(&key).is_none()
    });
    let cold: Vec<u64> = cold.collect();
    faults.io.store(true, Ordering::SeqCst);
    for (count, key) in (1..5).zip(&cold) {
        let error = client.get_in(0, &key.to_le_bytes()).expect_err("EIO");
        assert!(matches!(error, GetError::Io { .. }), "{error:?}");
        let until = Instant::now() + Duration::from_secs(20);
        while client.engine.status().drives[0].errors < count {
            assert!(Instant::now() < until, "{count} errors are counted");
        }
        assert!(is_up(&client), "after {count} errors");
    }
    client
        .get_in(0, &cold[4].to_le_bytes())
        .expect_err("the fifth");
    let until = Instant::now() + Duration::from_secs(20);
    while is_up(&client) {
        assert!(Instant::now() < until, "it stays up");
    }
}

#[test]
fn first_writes_of_a_segment_that_fail_cost_those_puts_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        flap_threshold: 1000,
        ..files(dir.path(), 1, 64 * MIB)
    };
    let (client, faults) = faulty(config.clone());
    // Nothing was written yet, so that headers of segments and the journal's first frame fail.
    faults.io.store(true, Ordering::SeqCst);
    for key in 0..6u64 {
        let error = client.put(&key.to_le_bytes(), &value(key));
        let error = error.expect_err("EIO");
        assert!(matches!(error, PutError::Io { .. }), "{error:?}");
    }
    assert!(is_up(&client));
    faults.io.store(false, Ordering::SeqCst);
    (0..30).for_each(|key| put_again(&client, key));
    let copy = tempfile::tempdir().expect("dir");
    fs::copy(dir.path().join("drive0"), copy.path().join("drive0")).expect("copy");
    let client = Client::open(files(copy.path(), 1, 64 * MIB));
    for key in 0..30u64 {
        assert!(client.get(&key.to_le_bytes()) == Some(value(key)), "{key}");
    }
}

/// What a put meets whose flush fails, and that the drive goes with the first one.
fn flush_that_fails(fault: fn(&Faults) -> &AtomicBool) -> PutError {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        sync: Sync::Always,
        flap_threshold: 1000,
        ..files(dir.path(), 1, 64 * MIB)
    };
    let media = config.drives[0].media.clone();
    let faults = Faults::plan(&media);
    let metrics = EngineMetrics::detached();
    let client = Client::new(Engine::open(config, metrics.clone()).expect("opens"));
    put_again(&client, 0);
    fault(&faults).store(true, Ordering::SeqCst);
    // What it was about is unknown for ever: the kernel forgets.
    let error = client.put(b"key", b"value").expect_err("not on the drive");
    let until = Instant::now() + Duration::from_secs(20);
    while is_up(&client) {
        assert!(Instant::now() < until, "it stays up");
    }
    let drive = metrics.drive(&media.display().to_string());
    assert!(drive.errors(DriveOp::Flush) > 0);
    assert!(!client.exists(b"key"));
    error
}

#[test]
fn flush_that_fails_takes_the_drive_out_and_acknowledges_nothing() {
    let error = flush_that_fails(|faults| &faults.flush);
    assert!(matches!(error, PutError::Io { .. }), "{error:?}");
}

#[test]
fn flush_that_finds_no_room_takes_the_drive_out_too() {
    let error = flush_that_fails(|faults| &faults.flush_no_room);
    assert!(matches!(error, PutError::DriveFull { .. }), "{error:?}");
}

/// Copies a drive as tools do that skip zeroes.
fn copy_with_holes(from: &Path, to: &Path) {
    let bytes = fs::read(from).expect("read");
    let file = fs::File::create(to).expect("create");
    file.set_len(bytes.len() as u64).expect("length");
    for (at, page) in (0..).zip(bytes.chunks(4096)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at * 4096).expect("write");
        }
    }
}

fn room_of(path: &Path) -> u64 {
    path.metadata().expect("its metadata").blocks() * 512
}

#[test]
fn drive_with_holes_is_given_all_of_its_room_at_the_start_and_keeps_its_values() {
    let (dir, other) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let config = files(dir.path(), 1, 64 * MIB);
    let client = Client::open(config.clone());
    (0..9).for_each(|key| put_again(&client, key));
    stop(client);
    let copied = files(other.path(), 1, 64 * MIB);
    let path = &copied.drives[0].media;
    copy_with_holes(&config.drives[0].media, path);
    assert!(room_of(path) < 32 * MIB, "{} bytes", room_of(path));
    let client = Client::open(copied.clone());
    assert!(room_of(path) >= 64 * MIB, "{} bytes", room_of(path));
    for key in 0..9u64 {
        assert!(client.get(&key.to_le_bytes()) == Some(value(key)), "{key}");
    }
    // So is one that another tool made.
    let blank = files(&other.path().join("blank"), 1, 64 * MIB);
    fs::create_dir(other.path().join("blank")).expect("folder");
    let path = &blank.drives[0].media;
    let file = fs::File::create(path).expect("file");
    file.set_len(64 * MIB).expect("length");
    let _client = Client::open(blank.clone());
    assert!(room_of(path) >= 64 * MIB, "{} bytes", room_of(path));
}

#[test]
fn drive_whose_holes_exceed_the_file_system_is_refused_by_numbers_and_takes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = files(dir.path(), 1, 64 * MIB);
    // A file system has no more than this free, but files of this length.
    let bytes = 15 << 40;
    config.drives[0].max_size = Some(bytes);
    let path = &config.drives[0].media;
    let file = fs::File::create(path).expect("file");
    file.set_len(bytes).expect("length");
    let error = Engine::open(config.clone(), EngineMetrics::detached()).expect_err("refused");
    let OpenError::Drive { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(
        matches!(source, DriveOpenError::Sparse { .. }),
        "{source:?}"
    );
    let text = source.to_string();
    let words = [
        "drive0",
        "16492674416640 bytes",
        "bytes free",
        "free some space",
    ];
    for words in words {
        assert!(text.contains(words), "{words:?} isn't in: {text}");
    }
    assert!(room_of(path) < MIB, "it took {} bytes", room_of(path));
}
