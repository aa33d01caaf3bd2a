//! The engine's logic without threads, rings or clocks: the same events give the same effects.

use std::collections::BTreeMap;

use super::fake::World;
use super::harness::{crc_of, value_of};
use crate::cache::CacheKey;
use crate::lease::{ReadLease, WriteLease};
use crate::{Attrs, Completion, CompletionResult, Condition, EngineConfig, Put, Step, Tier, Token};

const LENGTHS: [usize; 6] = [10, 900, 5000, 65_536, 100_000, 300_000];
const KEYS: usize = 300;

fn small() -> EngineConfig {
    EngineConfig {
        slab_bytes: 64 << 10,
        pool_bytes: 2 << 20,
        ..EngineConfig::default()
    }
}

/// What a call in flight is about.
#[derive(Clone, Copy)]
struct Call {
    key: usize,
    seed: u64,
    len: usize,
}

/// Random calls, and what they must come to.
struct Callers {
    world: World,
    in_flight: BTreeMap<u64, Call>,
    next: u64,
    /// By key: checksums of all values that were put, and the last version acknowledged.
    history: BTreeMap<usize, (Vec<u32>, u64)>,
    from_drive: usize,
    deleted: usize,
}

impl Callers {
    fn new(seed: u64) -> Self {
        Self {
            world: World::new(small(), 16 << 20, seed),
            in_flight: BTreeMap::new(),
            next: 0,
            history: BTreeMap::new(),
            from_drive: 0,
            deleted: 0,
        }
    }

    fn begin(&mut self) {
        let (key, what) = (self.world.pick(KEYS), self.world.pick(10));
        let len = LENGTHS[self.world.pick(LENGTHS.len())];
        self.next += 1;
        let (token, seed) = (Token(self.next), self.next);
        let call = Call { key, seed, len };
        let bytes = (key as u64).to_le_bytes();
        let hash = self.world.shared.tables.hasher.hash(0, &bytes);
        let cache_key = CacheKey {
            hash,
            namespace: 0,
            key: &bytes,
        };
        let (shared, sender) = (self.world.shared.clone(), self.world.sender());
        match what {
            0..6 => {
                let put = Put {
                    namespace: 0,
                    key: &bytes,
                    len: len as u64,
                    attrs: Attrs::default(),
                    condition: Condition::None,
                };
                self.in_flight.insert(token.0, call);
                if let Step::Ready(lease) = shared.reserve(sender, token, &put).expect("reserve") {
                    self.fill(call, lease);
                }
            }
            6..9 => match shared.get(&sender, token, &cache_key).expect("get") {
                Step::Ready(found) => self.check(key, found),
                Step::Pending => drop(self.in_flight.insert(token.0, call)),
            },
            _ => {
                let step = shared.delete(&sender, token, &cache_key).expect("delete");
                assert!(matches!(step, Step::Pending));
                self.in_flight.insert(token.0, call);
            }
        }
        self.world.settle();
    }

    fn fill(&mut self, call: Call, mut lease: WriteLease) {
        let value = value_of(call.seed, call.len);
        let crc = crc_of(&value);
        lease.copy_from(0, &value);
        self.history.entry(call.key).or_default().0.push(crc);
        let shared = self.world.shared.clone();
        let step = shared.commit(lease, crc, self.world.sender(), Token(call.seed));
        assert!(matches!(step.expect("commit"), Step::Pending));
    }

    fn check(&mut self, key: usize, found: Option<ReadLease>) {
        let Some(lease) = found else {
            return;
        };
        let crc = crc_of(&lease.pieces().collect::<Vec<_>>().concat());
        assert_eq!(crc, lease.crc(), "whole");
        let known = &self.history[&key].0;
        assert!(known.contains(&crc), "a value that was put under this key");
        self.from_drive += usize::from(lease.tier() == Tier::Drive);
    }

    fn finish(&mut self, completion: Completion) {
        self.world.trace.push(format!("{completion:?}"));
        let token = completion.token.0;
        let call = self.in_flight[&token];
        match completion.result {
            CompletionResult::Reserved(lease) => {
                return self.fill(call, lease.expect("reserved"));
            }
            CompletionResult::Committed(committed) => {
                let version = committed.expect("committed").version;
                let last = &mut self.history.get_mut(&call.key).expect("was put").1;
                *last = version.max(*last);
            }
            CompletionResult::Got(found) => self.check(call.key, found.expect("got")),
            CompletionResult::Deleted(was) => self.deleted += usize::from(was.expect("deleted")),
            other => panic!("{other:?}"),
        }
        self.in_flight.remove(&token);
    }

    fn collect(&mut self) {
        let done: Vec<Completion> = self.world.queue.0.lock().drain(..).collect();
        for completion in done {
            self.finish(completion);
        }
        self.world.settle();
    }

    fn run(mut self, calls: u64) -> World {
        while self.next < calls || !self.in_flight.is_empty() {
            let ns = self.world.pick(5_000_000) as u64;
            self.world.pass(ns);
            let more = self.next < calls && self.in_flight.len() < 24;
            let stuck = self.world.ios_pending() == 0 && self.world.queue.0.lock().is_empty();
            assert!(more || !stuck, "{} calls are stuck", self.in_flight.len());
            if more && self.world.pick(2) == 0 {
                self.begin();
            } else {
                self.world.end_an_io();
            }
            self.collect();
        }
        self.check_the_last();
        assert!(self.from_drive > 10, "{} reads of drives", self.from_drive);
        assert!(self.deleted > 10, "{} deletes", self.deleted);
        assert!(self.world.shared.tables.evictions() > 10);
        assert!(self.world.shut_down(), "the logs end");
        self.world
    }

    /// What is there is what was acknowledged last.
    fn check_the_last(&mut self) {
        for (key, (_, last)) in std::mem::take(&mut self.history) {
            let bytes = (key as u64).to_le_bytes();
            let hash = self.world.shared.tables.hasher.hash(0, &bytes);
            let cache_key = CacheKey {
                hash,
                namespace: 0,
                key: &bytes,
            };
            if let Some(hit) = self.world.shared.tables.cache.peek(&cache_key) {
                assert_eq!(hit.meta.version, last, "key {key}");
            }
        }
    }
}

#[test]
fn same_seed_gives_the_same_effects_and_another_one_others() {
    let first = Callers::new(1).run(2500).trace;
    let second = Callers::new(1).run(2500).trace;
    let same = first
        .iter()
        .zip(&second)
        .take_while(|(a, b)| a == b)
        .count();
    assert_eq!(
        (first.get(same), second.get(same)),
        (None, None),
        "the runs differ at effect {same}"
    );
    assert!(first.len() > 5000, "{} effects", first.len());
    // What would be counted is among them, and is counted by whoever carries them out.
    let evicted = |effect: &&String| effect.contains("Evicted {");
    assert!(first.iter().filter(evicted).count() > 0);
    assert_ne!(first, Callers::new(2).run(2500).trace);
}
