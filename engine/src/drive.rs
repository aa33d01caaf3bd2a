//! Drives: a file or a device each, with a thread of its own that owns its ring and its log.

pub(crate) mod blocking;
#[cfg(test)]
pub(crate) mod faulty;
pub(crate) mod inbox;
pub(crate) mod media;
#[expect(
    unsafe_code,
    reason = "submits addresses of leases it owns; see the module docs"
)]
pub(crate) mod ring;
pub(crate) mod thread;
pub(crate) mod users;

use std::io;

use crate::clock::Tick;
use crate::slab::{ReadMemory, WriteMemory};

/// Names an I/O between the log that wants it and the backend that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IoId(pub(crate) usize);

/// The memory of an I/O, given back with its completion.
#[derive(Debug)]
pub(crate) enum IoBuffer {
    /// What was written.
    Source(ReadMemory),
    /// What was read into.
    Target(WriteMemory),
    /// A flush has none.
    None,
}

/// One I/O to do. Buffers are whole pages.
#[derive(Debug)]
pub(crate) enum Io {
    Read {
        id: IoId,
        offset: u64,
        target: WriteMemory,
    },
    Write {
        id: IoId,
        offset: u64,
        source: ReadMemory,
    },
    Flush {
        id: IoId,
    },
}

/// One I/O that ended.
#[derive(Debug)]
pub(crate) struct IoDone {
    pub(crate) id: IoId,
    pub(crate) buffer: IoBuffer,
    pub(crate) result: io::Result<()>,
    pub(crate) submitted: Tick,
    pub(crate) completed: Tick,
}

/// What does a drive's I/O: a ring, or plain system calls where there is no io_uring.
pub(crate) enum Backend {
    Ring(Box<ring::Ring>),
    Blocking(blocking::Blocking),
    #[cfg(test)]
    Faulty(Box<Backend>, std::sync::Arc<faulty::Faults>),
}

impl Backend {
    /// Takes an I/O; it is submitted by the next [`wait`](Self::wait).
    pub(crate) fn push(&mut self, io: Io) {
        match self {
            Self::Ring(ring) => ring.push(io),
            Self::Blocking(blocking) => blocking.push(io),
            #[cfg(test)]
            Self::Faulty(backend, _) => backend.push(io),
        }
    }

    /// Submits what was pushed, waits until something ends, the inbox wakes us or the time is
    /// over, and appends what ended.
    pub(crate) fn wait(
        &mut self,
        timeout: std::time::Duration,
        done: &mut Vec<IoDone>,
    ) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.wait(timeout, done),
            Self::Blocking(blocking) => blocking.wait(timeout, done),
            #[cfg(test)]
            Self::Faulty(backend, faults) => {
                backend.wait(timeout, done)?;
                faults.wait(done)
            }
        }
    }

    /// I/Os that have not ended.
    pub(crate) fn in_flight(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.in_flight(),
            Self::Blocking(blocking) => blocking.in_flight(),
            #[cfg(test)]
            Self::Faulty(backend, _) => backend.in_flight(),
        }
    }
}
