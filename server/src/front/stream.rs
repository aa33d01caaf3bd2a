//! A byte stream with a receive buffer that exists only while it holds something.
//!
//! An idle connection owns no buffer: it takes one from its thread's pool when it tries to read and gives it back when
//! there was nothing. The start of a frame that has not arrived whole is kept in a vector of its own size, so that ten
//! thousand connections that trickle cost their bytes and not ten thousand buffers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use memkv_telemetry::clock::{self, Tick};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read of headers and control parts takes at most. Large enough for a batch of a hundred keys; a longer control
/// part and all payload go straight to where they belong.
pub(crate) const RECEIVE_BYTES: usize = 16 << 10;

/// The most that one read of payload takes: its checksum is computed while it is still in the cache, and other
/// connections of the thread get their turn.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// Most bytes of one value that a frame carries: four chunks. Each frame costs both ends a MAC, a digest and a header,
/// and its receiver a copy of the few KiB that arrive with the header; small replies of the same connection wait for
/// the frame's end, a third of a millisecond on a link of 25 Gbit/s.
pub(crate) const FRAME_BYTES: usize = 1 << 20;

/// Receive buffers of one data thread, each [`RECEIVE_BYTES`] long.
#[derive(Debug, Default)]
pub(crate) struct ReceiveBuffers {
    free: RefCell<Vec<Box<[u8]>>>,
}

/// Buffers kept for later by one thread: 1 MiB.
const KEPT_MAX: usize = 64;

impl ReceiveBuffers {
    fn take(&self) -> Box<[u8]> {
        self.free
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| vec![0; RECEIVE_BYTES].into_boxed_slice())
    }

    fn give(&self, buffer: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if free.len() < KEPT_MAX {
            free.push(buffer);
        }
    }
}

/// How a client is doing with the frame it is sending; the sweeper reads it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Since when the connection waits for bytes of a frame that has begun.
    waiting_since: Cell<Option<Tick>>,
    /// Nanoseconds waited for earlier bytes of this frame.
    waited_ns: Cell<u64>,
    /// Bytes of this frame received.
    frame_bytes: Cell<u64>,
    in_frame: Cell<bool>,
}

impl Progress {
    /// A frame has begun (`true`) or ended (`false`).
    fn frame(&self, begun: bool) {
        self.in_frame.set(begun);
        self.waiting_since.set(None);
        self.waited_ns.set(0);
        self.frame_bytes.set(0);
    }

    fn received(&self, bytes: usize) {
        self.frame_bytes.set(self.frame_bytes.get() + bytes as u64);
        if let Some(since) = self.waiting_since.take() {
            let waited = clock::now().0.saturating_sub(since.0);
            self.waited_ns.set(self.waited_ns.get() + waited);
        }
    }

    fn waits(&self) {
        if self.in_frame.get() && self.waiting_since.get().is_none() {
            self.waiting_since.set(Some(clock::now()));
        }
    }

    /// Whether the client has stalled a frame, or trickles it slower than `bytes_per_second_min`.
    pub(crate) fn stalled(&self, now: Tick, stall_ns: u64, bytes_per_second_min: u64) -> bool {
        let Some(since) = self.waiting_since.get() else {
            return false;
        };
        let waiting = now.0.saturating_sub(since.0);
        let waited = self.waited_ns.get() + waiting;
        let due = u128::from(waited) * u128::from(bytes_per_second_min) / 1_000_000_000;
        waiting > stall_ns || (waited > stall_ns && u128::from(self.frame_bytes.get()) < due)
    }
}

/// A stream and what was read from it ahead of its use.
pub(crate) struct ByteStream<S> {
    stream: RefCell<S>,
    ahead: RefCell<Ahead>,
    buffers: Rc<ReceiveBuffers>,
    progress: Rc<Progress>,
}

#[derive(Default)]
struct Ahead {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// The begin of a frame, held while no buffer is.
    stash: Vec<u8>,
}

