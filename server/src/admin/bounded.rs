//! The admin port's connections: at most a number of them, none idle for long.
//!
//! Where there is no room for one more, the oldest that hasn't sent a whole request head makes it, a TLS handshake that
//! never ends included. Whoever opens connections and stays silent closes his own; a probe sends its head at once, and is
//! answered. Where every connection has sent a head, the one whose last lies longest back goes: a scraper's that waits for
//! its next turn, or one that doesn't read its answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tower_service::Service;

use crate::limits::Limits;

/// Whether a head was received, and when the last, or the connection itself, came. The least goes first.
type Rank = (bool, u64);

/// The longest that the next connection waits for the one that makes room to be gone. Until then nobody else is accepted,
/// so that each gets its turn to be read before so many others came that it is the oldest.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// What the others know of an open connection.
struct Peer {
    /// Tells it to close, by being dropped.
    _tells: oneshot::Sender<()>,
    /// Comes when it is gone.
    gone: oneshot::Receiver<()>,
}

/// The open connections.
#[derive(Default)]
struct Open {
    by_rank: BTreeMap<Rank, Peer>,
    came: u64,
}

impl Open {
    fn insert(&mut self, has_head: bool, peer: Peer) -> Rank {
        self.came += 1;
        let rank = (has_head, self.came);
        self.by_rank.insert(rank, peer);
        rank
    }

    /// Tells the first in line to close, where there are so many; what is left of it comes when it is gone.
    fn make_room(&mut self, open_max: usize) -> Option<oneshot::Receiver<()>> {
        if self.by_rank.len() < open_max {
            return None;
        }
        self.by_rank.pop_first().map(|(_, peer)| peer.gone)
    }
}

/// Gives each connection of a listener its place as it is accepted, and its routes from `make`.
pub(super) struct Entrance<M> {
    make: M,
    open: Arc<Mutex<Open>>,
    open_max: usize,
}

impl<M> Entrance<M> {
    pub(super) fn new(make: M, limits: &Limits) -> Self {
        Self {
            make,
            open: Arc::default(),
            // The one that just came is never the one that goes.
            open_max: limits.admin_connections_max.max(1),
        }
    }

    /// A place, and the end of the connection that left it, if any had to.
    fn enter(&self) -> (Arc<Place>, Option<oneshot::Receiver<()>>) {
        let (tells, told) = oneshot::channel();
        let (is_gone, gone) = oneshot::channel();
        let mut open = self.open.lock();
        let room = open.make_room(self.open_max);
        let peer = Peer {
            _tells: tells,
            gone,
        };
        let place = Place {
            open: self.open.clone(),
            rank: Mutex::new(open.insert(false, peer)),
            told: Mutex::new(Some(told)),
            _is_gone: is_gone,
        };
        (Arc::new(place), room)
    }
}

impl<M, A> Service<A> for Entrance<M>
where
    M: Service<A>,
    M::Future: Send + 'static,
{
    type Response = Heard<M::Response>;
    type Error = M::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, M::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.make.poll_ready(cx)
    }

    fn call(&mut self, address: A) -> Self::Future {
        let (place, room) = self.enter();
        let made = self.make.call(address);
        Box::pin(async move {
            if let Some(gone) = room {
                let _ = tokio::time::timeout(ROOM_WAIT, gone).await;
            }
            let service = made.await?;
            Ok(Heard { service, place })
        })
    }
}

/// Has a connection's stream end when its place is needed, before TLS or HTTP sees it.
#[derive(Clone)]
pub(super) struct Bounded {
    idle: Duration,
}

impl Bounded {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            idle: limits.admin_header,
        }
    }
}

impl<I, S> Accept<I, Heard<S>> for Bounded {
    type Stream = Counted<I>;
    type Service = Heard<S>;
    type Future = std::future::Ready<io::Result<(Counted<I>, Heard<S>)>>;

    fn accept(&self, stream: I, service: Heard<S>) -> Self::Future {
        let stream = Counted {
            stream,
            told: service.place.told.lock().take(),
            _place: service.place.clone(),
            limit: self.idle,
            idle: Box::pin(tokio::time::sleep(self.idle)),
        };
        std::future::ready(Ok((stream, service)))
    }
}

/// A connection's place among the open ones; dropping it leaves the place.
struct Place {
    open: Arc<Mutex<Open>>,
    rank: Mutex<Rank>,
    /// The stream's, from when there is one.
    told: Mutex<Option<oneshot::Receiver<()>>>,
    _is_gone: oneshot::Sender<()>,
}

impl Place {
    /// A whole request head was received.
    fn heard(&self) {
        let mut open = self.open.lock();
        let mut rank = self.rank.lock();
        if let Some(peer) = open.by_rank.remove(&rank) {
            *rank = open.insert(true, peer);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().by_rank.remove(self.rank.get_mut());
    }
}

/// A connection's routes, which know when it has sent a request's head.
#[derive(Clone)]
pub(super) struct Heard<S> {
    service: S,
    place: Arc<Place>,
}

impl<S: Service<R>, R> Service<R> for Heard<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.place.heard();
        self.service.call(request)
    }
}

/// A stream that counts as open until it is dropped, and ends when its place is needed or nothing moves for a while.
///
/// The HTTP server's own limit starts with the first byte of a request; before it, between two, and for an answer that
/// nobody takes, this one holds.
pub(super) struct Counted<I> {
    stream: I,
    _place: Arc<Place>,
    /// `None` once the stream has ended.
    told: Option<oneshot::Receiver<()>>,
    limit: Duration,
    idle: Pin<Box<tokio::time::Sleep>>,
}

impl<I: Unpin> Counted<I> {
    /// Reads or writes by `step`, unless the stream has ended.
    fn within<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let has_place = |told: &mut oneshot::Receiver<()>| Pin::new(told).poll(cx).is_pending();
        if !self.told.as_mut().is_some_and(has_place) {
            self.told = None;
            let why = "closed: another admin connection needed the place";
            return Poll::Ready(Err(io::Error::other(why)));
        }
        let result = step(Pin::new(&mut self.stream), cx);
        if result.is_ready() {
            let again = tokio::time::Instant::now() + self.limit;
            self.idle.as_mut().reset(again);
        } else if self.idle.as_mut().poll(cx).is_ready() {
            self.told = None;
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.within(cx, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.within(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
