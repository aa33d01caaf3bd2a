use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn index(shards: usize) -> Index {
    Index::new(&IndexConfig {
        shards,
        segments: vec![100, 50],
    })
}

fn hash(number: u64) -> KeyHash {
    KeyHasher::new(&StoreKey([7; 32])).hash(0, &number.to_le_bytes())
}

fn location(segment_idx: u32, offset: u32) -> Location {
    Location {
        drive_idx: 1,
        segment_idx,
        offset: offset * 16,
        generation: 0,
        kind: 3,
        hint: 200,
    }
}

fn at(number: u64) -> Location {
    location(number as u32 % 50, number as u32 % (1 << 24))
}

#[test]
fn a_location_survives_packing_at_its_bounds() {
    let top = Location {
        drive_idx: 63,
        segment_idx: (1 << 22) - 1,
        offset: (1 << 28) - 16,
        generation: 255,
        kind: 15,
        hint: 255,
    };
    for location in [top, at(0), at(12345)] {
        let (word, hint) = location.pack();
        assert_eq!(Location::unpack(word, hint), location);
    }
}

#[test]
fn hashes_differ_by_store_namespace_and_key() {
    let hasher = KeyHasher::new(&StoreKey([7; 32]));
    let other = KeyHasher::new(&StoreKey([8; 32]));
    let all = [
        hasher.hash(0, b"a"),
        hasher.hash(0, b"b"),
        hasher.hash(1, b"a"),
        hasher.hash(2, b"a"),
        other.hash(0, b"a"),
        other.hash(1, b"a"),
    ];
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    assert_eq!(all[0], hasher.clone().hash(0, b"a"));
}

#[test]
fn a_slot_takes_at_most_20_bytes_and_every_key_is_found() {
    const KEYS: u64 = 60_000;
    let index = index(4);
    (0..KEYS).for_each(|key| {
        assert_eq!(
            index.put(hash(key), at(key), If::Absent),
            Change::Done(None)
        )
    });
    assert_eq!(index.len(), KEYS as usize);
    assert!(
        index.bytes() <= KEYS as usize * 20,
        "{} bytes",
        index.bytes()
    );
    let hashes: Vec<_> = (0..KEYS).map(hash).collect();
    let mut found = vec![None; hashes.len()];
    index.get_many(&hashes, &mut found);
    assert!(
        found
            .iter()
            .zip(0..)
            .all(|(found, key)| *found == Some(at(key)))
    );
}

#[test]
fn absent_keys_are_not_found() {
    // 5 × 10⁴ keys × 2 × 10⁵ lookups: at 10⁻⁸ per lookup a hit would come once in 500 runs, and
    // the bits kept make it once in 10⁸.
    let index = index(4);
    (0..50_000).for_each(|key| _ = index.put(hash(key), at(key), If::Always));
    assert!((1_000_000..1_200_000).all(|key| index.get(hash(key)).is_none()));
    // Each of the 58 bits kept tells two hashes apart.
    for bit in (8..64).chain(126..128) {
        assert!(
            index.get(KeyHash(hash(5).0 ^ 1 << bit)).is_none(),
            "bit {bit}"
        );
    }
}

#[test]
fn conditions_compare_with_what_is_there() {
    let index = index(1);
    let (old, new, other) = (at(1), at(2), at(3));
    assert_eq!(index.put(hash(1), new, If::At(old)), Change::Refused(None));
    assert_eq!(index.put(hash(1), old, If::Absent), Change::Done(None));
    assert_eq!(
        index.put(hash(1), new, If::Absent),
        Change::Refused(Some(old))
    );
    assert_eq!(
        index.put(hash(1), new, If::At(other)),
        Change::Refused(Some(old))
    );
    assert_eq!(
        index.put(hash(1), new, If::At(old)),
        Change::Done(Some(old))
    );
    assert_eq!(
        index.remove(hash(1), If::At(old)),
        Change::Refused(Some(new))
    );
    assert_eq!(index.remove(hash(1), If::At(new)), Change::Done(Some(new)));
    assert!(index.is_empty());
}

