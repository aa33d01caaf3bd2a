//! Recoveries of stores whose keys have moved between drives: the highest version of a key counts,
//! wherever it lies and whether a checkpoint or a tail tells of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::harness::{Client, value_of};
use super::tests::files;
use crate::drive::faulty::Faults;
use crate::index::KeyHash;
use crate::segment_log::Event;
use crate::segment_log::bytes::PAGE;
use crate::segment_log::segment::KIND_STRIPES;
use crate::segment_log::superblock::{Decoded, Superblock};
use crate::{DriveState, EngineConfig};

const PATIENCE: Duration = Duration::from_secs(20);

/// A store in a directory, which is killed by copying it as it is and going on with the copy.
struct Store {
    dir: tempfile::TempDir,
    count: usize,
    client: Client,
    faults: Vec<Arc<Faults>>,
    /// Keys that no test asks for.
    fillers: u64,
}

impl Store {
    fn new(count: usize) -> Self {
        Self::open(tempfile::tempdir().expect("dir"), count)
    }

    fn config(dir: &Path, count: usize) -> EngineConfig {
        EngineConfig {
            flap_threshold: 1,
            ..files(dir, count, 32 << 20)
        }
    }

    fn open(dir: tempfile::TempDir, count: usize) -> Self {
        let config = Self::config(dir.path(), count);
        let faults = config.drives.iter();
        let faults = faults.map(|drive| Faults::plan(&drive.media)).collect();
        let client = Client::open(config);
        Self {
            dir,
            count,
            client,
            faults,
            fillers: 0,
        }
    }

    /// Opens what a kill at this moment leaves, without the drives named.
    fn kill_and_wipe(self, wiped: &[usize]) -> Self {
        let copy = tempfile::tempdir().expect("dir");
        for drive in (0..self.count).filter(|drive| !wiped.contains(drive)) {
            let name = format!("drive{drive}");
            std::fs::copy(self.dir.path().join(&name), copy.path().join(&name)).expect("copy");
        }
        Self::open(copy, self.count)
    }

    fn stop_and_wipe(self, wiped: &[usize]) -> Self {
        let Self {
            dir, count, client, ..
        } = self;
        client.engine.shutdown(PATIENCE).expect("clean stop");
        drop(client);
        for drive in wiped {
            std::fs::remove_file(dir.path().join(format!("drive{drive}"))).expect("wipe");
        }
        Self::open(dir, count)
    }

    fn hash(&self, key: &[u8]) -> KeyHash {
        self.client.engine.shared.tables.hasher.hash(0, key)
    }

    /// The drive of a key's next change.
    fn home(&self, key: &[u8]) -> Option<u8> {
        let hash = self.hash(key);
        self.client.engine.shared.tables.home(hash)
    }

    /// A key that isn't there and would go to a drive.
    fn absent_key_of(&mut self, drive: u8) -> Vec<u8> {
        loop {
            self.fillers += 1;
            let key = format!("filler {}", self.fillers).into_bytes();
            if self.home(&key) == Some(drive) {
                return key;
            }
        }
    }

