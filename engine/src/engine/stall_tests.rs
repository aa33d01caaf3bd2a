//! States in which everybody could wait for somebody else.

use super::fake::World;
use super::harness::{Client, crc_of, value_of};
use super::tests::files;
use crate::entry::OwnedPut;
use crate::lease::WriteLease;
use crate::{
    Attrs, CompletionResult, Condition, EngineConfig, GetError, Put, PutError, Step, Token,
};

/// Puts values of about 100 bytes with their headers, many at once so that they are packed: the
/// checkpoint is full of them long before the drive is. Returns how many were taken.
fn put_tiny(client: &Client, keys: std::ops::Range<u64>) -> usize {
    let (mut taken, mut out) = (0, Vec::new());
    let keys: Vec<u64> = keys.collect();
    for keys in keys.chunks(500) {
        for key in keys {
            let key = key.to_le_bytes();
            let mut lease = client.reserve(&put(&key, 10)).expect("reserve");
            lease.copy_from(0, b"ten bytes.");
            let step = lease.commit(crc_of(b"ten bytes."), &client.queue, Token(1));
            assert!(matches!(step, Ok(Step::Pending)), "{step:?}");
        }
        while out.len() < keys.len() {
            let wait = std::time::Duration::from_secs(20);
            assert!(client.queue.wait(wait).expect("poll"), "puts are stuck");
            client.queue.drain(&mut out);
        }
        for completion in out.drain(..) {
            match completion.result {
                CompletionResult::Committed(Ok(_)) => taken += 1,
                CompletionResult::Committed(Err(PutError::NoSpace { .. })) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    taken
}

#[test]
fn full_index_evicts_although_segments_are_free() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        sync: crate::Sync::No,
        ..files(dir.path(), 1, 16 << 20)
    };
    let client = Client::open(config.clone());
    assert_eq!(put_tiny(&client, 0..30_000), 30_000);
    let status = client.engine.status();
    assert!(status.evictions > 1000, "{status:?}");
    let capacity = status.drives[0].capacity_bytes;
    assert!(status.drives[0].used_bytes < capacity / 2, "{status:?}");
    let newest = 29_999u64.to_le_bytes();
    assert_eq!(client.get(&newest).as_deref(), Some(&b"ten bytes."[..]));
    client
        .engine
        .shutdown(std::time::Duration::from_secs(20))
        .expect("clean stop");
    let client = Client::open(config);
    assert_eq!(client.get(&newest).as_deref(), Some(&b"ten bytes."[..]));
}

#[test]
fn value_that_left_its_drive_exists_as_long_as_ram_serves_it() {
    let dir = tempfile::tempdir().expect("dir");
    let client = Client::open(files(dir.path(), 1, 16 << 20));
    let is_on_drive = || {
        let tables = &client.engine.shared.tables;
        tables.locate(tables.hasher.hash(0, b"hot")).is_some()
    };
    client.put(b"hot", &value_of(0, 1000)).expect("put");
    // Whoever reads it all the time keeps it in RAM while others fill the drive.
    let mut key = 0u64;
    while is_on_drive() {
        key += 1;
        assert!(key < 1000, "its segment is never reclaimed");
        let other = value_of(key, 60_000);
        client.put(&key.to_le_bytes(), &other).expect("put");
        assert!(client.get(b"hot") == Some(value_of(0, 1000)), "put {key}");
    }
    assert!(client.exists(b"hot") && client.get(b"hot").is_some());
    assert!(client.delete(b"hot").expect("delete"));
    assert!(!client.exists(b"hot") && client.get(b"hot").is_none());
}

#[test]
fn full_index_of_long_keys_evicts_too() {
    let dir = tempfile::tempdir().expect("dir");
    let client = Client::open(files(dir.path(), 1, 16 << 20));
    for seed in 0..400u64 {
        let mut key = vec![7; 60_000];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        client.put(&key, &value_of(seed, 65_536)).expect("put");
        assert!(client.get(&key) == Some(value_of(seed, 65_536)));
    }
    assert!(client.engine.status().evictions > 100);
}

#[test]
fn full_index_without_eviction_is_no_space() {
    let dir = tempfile::tempdir().expect("dir");
    let config = EngineConfig {
        sync: crate::Sync::No,
        eviction: false,
        ..files(dir.path(), 1, 16 << 20)
    };
    let client = Client::open(config);
    let there = put_tiny(&client, 0..30_000);
    assert!((5000..20_000).contains(&there), "{there} entries fit");
    let error = client.put(b"another", b"ten bytes.").expect_err("full");
    assert!(matches!(error, PutError::NoSpace { .. }), "{error:?}");
    assert!(client.delete(&0u64.to_le_bytes()).expect("delete"));
}

#[test]
fn value_that_a_smaller_pool_cannot_hold_is_an_error_not_a_wait() {
    let dir = tempfile::tempdir().expect("dir");
    let roomy = EngineConfig {
        extent_bytes: 4 << 20,
        pool_bytes: 64 << 20,
        ..files(dir.path(), 1, 1 << 30)
    };
    let client = Client::open(roomy.clone());
    client.put(b"key", &value_of(1, 4 << 20)).expect("put");
    client
        .engine
        .shutdown(std::time::Duration::from_secs(20))
        .expect("clean stop");
    let client = Client::open(EngineConfig {
        pool_bytes: 2 << 20,
        ..roomy
    });
    let error = client.get_in(0, b"key").expect_err("the pool has 2 MiB");
    let GetError::Io { source, .. } = error else {
        panic!("{error:?}")
    };
    assert!(
        source.to_string().contains("raise memory.max_size"),
        "{source}"
    );
}

fn put(key: &[u8], len: u64) -> Put<'_> {
    Put {
        namespace: 0,
        key,
        len,
        attrs: Attrs::default(),
        condition: Condition::None,
    }
}

fn reserve(world: &World, key: &[u8], len: u64) -> WriteLease {
    let step = world
        .shared
        .reserve(world.sender(), Token(1), &put(key, len));
    match step {
        Ok(Step::Ready(lease)) => lease,
        other => panic!("{other:?}"),
    }
}

/// What a caller has seen when it found no memory and queues for some, while the last of what
/// is being written becomes evictable in between.
#[test]
fn waiter_that_queues_after_the_last_value_became_evictable_gets_its_memory() {
    let config = EngineConfig {
        slab_bytes: 64 << 10,
        ..EngineConfig::memory(2 << 20)
    };
    let world = World::new(config, 16 << 20, 1);
    let mut first = reserve(&world, b"first", 2 << 20);
    assert!(
        world.shared.tables.lease_now(1000).is_none(),
        "all is leased"
    );
    let value = value_of(1, 2 << 20);
    first.copy_from(0, &value);
    let sender = world.sender();
    let committed = world.shared.commit(first, crc_of(&value), sender, Token(2));
    assert!(matches!(committed, Ok(Step::Ready(_))), "{committed:?}");
    let second = OwnedPut {
        hash: world.shared.tables.hasher.hash(0, b"second"),
        namespace: 0,
        key: b"second"[..].into(),
        len: 1000,
        attrs: Attrs::default(),
        condition: Condition::None,
    };
    let step = world
        .shared
        .wait_for_memory(world.sender(), Token(3), second);
    if let Ok(Step::Ready(_)) = step {
        return;
    }
    let done = world
        .queue
        .0
        .lock()
        .pop()
        .expect("the first one is evicted");
    assert_eq!(done.token, Token(3));
    let CompletionResult::Reserved(Ok(_)) = done.result else {
        panic!("{done:?}")
    };
}
