//! Where each key's value lies: the store's index, in RAM, sharded.
//!
//! (Layout and promises are documented with the implementation.)

/// Random bytes of a store, from its superblock: nobody outside can aim at a bucket.
#[derive(Clone, Copy)]
pub struct StoreKey(pub [u8; 32]);

/// Keyed hash of namespace and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u128);

/// Hashes keys for one store: xxh3-128 with a secret derived from the store's key.
pub struct KeyHasher {}

impl KeyHasher {
    /// Derives the secret.
    pub fn new(_key: &StoreKey) -> Self {
        todo!()
    }
    /// Hashes a key of a namespace.
    pub fn hash(&self, _namespace: u32, _key: &[u8]) -> KeyHash {
        todo!()
    }
}

/// Where a value lies: 64 bits, of which the index keeps all.
///
/// ```text
/// drive 6 | segment 22 | offset, 16-byte units 24 | segment generation 8 | kind 4
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// Drive, below [`Location::DRIVES_MAX`].
    pub drive_idx: u8,
    /// Segment of the drive, below [`Location::SEGMENTS_MAX`].
    pub segment_idx: u32,
    /// Bytes from the segment's start: a multiple of 16, below [`Location::OFFSET_MAX`].
    pub offset: u32,
    /// The segment's generation when the value was written; see [`Index::generation`].
    pub generation: u8,
    /// 0 to 15; what it means is the caller's (extent, record, stripes, RAM).
    pub kind: u8,
    /// 0 to 255; the caller's (a rounded length, so that one read suffices).
    pub hint: u8,
}

impl Location {
    /// Drives.
    pub const DRIVES_MAX: usize = 1 << 6;
    /// Segments of a drive.
    pub const SEGMENTS_MAX: usize = 1 << 22;
    /// Bytes of a segment.
    pub const OFFSET_MAX: usize = 1 << 28;
}

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

/// A slot as a checkpoint keeps it: 16 bytes, meaningful for this shard count alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the index knows of the hash: enough to put the slot back.
    pub partial_hash: PartialHash,
    /// Where the value lies.
    pub location: Location,
}

/// The bits of a [`KeyHash`] that the index keeps: the shard's bits and 56 more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartialHash(pub u128);

/// The index; shared by reference between threads.
pub struct Index {}

impl Index {
    /// An empty index.
    pub fn new(_config: &IndexConfig) -> Self {
        todo!()
    }
    /// Live entries, and stale ones not yet swept.
    pub fn len(&self) -> usize {
        todo!()
    }
    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes of RAM.
    pub fn bytes(&self) -> usize {
        todo!()
    }
    /// Looks one key up.
    pub fn get(&self, _hash: KeyHash) -> Option<Location> {
        todo!()
    }
    /// Looks many up, prefetching; `out` must be as long as `hashes`.
    pub fn get_many(&self, _hashes: &[KeyHash], _out: &mut [Option<Location>]) {
        todo!()
    }
    /// Puts an entry, where the condition holds.
    pub fn put(&self, _hash: KeyHash, _location: Location, _condition: If) -> Change {
        todo!()
    }
    /// Removes an entry, where the condition holds.
    pub fn remove(&self, _hash: KeyHash, _condition: If) -> Change {
        todo!()
    }
    /// As [`Index::put`] for a slot read from a checkpoint.
    pub fn restore(&self, _entry: Entry, _condition: If) -> Change {
        todo!()
    }
    /// The generation that locations in a segment must have now.
    pub fn generation(&self, _drive_idx: u8, _segment_idx: u32) -> u8 {
        todo!()
    }
    /// Sets a segment's generation, at recovery, before any entry of it is put.
    pub fn set_generation(&self, _drive_idx: u8, _segment_idx: u32, _generation: u8) {
        todo!()
    }
    /// Starts a segment's next generation: all entries in it are gone at once. Returns it.
    pub fn reclaim_segment(&self, _drive_idx: u8, _segment_idx: u32) -> u8 {
        todo!()
    }
    /// Visits live entries from a cursor on until `limit` were seen; `None` at the end. An
    /// entry present throughout is seen at least once.
    pub fn scan(&self, _cursor: Cursor, _limit: usize, _out: &mut Vec<Entry>) -> Option<Cursor> {
        todo!()
    }
}
