//! Where each key's value lies: the store's index, in RAM, sharded.
//!
//! A slot is 16 bytes: 56 bits of the key's hash beside the bits that pick its shard, and a
//! location. The index never sees a key: what it finds is right but for a chance of n × 2⁻⁶² for
//! n keys in 64 shards (10⁹ keys: 2 × 10⁻¹⁰), and a reader compares the key that lies with the
//! value. Two keys that agree in all those bits share one entry, so the later put wins; with
//! 10⁷ keys that happens to one store in 90,000.
//!
//! A location carries its segment's generation: [`Index::reclaim_segment`] makes all entries of
//! a segment vanish at once, without touching them. Their slots are reused or swept later, and
//! always before the generation, a byte, comes round again.
//!
//! When an entry expires is in a table of its own, which has only those that do.
//!
//! Lookups take no lock; changes take their shard's. Growth adds one bucket at a time, so no
//! change ever takes long. Nothing here waits, and iteration order means nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

#[expect(
    unsafe_code,
    reason = "hands out buckets of a mapping; see the module docs"
)]
mod arena;
mod expiry;
mod hash;
mod location;
#[expect(unsafe_code, reason = "prefetches bucket lines; see the module docs")]
mod prefetch;
mod shard;
mod slot;
#[cfg(test)]
mod tests;

use arena::Arena;
use expiry::Expiries;
pub use hash::{KeyHash, KeyHasher, StoreKey};
pub use location::Location;
use shard::Shard;
use slot::{Tag, Words};

/// Shards at most.
const SHARDS_MAX: usize = 1 << 10;
/// Lookups in flight at once: enough to hide a miss, few enough to stay in L1.
const LOOKUP_BATCH: usize = 32;
/// A segment reclaimed this often since the last whole sweep forces one.
const RECLAIMS_MAX: u8 = 100;

/// What an index is made for.
#[derive(Clone, Debug)]
pub struct IndexConfig {
    /// Shards; rounded up to a power of two, at most 1024.
    pub shards: usize,
    /// Segments of each drive.
    pub segments: Vec<usize>,
}

/// How a conditional change went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Done; holds what was there before.
    Done(Option<Location>),
    /// The condition doesn't hold; holds what is there.
    Refused(Option<Location>),
}

/// A condition of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    /// Always.
    Always,
    /// The key has no live entry.
    Absent,
    /// The key's entry is this.
    At(Location),
}

/// Where a scan goes on; 0 starts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// An entry as a scan gives it and a checkpoint keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the index knows of the hash: enough to put the slot back.
    pub partial_hash: PartialHash,
    /// Where the value lies.
    pub location: Location,
}

/// The bits of a [`KeyHash`] that the index keeps, the others 0: bits 8 to 63, and at the top
/// those of the shard. Good for an index with at most as many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartialHash(pub u128);

/// How far the sweep of dead entries has come.
#[derive(Debug, Default)]
struct Sweep {
    shard_idx: usize,
    bucket_idx: u32,
    /// Reclaims of each segment since the last whole pass, drive after drive.
    reclaims: Vec<Vec<u8>>,
}

/// The index; shared by reference between threads.
#[derive(Debug)]
pub struct Index {
    shards: Box<[Shard]>,
    arena: Arc<Arena>,
    shard_bits: u32,
    generations: Vec<Box<[AtomicU8]>>,
    segment_count: usize,
    expiries: Expiries,
    sweep: Mutex<Sweep>,
}

