//! The MAC of frame headers.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Signs frame headers. [`HmacSha256`] is the only implementation in the product; benchmarks measure its price with
/// one that does nothing.
pub trait FrameMac: Clone + Send + Sync + 'static {
    /// Prepares for one key; what depends on the key alone is done here, once per session.
    fn new(key: &[u8; 32]) -> Self;

    /// The tag of the concatenation of `parts`.
    fn tag(&self, parts: &[&[u8]]) -> [u8; 32];

    /// Whether `tag` is that of `parts`, in a time that doesn't tell where they differ.
    fn verify(&self, parts: &[&[u8]], tag: &[u8; 32]) -> bool {
        self.tag(parts).ct_eq(tag).into()
    }
}

/// HMAC-SHA256 (RFC 2104) that is keyed once: a tag starts from a clone of the keyed state, which saves two of the
/// five SHA-256 blocks of a header.
#[derive(Clone)]
pub struct HmacSha256(Hmac<Sha256>);

impl FrameMac for HmacSha256 {
    fn new(key: &[u8; 32]) -> Self {
        HmacSha256(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    #[inline]
    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for HmacSha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacSha256(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_a_two_pass_hash_by_the_book() {
        use sha2::Digest;
        let key = [7u8; 32];
        let mut inner = Sha256::new();
        let mut outer = Sha256::new();
        inner.update([7 ^ 0x36u8; 32]);
        inner.update([0x36u8; 32]);
        outer.update([7 ^ 0x5cu8; 32]);
        outer.update([0x5cu8; 32]);
        inner.update(b"what do ya want for nothing?");
        outer.update(inner.finalize());
        let expected: [u8; 32] = outer.finalize().into();
        let mac = HmacSha256::new(&key);
        assert_eq!(
            mac.tag(&[b"what do ya want ", b"", b"for nothing?"]),
            expected
        );
        assert!(mac.verify(&[b"what do ya want for nothing?"], &expected));
        assert!(!mac.verify(&[b"what do ya want for nothing!"], &expected));
    }
}