#[test]
fn reclaiming_a_segment_hides_its_entries_and_a_generation_never_revives_them() {
    let index = index(2);
    (0..5_000).for_each(|key| _ = index.put(hash(key), at(key), If::Always));
    assert_eq!(index.reclaim_segment(1, 7), 1);
    assert!((0..5_000).all(|key| index.get(hash(key)).is_some() == (key % 50 != 7)));
    for _ in 1..256 {
        index.reclaim_segment(1, 7);
    }
    assert_eq!(index.generation(1, 7), 0);
    assert!((0..5_000).all(|key| index.get(hash(key)).is_some() == (key % 50 != 7)));
    assert_eq!(index.len(), 4_900);
}

#[test]
fn a_scan_sees_what_stays_while_the_table_grows() {
    let index = index(4);
    (0..2_000).for_each(|key| _ = index.put(hash(key), at(key), If::Always));
    let (mut seen, mut cursor, mut next) = (Vec::new(), Some(Cursor::default()), 2_000);
    while let Some(at_cursor) = cursor {
        cursor = index.scan(at_cursor, 50, &mut seen);
        (next..next + 40).for_each(|key| _ = index.put(hash(key), at(key), If::Always));
        next += 40;
    }
    let seen: HashSet<_> = seen.iter().map(|entry| entry.partial_hash).collect();
    assert!((0..2_000).all(|key| seen.contains(&hash(key).partial(4))));
}

#[test]
fn entries_of_a_scan_restore_an_index() {
    let (from, to) = (index(8), index(8));
    (0..3_000).for_each(|key| _ = from.put(hash(key), at(key), If::Always));
    let mut entries = Vec::new();
    assert_eq!(from.scan(Cursor::default(), usize::MAX, &mut entries), None);
    entries
        .iter()
        .for_each(|entry| _ = to.restore(*entry, If::Absent));
    assert!((0..3_000).all(|key| to.get(hash(key)) == Some(at(key))));
}

#[test]
fn readers_see_old_or_new_while_writers_replace_and_grow() {
    let index = index(1);
    (0..100).for_each(|key| _ = index.put(hash(key), at(key), If::Always));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..200u32 {
                for key in 0..100u64 {
                    let next = Location {
                        hint: round as u8,
                        ..location(9, round)
                    };
                    index.put(hash(key), next, If::Always);
                    index.put(hash(u64::from(round) * 100 + key), at(key), If::Always);
                }
            }
        });
        while !writer.is_finished() {
            for key in 0..100 {
                let found = index.get(hash(key)).expect("it was never removed");
                let torn = found != at(key)
                    && (found.segment_idx != 9 || found.offset / 16 % 256 != u32::from(found.hint));
                assert!(!torn, "{found:?}");
            }
        }
    });
}

#[test]
fn insertions_search_five_buckets_for_room_on_average_at_most_at_every_size() {
    const KEYS: u64 = 60_000;
    let (index, mut searched) = (index(1), shard::SEARCHED.get());
    let mut worst = 0;
    for key in 0..KEYS {
        index.put(hash(key), at(key), If::Always);
        if key % 2_000 == 1_999 {
            worst = worst.max(shard::SEARCHED.get() - searched);
            searched = shard::SEARCHED.get();
        }
    }
    assert!(
        worst < 2_000 * 5,
        "{worst} buckets searched by 2,000 insertions"
    );
}

#[test]
fn a_scan_ends_after_one_pass_whatever_writers_do() {
    const STAY: u64 = 4_000;
    let index = index(1);
    (0..STAY).for_each(|key| _ = index.put(hash(key), at(key), If::Always));
    let (mut seen, mut cursor, mut next, mut calls) =
        (Vec::new(), Some(Cursor::default()), STAY, 0);
    while let Some(at_cursor) = cursor {
        cursor = index.scan(at_cursor, 8, &mut seen);
        calls += 1;
        assert!(calls <= 2 * STAY / 8, "the scan goes on and on");
        // As many come as go, so the table moves entries and doesn't grow.
        for key in next..next + 400 {
            index.put(hash(key), at(key), If::Always);
            index.remove(hash(key - 200), If::Always);
            if key - 200 < STAY {
                index.put(hash(key - 200), at(key - 200), If::Always);
            }
        }
        next += 400;
    }
    let seen: HashSet<_> = seen.iter().map(|entry| entry.partial_hash).collect();
    assert!((0..STAY - 200).all(|key| seen.contains(&hash(key).partial(1))));
}

