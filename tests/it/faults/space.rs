//! A store that is full, a file system that is full, memory that is bounded.

use std::thread;

use memkv_client::{Client, ErrorCode, OpError};
use memkv_tests::program::Setup;
use memkv_tests::wire::value;
use tempfile::TempDir;

fn key_of(number: u64) -> Vec<u8> {
    format!("fill-{number}").into_bytes()
}

fn put(client: &Client, number: u64, len: usize) -> Result<u64, OpError> {
    client.put(&key_of(number), &value(number, len))
}

#[test]
fn a_full_store_with_eviction_goes_on_serving() {
    let home = TempDir::new().unwrap();
    // A pool that is much smaller than what is written, so that reads come from the drive.
    let setup = Setup::new(home.path(), "64 MiB").pool("16 MiB");
    let server = setup.start();
    let client = server.client();
    // Three times the capacity, in records and extents.
    let sizes = [3000, 100_000, 400_000];
    for number in 0..1200 {
        put(&client, number, sizes[number as usize % 3]).unwrap();
    }
    for number in 1170..1200 {
        let found = client.get(&key_of(number)).unwrap();
        let expected = value(number, sizes[number as usize % 3]);
        assert!(
            found == Some(expected),
            "put {number} is the newest there is"
        );
    }
    let mut hits = 0;
    for number in 0..1200 {
        if let Some(found) = client.get(&key_of(number)).unwrap() {
            assert!(
                found == value(number, sizes[number as usize % 3]),
                "{number}"
            );
            hits += 1;
        }
    }
    assert!((100..1200).contains(&hits), "{hits} of 1200 are left");
    let status = server.status();
    assert!(
        status["storage"]["evictions"].as_u64().unwrap() > 0,
        "{status:#}"
    );
    let (used, usable) = (
        &status["storage"]["used_bytes_total"],
        &status["storage"]["usable_bytes_total"],
    );
    assert!(used.as_u64() <= usable.as_u64(), "{used} of {usable}");
    assert!(server.metric("memkv_evictions_total", &[]).unwrap() > 0.0);
    server.stop();
    let server = setup.start();
    let client = server.client();
    let found = client.get(&key_of(1199)).unwrap();
    assert!(
        found == Some(value(1199, sizes[1199 % 3])),
        "the last put survives a restart"
    );
    server.stop();
}

#[test]
fn a_full_store_without_eviction_says_so_until_something_is_deleted() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "32 MiB").storage("eviction: off");
    let server = setup.start();
    let client = server.client();
    let mut stored = Vec::new();
    let full = (0..1000).find_map(|number| match put(&client, number, 200_000) {
        Ok(_) => {
            stored.push(number);
            None
        }
        Err(error) => Some(error),
    });
    let full = full.expect("200 MB don't fit 32 MiB");
    assert!(
        matches!(
            &full,
            OpError::Server {
                code: ErrorCode::NoSpace,
                ..
            }
        ),
        "{full:?}"
    );
    assert_eq!(
        server.metric("memkv_rejected_total", &["no_space"]),
        Some(1.0)
    );
    assert!(
        stored.len() > 80,
        "only {} of 32 MiB were usable",
        stored.len() * 200_000
    );
    for number in &stored {
        assert!(
            client.get(&key_of(*number)).unwrap() == Some(value(*number, 200_000)),
            "{number}"
        );
    }
    // No drive is blamed.
    assert_eq!(server.status()["status"], "healthy");
    let half = stored.len() / 2;
    for number in &stored[..half] {
        assert!(client.delete(&key_of(*number)).unwrap(), "{number}");
    }
    for number in 5000..5000 + half as u64 / 2 {
        put(&client, number, 200_000).unwrap_or_else(|error| panic!("{number}: {error:?}"));
    }
    for number in &stored[half..] {
        assert!(
            client.get(&key_of(*number)).unwrap() == Some(value(*number, 200_000)),
            "{number}"
        );
    }
    server.stop();
}

#[test]
fn a_file_system_too_small_for_the_drive_is_named_at_the_start() {
    // tmpfs refuses at once what exceeds its own size.
    let home = TempDir::new_in("/dev/shm").unwrap();
    let refused = Setup::new(home.path(), "16 TiB").refused();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let error = refused.error();
    for words in [
        "drive-0",
        "17592186044416 bytes",
        "bytes free",
        "storage.drives[].max_size",
    ] {
        assert!(error.contains(words), "{words:?} isn't in:\n{error}");
    }
    assert!(
        !home.path().join("drive-0").exists(),
        "nothing half made stays"
    );
}

#[test]
fn memory_stays_bounded_while_clients_send_ten_pools() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "256 MiB").pool("32 MiB");
    let server = setup.start();
    let idle = server.resident_bytes();
    let clients = 4;
    let peak = thread::scope(|scope| {
        let writers: Vec<_> = (0..clients)
            .map(|writer| {
                let client = server.client();
                scope.spawn(move || {
                    // 80 MiB each.
                    let value = value(writer, 1 << 20);
                    for number in 0..80 {
                        let key = format!("w{writer}-{number}");
                        loop {
                            match client.put(key.as_bytes(), &value) {
                                Ok(_) => break,
                                Err(OpError::Server {
                                    code: ErrorCode::Busy,
                                    retry_after,
                                    ..
                                }) => {
                                    thread::sleep(retry_after.unwrap_or_default());
                                }
                                Err(error) => panic!("{key}: {error:?}"),
                            }
                        }
                        if number % 4 == 0 {
                            let found = client.get(key.as_bytes());
                            assert!(found.is_ok(), "{found:?}");
                        }
                    }
                })
            })
            .collect();
        let mut peak = idle;
        while writers.iter().any(|writer| !writer.is_finished()) {
            peak = peak.max(server.resident_bytes());
            thread::sleep(std::time::Duration::from_millis(10));
        }
        peak
    });
    eprintln!(
        "resident: {} KiB idle, {} KiB at most",
        idle >> 10,
        peak >> 10
    );
    // The pool, and 64 MiB for code, threads, connections, the drive's buffers and telemetry.
    let bound = (32 + 64) << 20;
    assert!(peak <= bound, "{peak} bytes resident, {bound} allowed");
    server.stop();
}
