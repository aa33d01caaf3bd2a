//! Drives that are missing, stale, damaged, foreign or full.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use memkv_telemetry::{CrcSource, EvictionReason};

use super::harness::{Client, value_of};
use super::tests::files;
use crate::segment_log::bytes::PAGE;
use crate::segment_log::checkpoint::{decode_chunk, encode_chunk};
use crate::segment_log::superblock::{Decoded, FORMAT_VERSION, Superblock};
use crate::{DriveOpenError, DriveState, Engine, EngineConfig, EngineMetrics, GetError, OpenError};
use crate::{MediaContent, format_drive, inspect_media};

const MIB: u64 = 1 << 20;

fn stop(client: Client) {
    client
        .engine
        .shutdown(Duration::from_secs(20))
        .expect("clean stop");
}

fn refusal(config: &EngineConfig) -> DriveOpenError {
    match Engine::open(config.clone(), EngineMetrics::detached()) {
        Err(OpenError::Drive { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn superblock(path: &Path) -> Superblock {
    let file = fs::File::open(path).expect("open");
    let mut page = [0; PAGE];
    file.read_exact_at(&mut page, 0).expect("read");
    match Superblock::decode(&page) {
        Decoded::Valid(superblock) => *superblock,
        other => panic!("{other:?}"),
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("open");
    file.write_all_at(bytes, at).expect("write");
}

/// Where on a drive some bytes are.
fn find(path: &Path, needle: &[u8]) -> u64 {
    let bytes = fs::read(path).expect("read");
    let found = bytes.windows(needle.len()).rposition(|part| part == needle);
    found.expect("the bytes are on the drive") as u64
}

fn fill(client: &Client, keys: std::ops::Range<u64>) {
    for key in keys {
        client
            .put(
                &key.to_le_bytes(),
                &value_of(key, 1000 + 4000 * key as usize),
            )
            .expect("put");
    }
}

fn hits(client: &Client, keys: std::ops::Range<u64>) -> u64 {
    keys.filter(|key| match client.get(&key.to_le_bytes()) {
        Some(value) => {
            assert_eq!(
                value,
                value_of(*key, 1000 + 4000 * *key as usize),
                "key {key}"
            );
            true
        }
        None => false,
    })
    .count() as u64
}

#[test]
fn missing_drive_degrades_and_is_refused_when_it_returns_with_stale_values() {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = files(dir.path(), 2, 32 * MIB);
    let client = Client::open(config.clone());
    fill(&client, 0..40);
    stop(client);
    let (here, away) = (config.drives[1].media.clone(), dir.path().join("away"));
    fs::rename(&here, &away).expect("rename");
    // In file mode a missing file is made anew; one in a directory that isn't there is missing.
    config.drives[1].media = dir.path().join("unplugged/drive1");
    let client = Client::open(config.clone());
    let status = client.engine.status();
    assert_eq!(status.drives[0].state, DriveState::Up);
    let DriveState::Down(why) = &status.drives[1].state else {
        panic!("{status:?}")
    };
    assert!(why.contains("unplugged"), "{why}");
    assert!(
        status
            .findings
            .iter()
            .any(|finding| finding.contains("drive 1")),
        "{status:?}"
    );
    let left = hits(&client, 0..40);
    assert!(
        left > 5 && left < 35,
        "{left} of 40 values are on the other drive"
    );
    fill(&client, 0..40);
    assert_eq!(
        hits(&client, 0..40),
        40,
        "new values go to the drive that is there"
    );
    stop(client);
    fs::rename(&away, &here).expect("rename");
    config.drives[1].media = here.clone();
    let error = refusal(&config);
    assert!(
        matches!(error, DriveOpenError::Stale { behind: 1, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("setup --force"), "{error}");
    // Wiped, it joins again.
    fs::remove_file(&here).expect("remove");
    let client = Client::open(config);
    assert_eq!(hits(&client, 0..40), 40);
    stop(client);
}

#[test]
fn drive_of_another_store_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 2, 16 * MIB);
    let one = EngineConfig {
        drives: config.drives[..1].to_vec(),
        ..config.clone()
    };
    let two = EngineConfig {
        drives: config.drives[1..].to_vec(),
        ..config.clone()
    };
    stop(Client::open(one));
    stop(Client::open(two));
    let error = refusal(&config);
    assert!(
        matches!(error, DriveOpenError::OtherStore { .. }),
        "{error:?}"
    );
}

#[test]
fn foreign_data_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 16 * MIB);
    let path = &config.drives[0].media;
    let cases: [(u64, &[u8], &str); 5] = [
        (510, &[0x55, 0xaa], "partition table"),
        (1080, &[0x53, 0xef], "ext2/3/4"),
        (0, b"XFSB", "XFS"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (7777, b"letters to a friend", "unknown origin"),
    ];
    for (at, bytes, name) in cases {
        let file = fs::File::create(path).expect("create");
        file.set_len(16 * MIB).expect("length");
        overwrite(path, at, bytes);
        let error = refusal(&config).to_string();
        assert!(error.contains(name), "{error} names {name}");
        let mut found = vec![0; bytes.len()];
        fs::File::open(path)
            .expect("open")
            .read_exact_at(&mut found, at)
            .expect("read");
        assert_eq!(found, bytes, "nothing was overwritten");
    }
}

#[test]
fn one_damaged_superblock_copy_is_survived_and_four_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 16 * MIB);
    let path = &config.drives[0].media;
    for damaged in 1..=4 {
        let _ = fs::remove_file(path);
        let client = Client::open(config.clone());
        client.put(b"key", b"value").expect("put");
        stop(client);
        for at in &superblock(path).geometry.copies()[..damaged] {
            overwrite(path, at + 100, &[0xff; 64]);
        }
        if damaged < 4 {
            let client = Client::open(config.clone());
            assert_eq!(
                client.get(b"key").as_deref(),
                Some(&b"value"[..]),
                "{damaged} damaged"
            );
            stop(client);
        } else {
            let error = refusal(&config);
            assert!(matches!(error, DriveOpenError::Corrupt { .. }), "{error:?}");
        }
    }
}

#[test]
fn changed_size_of_a_formatted_drive_is_refused_or_a_finding_never_silent() {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = files(dir.path(), 1, 32 * MIB);
    stop(Client::open(config.clone()));
    config.drives[0].max_size = Some(16 * MIB);
    let error = refusal(&config);
    assert!(matches!(error, DriveOpenError::Capped { .. }), "{error:?}");
    let text = error.to_string();
    for part in ["max_size is 16777216", "33554432 B", "memkv setup --force"] {
        assert!(text.contains(part), "{text}");
    }
    let findings = |max_size| {
        let mut config = config.clone();
        config.drives[0].max_size = max_size;
        let client = Client::open(config);
        let findings = client.engine.status().findings;
        stop(client);
        let sized = |text: &String| text.contains("max_size is 67108864");
        findings.iter().any(sized)
    };
    assert!(findings(Some(64 * MIB)), "it could use more");
    assert!(!findings(Some(32 * MIB)) && !findings(None));
}

#[test]
fn newer_format_is_refused_by_its_version() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 16 * MIB);
    stop(Client::open(config.clone()));
    let path = &config.drives[0].media;
    let block = superblock(path);
    let mut page = block.encode();
    let newer = FORMAT_VERSION + 1;
    page[8..10].copy_from_slice(&newer.to_le_bytes());
    page[12..16].fill(0);
    let crc = super::harness::crc_of(&page);
    page[12..16].copy_from_slice(&crc.to_le_bytes());
    for at in block.geometry.copies() {
        overwrite(path, at, &page);
    }
    let error = refusal(&config);
    assert!(
        matches!(
            error,
            DriveOpenError::NewerVersion {
                found,
                supported: FORMAT_VERSION,
                ..
            } if found == newer
        ),
        "{error:?}"
    );
}

