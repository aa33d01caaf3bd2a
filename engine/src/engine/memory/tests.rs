use memkv_telemetry::{EvictionReason, SlabState};

use crate::engine::harness::{Client, crc_of, value_of};
use crate::{
    Attrs, Class, CompletionResult, Condition, Engine, EngineConfig, EngineMetrics, HugePages, Put,
    PutError, Step, Token,
};

fn small() -> EngineConfig {
    EngineConfig {
        slab_bytes: 64 << 10,
        ..EngineConfig::memory(8 << 20)
    }
}

#[test]
fn value_is_read_as_it_was_put() {
    let client = Client::open(small());
    for len in [0, 1, 100, 4096, 65_535, 65_536, 65_537, 1 << 20] {
        let value = value_of(len as u64, len);
        client.put(b"key", &value).expect("put");
        assert_eq!(
            client.get(b"key").as_deref(),
            Some(&value[..]),
            "{len} bytes"
        );
        assert!(client.exists(b"key"));
    }
    assert!(client.delete(b"key").expect("delete"));
    assert_eq!(client.get(b"key"), None);
    assert!(!client.exists(b"key"));
    assert!(!client.delete(b"key").expect("delete"));
}

#[test]
fn lease_outlives_overwrite_and_delete() {
    let client = Client::open(small());
    client.put(b"key", b"old").expect("put");
    let lease = client.lease(0, b"key").expect("get").expect("a hit");
    client.put(b"key", b"new").expect("put");
    client.delete(b"key").expect("delete");
    assert_eq!(lease.pieces().collect::<Vec<_>>().concat(), b"old");
}

#[test]
fn full_store_evicts_what_is_oldest_and_counts_it() {
    let client = Client::open(small());
    for idx in 0..200u32 {
        client
            .put(&idx.to_le_bytes(), &value_of(idx.into(), 100_000))
            .expect("put");
    }
    let there = (0..200u32)
        .filter(|idx| client.exists(&idx.to_le_bytes()))
        .count();
    assert!(
        (40..84).contains(&there),
        "{there} of 200 values of 100 kB fit in 8 MiB"
    );
    let status = client.engine.status();
    assert_eq!(status.evictions, 200 - there as u64);
    assert_eq!(status.never_read_bytes, status.evictions * 100_000);
    for idx in 0..200u32 {
        if client.exists(&idx.to_le_bytes()) {
            let value = client
                .get(&idx.to_le_bytes())
                .expect("what exists can be read");
            assert_eq!(value, value_of(idx.into(), 100_000));
        }
    }
}

#[test]
fn full_store_without_eviction_says_no_space_until_something_is_deleted() {
    let client = Client::open(EngineConfig {
        eviction: false,
        ..small()
    });
    let mut count = 0u32;
    let error = loop {
        match client.put(&count.to_le_bytes(), &value_of(1, 1 << 20)) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, PutError::NoSpace { .. }), "{error:?}");
    assert_eq!(count, 8);
    assert!(client.delete(&3u32.to_le_bytes()).expect("delete"));
    client
        .put(b"again", &value_of(2, 1 << 20))
        .expect("there is room again");
    assert!(client.exists(&0u32.to_le_bytes()), "nothing was evicted");
}

#[test]
fn durable_values_are_not_evicted() {
    let client = Client::open(small());
    let durable = Attrs {
        class: Class::Durable,
        ..Attrs::default()
    };
    client
        .put_with(0, b"keep", &[1; 100_000], durable, Condition::None)
        .expect("put");
    for idx in 0..200u32 {
        client.put(&idx.to_le_bytes(), &[2; 100_000]).expect("put");
    }
    assert_eq!(client.get(b"keep").as_deref(), Some(&[1; 100_000][..]));
}

#[test]
fn conditions_are_kept() {
    let client = Client::open(small());
    let put =
        |value: &[u8], condition| client.put_with(0, b"key", value, Attrs::default(), condition);
    let failed = |result| match result {
        Err(PutError::ConditionFailed { current }) => current,
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(put(b"x", Condition::IfVersion(1))), None);
    let first = put(b"1", Condition::IfAbsent).expect("absent").version;
    assert_eq!(failed(put(b"x", Condition::IfAbsent)), Some(first));
    let second = put(b"2", Condition::IfVersion(first))
        .expect("the right version")
        .version;
    assert!(second > first);
    assert_eq!(failed(put(b"x", Condition::IfVersion(first))), Some(second));
    assert_eq!(client.get(b"key").as_deref(), Some(&b"2"[..]));
}

#[test]
fn expired_entry_is_a_miss_and_counted_as_expired() {
    let metrics = EngineMetrics::detached();
    let client = Client::new(Engine::open(small(), metrics.clone()).expect("opens"));
    let attrs = Attrs {
        expiry_ms: 1,
        ..Attrs::default()
    };
    client
        .put_with(0, b"key", b"old", attrs, Condition::None)
        .expect("put");
    assert_eq!(client.get(b"key"), None);
    assert!(
        !client.exists(b"key"),
        "a read that found it expired removed it"
    );
    assert_eq!(metrics.evictions(EvictionReason::Expired), 1);
    client
        .put_with(0, b"key", b"new", Attrs::default(), Condition::IfAbsent)
        .expect("absent");
}

#[test]
fn namespaces_never_meet() {
    let client = Client::open(small());
    client
        .put_with(1, b"key", b"one", Attrs::default(), Condition::None)
        .expect("put");
    client
        .put_with(2, b"key", b"two", Attrs::default(), Condition::None)
        .expect("put");
    assert_eq!(
        client.get_in(1, b"key").expect("get").as_deref(),
        Some(&b"one"[..])
    );
    assert_eq!(
        client.get_in(2, b"key").expect("get").as_deref(),
        Some(&b"two"[..])
    );
    assert_eq!(client.get(b"key"), None);
}

