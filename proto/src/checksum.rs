//! CRC32C (Castagnoli) of values, the checksum that travels from the client to the drive and back.

use crc_fast::{CrcAlgorithm, Digest};

/// A CRC32C over bytes that arrive piece by piece: four bytes, so that each entry of a batch can have one. Feed it pieces
/// of at most 2 MiB right after they arrive, while they are in the cache: 57 GB/s there against 34 GB/s from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The checksum of nothing, which is 0.
    pub fn new() -> Self {
        Crc32c(u32::MAX)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(self.0));
        digest.update(bytes);
        self.0 = digest.get_state() as u32;
    }

    /// The checksum of all bytes so far.
    pub fn finish(&self) -> u32 {
        !self.0
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c::new()
    }
}

/// The CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_gives_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
        let mut pieces = Crc32c::new();
        pieces.update(b"1234");
        pieces.update(b"");
        pieces.update(b"56789");
        assert_eq!(pieces.finish(), 0xe306_9283);
        assert_eq!(Crc32c::new().finish(), 0);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let value: Vec<u8> = (0..100_000_u32).map(|n| (n * 31) as u8).collect();
        let mut pieces = Crc32c::new();
        value.chunks(777).for_each(|piece| pieces.update(piece));
        assert_eq!(pieces.finish(), crc32c(&value));
    }
}
