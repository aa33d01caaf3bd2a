//! Frames on their way out: heads from here, payload from where the caller has it, in one `writev`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use mio::net::TcpStream;

use super::OpTable;
use super::job::{Jobs, OpId};

/// Bytes handed to the kernel in one call: another connection's turn comes within a fraction of a millisecond, and the
/// receiver is not woken for less.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Bytes handed to the kernel before the pump looks at replies and deadlines again: a receiver that keeps up would take a
/// value of any size without a pause.
const TURN_BYTES: usize = 8 << 20;
/// Slices in one call; the kernel takes 1024, but after 64 the call's own cost no longer shows.
const SLICES_MAX: usize = 64;

/// Why writing paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paused {
    /// Nothing is left.
    Empty,
    /// The kernel takes no more.
    Blocked,
    /// Others have their turn.
    Turn,
}

/// A sealed frame: its header and control part, and whose payload follows.
#[derive(Debug)]
struct Frame {
    head: Vec<u8>,
    job: Option<OpId>,
    payload_count: usize,
    trailer: Option<[u8; 32]>,
}

impl Frame {
    /// Part 0 is the head, then one per payload, then the trailer.
    fn part_count(&self) -> usize {
        1 + self.payload_count + usize::from(self.trailer.is_some())
    }

    fn part<'s, 'a, T: OpTable<'a>>(&'s self, idx: usize, jobs: &Jobs, table: &'s T) -> &'s [u8]
    where
        'a: 's,
    {
        if idx == 0 {
            return &self.head;
        }
        if idx > self.payload_count {
            return self
                .trailer
                .as_ref()
                .map_or(&[], |trailer| trailer.as_slice());
        }
        let job = self.job.and_then(|id| jobs.get(id));
        // A job whose frame is still leaving stays in its table: it isn't reported before it is answered or fenced, and
        // fencing it while its frame is half out means closing the connection.
        job.and_then(|job| table.op(job.token))
            .map_or(&[], |op| op.payload(idx - 1))
    }
}

/// The frames of one connection that are sealed and not yet with the kernel.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    frames: VecDeque<Frame>,
    /// The part of the first frame that is next, and how much of it is gone.
    part: usize,
    offset: usize,
    spare: Vec<Vec<u8>>,
}

impl Outbound {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// An empty buffer for the next head, reused where there is one.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(crate) fn push(
        &mut self,
        head: Vec<u8>,
        job: Option<(OpId, usize)>,
        trailer: Option<[u8; 32]>,
    ) {
        let (job, payload_count) = job.map_or((None, 0), |(id, count)| (Some(id), count));
        self.frames.push_back(Frame {
            head,
            job,
            payload_count,
            trailer,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.part = 0;
        self.offset = 0;
    }

    /// Writes until something ends it. Jobs whose frame is out go to `sent`.
    pub(crate) fn write<'a, T: OpTable<'a>>(
        &mut self,
        stream: &mut TcpStream,
        jobs: &Jobs,
        table: &T,
        sent: &mut Vec<OpId>,
    ) -> io::Result<Paused> {
        let mut turn = TURN_BYTES;
        while !self.frames.is_empty() {
            if turn == 0 {
                return Ok(Paused::Turn);
            }
            let (mut slices, mut count, mut bytes) = ([IoSlice::new(&[]); SLICES_MAX], 0, 0);
            let (mut part, mut offset) = (self.part, self.offset);
            'gather: for frame in &self.frames {
                while part < frame.part_count() {
                    let Some(slice) = frame.part(part, jobs, table).get(offset..) else {
                        return Err(io::Error::other("payload shrank while it was sent"));
                    };
                    let slice = &slice[..slice.len().min(WRITE_BYTES_MAX - bytes)];
                    if !slice.is_empty() {
                        slices[count] = IoSlice::new(slice);
                        count += 1;
                        bytes += slice.len();
                    }
                    if count == SLICES_MAX || bytes == WRITE_BYTES_MAX {
                        break 'gather;
                    }
                    part += 1;
                    offset = 0;
                }
                part = 0;
            }
            let written = match count {
                0 => Ok(0),
                1 => io::Write::write(stream, &slices[0]),
                _ => io::Write::write_vectored(stream, &slices[..count]),
            };
            let written = match written {
                Ok(0) if count > 0 => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Paused::Blocked);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.consume(written, jobs, table, sent);
            turn = turn.saturating_sub(written);
        }
        Ok(Paused::Empty)
    }

    fn consume<'a, T: OpTable<'a>>(
        &mut self,
        mut written: usize,
        jobs: &Jobs,
        table: &T,
        sent: &mut Vec<OpId>,
    ) {
        while let Some(frame) = self.frames.front() {
            while self.part < frame.part_count() {
                let left = frame.part(self.part, jobs, table).len() - self.offset;
                if written < left {
                    self.offset += written;
                    return;
                }
                written -= left;
                self.part += 1;
                self.offset = 0;
            }
            self.part = 0;
            let mut frame = self.frames.pop_front().expect("it was the front just now");
            sent.extend(frame.job);
            if self.spare.len() < 4 && frame.head.capacity() <= 64 * 1024 {
                frame.head.clear();
                self.spare.push(frame.head);
            }
            if written == 0 {
                return;
            }
        }
    }
}
