//! A process that is killed loses nothing that it acknowledged, whatever `sync` is.
//!
//! The test runs itself as a child whose threads put, overwrite and delete at the same time, and write
//! each acknowledgement to a pipe; kills it while they do; opens the store and compares. What was
//! acknowledged last is there, or what was asked for since, whole; nothing else.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::harness::{Client, value_of};
use super::tests::files;
use crate::{EngineConfig, Sync};

const CHILD: &str = "MEMKV_KILL_CHILD";
const KEYS: u64 = 48;
/// Each has keys of its own, so that the order of a key's changes is known.
const WRITERS: u64 = 4;
const ROUNDS: u64 = 6;

fn config(dir: &Path, sync: Sync) -> EngineConfig {
    EngineConfig {
        sync,
        ..files(dir, 2, 96 << 20)
    }
}

/// A key's change number `round`: a value whose length depends on both, or a delete.
fn change(key: u64, round: u64) -> Option<Vec<u8>> {
    let seed = key * 1_000_003 + round;
    if seed % 11 == 3 {
        return None;
    }
    let len = [0, 1, 100, 3000, 20_000, 65_535, 65_536, 200_000, 700_000][(seed % 9) as usize];
    Some(value_of(seed, len))
}

/// The child: changes key after key and says so once it is acknowledged.
fn child(spec: &str) -> ! {
    let mut parts = spec.splitn(3, ':');
    let sync = match parts.next() {
        Some("always") => Sync::Always,
        Some("everysec") => Sync::Everysec,
        _ => Sync::No,
    };
    let first: u64 = parts
        .next()
        .and_then(|part| part.parse().ok())
        .expect("a round");
    let dir = PathBuf::from(parts.next().expect("a directory"));
    let store = Client::open(config(&dir, sync));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let client = Client::new(store.engine.clone());
            scope.spawn(move || write(&client, writer, first));
        }
    });
    unreachable!("it is killed")
}

fn write(client: &Client, writer: u64, first: u64) {
    let mut out = std::io::stdout();
    for round in first.. {
        for key in (writer..KEYS).step_by(WRITERS as usize) {
            // What is about to be tried may or may not be there when we are killed.
            writeln!(out, "try {key} {round}").expect("pipe");
            match change(key, round) {
                Some(value) => drop(client.put(&key.to_le_bytes(), &value).expect("put")),
                None => drop(client.delete(&key.to_le_bytes()).expect("delete")),
            }
            writeln!(out, "ack {key} {round}").expect("pipe");
        }
    }
}

fn kill_rounds(name: &str, sync: Sync) {
    if let Ok(spec) = std::env::var(CHILD) {
        child(&spec);
    }
    let dir = tempfile::tempdir().expect("dir");
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    let (mut next, mut under_way) = (0, 0);
    for kill in 0..ROUNDS {
        let tried = run_and_kill(name, sync, dir.path(), next, kill, &mut acknowledged);
        under_way += tried.len();
        let client = Client::open(config(dir.path(), sync));
        for key in 0..KEYS {
            let last = acknowledged.get(&key).copied();
            let asked = tried.get(&key).copied();
            let found = client.get(&key.to_le_bytes());
            assert_eq!(client.exists(&key.to_le_bytes()), found.is_some());
            // Before anything was acknowledged nothing was there.
            let held = |round: Option<u64>| round.and_then(|round| change(key, round));
            if asked.is_some() && found == held(asked) {
                acknowledged.extend(asked.map(|round| (key, round)));
                continue;
            }
            assert!(
                found == held(last),
                "{name}: key {key} after kill {kill}: acknowledged {last:?}, asked for {asked:?}, \
                 found {:?} bytes",
                found.map(|value| value.len())
            );
        }
        next = acknowledged.values().max().map_or(0, |round| round + 1);
        client
            .engine
            .shutdown(Duration::from_secs(20))
            .expect("clean stop");
    }
    assert!(acknowledged.len() as u64 == KEYS, "the child got around");
    assert!(under_way > 0, "no change was under way at any kill");
}

/// Runs a child for a moment that differs from kill to kill; returns what it was trying, by key.
fn run_and_kill(
    name: &str,
    sync: Sync,
    dir: &Path,
    next: u64,
    kill: u64,
    acknowledged: &mut HashMap<u64, u64>,
) -> HashMap<u64, u64> {
    let sync = match sync {
        Sync::Always => "always",
        Sync::Everysec => "everysec",
        Sync::No => "no",
    };
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args([
            "--exact",
            &format!("engine::kill_tests::{name}"),
            "--nocapture",
        ])
        .env(CHILD, format!("{sync}:{next}:{}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("child");
    let stdout = child.stdout.take().expect("piped");
    // The number of acknowledgements after which it is killed: irregular, and the kill itself
    // comes whenever the scheduler lets it.
    let moment = KEYS + (kill * 37 + 11) % 53;
    let (mut acks, mut tried) = (0, HashMap::new());
    let mut killed = false;
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        let mut words = line.split(' ');
        let verb = words.next();
        let mut number = || words.next()?.parse::<u64>().ok();
        let (Some(key), Some(round)) = (number(), number()) else {
            continue;
        };
        match verb {
            Some("try") => drop(tried.insert(key, round)),
            Some("ack") => {
                acknowledged.insert(key, round);
                tried.remove(&key);
                acks += 1;
            }
            _ => {}
        }
        if acks >= moment && !killed {
            child.kill().expect("kill");
            killed = true;
        }
    }
    child.wait().expect("child");
    assert!(
        killed,
        "{name}: the child ended by itself after {acks} acknowledgements"
    );
    tried
}

#[test]
fn killed_server_loses_nothing_with_sync_always() {
    kill_rounds("killed_server_loses_nothing_with_sync_always", Sync::Always);
}

#[test]
fn killed_server_loses_nothing_with_sync_everysec() {
    kill_rounds(
        "killed_server_loses_nothing_with_sync_everysec",
        Sync::Everysec,
    );
}

#[test]
fn killed_server_loses_nothing_with_sync_no() {
    kill_rounds("killed_server_loses_nothing_with_sync_no", Sync::No);
}
