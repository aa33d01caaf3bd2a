//! Little-endian fields at fixed offsets, and the checksum of everything on a drive.

use crc_fast::{CrcAlgorithm, Digest};

/// Unit of all metadata I/O, and what a torn write is told by.
pub(crate) const PAGE: usize = 4096;

/// No generation, epoch, version or page number of ours gets here. A drive that says otherwise is
/// wrong, and adding to what is smaller can't overflow.
pub(crate) const COUNTER_MAX: u64 = 1 << 62;

/// A field of a structure that was length-checked before.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// A field of a structure that was length-checked before.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// A field of a structure that was length-checked before.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// A field of a structure that was length-checked before.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Sets a field.
pub(crate) fn set(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// CRC32C of some parts, begun with what makes them ours: a structure of another drive, or of
/// an earlier life of its place, never has the right checksum.
pub(crate) fn crc_of(seed: &[u8], parts: &[&[u8]]) -> u32 {
    crc_of_pieces(std::iter::once(seed).chain(parts.iter().copied()))
}

/// CRC32C of a value.
pub(crate) fn crc_of_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize() as u32
}

/// `len` rounded up to whole pages.
pub(crate) fn page_up(len: u64) -> u64 {
    len.next_multiple_of(PAGE as u64)
}
