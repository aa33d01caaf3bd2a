//! One io_uring, created by the thread that uses it, and the table of what it has in flight.
//!
//! An I/O is split into chunks below the queue's limits; each chunk is one SQE in one slot. Its
//! user_data is 16 bits of magic, 32 bits of sequence and 16 bits of slot, so that a completion
//! that we no longer expect is counted and not believed.
//!
//! Aliasing: the addresses of an SQE are those of a lease that this table holds as `InFlight`
//! until the last of its chunks has completed; nobody can make a slice of a write lease
//! meanwhile, and a read lease is only read. A ring that is dropped with I/O in flight leaks
//! those leases, as `InFlight` does, so the kernel never writes into memory that was reused.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use memkv_telemetry::EngineMetrics;
use slab::Slab;

use super::inbox::Wake;
use super::{Io, IoBuffer, IoDone, IoId};
use crate::clock::Tick;
use crate::slab::{InFlight, RawPiece, ReadMemory, SlabPool, WriteMemory};

const MAGIC: u64 = 0x6d6b;
/// Slot of the poll on the inbox.
const WAKE_SLOT: u16 = u16::MAX;
/// Longest fixed buffer.
const BUFFER_MAX: usize = 1 << 30;

enum Held {
    Source(InFlight<ReadMemory>),
    Target(InFlight<WriteMemory>),
    None,
}

/// One I/O in flight.
struct Flight {
    id: IoId,
    held: Held,
    chunks: u32,
    error: Option<io::Error>,
    submitted: Option<Tick>,
}

/// One SQE's worth of an I/O.
#[derive(Clone, Copy)]
struct Chunk {
    flight: usize,
    pointer: std::ptr::NonNull<u8>,
    len: u32,
    offset: u64,
    verb: Verb,
}

// SAFETY: the pointer is into a lease that the same ring's table holds; it goes where the ring
// goes.
unsafe impl Send for Chunk {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Read,
    Write,
    Flush,
}

#[derive(Clone, Copy)]
struct Slot {
    sequence: u32,
    chunk: Option<Chunk>,
}

/// A registered range of addresses.
struct Registered {
    start: usize,
    end: usize,
    idx: u16,
}

/// See the module docs.
pub(crate) struct Ring {
    uring: IoUring,
    file: OwnedFd,
    fixed_file: bool,
    registered: Vec<Registered>,
    chunk_bytes: usize,
    wake: Arc<Wake>,
    wake_armed: bool,
    flights: Slab<Flight>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    todo: VecDeque<Chunk>,
    sequence: u32,
    /// Completions that matched nothing in flight.
    stale: u64,
    metrics: EngineMetrics,
}

impl Ring {
    /// Makes a ring for one file; and says why the pools couldn't be registered with it.
    pub(crate) fn open(
        file: OwnedFd,
        wake: Arc<Wake>,
        queue_depth: u32,
        chunk_bytes: usize,
        pools: &[&SlabPool],
        metrics: EngineMetrics,
    ) -> io::Result<(Self, io::Result<()>)> {
        let uring = build(queue_depth)?;
        let fixed_file = uring
            .submitter()
            .register_files(&[file.as_raw_fd()])
            .is_ok();
        let (registered, result) = register(&uring, pools);
        let depth = queue_depth.min(u16::MAX.into()) as u16;
        let ring = Self {
            uring,
            file,
            fixed_file,
            registered,
            chunk_bytes,
            wake,
            wake_armed: false,
            flights: Slab::new(),
            slots: vec![
                Slot {
                    sequence: 0,
                    chunk: None
                };
                depth.into()
            ],
            free: (0..depth).rev().collect(),
            todo: VecDeque::new(),
            sequence: 0,
            stale: 0,
            metrics,
        };
        Ok((ring, result))
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(crate) fn push(&mut self, io: Io) {
        match io {
            Io::Read { id, offset, target } => {
                let held = target.into_flight();
                let pieces: Vec<_> = held.lease().raw_pieces().collect();
                self.chunk(id, Held::Target(held), &pieces, offset, Verb::Read);
            }
            Io::Write { id, offset, source } => {
                let held = source.into_flight();
                let pieces: Vec<_> = held.lease().raw_pieces().collect();
                self.chunk(id, Held::Source(held), &pieces, offset, Verb::Write);
            }
            Io::Flush { id } => {
                let flight = self.flight(id, Held::None);
                self.flights[flight].chunks = 1;
                let pointer = std::ptr::NonNull::dangling();
                let verb = Verb::Flush;
                self.todo.push_back(Chunk {
                    flight,
                    pointer,
                    len: 0,
                    offset: 0,
                    verb,
                });
            }
        }
    }

    fn flight(&mut self, id: IoId, held: Held) -> usize {
        self.flights.insert(Flight {
            id,
            held,
            chunks: 0,
            error: None,
            submitted: None,
        })
    }

    fn chunk(&mut self, id: IoId, held: Held, pieces: &[RawPiece], mut offset: u64, verb: Verb) {
        let flight = self.flight(id, held);
        let mut chunks = 0;
        for piece in pieces {
            let len = piece.location.len as usize;
            let mut at = 0;
            while at < len {
                let now = (len - at).min(self.chunk_bytes);
                // SAFETY: at < len, so this is within the piece.
                let pointer = unsafe { piece.pointer.add(at) };
                self.todo.push_back(Chunk {
                    flight,
                    pointer,
                    len: now as u32,
                    offset,
                    verb,
                });
                chunks += 1;
                at += now;
                offset += now as u64;
            }
        }
        self.flights[flight].chunks = chunks;
        assert!(chunks > 0, "an I/O has bytes");
    }

    pub(crate) fn wait(&mut self, timeout: Duration, done: &mut Vec<IoDone>) -> io::Result<()> {
        self.fill();
        self.uring.submission().sync();
        let ready = !self.uring.completion().is_empty();
        let result = if ready || timeout.is_zero() {
            self.uring.submit().map(drop)
        } else {
            let timespec = Timespec::from(timeout);
            let args = SubmitArgs::new().timespec(&timespec);
            self.uring.submitter().submit_with_args(1, &args).map(drop)
        };
        match result {
            Ok(()) => {}
            Err(why) => match why.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(why),
            },
        }
        self.reap(done);
        Ok(())
    }

