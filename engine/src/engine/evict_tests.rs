//! Striped values on drives that evict: whole or gone, and everybody says the same of them.

use std::time::Duration;

use super::harness::{Client, crc_of, value_of};
use super::tests::files;
use crate::{Attrs, CompletionResult, Condition, EngineConfig, Put, PutError, Step, Sync, Token};

const LEN: usize = 5 << 19;
const PUTS: u64 = 100;

fn open(dir: &tempfile::TempDir, drives: usize, sync: Sync) -> Client {
    Client::open(EngineConfig {
        sync,
        ..files(dir.path(), drives, 32 << 20)
    })
}

fn is_indexed(client: &Client, key: &[u8]) -> bool {
    let tables = &client.engine.shared.tables;
    tables.locate(tables.hasher.hash(0, key)).is_some()
}

/// Values of many keys, of which few bytes are made up.
struct Values(Vec<u8>);

impl Values {
    fn new() -> Self {
        Self(value_of(1, LEN + 4096))
    }

    fn of(&self, key: u64) -> &[u8] {
        &self.0[key as usize..][..LEN]
    }
}

/// What a conditional put says of a key, which it leaves alone.
fn condition_finds(client: &Client, key: &[u8]) -> bool {
    let never = Condition::IfVersion(u64::MAX);
    match client.put_with(0, key, b"other", Attrs::default(), never) {
        Err(PutError::ConditionFailed { current }) => current.is_some(),
        other => panic!("{other:?}"),
    }
}

/// Puts more than the drives hold, one key again and again among others.
fn evicts_whole_values(drives: usize, sync: Sync) {
    let dir = tempfile::tempdir().expect("dir");
    let (client, values) = (open(&dir, drives, sync), Values::new());
    for key in 0..PUTS {
        client.put(&key.to_le_bytes(), values.of(key)).expect("put");
        if key.is_multiple_of(3) {
            let again = values.of(1000 + key);
            client.put(b"again", again).expect("put");
            assert!(
                client.get(b"again").as_deref() == Some(again),
                "at key {key}"
            );
        }
    }
    let keys = || (0..PUTS).map(u64::to_le_bytes);
    let left = keys().filter(|key| is_indexed(&client, key)).count() as u64;
    assert!(is_indexed(&client, b"again"), "its last value is new");
    assert!(left > 3 && left < PUTS / 2, "{left} left");
    let tables = &client.engine.shared.tables;
    assert_eq!(tables.stripes.len() as u64, left + 1, "lists of none else");
    let status = client.engine.status();
    // Of the key that was put again, a value may have gone before the next one came.
    let gone = PUTS - left..=PUTS - left + PUTS / 3;
    assert!(gone.contains(&status.evictions), "{status:?}, {left} left");
    assert_eq!(status.never_read_bytes, status.evictions * LEN as u64);
    for key in 0..PUTS {
        // At once, because a read evicts from RAM.
        let said = client.exists(&key.to_le_bytes());
        let condition = condition_finds(&client, &key.to_le_bytes());
        let found = client.get(&key.to_le_bytes());
        assert_eq!(
            (said, condition),
            (found.is_some(), found.is_some()),
            "{key}"
        );
        assert!(found.is_none_or(|found| found == values.of(key)), "{key}");
    }
}

#[test]
fn striped_values_are_evicted_whole_and_exists_conditions_reads_and_counters_agree() {
    evicts_whole_values(1, Sync::Everysec);
}

#[test]
fn striped_values_among_drives_are_evicted_whole_too() {
    evicts_whole_values(2, Sync::Everysec);
    evicts_whole_values(3, Sync::No);
}

#[test]
fn a_value_whose_first_part_is_evicted_while_it_is_put_is_gone_with_its_commit() {
    let dir = tempfile::tempdir().expect("dir");
    let client = open(&dir, 2, Sync::No);
    let (value, values) = (value_of(1, 3 << 20), Values::new());
    let put = Put {
        namespace: 0,
        key: b"slow",
        len: value.len() as u64,
        attrs: Attrs::default(),
        condition: Condition::None,
    };
    let mut lease = client.reserve(&put).expect("lease");
    let first = lease.window().end as usize;
    assert!(first < value.len(), "a second window");
    lease.copy_from(0, &value[..first]);
    let step = lease.advance(&client.queue, Token(7)).expect("advance");
    let mut lease = match step {
        Step::Ready(lease) => lease,
        Step::Pending => match client.wait().result {
            CompletionResult::Advanced(lease) => lease.expect("advance"),
            other => panic!("{other:?}"),
        },
    };
    let before = client.engine.status().evictions;
    for key in 0..60u64 {
        let other = values.of(key);
        client.put(&key.to_le_bytes(), other).expect("put");
    }
    lease.copy_from(first as u64, &value[first..]);
    let step = lease.commit(crc_of(&value), &client.queue, Token(8));
    if let Step::Pending = step.expect("commit") {
        let done = client.wait().result;
        assert!(
            matches!(done, CompletionResult::Committed(Ok(_))),
            "{done:?}"
        );
    }
    assert!(!is_indexed(&client, b"slow"));
    assert!(!client.exists(b"slow"));
    assert_eq!(client.get(b"slow"), None);
    let keys = (0..60).map(u64::to_le_bytes);
    let left = keys.filter(|key| is_indexed(&client, key)).count() as u64;
    let evictions = client.engine.status().evictions - before;
    assert_eq!(evictions, 60 - left + 1, "its own is one");
}

#[test]
fn the_end_of_a_striped_value_leaves_the_newer_one_of_its_key_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let client = open(&dir, 2, Sync::No);
    client.put(b"key", &value_of(1, LEN)).expect("put");
    let shared = &client.engine.shared;
    let hash = shared.tables.hasher.hash(0, b"key");
    let older = shared.tables.stripes.get(hash).expect("striped");
    client.put(b"key", &value_of(2, LEN)).expect("put");
    assert!(!shared.purge_stripes(&older), "there is a newer one");
    assert!(client.exists(b"key"));
    assert!(client.get(b"key") == Some(value_of(2, LEN)));
    let newer = shared.tables.stripes.get(hash).expect("striped");
    assert!(shared.purge_stripes(&newer), "it was there");
    assert!(!shared.purge_stripes(&newer), "once");
    assert!(!is_indexed(&client, b"key"));
    assert_eq!(shared.tables.stripes.len(), 0);
    let stopped = client.engine.shutdown(Duration::from_secs(20));
    stopped.expect("clean stop");
}
