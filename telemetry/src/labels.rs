//! The closed sets of label values: whatever labels a series is one of these, never text of a
//! peer, a key or an error. The two exceptions, `drive` and `server`, come from the configuration
//! and are bounded ([`crate::metrics::DRIVE_LABELS_MAX`], [`crate::metrics::SERVER_LABELS_MAX`]).

use std::fmt;

/// Declares a closed enum with the names its values have in labels, JSON and spans.
macro_rules! closed {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// How many values there are.
            pub const COUNT: usize = Self::ALL.len();
            /// Every value's name, in order.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The name in labels, JSON and spans.
            pub const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }

            /// Position in [`Self::ALL`].
            pub const fn idx(self) -> usize {
                self as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

closed! {
    /// What an operation does; a batch is one operation.
    OpKind {
        /// Store one value.
        Put = "put",
        /// Read one value.
        Get = "get",
        /// Remove values.
        Delete = "delete",
        /// Ask which keys are there.
        Exists = "exists",
        /// Store many values.
        BatchWrite = "batch_write",
        /// Read many values.
        BatchRead = "batch_read",
    }
}

impl OpKind {
    /// The span's name and `db.operation.name`.
    pub const fn span_name(self) -> &'static str {
        match self {
            OpKind::Put => "PUT",
            OpKind::Get => "GET",
            OpKind::Delete => "DELETE",
            OpKind::Exists => "EXISTS",
            OpKind::BatchWrite => "BATCH PUT",
            OpKind::BatchRead => "BATCH GET",
        }
    }

    /// Whether it stores values.
    pub const fn is_write(self) -> bool {
        matches!(self, OpKind::Put | OpKind::BatchWrite)
    }
}

closed! {
    /// What carries an operation.
    Transport {
        /// TCP.
        Tcp = "tcp",
        /// RDMA over converged Ethernet.
        Rdma = "rdma",
    }
}

closed! {
    /// Where an entry was served from or went to.
    Tier {
        /// Slabs in RAM.
        Ram = "ram",
        /// A drive.
        Drive = "drive",
        /// Neither: a miss, an error, or an op that touches no value.
        None = "none",
    }
}

closed! {
    /// How an entry or an op ended; an op ends as its worst entry.
    OutcomeLabel {
        /// It did what was asked.
        Ok = "ok",
        /// The key isn't there.
        Miss = "miss",
        /// It failed.
        Error = "error",
    }
}

closed! {
    /// A stage of an operation inside the server, in the order in which they usually come.
    Stage {
        /// The request's bytes arrive, control part and payload.
        Receive = "receive",
        /// MAC, digest and checksum.
        Verify = "verify",
        /// Waiting to be admitted.
        Admit = "admit",
        /// Waiting for slab memory.
        Lease = "lease",
        /// Looking up or changing the index.
        Index = "index",
        /// Moving the payload over the network.
        Transfer = "transfer",
        /// In the kernel, before the drive has the request (needs probes).
        Queue = "queue",
        /// In the drive; without probes from submission to completion.
        Device = "device",
        /// From the drive's answer until our thread sees it (needs probes).
        Complete = "complete",
        /// Sending the reply.
        Reply = "reply",
    }
}

closed! {
    /// A step of an operation inside the client, in order.
    Step {
        /// Waiting for a lane or the I/O thread, and for the frame to be sealed.
        Queue = "queue",
        /// Handing the request to the kernel.
        Send = "send",
        /// Waiting for the reply's first frame.
        Wait = "wait",
        /// Receiving the reply.
        Receive = "receive",
        /// Checking what was received, or computing the checksum of what is sent.
        Checksum = "checksum",
    }
}

closed! {
    /// What explains most of a slow operation's excess over the usual time.
    Blame {
        /// The drive.
        Device = "device",
        /// The kernel's queue in front of the drive.
        BlockQueue = "block_queue",
        /// A thread that didn't run, or computing.
        Cpu = "cpu",
        /// The network was paused.
        Pause = "pause",
        /// Packets were sent again.
        Retransmit = "retransmit",
        /// Congestion marks slowed the sender.
        Congestion = "congestion",
        /// It waited to be admitted, or for a receive slot.
        Credit = "credit",
        /// It waited for slab memory.
        SlabWait = "slab_wait",
        /// Space had to be reclaimed first.
        Reclaim = "reclaim",
        /// The other side sent or took its bytes slowly.
        Peer = "peer",
        /// Nothing that was measured explains half of it.
        Unknown = "unknown",
    }
}

closed! {
    /// Which way value bytes went, seen from the server.
    Direction {
        /// From the client.
        In = "in",
        /// To the client.
        Out = "out",
    }
}

