//! The handshake of one connection: at most two small messages each way before anything else is taken.

use std::future::poll_fn;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use memkv_proto::FrameMac;
use memkv_proto::session::{
    PREFIX_BYTES, Refusal, RefusalCode, ServerHandshake, ServerIdentity, Session, message_len,
};
use memkv_telemetry::clock;
use memkv_telemetry::{AuthFailure, ProtocolFault};

use super::stream::ByteStream;
use super::transport::Transport;
use crate::dispatch::{Connection, End};

/// The longest that a connection is kept to tell its client why it ends.
const FAREWELL_WAIT: Duration = Duration::from_millis(20);

/// Reads a Hello, answers it, reads the Finish.
///
/// A refusal is one small frame, and tells nothing that isn't public. What the client claims counts only once its
/// Finish has been checked.
pub(crate) async fn handshake<S, M>(
    bytes: &ByteStream<S>,
    connection: &Rc<Connection>,
    peer: SocketAddr,
) -> Result<Box<Session<M>>, End>
where
    S: Transport,
    M: FrameMac,
{
    let shared = &connection.thread.shared;
    let hello = message(bytes).await?;
    let now = clock::unix_ns();
    if shared.draining() {
        send(bytes, &Refusal::new(RefusalCode::Draining, now).to_bytes()).await;
        return Err(End::Closed);
    }
    let mut nonce = [0; 32];
    if getrandom::fill(&mut nonce).is_err() {
        // Without randomness there is no session that couldn't be replayed.
        send(bytes, &Refusal::new(RefusalCode::Busy, now).to_bytes()).await;
        return Err(End::Broken);
    }
    let keys = shared.keys();
    let identity = ServerIdentity {
        node_id: shared.given_node_id(),
        features: shared.features(),
    };
    let (reply, handshake) =
        match ServerHandshake::<M>::on_hello(&hello, &keys, &identity, now, nonce) {
            Ok(answer) => answer,
            Err(refusal) => return Err(refuse(bytes, &refusal).await),
        };
    send(bytes, &reply).await;
    let finish = message(bytes).await?;
    let session = match handshake.on_finish(&finish, clock::unix_ns()) {
        Ok(session) => session,
        Err(refusal) => return Err(refuse(bytes, &refusal).await),
    };
    // A key that was removed while the handshake ran is not accepted.
    if shared.keys().key_use(session.info.key_id).is_none() {
        return Err(End::KeyRemoved);
    }
    shared.authenticated(&session.info, peer);
    connection.authenticated(session.info.key_id);
    Ok(Box::new(session))
}

/// Reads one handshake message.
async fn message<S: Transport>(bytes: &ByteStream<S>) -> Result<Vec<u8>, End> {
    let have = bytes.buffered(PREFIX_BYTES).await;
    if !have.map_err(|_| End::Broken)? {
        return Err(End::Closed);
    }
    let len = match bytes.peek(PREFIX_BYTES, message_len) {
        Ok(Some(len)) => len,
        Ok(_) | Err(_) => {
            let is_frame = bytes.peek(4, |magic| magic == memkv_proto::frame::FRAME_MAGIC);
            if is_frame {
                // An op before the handshake.
                return Err(End::Auth(AuthFailure::NoSession));
            }
            let refusal = Refusal::new(RefusalCode::Malformed, clock::unix_ns());
            send(bytes, &refusal.to_bytes()).await;
            return Err(End::Protocol(ProtocolFault::Magic));
        }
    };
    bytes.buffered(len).await.map_err(|_| End::Broken)?;
    Ok(bytes.take(len, <[u8]>::to_vec))
}

/// Sends a refusal, and says how the connection ends.
async fn refuse<S: Transport>(bytes: &ByteStream<S>, refusal: &Refusal) -> End {
    let end = match refusal.code {
        RefusalCode::UnknownKey => End::Auth(AuthFailure::UnknownKey),
        RefusalCode::ClockSkew => End::Auth(AuthFailure::ClockSkew),
        RefusalCode::BadMac => End::Auth(AuthFailure::BadMac),
        RefusalCode::UnsupportedVersion => End::Protocol(ProtocolFault::Version),
        _ => End::Protocol(ProtocolFault::Header),
    };
    send(bytes, &refusal.to_bytes()).await;
    end
}

/// Tells a client whose place is needed; one that doesn't take it at once isn't told.
pub(super) async fn say_busy<S: Transport>(bytes: &ByteStream<S>) {
    let busy = Refusal::new(RefusalCode::Busy, clock::unix_ns()).to_bytes();
    let _ = tokio::time::timeout(FAREWELL_WAIT, send(bytes, &busy)).await;
}

/// Sends a few bytes; a client that doesn't take them is ended by the handshake's time limit.
async fn send<S: Transport>(bytes: &ByteStream<S>, mut message: &[u8]) {
    while !message.is_empty() {
        match poll_fn(|cx| bytes.poll_write(cx, &[IoSlice::new(message)])).await {
            Ok(count) if count > 0 => message = &message[count..],
            _ => return,
        }
    }
}
