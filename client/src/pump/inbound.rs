//! Frames on their way in: a small buffer for headers and control parts, payload straight into its destination.
//!
//! The buffer is read into only as far as the next header may lie, so of a large value at most its first few KiB are ever
//! copied; the rest is read where it belongs, 2 MiB at a time, and checksummed while it is in the cache. One `readv`
//! takes the end of a value and the next header together.

use std::io::{self, IoSliceMut, Read};

use mio::net::TcpStream;

/// Bytes read and then checksummed in one go, while they are in the cache.
const CHUNK_BYTES: usize = 2 << 20;

/// Bytes of the buffer: enough for the whole reply to a small read, or a batch of small ones, in one system call.
const BUFFER_BYTES: usize = 32 * 1024;

/// Bytes that were read and not yet looked at.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// This many bytes for the destination, and perhaps more in the buffer. `full`: there may be more to read.
    Some { direct: usize, full: bool },
    /// Nothing now.
    Nothing,
    /// The peer will send nothing more.
    End,
}

impl Buffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// What is there.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.clear();
            // A control part of a megabyte was an exception; don't keep its memory per connection.
            if self.bytes.len() > BUFFER_BYTES {
                self.bytes = vec![0; BUFFER_BYTES];
            }
        }
    }

    /// Makes room for `want` bytes in all; a caller has checked `want` against the protocol's limits.
    pub(crate) fn reserve(&mut self, want: usize) {
        if self.start > 0 && self.start + want > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if want > self.bytes.len() {
            self.bytes.resize(want, 0);
        }
    }

    /// Reads into the rest of the buffer.
    pub(crate) fn read(&mut self, stream: &mut TcpStream) -> io::Result<Arrived> {
        let room = &mut self.bytes[self.end..];
        let want = room.len();
        match stream.read(room) {
            Ok(0) => Ok(Arrived::End),
            Ok(count) => {
                self.end += count;
                Ok(Arrived::Some {
                    direct: 0,
                    full: count == want,
                })
            }
            Err(error) => nothing(error),
        }
    }

    /// Reads into `dest`, the rest of one segment, and where that ends within reach also into the (empty) buffer behind it.
    pub(crate) fn read_direct(
        &mut self,
        stream: &mut TcpStream,
        dest: &mut [u8],
    ) -> io::Result<Arrived> {
        debug_assert!(self.filled().is_empty());
        let (outcome, want) = if dest.len() > CHUNK_BYTES {
            (stream.read(&mut dest[..CHUNK_BYTES]), CHUNK_BYTES)
        } else {
            let want = dest.len() + self.bytes.len();
            let mut slices = [IoSliceMut::new(dest), IoSliceMut::new(&mut self.bytes)];
            (stream.read_vectored(&mut slices), want)
        };
        match outcome {
            Ok(0) => Ok(Arrived::End),
            Ok(count) => {
                let direct = count.min(dest.len());
                self.end = count - direct;
                Ok(Arrived::Some {
                    direct,
                    full: count == want,
                })
            }
            Err(error) => nothing(error),
        }
    }
}

fn nothing(error: io::Error) -> io::Result<Arrived> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(Arrived::Nothing),
        // An interrupted read has taken nothing; the loop around this comes back at once.
        io::ErrorKind::Interrupted => Ok(Arrived::Some {
            direct: 0,
            full: true,
        }),
        _ => Err(error),
    }
}
