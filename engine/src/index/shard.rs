//! One shard: a table of four-slot buckets that grows by one bucket at a time.
//!
//! ```text
//! bucket (one 64-byte line) = 4 × slot        slot = location u64 | tag 56 bits, hint 8 bits
//! ```
//!
//! Linear hashing gives the addresses: with N buckets a hash falls on its low bits, one bit
//! fewer where that is not below N yet. Each key has two such addresses, and sits in either, so
//! buckets fill to 88 % and more before one overflows; growing by bucket N touches nothing but
//! the slots of the one bucket that it splits. Buckets lie in chunks that never move, so a
//! lookup needs no lock: it reads between two equal, even values of a sequence number, which a
//! writer (one at a time, by the mutex) makes odd while it works.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use parking_lot::{Mutex, MutexGuard};

use super::prefetch::prefetch;
use super::{Change, If, Location};

const BUCKET_SLOTS: usize = 4;
const CHUNK_BUCKETS: usize = 256;
const SPAN_CHUNKS: usize = 512;
const SPANS_MAX: usize = 256;
/// Most buckets of a shard: 117 M keys at 87 %.
const BUCKETS_MAX: u32 = (SPANS_MAX * SPAN_CHUNKS * CHUNK_BUCKETS) as u32;
const BUCKETS_MIN: u32 = 16;
/// A shard grows above this share of used slots.
const LOAD_PERCENT_MAX: usize = 88;
/// Entries that found no place; growth takes them in.
const STASH_SLOTS: usize = 16;
/// Buckets that an insertion looks through for a place to move another entry to.
const SEARCH_BUCKETS_MAX: usize = 64;
/// Tries of a lock-free read before it takes the lock.
const READ_TRIES: usize = 64;

/// Tag (never 0) in the upper 56 bits, the caller's hint in the lower 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u64);

impl Tag {
    fn of(word: u64) -> Self {
        Self(word >> 8)
    }

    fn hashes(self) -> (u32, u32) {
        (
            self.0 as u32,
            (self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32,
        )
    }

    /// Its two buckets of `count`.
    fn buckets(self, count: u32) -> (u32, u32) {
        let (first, second) = self.hashes();
        (address(first, count), address(second, count))
    }
}

fn address(hash: u32, count: u32) -> u32 {
    let mask = count.next_power_of_two() - 1;
    let wide = hash & mask;
    if wide < count {
        wide
    } else {
        hash & (mask >> 1)
    }
}

#[derive(Debug, Default)]
struct Slot {
    location: AtomicU64,
    /// Tag and hint; 0 in an empty slot.
    tag: AtomicU64,
}

/// A slot's two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) location: u64,
    tag: u64,
}

impl Words {
    pub(super) fn new(tag: Tag, location: &Location) -> Self {
        let (word, hint) = location.pack();
        Self {
            location: word,
            tag: tag.0 << 8 | u64::from(hint),
        }
    }

    pub(super) fn tag(&self) -> Tag {
        Tag::of(self.tag)
    }

    pub(super) fn unpack(&self) -> Location {
        Location::unpack(self.location, self.tag as u8)
    }
}

impl Slot {
    fn load(&self) -> Words {
        Words {
            location: self.location.load(Ordering::Relaxed),
            tag: self.tag.load(Ordering::Relaxed),
        }
    }

    fn store(&self, words: Words) {
        self.location.store(words.location, Ordering::Relaxed);
        self.tag.store(words.tag, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.store(Words {
            location: 0,
            tag: 0,
        });
    }

    fn is_empty(&self) -> bool {
        self.tag.load(Ordering::Relaxed) == 0
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    slots: [Slot; BUCKET_SLOTS],
}

type Chunk = Box<[Bucket]>;
type Span = Box<[OnceLock<Chunk>]>;

/// Entries that moved to a place that a scan may have passed.
#[derive(Debug, Default)]
struct Moves {
    tags: VecDeque<Tag>,
    /// How many there ever were.
    count: u64,
}

#[derive(Debug)]
pub(super) struct Shard {
    sequence: AtomicU64,
    bucket_count: AtomicU32,
    stash_count: AtomicU32,
    entry_count: AtomicUsize,
    spans: Box<[OnceLock<Span>]>,
    stash: [Slot; STASH_SLOTS],
    moves: Mutex<Moves>,
}

/// The right to change a shard; readers retry while it is held.
struct Writing<'a> {
    shard: &'a Shard,
    moves: MutexGuard<'a, Moves>,
}

impl<'a> Writing<'a> {
    fn new(shard: &'a Shard) -> Self {
        let moves = shard.moves.lock();
        let sequence = shard.sequence.load(Ordering::Relaxed);
        shard.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        Self { shard, moves }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let sequence = self.shard.sequence.load(Ordering::Relaxed);
        self.shard.sequence.store(sequence + 1, Ordering::Release);
    }
}

impl Shard {
    pub(super) fn new() -> Self {
        let shard = Self {
            sequence: AtomicU64::new(0),
            bucket_count: AtomicU32::new(BUCKETS_MIN),
            stash_count: AtomicU32::new(0),
            entry_count: AtomicUsize::new(0),
            spans: (0..SPANS_MAX).map(|_| OnceLock::new()).collect(),
            stash: Default::default(),
            moves: Mutex::default(),
        };
        shard.make_chunk(0);
        shard
    }

