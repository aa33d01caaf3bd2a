//! The superblock: who a drive is, how it is laid out, where its checkpoint is, how it failed.
//!
//! ```text
//! 0        64 KiB                                                             capacity
//! | copy 0 | copy 1 | checkpoint A | checkpoint B | journal | segments … | copy 2 | copy 3 |
//! ```
//!
//! Each copy is one page, written in place, two of them before a flush and two after it, so
//! that a torn write leaves at least two. The copy with the highest generation counts. A copy
//! of a newer format version is told apart from garbage and refused by name.

use super::bytes::{COUNTER_MAX, PAGE, array, crc_of, set, u16_at, u32_at, u64_at};

/// What every superblock begins with.
pub(crate) const MAGIC: [u8; 8] = *b"memkvSB\x01";
/// The format that we write, and the highest that we read. 2: checkpoints say which changes they
/// are sure to have, and which keys were deleted shortly before. 3: they say when records expire. 4: the
/// journal says what is flushed. Lower ones are read as well.
pub(crate) const FORMAT_VERSION: u16 = 4;
/// Distance of copies, and what is kept free for them at both ends.
const COPY_STRIDE: u64 = 64 << 10;
const END_BYTES: u64 = 2 * COPY_STRIDE;
const CRC_AT: usize = 12;

/// Where things are on a drive; derived from its capacity once, then read from its superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) capacity: u64,
    pub(crate) checkpoint_start: u64,
    /// Of one area; there are two.
    pub(crate) checkpoint_bytes: u64,
    pub(crate) journal_start: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) segments_start: u64,
    /// Data of a segment, without its header.
    pub(crate) segment_data: u64,
    pub(crate) segment_count: u32,
}

impl Geometry {
    /// Bytes before a segment's data: its header page, and room for a table.
    pub(crate) const SEGMENT_HEADER: u64 = 64 << 10;

    /// Lays out a drive.
    pub(crate) fn for_capacity(capacity: u64) -> Self {
        let capacity = capacity / PAGE as u64 * PAGE as u64;
        let power = |bytes: u64| 1u64 << bytes.max(1).ilog2();
        let segment_data = power(capacity / 64).clamp(256 << 10, 64 << 20);
        let journal_bytes = power(capacity / 64).clamp(256 << 10, 256 << 20);
        let checkpoint_bytes = (capacity / 32).next_multiple_of(PAGE as u64).max(256 << 10);
        let checkpoint_start = END_BYTES;
        let journal_start = checkpoint_start + 2 * checkpoint_bytes;
        let segments_start = journal_start + journal_bytes;
        let room = capacity.saturating_sub(segments_start + END_BYTES);
        let segment_count = (room / (segment_data + Self::SEGMENT_HEADER)).min(1 << 22) as u32;
        Self {
            capacity,
            checkpoint_start,
            checkpoint_bytes,
            journal_start,
            journal_bytes,
            segments_start,
            segment_data,
            segment_count,
        }
    }

    /// Whether all parts lie within the capacity and apart from each other.
    fn sound(&self) -> bool {
        let page = |bytes: u64| bytes.is_multiple_of(PAGE as u64);
        let stride = self.segment_data.checked_add(Self::SEGMENT_HEADER);
        let segments = stride.and_then(|stride| stride.checked_mul(self.segment_count.into()));
        let ends = [
            Some(END_BYTES),
            Some(self.checkpoint_start),
            self.checkpoint_bytes
                .checked_mul(2)
                .and_then(|b| b.checked_add(self.checkpoint_start)),
            Some(self.journal_start),
            self.journal_bytes.checked_add(self.journal_start),
            Some(self.segments_start),
            segments.and_then(|bytes| bytes.checked_add(self.segments_start)),
            self.capacity.checked_sub(END_BYTES),
        ];
        let ordered = ends.iter().all(Option::is_some) && ends.is_sorted();
        ordered
            && [
                self.capacity,
                self.checkpoint_start,
                self.checkpoint_bytes,
                self.segment_data,
            ]
            .iter()
            .chain(&[self.journal_start, self.journal_bytes, self.segments_start])
            .all(|bytes| page(*bytes))
            && (1..=1 << 22).contains(&self.segment_count)
            && (256 << 10..=128 << 20).contains(&self.segment_data)
            && (256 << 10..=1 << 30).contains(&self.journal_bytes)
    }

    /// First byte of a segment: its header page.
    pub(crate) fn segment_at(&self, segment: u32) -> u64 {
        self.segments_start + u64::from(segment) * (self.segment_data + Self::SEGMENT_HEADER)
    }

    /// First byte of a checkpoint area.
    pub(crate) fn checkpoint_at(&self, area: u8) -> u64 {
        self.checkpoint_start + u64::from(area & 1) * self.checkpoint_bytes
    }

    /// Where the copies of the superblock are.
    pub(crate) fn copies(&self) -> [u64; 4] {
        copies(self.capacity)
    }
}

/// Where the copies are on a drive of this capacity.
pub(crate) fn copies(capacity: u64) -> [u64; 4] {
    [0, COPY_STRIDE, capacity - END_BYTES, capacity - COPY_STRIDE]
}

/// Which checkpoint counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckpointPointer {
    /// 0 or 1.
    pub(crate) area: u8,
    /// 0 = there is none yet.
    pub(crate) generation: u64,
    /// Bytes of it.
    pub(crate) bytes: u64,
    /// Journal page from which on to replay.
    pub(crate) journal_page: u64,
    /// Highest version that it is sure to cover.
    pub(crate) version: u64,
    /// Of the drive when it was written: no frame from that page on is of an earlier one.
    pub(crate) epoch: u64,
}

