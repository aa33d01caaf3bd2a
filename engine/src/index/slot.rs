//! A slot's two words, buckets of slots, and which buckets a key may sit in.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Location;

/// Slots of a bucket.
pub(super) const BUCKET_SLOTS: usize = 4;

/// From a key's first bucket to its second, by two bits of its tag. They are odd, so that the
/// two always differ; and their low n bits divide the circle of 2ⁿ evenly for each n, so that
/// of the buckets that the next ones to be split can move entries to, some have been split.
/// There are only four, so that a scan can look at all places of the keys of one first bucket.
pub(super) const OFFSETS: [u32; 4] = [0x8f55_4ecd, 0xf477_7575, 0x75aa_a49b, 0x80dd_da27];

/// The part of a hash that a slot keeps: 56 bits, never all 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(pub(super) u64);

impl Tag {
    /// The hash that gives its first bucket.
    #[inline]
    pub(super) fn first_hash(self) -> u32 {
        self.0 as u32
    }

    /// Which of [`OFFSETS`] leads to its second bucket.
    #[inline]
    pub(super) fn offset_idx(self) -> usize {
        (self.0 >> 32) as usize % OFFSETS.len()
    }

    /// Its first bucket of `count`.
    #[inline]
    pub(super) fn first(self, count: u32) -> u32 {
        address(self.first_hash(), count)
    }

    /// Its second bucket of `count`.
    #[inline]
    pub(super) fn second(self, count: u32) -> u32 {
        address(
            self.first_hash().wrapping_add(OFFSETS[self.offset_idx()]),
            count,
        )
    }

    /// The other bucket of an entry that sits in `bucket`.
    #[inline]
    pub(super) fn other(self, bucket: u32, count: u32) -> u32 {
        match self.first(count) {
            first if first == bucket => self.second(count),
            first => first,
        }
    }
}

/// All bits that tell `count` buckets apart.
#[inline]
pub(super) fn wide_mask(count: u32) -> u32 {
    u32::MAX >> (count - 1).leading_zeros()
}

/// Linear hashing: one bit fewer where the bucket is not there yet.
#[inline]
pub(super) fn address(hash: u32, count: u32) -> u32 {
    let mask = wide_mask(count);
    let wide = hash & mask;
    if wide < count {
        wide
    } else {
        hash & (mask >> 1)
    }
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

    #[inline]
    pub(super) fn tag(&self) -> Tag {
        Tag(self.tag >> 8)
    }

    #[inline]
    pub(super) fn unpack(&self) -> Location {
        Location::unpack(self.location, self.tag as u8)
    }
}

/// Room for one entry.
#[derive(Debug, Default)]
pub(super) struct Slot {
    location: AtomicU64,
    /// Tag in the upper 56 bits, hint in the lower 8; 0 in an empty slot.
    tag: AtomicU64,
}

impl Slot {
    #[inline]
    pub(super) fn load(&self) -> Words {
        Words {
            location: self.location.load(Ordering::Relaxed),
            tag: self.tag.load(Ordering::Relaxed),
        }
    }

    #[inline]
    pub(super) fn store(&self, words: Words) {
        self.location.store(words.location, Ordering::Relaxed);
        self.tag.store(words.tag, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn clear(&self) {
        self.store(Words {
            location: 0,
            tag: 0,
        });
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.tag.load(Ordering::Relaxed) == 0
    }

    #[inline]
    pub(super) fn holds(&self, tag: Tag) -> bool {
        self.tag.load(Ordering::Relaxed) >> 8 == tag.0
    }
}

/// The slots of one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Bucket {
    pub(super) slots: [Slot; BUCKET_SLOTS],
}
