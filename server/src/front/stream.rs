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

use tokio::io::ReadBuf;

use super::progress::Progress;
use super::transport::Transport;

/// What one read of headers and control parts takes at most. Large enough for a batch of a hundred keys; a longer control
/// part and all payload go straight to where they belong.
pub(crate) const RECEIVE_BYTES: usize = 16 << 10;

/// The most that one read of payload takes, and what is waited for before it: its checksum is computed while it is still
/// in the cache, and other connections of the thread get their turn.
pub(crate) const CHUNK_BYTES: usize = 512 << 10;

/// What is waited for before the first of them, so that sender and receiver are soon busy at once.
const FIRST_CHUNK_BYTES: usize = 256 << 10;

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

/// A stream and what was read from it ahead of its use.
pub(crate) struct ByteStream<S> {
    stream: RefCell<S>,
    ahead: RefCell<Ahead>,
    buffers: Rc<ReceiveBuffers>,
    progress: Rc<Progress>,
    /// Bytes that make the stream readable.
    mark: Cell<usize>,
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

impl<S: Transport> ByteStream<S> {
    pub(crate) fn new(stream: S, progress: &Rc<Progress>, buffers: &Rc<ReceiveBuffers>) -> Self {
        Self {
            stream: RefCell::new(stream),
            ahead: RefCell::default(),
            buffers: buffers.clone(),
            progress: progress.clone(),
            mark: Cell::new(1),
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

    /// Reads at least one and at most `target.len()` bytes into `target`, no more than [`CHUNK_BYTES`]. Where it has to
    /// wait, a chunk is waited for, or the `due` bytes of the frame that are still to come.
    pub(crate) async fn read_some(&self, target: &mut [u8], due: u64) -> io::Result<usize> {
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
            let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buffer);
            match polled {
                Poll::Pending => {
                    let most = if self.mark.get() == 1 {
                        FIRST_CHUNK_BYTES
                    } else {
                        CHUNK_BYTES
                    };
                    self.wait_for(due.min(most as u64) as usize);
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
            let count = self.read_some(target, target.len() as u64).await?;
            target = &mut target[count..];
        }
        Ok(())
    }

    /// Sleeps until `bytes` are there, unless they are too few or too slow for that.
    fn wait_for(&self, bytes: usize) {
        let mark = self.progress.waits(bytes);
        if self.mark.replace(mark) != mark {
            self.stream.borrow().wake_at(mark);
        }
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
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut target);
        match polled {
            Poll::Ready(result) => {
                let count = target.filled().len();
                ahead.end += count;
                self.progress.received(count);
                Poll::Ready(result.map(|()| count))
            }
            Poll::Pending => {
                if ahead.end > ahead.start && !self.progress.is_in_frame() {
                    self.progress.frame(true);
                }
                self.wait_for(1);
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

    /// Bytes that were written and that the client has not confirmed; `None` where nobody knows.
    pub(crate) fn unacknowledged(&self) -> Option<usize> {
        self.stream.borrow().unacknowledged()
    }

    /// From now on, closing the stream throws away what was written and not sent.
    pub(crate) fn forget_unsent(&self) {
        self.stream.borrow().forget_unsent();
    }

    /// Closes the sending side.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}
