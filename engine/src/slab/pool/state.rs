//! The pool's decisions: what is free, and who waits.

use std::collections::VecDeque;

use super::carve::Carved;
use super::{Shared, SlabId, SparseSlab, Ticket, Waiter};
use crate::slab::lease::{Piece, Pieces, WHOLE_SLAB};

/// "No slab" in a list.
const NONE: u32 = u32::MAX;

/// What a lease of some length consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) slabs: usize,
    /// Size class of the rest.
    pub(super) class: Option<u8>,
}

/// What a slab is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Whole,
    Carved(u8),
}

#[derive(Debug)]
struct Slab {
    used_as: Use,
    /// Neighbours in the list of this class's slabs with free slots.
    previous: u32,
    next: u32,
    slots: Carved,
}

/// One who waits.
pub(super) struct Waiting {
    ticket: Ticket,
    pub(super) waiter: Waiter,
    pub(super) len: usize,
    pub(super) shape: Shape,
    pub(super) since_ns: u64,
}

pub(super) struct State {
    slabs: Vec<Slab>,
    free: Vec<u32>,
    /// First slab with a free slot, by class.
    partial: Vec<u32>,
    pub(super) carved_count: usize,
    pub(super) slot_bytes: usize,
    pub(super) waiting: VecDeque<Waiting>,
    next_ticket: u64,
    /// A thread is delivering grants: it will see what others release meanwhile.
    pub(super) delivering: bool,
    pub(super) double_frees: usize,
}

