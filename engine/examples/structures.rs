//! Measures the engine's in-memory structures: nanoseconds per operation, bytes per key.
//!
//! ```text
//! cargo run --release -p memkv-engine --example structures -- [million keys] [part ...]
//! ```
//!
//! Parts are `index`, `pool` and `cache`; without any, all run. Figures are CPU time of a thread,
//! and the fastest of several runs where that can be repeated; what else the machine does still
//! shows in them, by the caches it takes. Only the longest insertions are wall-clock time.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use memkv_engine::structures::{
    Cache, CacheConfig, CacheKey, Cursor, If, Index, IndexConfig, KeyHash, KeyHasher, Location,
    Mapping, MappingConfig, NoObserver, PagePolicy, PoolConfig, RegionConfig, RegionTier, SlabPool,
    StoreKey,
};

const SLAB_BYTES: usize = 2 << 20;
const LOOKUPS: usize = 1_000_000;
const RUNS: usize = 5;

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    let millions = args.peek().and_then(|arg| arg.parse::<f64>().ok());
    if millions.is_some() {
        args.next();
    }
    let parts: Vec<String> = args.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|given| given == part);
    if wanted("index") {
        index((millions.unwrap_or(1.0) * 1e6) as usize);
    }
    if wanted("pool") {
        pool();
    }
    if wanted("cache") {
        cache();
    }
}

fn print(what: &str, value: f64, unit: &str) {
    println!("{what:<44} {value:>10.1} {unit}");
}

/// What this thread has had of a CPU: other processes take turns with it on a busy machine.
fn cpu_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = times.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("the kernel counts CPU time (CONFIG_SCHED_INFO)"))
}

/// The fastest run's nanoseconds that each of `count` steps takes.
fn fastest_ns(count: usize, mut run: impl FnMut()) -> f64 {
    let mut runs: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = cpu_time();
            run();
            cpu_time() - start
        })
        .collect();
    runs.sort();
    runs[0].as_nanos() as f64 / count as f64
}

/// A full period walk over `0..modulus`, so that no order of insertion is repeated by lookups.
fn shuffled(hashes: &[KeyHash], count: usize) -> Vec<KeyHash> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            hashes[(state >> 33) as usize % hashes.len()]
        })
        .collect()
}

fn location(number: usize) -> Location {
    Location {
        drive_idx: 0,
        segment_idx: number as u32 % 1000,
        offset: (number as u32 % (1 << 20)) << 4,
        generation: 0,
        kind: 1,
        hint: 7,
    }
}

fn index(keys: usize) {
    println!("index, {keys} keys, 64 shards");
    let hasher = KeyHasher::new(&StoreKey([3; 32]));
    let hashes: Vec<KeyHash> = (0..keys * 2)
        .map(|key| hasher.hash(0, &(key as u64).to_le_bytes()))
        .collect();
    let (present, absent) = hashes.split_at(keys);
    let index = Index::new(&IndexConfig {
        shards: 64,
        segments: vec![1000],
    });
    let start = cpu_time();
    for (number, hash) in present.iter().enumerate() {
        index.put(*hash, location(number), If::Always);
    }
    print(
        "insert",
        (cpu_time() - start).as_nanos() as f64 / keys as f64,
        "ns",
    );
    print("bytes per key", index.bytes() as f64 / keys as f64, "B");
    lookups(&index, present, absent);

    let some = shuffled(present, LOOKUPS);
    let ns = fastest_ns(LOOKUPS, || {
        for hash in &some {
            black_box(index.put(*hash, location(5), If::Always));
        }
    });
    print("replace", ns, "ns");
    let mut entries = Vec::with_capacity(1 << 16);
    let (mut cursor, mut seen, start) = (Some(Cursor::default()), 0, cpu_time());
    while let Some(at) = cursor {
        entries.clear();
        cursor = index.scan(at, 1000, &mut entries);
        seen += entries.len();
    }
    print(
        "scan, per entry",
        (cpu_time() - start).as_nanos() as f64 / seen as f64,
        "ns",
    );
    growth(present);
    two_threads(present);
}

fn lookups(index: &Index, present: &[KeyHash], absent: &[KeyHash]) {
    for (what, hashes) in [("present", present), ("absent", absent)] {
        let some = shuffled(hashes, LOOKUPS);
        let ns = fastest_ns(LOOKUPS, || {
            let mut last = 0u128;
            for hash in &some {
                // Each lookup waits for the one before it, as an op of its own would.
                let found = index.get(KeyHash(hash.0 ^ last));
                last = u128::from(black_box(found).is_some_and(|at| at.kind > 1));
            }
        });
        print(&format!("lookup single, {what}"), ns, "ns");
        let mut found = [None; 32];
        let ns = fastest_ns(LOOKUPS, || {
            for hashes in some.chunks_exact(32) {
                index.get_many(hashes, &mut found);
                black_box(&found);
            }
        });
        print(&format!("lookup 32-batched, {what}"), ns, "ns");
    }
}