impl Ahead {
    fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[self.start..self.end],
            None => &self.stash,
        }
    }

    fn len(&self) -> usize {
        match self.buffer {
            Some(_) => self.end - self.start,
            None => self.stash.len(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self.buffer {
            Some(_) => {
                self.start += count;
                debug_assert!(self.start <= self.end);
            }
            None => drop(self.stash.drain(..count)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream<S> {
    pub(crate) fn new(stream: S, progress: &Rc<Progress>, buffers: &Rc<ReceiveBuffers>) -> Self {
        Self {
            stream: RefCell::new(stream),
            ahead: RefCell::default(),
            buffers: buffers.clone(),
            progress: progress.clone(),
        }
    }

    /// Waits until `count` bytes are buffered; `false` when the client closed before the first of them.
    ///
    /// # Panics
    /// If `count` exceeds [`RECEIVE_BYTES`].
    pub(crate) async fn buffered(&self, count: usize) -> io::Result<bool> {
        assert!(count <= RECEIVE_BYTES);
        poll_fn(|cx| {
            loop {
                let have = self.ahead.borrow().len();
                if have >= count {
                    return Poll::Ready(Ok(true));
                }
                if ready!(self.poll_fill(cx))? == 0 {
                    return Poll::Ready(match have {
                        0 => Ok(false),
                        _ => Err(io::ErrorKind::UnexpectedEof.into()),
                    });
                }
            }
        })
        .await
    }

    /// Shows the next `count` buffered bytes to `read` and consumes them.
    pub(crate) fn take<T>(&self, count: usize, read: impl FnOnce(&[u8]) -> T) -> T {
        let mut ahead = self.ahead.borrow_mut();
        let answer = read(&ahead.bytes()[..count]);
        ahead.consume(count);
        answer
    }

    /// Shows the next `count` buffered bytes without consuming them.
    pub(crate) fn peek<T>(&self, count: usize, read: impl FnOnce(&[u8]) -> T) -> T {
        read(&self.ahead.borrow().bytes()[..count])
    }

    /// Bytes received ahead of their use.
    pub(crate) fn ahead_len(&self) -> usize {
        self.ahead.borrow().len()
    }

    /// A frame begins: from here on the client is held to a pace.
    pub(crate) fn begin_frame(&self) {
        self.progress.frame(true);
    }

    /// The frame is complete: the client may be silent as long as it likes.
    pub(crate) fn end_frame(&self) {
        self.progress.frame(false);
    }

    /// Reads at least one and at most `target.len()` bytes into `target`, no more than [`CHUNK_BYTES`].
    pub(crate) async fn read_some(&self, target: &mut [u8]) -> io::Result<usize> {
        let most = target.len().min(CHUNK_BYTES);
        let target = &mut target[..most];
        {
            let mut ahead = self.ahead.borrow_mut();
            let have = ahead.len().min(target.len());
            if have > 0 {
                target[..have].copy_from_slice(&ahead.bytes()[..have]);
                ahead.consume(have);
                return Ok(have);
            }
        }
        poll_fn(|cx| {
            let mut buffer = ReadBuf::new(target);
            match Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.progress.waits();
                    Poll::Pending
                }
                Poll::Ready(result) => {
                    result?;
                    let count = buffer.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.progress.received(count);
                    Poll::Ready(Ok(count))
                }
            }
        })
        .await
    }

    /// Reads and forgets at least one and at most `most` bytes, up to [`RECEIVE_BYTES`], once `seen` had a look at them.
    pub(crate) async fn discard(&self, most: usize, seen: impl FnOnce(&[u8])) -> io::Result<usize> {
        if self.ahead_len() == 0 && !self.buffered(1).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = self.ahead_len().min(most);
        self.take(count, seen);
        Ok(count)
    }

    /// Fills `target`.
    pub(crate) async fn read_exact(&self, mut target: &mut [u8]) -> io::Result<()> {
        while !target.is_empty() {
            let count = self.read_some(target).await?;
            target = &mut target[count..];
        }
        Ok(())
    }

    fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut ahead = self.ahead.borrow_mut();
        let ahead = &mut *ahead;
        if ahead.buffer.is_none() {
            let mut buffer = self.buffers.take();
            buffer[..ahead.stash.len()].copy_from_slice(&ahead.stash);
            (ahead.start, ahead.end) = (0, ahead.stash.len());
            ahead.stash = Vec::new();
            ahead.buffer = Some(buffer);
        }
        let Some(buffer) = ahead.buffer.as_mut() else {
            unreachable!("taken above")
        };
        if ahead.start > 0 {
            buffer.copy_within(ahead.start..ahead.end, 0);
            (ahead.start, ahead.end) = (0, ahead.end - ahead.start);
        }
        let mut target = ReadBuf::new(&mut buffer[ahead.end..]);
        match Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut target) {
            Poll::Ready(result) => {
                let count = target.filled().len();
                ahead.end += count;
                self.progress.received(count);
                Poll::Ready(result.map(|()| count))
            }
            Poll::Pending => {
                if ahead.end > ahead.start && !self.progress.in_frame.get() {
                    self.progress.frame(true);
                }
                self.progress.waits();
                if let Some(buffer) = ahead.buffer.take() {
                    ahead.stash = buffer[ahead.start..ahead.end].to_vec();
                    self.buffers.give(buffer);
                }
                Poll::Pending
            }
        }
    }

    /// Writes from `slices`; as `poll_write_vectored`.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, slices)
    }

    /// Closes the sending side.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}