#[test]
fn corrupt_record_and_extent_are_typed_errors_then_misses() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 32 * MIB);
    let path = config.drives[0].media.clone();
    let values = [
        (b"header", value_of(1, 9000)),
        (b"record", value_of(2, 9000)),
        (b"extent", value_of(3, 100_000)),
    ];
    let client = Client::open(config.clone());
    for (key, value) in &values {
        client.put(&key[..], value).expect("put");
    }
    client.put(b"sound", b"x").expect("put");
    stop(client);
    // The key lies in the record's header, and is covered by its checksum.
    overwrite(&path, find(&path, &values[0].1[..64]) - 3, b"!");
    overwrite(&path, find(&path, &values[1].1[4000..4064]), b"!!!!");
    overwrite(&path, find(&path, &values[2].1[70_000..70_064]), b"!!!!");
    let metrics = EngineMetrics::detached();
    let client = Client::new(Engine::open(config, metrics.clone()).expect("opens"));
    for (key, _) in &values {
        let error = client.get_in(0, &key[..]).expect_err("it is corrupt");
        assert!(matches!(error, GetError::Corrupt { .. }), "{error:?}");
        assert_eq!(client.get(&key[..]), None, "it was purged");
        assert!(!client.exists(&key[..]));
    }
    assert_eq!(client.get(b"sound").as_deref(), Some(&b"x"[..]));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(client.engine.status().drives[0].corruptions, 3);
    assert_eq!(metrics.evictions(EvictionReason::Corrupt), 3);
    stop(client);
}

