//! The one message a server sends to whom it hasn't authenticated: 32 bytes, nothing secret, nothing signed.
//!
//! ```text
//! 0 prefix 8 | 8 code 2 | 10 version_min | 11 version_max | 12 retry_after_us 4 | 16 unix_ns 8 | 24 skew_ns 8
//! ```

use super::message::{read_prefix, write_prefix};
use crate::op::{OpCode, wire_enum};
use crate::wire::{DecodeError, Reader};

/// Length of a refusal.
pub const REFUSAL_BYTES: usize = 32;

wire_enum! {
    /// Why a server refuses a session.
    #[non_exhaustive]
    RefusalCode: u16, "refusal code" {
        /// None of the client's versions is spoken here; the refusal names those that are.
        UnsupportedVersion = 1, "unsupported_version";
        /// The bytes aren't a handshake message.
        Malformed = 2, "malformed";
        /// The server has no key of that id.
        UnknownKey = 3, "unknown_key";
        /// The client's clock is more than 60 s away from the server's.
        ClockSkew = 4, "clock_skew";
        /// The client's proof doesn't verify.
        BadMac = 5, "bad_mac";
        /// A side requires a feature that the other lacks.
        MissingFeature = 6, "missing_feature";
        /// Too many connections, or too many handshakes under way.
        Busy = 7, "busy";
        /// The server is going down.
        Draining = 8, "draining";
    }
}

/// A refusal. Whoever receives one can't know who sent it: report it, retry the same, but never downgrade on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// The oldest version that the server speaks.
    pub version_min: u8,
    /// The newest.
    pub version_max: u8,
    /// When to try again, in µs; 0 if the server has no opinion.
    pub retry_after_us: u32,
    /// The server's clock, in ns of Unix time.
    pub unix_ns: u64,
    /// The client's clock minus the server's as far as the hello tells, in ns; 0 if it doesn't.
    pub skew_ns: i64,
}

impl Refusal {
    /// A refusal for `code` at server time `unix_ns`.
    pub fn new(code: RefusalCode, unix_ns: u64) -> Self {
        Refusal {
            code,
            version_min: crate::VERSION_MIN,
            version_max: crate::VERSION_MAX,
            retry_after_us: 0,
            unix_ns,
            skew_ns: 0,
        }
    }

    /// The same with a hint when to try again.
    #[must_use]
    pub fn with_retry_after_us(mut self, retry_after_us: u32) -> Self {
        self.retry_after_us = retry_after_us;
        self
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; REFUSAL_BYTES] {
        let mut out = Vec::with_capacity(REFUSAL_BYTES);
        write_prefix(&mut out, OpCode::Refusal, REFUSAL_BYTES);
        out.extend_from_slice(&self.code.to_wire().to_le_bytes());
        out.extend_from_slice(&[self.version_min, self.version_max]);
        out.extend_from_slice(&self.retry_after_us.to_le_bytes());
        out.extend_from_slice(&self.unix_ns.to_le_bytes());
        out.extend_from_slice(&self.skew_ns.to_le_bytes());
        let mut bytes = [0; REFUSAL_BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Decodes a refusal.
    ///
    /// # Errors
    /// [`DecodeError`] if it isn't one, exactly.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        read_prefix(&mut reader, bytes.len(), OpCode::Refusal)?;
        let refusal = Refusal {
            code: RefusalCode::from_wire(reader.u16("refusal code")?)?,
            version_min: reader.u8("version_min")?,
            version_max: reader.u8("version_max")?,
            retry_after_us: reader.u32("retry_after_us")?,
            unix_ns: reader.u64("unix_ns")?,
            skew_ns: reader.u64("skew_ns")?.cast_signed(),
        };
        reader.end()?;
        Ok(refusal)
    }

    /// The refusal that `bytes` start with, if they do. A client asks this when a connection ends where it expected
    /// a frame: the server may have refused its Finish.
    pub fn sniff(bytes: &[u8]) -> Option<Self> {
        Refusal::decode(bytes.get(..REFUSAL_BYTES)?).ok()
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (min, max) = (self.version_min, self.version_max);
        match self.code {
            RefusalCode::UnsupportedVersion => {
                write!(
                    f,
                    "unsupported_version: the server speaks {min} to {max}; update one side"
                )
            }
            RefusalCode::Malformed => {
                write!(f, "malformed: the server didn't understand the hello")
            }
            RefusalCode::UnknownKey => {
                write!(
                    f,
                    "unknown_key: the server has another auth_key; compare network.auth_key"
                )
            }
            RefusalCode::ClockSkew => {
                let seconds = self.skew_ns as f64 / 1e9;
                write!(
                    f,
                    "clock_skew: the client's clock is {seconds:+.1} s from the server's, "
                )?;
                write!(f, "the bound is 60 s; synchronise both")
            }
            RefusalCode::BadMac => write!(f, "bad_mac: the client's proof doesn't verify"),
            RefusalCode::MissingFeature => {
                write!(
                    f,
                    "missing_feature: a side requires a feature (network.payload_mac?) "
                )?;
                write!(f, "that the other lacks; update it")
            }
            RefusalCode::Busy => write!(f, "busy: try again in {} µs", self.retry_after_us),
            RefusalCode::Draining => write!(f, "draining: the server is going down"),
        }
    }
}

impl std::error::Error for Refusal {}
