//! The frame header: fixed, signed, and verified before one byte of the body is read.
//!
//! ```text
//!  0  4  magic "MKVF"          24  4  deadline_us, budget from receipt, 0 = none
//!  4  1  version               28  4  control_len, blocks included
//!  5  1  op                    32  8  payload_len, the payload MAC not included
//!  6  2  flags                 40 32  SHA-256 of the control part
//!  8  8  request_id            72 32  MAC of bytes 0..72
//! 16  8  sequence              104
//! ```
//!
//! What is checked here needs no key; [`crate::session`] checks MAC, sequence and digest.

use sha2::{Digest, Sha256};

use crate::limits;
use crate::op::{ErrorCode, OpCode};

/// Length of a frame header.
pub const HEADER_BYTES: usize = 104;
/// How much of it the MAC covers.
pub(crate) const SIGNED_BYTES: usize = 72;
/// The first bytes of every frame.
pub const FRAME_MAGIC: [u8; 4] = *b"MKVF";

/// What a frame carries besides its op, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The frame is a reply. Set and checked by the session, never by a caller.
    pub const REPLY: Flags = Flags(1);
    /// Reply: more frames of the same request follow.
    pub const MORE: Flags = Flags(1 << 1);
    /// Reply: the request failed as a whole; the body is a [`crate::reply::Failure`].
    pub const FAILED: Flags = Flags(1 << 2);
    /// Request: the control part starts with a trace context, 26 bytes.
    pub const TRACE: Flags = Flags(1 << 3);
    /// Reply: the control part starts with the server's span id, 8 bytes.
    pub const SPAN: Flags = Flags(1 << 4);
    /// Reply: a stage summary follows, 40 bytes.
    pub const STAGES: Flags = Flags(1 << 5);
    /// Request: the client asks for a stage summary.
    pub const WANT_STAGES: Flags = Flags(1 << 6);
    /// Request: an active probe, to be kept out of the users' metrics.
    pub const PROBE: Flags = Flags(1 << 7);
    /// Reply: the server keeps its span of this request whatever was sampled, as it was slow or failed.
    pub const KEPT: Flags = Flags(1 << 8);

    const REQUEST_ALL: u16 = Self::TRACE.0 | Self::WANT_STAGES.0 | Self::PROBE.0;
    const REPLY_ALL: u16 = Self::REPLY.0
        | Self::MORE.0
        | Self::FAILED.0
        | Self::SPAN.0
        | Self::STAGES.0
        | Self::KEPT.0;

    /// The bits as they are on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// `self` with `other` if `set`.
    #[must_use]
    pub const fn with_if(self, other: Flags, set: bool) -> Flags {
        if set { self.with(other) } else { self }
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        self.with(other)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 9] = [
            "REPLY",
            "MORE",
            "FAILED",
            "TRACE",
            "SPAN",
            "STAGES",
            "WANT_STAGES",
            "PROBE",
            "KEPT",
        ];
        let set = NAMES
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.0 & (1 << bit) != 0);
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        write!(f, "Flags({})", names.join("|"))
    }
}

/// The fields of a frame header, but for what the session adds: sequence, digest and MAC.
#[derive(Clone, Copy, Debug)]
pub struct FrameHead {
    /// What the frame is for; a reply repeats the request's.
    pub op: OpCode,
    /// What it carries besides.
    pub flags: Flags,
    /// Chosen by the client, unique among its unanswered requests on the connection; a reply repeats it.
    pub request_id: u64,
    /// Request: µs from receipt after which the work needn't be started; 0 is no deadline.
    pub deadline_us: u32,
    /// Length of the control part, blocks included.
    pub control_len: u32,
    /// Length of the payload, without the payload MAC that may follow it.
    pub payload_len: u64,
    pub(crate) auth: FrameAuth,
}

/// What a verified header says about its frame's body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameAuth {
    pub(crate) sequence: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) tag: [u8; 32],
}

impl PartialEq for FrameHead {
    /// Compares what callers set, not what a session adds.
    fn eq(&self, other: &Self) -> bool {
        let key = |head: &FrameHead| {
            let lengths = (head.deadline_us, head.control_len, head.payload_len);
            (head.op, head.flags, head.request_id, lengths)
        };
        key(self) == key(other)
    }
}

impl FrameHead {
    /// The head of a frame without deadline and request id.
    pub fn new(op: OpCode, flags: Flags, control_len: u32, payload_len: u64) -> Self {
        FrameHead {
            op,
            flags,
            request_id: 0,
            deadline_us: 0,
            control_len,
            payload_len,
            auth: FrameAuth::default(),
        }
    }

    /// The same with a request id.
    #[must_use]
    pub fn with_request_id(mut self, request_id: u64) -> Self {
        self.request_id = request_id;
        self
    }

    /// The same with a deadline, in µs from receipt; 0 is none.
    #[must_use]
    pub fn with_deadline_us(mut self, deadline_us: u32) -> Self {
        self.deadline_us = deadline_us;
        self
    }

    /// The same with more flags.
    #[must_use]
    pub fn with_flags(mut self, flags: Flags) -> Self {
        self.flags = self.flags | flags;
        self
    }

    /// Whether more frames of the same request follow.
    pub fn has_more(&self) -> bool {
        self.flags.contains(Flags::MORE)
    }

