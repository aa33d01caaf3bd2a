//! The journal: a ring of frames, each the rows of one group commit.
//!
//! ```text
//! frame = n pages:  0 magic u32   4 pages u32   8 page number u64  16 epoch u64
//!                  24 rows u32   28 crc u32    32 row, row, …      zeroes
//! row   = 64 bytes, key, zeroes up to a multiple of 16
//!  0 op u8   1 class u8   2 type u8   3 0     4 key bytes u32
//!  8 version u64         16 segment u32      20 offset in segment u32
//! 24 value bytes u64     32 expiry u64       40 namespace u32  44 flags u32
//! 48 value crc u32       52 generation u32   56 part u32       60 0
//! ```
//!
//! Page numbers only rise; page n lies at n modulo the ring. A frame that would cross the ring's
//! end goes to its start. One frame is written at a time, so at most the last is torn. Epochs
//! never fall along the journal: what a lost tail left behind doesn't follow a newer frame.

use super::bytes::{COUNTER_MAX, PAGE, array, crc_of, set, u32_at, u64_at};
use super::record::{class_byte, class_of};
use crate::api::{Attrs, KEY_BYTES_MAX};

const MAGIC: u32 = 0x4a72_6b6d;
const FRAME_HEADER: usize = 32;
const CRC_AT: usize = 28;
/// Bytes of a row without its key.
pub(crate) const ROW: usize = 64;
/// A frame takes rows until it is this long: one buffer, and one I/O.
pub(crate) const FRAME_MAX: usize = 256 << 10;

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOp {
    /// A value is in an extent.
    Extent,
    /// A part of a striped value is in an extent; nothing points to it before its part list.
    Part,
    /// A segment was reclaimed.
    Free,
    /// A flush covers all frames before the page that its version is, and the extents that they tell
    /// of.
    Flushed,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) op: RowOp,
    pub(crate) namespace: u32,
    pub(crate) attrs: Attrs,
    pub(crate) version: u64,
    pub(crate) segment: u32,
    /// Bytes from the segment's start.
    pub(crate) offset: u32,
    pub(crate) generation: u32,
    pub(crate) value_len: u64,
    pub(crate) crc: u32,
    pub(crate) part: u32,
    pub(crate) key: Box<[u8]>,
}

/// Bytes of a row with a key of this length.
pub(crate) fn row_len(key_len: usize) -> usize {
    ROW + key_len.next_multiple_of(16)
}

impl Row {
    /// A row about a segment, not about a value.
    pub(crate) fn about_segment(op: RowOp, segment: u32, generation: u32, version: u64) -> Self {
        Self {
            op,
            namespace: 0,
            attrs: Attrs::default(),
            version,
            segment,
            offset: 0,
            generation,
            value_len: 0,
            crc: 0,
            part: 0,
            key: Box::default(),
        }
    }

    /// Bytes that it takes.
    pub(crate) fn encoded_len(&self) -> usize {
        row_len(self.key.len())
    }

    /// Appends it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.encoded_len(), 0);
        let row = &mut out[start..];
        row[0] = match self.op {
            RowOp::Extent => 1,
            RowOp::Part => 2,
            RowOp::Free => 3,
            RowOp::Flushed => 5,
        };
        row[1] = class_byte(self.attrs.class);
        row[2] = self.attrs.type_tag;
        set(row, 4, &(self.key.len() as u32).to_le_bytes());
        set(row, 8, &self.version.to_le_bytes());
        set(row, 16, &self.segment.to_le_bytes());
        set(row, 20, &self.offset.to_le_bytes());
        set(row, 24, &self.value_len.to_le_bytes());
        set(row, 32, &self.attrs.expiry_ms.to_le_bytes());
        set(row, 40, &self.namespace.to_le_bytes());
        set(row, 44, &self.attrs.flags.to_le_bytes());
        set(row, 48, &self.crc.to_le_bytes());
        set(row, 52, &self.generation.to_le_bytes());
        set(row, 56, &self.part.to_le_bytes());
        set(row, ROW, &self.key);
    }

    /// Reads one from the start of `bytes`; also returns how long it was. Never panics.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let head: [u8; ROW] = array(bytes.get(..ROW)?, 0);
        let op = match head[0] {
            1 => RowOp::Extent,
            2 => RowOp::Part,
            3 => RowOp::Free,
            5 => RowOp::Flushed,
            _ => return None,
        };
        let key_len = u32_at(&head, 4) as usize;
        if key_len > KEY_BYTES_MAX || u64_at(&head, 8) > COUNTER_MAX {
            return None;
        }
        let row = Self {
            op,
            namespace: u32_at(&head, 40),
            attrs: Attrs {
                type_tag: head[2],
                flags: u32_at(&head, 44),
                expiry_ms: u64_at(&head, 32),
                class: class_of(head[1]),
            },
            version: u64_at(&head, 8),
            segment: u32_at(&head, 16),
            offset: u32_at(&head, 20),
            generation: u32_at(&head, 52),
            value_len: u64_at(&head, 24),
            crc: u32_at(&head, 48),
            part: u32_at(&head, 56),
            key: bytes.get(ROW..ROW + key_len)?.into(),
        };
        let len = row.encoded_len();
        (len <= bytes.len()).then_some((row, len))
    }
}