    /// Moves chunks into free slots and the submission queue.
    fn fill(&mut self) {
        if !self.wake_armed {
            let fd = Fd(self.wake.raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            let entry = entry.user_data(user_data(0, WAKE_SLOT));
            // SAFETY: a poll has no memory; the descriptor lives as long as `wake`.
            self.wake_armed = unsafe { self.uring.submission().push(&entry) }.is_ok();
        }
        let now = crate::clock::now();
        while let (Some(chunk), Some(slot)) = (self.todo.front().copied(), self.free.last()) {
            let sequence = self.sequence.wrapping_add(1);
            let entry = self.entry(&chunk).user_data(user_data(sequence, *slot));
            // SAFETY: the chunk's addresses are of a lease that `flights` holds until this
            // slot's completion was reaped.
            if unsafe { self.uring.submission().push(&entry) }.is_err() {
                if self.uring.submit().is_err() {
                    return;
                }
                continue;
            }
            self.sequence = sequence;
            self.slots[usize::from(*slot)] = Slot {
                sequence,
                chunk: Some(chunk),
            };
            self.flights[chunk.flight].submitted.get_or_insert(now);
            self.free.pop();
            self.todo.pop_front();
        }
    }

    fn entry(&self, chunk: &Chunk) -> squeue::Entry {
        let (pointer, len, offset) = (chunk.pointer.as_ptr(), chunk.len, chunk.offset);
        let start = pointer as usize;
        let buffer = self
            .registered
            .iter()
            .find(|range| range.start <= start && start + len as usize <= range.end)
            .map(|range| range.idx);
        let fd = Fd(self.file.as_raw_fd());
        match (chunk.verb, buffer, self.fixed_file) {
            (Verb::Read, Some(idx), true) => opcode::ReadFixed::new(Fixed(0), pointer, len, idx)
                .offset(offset)
                .build(),
            (Verb::Read, Some(idx), false) => opcode::ReadFixed::new(fd, pointer, len, idx)
                .offset(offset)
                .build(),
            (Verb::Read, None, true) => opcode::Read::new(Fixed(0), pointer, len)
                .offset(offset)
                .build(),
            (Verb::Read, None, false) => opcode::Read::new(fd, pointer, len).offset(offset).build(),
            (Verb::Write, Some(idx), true) => opcode::WriteFixed::new(Fixed(0), pointer, len, idx)
                .offset(offset)
                .build(),
            (Verb::Write, Some(idx), false) => opcode::WriteFixed::new(fd, pointer, len, idx)
                .offset(offset)
                .build(),
            (Verb::Write, None, true) => opcode::Write::new(Fixed(0), pointer, len)
                .offset(offset)
                .build(),
            (Verb::Write, None, false) => {
                opcode::Write::new(fd, pointer, len).offset(offset).build()
            }
            (Verb::Flush, ..) => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    fn reap(&mut self, done: &mut Vec<IoDone>) {
        let completions: Vec<(u64, i32)> = self
            .uring
            .completion()
            .map(|entry| (entry.user_data(), entry.result()))
            .collect();
        let now = crate::clock::now();
        for (data, result) in completions {
            let (slot, sequence) = (data as u16, (data >> 16) as u32);
            if data >> 48 == MAGIC && slot == WAKE_SLOT {
                self.wake_armed = false;
                self.wake.clear();
                continue;
            }
            let known = data >> 48 == MAGIC
                && self
                    .slots
                    .get(usize::from(slot))
                    .is_some_and(|slot| slot.sequence == sequence && slot.chunk.is_some());
            if !known {
                self.stale += 1;
                self.metrics.stale_completion();
                tracing::warn!(
                    data,
                    stale = self.stale,
                    "a completion matches nothing in flight"
                );
                continue;
            }
            let chunk = self.slots[usize::from(slot)]
                .chunk
                .take()
                .expect("was looked at");
            self.free.push(slot);
            self.completed(chunk, result, now, done);
        }
    }

    fn completed(&mut self, chunk: Chunk, result: i32, now: Tick, done: &mut Vec<IoDone>) {
        let flight = &mut self.flights[chunk.flight];
        if result < 0 {
            let code = -result;
            if code == libc::EINTR || code == libc::EAGAIN {
                self.todo.push_front(chunk);
                return;
            }
            flight
                .error
                .get_or_insert(io::Error::from_raw_os_error(code));
        } else if chunk.verb != Verb::Flush && (result as u32) < chunk.len {
            let got = result as u32;
            if got > 0 && got.is_multiple_of(4096) {
                // SAFETY: got < len, so this is within the chunk.
                let pointer = unsafe { chunk.pointer.add(got as usize) };
                let (len, offset) = (chunk.len - got, chunk.offset + u64::from(got));
                self.todo.push_front(Chunk {
                    pointer,
                    len,
                    offset,
                    ..chunk
                });
                return;
            }
            flight
                .error
                .get_or_insert(io::ErrorKind::UnexpectedEof.into());
        }
        flight.chunks -= 1;
        if flight.chunks > 0 {
            return;
        }
        let flight = self.flights.remove(chunk.flight);
        let buffer = match flight.held {
            Held::Source(held) => IoBuffer::Source(held.land()),
            Held::Target(held) => IoBuffer::Target(held.land()),
            Held::None => IoBuffer::None,
        };
        done.push(IoDone {
            id: flight.id,
            buffer,
            result: flight.error.map_or(Ok(()), Err),
            submitted: flight.submitted.unwrap_or(now),
            completed: now,
        });
    }
}

fn user_data(sequence: u32, slot: u16) -> u64 {
    MAGIC << 48 | u64::from(sequence) << 16 | u64::from(slot)
}

/// The best ring that this kernel makes: 6.1 and later defer completions to when we ask.
fn build(queue_depth: u32) -> io::Result<IoUring> {
    let entries = (queue_depth + 1).next_power_of_two().min(4096);
    let mut best = IoUring::builder();
    best.setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    best.setup_clamp().setup_submit_all();
    best.setup_cqsize(entries * 4).dontfork();
    if let Ok(uring) = best.build(entries) {
        return Ok(uring);
    }
    let mut plain = IoUring::builder();
    plain.setup_clamp().setup_cqsize(entries * 4).dontfork();
    plain.build(entries)
}

/// Registers the pools' memory, so that the kernel needn't pin pages for each I/O.
fn register(uring: &IoUring, pools: &[&SlabPool]) -> (Vec<Registered>, io::Result<()>) {
    let mut buffers = Vec::new();
    let mut ranges = Vec::new();
    for region in pools.iter().flat_map(|pool| pool.regions()) {
        let (base, bytes) = (region.mapping().base(), region.mapping().bytes());
        for at in (0..bytes).step_by(BUFFER_MAX) {
            let len = BUFFER_MAX.min(bytes - at);
            let start = base.as_ptr() as usize + at;
            ranges.push(Registered {
                start,
                end: start + len,
                idx: buffers.len() as u16,
            });
            buffers.push(libc::iovec {
                iov_base: start as *mut libc::c_void,
                iov_len: len,
            });
        }
    }
    // SAFETY: the ranges are mappings of the pools, which outlive the ring: the engine drops
    // its rings before its pools, and the kernel keeps the pages pinned besides.
    match unsafe { uring.submitter().register_buffers(&buffers) } {
        Ok(()) => (ranges, Ok(())),
        Err(why) => (Vec::new(), Err(why)),
    }
}

#[cfg(test)]
mod tests;