fn growth(present: &[KeyHash]) {
    let index = Index::new(&IndexConfig {
        shards: 64,
        segments: vec![1000],
    });
    let mut times: Vec<u64> = present
        .iter()
        .map(|hash| {
            let start = Instant::now();
            index.put(*hash, location(1), If::Always);
            start.elapsed().as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    print("insert while growing, p99.9 of one", at(0.999), "us");
    print("insert while growing, p99.999 of one", at(0.99999), "us");
    print("insert while growing, longest", at(1.0), "us");
}

fn two_threads(present: &[KeyHash]) {
    let index = Index::new(&IndexConfig {
        shards: 64,
        segments: vec![1000],
    });
    let ns = on_two_threads(present.len() / 2, |thread| {
        let half = &present[thread * (present.len() / 2)..][..present.len() / 2];
        for (number, hash) in half.iter().enumerate() {
            index.put(*hash, location(number), If::Always);
        }
    });
    print("insert, 2 threads, per insert of a thread", ns, "ns");
    let some = shuffled(present, LOOKUPS);
    let ns = on_two_threads(LOOKUPS, |thread| match thread {
        0 => some.iter().for_each(|hash| _ = black_box(index.get(*hash))),
        _ => some
            .iter()
            .for_each(|hash| _ = index.put(*hash, location(1), If::Always)),
    });
    print("1 thread looks up, 1 replaces", ns, "ns");
}

/// Nanoseconds per step of the slower of two threads that start together.
fn on_two_threads(count: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(2);
    let times = std::thread::scope(|scope| {
        [0, 1]
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    let start = cpu_time();
                    work(thread);
                    cpu_time() - start
                })
            })
            .map(|handle| handle.join().expect("the work does not panic"))
    });
    times[0].max(times[1]).as_nanos() as f64 / count as f64
}

fn make_pool(bytes: usize) -> SlabPool {
    let mapping = Mapping::new(&MappingConfig {
        bytes,
        pages: PagePolicy::Prefer,
        numa_node: None,
        prefault_threads: 1,
    });
    let regions = vec![RegionConfig {
        mapping: mapping.expect("the machine has this much memory"),
        tier: RegionTier::Fast,
    }];
    let config = PoolConfig {
        slab_bytes: SLAB_BYTES,
        regions,
        double_free_trace: false,
    };
    SlabPool::new(config, Arc::new(NoObserver)).expect("the sizes fit together")
}

fn pool() {
    println!("pool, 256 MiB");
    let pool = make_pool(256 << 20);
    let lease = |len: usize, count: usize| {
        for _ in 0..count {
            black_box(
                pool.try_lease(len)
                    .expect("it fits")
                    .expect("the pool is empty"),
            );
        }
    };
    for (what, len) in [("1 KiB", 1024), ("a slab", SLAB_BYTES), ("4 MiB", 4 << 20)] {
        let ns = fastest_ns(LOOKUPS, || lease(len, LOOKUPS));
        print(&format!("lease and release {what}"), ns, "ns");
        let ns = on_two_threads(LOOKUPS, |_| lease(len, LOOKUPS));
        print(&format!("lease and release {what}, 2 threads"), ns, "ns");
    }
    let mut kept = Vec::with_capacity(100_000);
    let ns = fastest_ns(100_000, || {
        kept.clear();
        for _ in 0..100_000 {
            kept.push(pool.try_lease(1024).expect("it fits").expect("and is free"));
        }
    });
    print("lease 1 KiB, keep 100,000, release", ns, "ns");
}

fn cache() {
    const VALUES: u64 = 100_000;
    println!("cache, {VALUES} values of 1 KiB, 16 shards");
    let pool = make_pool(256 << 20);
    let hasher = KeyHasher::new(&StoreKey([3; 32]));
    let names: Vec<[u8; 16]> = (0..VALUES * 2)
        .map(|key| u128::from(key).to_le_bytes())
        .collect();
    let key = |number: u64| {
        let key = &names[number as usize];
        CacheKey {
            hash: hasher.hash(0, key),
            namespace: 0,
            key,
        }
    };
    let cache: Cache<[u64; 5]> = Cache::new(&CacheConfig {
        capacity_bytes: 128 << 20,
        small_percent: 30,
        shards: 16,
    });
    let insert = |number: u64| {
        let memory = pool
            .try_lease(1024)
            .expect("it fits")
            .expect("the tier is smaller");
        cache.insert(&key(number), memory.freeze(), [number; 5], false, &mut drop);
    };
    let start = cpu_time();
    (0..VALUES).for_each(insert);
    print(
        "lease and insert",
        (cpu_time() - start).as_nanos() as f64 / VALUES as f64,
        "ns",
    );
    let touch = |offset: u64, count: usize| {
        for step in 0..count as u64 {
            let number = (step * 7919 + offset) % VALUES;
            assert!(black_box(cache.get(&key(number))).is_some());
        }
    };
    print(
        "hit and touch",
        fastest_ns(LOOKUPS, || touch(0, LOOKUPS)),
        "ns",
    );
    let ns = on_two_threads(LOOKUPS, |thread| touch(thread as u64 * 50_000, LOOKUPS));
    print("hit and touch, 2 threads", ns, "ns");
    let ns = fastest_ns(100_000, || {
        for number in VALUES..VALUES * 2 {
            black_box(cache.get(&key(number)));
        }
    });
    print("miss", ns, "ns");
    // 131,072 of 1 KiB fit: each insert from here on evicts one.
    (VALUES..VALUES + VALUES / 2).for_each(insert);
    let ns = fastest_ns(VALUES as usize, || (0..VALUES).for_each(insert));
    print("lease, insert and evict or replace", ns, "ns");
}
