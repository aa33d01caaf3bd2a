//! The right to use some of the pool's memory, and the only place that makes slices of it.
//!
//! [`WriteMemory`] is exclusive: its owner fills it from a socket, a drive or a NIC, and freezes
//! it into [`ReadMemory`], which is immutable, shared and cheap to clone. Memory returns to the
//! pool when the last of its leases drops. [`InFlight`] is what a ring or a queue pair keeps
//! while a device works on a lease: dropped before its completion it leaks the memory (and
//! counts it) rather than let a device write into somebody else's value.
//!
//! Aliasing: the pool never gives out a byte twice (its bitmaps and free list are under one
//! lock, and a lease is neither `Clone` nor constructible elsewhere), so a `WriteMemory` is the
//! only way to its bytes and `&mut self` makes its slices unique. Freezing consumes it; from
//! then on only shared slices exist, and they borrow from a `ReadMemory` that keeps the lease
//! alive. Mappings are zeroed by the kernel and never discarded, so all bytes are initialised.
//! A device that writes through a [`RawPiece`] of a lease does so while an `InFlight` owns it,
//! hence while no slice exists.

use std::ptr::NonNull;
use std::sync::Arc;

use super::pool::{Shared, SlabId};

/// Marks a piece that is a whole slab.
pub(super) const WHOLE_SLAB: u8 = u8::MAX;

/// Where a piece lies, for whoever registered the region: a ring or a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Index of the region in the pool.
    pub region_idx: u16,
    /// Bytes from the region's base; the piece crosses no multiple of 1 GiB.
    pub offset: u64,
    /// Bytes of the value here.
    pub len: u32,
    /// Bytes that may be written here: at least `len`, a multiple of 4096 from 4096 up.
    pub capacity: u32,
}

/// A piece with its address; using the pointer is the unsafe part, and needs the lease in
/// flight.
#[derive(Clone, Copy, Debug)]
pub struct RawPiece {
    /// First byte.
    pub pointer: NonNull<u8>,
    /// Where that is.
    pub location: Location,
}

// SAFETY: a pointer into the pool has no thread affinity, and only unsafe code uses it.
unsafe impl Send for RawPiece {}

/// One contiguous run of pool memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) pointer: NonNull<u8>,
    pub(super) offset: u64,
    pub(super) slab_idx: u32,
    pub(super) capacity: u32,
    pub(super) region_idx: u16,
    pub(super) class: u8,
}

impl Piece {
    fn location(&self, len: usize) -> Location {
        Location {
            region_idx: self.region_idx,
            offset: self.offset,
            len: len as u32,
            capacity: self.capacity,
        }
    }
}

/// The pieces of one lease: all but the last are whole slabs.
#[derive(Debug)]
pub(super) enum Pieces {
    None,
    One(Piece),
    Many(Box<[Piece]>),
}

impl Pieces {
    pub(super) fn as_slice(&self) -> &[Piece] {
        match self {
            Self::None => &[],
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }
}

/// Pool memory with an owner; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    shared: Arc<Shared>,
    pieces: Pieces,
    len: usize,
    frozen: bool,
}

// SAFETY: the pieces' pointers are to memory that this value alone gives access to, and which
// has no thread affinity.
unsafe impl Send for Held {}
// SAFETY: through `&Held` bytes can only be read, and are only read once it is frozen or
// through a borrow of the exclusive `WriteMemory`.
unsafe impl Sync for Held {}

impl Held {
    pub(super) fn new(shared: Arc<Shared>, pieces: Pieces, len: usize) -> Self {
        Self {
            shared,
            pieces,
            len,
            frozen: false,
        }
    }

    /// The part of piece `idx` that lies within the first `len` bytes.
    fn piece_len(&self, idx: usize) -> usize {
        let start = idx * self.shared.slab_bytes();
        (self.len - start).min(self.shared.slab_bytes())
    }

    fn find(&self, offset: usize) -> (usize, usize) {
        assert!(
            offset < self.len,
            "offset {offset} of a lease of {} bytes",
            self.len
        );
        (
            offset / self.shared.slab_bytes(),
            offset % self.shared.slab_bytes(),
        )
    }

    fn read(&self, idx: usize) -> &[u8] {
        let pointer = self.pieces.as_slice()[idx].pointer;
        // SAFETY: the piece is ours until we drop, initialised, and at least piece_len long;
        // nobody writes, because writing takes `&mut WriteMemory`.
        unsafe { std::slice::from_raw_parts(pointer.as_ptr(), self.piece_len(idx)) }
    }

