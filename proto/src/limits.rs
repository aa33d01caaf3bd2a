//! Bounds of the protocol. Whoever exceeds one gets a typed answer, never a silent miss.

use crate::op::ErrorCode;

/// Longest key the native protocol takes, in bytes; the shortest is 1.
pub const KEY_BYTES_MAX: usize = 512;
/// Most entries in one request.
pub const BATCH_ENTRIES_MAX: usize = 1024;
/// Longest control part, blocks included, in bytes.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: u64 = 1 << 30;
/// Most payload bytes in one frame: a full batch of the longest values. Payload is streamed, never buffered whole.
pub const PAYLOAD_BYTES_MAX: u64 = VALUE_BYTES_MAX * BATCH_ENTRIES_MAX as u64;
/// Longest node identity in a handshake, in bytes.
pub const NODE_BYTES_MAX: usize = 255;
/// Longest explanation in a failed reply, in bytes.
pub const DETAIL_BYTES_MAX: usize = 512;
/// How far apart the clocks of client and server may be, in nanoseconds: 60 s.
pub const CLOCK_SKEW_NS_MAX: u64 = 60_000_000_000;

/// Says whether `key` is one the native protocol takes: 1 to [`KEY_BYTES_MAX`] bytes.
///
/// # Errors
/// [`ErrorCode::BadKey`] otherwise; it is the outcome of that entry alone.
pub fn check_key(key: &[u8]) -> Result<(), ErrorCode> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        Ok(())
    } else {
        Err(ErrorCode::BadKey)
    }
}

/// Says whether a value of `len` bytes may be stored: 0 to [`VALUE_BYTES_MAX`].
///
/// # Errors
/// [`ErrorCode::TooLarge`] otherwise; it is the outcome of that entry alone.
pub fn check_value_len(len: u64) -> Result<(), ErrorCode> {
    if len <= VALUE_BYTES_MAX {
        Ok(())
    } else {
        Err(ErrorCode::TooLarge)
    }
}
