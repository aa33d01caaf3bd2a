//! A store that is full, a file system that is full, memory that is bounded.

use std::fs;
use std::thread;
use std::time::Duration;

use memkv_client::{Client, ErrorCode, OpError};
use memkv_tests::poll::until;
use memkv_tests::program::{Program, Setup};
use memkv_tests::wire::value;
use rustix::process::{Pid, Resource, Rlimit};
use tempfile::TempDir;

use super::drives::works;

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

/// As [`put`]; with a small pool a server may be busy for a moment.
fn put_patiently(client: &Client, number: u64, len: usize) -> Result<u64, OpError> {
    until("the server isn't busy", Duration::from_secs(60), || {
        let outcome = put(client, number, len);
        let busy = |error: &OpError| {
            let code = ErrorCode::Busy;
            matches!(error, OpError::Server { code: found, .. } if *found == code)
        };
        (!outcome.as_ref().is_err_and(busy)).then_some(outcome)
    })
}

/// Lets no file of the server grow, or be written, beyond a size.
fn limit_files(server: &Program, bytes: Option<u64>) {
    let pid = Pid::from_raw(server.pid() as i32);
    let maximum = rustix::process::getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit {
        current: bytes,
        maximum,
    };
    rustix::process::prlimit(pid, Resource::Fsize, limit).unwrap();
}

#[test]
fn a_drive_that_finds_no_room_while_running_refuses_puts_and_goes_on_reading() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "128 MiB").pool("16 MiB");
    let setup = setup.allow("no room");
    let server = setup.start();
    let client = server.client();
    let sizes = [3000, 200_000, 5_000_000];
    let len = |number: u64| sizes[number as usize % 3];
    let hold = |count: u64| {
        for number in 0..count {
            let found = client.get(&key_of(number)).unwrap();
            assert!(found == Some(value(number, len(number))), "{number}");
        }
    };
    for number in 0..30 {
        put_patiently(&client, number, len(number)).unwrap();
    }
    // What lies behind this is as if the file system were full, superblock copies included.
    limit_files(&server, Some(4 << 20));
    for number in 30..60 {
        let error = put_patiently(&client, number, len(number)).unwrap_err();
        let code = match &error {
            OpError::Server { code, .. } => *code,
            _ => panic!("{error:?}"),
        };
        assert_eq!(code, ErrorCode::NoSpace, "{number}");
    }
    hold(30);
    let status = server.status();
    assert_eq!(status["status"], "healthy", "{status:#}");
    assert_eq!(status["storage"]["devices"][0]["online"], true);
    assert_eq!(server.metric("memkv_drive_up", &[]), Some(1.0));
    let refused = server.metric("memkv_rejected_total", &["no_space"]);
    assert_eq!(refused, Some(30.0));
    let failed = server.metric("memkv_drive_errors_total", &["write"]);
    assert!(failed.unwrap() > 0.0, "it is seen from outside");
    limit_files(&server, None);
    for number in 30..40 {
        until("there is room again", Duration::from_secs(20), || {
            put(&client, number, len(number)).ok()
        });
    }
    hold(40);
    // It may be killed while it finds no room.
    limit_files(&server, Some(4 << 20));
    put_patiently(&client, 60, 200_000).unwrap_err();
    server.kill();
    let server = setup.start();
    let client = server.client();
    for number in 0..40 {
        let found = client.get(&key_of(number)).unwrap();
        assert!(found == Some(value(number, len(number))), "{number}");
    }
    server.stop();
}

#[test]
fn a_drive_copied_with_holes_into_a_full_file_system_is_refused_by_numbers() {
    let namespace = ["unshare", "--map-root-user", "--mount"];
    if !works(&namespace) {
        return;
    }
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    let server = setup.start();
    put(&server.client(), 1, 100_000).unwrap();
    server.stop();
    fs::create_dir(home.path().join("full")).unwrap();
    let copy = "mount -t tmpfs -o size=40m full full && cp --sparse=always drive-0 full/drive && \
                exec \"$@\"";
    setup.drives[0].0 = "full/drive".into();
    setup.wrapper = namespace.map(String::from).into();
    setup
        .wrapper
        .extend(["sh", "-c", copy, "sh"].map(String::from));
    let refused = setup.refused();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    let error = refused.error();
    for words in [
        "full/drive has 67108864 bytes",
        "without room in its file system",
        "bytes free",
        "free some space",
    ] {
        assert!(error.contains(words), "{words:?} isn't in:\n{error}");
    }
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
