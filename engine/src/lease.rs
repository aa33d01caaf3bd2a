//! Leases: the right to fill, or to read, the memory of one value.

use std::ops::Range;

use crate::api::{Attrs, Committed, Step, Tier, Token};
use crate::error::{GetError, PutError};
use crate::queue::CompletionQueue;

/// Memory for one value that is being put. Dropping it abandons the put: nothing is published.
#[derive(Debug)]
pub struct WriteLease {}

impl WriteLease {
    /// Length of the whole value.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// True for a value of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of the value that may be written now: all of them, unless the value exceeds a
    /// quarter of the pool and streams.
    pub fn window(&self) -> Range<u64> {
        todo!()
    }

    /// The contiguous memory from `offset` of the value to the end of its piece.
    ///
    /// Fill every byte of the window before [`advance`](Self::advance) or
    /// [`commit`](Self::commit): what was there before is somebody else's.
    ///
    /// # Panics
    /// If `offset` isn't within [`window`](Self::window).
    pub fn piece_at(&mut self, offset: u64) -> &mut [u8] {
        let _ = offset;
        todo!()
    }

    /// Writes a full window out and leases the next; call it when the window is filled and
    /// doesn't reach the end of the value.
    ///
    /// # Errors
    /// As [`Engine::reserve`](crate::Engine::reserve).
    pub fn advance(
        self,
        queue: &CompletionQueue,
        token: Token,
    ) -> Result<Step<WriteLease>, PutError> {
        let _ = (queue, token);
        todo!()
    }

    /// Publishes the value; `crc` is the CRC32C of all its bytes. In memory mode this ends at
    /// once, else when the kernel has completed data and journal.
    ///
    /// # Errors
    /// [`PutError`]; nothing was published then.
    pub fn commit(
        self,
        crc: u32,
        queue: &CompletionQueue,
        token: Token,
    ) -> Result<Step<Committed>, PutError> {
        let _ = (crc, queue, token);
        todo!()
    }
}

/// One value, immutable and pinned until dropped.
#[derive(Debug)]
pub struct ReadLease {}

impl ReadLease {
    /// Length of the whole value.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// True for a value of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// CRC32C of the whole value, as it was committed.
    pub fn crc(&self) -> u32 {
        todo!()
    }

    /// What the entry carries.
    pub fn attrs(&self) -> Attrs {
        todo!()
    }

    /// The entry's version.
    pub fn version(&self) -> u64 {
        todo!()
    }

    /// Where the value came from.
    pub fn tier(&self) -> Tier {
        todo!()
    }

    /// The bytes of the value that this lease holds: all of them, unless the value streams.
    pub fn window(&self) -> Range<u64> {
        todo!()
    }

    /// The window's bytes, piece by piece, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }

    /// Gives this window back and reads the next; the answer lands as
    /// [`CompletionResult::Got`](crate::CompletionResult::Got). Call it when the window doesn't
    /// reach the end of the value.
    ///
    /// # Errors
    /// As [`Engine::get`](crate::Engine::get); [`GetError::Gone`] where the rest went away.
    pub fn advance(
        self,
        queue: &CompletionQueue,
        token: Token,
    ) -> Result<Step<ReadLease>, GetError> {
        let _ = (queue, token);
        todo!()
    }
}
