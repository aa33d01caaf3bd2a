//! One shard: a table of four-slot buckets that grows by one bucket at a time.
//!
//! ```text
//! bucket (one 64-byte line) = 4 × slot        slot = location u64 | tag 56 bits, hint 8 bits
//! ```
//!
//! Linear hashing gives the addresses: with N buckets a hash falls on its low bits, one bit
//! fewer where that is not below N yet. Each key has two such addresses, and sits in either, so
//! buckets fill to 84 % while hardly an insertion moves another entry; growing by bucket N
//! touches nothing but the slots of the one bucket that it splits. Before a shard grows it looks
//! for dead entries, so a store that only replaces values doesn't.
//!
//! Writers take turns by a mutex. Lookups need no lock: they read between two equal, even values
//! of a sequence number, which a writer makes odd around its stores, and only around those.
//!
//! A scan goes by *first* buckets: it visits, under the mutex, all entries whose first bucket is
//! the next in turn, in whichever of their places they are. Moves don't change a first bucket,
//! and a split changes it to a higher one, so one pass is enough whatever writers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use parking_lot::{Mutex, MutexGuard};

use super::arena::{Arena, TABLE_BUCKETS_MAX, Table};
use super::prefetch::prefetch;
use super::slot::{BUCKET_SLOTS, Bucket, OFFSETS, Slot, Tag, Words, wide_mask};
use super::{Change, If, Location};

const BUCKETS_MIN: u32 = 16;
/// A shard grows above this share of used slots: 19 bytes per key.
const LOAD_PERCENT_MAX: usize = 84;
/// Entries that found no place; growth takes them in.
const STASH_SLOTS: usize = 16;
/// Buckets that an insertion looks through for a place to move another entry to.
const SEARCH_BUCKETS_MAX: usize = 64;
/// Buckets that are searched for dead entries before another one is added.
const DEAD_SEARCH_BUCKETS: u32 = 16;
/// Tries of a lock-free read before it takes the lock.
const READ_TRIES: usize = 64;

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Shard {
    sequence: AtomicU64,
    bucket_count: AtomicU32,
    stash_count: AtomicU32,
    table: Table,
    entry_count: AtomicUsize,
    /// Buckets that were not searched since entries died last.
    dead_search_left: AtomicU32,
    writer: Mutex<Writer>,
    stash: [Slot; STASH_SLOTS],
}

/// What only the thread that changes a shard knows.
#[derive(Debug, Default)]
struct Writer {
    /// The bucket where the search for dead entries goes on.
    dead_search: u32,
}

/// Readers retry while this is there.
struct Storing<'a>(&'a AtomicU64);

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        let sequence = self.0.load(Ordering::Relaxed);
        self.0.store(sequence + 1, Ordering::Release);
    }
}

impl Shard {
    pub(super) fn new(arena: &Arc<Arena>) -> Self {
        let shard = Self {
            sequence: AtomicU64::new(0),
            bucket_count: AtomicU32::new(BUCKETS_MIN),
            stash_count: AtomicU32::new(0),
            table: Table::new(Arc::clone(arena)),
            entry_count: AtomicUsize::new(0),
            dead_search_left: AtomicU32::new(0),
            writer: Mutex::default(),
            stash: Default::default(),
        };
        shard.table.make(0);
        shard
    }

    pub(super) fn len(&self) -> usize {
        self.entry_count.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn bucket_count(&self) -> u32 {
        self.bucket_count.load(Ordering::Acquire)
    }

    /// Bytes of RAM beside the arena's.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.table.bytes()
    }

    #[inline]
    fn slots(&self, bucket: u32) -> &[Slot; BUCKET_SLOTS] {
        &self.table.bucket(bucket).slots
    }

