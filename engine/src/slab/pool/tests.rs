use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};

use proptest::prelude::*;

use super::*;
use crate::mapping::{MappingConfig, PagePolicy};
use crate::slab::lease::ReadMemory;

const SLAB: usize = 64 << 10;

fn pool_of(slab_bytes: usize, regions: &[usize]) -> SlabPool {
    observed(slab_bytes, regions, Arc::new(NoObserver))
}

fn observed(slab_bytes: usize, regions: &[usize], observer: Arc<dyn PoolObserver>) -> SlabPool {
    let region = |bytes: &usize| RegionConfig {
        mapping: Mapping::new(&MappingConfig {
            bytes: *bytes,
            pages: PagePolicy::Plain,
            numa_node: None,
            prefault_threads: 0,
        })
        .unwrap(),
        tier: RegionTier::Fast,
    };
    let regions = regions.iter().map(region).collect();
    let config = PoolConfig {
        slab_bytes,
        regions,
        double_free_trace: true,
    };
    SlabPool::new(config, observer).unwrap()
}

fn sum(counts: &SlabCounts) -> usize {
    counts.states().iter().map(|(_, count)| count).sum()
}

#[derive(Default)]
struct Inbox(Mutex<Vec<Grant>>);

impl GrantSink for Inbox {
    fn granted(&self, grant: Grant) {
        self.0.lock().push(grant);
    }
}

fn waiter(inbox: &Arc<Inbox>, token: u64) -> Waiter {
    Waiter {
        sink: Arc::clone(inbox) as Arc<dyn GrantSink>,
        token,
    }
}

fn tokens(inbox: &Inbox) -> Vec<u64> {
    inbox.0.lock().iter().map(|grant| grant.token).collect()
}

#[test]
fn a_million_values_of_one_kib_fit_in_1_3_gib() {
    const VALUES: usize = 1_000_000;
    let bytes = (13 << 30) / 10;
    let pool = pool_of(2 << 20, &[bytes]);
    let leases: Vec<WriteMemory> = (0..VALUES)
        .map(|_| pool.try_lease(1024).unwrap().expect("room"))
        .collect();
    let counts = pool.counts();
    assert_eq!(counts.slot_bytes, VALUES * 1024);
    assert!(
        counts.carved * pool.slab_bytes() <= bytes - bytes / 5,
        "{counts:?}"
    );
    drop(leases);
    assert_eq!(pool.counts().free, counts.capacity);
}

#[test]
fn size_classes_waste_at_most_a_fifth_from_256_bytes_to_a_third_of_a_slab() {
    for slab_bytes in [64 << 10, 1 << 20, 2 << 20, 16 << 20] {
        let classes = carve::classes(slab_bytes);
        assert!(classes.is_sorted_by(|left, right| left < right));
        assert_eq!(classes[0], 64);
        assert!(*classes.last().unwrap() as usize <= slab_bytes / 2);
        for pair in classes.windows(2) {
            let grain = if pair[1] >= 4096 { 4096 } else { 64 };
            assert_eq!(pair[1] % grain, 0, "{pair:?}");
            let (small, large) = (pair[0] as usize, pair[1] as usize);
            if small >= 256 && small < slab_bytes / 8 && small >= 4 * grain as usize {
                assert!((large - small) * 5 <= large, "{pair:?}");
            }
        }
    }
}

#[test]
fn no_piece_crosses_a_gib_and_slabs_that_would_are_left_out() {
    // 3 MiB slabs: 341 fit into a GiB, and 1 MiB of each is left over.
    let pool = pool_of(3 << 20, &[(2 << 30) + (6 << 20)]);
    assert_eq!(pool.counts().capacity, 341 * 2 + 2);
    let all = pool.try_lease(pool.capacity_bytes()).unwrap().unwrap();
    for location in all.locations() {
        let last = location.offset + u64::from(location.capacity) - 1;
        assert_eq!(location.offset >> 30, last >> 30, "{location:?}");
    }
}

