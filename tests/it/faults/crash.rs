//! kill -9 under load: nothing that was acknowledged is lost, nothing deleted comes back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use memkv_client::Client;
use memkv_tests::poll::until;
use memkv_tests::program::{Program, Setup};
use memkv_tests::seed::{Random, seed};
use tempfile::TempDir;

use super::{Held, Ledger, is_going};

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
            let random = Random::new(random.next());
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

fn survives_kills(sync: &str) {
    let seed = seed(0x5eed);
    eprintln!("sync {sync}: MEMKV_SEED={seed}");
    let mut random = Random::new(seed);
    let home = TempDir::new().unwrap();
    let setup = Setup::new(home.path(), "1 GiB")
        .storage(&format!("sync: {sync}"))
        .storage("eviction: off");
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    for round in 0..rounds() {
        under_load(setup.start(), &mut ledgers, &mut random, Program::kill);
        let server = setup.start();
        let client = server.client();
        let context = format!("sync {sync}, MEMKV_SEED={seed}, round {round}");
        for ledger in &mut ledgers {
            ledger.check(&client, &context);
        }
        // Every second recovery is itself followed by a clean stop, the others by a kill.
        if round % 2 == 0 {
            server.stop();
        } else {
            server.kill();
        }
    }
}

#[test]
fn no_acknowledged_put_is_lost_to_a_kill_with_sync_always() {
    survives_kills("always");
}

#[test]
fn no_acknowledged_put_is_lost_to_a_kill_with_sync_everysec() {
    survives_kills("everysec");
}

#[test]
fn no_acknowledged_put_is_lost_to_a_kill_with_sync_no() {
    survives_kills("no");
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
    ledger.check(&server.client(), "after a restart");
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
        ledger.check(&client, &format!("MEMKV_SEED={seed}"));
    }
    server.stop();
}