impl State {
    pub(super) fn new(slab_count: usize, class_count: usize) -> Self {
        let slab = || Slab {
            used_as: Use::Free,
            previous: NONE,
            next: NONE,
            slots: Carved::default(),
        };
        Self {
            slabs: (0..slab_count).map(|_| slab()).collect(),
            // The lowest comes out first: regions fill in order.
            free: (0..slab_count as u32).rev().collect(),
            partial: vec![NONE; class_count],
            carved_count: 0,
            slot_bytes: 0,
            waiting: VecDeque::new(),
            next_ticket: 0,
            delivering: false,
            double_frees: 0,
        }
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    fn fits(&self, shape: Shape) -> bool {
        self.missing(shape) == 0
    }

    /// Takes all of `shape`, or nothing.
    pub(super) fn take(&mut self, shape: Shape, shared: &Shared) -> Option<Pieces> {
        if !self.fits(shape) {
            return None;
        }
        Some(match (shape.slabs, shape.class) {
            (0, None) => Pieces::None,
            (0, Some(class)) => Pieces::One(self.take_slot(class, shared)),
            (1, None) => Pieces::One(self.take_slab(shared)),
            (slabs, class) => {
                let mut pieces = Vec::with_capacity(slabs + usize::from(class.is_some()));
                pieces.extend((0..slabs).map(|_| self.take_slab(shared)));
                pieces.extend(class.map(|class| self.take_slot(class, shared)));
                Pieces::Many(pieces.into_boxed_slice())
            }
        })
    }

    fn take_slab(&mut self, shared: &Shared) -> Piece {
        let slab_idx = self.free.pop().expect("fits() has counted the free slabs");
        self.slabs[slab_idx as usize].used_as = Use::Whole;
        shared.piece(slab_idx, 0, shared.slab_bytes() as u32, WHOLE_SLAB)
    }

    fn take_slot(&mut self, class: u8, shared: &Shared) -> Piece {
        let slot_bytes = shared.class_bytes(class);
        let mut slab_idx = self.partial[usize::from(class)];
        if slab_idx == NONE {
            slab_idx = self.free.pop().expect("fits() has counted the free slabs");
            let slab = &mut self.slabs[slab_idx as usize];
            slab.used_as = Use::Carved(class);
            slab.slots.reset(shared.slab_bytes() as u32 / slot_bytes);
            self.carved_count += 1;
            self.link(slab_idx, class);
        }
        let slab = &mut self.slabs[slab_idx as usize];
        let slot = slab.slots.take().expect("a listed slab has a free slot");
        if slab.slots.is_full() {
            self.unlink(slab_idx, class);
        }
        self.slot_bytes += slot_bytes as usize;
        shared.piece(slab_idx, slot * slot_bytes, slot_bytes, class)
    }

    /// Puts a slab first in its class's list.
    fn link(&mut self, slab_idx: u32, class: u8) {
        let first = std::mem::replace(&mut self.partial[usize::from(class)], slab_idx);
        let slab = &mut self.slabs[slab_idx as usize];
        (slab.previous, slab.next) = (NONE, first);
        if first != NONE {
            self.slabs[first as usize].previous = slab_idx;
        }
    }

    fn unlink(&mut self, slab_idx: u32, class: u8) {
        let Slab { previous, next, .. } = self.slabs[slab_idx as usize];
        match previous {
            NONE => self.partial[usize::from(class)] = next,
            previous => self.slabs[previous as usize].next = next,
        }
        if next != NONE {
            self.slabs[next as usize].previous = previous;
        }
    }

    /// Takes a piece back; false, and nothing changes, if it wasn't out.
    pub(super) fn free(&mut self, piece: &Piece, shared: &Shared) -> bool {
        let freed = match self.slabs[piece.slab_idx as usize].used_as {
            Use::Whole if piece.class == WHOLE_SLAB => {
                self.slabs[piece.slab_idx as usize].used_as = Use::Free;
                self.free.push(piece.slab_idx);
                true
            }
            Use::Carved(class) if piece.class == class => self.free_slot(piece, class, shared),
            _ => false,
        };
        self.double_frees += usize::from(!freed);
        freed
    }

    fn free_slot(&mut self, piece: &Piece, class: u8, shared: &Shared) -> bool {
        let slot = shared.offset_in_slab(piece) / piece.capacity;
        let slab = &mut self.slabs[piece.slab_idx as usize];
        let was_full = slab.slots.is_full();
        if !slab.slots.free(slot) {
            return false;
        }
        self.slot_bytes -= piece.capacity as usize;
        if slab.slots.is_empty() {
            slab.used_as = Use::Free;
            if !was_full {
                self.unlink(piece.slab_idx, class);
            }
            self.free.push(piece.slab_idx);
            self.carved_count -= 1;
        } else if was_full {
            self.link(piece.slab_idx, class);
        }
        true
    }

    pub(super) fn set_owner(&mut self, piece: &Piece, owner: u64, shared: &Shared) {
        let slot = shared.offset_in_slab(piece) / piece.capacity;
        self.slabs[piece.slab_idx as usize]
            .slots
            .set_owner(slot, owner);
    }

    /// Up to `count` carved slabs all of whose slots have owners, those with the fewest bytes in
    /// use first.
    pub(super) fn sparsest(&self, count: usize, shared: &Shared) -> Vec<SparseSlab> {
        let carved = self
            .slabs
            .iter()
            .zip(0..)
            .filter_map(|(slab, slab_idx)| match slab.used_as {
                Use::Carved(class) => {
                    let bytes =
                        slab.slots.used_count() as usize * shared.class_bytes(class) as usize;
                    Some((bytes, slab_idx))
                }
                Use::Free | Use::Whole => None,
            });
        let mut by_bytes: Vec<(usize, u32)> = carved.collect();
        by_bytes.sort_unstable();
        let owned = by_bytes.into_iter().filter_map(|(_, slab_idx)| {
            let owners = self.slabs[slab_idx as usize].slots.owners()?;
            Some(SparseSlab {
                slab: SlabId(slab_idx),
                owners,
            })
        });
        owned.take(count).collect()
    }

    /// Slabs that lack for `shape`.
    pub(super) fn missing(&self, shape: Shape) -> usize {
        let carve = shape
            .class
            .is_some_and(|class| self.partial[usize::from(class)] == NONE);
        (shape.slabs + usize::from(carve)).saturating_sub(self.free.len())
    }

    pub(super) fn queue(
        &mut self,
        waiter: Waiter,
        len: usize,
        shape: Shape,
        since_ns: u64,
    ) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.push_back(Waiting {
            ticket,
            waiter,
            len,
            shape,
            since_ns,
        });
        ticket
    }

    pub(super) fn cancel(&mut self, ticket: Ticket) -> bool {
        // Tickets rise along the queue.
        let found = self
            .waiting
            .binary_search_by_key(&ticket, |waiting| waiting.ticket);
        found.is_ok_and(|idx| self.waiting.remove(idx).is_some())
    }

    /// The first waiter with its memory, if that is free now.
    pub(super) fn next_grant(&mut self, shared: &Shared) -> Option<(Waiting, Pieces)> {
        let shape = self.waiting.front()?.shape;
        let pieces = self.take(shape, shared)?;
        self.waiting.pop_front().map(|waiting| (waiting, pieces))
    }
}