#[test]
fn leases_from_a_page_up_are_whole_aligned_pages() {
    let pool = pool_of(SLAB, &[2 << 20]);
    for len in [4096, 4097, 10_000, 30_000, SLAB, SLAB + 1, 3 * SLAB + 5000] {
        let lease = pool.try_lease(len).unwrap().unwrap();
        let covered: usize = lease
            .locations()
            .map(|location| location.len as usize)
            .sum();
        assert_eq!(covered, len);
        for location in lease.locations() {
            assert_eq!(location.offset % 4096, 0, "{len}: {location:?}");
            assert_eq!(location.capacity % 4096, 0, "{len}: {location:?}");
        }
        // The rest of a long value takes a slot, not a slab.
        assert!(lease.charged_bytes() < len + len / 4 + 2 * 4096 || len > SLAB / 3);
    }
    let lease = pool.try_lease(3 * SLAB + 1).unwrap().unwrap();
    assert_eq!(lease.charged_bytes(), 3 * SLAB + 4096);
}

#[test]
fn leases_are_granted_whole_and_in_order_of_arrival() {
    let pool = pool_of(SLAB, &[2 << 20]); // 32 slabs
    let inbox = Arc::new(Inbox::default());
    let first = pool.try_lease(20 * SLAB).unwrap().unwrap();
    let second = pool.try_lease(10 * SLAB).unwrap().unwrap();
    // 2 slabs are free. Token 1 needs 5; token 2 would fit and must not overtake it.
    assert!(matches!(
        pool.lease(5 * SLAB, waiter(&inbox, 1)).unwrap(),
        Leased::Later(_)
    ));
    assert!(matches!(
        pool.lease(64, waiter(&inbox, 2)).unwrap(),
        Leased::Later(_)
    ));
    assert!(pool.try_lease(64).unwrap().is_none(), "nobody overtakes");
    assert!(matches!(
        pool.lease(30 * SLAB, waiter(&inbox, 3)).unwrap(),
        Leased::Later(_)
    ));
    assert_eq!(pool.counts().waiting, 3);
    assert_eq!(pool.shortage_bytes(), 3 * SLAB);
    drop(second);
    assert_eq!(tokens(&inbox), [1, 2]);
    assert_eq!(inbox.0.lock()[0].memory.len(), 5 * SLAB);
    drop(first);
    let served = std::mem::take(&mut *inbox.0.lock());
    drop(served);
    assert_eq!(tokens(&inbox), [3]);
    assert_eq!(sum(&pool.counts()), 32);
}

/// A clock that is set, and the waits that were told.
#[derive(Default)]
struct Watch {
    now_ns: AtomicU64,
    waits: Mutex<Vec<u64>>,
}

impl PoolObserver for Watch {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn waited(&self, waited_ns: u64) {
        self.waits.lock().push(waited_ns);
    }

    fn freed_twice(&self) {}
}

#[test]
fn a_wait_is_told_with_its_length_and_only_where_there_was_one() {
    let watch = Arc::new(Watch::default());
    let pool = observed(SLAB, &[2 << 20], watch.clone());
    let inbox = Arc::new(Inbox::default());
    let all = pool.try_lease(32 * SLAB).unwrap().unwrap();
    let pass = |ns| {
        watch
            .now_ns
            .fetch_add(ns, std::sync::atomic::Ordering::Relaxed)
    };
    for token in 0..2 {
        let later = pool.lease(SLAB, waiter(&inbox, token));
        assert!(matches!(later, Ok(Leased::Later(_))));
        pass(1000);
    }
    pass(500);
    assert_eq!(*watch.waits.lock(), [0; 0], "none is over");
    drop(all);
    assert_eq!(*watch.waits.lock(), [2500, 1500]);
    let told: Vec<u64> = inbox.0.lock().iter().map(|grant| grant.waited_ns).collect();
    assert_eq!(told, [2500, 1500]);
}

#[test]
fn a_grant_follows_the_release_of_the_last_grant() {
    let pool = pool_of(SLAB, &[2 << 20]);
    let inbox = Arc::new(Inbox::default());
    let all = pool.try_lease(32 * SLAB).unwrap().unwrap();
    for token in 0..3 {
        assert!(matches!(
            pool.lease(32 * SLAB, waiter(&inbox, token)),
            Ok(Leased::Later(_))
        ));
    }
    drop(all);
    for token in 0..3 {
        let grant = inbox.0.lock().pop().expect("one grant at a time");
        assert_eq!(grant.token, token);
        assert!(inbox.0.lock().is_empty());
        drop(grant);
    }
    assert_eq!(pool.counts().free, 32);
}