/// Opens a store whose damage recovery must meet: one value is gone, and counted.
fn one_is_lost_at_the_start(config: EngineConfig, key: &[u8]) {
    let metrics = EngineMetrics::detached();
    let client = Client::new(Engine::open(config, metrics.clone()).expect("opens"));
    assert!(!client.exists(key));
    assert_eq!(client.get(key), None);
    assert_eq!(client.get(b"sound").as_deref(), Some(&b"x"[..]));
    assert_eq!(metrics.crc_mismatches(CrcSource::Recovery), 1);
    assert_eq!(metrics.crc_mismatches(CrcSource::Read), 0);
    assert_eq!(client.engine.status().drives[0].corruptions, 1);
    stop(client);
}

#[test]
fn record_that_recovery_finds_corrupt_is_counted_as_found_there() {
    let dir = tempfile::tempdir().expect("dir");
    let client = Client::open(files(dir.path(), 1, 32 * MIB));
    let value = value_of(1, 9000);
    client.put(b"damaged", &value).expect("put");
    client.put(b"sound", b"x").expect("put");
    // As a kill leaves it: a copy of the drive while it is in use.
    let copy = tempfile::tempdir().expect("dir");
    let path = copy.path().join("drive0");
    fs::copy(dir.path().join("drive0"), &path).expect("copy");
    overwrite(&path, find(&path, &value[4000..4064]), b"!!!!");
    one_is_lost_at_the_start(files(copy.path(), 1, 32 * MIB), b"damaged");
}

#[test]
fn corrupt_part_list_costs_its_value_and_is_counted() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 32 * MIB);
    let client = Client::open(config.clone());
    client.put(b"striped", &value_of(1, 3 << 20)).expect("put");
    client.put(b"sound", b"x").expect("put");
    let part_bytes = client.engine.shared.tables.part_bytes;
    stop(client);
    let path = &config.drives[0].media;
    let head = [part_bytes, (3u64 << 20).div_ceil(part_bytes)];
    let head: Vec<u8> = head.iter().flat_map(|n| n.to_le_bytes()).collect();
    overwrite(path, find(path, &head) + 17, b"!");
    one_is_lost_at_the_start(config, b"striped");
}

#[test]
fn damaged_checkpoint_is_a_typed_error() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 16 * MIB);
    let client = Client::open(config.clone());
    client.put(b"key", b"value").expect("put");
    stop(client);
    let path = &config.drives[0].media;
    let block = superblock(path);
    overwrite(
        path,
        block.geometry.checkpoint_at(block.checkpoint.area) + 40,
        &[0xff; 8],
    );
    let error = refusal(&config);
    assert!(matches!(error, DriveOpenError::Corrupt { .. }), "{error:?}");
}

