//! The native protocol over a byte stream: bytes to frames to dispatch, and back. It decides nothing.
//!
//! ```text
//! socket ─► header ─► MAC ─► control part ─► digest ─► dispatch ─► payload ─► the lease it belongs to
//! socket ◄─ writev{ sealed frames, slices of leases } ◄─ what dispatch says goes next
//! ```
//!
//! One task per connection polls both directions, so that a reply that is ready when a request has been read leaves in
//! the same poll, and several leave in one system call. Reading stops while dispatch holds too much of this connection;
//! writing never does. A poll reads at most [`CHUNK_BYTES`] and writes a turn's before other connections have theirs.
//!
//! Generic over the stream, so that TLS, or a test's pipe, can come under it.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use memkv_proto::HEADER_BYTES;
use memkv_proto::frame::HeadError;
use memkv_proto::payload::{PayloadMac, TRAILER_BYTES};
use memkv_proto::session::{OpenError, Opener, Session};
use memkv_proto::{FrameHead, FrameMac};
use memkv_telemetry::clock;
use memkv_telemetry::{AuthFailure, ProtocolFault};

use super::handshake::{handshake, say_busy};
use super::send::Sender;
use super::stream::{ByteStream, CHUNK_BYTES, RECEIVE_BYTES};
use super::transport::Transport;
use crate::dispatch::{Begun, Connection, End, Intake, Received, Slot, Thread, sleep_until};
use crate::half_open::HalfOpen;

/// Serves one connection until it ends, and gives back everything it held.
pub(crate) async fn serve<S, M>(
    stream: S,
    peer: SocketAddr,
    half_open: HalfOpen,
    thread: Rc<Thread>,
) where
    S: Transport,
    M: FrameMac,
{
    let connection = thread.connect();
    let open = Open(connection.clone());
    let bytes = ByteStream::new(stream, &connection.progress, &thread.receive);
    let end = match greet::<S, M>(&bytes, &connection, &half_open, peer).await {
        Ok(session) => {
            drop(half_open);
            let end = converse(&bytes, &connection, session).await;
            drop(open);
            end
        }
        Err(end) => {
            if end == End::Crowded {
                say_busy(&bytes).await;
            }
            // Its place is left once it isn't counted any more: somebody may wait for that.
            drop(open);
            drop(half_open);
            end
        }
    };
    thread.shared.connection_ended(connection.number, peer, end);
    if end == End::NeverReads {
        // The kernel would keep megabytes for minutes, and the client not learn that it is over.
        bytes.forget_unsent();
        return;
    }
    let _ = poll_fn(|cx| bytes.poll_shutdown(cx)).await;
}

/// Closes the connection at dispatch however its task ends.
struct Open(Rc<Connection>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The handshake, ended by the sweeper if it takes too long, and where its place is needed.
async fn greet<S, M>(
    bytes: &ByteStream<S>,
    connection: &Rc<Connection>,
    half_open: &HalfOpen,
    peer: SocketAddr,
) -> Result<Box<Session<M>>, End>
where
    S: Transport,
    M: FrameMac,
{
    let mut handshake = Box::pin(handshake::<S, M>(bytes, connection, peer));
    let mut crowded = Box::pin(half_open.asked_to_leave());
    poll_fn(|cx| {
        connection.polled(cx);
        if crowded.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(End::Crowded));
        }
        match connection.ending() {
            Some(end) => Poll::Ready(Err(end)),
            None => handshake.as_mut().poll(cx),
        }
    })
    .await
}

/// Frames both ways.
async fn converse<S, M>(
    bytes: &ByteStream<S>,
    connection: &Rc<Connection>,
    session: Box<Session<M>>,
) -> End
where
    S: Transport,
    M: FrameMac,
{
    let Session { sealer, opener, .. } = *session;
    let mut sender = Sender::new(sealer);
    let mut receiver = pin!(receive(bytes, connection, opener));
    let mut patience: Option<Pin<Box<tokio::time::Sleep>>> = None;
    // Set once the client is done sending: what it is owed is still sent.
    let mut received: Option<End> = None;
    poll_fn(|cx| {
        connection.polled(cx);
        if let Some(end) = connection.ending() {
            return Poll::Ready(end);
        }
        wait_for_share(connection, &mut patience, cx);
        let mut sent = sender.poll(bytes, connection, cx);
        if received.is_none()
            && let Poll::Ready(end) = receiver.as_mut().poll(cx)
        {
            received = Some(end);
        }
        if sent.is_ready() {
            // What the receiver has just had answered goes out in this poll.
            sent = sender.poll(bytes, connection, cx);
        }
        match (sent, received) {
            (Poll::Ready(Err(_)), _) => Poll::Ready(End::Broken),
            (Poll::Ready(Ok(())), Some(End::Closed)) if connection.is_quiet() => {
                Poll::Ready(End::Closed)
            }
            (_, Some(End::Closed) | None) => {
                connection.wake_reader();
                Poll::Pending
            }
            (_, Some(end)) => Poll::Ready(end),
        }
    })
    .await
}