    pub(super) fn len(&self) -> usize {
        self.entry_count.load(Ordering::Relaxed)
    }

    pub(super) fn bucket_count(&self) -> u32 {
        self.bucket_count.load(Ordering::Acquire)
    }

    /// Bytes of RAM, with what is allocated ahead.
    pub(super) fn bytes(&self) -> usize {
        let chunks = (self.bucket_count() as usize).div_ceil(CHUNK_BUCKETS);
        let spans = chunks.div_ceil(SPAN_CHUNKS);
        size_of::<Self>()
            + SPANS_MAX * size_of::<OnceLock<Span>>()
            + spans * SPAN_CHUNKS * size_of::<OnceLock<Chunk>>()
            + chunks * CHUNK_BUCKETS * size_of::<Bucket>()
            + self.moves.lock().tags.capacity() * size_of::<Tag>()
    }

    fn make_chunk(&self, bucket_idx: u32) {
        let chunk_idx = bucket_idx as usize / CHUNK_BUCKETS;
        let span = self.spans[chunk_idx / SPAN_CHUNKS]
            .get_or_init(|| (0..SPAN_CHUNKS).map(|_| OnceLock::new()).collect());
        span[chunk_idx % SPAN_CHUNKS]
            .get_or_init(|| (0..CHUNK_BUCKETS).map(|_| Bucket::default()).collect());
    }

    #[inline]
    fn bucket(&self, idx: u32) -> &Bucket {
        let chunk_idx = idx as usize / CHUNK_BUCKETS;
        let span = self.spans[chunk_idx / SPAN_CHUNKS]
            .get()
            .expect("made before the count rose");
        let chunk = span[chunk_idx % SPAN_CHUNKS]
            .get()
            .expect("made before the count rose");
        &chunk[idx as usize % CHUNK_BUCKETS]
    }

    /// Brings the buckets of a tag into the cache.
    #[inline]
    pub(super) fn prefetch(&self, tag: Tag) {
        let (first, second) = tag.buckets(self.bucket_count());
        prefetch(self.bucket(first));
        prefetch(self.bucket(second));
    }

    /// Looks a tag up, without a lock unless writers keep interfering.
    #[inline]
    pub(super) fn get(&self, tag: Tag) -> Option<Words> {
        for _ in 0..READ_TRIES {
            let sequence = self.sequence.load(Ordering::Acquire);
            if sequence & 1 == 0 {
                let found = self.find(tag).map(|(_, words)| words);
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == sequence {
                    return found;
                }
            }
            std::hint::spin_loop();
        }
        let _lock = self.moves.lock();
        self.find(tag).map(|(_, words)| words)
    }

    #[inline]
    fn find(&self, tag: Tag) -> Option<(&Slot, Words)> {
        let (first, second) = tag.buckets(self.bucket_count());
        self.find_in(&self.bucket(first).slots, tag)
            .or_else(|| self.find_in(&self.bucket(second).slots, tag))
            .or_else(|| match self.stash_count.load(Ordering::Relaxed) {
                0 => None,
                _ => self.find_in(&self.stash, tag),
            })
    }

    #[inline]
    fn find_in<'a>(&self, slots: &'a [Slot], tag: Tag) -> Option<(&'a Slot, Words)> {
        let slot = slots
            .iter()
            .find(|slot| slot.tag.load(Ordering::Relaxed) >> 8 == tag.0)?;
        Some((slot, slot.load()))
    }

