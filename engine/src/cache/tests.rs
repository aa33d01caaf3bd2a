use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::slab::{NoObserver, PoolConfig, RegionConfig, RegionTier, SlabPool};

fn pool() -> SlabPool {
    pool_of(8 << 20)
}

fn pool_of(bytes: usize) -> SlabPool {
    let config = MappingConfig {
        bytes,
        pages: PagePolicy::Plain,
        numa_node: None,
        prefault_threads: 0,
    };
    let mapping = Mapping::new(&config).unwrap();
    let regions = vec![RegionConfig {
        mapping,
        tier: RegionTier::Fast,
    }];
    let config = PoolConfig {
        slab_bytes: 64 << 10,
        regions,
        double_free_trace: false,
    };
    SlabPool::new(config, Arc::new(NoObserver)).unwrap()
}

fn cache(capacity_bytes: usize, shards: usize) -> Cache<u64> {
    Cache::new(&CacheConfig {
        capacity_bytes,
        small_percent: 30,
        shards,
    })
}

fn key(name: &[u8; 8]) -> CacheKey<'_> {
    let number = u128::from(u64::from_le_bytes(*name));
    let hash = KeyHash(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
    CacheKey {
        hash,
        namespace: 0,
        key: name,
    }
}

/// Inserts 1 KiB for key `number`; the keys that left.
fn insert(cache: &Cache<u64>, pool: &SlabPool, number: u64, keep: bool) -> Vec<u64> {
    let memory = pool.try_lease(1024).unwrap().unwrap().freeze();
    let mut left = Vec::new();
    let name = number.to_le_bytes();
    cache.insert(&key(&name), memory, number, keep, &mut |gone| {
        left.push(gone.meta)
    });
    left
}

fn get(cache: &Cache<u64>, number: u64) -> bool {
    cache.get(&key(&number.to_le_bytes())).is_some()
}

#[test]
fn the_oldest_unread_value_leaves_first_whatever_its_shard() {
    for shards in [1, 16] {
        let (pool, cache) = (pool(), cache(10 << 10, shards));
        (0..10).for_each(|number| assert!(insert(&cache, &pool, number, false).is_empty()));
        assert!(get(&cache, 0));
        assert_eq!(insert(&cache, &pool, 10, false), [1]);
        assert_eq!(insert(&cache, &pool, 11, false), [2]);
        assert!(get(&cache, 0));
        assert_eq!(cache.counts().never_read_bytes, 2048);
    }
}

#[test]
fn a_scan_does_not_flush_what_is_read_again() {
    let (pool, cache) = (pool(), cache(100 << 10, 4));
    (0..60).for_each(|number| _ = insert(&cache, &pool, number, false));
    assert!((0..60).all(|number| get(&cache, number)));
    (1000..3000).for_each(|number| _ = insert(&cache, &pool, number, false));
    assert!((0..60).all(|number| get(&cache, number)));
}

#[test]
fn a_key_that_comes_back_from_the_ghost_skips_probation() {
    let (pool, cache) = (pool(), cache(10 << 10, 1));
    (0..11).for_each(|number| _ = insert(&cache, &pool, number, false));
    assert!(!get(&cache, 0));
    insert(&cache, &pool, 0, false);
    (100..106).for_each(|number| _ = insert(&cache, &pool, number, false));
    (200..220).for_each(|number| _ = insert(&cache, &pool, number, false));
    assert!(get(&cache, 0));
}

#[test]
fn evicting_frees_pool_memory_and_counts_it() {
    let (pool, cache) = (pool(), cache(1 << 20, 4));
    (0..200).for_each(|number| _ = insert(&cache, &pool, number, false));
    assert_eq!(pool.counts().slot_bytes, 200 << 10);
    assert_eq!(cache.evict(50 << 10, &mut drop), 50 << 10);
    assert_eq!(pool.counts().slot_bytes, 150 << 10);
    assert_eq!(cache.evict(usize::MAX, &mut drop), 150 << 10);
    let counts = cache.counts();
    assert_eq!(
        (counts.entries, counts.bytes, counts.evictions),
        (0, 0, 200)
    );
    assert_eq!(pool.counts().free, pool.counts().capacity);
}

#[test]
fn small_values_that_fill_the_pool_give_up_whole_slabs_within_bounds() {
    const LEASE: usize = 4 << 20; // 64 slabs of 384
    let (pool, cache) = (pool_of(24 << 20), cache(24 << 20, 4));
    // In main, in an order that has nothing to do with where they lie.
    let count = 24 << 10;
    (0..count).for_each(|number| _ = insert(&cache, &pool, number, false));
    (0..count).for_each(|step| assert!(get(&cache, step)));
    (0..count).for_each(|step| {
        let name = (step * 4099 % count).to_le_bytes();
        let hit = cache.remove(&key(&name)).unwrap();
        cache.insert(&key(&name), hit.memory, hit.meta, false, &mut drop);
    });
    assert_eq!(pool.counts().free, 0);
    let mut evicted = 0;
    assert!(pool.try_lease(LEASE).unwrap().is_none());
    cache.make_room(&pool, LEASE, &mut |_| evicted += 1);
    assert!(
        pool.try_lease(LEASE).unwrap().is_some(),
        "{:?}",
        pool.counts()
    );
    assert!(evicted <= 2 * LEASE / 1024, "{evicted} values gave way");
    let counts = cache.counts();
    assert_eq!(counts.entries, count as usize - evicted);
    assert_eq!(counts.bytes, counts.entries * 1024);
}

