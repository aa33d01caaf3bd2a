//! The payload MAC: keyed BLAKE3 over a frame's payload, for networks that one doesn't trust.
//!
//! Where both sides agreed on it (`network.payload_mac: required`; it is in the signed transcript, so nobody between
//! them can strip it), every payload that isn't empty is followed by a trailer of 32 bytes: BLAKE3, keyed per
//! direction, over the header's MAC and the payload. The header's MAC ties the trailer to this frame alone.
//! `payload_len` doesn't count the trailer.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::frame::{FrameHead, HEADER_BYTES, field};

/// Length of the trailer.
pub const TRAILER_BYTES: usize = 32;

/// The key of one direction; makes one [`PayloadMac`] per frame.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PayloadKey([u8; 32]);

impl PayloadKey {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        PayloadKey(key)
    }

    /// Starts the MAC of a frame to send, from its sealed header.
    pub fn for_header(&self, header: &[u8; HEADER_BYTES]) -> PayloadMac {
        self.start(&field::<32>(header, 72))
    }

    /// Starts the MAC of a frame being received, from the head that the opener gave.
    pub fn for_head(&self, head: &FrameHead) -> PayloadMac {
        self.start(&head.auth.tag)
    }

    fn start(&self, tag: &[u8; 32]) -> PayloadMac {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(tag);
        PayloadMac(hasher)
    }
}

impl std::fmt::Debug for PayloadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PayloadKey(..)")
    }
}

/// The MAC of one frame's payload, fed as bytes pass by. About 2 KB, no allocation.
#[derive(Clone, Debug)]
pub struct PayloadMac(blake3::Hasher);

impl PayloadMac {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The trailer to send after the payload.
    pub fn finish(&self) -> [u8; TRAILER_BYTES] {
        *self.0.finalize().as_bytes()
    }

    /// Whether `trailer` is that of the payload, in constant time.
    #[must_use]
    pub fn verify(&self, trailer: &[u8; TRAILER_BYTES]) -> bool {
        self.finish().ct_eq(trailer).into()
    }
}