/// Encodes rows into whole pages.
pub(crate) fn encode_frame(seed: &[u8; 16], page: u64, epoch: u64, rows: &[Row]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER];
    for row in rows {
        row.encode(&mut frame);
    }
    frame.resize(frame.len().next_multiple_of(PAGE), 0);
    let pages = (frame.len() / PAGE) as u32;
    set(&mut frame, 0, &MAGIC.to_le_bytes());
    set(&mut frame, 4, &pages.to_le_bytes());
    set(&mut frame, 8, &page.to_le_bytes());
    set(&mut frame, 16, &epoch.to_le_bytes());
    set(&mut frame, 24, &(rows.len() as u32).to_le_bytes());
    let crc = crc_of(seed, &[&frame]);
    set(&mut frame, CRC_AT, &crc.to_le_bytes());
    frame
}

/// What the first page of a frame says about itself, before its checksum is known to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) pages: u32,
    pub(crate) epoch: u64,
}

impl FrameHead {
    /// Looks at a page that should begin frame `page`. Never panics.
    pub(crate) fn peek(bytes: &[u8], page: u64) -> Option<Self> {
        let head = bytes.get(..FRAME_HEADER)?;
        let pages = u32_at(head, 4);
        let sound = u32_at(head, 0) == MAGIC
            && u64_at(head, 8) == page
            && (1..=(FRAME_MAX / PAGE + 32) as u32).contains(&pages);
        sound.then(|| Self {
            pages,
            epoch: u64_at(head, 16),
        })
    }
}

/// Reads the rows of a whole frame; `None` if it isn't whole. Never panics.
pub(crate) fn decode_frame(seed: &[u8; 16], frame: &[u8]) -> Option<Vec<Row>> {
    let count = u32_at(frame.get(..FRAME_HEADER)?, 24) as usize;
    let head: [u8; FRAME_HEADER] = array(frame, 0);
    let mut blank = head;
    set(&mut blank, CRC_AT, &[0; 4]);
    if crc_of(seed, &[&blank, &frame[FRAME_HEADER..]]) != u32_at(&head, CRC_AT) {
        return None;
    }
    let mut rows = Vec::with_capacity(count.min(frame.len() / ROW));
    let mut rest = &frame[FRAME_HEADER..];
    for _ in 0..count {
        let (row, len) = Row::decode(rest)?;
        rows.push(row);
        rest = &rest[len..];
    }
    Some(rows)
}

/// Where in the ring the next frame goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// Pages of the ring.
    pub(crate) pages: u64,
    /// Oldest page that a recovery needs.
    pub(crate) tail: u64,
    /// Next page to write.
    pub(crate) head: u64,
}

impl Ring {
    /// Where a frame of `pages` would begin, or `None` while the ring has no room.
    pub(crate) fn place(&self, pages: u64) -> Option<u64> {
        let within = self.head % self.pages;
        let page = if within + pages > self.pages {
            self.head - within + self.pages
        } else {
            self.head
        };
        (page + pages <= self.tail + self.pages).then_some(page)
    }

    /// 0 to 1.
    pub(crate) fn fill(&self) -> f64 {
        (self.head - self.tail) as f64 / self.pages as f64
    }
}

#[cfg(test)]
mod tests;