    /// Has a drive write a checkpoint, and waits for it.
    fn checkpoint(&self, drive: u8) {
        let path = self.dir.path().join(format!("drive{drive}"));
        let generation = || {
            let mut page = [0; PAGE];
            let read = File::open(&path).and_then(|mut file| file.read_exact(&mut page));
            match read.map(|()| Superblock::decode(&page)) {
                Ok(Decoded::Valid(block)) => block.checkpoint.generation,
                other => panic!("{other:?}"),
            }
        };
        let (before, until) = (generation(), Instant::now() + PATIENCE);
        let shared = &self.client.engine.shared;
        let members = shared.tables.drives.membership();
        shared.post(drive, Event::Members(members));
        while generation() == before {
            assert!(Instant::now() < until, "no checkpoint");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has a drive fail, and waits until it is out and others may stand in for it.
    fn lose(&mut self, drive: u8) {
        self.faults[usize::from(drive)]
            .io
            .store(true, Ordering::SeqCst);
        let key = self.absent_key_of(drive);
        let until = Instant::now() + PATIENCE;
        while self.client.put(&key, b"value").is_err() {
            assert!(Instant::now() < until, "its keys find no other drive");
        }
        let down = &self.client.engine.status().drives[usize::from(drive)].state;
        assert!(matches!(down, DriveState::Down(_)), "{down:?}");
        self.client.delete(&key).expect("delete");
    }
}

/// A store of two drives in which `key` is an old value in the checkpoint of the one, and was
/// deleted there afterwards. The other one is where its next value goes.
fn with_an_old_value(old: u8) -> (Store, Vec<u8>) {
    let new = 1 - old;
    let mut store = Store::new(2);
    let key = store.absent_key_of(new);
    store.lose(new);
    store.client.put(&key, &value_of(1, 1000)).expect("put");
    let mut store = store.stop_and_wipe(&[usize::from(new)]);
    assert_eq!(store.home(&key), Some(old), "where its value is");
    store.checkpoint(old);
    assert!(store.client.delete(&key).expect("delete"));
    assert_eq!(store.home(&key), Some(new), "where its values belong");
    store.fillers += 1_000_000;
    (store, key)
}

#[test]
fn what_a_striped_value_replaced_stays_away_when_a_drive_of_its_parts_is_gone() {
    let mut store = Store::new(2);
    let keys: Vec<Vec<u8>> = (0..8).map(|_| store.absent_key_of(0)).collect();
    for (seed, key) in (0..).zip(&keys) {
        store.client.put(key, &value_of(seed, 100)).expect("put");
        let striped = value_of(100 + seed, 700_000);
        store.client.put(key, &striped).expect("put");
    }
    let store = store.kill_and_wipe(&[1]);
    for key in &keys {
        assert_eq!(store.client.get(key).map(|value| value.len()), None);
        assert!(!store.client.exists(key));
    }
}

#[test]
fn value_that_moved_to_another_drive_is_not_lost_to_an_older_checkpoint_or_tombstone() {
    for old in [0, 1] {
        for len in [10, 1000, 100_000] {
            let (store, key) = with_an_old_value(old);
            let value = value_of(2, len);
            store.client.put(&key, &value).expect("put");
            store.checkpoint(1 - old);
            let store = store.kill_and_wipe(&[]);
            assert!(
                store.client.get(&key) == Some(value),
                "drive {old} had the old value, {len} bytes"
            );
        }
    }
}

#[test]
fn value_that_was_deleted_after_it_moved_stays_deleted() {
    for old in [0, 1] {
        let (store, key) = with_an_old_value(old);
        store.client.put(&key, &value_of(2, 1000)).expect("put");
        store.checkpoint(1 - old);
        assert!(store.client.delete(&key).expect("delete"));
        let store = store.kill_and_wipe(&[]);
        assert_eq!(store.client.get(&key), None, "drive {old}");
        assert!(!store.client.exists(&key));
    }
}

#[derive(Clone, Debug)]
enum Action {
    Put {
        key: u8,
        len: usize,
    },
    Delete(u8),
    Checkpoint(u8),
    Lose(u8),
    /// A clean stop and a start; the lost drive comes back wiped.
    Restart,
    /// The same without the stop.
    Kill,
}

fn action() -> impl Strategy<Value = Action> {
    let len = prop_oneof![
        6 => 0..3000usize,
        2 => 60_000..70_000usize,
        1 => Just(700_000),
    ];
    let key = 0..KEYS;
    prop_oneof![
        12 => (key.clone(), len).prop_map(|(key, len)| Action::Put { key, len }),
        6 => key.prop_map(Action::Delete),
        3 => (0..3u8).prop_map(Action::Checkpoint),
        2 => (0..3u8).prop_map(Action::Lose),
        1 => Just(Action::Restart),
        2 => Just(Action::Kill),
    ]
}

const KEYS: u8 = 10;

/// What a key may have: several where a change failed, or its drive was lost.
type Model = BTreeMap<u8, Vec<Option<Vec<u8>>>>;

/// A store, what it must have, and which drive is lost.
struct World {
    store: Store,
    model: Model,
    lost: Option<u8>,
}

impl World {
    fn new(count: usize) -> Self {
        let model = (0..KEYS).map(|key| (key, vec![None])).collect();
        Self {
            store: Store::new(count),
            model,
            lost: None,
        }
    }

    fn changed(&mut self, key: u8, value: Option<Vec<u8>>, acknowledged: bool) {
        let allowed = self.model.entry(key).or_default();
        if acknowledged {
            allowed.clear();
        }
        allowed.push(value);
    }

    /// Compares everything. A store that has just started has made up its mind.
    fn check(&mut self, step: usize, started: bool) {
        for (key, allowed) in &mut self.model {
            let found = self.store.client.get(&[*key]);
            assert!(
                allowed.contains(&found),
                "step {step}: key {key} has {:?} bytes, which is none of {} possibilities",
                found.map(|value| value.len()),
                allowed.len()
            );
            if started {
                assert_eq!(self.store.client.exists(&[*key]), found.is_some());
                *allowed = vec![found];
            }
        }
    }

    fn lose(&mut self, drive: u8) {
        for (key, allowed) in &mut self.model {
            let hash = self.store.hash(&[*key]);
            let place = self.store.client.engine.shared.tables.index.get(hash);
            let hit = place.is_some_and(|at| at.drive_idx == drive || at.kind == KIND_STRIPES);
            if hit && !allowed.contains(&None) {
                allowed.push(None);
            }
        }
        self.store.lose(drive);
        self.lost = Some(drive);
    }

    fn run(mut self, actions: Vec<Action>) {
        for (step, action) in actions.into_iter().enumerate() {
            match action {
                Action::Put { key, len } => {
                    let value = value_of(step as u64, len);
                    let done = self.store.client.put(&[key], &value).is_ok();
                    self.changed(key, Some(value), done);
                }
                Action::Delete(key) => {
                    let done = self.store.client.delete(&[key]).is_ok();
                    self.changed(key, None, done);
                }
                Action::Checkpoint(drive) if usize::from(drive) < self.store.count => {
                    if self.lost != Some(drive) {
                        self.store.checkpoint(drive);
                    }
                }
                Action::Lose(drive) if usize::from(drive) < self.store.count => {
                    if self.lost.is_none() {
                        self.lose(drive);
                    }
                }
                Action::Restart | Action::Kill => {
                    let wiped: Vec<usize> = self.lost.take().map(usize::from).into_iter().collect();
                    self.store = match action {
                        Action::Kill => self.store.kill_and_wipe(&wiped),
                        _ => self.store.stop_and_wipe(&wiped),
                    };
                    self.check(step, true);
                }
                Action::Checkpoint(_) | Action::Lose(_) => {}
            }
            self.check(step, false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn losses_rejoins_and_kills_lose_nothing_else_and_bring_nothing_stale_back(
        count in 2..4usize,
        actions in prop::collection::vec(action(), 1..50),
    ) {
        World::new(count).run(actions);
    }
}
