//! kill -9 under load: nothing that was acknowledged is lost, nothing deleted comes back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use memkv_client::{Client, ErrorCode, OpError};
use memkv_tests::poll::until;
use memkv_tests::program::{Program, Setup};
use memkv_tests::seed::{Random, seed};
use tempfile::TempDir;

use super::{Held, Keeps, Ledger, is_going};

const WRITERS: u64 = 3;
const KEYS_PER_WRITER: u64 = 40;

/// Kills per mode; more by `MEMKV_CRASH_ROUNDS`.
fn rounds() -> u64 {
    let given = std::env::var("MEMKV_CRASH_ROUNDS").ok();
    given.and_then(|n| n.parse().ok()).unwrap_or(5)
}

/// Puts and deletes until the server is gone.
fn write(client: &Client, ledger: &mut Ledger, writer: u64, mut random: Random, done: &AtomicU64) {
    loop {
        let key = format!("w{writer}-{}", random.below(KEYS_PER_WRITER));
        let change = match random.below(5) {
            0 => Held::Nothing,
            _ => Held::Put(random.below(1 << 40)),
        };
        ledger.ask(&key, change);
        let answer = match change {
            Held::Nothing => client.delete(key.as_bytes()).map(|_| ()),
            Held::Put(number) => {
                let value = super::bytes_of(&key, number);
                client.put(key.as_bytes(), &value).map(|_| ())
            }
        };
        match answer {
            Ok(()) => {
                ledger.acknowledge(&key);
                done.fetch_add(1, Ordering::Relaxed);
            }
            // Nothing was done; with a small pool that is an answer like any other.
            Err(OpError::Server {
                code: ErrorCode::Busy,
                retry_after,
                ..
            }) => {
                ledger.withdraw(&key);
                thread::sleep(retry_after.unwrap_or_default());
            }
            Err(error) if is_going(&error) => return,
            Err(error) => panic!("writer {writer}: {key}: {error:?}"),
        }
    }
}

/// Loads the server with writers until `end` ended it.
fn under_load<T>(
    server: Program,
    ledgers: &mut [Ledger],
    random: &mut Random,
    end: impl FnOnce(Program) -> T,
) -> T {
    let done = AtomicU64::new(0);
    let kill_after = 5 + random.below(150);
    thread::scope(|scope| {
        for (writer, ledger) in (0..).zip(ledgers) {
            let random = Random::new(random.bits());
            let (client, done) = (server.client(), &done);
            scope.spawn(move || write(&client, ledger, writer, random, done));
        }
        until(
            "enough puts were acknowledged",
            Duration::from_secs(30),
            || (done.load(Ordering::Relaxed) >= kill_after).then_some(()),
        );
        end(server)
    })
}

/// Kills servers on `setup` under load and checks each time what the next one has.
///
/// Returns how many acknowledged values were gone, which only [`Keeps::WhatFits`] allows.
fn survives_kills(name: &str, setup: &Setup, keeps: Keeps) -> usize {
    let seed = seed(0x5eed);
    eprintln!("{name}: MEMKV_SEED={seed}");
    let mut random = Random::new(seed);
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let mut forgotten = 0;
    for round in 0..rounds() {
        under_load(setup.start(), &mut ledgers, &mut random, Program::kill);
        let server = setup.start();
        let client = server.client();
        let context = format!("{name}, MEMKV_SEED={seed}, round {round}");
        for ledger in &mut ledgers {
            forgotten += ledger.check(&client, &context, keeps);
        }
        // Every second recovery is itself followed by a clean stop, the others by a kill.
        if round % 2 == 0 {
            server.stop();
        } else {
            server.kill();
        }
    }
    forgotten
}

#[test]
fn no_acknowledged_put_is_lost_to_a_kill_with_sync_always() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "1 GiB")
        .storage("sync: always")
        .storage("eviction: off");
    survives_kills("sync always", &setup, Keeps::Everything);
}

#[test]
fn no_acknowledged_put_is_lost_to_a_kill_with_sync_everysec_and_two_drives() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "512 MiB")
        .drive("drive-1")
        .storage("sync: everysec")
        .storage("eviction: off");
    survives_kills("sync everysec", &setup, Keeps::Everything);
}

/// So small a drive that the rounds overwrite it: what is live must survive its compaction too.
#[test]
fn no_acknowledged_put_is_lost_to_a_kill_with_sync_no_and_compaction() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "96 MiB")
        .storage("sync: no")
        .storage("eviction: off");
    survives_kills("sync no", &setup, Keeps::Everything);
}

#[test]
fn kills_while_values_are_evicted_bring_back_nothing_old() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "16 MiB").pool("16 MiB");
    let forgotten = survives_kills("eviction", &setup, Keeps::WhatFits);
    assert!(forgotten > 0, "nothing was evicted");
}

#[test]
fn a_normal_stop_and_start_keep_everything_and_are_quick() {
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "1 GiB");
    let mut ledger = Ledger::default();
    let server = setup.start();
    let client = server.client();
    for number in 0..400 {
        let key = format!("key-{}", number % 350);
        ledger.ask(&key, Held::Put(number));
        let value = super::bytes_of(&key, number);
        client.put(key.as_bytes(), &value).unwrap();
        ledger.acknowledge(&key);
    }
    for key in ["key-3", "key-200"] {
        ledger.ask(key, Held::Nothing);
        assert!(client.delete(key.as_bytes()).unwrap());
        ledger.acknowledge(key);
    }
    let stopped = server.stop();
    let asked = std::time::Instant::now();
    let server = setup.start();
    let started = asked.elapsed();
    eprintln!("stop took {:?}, start took {started:?}", stopped.took);
    ledger.check(&server.client(), "after a restart", Keeps::Everything);
    // Ten times what they take on a busy machine with two cores.
    assert!(stopped.took < Duration::from_secs(5), "{:?}", stopped.took);
    assert!(started < Duration::from_secs(5), "{started:?}");
    server.stop();
}

#[test]
fn sigterm_under_load_answers_what_it_took_and_loses_nothing() {
    use rustix::process::Signal;
    let seed = seed(0x7e42);
    eprintln!("MEMKV_SEED={seed}");
    let mut random = Random::new(seed);
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "1 GiB");
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    // A writer panics on any outcome but `Draining` and a lost connection.
    let ended = under_load(setup.start(), &mut ledgers, &mut random, |server| {
        let asked = std::time::Instant::now();
        server.signal(Signal::TERM);
        server.ended(asked)
    });
    eprintln!("stop under load took {:?}", ended.took);
    assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
    assert!(ended.stderr.contains("\"draining\""), "{}", ended.stderr);
    let server = setup.start();
    let client = server.client();
    for ledger in &mut ledgers {
        ledger.check(&client, &format!("MEMKV_SEED={seed}"), Keeps::Everything);
    }
    server.stop();
}
