//! Leases: the right to fill, or to read, the memory of one value.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::api::{Attrs, Committed, Step, Tier, Token};
use crate::engine::Shared;
use crate::entry::{Meta, OwnedPut};
use crate::error::{GetError, PutError};
use crate::queue::CompletionQueue;
use crate::slab;
use crate::stream::{ReadStream, WriteStream};

/// Memory for one value that is being put. Dropping it abandons the put: nothing is published.
pub struct WriteLease {
    pub(crate) inner: Box<WriteInner>,
}

/// What a put holds until it commits.
pub(crate) struct WriteInner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) put: OwnedPut,
    pub(crate) memory: slab::WriteMemory,
    pub(crate) window: Range<u64>,
    pub(crate) stream: Option<WriteStream>,
}

impl WriteLease {
    /// Length of the whole value.
    pub fn len(&self) -> u64 {
        self.inner.put.len
    }

    /// True for a value of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the value that may be written now: all of them, unless the value exceeds a
    /// quarter of the pool and streams (in memory mode none does).
    pub fn window(&self) -> Range<u64> {
        self.inner.window.clone()
    }

    /// The contiguous memory from `offset` of the value to the end of its piece, or of the window
    /// where that comes first: never the padding behind it.
    ///
    /// Fill every byte of the window before [`advance`](Self::advance) or
    /// [`commit`](Self::commit): what was there before is somebody else's.
    ///
    /// # Panics
    /// If `offset` isn't within [`window`](Self::window).
    pub fn piece_at(&mut self, offset: u64) -> &mut [u8] {
        let window = &self.inner.window;
        assert!(
            window.contains(&offset),
            "offset {offset} of window {window:?}"
        );
        let within = (offset - window.start) as usize;
        let left = (window.end - offset) as usize;
        let piece = self.inner.memory.piece_at(within);
        let len = piece.len().min(left);
        &mut piece[..len]
    }

    /// Copies `bytes` to `offset` of the value, over the borders of pieces.
    ///
    /// # Panics
    /// If they don't fit in [`window`](Self::window).
    pub fn copy_from(&mut self, offset: u64, bytes: &[u8]) {
        let within = offset
            .checked_sub(self.inner.window.start)
            .expect("offset is in the window");
        self.inner.memory.copy_from(within as usize, bytes);
    }

    /// Clears what lies between the window's end and the end of its last page.
    pub(crate) fn zero_tail(&mut self) {
        let window = &self.inner.window;
        let len = (window.end - window.start) as usize;
        zero_tail(&mut self.inner.memory, len);
    }

    /// Where the window's pieces lie, in order: what a NIC is told.
    pub fn locations(&self) -> impl ExactSizeIterator<Item = slab::Location> + '_ {
        self.inner.memory.locations()
    }

    /// Writes a full window out and leases the next; call it when the window is filled and
    /// doesn't reach the end of the value.
    ///
    /// # Errors
    /// As [`Engine::reserve`](crate::Engine::reserve).
    ///
    /// # Panics
    /// If the window reaches the end of the value.
    pub fn advance(
        self,
        queue: &CompletionQueue,
        token: Token,
    ) -> Result<Step<WriteLease>, PutError> {
        assert!(
            self.inner.window.end < self.len(),
            "nothing follows the window: commit"
        );
        let shared = self.inner.shared.clone();
        shared.advance_write(self, queue.sender().clone(), token)
    }

    /// Publishes the value; `crc` is the CRC32C of all its bytes. In memory mode this ends at
    /// once, else when the kernel has completed data and journal.
    ///
    /// # Errors
    /// [`PutError`]; nothing was published then.
    ///
    /// # Panics
    /// If the window doesn't reach the end of the value.
    pub fn commit(
        self,
        crc: u32,
        queue: &CompletionQueue,
        token: Token,
    ) -> Result<Step<Committed>, PutError> {
        assert!(
            self.inner.window.end == self.len(),
            "more follows the window: advance"
        );
        let shared = self.inner.shared.clone();
        shared.commit(self, crc, queue.sender().clone(), token)
    }
}

impl fmt::Debug for WriteLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteLease")
            .field("len", &self.len())
            .field("window", &self.inner.window)
            .finish_non_exhaustive()
    }
}

/// Clears what lies between a value's end and the end of its last page.
pub(crate) fn zero_tail(memory: &mut slab::WriteMemory, len: usize) {
    let mut at = len;
    while at < memory.len() {
        let piece = memory.piece_at(at);
        piece.fill(0);
        at += piece.len();
    }
}

/// One value, immutable and pinned until dropped.
pub struct ReadLease {
    /// One, or the parts of a striped value: all of one length but the last.
    pub(crate) memory: Vec<slab::ReadMemory>,
    pub(crate) meta: Meta,
    pub(crate) tier: Tier,
    pub(crate) window: Range<u64>,
    pub(crate) stream: Option<Box<ReadStream>>,
}

impl ReadLease {
    /// A lease of a whole value.
    pub(crate) fn whole(memory: slab::ReadMemory, meta: Meta, tier: Tier) -> Self {
        Self {
            memory: vec![memory],
            meta,
            tier,
            window: 0..meta.len,
            stream: None,
        }
    }

    /// Length of the whole value.
    pub fn len(&self) -> u64 {
        self.meta.len
    }

    /// True for a value of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// CRC32C of the whole value, as it was committed.
    pub fn crc(&self) -> u32 {
        self.meta.crc
    }

    /// What the entry carries.
    pub fn attrs(&self) -> Attrs {
        self.meta.attrs
    }

    /// The entry's version.
    pub fn version(&self) -> u64 {
        self.meta.version
    }

    /// Where the value came from.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The bytes of the value that this lease holds: all of them, unless the value streams.
    pub fn window(&self) -> Range<u64> {
        self.window.clone()
    }

    /// The window's bytes, piece by piece, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.memory.iter().flat_map(slab::ReadMemory::pieces)
    }

    /// The contiguous bytes from `offset` of the value to the end of their piece.
    ///
    /// # Panics
    /// If `offset` isn't within [`window`](Self::window).
    pub fn piece_at(&self, offset: u64) -> &[u8] {
        let window = &self.window;
        assert!(
            window.contains(&offset),
            "offset {offset} of window {window:?}"
        );
        let mut within = (offset - window.start) as usize;
        for memory in &self.memory {
            if within < memory.len() {
                return memory.piece_at(within);
            }
            within -= memory.len();
        }
        unreachable!("the parts make up the window")
    }

    /// The memory itself, in order: what a NIC sends from.
    pub fn memory(&self) -> &[slab::ReadMemory] {
        &self.memory
    }

    /// Gives this window back and reads the next; the answer lands as
    /// [`CompletionResult::Got`](crate::CompletionResult::Got). Call it when the window doesn't
    /// reach the end of the value.
    ///
    /// # Errors
    /// As [`Engine::get`](crate::Engine::get); [`GetError::Gone`] where the rest went away.
    ///
    /// # Panics
    /// If the window reaches the end of the value.
    pub fn advance(
        self,
        queue: &CompletionQueue,
        token: Token,
    ) -> Result<Step<ReadLease>, GetError> {
        assert!(self.window.end < self.len(), "nothing follows the window");
        let stream = self.stream.expect("a partial window has a stream");
        drop(self.memory);
        stream.advance(self.window.end, queue.sender().clone(), token)
    }
}

impl fmt::Debug for ReadLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadLease")
            .field("len", &self.len())
            .field("version", &self.version())
            .field("tier", &self.tier)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
