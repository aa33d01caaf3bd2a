//! Many callers at once on small drives, so that segments are reclaimed, journals wrap and
//! checkpoints are written all the time.

use std::collections::HashMap;
use std::time::Duration;

use super::harness::{Client, crc_of, value_of};
use super::tests::files;
use crate::{
    Attrs, CompletionResult, Condition, EngineConfig, EngineMetrics, Put, Step, Sync, Token,
};

const LENGTHS: [usize; 8] = [0, 10, 900, 5000, 40_000, 65_536, 100_000, 300_000];

fn len_of(seed: u64) -> usize {
    LENGTHS[(seed % 8) as usize]
}

/// Puts with many in flight; returns the last acknowledged change of each key.
fn flood(client: &Client, base: u64, changes: u64, depth: usize) -> HashMap<u64, u64> {
    let (mut acknowledged, mut in_flight) = (HashMap::new(), 0);
    let mut done = Vec::new();
    let mut wait = |in_flight: &mut usize, most: usize, acknowledged: &mut HashMap<u64, u64>| {
        while *in_flight > most {
            assert!(
                client.queue.wait(Duration::from_secs(30)).expect("poll"),
                "no completion"
            );
            client.queue.drain(&mut done);
            for completion in done.drain(..) {
                match completion.result {
                    CompletionResult::Committed(Ok(_)) => {
                        let seed = completion.token.0;
                        let last = acknowledged.entry(seed % 97).or_insert(0u64);
                        *last = (*last).max(seed);
                    }
                    other => panic!("{other:?}"),
                }
                *in_flight -= 1;
            }
        }
    };
    for change in 0..changes {
        let seed = base + change;
        let value = value_of(seed, len_of(seed));
        let key = (base / 1_000_000 * 1000 + seed % 97).to_le_bytes();
        let put = Put {
            namespace: 0,
            key: &key,
            len: value.len() as u64,
            attrs: Attrs::default(),
            condition: Condition::None,
        };
        let lease = match client
            .engine
            .reserve(&client.queue, Token(seed), &put)
            .expect("reserve")
        {
            Step::Ready(lease) => Some(lease),
            Step::Pending => {
                let mut found = None;
                while found.is_none() {
                    assert!(client.queue.wait(Duration::from_secs(30)).expect("poll"));
                    let mut all = Vec::new();
                    client.queue.drain(&mut all);
                    for completion in all {
                        match completion.result {
                            CompletionResult::Reserved(lease) => {
                                found = Some(lease.expect("reserved"));
                            }
                            CompletionResult::Committed(Ok(_)) => {
                                let seed = completion.token.0;
                                let last = acknowledged.entry(seed % 97).or_insert(0u64);
                                *last = (*last).max(seed);
                                in_flight -= 1;
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
                found
            }
        };
        let mut lease = lease.expect("a lease");
        if !value.is_empty() {
            lease.copy_from(0, &value);
        }
        match lease
            .commit(crc_of(&value), &client.queue, Token(seed))
            .expect("commit")
        {
            Step::Ready(_) => panic!("files take time"),
            Step::Pending => in_flight += 1,
        }
        wait(&mut in_flight, depth, &mut acknowledged);
    }
    wait(&mut in_flight, 0, &mut acknowledged);
    acknowledged
}

fn check(client: &Client, base: u64, acknowledged: &HashMap<u64, u64>) -> usize {
    let mut there = 0;
    for (slot, seed) in acknowledged {
        let key = (base / 1_000_000 * 1000 + slot).to_le_bytes();
        if let Some(value) = client.get(&key) {
            assert!(
                value == value_of(*seed, len_of(*seed)),
                "key {slot} of {base} is stale"
            );
            there += 1;
        }
    }
    there
}

#[test]
fn flooded_small_drives_serve_the_newest_or_nothing_also_after_restarts() {
    for sync in [Sync::Always, Sync::No] {
        let dir = tempfile::tempdir().expect("dir");
        let config = EngineConfig {
            sync,
            ..files(dir.path(), 2, 32 << 20)
        };
        for round in 0..2u64 {
            let engine = crate::Engine::open(config.clone(), EngineMetrics::detached());
            let engine = engine.expect("open");
            let found: Vec<(u64, HashMap<u64, u64>)> = std::thread::scope(|scope| {
                let callers: Vec<_> = (1..4u64)
                    .map(|caller| {
                        let engine = engine.clone();
                        scope.spawn(move || {
                            let base = caller * 1_000_000 + round * 10_000;
                            (base, flood(&Client::new(engine), base, 600, 24))
                        })
                    })
                    .collect();
                callers
                    .into_iter()
                    .map(|caller| caller.join().expect("caller"))
                    .collect()
            });
            let client = Client::new(engine.clone());
            let before: usize = found
                .iter()
                .map(|(base, acks)| check(&client, *base, acks))
                .sum();
            engine
                .shutdown(Duration::from_secs(30))
                .expect("clean stop");
            drop(client);
            let client = Client::open(config.clone());
            let after: usize = found
                .iter()
                .map(|(base, acks)| check(&client, *base, acks))
                .sum();
            assert!(
                after > 60,
                "{after} of 291 keys are there; {before} before the restart"
            );
            client
                .engine
                .shutdown(Duration::from_secs(30))
                .expect("clean stop");
        }
    }
}