    fn write(&mut self, idx: usize) -> &mut [u8] {
        let pointer = self.pieces.as_slice()[idx].pointer;
        let len = self.piece_len(idx);
        // SAFETY: as in read; `&mut self` reaches only the exclusive lease, so it is unique.
        unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), len) }
    }

    fn raw(&self, idx: usize) -> RawPiece {
        let piece = &self.pieces.as_slice()[idx];
        RawPiece {
            pointer: piece.pointer,
            location: piece.location(self.piece_len(idx)),
        }
    }

    /// Pieces that hold some of the value: a truncated lease may have more.
    fn used_pieces(&self) -> usize {
        self.len.div_ceil(self.shared.slab_bytes())
    }

    /// The piece that is a slot of a carved slab: the last one, or none.
    fn slot(&self) -> Option<&Piece> {
        self.pieces
            .as_slice()
            .last()
            .filter(|piece| piece.class != WHOLE_SLAB)
    }

    fn charged_bytes(&self) -> usize {
        self.pieces
            .as_slice()
            .iter()
            .map(|piece| piece.capacity as usize)
            .sum()
    }

    fn slabs(&self) -> usize {
        self.pieces
            .as_slice()
            .iter()
            .filter(|piece| piece.class == WHOLE_SLAB)
            .count()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let pieces = std::mem::replace(&mut self.pieces, Pieces::None);
        self.shared.release(pieces.as_slice(), self.frozen);
    }
}

/// An exclusive lease: its owner may write every byte.
///
/// The contents are what the last owner left, so a value must be filled whole before it is
/// frozen and sent.
#[derive(Debug)]
pub struct WriteMemory {
    held: Held,
}

impl WriteMemory {
    pub(super) fn new(held: Held) -> Self {
        Self { held }
    }

    /// Bytes of the value.
    pub fn len(&self) -> usize {
        self.held.len
    }

    /// True for a lease of no bytes.
    pub fn is_empty(&self) -> bool {
        self.held.len == 0
    }

    /// Bytes of the pool that this lease occupies: at least its length.
    pub fn charged_bytes(&self) -> usize {
        self.held.charged_bytes()
    }

    /// The bytes from `offset` to the end of the piece that holds it.
    ///
    /// # Panics
    /// If `offset` is not within the lease.
    pub fn piece_at(&mut self, offset: usize) -> &mut [u8] {
        let (idx, within) = self.held.find(offset);
        &mut self.held.write(idx)[within..]
    }

    /// Reads back the pieces, in order.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.held.used_pieces()).map(|idx| self.held.read(idx))
    }

    /// Copies `bytes` to `offset`, over piece boundaries.
    ///
    /// # Panics
    /// If they don't fit.
    pub fn copy_from(&mut self, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let target = self.piece_at(offset);
            let len = target.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            target[..len].copy_from_slice(now);
            bytes = later;
            offset += len;
        }
    }

    /// Where the pieces lie, in order: what a NIC or a ring with fixed buffers is told.
    pub fn locations(&self) -> impl ExactSizeIterator<Item = Location> + '_ {
        self.raw_pieces().map(|raw| raw.location)
    }

    /// The pieces with their addresses, in order.
    pub fn raw_pieces(&self) -> impl ExactSizeIterator<Item = RawPiece> + '_ {
        (0..self.held.used_pieces()).map(|idx| self.held.raw(idx))
    }

    /// Shortens the lease to `len` bytes; the memory behind stays occupied until it drops.
    ///
    /// # Panics
    /// If that would lengthen it.
    pub fn truncate(&mut self, len: usize) {
        assert!(
            len <= self.held.len,
            "truncate {} bytes to {len}",
            self.held.len
        );
        self.held.len = len;
    }

    /// Makes the contents immutable and shareable.
    pub fn freeze(mut self) -> ReadMemory {
        self.held.frozen = true;
        self.held.shared.count_frozen(self.held.slabs());
        let len = self.held.len;
        ReadMemory {
            held: Arc::new(self.held),
            start: 0,
            len,
        }
    }

    /// Hands the lease to a device: see [`InFlight`].
    pub fn into_flight(self) -> InFlight<Self> {
        InFlight::new(self)
    }
}

/// A shared, immutable lease, or a part of one; the memory stays until the last clone drops.
#[derive(Clone, Debug)]
pub struct ReadMemory {
    held: Arc<Held>,
    start: usize,
    len: usize,
}

impl ReadMemory {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the pool that the whole lease behind this occupies.
    pub fn charged_bytes(&self) -> usize {
        self.held.charged_bytes()
    }

    /// Notes who will let go of this lease when asked to, so that its slab can be made whole: a
    /// number of the owner's own, or 0 for nobody. Only leases that occupy a slot remember it.
    pub fn set_owner(&self, owner: u64) {
        if let Some(slot) = self.held.slot() {
            self.held.shared.set_owner(slot, owner);
        }
    }