#[test]
fn a_scan_gives_each_entry_of_a_quiet_index_once_at_every_size() {
    let index = index(1);
    for key in 0..600 {
        index.put(hash(key), at(key), If::Always);
        let mut seen = Vec::new();
        assert_eq!(index.scan(Cursor::default(), usize::MAX, &mut seen), None);
        let tags: HashSet<_> = seen.iter().map(|entry| entry.partial_hash).collect();
        assert_eq!(
            (seen.len(), tags.len()),
            (key as usize + 1, key as usize + 1)
        );
    }
}

#[test]
fn values_that_are_only_replaced_do_not_make_the_table_grow() {
    let index = index(2);
    let put = |round: u32, keys: std::ops::Range<u64>| {
        for key in keys {
            let segment_idx = key as u32 / 500;
            let generation = index.generation(1, segment_idx);
            assert_eq!(u32::from(generation), round % 256);
            let location = Location {
                generation,
                ..location(segment_idx, key as u32)
            };
            // Another key in the place of one that is gone.
            index.put(hash(u64::from(round) << 32 | key), location, If::Always);
        }
    };
    put(0, 0..20_000);
    let bytes = index.bytes();
    for round in 1..20 {
        for segment_idx in 0..40 {
            index.reclaim_segment(1, segment_idx);
            put(
                round,
                u64::from(segment_idx) * 500..u64::from(segment_idx + 1) * 500,
            );
        }
    }
    assert!(
        index.bytes() <= bytes + bytes / 4,
        "{bytes} bytes became {}",
        index.bytes()
    );
}

#[test]
fn writers_and_readers_at_once_see_every_key_that_stays() {
    const KEYS: u64 = 3_000;
    let index = index(2);
    let put = |key: u64, hint: u8| {
        let location = Location { hint, ..at(key) };
        index.put(hash(key), location, If::Always)
    };
    (0..KEYS).for_each(|key| _ = put(key, 0));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let (index, put) = (&index, &put);
                scope.spawn(move || {
                    for round in 1..6u8 {
                        // Own keys are replaced; passing ones force moves and growth.
                        for key in (writer..KEYS).step_by(3) {
                            let before = Change::Done(Some(Location {
                                hint: round - 1,
                                ..at(key)
                            }));
                            assert_eq!(put(key, round), before);
                            let passing = hash(1 << 40 | writer << 32 | key);
                            index.put(passing, at(key), If::Absent);
                            if round % 2 == 0 {
                                index.remove(passing, If::Always);
                            }
                        }
                    }
                })
            })
            .collect();
        for reader in 0..2 {
            let (index, done) = (&index, &done);
            scope.spawn(move || {
                let mut found = vec![None; 32];
                while !done.load(Ordering::Relaxed) {
                    for start in (0..KEYS - 32).step_by(32) {
                        let hashes: Vec<_> = (start..start + 32).map(hash).collect();
                        match reader {
                            0 => index.get_many(&hashes, &mut found),
                            _ => hashes.iter().zip(&mut found).for_each(|(hash, out)| {
                                *out = index.get(*hash);
                            }),
                        }
                        for (key, found) in (start..).zip(&found) {
                            let found = found.expect("it was never removed");
                            assert_eq!(
                                Location { hint: 0, ..found },
                                Location { hint: 0, ..at(key) }
                            );
                            assert!(found.hint < 6);
                        }
                    }
                }
            });
        }
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        results
            .into_iter()
            .for_each(|result| result.expect("writers agree"));
    });
    assert!((0..KEYS).all(|key| index.get(hash(key)).is_some_and(|found| found.hint == 5)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_behaves_like_a_map(ops in prop::collection::vec((0u64..400, 0u8..4, 0u64..50), 1..2_000)) {
        let (index, mut model) = (index(1), HashMap::new());
        for (key, op, value) in ops {
            let (key_hash, new, old) = (hash(key), at(value), model.get(&key).copied());
            match op {
                0 => {
                    prop_assert_eq!(index.remove(key_hash, If::Always), Change::Done(old));
                    model.remove(&key);
                }
                1 => {
                    index.put(key_hash, new, If::Absent);
                    model.entry(key).or_insert(new);
                }
                _ => {
                    prop_assert_eq!(index.put(key_hash, new, If::Always), Change::Done(old));
                    model.insert(key, new);
                }
            }
            prop_assert_eq!(index.get(key_hash), model.get(&key).copied());
        }
        prop_assert_eq!(index.len(), model.len());
    }
}
