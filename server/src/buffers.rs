//! Byte buffers that are borrowed while a connection works and go back when it idles.
//!
//! One pool per data thread, so there is nothing to lock. An idle connection owns no buffer at all; what the pool
//! itself keeps is bounded by [`KEPT_BYTES_MAX`], the rest goes back to the allocator.

use std::cell::{Cell, RefCell};

/// What a pool keeps for later, at most.
pub(crate) const KEPT_BYTES_MAX: usize = 16 << 20;

/// A stack of empty vectors with capacity.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
    kept_bytes: Cell<usize>,
}

/// Below this many bytes a buffer is small: a request or a reply without bulk.
const SMALL_BYTES: usize = 4096;

impl BufferPool {
    /// An empty buffer with room for at least `bytes`.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        let shelf = if bytes <= SMALL_BYTES {
            &self.small
        } else {
            &self.large
        };
        match shelf.borrow_mut().pop() {
            Some(mut buffer) => {
                self.kept_bytes
                    .set(self.kept_bytes.get() - buffer.capacity());
                buffer.reserve(bytes);
                buffer
            }
            None => Vec::with_capacity(bytes.max(SMALL_BYTES)),
        }
    }

    /// Takes a buffer back, whatever it holds.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes < SMALL_BYTES || self.kept_bytes.get() + bytes > KEPT_BYTES_MAX {
            return;
        }
        buffer.clear();
        self.kept_bytes.set(self.kept_bytes.get() + bytes);
        let shelf = if bytes < 2 * SMALL_BYTES {
            &self.small
        } else {
            &self.large
        };
        shelf.borrow_mut().push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_used_again_empty() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(10);
        buffer.extend_from_slice(b"secret");
        let address = buffer.as_ptr();
        pool.give(buffer);
        let again = pool.take(10);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), address);
    }

    #[test]
    fn what_the_pool_keeps_is_bounded() {
        let pool = BufferPool::default();
        let buffers: Vec<_> = (0..64).map(|_| pool.take(1 << 20)).collect();
        buffers.into_iter().for_each(|buffer| pool.give(buffer));
        assert!(pool.kept_bytes.get() <= KEPT_BYTES_MAX);
    }
}
