//! Bytes that changed on a drive while nobody looked: a typed error or a miss, counted, never a wrong byte.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use memkv_client::{CallOptions, ErrorCode, OpError, TraceContext};
use memkv_tests::poll::until;
use memkv_tests::program::{Program, Setup};
use memkv_tests::seed::{Random, seed};
use memkv_tests::wire::value;
use tempfile::TempDir;

const CAPACITY: u64 = 64 << 20;
/// Where the copies of a superblock are, as docs/disk-format.md says.
const COPIES: [u64; 4] = [0, 64 << 10, CAPACITY - (128 << 10), CAPACITY - (64 << 10)];
/// Bytes of a record's header, which stands before its key.
const RECORD_HEADER: u64 = 64;

fn flip(media: &Path, at: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(media)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// Where a value lies on the drive.
fn find(media: &Path, needle: &[u8]) -> u64 {
    let bytes = fs::read(media).unwrap();
    let head = &needle[..needle.len().min(64)];
    let at = bytes.windows(head.len()).position(|window| window == head);
    at.expect("the value is on the drive as it is") as u64
}

/// A small record, an extent, and a value that is striped.
const VALUES: [(&str, usize); 3] = [
    ("record", 5000),
    ("extent", 300_000),
    ("striped", 9_000_000),
];

fn filled(home: &TempDir) -> Setup {
    let setup = Setup::new(home.path(), "64 MiB").allow("corrupt");
    let server = setup.start();
    let client = server.client();
    for (number, (key, len)) in (0..).zip(VALUES) {
        client.put(key.as_bytes(), &value(number, len)).unwrap();
        client
            .put(format!("{key}-too").as_bytes(), &value(number + 100, len))
            .unwrap();
    }
    server.stop();
    setup
}

/// Reads all values; each is right, missing or an error, and those named are not right.
fn read_all(server: &Program, damaged: &[&str], context: &str) {
    let client = server.client();
    for (number, (key, len)) in (0..).zip(VALUES) {
        for (key, number) in [
            (key.to_owned(), number),
            (format!("{key}-too"), number + 100),
        ] {
            let found = client.get(key.as_bytes());
            if damaged.contains(&&*key) {
                match &found {
                    Ok(None) => {}
                    Err(OpError::Server {
                        code: ErrorCode::Corrupt | ErrorCode::CrcMismatch,
                        ..
                    }) => {
                        // It purged itself.
                        assert_eq!(
                            client.get(key.as_bytes()).unwrap(),
                            None,
                            "{context}: {key}"
                        );
                    }
                    other => panic!(
                        "{context}: {key}: {:?}",
                        other.as_ref().map(Option::is_some)
                    ),
                }
            } else {
                let found = found.unwrap_or_else(|error| panic!("{context}: {key}: {error:?}"));
                assert!(found == Some(value(number, len)), "{context}: {key}");
            }
        }
    }
}

fn damage_costs_one_value(key: &str, at: impl Fn(&Path, &[u8]) -> u64) {
    let home = TempDir::new().unwrap();
    let setup = filled(&home);
    let number = VALUES.iter().position(|(name, _)| *name == key).unwrap();
    let media = setup.media(0);
    flip(&media, at(&media, &value(number as u64, VALUES[number].1)));
    let server = setup.start();
    read_all(&server, &[key], key);
    let counted = server
        .metric("memkv_crc_mismatches_total", &[])
        .unwrap_or(0.0);
    let status = server.status();
    let seen = status["storage"]["devices"][0]["corruptions"]
        .as_u64()
        .unwrap();
    assert!(
        counted >= 1.0 && seen >= 1,
        "{counted} in metrics, {seen} in the status"
    );
    // The key can be written again.
    let client = server.client();
    client.put(key.as_bytes(), b"new").unwrap();
    assert_eq!(client.get(key.as_bytes()).unwrap(), Some(b"new".to_vec()));
    server.stop();
    let server = setup.start();
    assert_eq!(
        server.client().get(key.as_bytes()).unwrap(),
        Some(b"new".to_vec())
    );
    server.stop();
}

#[test]
fn a_damaged_record_is_never_served() {
    damage_costs_one_value("record", |media, value| find(media, value) + 4000);
}

#[test]
fn a_damaged_record_header_costs_its_value_alone() {
    damage_costs_one_value("record", |media, value| {
        find(media, value) - "record".len() as u64 - RECORD_HEADER + 20
    });
}

#[test]
fn a_damaged_extent_is_never_served() {
    damage_costs_one_value("extent", |media, value| find(media, value) + 299_999);
}

#[test]
fn the_log_line_of_a_failed_op_leads_to_its_trace() {
    let trace_id = "0123456789abcdeffedcba9876543210";
    let options = CallOptions {
        trace: Some(TraceContext {
            version: 0,
            trace_id: 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes(),
            span_id: [7; 8],
            flags: 0,
        }),
        ..CallOptions::default()
    };
    let home = TempDir::new().unwrap();
    let setup = filled(&home);
    let (key, len) = VALUES[1];
    let media = setup.media(0);
    flip(&media, find(&media, &value(1, len)) + 299_999);
    let server = setup.start();
    let client = server.client();
    let failed = client.with(&options).get(key.as_bytes());
    failed.expect_err("the value is damaged");
    let line = until("the log tells of it", Duration::from_secs(10), || {
        server.line("an operation failed")
    });
    assert_eq!(line["trace_id"], trace_id, "{line}");
    assert_eq!(line["code"], "corrupt", "{line}");
    let span_id = line["span_id"].as_str().unwrap_or_default();
    assert!(
        span_id.len() == 16 && span_id != "0707070707070707",
        "{line}"
    );
    server.stop();
}

#[test]
fn a_damaged_stripe_is_never_served() {
    // Its second part: parts are cut at storage.block_size, 4 MiB.
    damage_costs_one_value("striped", |media, value| {
        find(media, &value[4 << 20..]) + 77
    });
}

#[test]
fn one_good_copy_of_the_superblock_is_enough() {
    for good in 0..COPIES.len() {
        let home = TempDir::new().unwrap();
        let setup = filled(&home).allow("superblock");
        for (idx, at) in COPIES.into_iter().enumerate() {
            if idx != good {
                flip(&setup.media(0), at + 40);
            }
        }
        let server = setup.start();
        read_all(&server, &[], &format!("copy {good} is good"));
        let log = server.stop().stderr;
        assert!(
            log.contains("superblock"),
            "it warns of the damaged copies:\n{log}"
        );
        // The damage was repaired.
        let log = setup.start().stop().stderr;
        assert!(!log.contains("superblock"), "{log}");
    }
}

#[test]
fn a_drive_without_a_good_superblock_is_refused_by_name_and_left_alone() {
    let home = TempDir::new().unwrap();
    let setup = filled(&home);
    for at in COPIES {
        flip(&setup.media(0), at + 40);
    }
    let before = fs::read(setup.media(0)).unwrap();
    let refused = setup.refused();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    for words in [
        "drive-0",
        "every copy of the superblock is corrupt",
        "memkv setup --force",
    ] {
        assert!(
            refused.error().contains(words),
            "{words:?} isn't in:\n{}",
            refused.error()
        );
    }
    assert!(
        before == fs::read(setup.media(0)).unwrap(),
        "nothing was written"
    );
}

#[test]
fn a_file_that_is_no_drive_of_ours_is_refused_and_left_alone() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "64 MiB");
    let foreign = value(9, 32 << 20);
    fs::write(setup.media(0), &foreign).unwrap();
    let refused = setup.refused();
    assert_eq!(refused.code, Some(7), "{}", refused.stderr);
    assert!(refused.error().contains("drive-0"), "{}", refused.error());
    assert!(refused.error().contains("holds"), "{}", refused.error());
    assert!(
        foreign == fs::read(setup.media(0)).unwrap(),
        "nothing was written"
    );
}