/// Lets reads that wait for other connections' bytes go on or give up.
fn wait_for_share(
    connection: &Rc<Connection>,
    patience: &mut Option<Pin<Box<tokio::time::Sleep>>>,
    cx: &mut Context<'_>,
) {
    if !connection.has_stalled() {
        *patience = None;
        return;
    }
    let admission = connection.thread.shared.admission();
    admission.park(connection.number, cx.waker());
    connection.resume_reads();
    match connection.stalled_until() {
        Some(until) => {
            let sleep = patience.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.as_mut().poll(cx).is_ready() {
                *patience = None;
                cx.waker().wake_by_ref();
            }
        }
        None => *patience = None,
    }
}

/// Reads frames until the client is done or did what it mustn't.
async fn receive<S, M>(
    bytes: &ByteStream<S>,
    connection: &Rc<Connection>,
    mut opener: Opener<M>,
) -> End
where
    S: Transport,
    M: FrameMac,
{
    loop {
        poll_fn(|_| {
            if connection.may_read() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        match receive_frame(bytes, connection, &mut opener).await {
            Ok(true) => {}
            Ok(false) => return End::Closed,
            Err(end) => return end,
        }
    }
}

/// Reads one frame; `false` when there is none.
async fn receive_frame<S, M>(
    bytes: &ByteStream<S>,
    connection: &Rc<Connection>,
    opener: &mut Opener<M>,
) -> Result<bool, End>
where
    S: Transport,
    M: FrameMac,
{
    if !bytes.buffered(HEADER_BYTES).await.map_err(broken)? {
        return Ok(false);
    }
    let first = clock::now();
    bytes.begin_frame();
    let header: [u8; HEADER_BYTES] = bytes.take(HEADER_BYTES, |header| {
        let mut copy = [0; HEADER_BYTES];
        copy.copy_from_slice(header);
        copy
    });
    let head = match opener.open(&header) {
        Ok(head) => head,
        Err(error) => {
            if let OpenError::Head(HeadError::TooLarge { op, request_id, .. }) = &error {
                // It is authentic, so the client is told before the connection closes.
                connection.too_large(*op, *request_id, &error.to_string(), first);
            }
            return Err(refused(&error));
        }
    };
    let len = head.control_len as usize;
    let payload_mac = opener.trailer_len(&head) > 0;
    let begun = if len <= RECEIVE_BYTES {
        if !bytes.buffered(len).await.map_err(broken)? && len > 0 {
            return Err(End::Protocol(ProtocolFault::Truncated));
        }
        bytes.take(len, |control| {
            begin(connection, opener, &head, control, first, payload_mac)
        })
    } else {
        let Some(mut control) = connection.control_buffer(len) else {
            let trailer = opener.trailer_len(&head);
            return Box::pin(too_busy(bytes, connection, &head, trailer, first)).await;
        };
        let read = Box::pin(read_control(bytes, &mut control, len)).await;
        let begun = read.map_err(broken).and_then(|()| {
            begin(connection, opener, &head, &control, first, payload_mac).map(Some)
        });
        connection.give_control_buffer(control, len);
        begun.map(|begun| begun.unwrap_or(Begun::Skip))
    }?;
    match begun {
        Begun::Done => {}
        Begun::Skip => skip(bytes, head.payload_len + opener.trailer_len(&head) as u64).await?,
        Begun::Payload(intake) => {
            let mac = opener.payload_key().map(|key| key.for_head(&head));
            // Boxed: it has 2 KiB, which every idle connection would carry.
            let mac = mac.filter(|_| payload_mac).map(Box::new);
            // Boxed as well: its state is larger than all the rest of a connection.
            Box::pin(take_payload(bytes, intake, head.payload_len, mac)).await?;
        }
    }
    bytes.end_frame();
    Ok(true)
}

fn begin<M: FrameMac>(
    connection: &Rc<Connection>,
    opener: &mut Opener<M>,
    head: &FrameHead,
    control: &[u8],
    first: clock::Tick,
    payload_mac: bool,
) -> Result<Begun, End> {
    let complete = clock::now();
    opener
        .check_control(head, control)
        .map_err(|error| refused(&error))?;
    let received = Received {
        first,
        complete,
        verified: clock::now(),
        payload_mac,
    };
    Ok(connection.begin(head, control, &received))
}

/// Reads a control part that is longer than the receive buffer.
async fn read_control<S: Transport>(
    bytes: &ByteStream<S>,
    control: &mut Vec<u8>,
    len: usize,
) -> io::Result<()> {
    while control.len() < len {
        // Grown as bytes arrive, not as the header claims.
        let start = control.len();
        control.resize((start + RECEIVE_BYTES).min(len), 0);
        bytes.read_exact(&mut control[start..]).await?;
    }
    Ok(())
}

/// No memory for the description of a request: forgets it and says so.
async fn too_busy<S: Transport>(
    bytes: &ByteStream<S>,
    connection: &Rc<Connection>,
    head: &FrameHead,
    trailer_len: usize,
    first: clock::Tick,
) -> Result<bool, End> {
    connection.too_busy(head, first);
    skip(
        bytes,
        u64::from(head.control_len) + head.payload_len + trailer_len as u64,
    )
    .await?;
    bytes.end_frame();
    Ok(true)
}

async fn take_payload<S: Transport>(
    bytes: &ByteStream<S>,
    mut intake: Box<Intake>,
    mut due: u64,
    mut mac: Option<Box<PayloadMac>>,
) -> Result<(), End> {
    let mut turn = CHUNK_BYTES;
    while let Some(slot) = intake.next().await {
        let count = match slot {
            Slot::Fill(piece) => {
                let count = bytes.read_some(piece, due).await.map_err(broken)?;
                if let Some(mac) = &mut mac {
                    mac.update(intake.last_filled(count));
                }
                intake.filled(count);
                count
            }
            Slot::Skip(left) => {
                let count = skip_some(bytes, left, mac.as_deref_mut()).await?;
                intake.skipped(count as u64);
                count
            }
        };
        due -= count as u64;
        turn = turn.saturating_sub(count);
        if turn == 0 {
            turn = CHUNK_BYTES;
            tokio::task::yield_now().await;
        }
    }
    if let Some(mac) = mac {
        let mut trailer = [0; TRAILER_BYTES];
        bytes.read_exact(&mut trailer).await.map_err(broken)?;
        if !mac.verify(&trailer) {
            return Err(End::Auth(AuthFailure::BadMac));
        }
    }
    intake.finish();
    Ok(())
}

/// Reads `left` bytes and forgets them.
async fn skip<S: Transport>(bytes: &ByteStream<S>, mut left: u64) -> Result<(), End> {
    while left > 0 {
        left -= skip_some(bytes, left, None).await? as u64;
    }
    Ok(())
}

async fn skip_some<S: Transport>(
    bytes: &ByteStream<S>,
    left: u64,
    mac: Option<&mut PayloadMac>,
) -> Result<usize, End> {
    let most = left.min(RECEIVE_BYTES as u64) as usize;
    bytes
        .discard(most, |chunk| {
            if let Some(mac) = mac {
                mac.update(chunk);
            }
        })
        .await
        .map_err(broken)
}

fn broken(error: io::Error) -> End {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => End::Protocol(ProtocolFault::Truncated),
        _ => End::Broken,
    }
}

/// How a connection ends for what a client with our key wouldn't have sent.
fn refused(error: &OpenError) -> End {
    match error {
        OpenError::BadMac => End::Auth(AuthFailure::BadMac),
        OpenError::BadDigest => End::Protocol(ProtocolFault::Digest),
        OpenError::Sequence { .. } => End::Auth(AuthFailure::Sequence),
        OpenError::WrongVersion { .. } => End::Protocol(ProtocolFault::Version),
        OpenError::NotAFrame(_) | OpenError::Refused(_) => End::Protocol(ProtocolFault::Magic),
        OpenError::Head(_) => End::Protocol(ProtocolFault::Header),
        _ => End::Protocol(ProtocolFault::Header),
    }
}
