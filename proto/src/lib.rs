//! The contract between client and server: the native protocol, sans-io.
//!
//! Bytes come in as slices, bytes go out as slices or into a `Vec` that the caller reuses. Nothing here reads a clock,
//! draws a random number or touches a socket: time and nonces are arguments. Every decoder is total (it never panics),
//! borrows from its input, and allocates nothing that the input's length doesn't bound.
//!
//! A connection starts with a handshake ([`session`]), after which each direction is a stream of frames:
//!
//! ```text
//! header 104 bytes (frame)  |  control part (request, reply)  |  payload  |  payload MAC 32 bytes, by option
//!   signed by HMAC-SHA256   |   signed by its digest          |  CRC32C   |  keyed BLAKE3
//! ```
//!
//! A receiver reads a header, has [`session::Opener::open`] verify it, reads `control_len` bytes, has
//! [`session::Opener::check_control`] verify those, and decodes them with [`request::Request::decode`] or
//! [`reply::Reply::decode`]. `docs/wire.md` has every byte, and what an attacker on the wire can and can't do.
#![forbid(unsafe_code)]

pub mod blocks;
pub mod checksum;
pub mod connect;
pub mod frame;
pub mod fuzzing;
pub mod limits;
pub mod mac;
pub mod op;
pub mod payload;
pub mod reply;
pub mod request;
pub mod session;
pub mod stat;
mod wire;

pub use frame::{Flags, FrameHead, HEADER_BYTES};
pub use mac::{FrameMac, HmacSha256};
pub use wire::{DecodeError, EncodeError};

/// The newest protocol version this build speaks.
pub const VERSION_MAX: u8 = 1;
/// The oldest protocol version this build speaks.
pub const VERSION_MIN: u8 = 1;