#[test]
fn random_damage_anywhere_never_yields_a_wrong_byte() {
    let seed = seed(0xc0de);
    eprintln!("MEMKV_SEED={seed}");
    let mut random = Random::new(seed);
    let home = TempDir::new().unwrap();
    let setup = filled(&home);
    let pristine = fs::read(setup.media(0)).unwrap();
    // Where anything was written: elsewhere a flipped bit meets nobody.
    let used: Vec<u64> = (0..)
        .zip(pristine.chunks(4096))
        .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
        .map(|(page, _)| page * 4096)
        .collect();
    for round in 0..6 {
        fs::write(setup.media(0), &pristine).unwrap();
        for _ in 0..40 {
            let page = used[random.below(used.len() as u64) as usize];
            flip(&setup.media(0), page + random.below(4096));
        }
        let context = format!("MEMKV_SEED={seed}, round {round}");
        let server = match setup.try_start() {
            Ok(server) => server,
            Err(refused) => {
                assert_eq!(refused.code, Some(1), "{context}: {}", refused.stderr);
                assert!(
                    !refused.stderr.contains("panicked"),
                    "{context}: {}",
                    refused.stderr
                );
                continue;
            }
        };
        let client = server.client();
        for (number, (key, len)) in (0..).zip(VALUES) {
            for (key, number) in [
                (key.to_owned(), number),
                (format!("{key}-too"), number + 100),
            ] {
                match client.get(key.as_bytes()) {
                    Ok(Some(found)) => assert!(found == value(number, len), "{context}: {key}"),
                    Ok(None) | Err(OpError::Server { .. }) => {}
                    Err(error) => panic!("{context}: {key}: {error:?}"),
                }
            }
        }
        client.put(b"after", b"it all").unwrap();
        assert_eq!(
            client.get(b"after").unwrap(),
            Some(b"it all".to_vec()),
            "{context}"
        );
        server.kill();
    }
}
