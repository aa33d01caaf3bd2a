//! The sending half of a connection: seals what dispatch says goes next, and writes it in few system calls.
//!
//! A batch is what one `writev` may take: the bytes of any number of small frames, then at most one chunk of a value's
//! slice as it lies in its lease. Frames are sealed when they enter the batch, so their sequence is the order in which they leave.

use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use memkv_proto::payload::TRAILER_BYTES;
use memkv_proto::session::Sealer;
use memkv_proto::{FrameHead, FrameMac, HEADER_BYTES};

use super::stream::ByteStream;
use super::transport::Transport;
use crate::dispatch::{Connection, Out, Portions, Sent, Slice};

/// Small frames are gathered up to here before they are written.
const GATHER_BYTES: usize = 64 << 10;

/// Pieces of one `writev`: 256 KiB of a value lie in few slabs.
const PIECES_MAX: usize = 16;

/// Seals and writes.
pub(crate) struct Sender<M: FrameMac> {
    sealer: Sealer<M>,
    /// Sealed small frames, and the header and control part of the slice.
    bytes: Vec<u8>,
    written: usize,
    /// Parts that are reported as sent with the last byte of `bytes`.
    parts: Vec<Sent>,
    slice: Option<Sending>,
}

/// The slice at the end of a batch.
struct Sending {
    slice: Slice,
    written: u64,
    trailer: Option<[u8; TRAILER_BYTES]>,
    trailer_written: usize,
}

impl Sending {
    fn is_done(&self) -> bool {
        self.written == self.slice.len()
            && self
                .trailer
                .is_none_or(|trailer| self.trailer_written == trailer.len())
    }

    /// Accounts for `count` bytes written of the slice and its trailer; returns what is left of the count.
    fn advance(&mut self, count: usize) {
        let of_slice = (self.slice.len() - self.written).min(count as u64);
        self.written += of_slice;
        self.trailer_written += count - of_slice as usize;
    }
}

impl<M: FrameMac> Sender<M> {
    pub(crate) fn new(sealer: Sealer<M>) -> Self {
        Self {
            sealer,
            bytes: Vec::new(),
            written: 0,
            parts: Vec::new(),
            slice: None,
        }
    }

    /// Writes what waits. Ready when nothing does; pending when the socket is full, or others have their turn.
    pub(crate) fn poll<S: Transport>(
        &mut self,
        stream: &ByteStream<S>,
        connection: &Rc<Connection>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut written = 0;
        loop {
            if self.is_written() {
                self.report(connection);
                self.gather(connection);
                if self.is_written() {
                    self.rest(connection);
                    return Poll::Ready(Ok(()));
                }
            }
            // Asked only where bulk is written: it reads the clock.
            let turn = if self.slice.is_some() {
                connection.thread.portions().turn
            } else {
                Portions::ALONE.turn
            };
            if written >= turn {
                yield_turn(cx);
                return Poll::Pending;
            }
            let result = self.write(stream, turn - written, cx);
            if result.is_pending() {
                connection.taking.is_full(|| stream.unacknowledged());
            }
            let count = ready!(result)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            connection.taking.took_some(count);
            written += count;
        }
    }

    fn is_written(&self) -> bool {
        self.written == self.bytes.len() && self.slice.as_ref().is_none_or(Sending::is_done)
    }

    /// One `writev`, of at most `most` bytes of a value.
    fn write<S: Transport>(
        &mut self,
        stream: &ByteStream<S>,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX + 2];
        let mut len = 0;
        let head = self.bytes.len() - self.written;
        if head > 0 {
            slices[len] = IoSlice::new(&self.bytes[self.written..]);
            len += 1;
        }
        if let Some(sending) = &self.slice {
            let mut shown = sending.written;
            for piece in sending.slice.pieces(sending.written).take(PIECES_MAX) {
                // No system call moves more than a turn's bytes, however long the slice is.
                let left = most - (shown - sending.written) as usize;
                let piece = &piece[..piece.len().min(left)];
                if piece.is_empty() {
                    break;
                }
                slices[len] = IoSlice::new(piece);
                len += 1;
                shown += piece.len() as u64;
            }
            if let Some(trailer) = &sending.trailer
                && shown == sending.slice.len()
            {
                slices[len] = IoSlice::new(&trailer[sending.trailer_written..]);
                len += 1;
            }
        }
        let count = ready!(stream.poll_write(cx, &slices[..len]))?;
        let of_head = count.min(head);
        self.written += of_head;
        if let Some(sending) = &mut self.slice {
            sending.advance(count - of_head);
        }
        Poll::Ready(Ok(count))
    }

    /// A batch is written: what it held is given back.
    fn report(&mut self, connection: &Rc<Connection>) {
        self.bytes.clear();
        self.written = 0;
        if let Some(sending) = self.slice.take() {
            connection.sliced(sending.slice);
        }
        for sent in self.parts.drain(..) {
            connection.sent(sent);
        }
    }

    /// Seals the next batch.
    fn gather(&mut self, connection: &Rc<Connection>) {
        while self.bytes.len() < GATHER_BYTES {
            let Some(out) = connection.next_out() else {
                return;
            };
            if self.bytes.capacity() == 0 {
                self.bytes = connection.thread.buffers.take(0);
            }
            match out {
                Out::Part(head, sent, control, payload) => {
                    let header = self.seal(&head, &control);
                    self.bytes.extend_from_slice(&payload);
                    if !payload.is_empty()
                        && let Some(key) = self.sealer.payload_key()
                    {
                        let mut mac = key.for_header(&header);
                        mac.update(&payload);
                        let trailer = mac.finish();
                        self.bytes.extend_from_slice(&trailer);
                    }
                    self.parts.push(sent);
                    connection.thread.buffers.give(control);
                    connection.thread.buffers.give(payload);
                }
                Out::Slice(head, control, slice) => {
                    let header = self.seal(&head, &control);
                    connection.thread.buffers.give(control);
                    let trailer = self.sealer.payload_key().map(|key| {
                        let mut mac = key.for_header(&header);
                        slice.pieces(0).for_each(|piece| mac.update(piece));
                        mac.finish()
                    });
                    self.slice = Some(Sending {
                        slice,
                        written: 0,
                        trailer,
                        trailer_written: 0,
                    });
                    return;
                }
            }
        }
    }

    fn seal(&mut self, head: &FrameHead, control: &[u8]) -> [u8; HEADER_BYTES] {
        let header = self.sealer.seal(head, control);
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(control);
        header
    }

    /// Nothing waits: an idle connection owns no buffer.
    fn rest(&mut self, connection: &Rc<Connection>) {
        connection.taking.took_all();
        if self.bytes.capacity() > 0 {
            connection
                .thread
                .buffers
                .give(std::mem::take(&mut self.bytes));
        }
    }
}

/// Has the task polled again after the others of its thread and after a look at the sockets.
fn yield_turn(cx: &mut Context<'_>) {
    let mut again = std::pin::pin!(tokio::task::yield_now());
    // Its first poll is always pending, and defers the waker behind the event loop's next look.
    let _ = std::future::Future::poll(again.as_mut(), cx);
}