impl Index {
    /// An empty index; 18 KiB per shard.
    ///
    /// # Panics
    /// If there are more drives or segments than a [`Location`] can name.
    pub fn new(config: &IndexConfig) -> Self {
        assert!(
            config.segments.len() <= Location::DRIVES_MAX,
            "more drives than a slot names"
        );
        assert!(
            config
                .segments
                .iter()
                .all(|count| *count <= Location::SEGMENTS_MAX),
            "more segments than a slot names"
        );
        let shards = config.shards.clamp(1, SHARDS_MAX).next_power_of_two();
        let zeroes = |count: &usize| (0..*count).map(|_| AtomicU8::new(0)).collect();
        let reclaims = config
            .segments
            .iter()
            .map(|count| vec![0; *count])
            .collect();
        let arena = Arc::new(Arena::default());
        let segment_count = config.segments.iter().sum();
        Self {
            shards: (0..shards).map(|_| Shard::new(&arena)).collect(),
            arena,
            shard_bits: shards.ilog2(),
            generations: config.segments.iter().map(zeroes).collect(),
            segment_count,
            expiries: Expiries::new(segment_count),
            sweep: Mutex::new(Sweep {
                reclaims,
                ..Sweep::default()
            }),
        }
    }

    /// Entries, with dead ones that were not swept yet.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of RAM.
    pub fn bytes(&self) -> usize {
        let sweep = self.segment_count * (size_of::<AtomicU8>() + size_of::<u8>());
        let shards = self.shards.iter().map(Shard::bytes).sum::<usize>();
        shards + self.arena.bytes() + sweep + self.expiries.bytes()
    }

    #[inline]
    fn shard_idx(&self, hash: KeyHash) -> usize {
        // In two steps, because a shift by all 64 bits is none.
        ((hash.0 >> 64) as u64 >> 1 >> (63 - self.shard_bits)) as usize
    }

    #[inline]
    fn locate(&self, hash: KeyHash) -> (&Shard, Tag) {
        // Tag 0 means empty; that hash shares tag 1 with another.
        (
            &self.shards[self.shard_idx(hash)],
            Tag((hash.0 as u64 >> 8).max(1)),
        )
    }

    /// Whether the location is of its segment's generation.
    #[inline]
    fn live(&self, word: u64) -> bool {
        let location = Location::unpack(word, 0);
        let segments = self.generations.get(usize::from(location.drive_idx));
        let generation = segments.and_then(|all| all.get(location.segment_idx as usize));
        generation.is_some_and(|now| now.load(Ordering::Relaxed) == location.generation)
    }

    #[inline]
    fn checked(&self, words: Words) -> Option<Location> {
        self.live(words.location).then(|| words.unpack())
    }

    /// Looks one key up: one or two cache misses, no lock.
    pub fn get(&self, hash: KeyHash) -> Option<Location> {
        let (shard, tag) = self.locate(hash);
        self.checked(shard.get(tag)?)
    }

    /// Looks many up; the misses of a batch overlap.
    ///
    /// # Panics
    /// If `out` is not as long as `hashes`.
    pub fn get_many(&self, hashes: &[KeyHash], out: &mut [Option<Location>]) {
        assert_eq!(hashes.len(), out.len(), "one result per hash");
        let batches = hashes
            .chunks(LOOKUP_BATCH)
            .zip(out.chunks_mut(LOOKUP_BATCH));
        for (hashes, out) in batches {
            for hash in hashes {
                let (shard, tag) = self.locate(*hash);
                shard.prefetch_first(tag);
            }
            // Four of five keys are in their first bucket; the others' second one is on its way
            // while the rest of the batch is looked at.
            let mut open = 0u32;
            for (at, (hash, out)) in hashes.iter().zip(&mut *out).enumerate() {
                let (shard, tag) = self.locate(*hash);
                match shard.get_first(tag) {
                    Some(words) => *out = self.checked(words),
                    None => {
                        shard.prefetch_second(tag);
                        open |= 1 << at;
                    }
                }
            }
            while open > 0 {
                let at = open.trailing_zeros() as usize;
                out[at] = self.get(hashes[at]);
                open &= open - 1;
            }
        }
    }

    /// Puts an entry, where the condition holds. One whose generation is not its segment's
    /// (any more) is as good as absent.
    ///
    /// # Panics
    /// If a field of the location exceeds its bits.
    pub fn put(&self, hash: KeyHash, location: Location, condition: If) -> Change {
        let (shard, tag) = self.locate(hash);
        let change = shard.change(tag, Some(&location), condition, |word| self.live(word));
        if let Change::Done(Some(before)) = change
            && !before.same_place(&location)
        {
            self.expiries.remove(&before);
        }
        change
    }

