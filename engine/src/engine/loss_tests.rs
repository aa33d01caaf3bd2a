//! Drives that are lost while the store runs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::harness::{Client, value_of};
use super::tests::files;
use crate::drive::faulty::Faults;
use crate::{CompletionResult, DriveState, EngineConfig, PutError, Step, Token};

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
