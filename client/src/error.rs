//! What can go wrong, shaped by what a caller can do about it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use memkv_proto::op::ErrorCode;

/// What became of one entry of a call: how metrics, the CLI and other languages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryOutcome {
    /// It was done: stored, found, deleted, present.
    Ok,
    /// The server doesn't hold the key.
    Miss,
    /// The server ran the entry and it failed there, or the client refused it by the protocol's limits.
    Error(ErrorCode),
    /// The entry never reached the server or its reply never came back whole.
    Transport,
}

impl EntryOutcome {
    /// `ok`, `miss`, `error` or `transport`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Miss => "miss",
            Self::Error(_) => "error",
            Self::Transport => "transport",
        }
    }
}

/// The outcome of a result as the verbs return it: `Ok(Some)` is ok, `Ok(None)` a miss.
pub fn outcome_of<T>(result: &Result<Option<T>, OpError>) -> EntryOutcome {
    match result {
        Ok(Some(_)) => EntryOutcome::Ok,
        Ok(None) => EntryOutcome::Miss,
        Err(error) => error.outcome(),
    }
}

/// Why one entry of a call wasn't done. Cheap to clone: a lost connection fails every entry that rode on it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpError {
    /// The server ran the entry and answered with an error.
    #[error("server {server} answered {code}{}{}", colon(.detail), retry_hint(.retry_after))]
    Server {
        /// The server string as configured.
        server: Arc<str>,
        /// What it answered.
        code: ErrorCode,
        /// When to try again, where the server said so (`Busy`).
        retry_after: Option<Duration>,
        /// Why, in the server's words; may be empty.
        detail: Arc<str>,
    },
    /// The entry never reached the server, or its reply never came back whole. A put may or may not have been applied,
    /// except where the cause says that nothing was sent; it will not be applied any more after this was returned.
    #[error("server {server}")]
    Transport {
        /// The server string as configured.
        server: Arc<str>,
        /// What happened on the way.
        #[source]
        cause: TransportCause,
    },
    /// The key's length is outside what the protocol carries.
    #[error(
        "key of {len} bytes; a key has 1 to {max} bytes; hash a longer name into a shorter key"
    )]
    BadKey {
        /// Its length.
        len: usize,
        /// The longest one allowed.
        max: usize,
    },
    /// The value is longer than the protocol carries.
    #[error("value of {len} bytes exceeds the limit of {max}; split it over several keys")]
    TooLarge {
        /// Its length.
        len: u64,
        /// The longest one allowed.
        max: u64,
    },
    /// The value is longer than the buffer given for it; the buffer holds nothing of use.
    #[error(
        "value of {need} bytes doesn't fit the buffer of {have}; give a buffer of at least {need}"
    )]
    BufferTooSmall {
        /// The value's length.
        need: u64,
        /// The buffer's.
        have: u64,
    },
    /// What arrived is not what its writer's checksum says. The bytes are not handed out.
    #[error(
        "value from server {server} has CRC32C {got:08x} but was stored with {want:08x}; delete or rewrite the key"
    )]
    Corrupt {
        /// The server string as configured.
        server: Arc<str>,
        /// The checksum that travels with the value.
        want: u32,
        /// The checksum of the bytes that arrived.
        got: u32,
    },
    /// All lanes were busy until the deadline; nothing was sent. More `num_connections` or a longer deadline helps.
    #[error(
        "all {lanes} connection lanes were busy until the deadline; raise num_connections or the deadline"
    )]
    NoLane {
        /// How many lanes the client has for such a call.
        lanes: usize,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

fn colon(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}

fn retry_hint(after: &Option<Duration>) -> String {
    after
        .map(|after| format!("; retry in {} ms", after.as_millis().max(1)))
        .unwrap_or_default()
}

impl OpError {
    /// How metrics and bindings name this.
    pub fn outcome(&self) -> EntryOutcome {
        match self {
            Self::Server { code, .. } => EntryOutcome::Error(*code),
            Self::BadKey { .. } => EntryOutcome::Error(ErrorCode::BadKey),
            Self::TooLarge { .. } | Self::BufferTooSmall { .. } => {
                EntryOutcome::Error(ErrorCode::TooLarge)
            }
            Self::Corrupt { .. } => EntryOutcome::Error(ErrorCode::CrcMismatch),
            Self::Transport { .. } | Self::NoLane { .. } | Self::Closed => EntryOutcome::Transport,
        }
    }

    /// True when the entry certainly had no effect: sending it again, anywhere, is safe for any op.
    pub fn nothing_sent(&self) -> bool {
        match self {
            Self::Transport { cause, .. } => cause.nothing_sent(),
            Self::BadKey { .. } | Self::TooLarge { .. } | Self::NoLane { .. } | Self::Closed => {
                true
            }
            Self::Server { .. } | Self::BufferTooSmall { .. } | Self::Corrupt { .. } => false,
        }
    }
}

/// Why an entry got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportCause {
    /// The server's name or address could not be resolved.
    #[error("look up the address")]
    Resolve(#[source] Arc<io::Error>),
    /// No connection came about.
    #[error("connect")]
    Connect(#[source] Arc<io::Error>),
    /// No connection, handshake included, within `connect_timeout_ms`.
    #[error("no connection within {} ms; check the address, or raise connect_timeout_ms", .0.as_millis())]
    ConnectTimeout(Duration),
    /// The handshake failed: wrong key, skewed clock, another version, or not a memkv server.
    #[error("handshake: {0}")]
    Handshake(Arc<str>),
    /// The server (or someone in its place: this is before authentication) refused the connection.
    #[error(
        "connection refused in the handshake: {0} (not authenticated: anyone on the path can send this)"
    )]
    Refused(Arc<str>),
    /// The connection broke while the entry was on its way.
    #[error("connection lost")]
    Lost(#[source] Arc<io::Error>),
    /// The server closed the connection while the entry was on its way.
    #[error("connection closed by the server")]
    ClosedByPeer,
    /// The peer broke the protocol; the connection was closed, since nothing after that can be trusted.
    #[error("protocol violation: {0}")]
    Protocol(Arc<str>),
    /// The deadline passed before anything of the entry was sent.
    #[error("deadline passed before it was sent")]
    DeadlineUnsent,
    /// The deadline passed; the server has acknowledged that it no longer works on the entry.
    #[error("deadline passed; the server has stopped working on it")]
    DeadlineFenced,
    /// The deadline passed, the server acknowledged no cancellation in time, so the connection was closed.
    #[error("deadline passed and the server acknowledged no cancellation; connection closed")]
    DeadlineClosed,
    /// The connection was given up because another entry on it could not be fenced otherwise.
    #[error("connection closed to fence another timed-out op")]
    ClosedForFence,
    /// The caller cancelled the call.
    #[error("cancelled by the caller")]
    Cancelled,
    /// The client was closed while the entry was on its way.
    #[error("client closed")]
    ClientClosed,
}

impl TransportCause {
    /// True when no byte of the entry went out.
    pub fn nothing_sent(&self) -> bool {
        matches!(
            self,
            Self::Resolve(_)
                | Self::Connect(_)
                | Self::ConnectTimeout(_)
                | Self::Handshake(_)
                | Self::Refused(_)
                | Self::DeadlineUnsent
        )
    }
}