    /// Removes an entry, where the condition holds.
    pub fn remove(&self, hash: KeyHash, condition: If) -> Change {
        let (shard, tag) = self.locate(hash);
        let change = shard.change(tag, None, condition, |word| self.live(word));
        if let Change::Done(Some(before)) = change {
            self.expiries.remove(&before);
        }
        change
    }

    /// Notes when the entry expires that is to be put at a place, or is there: before it is put,
    /// so that nobody finds it without. 0 is never.
    pub fn note_expiry(&self, location: &Location, expiry_ms: u64) {
        if expiry_ms != 0 {
            self.expiries.set(location, expiry_ms);
        }
    }

    /// When the entry at a place expires; `None` is never.
    pub fn expiry_ms(&self, location: &Location) -> Option<u64> {
        self.expiries.get(location)
    }

    /// Whether the entry at a place has expired at a time, which is only asked for where it may.
    pub fn expired(&self, location: &Location, unix_ms: impl FnOnce() -> u64) -> bool {
        let expiry_ms = self.expiry_ms(location);
        expiry_ms.is_some_and(|expiry_ms| expiry_ms <= unix_ms())
    }

    /// How many entries of a segment have expired.
    pub fn expired_in(&self, drive_idx: u8, segment_idx: u32, unix_ms: u64) -> u64 {
        let segment = Location::start_of(drive_idx, segment_idx);
        self.expiries.expired_in(&segment, unix_ms)
    }

    /// What this index keeps of a hash.
    pub(crate) fn partial(&self, hash: KeyHash) -> PartialHash {
        hash.partial(self.shards.len())
    }

    /// As [`Index::put`] for an entry from a checkpoint.
    pub fn restore(&self, entry: Entry, condition: If) -> Change {
        self.put(KeyHash(entry.partial_hash.0), entry.location, condition)
    }

