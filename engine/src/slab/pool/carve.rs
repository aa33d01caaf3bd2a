//! Slots of a size class within one slab, and the sizes there are.

use super::PAGE_BYTES;

/// The smallest slot and the step of sizes below a page: a cache line.
const LINE_BYTES: usize = 64;

/// Slot sizes, ascending: four per doubling, so that at most a fifth of a slot is unused from
/// 256 bytes on; whole pages from a page up, because drives write whole pages; at the top the
/// sizes of which 8, 7, … 2 fit into a slab.
pub(super) fn classes(slab_bytes: usize) -> Vec<u32> {
    let mut sizes = Vec::new();
    let mut size = LINE_BYTES;
    while size * 8 < slab_bytes {
        sizes.push(size as u32);
        let step = (size + 1).next_power_of_two() / 8;
        let grain = if size < PAGE_BYTES {
            LINE_BYTES
        } else {
            PAGE_BYTES
        };
        size = (size + step.max(grain)) / grain * grain;
    }
    for count in (2..=8).rev() {
        let size = (slab_bytes / count / PAGE_BYTES * PAGE_BYTES) as u32;
        if sizes.last().is_none_or(|last| *last < size) {
            sizes.push(size);
        }
    }
    sizes
}

/// The used slots of a carved slab: a bitmap with a hint where to look first.
#[derive(Debug, Default)]
pub(super) struct Carved {
    used: Vec<u64>,
    /// Whose each used slot is, 0 where nobody said: 8 bytes per slot, beside the pool.
    owners: Vec<u64>,
    /// No word before this one has a free slot.
    first_free_word: usize,
    used_count: u32,
    slot_count: u32,
}

impl Carved {
    /// Forgets all slots and starts over with `slot_count` free ones.
    pub(super) fn reset(&mut self, slot_count: u32) {
        let words = (slot_count as usize).div_ceil(64);
        self.used.clear();
        self.used.resize(words, 0);
        // Not cleared: a slot's owner is when it's taken.
        self.owners.resize(slot_count as usize, 0);
        let tail = slot_count as usize % 64;
        if tail > 0 {
            // Slots behind the last one are taken for good.
            self.used[words - 1] = u64::MAX << tail;
        }
        self.first_free_word = 0;
        self.used_count = 0;
        self.slot_count = slot_count;
    }

    /// Takes the first free slot.
    pub(super) fn take(&mut self) -> Option<u32> {
        let free = self.used[self.first_free_word..]
            .iter()
            .position(|word| *word != u64::MAX)?;
        let word_idx = self.first_free_word + free;
        let word = &mut self.used[word_idx];
        let bit = word.trailing_ones();
        *word |= 1 << bit;
        self.first_free_word = word_idx;
        self.used_count += 1;
        let slot = word_idx as u32 * 64 + bit;
        self.owners[slot as usize] = 0;
        Some(slot)
    }

    /// Frees a slot; false if it wasn't used.
    pub(super) fn free(&mut self, slot: u32) -> bool {
        let (word_idx, bit) = (slot as usize / 64, slot % 64);
        let Some(word) = self.used.get_mut(word_idx) else {
            return false;
        };
        if slot >= self.slot_count || *word & 1 << bit == 0 {
            return false;
        }
        *word &= !(1 << bit);
        self.first_free_word = self.first_free_word.min(word_idx);
        self.used_count -= 1;
        true
    }

    /// Notes whose a used slot is.
    pub(super) fn set_owner(&mut self, slot: u32, owner: u64) {
        self.owners[slot as usize] = owner;
    }

    /// The owners of all used slots, if each has one.
    pub(super) fn owners(&self) -> Option<Vec<u64>> {
        let mut owners = Vec::with_capacity(self.used_count as usize);
        for (word_idx, word) in self.used.iter().enumerate() {
            let first = word_idx * 64;
            let count = (self.slot_count as usize - first).min(64);
            for bit in (0..count).filter(|bit| word & 1 << bit != 0) {
                owners.push(Some(self.owners[first + bit]).filter(|owner| *owner != 0)?);
            }
        }
        Some(owners)
    }

    pub(super) fn used_count(&self) -> u32 {
        self.used_count
    }

    pub(super) fn is_full(&self) -> bool {
        self.used_count == self.slot_count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used_count == 0
    }
}