/// One superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Rises with each write.
    pub(crate) generation: u64,
    pub(crate) drive_uuid: [u8; 16],
    pub(crate) store_uuid: [u8; 16],
    pub(crate) store_key: [u8; 32],
    pub(crate) member_idx: u16,
    pub(crate) member_count: u16,
    /// Rises with each start of the store, on all members that are there.
    pub(crate) member_generation: u64,
    /// Members that took part in that start, one bit each.
    pub(crate) members_present: u64,
    /// Rises with each start of this drive; journal frames carry it.
    pub(crate) epoch: u64,
    pub(crate) clean: bool,
    pub(crate) created_ms: u64,
    pub(crate) geometry: Geometry,
    pub(crate) checkpoint: CheckpointPointer,
    /// Failure registry.
    pub(crate) media_errors: u64,
    pub(crate) blacklisted: bool,
    pub(crate) last_error_ms: u64,
}

/// What a page that should be a superblock is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Valid(Box<Superblock>),
    /// A format that we don't know.
    Newer(u16),
    /// Ours, but damaged.
    Corrupt,
    /// Not ours.
    Foreign,
}

impl Superblock {
    /// One page.
    pub(crate) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        set(&mut page, 0, &MAGIC);
        set(&mut page, 8, &FORMAT_VERSION.to_le_bytes());
        set(&mut page, 16, &self.generation.to_le_bytes());
        set(&mut page, 24, &self.drive_uuid);
        set(&mut page, 40, &self.store_uuid);
        set(&mut page, 56, &self.store_key);
        set(&mut page, 88, &self.member_idx.to_le_bytes());
        set(&mut page, 90, &self.member_count.to_le_bytes());
        page[92] = self.clean.into();
        page[93] = self.blacklisted.into();
        page[94] = self.checkpoint.area;
        let geometry = &self.geometry;
        let words = [
            self.member_generation,
            self.epoch,
            self.created_ms,
            geometry.capacity,
            geometry.checkpoint_start,
            geometry.checkpoint_bytes,
            geometry.journal_start,
            geometry.journal_bytes,
            geometry.segments_start,
            geometry.segment_data,
            geometry.segment_count.into(),
            self.checkpoint.generation,
            self.checkpoint.bytes,
            self.checkpoint.journal_page,
            self.checkpoint.version,
            self.media_errors,
            self.last_error_ms,
            self.members_present,
            self.checkpoint.epoch,
        ];
        for (idx, word) in words.iter().enumerate() {
            set(&mut page, 96 + 8 * idx, &word.to_le_bytes());
        }
        let crc = crc_of(&[], &[&page]);
        set(&mut page, CRC_AT, &crc.to_le_bytes());
        page
    }

    /// Reads one page; never panics.
    pub(crate) fn decode(page: &[u8]) -> Decoded {
        if page.len() != PAGE || page[..8] != MAGIC {
            return Decoded::Foreign;
        }
        let mut blank = array::<PAGE>(page, 0);
        set(&mut blank, CRC_AT, &[0; 4]);
        if crc_of(&[], &[&blank]) != u32_at(page, CRC_AT) {
            return Decoded::Corrupt;
        }
        let version = u16_at(page, 8);
        if version > FORMAT_VERSION {
            return Decoded::Newer(version);
        }
        let word = |idx: usize| u64_at(page, 96 + 8 * idx);
        let geometry = Geometry {
            capacity: word(3),
            checkpoint_start: word(4),
            checkpoint_bytes: word(5),
            journal_start: word(6),
            journal_bytes: word(7),
            segments_start: word(8),
            segment_data: word(9),
            segment_count: u32::try_from(word(10)).unwrap_or(u32::MAX),
        };
        let generation = u64_at(page, 16);
        // Member generation, epoch; those of the checkpoint; media errors.
        let mut counters = [0, 1, 11, 13, 14, 15, 18].map(word).into_iter();
        if !geometry.sound() || counters.any(|c| c > COUNTER_MAX) || generation > COUNTER_MAX {
            return Decoded::Corrupt;
        }
        Decoded::Valid(Box::new(Self {
            generation,
            drive_uuid: array(page, 24),
            store_uuid: array(page, 40),
            store_key: array(page, 56),
            member_idx: u16_at(page, 88),
            member_count: u16_at(page, 90),
            clean: page[92] == 1,
            blacklisted: page[93] == 1,
            member_generation: word(0),
            epoch: word(1),
            created_ms: word(2),
            geometry,
            checkpoint: CheckpointPointer {
                area: page[94] & 1,
                generation: word(11),
                bytes: word(12),
                journal_page: word(13),
                version: word(14),
                epoch: word(18),
            },
            media_errors: word(15),
            last_error_ms: word(16),
            members_present: word(17),
        }))
    }

    /// Picks the copy that counts: the valid one of the highest generation.
    pub(crate) fn choose(copies: &[Decoded]) -> Decoded {
        let valid = copies.iter().filter_map(|copy| match copy {
            Decoded::Valid(superblock) => Some(superblock),
            _ => None,
        });
        if let Some(superblock) = valid.max_by_key(|superblock| superblock.generation) {
            return Decoded::Valid(superblock.clone());
        }
        let newer = copies.iter().find(|copy| matches!(copy, Decoded::Newer(_)));
        let corrupt = copies.iter().find(|copy| **copy == Decoded::Corrupt);
        newer.or(corrupt).cloned().unwrap_or(Decoded::Foreign)
    }

    /// Seed of the checksums of everything else on the drive.
    pub(crate) fn seed(&self) -> [u8; 16] {
        self.drive_uuid
    }
}

/// A UUID as people write it.
pub(crate) fn show_uuid(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests;