    /// The right to store, of a thread that holds the mutex.
    fn storing(&self, _writer: &MutexGuard<'_, Writer>) -> Storing<'_> {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        Storing(&self.sequence)
    }

    /// Brings a tag's first bucket into the cache, where most are.
    #[inline]
    pub(super) fn prefetch_first(&self, tag: Tag) {
        prefetch::<Bucket>(self.table.bucket(tag.first(self.bucket_count())));
    }

    /// Brings a tag's second bucket into the cache.
    #[inline]
    pub(super) fn prefetch_second(&self, tag: Tag) {
        prefetch::<Bucket>(self.table.bucket(tag.second(self.bucket_count())));
    }

    /// Looks a tag up in its first bucket alone: what it finds is there, what it doesn't find
    /// may be elsewhere.
    #[inline]
    pub(super) fn get_first(&self, tag: Tag) -> Option<Words> {
        let sequence = self.sequence.load(Ordering::Acquire);
        let slots = self.slots(tag.first(self.bucket_count()));
        let found = find_in(slots, tag).map(Slot::load)?;
        fence(Ordering::Acquire);
        let same = self.sequence.load(Ordering::Relaxed) == sequence && sequence & 1 == 0;
        same.then_some(found)
    }

    /// Looks a tag up, without a lock unless writers keep interfering.
    #[inline]
    pub(super) fn get(&self, tag: Tag) -> Option<Words> {
        for _ in 0..READ_TRIES {
            let sequence = self.sequence.load(Ordering::Acquire);
            if sequence & 1 == 0 {
                let found = self.find(tag).map(Slot::load);
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == sequence {
                    return found;
                }
            }
            std::hint::spin_loop();
        }
        let _lock = self.writer.lock();
        self.find(tag).map(Slot::load)
    }

    #[inline]
    fn find(&self, tag: Tag) -> Option<&Slot> {
        let count = self.bucket_count();
        let second = self.slots(tag.second(count));
        prefetch(second);
        find_in(self.slots(tag.first(count)), tag)
            .or_else(|| find_in(second, tag))
            .or_else(|| match self.stash_count.load(Ordering::Relaxed) {
                0 => None,
                _ => find_in(&self.stash, tag),
            })
    }

    /// Puts (`Some`) or removes (`None`) an entry where the condition holds. `live` tells
    /// entries whose segment still has their generation.
    pub(super) fn change(
        &self,
        tag: Tag,
        location: Option<&Location>,
        condition: If,
        live: impl Fn(u64) -> bool + Copy,
    ) -> Change {
        self.prefetch_first(tag);
        self.prefetch_second(tag);
        let words = location.map(|location| Words::new(tag, location));
        let mut writer = self.writer.lock();
        let found = self.find(tag);
        let before = found.map(Slot::load).filter(|words| live(words.location));
        let before = before.map(|words| words.unpack());
        let holds = match condition {
            If::Always => true,
            If::Absent => before.is_none(),
            If::At(expected) => before == Some(expected),
        };
        if !holds {
            return Change::Refused(before);
        }
        match (found, words) {
            (Some(slot), Some(words)) => {
                let _storing = self.storing(&writer);
                slot.store(words);
            }
            (Some(slot), None) => self.clear(slot, &writer),
            (None, Some(words)) => self.insert(words, live, &mut writer),
            (None, None) => {}
        }
        Change::Done(before)
    }

    fn clear(&self, slot: &Slot, writer: &MutexGuard<'_, Writer>) {
        let _storing = self.storing(writer);
        slot.clear();
        self.entry_count.fetch_sub(1, Ordering::Relaxed);
        if self
            .stash
            .as_ptr_range()
            .contains(&std::ptr::from_ref(slot))
        {
            self.stash_count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn insert(
        &self,
        words: Words,
        live: impl Fn(u64) -> bool + Copy,
        writer: &mut MutexGuard<'_, Writer>,
    ) {
        let used = self.entry_count.load(Ordering::Relaxed) + 1;
        let slots = self.bucket_count() as usize * BUCKET_SLOTS;
        if used * 100 > slots * LOAD_PERCENT_MAX && self.clear_dead(live, writer) == 0 {
            self.grow(live, writer);
        }
        while !self.place(words, live, writer) && !self.put_in_stash(words, writer) {
            assert!(
                self.grow(live, writer),
                "an index shard of {used} entries is full"
            );
        }
        self.entry_count.fetch_add(1, Ordering::Relaxed);
    }

    fn put_in_stash(&self, words: Words, writer: &MutexGuard<'_, Writer>) -> bool {
        let Some(slot) = self.stash.iter().find(|slot| slot.is_empty()) else {
            return false;
        };
        let _storing = self.storing(writer);
        slot.store(words);
        self.stash_count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Clears the dead entries of the next few buckets in turn; how many there were.
    fn clear_dead(
        &self,
        live: impl Fn(u64) -> bool + Copy,
        writer: &mut MutexGuard<'_, Writer>,
    ) -> usize {
        let left = self.dead_search_left.load(Ordering::Relaxed);
        let searched = left.min(DEAD_SEARCH_BUCKETS);
        // Where more died meanwhile, the search goes round once more.
        let (from, to) = (left, left - searched);
        let order = Ordering::Relaxed;
        let _ = self
            .dead_search_left
            .compare_exchange(from, to, order, order);
        let mut cleared = 0;
        for _ in 0..searched {
            let bucket = writer.dead_search % self.bucket_count();
            writer.dead_search = bucket + 1;
            cleared += self.clear_dead_in(self.slots(bucket), live, writer);
        }
        cleared
    }

    /// Some entries died: it pays to search for them.
    pub(super) fn entries_died(&self) {
        self.dead_search_left
            .store(self.bucket_count(), Ordering::Relaxed);
    }

    fn clear_dead_in(
        &self,
        slots: &[Slot],
        live: impl Fn(u64) -> bool,
        writer: &MutexGuard<'_, Writer>,
    ) -> usize {
        let dead = slots
            .iter()
            .filter(|slot| !slot.is_empty() && !live(slot.load().location));
        dead.map(|slot| self.clear(slot, writer)).count()
    }

    /// Puts a new entry into one of its two buckets, moving others to theirs where that makes
    /// room: breadth first, so that as few as possible move.
    fn place(
        &self,
        words: Words,
        live: impl Fn(u64) -> bool + Copy,
        writer: &MutexGuard<'_, Writer>,
    ) -> bool {
        let count = self.bucket_count();
        let homes = [words.tag().first(count), words.tag().second(count)];
        for home in homes {
            if let Some(slot) = free_slot(self.slots(home)) {
                let _storing = self.storing(writer);
                slot.store(words);
                return true;
            }
        }
        for home in homes {
            if self.clear_dead_in(self.slots(home), live, writer) > 0 {
                return self.place(words, live, writer);
            }
        }
        self.make_room(homes, count)
            .map(|path| self.shift(&path, words, count, writer))
            .is_some()
    }

    /// Finds the shortest path from a full bucket of `homes` to one with a free slot, along
    /// buckets whose entries have the next one as their other.
    fn make_room(&self, homes: [u32; 2], count: u32) -> Option<Path> {
        let mut path = Path {
            buckets: [0; SEARCH_BUCKETS_MAX],
            from: [0; SEARCH_BUCKETS_MAX],
            end: 0,
        };
        path.buckets[..2].copy_from_slice(&homes);
        let (mut at, mut len) = (0, 2);
        for home in homes {
            for slot in self.slots(home) {
                prefetch::<Bucket>(self.table.bucket(slot.load().tag().other(home, count)));
            }
        }
        while at < len {
            let bucket = path.buckets[at];
            #[cfg(test)]
            SEARCHED.set(SEARCHED.get() + 1);
            for slot in self.slots(bucket) {
                let other = slot.load().tag().other(bucket, count);
                if len == SEARCH_BUCKETS_MAX {
                    return None;
                }
                if path.buckets[..len].contains(&other) {
                    continue;
                }
                (path.buckets[len], path.from[len]) = (other, at as u8);
                if free_slot(self.slots(other)).is_some() {
                    path.end = len;
                    return Some(path);
                }
                len += 1;
            }
            at += 1;
        }
        None
    }

    /// Moves entries along a path, from its end on, and puts the new one where that leaves a
    /// hole.
    fn shift(&self, path: &Path, words: Words, count: u32, writer: &MutexGuard<'_, Writer>) {
        let mut at = path.end;
        let mut free = free_slot(self.slots(path.buckets[at])).expect("the search ended here");
        let _storing = self.storing(writer);
        while at >= 2 {
            let (target, from) = (path.buckets[at], usize::from(path.from[at]));
            let source = path.buckets[from];
            let mut slots = self.slots(source).iter();
            let moving = slots
                .find(|slot| slot.load().tag().other(source, count) == target)
                .expect("the search came along here");
            free.store(moving.load());
            moving.clear();
            (free, at) = (moving, from);
        }
        free.store(words);
    }

    /// Adds one bucket; false at the limit.
    fn grow(&self, live: impl Fn(u64) -> bool + Copy, writer: &mut MutexGuard<'_, Writer>) -> bool {
        let target = self.bucket_count();
        if target >= TABLE_BUCKETS_MAX {
            return false;
        }
        let source = self.slots(target ^ (1 << target.ilog2()));
        let source_idx = target ^ (1 << target.ilog2());
        self.table.make(target);
        self.clear_dead_in(source, live, writer);
        {
            let _storing = self.storing(writer);
            // Release: who sees the count sees the chunk.
            self.bucket_count.store(target + 1, Ordering::Release);
            let mut free = self.slots(target).iter();
            for slot in source.iter().filter(|slot| !slot.is_empty()) {
                let words = slot.load();
                let (first, second) = (
                    words.tag().first(target + 1),
                    words.tag().second(target + 1),
                );
                if first != source_idx && second != source_idx {
                    free.next()
                        .expect("a bucket holds what another one held")
                        .store(words);
                    slot.clear();
                }
            }
        }
        // The next one to be split, long before that.
        let next = (target + 1) ^ (1 << (target + 1).ilog2());
        prefetch::<Bucket>(self.table.bucket(next));
        if self.stash_count.load(Ordering::Relaxed) > 0 {
            self.drain_stash(live, writer);
        }
        true
    }

    fn drain_stash(&self, live: impl Fn(u64) -> bool + Copy, writer: &MutexGuard<'_, Writer>) {
        self.clear_dead_in(&self.stash, live, writer);
        for slot in self.stash.iter().filter(|slot| !slot.is_empty()) {
            // Twice there for a moment, and both times the same.
            if self.place(slot.load(), live, writer) {
                let _storing = self.storing(writer);
                slot.clear();
                self.stash_count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Clears the dead entries of a bucket; the stash counts as part of bucket 0.
    pub(super) fn sweep(&self, bucket: u32, live: impl Fn(u64) -> bool + Copy) -> usize {
        let writer = self.writer.lock();
        let stash = match bucket {
            0 => self.clear_dead_in(&self.stash, live, &writer),
            _ => 0,
        };
        stash + self.clear_dead_in(self.slots(bucket), live, &writer)
    }

    /// Visits all entries whose first bucket is `bucket`; false where there is no such bucket.
    pub(super) fn scan(&self, bucket: u32, mut visit: impl FnMut(Words)) -> bool {
        let _writer = self.writer.lock();
        let count = self.bucket_count();
        if bucket >= count {
            return false;
        }
        let mut visit_some = |slots: &[Slot], wanted: &dyn Fn(Tag) -> bool| {
            let words = slots.iter().filter(|slot| !slot.is_empty()).map(Slot::load);
            words
                .filter(|words| wanted(words.tag()))
                .for_each(&mut visit);
        };
        visit_some(self.slots(bucket), &|tag| tag.first(count) == bucket);
        visit_some(&self.stash, &|tag| tag.first(count) == bucket);
        // The hashes that fall on this bucket, as far as they tell buckets apart.
        let mask = wide_mask(count);
        let hashes = [bucket, bucket | ((mask >> 1) + 1)];
        let split = hashes[1] < count;
        let hashes = if split { &hashes[..1] } else { &hashes[..] };
        for hash in hashes {
            for (offset_idx, offset) in OFFSETS.iter().enumerate() {
                let second = super::slot::address(hash.wrapping_add(*offset), count);
                visit_some(self.slots(second), &|tag| {
                    tag.first_hash() & mask == *hash && tag.offset_idx() == offset_idx
                });
            }
        }
        true
    }
}

#[cfg(test)]
std::thread_local! {
    /// Buckets whose entries this thread considered moving.
    pub(super) static SEARCHED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Buckets that a search came by; the first two are the new entry's own.
struct Path {
    buckets: [u32; SEARCH_BUCKETS_MAX],
    /// Where in this list the bucket is from which an entry would move here.
    from: [u8; SEARCH_BUCKETS_MAX],
    end: usize,
}

#[inline]
fn find_in(slots: &[Slot], tag: Tag) -> Option<&Slot> {
    slots.iter().find(|slot| slot.holds(tag))
}

#[inline]
fn free_slot(slots: &[Slot]) -> Option<&Slot> {
    slots.iter().find(|slot| slot.is_empty())
}