closed! {
    /// What a slab is used for; the states add up to the pool.
    SlabState {
        /// Unused.
        Free = "free",
        /// In use by an operation in flight.
        Leased = "leased",
        /// Holds values that also lie on a drive.
        Hot = "hot",
        /// Holds values that lie nowhere else (memory mode).
        Stored = "stored",
    }
}

closed! {
    /// What a drive was asked for.
    DriveOp {
        /// Read.
        Read = "read",
        /// Write.
        Write = "write",
        /// Make what was written durable.
        Flush = "flush",
    }
}

closed! {
    /// Why an entry left without being deleted.
    EvictionReason {
        /// Room was needed.
        Capacity = "capacity",
        /// Its time was over.
        Expired = "expired",
        /// Its bytes were found damaged.
        Corrupt = "corrupt",
        /// Its drive failed or went away.
        DriveLost = "drive_lost",
    }
}

closed! {
    /// Where a checksum was found to be wrong.
    CrcSource {
        /// In a value that a client sent.
        Put = "put",
        /// On the read path.
        Read = "read",
        /// At start.
        Recovery = "recovery",
    }
}

closed! {
    /// Why a handshake or a frame wasn't accepted as authentic.
    AuthFailure {
        /// The key id isn't one of ours.
        UnknownKey = "unknown_key",
        /// The MAC is wrong.
        BadMac = "bad_mac",
        /// The time stamp is too far from our clock.
        ClockSkew = "clock_skew",
        /// A frame out of sequence: replayed, reflected, dropped or re-ordered.
        Sequence = "sequence",
        /// An operation before the handshake was complete.
        NoSession = "no_session",
        /// An admin verb without the token.
        AdminToken = "admin_token",
    }
}

closed! {
    /// Which of the two keys that are valid at once.
    AuthKeyLabel {
        /// `network.auth_key`.
        Current = "current",
        /// `network.auth_key_previous`.
        Previous = "previous",
    }
}

closed! {
    /// What was wrong with bytes from a peer.
    ProtocolFault {
        /// The first bytes aren't our protocol.
        Magic = "magic",
        /// A version we don't speak.
        Version = "version",
        /// A header field out of its bounds.
        Header = "header",
        /// The control part doesn't match its digest.
        Digest = "digest",
        /// The stream ended inside a frame.
        Truncated = "truncated",
        /// Too slow: the handshake or a frame wasn't complete in time.
        Stalled = "stalled",
    }
}

closed! {
    /// Why work was refused.
    RejectReason {
        /// Memory or queue is full.
        Busy = "busy",
        /// Its deadline passed before it started.
        Deadline = "deadline",
        /// The server is draining.
        Draining = "draining",
        /// Too large.
        TooLarge = "too_large",
        /// Too many connections.
        Connections = "connections",
        /// No space in the store.
        NoSpace = "no_space",
        /// The client cancelled it.
        Cancelled = "cancelled",
    }
}

closed! {
    /// What became of an operation's span.
    SpanDecision {
        /// Kept: the client or the ratio sampled it.
        Sampled = "sampled",
        /// Kept: it was slow.
        Slow = "slow",
        /// Kept: it failed.
        Failed = "failed",
        /// Kept by a client: the server said that it keeps its half.
        Server = "server",
        /// Would have been kept, but the rate cap was reached.
        Suppressed = "suppressed",
        /// Not kept.
        Unsampled = "unsampled",
    }
}

closed! {
    /// Something that sends telemetry away.
    Exporter {
        /// OTLP spans.
        Traces = "otlp_traces",
        /// OTLP log records.
        Logs = "otlp_logs",
        /// OTLP metrics.
        Metrics = "otlp_metrics",
    }
}

closed! {
    /// Severity of a log line.
    LogLevel {
        /// Needs a human.
        Error = "error",
        /// Unexpected but handled.
        Warn = "warn",
        /// A change of state.
        Info = "info",
        /// For the developers.
        Debug = "debug",
        /// For the developers, in bulk.
        Trace = "trace",
    }
}

closed! {
    /// State of a client's connection.
    ConnectionState {
        /// Being made.
        Connecting = "connecting",
        /// In use.
        Ready = "ready",
        /// Lost; the next attempt waits.
        Down = "down",
    }
}

closed! {
    /// Why a client sent a read again.
    RetryReason {
        /// The connection was lost.
        Connection = "connection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_positions_agree() {
        for (idx, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(stage.idx(), idx);
            assert_eq!(stage.name(), Stage::NAMES[idx]);
        }
        let names = "receive verify admit lease index transfer queue device complete reply";
        assert_eq!(Stage::NAMES.join(" "), names);
    }
}