    /// The slab in which the lease occupies a slot beside others.
    pub fn carved_slab(&self) -> Option<SlabId> {
        self.held.slot().map(|slot| SlabId(slot.slab_idx))
    }

    /// The part of `len` bytes at `offset`; shares the lease.
    ///
    /// # Panics
    /// If the part is not within this one.
    pub fn part(&self, offset: usize, len: usize) -> Self {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        assert!(
            end.is_some(),
            "part of {len} bytes at {offset} of {} bytes",
            self.len
        );
        Self {
            held: Arc::clone(&self.held),
            start: self.start + offset,
            len,
        }
    }

    /// The bytes, piece by piece, in order.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        self.spans()
            .map(|(idx, from, to)| &self.held.read(idx)[from..to])
    }

    /// The bytes from `offset` to the end of the piece that holds it.
    ///
    /// # Panics
    /// If `offset` is not within this memory.
    pub fn piece_at(&self, offset: usize) -> &[u8] {
        assert!(offset < self.len, "offset {offset} of {} bytes", self.len);
        let (idx, within) = self.held.find(self.start + offset);
        let bytes = &self.held.read(idx)[within..];
        &bytes[..bytes.len().min(self.len - offset)]
    }

    /// All bytes, where they lie in one piece.
    pub fn contiguous(&self) -> Option<&[u8]> {
        match self.len {
            0 => Some(&[]),
            len => Some(self.piece_at(0)).filter(|bytes| bytes.len() == len),
        }
    }

    /// The pieces with their addresses, in order. A location's capacity is what follows its
    /// offset in the piece.
    pub fn raw_pieces(&self) -> impl ExactSizeIterator<Item = RawPiece> + '_ {
        self.spans().map(|(idx, from, to)| {
            let whole = self.held.raw(idx);
            let location = Location {
                offset: whole.location.offset + from as u64,
                len: (to - from) as u32,
                capacity: whole.location.capacity - from as u32,
                ..whole.location
            };
            // SAFETY: from is within the piece.
            let pointer = unsafe { whole.pointer.add(from) };
            RawPiece { pointer, location }
        })
    }

    /// Hands this share to a device: see [`InFlight`].
    pub fn into_flight(self) -> InFlight<Self> {
        InFlight::new(self)
    }

    /// Piece index and the range within it, for each piece that this part touches.
    fn spans(&self) -> impl ExactSizeIterator<Item = (usize, usize, usize)> + Clone + use<> {
        let slab_bytes = self.held.shared.slab_bytes();
        let (start, end) = (self.start, self.start + self.len);
        let pieces = if self.len == 0 {
            0..0
        } else {
            start / slab_bytes..end.div_ceil(slab_bytes)
        };
        pieces.map(move |idx| {
            let base = idx * slab_bytes;
            (
                idx,
                start.max(base) - base,
                end.min(base + slab_bytes) - base,
            )
        })
    }
}

mod sealed {
    /// What both kinds of lease can tell about themselves.
    pub trait Lease {
        fn took_off(&self);
        fn landed(&self);
        fn leaked(&self);
    }

    impl Lease for super::WriteMemory {
        fn took_off(&self) {
            self.held.shared.count_flight(true);
        }
        fn landed(&self) {
            self.held.shared.count_flight(false);
        }
        fn leaked(&self) {
            self.held.shared.count_leak(self.held.charged_bytes());
        }
    }

    impl Lease for super::ReadMemory {
        fn took_off(&self) {
            self.held.shared.count_flight(true);
        }
        fn landed(&self) {
            self.held.shared.count_flight(false);
        }
        fn leaked(&self) {
            self.held.shared.count_leak(self.held.charged_bytes());
        }
    }
}

/// A lease that a device works on: only its completion gives it back.
///
/// Keep it in the ring's or the queue pair's table. Dropping it without [`InFlight::land`] leaks
/// the memory for good, because a device may still write it; the pool counts what leaked.
#[derive(Debug)]
pub struct InFlight<L: sealed::Lease> {
    lease: Option<L>,
}

impl<L: sealed::Lease> InFlight<L> {
    fn new(lease: L) -> Self {
        lease.took_off();
        Self { lease: Some(lease) }
    }

    /// The lease, back from its device: call it with the completion, or where the operation was
    /// refused and never reached the device.
    pub fn land(mut self) -> L {
        let lease = self.lease.take().expect("a lease lands once, by value");
        lease.landed();
        lease
    }

    /// The lease, for its addresses.
    pub fn lease(&self) -> &L {
        self.lease.as_ref().expect("a lease lands once, by value")
    }
}

impl<L: sealed::Lease> Drop for InFlight<L> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.leaked();
            std::mem::forget(lease);
        }
    }
}
