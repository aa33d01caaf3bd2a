//! Key → 128 bits, keyed by the store.

use xxhash_rust::xxh3::{xxh3_128_with_secret, xxh3_128_with_seed};

/// Bytes of a secret: what xxh3's own default has.
const SECRET_BYTES: usize = 192;

/// Random bytes of a store, from its superblock: nobody outside can aim at a bucket.
#[derive(Clone, Copy)]
pub struct StoreKey(pub [u8; 32]);

/// Keyed hash of namespace and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u128);

/// Hashes keys for one store: xxh3-128 with a secret derived from the store's key.
#[derive(Clone)]
pub struct KeyHasher {
    secret: [u8; SECRET_BYTES],
}

impl KeyHasher {
    /// Derives the secret. The same key gives the same hashes for ever: they are on drives.
    pub fn new(key: &StoreKey) -> Self {
        let mut secret = [0; SECRET_BYTES];
        for (part_idx, part) in secret.chunks_exact_mut(16).enumerate() {
            let bits = xxh3_128_with_seed(&key.0, part_idx as u64);
            part.copy_from_slice(&bits.to_le_bytes());
        }
        Self { secret }
    }

    /// Hashes a key of a namespace; about 5 ns for a short key in namespace 0.
    pub fn hash(&self, namespace: u32, key: &[u8]) -> KeyHash {
        let bits = xxh3_128_with_secret(key, &self.secret);
        match namespace {
            0 => KeyHash(bits),
            // The hash of four bytes under the same secret is as random as any, so keys of
            // two namespaces meet no more often than keys of one.
            _ => KeyHash(bits ^ xxh3_128_with_secret(&namespace.to_le_bytes(), &self.secret)),
        }
    }
}