    /// Puts (`Some`) or removes (`None`) an entry where the condition holds. `live` tells
    /// entries whose segment still has their generation.
    pub(super) fn change(
        &self,
        tag: Tag,
        location: Option<&Location>,
        condition: If,
        live: &dyn Fn(u64) -> bool,
    ) -> Change {
        let mut writing = Writing::new(self);
        let found = self.find(tag);
        let before = found
            .filter(|(_, words)| live(words.location))
            .map(|(_, words)| words);
        let before = before.map(|words| words.unpack());
        let holds = match condition {
            If::Always => true,
            If::Absent => before.is_none(),
            If::At(expected) => before == Some(expected),
        };
        if !holds {
            return Change::Refused(before);
        }
        match (found, location) {
            (Some((slot, _)), Some(location)) => slot.store(Words::new(tag, location)),
            (Some((slot, _)), None) => self.clear(slot),
            (None, Some(location)) => self.insert(Words::new(tag, location), live, &mut writing),
            (None, None) => {}
        }
        Change::Done(before)
    }

    fn clear(&self, slot: &Slot) {
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

    fn insert(&self, words: Words, live: &dyn Fn(u64) -> bool, writing: &mut Writing<'_>) {
        let used = self.entry_count.load(Ordering::Relaxed) + 1;
        if used * 100 > self.bucket_count() as usize * BUCKET_SLOTS * LOAD_PERCENT_MAX {
            self.grow(live, writing);
        }
        while !self.place(words, live, writing) && !self.put_in_stash(words) {
            assert!(
                self.grow(live, writing),
                "an index shard of {used} entries is full"
            );
        }
        self.entry_count.fetch_add(1, Ordering::Relaxed);
    }

    fn put_in_stash(&self, words: Words) -> bool {
        let Some(slot) = self.stash.iter().find(|slot| slot.is_empty()) else {
            return false;
        };
        slot.store(words);
        self.stash_count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Clears a bucket's dead entries and gives a free slot, if there is one then.
    fn free_slot(&self, bucket: u32, live: &dyn Fn(u64) -> bool) -> Option<&Slot> {
        let slots = &self.bucket(bucket).slots;
        slots.iter().find(|slot| slot.is_empty()).or_else(|| {
            let dead = slots.iter().find(|slot| !live(slot.load().location))?;
            self.clear(dead);
            Some(dead)
        })
    }

    /// Puts a new entry into one of its two buckets, moving others to theirs where that makes
    /// room: breadth first, so that as few as possible move.
    fn place(&self, words: Words, live: &dyn Fn(u64) -> bool, writing: &mut Writing<'_>) -> bool {
        let count = self.bucket_count();
        let (first, second) = words.tag().buckets(count);
        // (bucket, where in this list the bucket is from which an entry would move here)
        let mut search = [(0u32, 0u8); SEARCH_BUCKETS_MAX];
        search[0] = (first, 0);
        search[1] = (second, 1);
        let mut search_len = 2;
        let mut at = 0;
        while at < search_len {
            let bucket = search[at].0;
            if let Some(slot) = self.free_slot(bucket, live) {
                self.shift(&search, at, slot, words, count, writing);
                return true;
            }
            for slot in &self.bucket(bucket).slots {
                let other = other_bucket(slot.load().tag(), bucket, count);
                let known = search[..search_len]
                    .iter()
                    .any(|(known, _)| *known == other);
                if !known && search_len < SEARCH_BUCKETS_MAX {
                    search[search_len] = (other, at as u8);
                    search_len += 1;
                }
            }
            at += 1;
        }
        false
    }

    /// Moves entries along the path that ends at `search[at]` with a free slot, and puts the new
    /// one where that leaves a hole.
    fn shift<'a>(
        &'a self,
        search: &[(u32, u8); SEARCH_BUCKETS_MAX],
        mut at: usize,
        mut free: &'a Slot,
        words: Words,
        count: u32,
        writing: &mut Writing<'_>,
    ) {
        while at >= 2 {
            let (target, from) = search[at];
            let source = search[usize::from(from)].0;
            let slots = &self.bucket(source).slots;
            let moving = slots
                .iter()
                .find(|slot| other_bucket(slot.load().tag(), source, count) == target)
                .expect("the search came along here");
            free.store(moving.load());
            if target < source {
                self.note_move(moving.load().tag(), writing);
            }
            moving.clear();
            (free, at) = (moving, usize::from(from));
        }
        free.store(words);
    }

    fn note_move(&self, tag: Tag, writing: &mut Writing<'_>) {
        // 8 bytes per 4 buckets of 64: 3 % of the table.
        let moves_max = (self.bucket_count() as usize / 4).max(1024);
        let moves = &mut *writing.moves;
        if moves.tags.len() >= moves_max {
            moves.tags.pop_front();
        }
        moves.tags.push_back(tag);
        moves.count += 1;
    }

    /// Adds one bucket; false at the limit.
    fn grow(&self, live: &dyn Fn(u64) -> bool, writing: &mut Writing<'_>) -> bool {
        let target = self.bucket_count();
        if target >= BUCKETS_MAX {
            return false;
        }
        let source = target ^ (1 << target.ilog2());
        self.make_chunk(target);
        // Release: who sees the count sees the chunk.
        self.bucket_count.store(target + 1, Ordering::Release);
        let mut free = self.bucket(target).slots.iter();
        for slot in &self.bucket(source).slots {
            let words = slot.load();
            if slot.is_empty() {
                continue;
            }
            let (first, second) = words.tag().buckets(target + 1);
            if !live(words.location) {
                self.clear(slot);
            } else if first != source && second != source {
                free.next()
                    .expect("a bucket holds what another one held")
                    .store(words);
                slot.clear();
            }
        }
        self.drain_stash(live, writing);
        true
    }

    fn drain_stash(&self, live: &dyn Fn(u64) -> bool, writing: &mut Writing<'_>) {
        for slot in self.stash.iter().filter(|slot| !slot.is_empty()) {
            let words = slot.load();
            if !live(words.location) {
                self.clear(slot);
                continue;
            }
            if self.place(words, live, writing) {
                slot.clear();
                self.stash_count.fetch_sub(1, Ordering::Relaxed);
                self.note_move(words.tag(), writing);
            }
        }
    }

    /// Clears the dead entries of a bucket; the stash counts as part of bucket 0.
    pub(super) fn sweep(&self, bucket: u32, live: &dyn Fn(u64) -> bool) -> usize {
        let _writing = Writing::new(self);
        let stash: &[Slot] = if bucket == 0 { &self.stash } else { &[] };
        let slots = self.bucket(bucket).slots.iter().chain(stash);
        let dead = slots.filter(|slot| !slot.is_empty() && !live(slot.load().location));
        dead.map(|slot| self.clear(slot)).count()
    }

    /// Visits entries from `bucket` on, until `visit` says stop or the shard ends. A scan notes
    /// `moves` when it starts a shard and hands it in again each time.
    pub(super) fn scan(&self, bucket: u32, moves: u32, visit: &mut dyn FnMut(Words)) -> Next {
        let log = self.moves.lock();
        if bucket < self.bucket_count() {
            let slots = &self.bucket(bucket).slots;
            slots
                .iter()
                .filter(|slot| !slot.is_empty())
                .for_each(|slot| visit(slot.load()));
            return Next::Bucket(bucket + 1);
        }
        let missed = (log.count as u32).wrapping_sub(moves) & MOVES_MASK;
        let Some(skip) = log.tags.len().checked_sub(missed as usize) else {
            return Next::Again;
        };
        self.stash
            .iter()
            .filter(|slot| !slot.is_empty())
            .for_each(|slot| visit(slot.load()));
        for tag in log.tags.iter().skip(skip) {
            if let Some((_, words)) = self.find(*tag) {
                visit(words);
            }
        }
        Next::Shard
    }

    /// How many backward moves there were, as a cursor keeps it.
    pub(super) fn moves(&self) -> u32 {
        self.moves.lock().count as u32 & MOVES_MASK
    }
}

/// Bits of the count of moves that a cursor keeps.
pub(super) const MOVES_MASK: u32 = (1 << 24) - 1;

/// Where a scan of a shard goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// At this bucket.
    Bucket(u32),
    /// From the shard's start: more moved than was noted.
    Again,
    /// At the next shard.
    Shard,
}

/// The other bucket of an entry that sits in `bucket`, or the same where both are one.
fn other_bucket(tag: Tag, bucket: u32, count: u32) -> u32 {
    let (first, second) = tag.buckets(count);
    if first == bucket { second } else { first }
}