#[test]
fn a_cancelled_waiter_lets_the_next_one_through() {
    let pool = pool_of(SLAB, &[2 << 20]);
    let inbox = Arc::new(Inbox::default());
    let held = pool.try_lease(16 * SLAB).unwrap().unwrap();
    let Ok(Leased::Later(ticket)) = pool.lease(20 * SLAB, waiter(&inbox, 1)) else {
        panic!()
    };
    assert!(matches!(
        pool.lease(SLAB, waiter(&inbox, 2)),
        Ok(Leased::Later(_))
    ));
    assert!(pool.cancel(ticket));
    assert!(!pool.cancel(ticket), "gone");
    assert_eq!(tokens(&inbox), [2]);
    drop(held);
}

#[test]
fn what_no_release_could_serve_is_refused_with_the_bound() {
    let pool = pool_of(SLAB, &[2 << 20]);
    let max = 32 * SLAB;
    let error = pool.try_lease(max + 1).unwrap_err();
    assert_eq!(error, LeaseError::TooLarge { len: max + 1, max });
    assert!(pool.try_lease(usize::MAX).is_err());
    assert!(pool.try_lease(max).unwrap().is_some());
    assert_eq!(pool.window_bytes(), 8 * SLAB);
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    for slab_bytes in [0, 4096, SLAB + 1, 2 << 30] {
        let config = PoolConfig {
            slab_bytes,
            regions: Vec::new(),
            double_free_trace: false,
        };
        let error = SlabPool::new(config, Arc::new(NoObserver)).unwrap_err();
        assert_eq!(error, PoolError::SlabBytes { bytes: slab_bytes });
    }
    let config = PoolConfig {
        slab_bytes: SLAB,
        regions: Vec::new(),
        double_free_trace: false,
    };
    let error = SlabPool::new(config, Arc::new(NoObserver)).unwrap_err();
    assert_eq!(
        error,
        PoolError::NoSlab {
            bytes: 0,
            slab_bytes: SLAB
        }
    );
}

impl SlabPool {
    /// Leases `len` bytes and frees their first piece `count` times more than is right; the
    /// engine's tests, which also see what is counted and logged, call it.
    pub(crate) fn free_too_often(&self, len: usize, count: usize) {
        let lease = self.try_lease(len).unwrap().unwrap();
        let offset = lease.locations().next().unwrap().offset as usize;
        let slab_bytes = self.slab_bytes();
        let (capacity, class) = match len == slab_bytes {
            true => (slab_bytes as u32, WHOLE_SLAB),
            false => (128, 1),
        };
        let slab_idx = (offset / slab_bytes) as u32;
        let piece = self.shared.piece(slab_idx, 0, capacity, class);
        drop(lease);
        (0..count).for_each(|_| self.shared.release(&[piece], false));
    }
}

#[test]
fn states_follow_a_lease_and_sum_to_the_capacity() {
    let pool = pool_of(SLAB, &[2 << 20]);
    let write = pool.try_lease(3 * SLAB).unwrap().unwrap();
    let small = pool.try_lease(100).unwrap().unwrap();
    let counts = pool.counts();
    assert_eq!(
        (counts.free, counts.carved, counts.writing, counts.reading),
        (28, 1, 3, 0)
    );
    let read = write.freeze();
    let copy = read.part(SLAB - 1, 2);
    drop(read);
    let counts = pool.counts();
    assert_eq!(
        (counts.free, counts.carved, counts.writing, counts.reading),
        (28, 1, 0, 3)
    );
    drop((copy, small));
    assert_eq!(pool.counts().free, 32);
}

#[test]
fn memory_dropped_in_flight_is_leaked_and_never_given_out() {
    let pool = pool_of(SLAB, &[2 << 20]);
    let landed = pool.try_lease(SLAB).unwrap().unwrap().into_flight();
    assert_eq!(pool.counts().in_flight, 1);
    drop(landed.land());
    assert_eq!(pool.counts().free, 32);
    drop(pool.try_lease(2 * SLAB).unwrap().unwrap().into_flight());
    let counts = pool.counts();
    assert_eq!(
        (counts.free, counts.leaked_bytes, counts.in_flight),
        (30, 2 * SLAB, 1)
    );
    assert!(pool.try_lease(31 * SLAB).unwrap().is_none());
}