#[test]
fn missing_or_read_only_parent_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = files(dir.path(), 1, 16 * MIB);
    config.drives[0].media = dir.path().join("no/such/drive");
    let error = refusal(&config).to_string();
    assert!(
        error.contains("no/such") && error.contains("create that directory"),
        "{error}"
    );
    config.drives[0].media = dir.path().into();
    let error = refusal(&config).to_string();
    assert!(error.contains("not a directory"), "{error}");
}

#[test]
fn file_larger_than_the_disk_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let mut config = files(dir.path(), 1, 16 * MIB);
    config.drives[0].max_size = Some(1 << 45);
    let error = refusal(&config);
    assert!(
        matches!(
            error,
            DriveOpenError::Access {
                what: "preallocate",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!config.drives[0].media.exists());
}

#[test]
fn formatting_refuses_what_is_not_blank_and_blanks_it_when_forced() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 16 * MIB);
    let path = &config.drives[0].media;
    let client = Client::open(config.clone());
    client.put(b"key", b"value").expect("put");
    assert!(matches!(
        inspect_media(path),
        Err(DriveOpenError::InUse { .. })
    ));
    stop(client);
    let content = inspect_media(path).expect("inspect");
    assert!(
        matches!(content, MediaContent::Store { clean: true, .. }),
        "{content:?}"
    );
    assert!(matches!(
        format_drive(path, false),
        Err(DriveOpenError::Foreign { .. })
    ));
    format_drive(path, true).expect("format");
    assert_eq!(inspect_media(path).expect("inspect"), MediaContent::Blank);
    format_drive(path, false).expect("it is blank");
    let client = Client::open(config);
    assert_eq!(client.get(b"key"), None);
    stop(client);
}

/// Rewrites a drive's checkpoint as one that was made while the headers of its open segments
/// were on their way.
fn forget_headers(path: &Path) {
    let superblock = superblock(path);
    let (pointer, seed) = (superblock.checkpoint, superblock.seed());
    let at = superblock.geometry.checkpoint_at(pointer.area);
    let mut bytes = vec![0; pointer.bytes as usize];
    let file = fs::File::open(path).expect("open");
    file.read_exact_at(&mut bytes, at).expect("read");
    let (payload, last) =
        decode_chunk(&seed, pointer.generation, 0, &bytes).expect("a whole chunk");
    assert!(last, "it is one chunk");
    let mut payload = payload.to_vec();
    let segments = payload[24..].chunks_exact_mut(32);
    let open = segments
        .take(superblock.geometry.segment_count as usize)
        .filter(|segment| segment[4] == 1);
    assert_eq!(open.map(|segment| segment[7] = 0).count(), 2);
    let chunk = encode_chunk(&seed, pointer.generation, 0, true, &payload);
    overwrite(path, at, &chunk);
}

#[test]
fn changes_go_on_after_a_checkpoint_that_was_ahead_of_its_segments_headers() {
    let dir = tempfile::tempdir().expect("dir");
    let config = files(dir.path(), 1, 32 << 20);
    let client = Client::open(config.clone());
    for (key, len) in [(1u64, 1000), (2, 100_000)] {
        client
            .put(&key.to_le_bytes(), &value_of(key, len))
            .expect("put");
    }
    stop(client);
    forget_headers(&dir.path().join("drive0"));
    let client = Client::open(config);
    // Each waits for an acknowledgement: records, an extent and a delete.
    for (key, len) in [(3u64, 1000), (4, 100_000), (1, 10)] {
        let value = value_of(key, len);
        client.put(&key.to_le_bytes(), &value).expect("put");
        assert!(client.get(&key.to_le_bytes()) == Some(value), "key {key}");
    }
    assert!(client.delete(&2u64.to_le_bytes()).expect("delete"));
    stop(client);
}