    /// The frame's number in its direction, from 1; 0 if the head didn't come out of an opener.
    pub fn sequence(&self) -> u64 {
        self.auth.sequence
    }

    /// Writes the signed part of the header.
    pub(crate) fn write(&self, version: u8, sequence: u64, control: &[u8]) -> [u8; SIGNED_BYTES] {
        let mut out = [0u8; SIGNED_BYTES];
        out[0..4].copy_from_slice(&FRAME_MAGIC);
        out[4] = version;
        out[5] = self.op.to_wire();
        out[6..8].copy_from_slice(&self.flags.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.request_id.to_le_bytes());
        out[16..24].copy_from_slice(&sequence.to_le_bytes());
        out[24..28].copy_from_slice(&self.deadline_us.to_le_bytes());
        out[28..32].copy_from_slice(&self.control_len.to_le_bytes());
        out[32..40].copy_from_slice(&self.payload_len.to_le_bytes());
        out[40..72].copy_from_slice(&digest(control));
        out
    }

    /// Reads a header and checks what its fields say about each other; not MAC, version and sequence.
    pub(crate) fn parse(header: &[u8; HEADER_BYTES], reply: bool) -> Result<FrameHead, HeadError> {
        let op = OpCode::from_wire(header[5]).map_err(|_| HeadError::UnknownOp(header[5]))?;
        let head = FrameHead {
            op,
            flags: Flags(u16::from_le_bytes(field(header, 6))),
            request_id: u64::from_le_bytes(field(header, 8)),
            deadline_us: u32::from_le_bytes(field(header, 24)),
            control_len: u32::from_le_bytes(field(header, 28)),
            payload_len: u64::from_le_bytes(field(header, 32)),
            auth: FrameAuth {
                sequence: u64::from_le_bytes(field(header, 16)),
                digest: field(header, 40),
                tag: field(header, 72),
            },
        };
        head.check(reply)?;
        Ok(head)
    }

    /// Checks the rules that tie a header's fields together, before sending and after receiving.
    pub(crate) fn check(&self, reply: bool) -> Result<(), HeadError> {
        let op = self.op;
        if !op.is_frame() {
            return Err(HeadError::UnknownOp(op.to_wire()));
        }
        let legal = if reply {
            Flags::REPLY_ALL
        } else {
            Flags::REQUEST_ALL
        };
        let flags = self.flags.0;
        if flags & !legal != 0 || self.flags.contains(Flags::REPLY) != reply {
            return Err(HeadError::Flags { op, flags });
        }
        if reply && self.deadline_us != 0 {
            return Err(HeadError::Unexpected {
                field: "deadline_us",
                op,
                value: 1,
            });
        }
        let request_id = self.request_id;
        if self.control_len as usize > limits::CONTROL_BYTES_MAX {
            let (value, bound) = (
                u64::from(self.control_len),
                limits::CONTROL_BYTES_MAX as u64,
            );
            return Err(HeadError::TooLarge {
                field: "control_len",
                op,
                request_id,
                value,
                bound,
            });
        }
        let failed = self.flags.contains(Flags::FAILED);
        let carries = if reply {
            op.is_read() && !failed
        } else {
            op.is_write()
        };
        if self.payload_len != 0 && !carries {
            let value = self.payload_len;
            return Err(HeadError::Unexpected {
                field: "payload_len",
                op,
                value,
            });
        }
        if self.payload_len > limits::PAYLOAD_BYTES_MAX {
            let (value, bound) = (self.payload_len, limits::PAYLOAD_BYTES_MAX);
            return Err(HeadError::TooLarge {
                field: "payload_len",
                op,
                request_id,
                value,
                bound,
            });
        }
        if self.flags.contains(Flags::MORE) && (failed || !op.is_read()) {
            return Err(HeadError::Flags { op, flags });
        }
        Ok(())
    }
}

/// Why the fields of a header can't stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// An op that this version doesn't define, or one of the handshake.
    #[error("op {0:#04x} isn't one that a frame may carry")]
    UnknownOp(u8),
    /// Flags that this direction or op doesn't define.
    #[error("flags {flags:#06x} aren't defined for {op} in this direction")]
    Flags {
        /// The frame's op.
        op: OpCode,
        /// Its flags.
        flags: u16,
    },
    /// A field that must be zero here isn't.
    #[error("{field} is {value}, but {op} has none in this direction")]
    Unexpected {
        /// Which field.
        field: &'static str,
        /// The frame's op.
        op: OpCode,
        /// What it holds.
        value: u64,
    },
    /// A length above its limit. It is authentic, so a server answers [`ErrorCode::TooLarge`] before it closes.
    #[error("{field} of {op} request {request_id} is {value}, above the limit of {bound}")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// The frame's op.
        op: OpCode,
        /// The frame's request id.
        request_id: u64,
        /// What it holds.
        value: u64,
        /// The most it may hold.
        bound: u64,
    },
}

impl HeadError {
    /// The code that a server may answer with before it closes the connection.
    pub fn code(&self) -> ErrorCode {
        match self {
            HeadError::TooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::BadRequest,
        }
    }
}

/// SHA-256 of a control part.
pub(crate) fn digest(control: &[u8]) -> [u8; 32] {
    Sha256::digest(control).into()
}

#[inline]
pub(crate) fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&header[at..at + N]);
    out
}