#[test]
fn limits_are_typed() {
    let client = Client::open(small());
    assert!(matches!(
        client.put(b"", b"x"),
        Err(PutError::BadKey { len: 0, .. })
    ));
    assert!(matches!(
        client.put(&[1; 65_537], b"x"),
        Err(PutError::BadKey { .. })
    ));
    client.put(&[1; 65_536], b"x").expect("the longest key");
    let error = client
        .put(b"key", &vec![0; (8 << 20) + 1])
        .expect_err("above the capacity");
    assert!(matches!(
        error,
        PutError::TooLarge {
            len: 8_388_609,
            bound: 8_388_608,
            ..
        }
    ));
}

#[test]
fn values_up_to_the_capacity_are_stored_whole_and_evict_what_is_in_their_way() {
    let client = Client::open(small());
    for key in 0..50u32 {
        client
            .put(&key.to_le_bytes(), &value_of(key.into(), 100_000))
            .expect("put");
    }
    for len in [(2 << 20) + 1, 3 << 20, 5_000_001, (8 << 20) - 1, 8 << 20] {
        let value = value_of(len as u64, len);
        client.put(b"large", &value).expect("it fits");
        assert!(client.get(b"large") == Some(value), "{len} bytes");
    }
    assert!(!client.exists(&0u32.to_le_bytes()), "had to go");
    client.put(b"small", b"x").expect("put");
    assert_eq!(client.get(b"small").as_deref(), Some(&b"x"[..]));
    assert_eq!(client.get(b"large"), None, "had to go");
}

#[test]
fn two_values_that_fill_the_store_only_one_by_one_take_turns() {
    let client = Client::open(small());
    let put = |key: &'static [u8]| Put {
        namespace: 0,
        key,
        len: 6 << 20,
        attrs: Attrs::default(),
        condition: Condition::None,
    };
    let mut first = client.reserve(&put(b"first")).expect("reserve");
    let step = client
        .engine
        .reserve(&client.queue, Token(1), &put(b"second"));
    assert!(matches!(step, Ok(Step::Pending)), "{step:?}");
    let value = value_of(1, 6 << 20);
    first.copy_from(0, &value);
    let step = first.commit(crc_of(&value), &client.queue, Token(2));
    assert!(matches!(step, Ok(Step::Ready(_))), "{step:?}");
    let CompletionResult::Reserved(Ok(mut second)) = client.wait().result else {
        panic!("the first one gave way")
    };
    second.copy_from(0, &value);
    let step = second.commit(crc_of(&value), &client.queue, Token(3));
    assert!(matches!(step, Ok(Step::Ready(_))), "{step:?}");
    assert!(!client.exists(b"first"));
    assert!(client.get(b"second") == Some(value));
}

/// The pool's slabs by use, as they are counted: free, leased, hot, stored.
fn slabs(client: &Client, metrics: &EngineMetrics) -> [u64; 4] {
    client.engine.refresh_gauges();
    let states = [
        SlabState::Free,
        SlabState::Leased,
        SlabState::Hot,
        SlabState::Stored,
    ];
    states.map(|state| metrics.slabs(state))
}

#[test]
fn slabs_are_counted_by_their_use_and_add_up_to_the_pool() {
    let dir = tempfile::tempdir().expect("dir");
    let on_drives = crate::engine::tests::files(dir.path(), 1, 32 << 20);
    for (config, slab) in [(small(), 64 << 10), (on_drives, 256 << 10)] {
        let metrics = EngineMetrics::detached();
        let in_memory = config.drives.is_empty();
        let client = Client::new(Engine::open(config, metrics.clone()).expect("opens"));
        let all = (8 << 20) / slab;
        assert_eq!(slabs(&client, &metrics), [all, 0, 0, 0]);
        let put = Put {
            namespace: 0,
            key: b"key",
            len: 3 * slab,
            attrs: Attrs::default(),
            condition: Condition::None,
        };
        let lease = client.reserve(&put).expect("reserve");
        assert_eq!(slabs(&client, &metrics), [all - 3, 3, 0, 0]);
        drop(lease);
        client
            .put(b"key", &value_of(1, 3 * slab as usize))
            .expect("put");
        let kept = if in_memory { [0, 3] } else { [3, 0] };
        assert_eq!(slabs(&client, &metrics), [all - 3, 0, kept[0], kept[1]]);
    }
}

#[test]
fn pool_that_cannot_be_mapped_is_told_by_the_field_that_sets_its_size() {
    let config = EngineConfig {
        // More than anybody has reserved.
        huge_pages: HugePages::Required,
        ..EngineConfig::memory(1 << 44)
    };
    let error = Engine::open(config, EngineMetrics::detached()).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "map the pool of 17592186044416 bytes (storage.max_size)"
    );
}

#[test]
fn value_of_256_mib_is_stored_in_512_mib_and_read_back() {
    let client = Client::open(EngineConfig::memory(512 << 20));
    // One pattern of an odd length, so that no two pages look alike.
    let pattern = value_of(1, (1 << 20) - 1);
    let value: Vec<u8> = pattern.iter().copied().cycle().take(256 << 20).collect();
    client.put(b"large", &value).expect("it fits");
    let lease = client.lease(0, b"large").expect("get").expect("a hit");
    assert_eq!(lease.window(), 0..256 << 20);
    let mut at = 0;
    for piece in lease.pieces() {
        assert!(piece == &value[at..at + piece.len()], "at {at}");
        at += piece.len();
    }
    assert_eq!(at, value.len());
}