#[test]
fn bytes_are_read_back_as_written_over_piece_boundaries() {
    let pool = pool_of(SLAB, &[2 << 20]);
    for len in [0, 1, 100, SLAB - 1, SLAB, SLAB + 1, 3 * SLAB + 77] {
        let bytes: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
        let mut write = pool.try_lease(len).unwrap().unwrap();
        write.copy_from(0, &bytes);
        assert_eq!(write.pieces().flatten().copied().collect::<Vec<_>>(), bytes);
        let read = write.freeze();
        let gather = |memory: &ReadMemory| memory.pieces().flatten().copied().collect::<Vec<_>>();
        assert_eq!(gather(&read), bytes);
        assert_eq!(read.contiguous().is_some(), len <= SLAB);
        for (from, to) in [(0, len), (len / 3, len / 2), (len / 2, len), (len, len)] {
            let part = read.part(from, to - from);
            assert_eq!(gather(&part), bytes[from..to]);
            let raw: usize = part.raw_pieces().map(|raw| raw.location.len as usize).sum();
            assert_eq!(raw, to - from);
        }
    }
}

#[test]
fn leases_outlive_their_pool() {
    let pool = pool_of(SLAB, &[2 << 20]);
    let mut lease = pool.try_lease(SLAB).unwrap().unwrap();
    drop(pool);
    lease.piece_at(0).fill(9);
    assert!(
        lease
            .freeze()
            .contiguous()
            .unwrap()
            .iter()
            .all(|byte| *byte == 9)
    );
}

proptest! {
    /// Every lease gets bytes of its own, slots of freed leases are used again, nothing is lost.
    #[test]
    fn live_leases_never_overlap(ops in prop::collection::vec((0usize..300_000, any::<u8>()), 1..200)) {
        let pool = pool_of(SLAB, &[2 << 20, 4 << 20]);
        let mut leases: Vec<WriteMemory> = Vec::new();
        for (len, pick) in ops {
            if pick % 3 == 0 && !leases.is_empty() {
                leases.swap_remove(usize::from(pick) % leases.len());
            } else if let Some(lease) = pool.try_lease(len % (1 << (pick % 19))).unwrap() {
                leases.push(lease);
            }
            let mut used = BTreeMap::new();
            for location in leases.iter().flat_map(WriteMemory::locations) {
                let end = location.offset + u64::from(location.capacity);
                used.insert((location.region_idx, location.offset), end);
            }
            let all: Vec<_> = used.iter().collect();
            for pair in all.windows(2) {
                prop_assert!(pair[0].0.0 < pair[1].0.0 || pair[0].1 <= &pair[1].0.1);
            }
            let pieces: usize = leases.iter().map(|lease| lease.locations().len()).sum();
            prop_assert_eq!(used.len(), pieces);
            prop_assert_eq!(sum(&pool.counts()), 96);
        }
        leases.clear();
        prop_assert_eq!(pool.counts().free, 96);
        prop_assert_eq!(pool.double_frees(), 0);
    }
}

#[test]
fn threads_that_lease_wait_and_release_lose_and_share_nothing() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 3000;
    let pool = pool_of(SLAB, &[2 << 20]);
    let stop = AtomicBool::new(false);
    let granted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(sum(&pool.counts()), 32);
                std::thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (pool, granted) = (&pool, &granted);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let mark = (thread * ROUNDS + round) as u8;
                        let len = [100, 5000, SLAB, 11 * SLAB, 20 * SLAB + 9]
                            [(thread + round) as usize % 5];
                        let inbox = Arc::new(Inbox::default());
                        let mut memory = match pool.lease(len, waiter(&inbox, round)).unwrap() {
                            Leased::Now(memory) => memory,
                            Leased::Later(_) => loop {
                                if let Some(grant) = inbox.0.lock().pop() {
                                    assert_eq!(grant.token, round);
                                    break grant.memory;
                                }
                                std::thread::yield_now();
                            },
                        };
                        let starts = (0..len).step_by(SLAB);
                        starts.clone().for_each(|at| memory.piece_at(at)[0] = mark);
                        std::thread::yield_now();
                        let memory = memory.freeze();
                        assert!(starts.into_iter().all(|at| memory.piece_at(at)[0] == mark));
                        granted.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(granted.load(Ordering::Relaxed), THREADS * ROUNDS);
    assert_eq!(pool.counts().free, 32);
}
