//! The FIFO queues of a shard, linked through its entries' places, and the ghost.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// "Nothing" in a link.
pub(super) const NONE: u32 = u32::MAX;

/// Hashes what is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only whole hashes are hashed");
    }
    fn write_u32(&mut self, value: u32) {
        // hashbrown picks by the top bits too.
        self.0 = u64::from(value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A map whose keys are hashes.
pub(super) type HashedMap<K, V> = HashMap<K, V, BuildHasherDefault<AsIs>>;

/// A place's neighbours in its queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) previous: u32,
    pub(super) next: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            previous: NONE,
            next: NONE,
        }
    }
}

/// Both ends of a queue; the links are the caller's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fifo {
    pub(super) head: u32,
    tail: u32,
}

impl Default for Fifo {
    fn default() -> Self {
        Self {
            head: NONE,
            tail: NONE,
        }
    }
}

impl Fifo {
    pub(super) fn push<T: AsMut<Links>>(&mut self, places: &mut [T], at: u32) {
        *places[at as usize].as_mut() = Links {
            previous: self.tail,
            next: NONE,
        };
        match self.tail {
            NONE => self.head = at,
            tail => places[tail as usize].as_mut().next = at,
        }
        self.tail = at;
    }

    pub(super) fn unlink<T: AsMut<Links>>(&mut self, places: &mut [T], at: u32) {
        let Links { previous, next } = std::mem::take(places[at as usize].as_mut());
        match previous {
            NONE => self.head = next,
            previous => places[previous as usize].as_mut().next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => places[next as usize].as_mut().previous = previous,
        }
    }
}

/// Fingerprints of the keys that left the small queue last.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    order: VecDeque<u32>,
    counts: HashedMap<u32, u32>,
}

impl Ghost {
    /// Adds a fingerprint and forgets the oldest ones beyond `len_max`.
    pub(super) fn add(&mut self, fingerprint: u32, len_max: usize) {
        self.order.push_back(fingerprint);
        *self.counts.entry(fingerprint).or_default() += 1;
        while self.order.len() > len_max {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(count) = self.counts.get_mut(&oldest) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&oldest);
                }
            }
        }
    }

    pub(super) fn contains(&self, fingerprint: u32) -> bool {
        self.counts.contains_key(&fingerprint)
    }
}
