//! Where a value lies, in as many bits as a slot has for it.

/// Where a value lies: 64 bits, of which the index keeps all.
///
/// ```text
/// drive 6 | segment 22 | offset, 16-byte units 24 | segment generation 8 | kind 4
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// Drive, below [`Location::DRIVES_MAX`].
    pub drive_idx: u8,
    /// Segment of the drive, below [`Location::SEGMENTS_MAX`].
    pub segment_idx: u32,
    /// Bytes from the segment's start: a multiple of 16, below [`Location::OFFSET_MAX`].
    pub offset: u32,
    /// The segment's generation when the value was written; see [`Index::generation`].
    pub generation: u8,
    /// 0 to 15; what it means is the caller's (extent, record, stripes, RAM).
    pub kind: u8,
    /// 0 to 255; the caller's (a rounded length, so that one read suffices).
    pub hint: u8,
}

impl Location {
    /// Drives.
    pub const DRIVES_MAX: usize = 1 << 6;
    /// Segments of a drive.
    pub const SEGMENTS_MAX: usize = 1 << 22;
    /// Bytes of a segment.
    pub const OFFSET_MAX: usize = 1 << 28;

    /// The first place of a segment.
    pub(super) fn start_of(drive_idx: u8, segment_idx: u32) -> Self {
        Self {
            drive_idx,
            segment_idx,
            offset: 0,
            generation: 0,
            kind: 0,
            hint: 0,
        }
    }

    pub(super) fn same_place(&self, other: &Self) -> bool {
        let place = |at: &Self| (at.drive_idx, at.segment_idx, at.offset, at.generation);
        place(self) == place(other)
    }

    /// # Panics
    /// If a field exceeds its bits: geometry is checked when a drive is opened.
    pub(super) fn pack(&self) -> (u64, u8) {
        assert!(
            usize::from(self.drive_idx) < Self::DRIVES_MAX
                && (self.segment_idx as usize) < Self::SEGMENTS_MAX
                && (self.offset as usize) < Self::OFFSET_MAX
                && self.offset.is_multiple_of(16)
                && self.kind < 16,
            "no slot can hold {self:?}"
        );
        let word = u64::from(self.drive_idx) << 58
            | u64::from(self.segment_idx) << 36
            | u64::from(self.offset / 16) << 12
            | u64::from(self.generation) << 4
            | u64::from(self.kind);
        (word, self.hint)
    }

    pub(super) fn unpack(word: u64, hint: u8) -> Self {
        Self {
            drive_idx: (word >> 58) as u8,
            segment_idx: (word >> 36) as u32 & (Self::SEGMENTS_MAX as u32 - 1),
            offset: (word >> 12) as u32 % (1 << 24) * 16,
            generation: (word >> 4) as u8,
            kind: word as u8 & 15,
            hint,
        }
    }
}