    /// The generation that locations in a segment have now.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn generation(&self, drive_idx: u8, segment_idx: u32) -> u8 {
        self.segment(drive_idx, segment_idx).load(Ordering::Relaxed)
    }

    /// Whether a place is of its segment's present life.
    pub(crate) fn is_current(&self, place: &Location) -> bool {
        self.generation(place.drive_idx, place.segment_idx) == place.generation
    }

    /// Sets a segment's generation: at recovery, before an entry of it is put.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn set_generation(&self, drive_idx: u8, segment_idx: u32, generation: u8) {
        self.segment(drive_idx, segment_idx)
            .store(generation, Ordering::Relaxed);
    }

    /// Starts a segment's next generation and returns it: all entries in it are gone at once.
    /// Sweeps a share of the slots, so that none outlives 256 generations.
    ///
    /// # Panics
    /// If there is no such segment.
    pub fn reclaim_segment(&self, drive_idx: u8, segment_idx: u32) -> u8 {
        let mut sweep = self.sweep.lock();
        let segment = self.segment(drive_idx, segment_idx);
        let generation = segment.load(Ordering::Relaxed).wrapping_add(1);
        segment.store(generation, Ordering::Relaxed);
        self.shards.iter().for_each(Shard::entries_died);
        self.expiries
            .forget_segment(&Location::start_of(drive_idx, segment_idx));
        let reclaims = &mut sweep.reclaims[usize::from(drive_idx)][segment_idx as usize];
        *reclaims += 1;
        let buckets = self
            .shards
            .iter()
            .map(|shard| shard.bucket_count() as usize)
            .sum::<usize>();
        // In write order each segment is reclaimed once in segment_count reclaims: a whole pass
        // then takes 64 generations. One that is reclaimed again and again forces passes.
        let quota = match *reclaims >= RECLAIMS_MAX {
            true => usize::MAX,
            false => buckets / (64 * self.segment_count) + 1,
        };
        self.sweep_some(&mut sweep, quota);
        generation
    }

    fn sweep_some(&self, sweep: &mut Sweep, quota: usize) {
        for _ in 0..quota {
            let shard = &self.shards[sweep.shard_idx];
            if sweep.bucket_idx < shard.bucket_count() {
                shard.sweep(sweep.bucket_idx, |word| self.live(word));
                sweep.bucket_idx += 1;
                continue;
            }
            (sweep.shard_idx, sweep.bucket_idx) = (sweep.shard_idx + 1, 0);
            if sweep.shard_idx == self.shards.len() {
                sweep.shard_idx = 0;
                sweep.reclaims.iter_mut().for_each(|drive| drive.fill(0));
                return;
            }
        }
    }

    /// Makes all entries of a drive vanish, and returns how many there were: about as many, where
    /// changes go on.
    ///
    /// # Panics
    /// If there is no such drive.
    pub fn forget_drive(&self, drive_idx: u8) -> u64 {
        let (mut count, mut cursor) = (0, Some(Cursor(0)));
        let mut entries = Vec::new();
        while let Some(at) = cursor {
            entries.clear();
            cursor = self.scan(at, 4096, &mut entries);
            let ours = |entry: &&Entry| entry.location.drive_idx == drive_idx;
            count += entries.iter().filter(ours).count() as u64;
        }
        for segment in 0..self.generations[usize::from(drive_idx)].len() {
            self.reclaim_segment(drive_idx, segment as u32);
        }
        count
    }

    fn segment(&self, drive_idx: u8, segment_idx: u32) -> &AtomicU8 {
        &self.generations[usize::from(drive_idx)][segment_idx as usize]
    }

    /// Appends live entries to `out` from a cursor on, until at least `limit` came; `None` at the
    /// end. An entry that is there all the time comes at least once, however much changes
    /// meanwhile; it comes twice only where the table grew between. Visits each bucket once, those
    /// that growth adds meanwhile too, so writers can't keep a scan from its end; holds a shard's
    /// lock for one bucket at a time.
    pub fn scan(&self, cursor: Cursor, limit: usize, out: &mut Vec<Entry>) -> Option<Cursor> {
        let mut at = Position::of(cursor);
        let end = out.len().saturating_add(limit.max(1));
        while out.len() < end {
            let shard = self.shards.get(at.shard_idx)?;
            let shard_idx = at.shard_idx;
            let more = shard.scan(at.bucket_idx, |words| {
                if self.live(words.location) {
                    out.push(self.entry(shard_idx, words));
                }
            });
            at = match more {
                true => Position {
                    shard_idx,
                    bucket_idx: at.bucket_idx + 1,
                },
                false => Position {
                    shard_idx: shard_idx + 1,
                    bucket_idx: 0,
                },
            };
        }
        (at.shard_idx < self.shards.len()).then(|| at.cursor())
    }

    fn entry(&self, shard_idx: usize, words: Words) -> Entry {
        let shard = (shard_idx as u128) << 1 << (127 - self.shard_bits);
        let partial_hash = PartialHash(shard | u128::from(words.tag().0 << 8));
        Entry {
            partial_hash,
            location: words.unpack(),
        }
    }
}

impl KeyHash {
    /// What an index with `shards` shards keeps of this hash.
    pub fn partial(self, shards: usize) -> PartialHash {
        let shard_bits = shards.clamp(1, SHARDS_MAX).next_power_of_two().ilog2();
        let kept = !(u128::MAX >> shard_bits);
        let tag = u128::from((self.0 as u64 >> 8).max(1) << 8);
        PartialHash(self.0 & kept | tag)
    }
}

/// A cursor's parts: shard 32 bits, bucket 32.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    shard_idx: usize,
    bucket_idx: u32,
}

impl Position {
    fn of(cursor: Cursor) -> Self {
        Self {
            shard_idx: (cursor.0 >> 32) as usize,
            bucket_idx: cursor.0 as u32,
        }
    }

    fn cursor(self) -> Cursor {
        Cursor((self.shard_idx as u64) << 32 | u64::from(self.bucket_idx))
    }
}