#[test]
fn a_slab_with_a_kept_value_in_it_is_not_emptied_for_nothing() {
    let (pool, cache) = (pool(), cache(8 << 20, 4));
    // One kept value in each slab but the last two.
    let kept = |number: u64| number.is_multiple_of(64) && number < (126 << 6);
    (0..8 << 10).for_each(|number| _ = insert(&cache, &pool, number, kept(number)));
    cache.make_room(&pool, 2 * (64 << 10), &mut drop);
    assert!(
        pool.try_lease(2 * (64 << 10)).unwrap().is_some(),
        "{:?}",
        pool.counts()
    );
    assert!((0..126).all(|slab| get(&cache, slab << 6)));
    assert_eq!(cache.make_room(&pool, 64 << 10, &mut drop), 64 << 10);
}

#[test]
fn kept_values_are_never_evicted() {
    let (pool, cache) = (pool(), cache(4 << 10, 2));
    (0..6).for_each(|number| _ = insert(&cache, &pool, number, true));
    assert_eq!(cache.evict(usize::MAX, &mut drop), 0);
    assert!((0..6).all(|number| get(&cache, number)));
}

#[test]
fn a_key_with_anothers_hash_is_a_miss_and_takes_its_place() {
    let (pool, cache) = (pool(), cache(1 << 20, 1));
    insert(&cache, &pool, 1, false);
    let other = CacheKey {
        key: b"other",
        ..key(&1u64.to_le_bytes())
    };
    assert!(cache.get(&other).is_none());
    let memory = pool.try_lease(64).unwrap().unwrap().freeze();
    let mut left = Vec::new();
    assert!(
        cache
            .insert(&other, memory, 2, false, &mut |gone| left.push(gone.meta))
            .is_none()
    );
    assert_eq!(left, [1]);
    assert!(cache.get(&other).is_some() && !get(&cache, 1));
}

#[test]
fn remove_if_leaves_a_newer_value_alone() {
    let (pool, cache) = (pool(), cache(1 << 20, 1));
    insert(&cache, &pool, 1, false);
    let name = 1u64.to_le_bytes();
    assert!(cache.remove_if(&key(&name), |meta| *meta == 9).is_none());
    assert_eq!(
        cache
            .remove_if(&key(&name), |meta| *meta == 1)
            .unwrap()
            .meta,
        1
    );
    assert_eq!(cache.counts().bytes, 0);
}

#[test]
fn threads_never_exceed_the_capacity_or_lose_count() {
    let (pool, cache) = (pool(), cache(1 << 20, 8));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (pool, cache) = (&pool, &cache);
            scope.spawn(move || {
                for round in 0..5_000u64 {
                    let number = (round * 7 + thread * 13) % 3_000;
                    match round % 5 {
                        0 => _ = cache.remove(&key(&number.to_le_bytes())),
                        1 | 2 => _ = get(cache, number),
                        _ => _ = insert(cache, pool, number, false),
                    }
                }
            });
        }
    });
    let counts = cache.counts();
    assert!(counts.bytes <= 1 << 20);
    assert_eq!(counts.bytes, counts.entries * 1024);
    assert_eq!(pool.counts().slot_bytes, counts.bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// What it holds is what was put last, less what it said that it evicted.
    #[test]
    fn it_behaves_like_a_map_that_says_what_it_drops(
        ops in prop::collection::vec((0u64..120, 0u8..8, 1usize..6_000), 1..600),
        shards in 1usize..5,
    ) {
        const CAPACITY: usize = 128 << 10;
        let (pool, cache) = (pool(), cache(CAPACITY, shards));
        // Key → (version, bytes, kept).
        let mut model: HashMap<u64, (u64, usize, bool)> = HashMap::new();
        for (version, (number, op, len)) in (0u64..).zip(ops) {
            let name = number.to_le_bytes();
            let key = key(&name);
            let mut left = Vec::new();
            let mut note = |gone: Evicted<u64>| {
                left.push((u64::from_le_bytes((&*gone.key).try_into().unwrap()), gone.meta));
            };
            let before = model.get(&number).map(|(version, ..)| *version);
            match op {
                0..4 => {
                    let memory = pool.try_lease(len).unwrap().unwrap().freeze();
                    // A few that stay: 16 of at most 6 KiB.
                    let (bytes, keep) = (memory.charged_bytes(), number < 16 && op == 0);
                    let replaced = cache.insert(&key, memory, version, keep, &mut note);
                    prop_assert_eq!(replaced.map(|hit| hit.meta), before);
                    model.insert(number, (version, bytes, keep));
                }
                4 => {
                    prop_assert_eq!(cache.remove(&key).map(|hit| hit.meta), before);
                    model.remove(&number);
                }
                5 => _ = cache.evict(len, &mut note),
                6 => _ = cache.make_room(&pool, len * 8, &mut note),
                _ => prop_assert_eq!(cache.get(&key).map(|hit| hit.meta), before),
            }
            for (number, version) in left {
                let gone = model.remove(&number);
                prop_assert!(gone.is_some_and(|(now, _, kept)| now == version && !kept));
            }
            let counts = cache.counts();
            let bytes = model.values().map(|(_, bytes, _)| bytes).sum::<usize>();
            prop_assert_eq!((counts.entries, counts.bytes), (model.len(), bytes));
            prop_assert!(counts.bytes <= CAPACITY);
        }
        for (number, (version, ..)) in &model {
            let hit = cache.peek(&key(&number.to_le_bytes())).map(|hit| hit.meta);
            prop_assert_eq!(hit, Some(*version));
        }
    }
}
