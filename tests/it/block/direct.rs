//! A server on block devices: from a blank drive to a clean stop, past the page cache.

use std::fs;
use std::time::Duration;

use memkv_tests::block::{BlockDevice, Kind};
use memkv_tests::program::{self, Program, Setup};
use memkv_tests::server::{KEY, key_hex};
use memkv_tests::wire::value;
use tempfile::TempDir;

const BYTES: u64 = 256 << 20;
/// Packed records, extents, and values striped over drives.
const LENGTHS: [usize; 7] = [0, 1, 1000, 64 << 10, 1_000_001, 4 << 20, 9_000_001];

/// What a test changes of a configuration by `memkv setup`: ports, key and pool.
fn settle(yaml: &str) -> String {
    let pool = yaml.lines().find(|line| line.starts_with("  max_size:"));
    let pool = pool.expect("a size of the pool");
    let key = key_hex(&KEY);
    yaml.replace(
        "address: 0.0.0.0:9900",
        &format!("address: 127.0.0.1:0\n  auth_key: {key}"),
    )
    .replace(pool, "  max_size: 64 MiB\n  hugepages: off")
    .replace("rdma:\n", "rdma:\n  enabled: false\n")
}

/// A configuration in direct mode.
pub(super) fn yaml(drives: &[&str]) -> String {
    let drive = |path: &&str| format!("    - media: {path}\n");
    settle(&format!(
        "network:\n  address: 0.0.0.0:9900\nmemory:\n  max_size: 1 GiB\nrdma:\n  device: mlx5_0\n\
         storage:\n  mode: direct\n  drives:\n{}",
        drives.iter().map(drive).collect::<String>()
    ))
}

fn key_of(number: usize) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

fn fill(server: &Program) {
    let client = server.client();
    for (number, len) in LENGTHS.iter().enumerate() {
        client
            .put(&key_of(number), &value(number as u64, *len))
            .unwrap();
    }
}

/// How many values are there; each must be whole.
fn hits(server: &Program) -> usize {
    let client = server.client();
    let is_hit = |(number, len): &(usize, &usize)| {
        let found = client.get(&key_of(*number)).unwrap();
        if let Some(found) = &found {
            assert!(found == &value(*number as u64, **len), "{number}");
        }
        found.is_some()
    };
    LENGTHS.iter().enumerate().filter(is_hit).count()
}

/// `memkv setup` on the drives, and its configuration as the test runs it.
fn set_up(home: &TempDir, drives: &[&str], flags: &[&str]) -> Setup {
    let arguments = [&["setup", "--drives"], drives, flags].concat();
    let output = program::run(home.path(), &arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    Setup::of_text(
        home.path(),
        settle(&String::from_utf8(output.stdout).unwrap()),
    )
}

#[test]
fn a_server_on_raw_drives_keeps_everything_over_kill_9_and_restarts() {
    for sector in [512, 4096] {
        let home = TempDir::new().unwrap();
        let kind = Kind {
            sector,
            ..Kind::default()
        };
        let a = BlockDevice::new(home.path(), "a", BYTES, kind);
        let b = BlockDevice::new(home.path(), "b", BYTES, kind);
        let (Some(a), Some(b)) = (a, b) else { return };
        let drives = [a.name(), b.name()];
        let setup = set_up(&home, &drives, &[]);

        let server = setup.start();
        let status = server.status();
        assert_eq!(status["storage"]["mode"], "direct", "{status:#}");
        assert_eq!(status["storage"]["devices"][1]["media"], b.name());
        fill(&server);
        assert_eq!(hits(&server), LENGTHS.len());
        let second = setup.refused();
        assert_eq!(second.code, Some(7), "{}", second.stderr);
        for words in [a.name(), "in use by another memkv server", "stop it first"] {
            assert!(second.error().contains(words), "{}", second.error());
        }
        // Nor does setup take them from it.
        let output = program::run(home.path(), &["setup", "--drives", a.name(), "--force"]);
        assert_eq!(output.status.code(), Some(7));
        assert_eq!(hits(&server), LENGTHS.len(), "the first one never noticed");
        server.kill();

        let server = setup.start();
        assert_eq!(hits(&server), LENGTHS.len(), "{sector}: after kill -9");
        let ended = server.stop();
        assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
        let server = setup.start();
        assert_eq!(hits(&server), LENGTHS.len(), "{sector}: after a clean stop");
        assert_eq!(server.metric("memkv_drive_up", &[]), Some(2.0));
        assert_eq!(server.metric("memkv_drive_errors_total", &[]), Some(0.0));
        server.stop();

        let output = program::run(home.path(), &["setup", "--drives", a.name(), b.name()]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{stderr}");
        assert!(stderr.contains("already belongs to memkv"), "{stderr}");
        let server = set_up(&home, &drives, &["--idempotent"]).start();
        assert_eq!(hits(&server), LENGTHS.len());
        server.stop();
        let server = set_up(&home, &drives, &["--force"]).start();
        assert_eq!(hits(&server), 0, "wiped");
        fill(&server);
        server.stop();
    }
}

#[test]
fn a_raw_drive_is_read_past_the_page_cache() {
    let home = TempDir::new().unwrap();
    let Some(device) = BlockDevice::new(home.path(), "a", BYTES, Kind::default()) else {
        return;
    };
    let setup = set_up(&home, &[device.name()], &[]);
    let server = setup.start();
    fill(&server);
    server.stop();
    let server = setup.start();
    let node = device.path.file_name().unwrap().to_str().unwrap();
    // Reads that were done, and sectors of 512 bytes read, as the device counts them.
    let counters = || {
        let stat = fs::read_to_string(format!("/sys/block/{node}/stat")).unwrap();
        let numbers: Vec<u64> = stat
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        numbers[2] * 512
    };
    let before = counters();
    assert_eq!(hits(&server), LENGTHS.len());
    let read = counters() - before;
    let stored: usize = LENGTHS.iter().sum();
    assert!(read as usize >= stored / 2, "{read} bytes read of {stored}");
    server.stop();
}
