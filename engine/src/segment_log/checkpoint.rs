//! Checkpoints: the segments, the rows of live extents and the index of a drive, in chunks.
//!
//! ```text
//! chunk = whole pages:  0 magic u32   4 payload bytes u32   8 generation u64
//!                      16 chunk u32  20 last u8            24 crc u32   32 payload, zeroes
//! payload stream = head · segments × 32
//!                  · (1, row | 2, entry | 3, tombstone | 4, entry, expiry u64)…
//!   head    = generation u64, segments u32, layout u32, settled u64
//!   segment = generation u32, state u8, kind u8, class u8, header u8,
//!             opened u64, end u32, replay from u32, epoch u64
//!   entry   = hash u128, segment u32, offset u32, generation u8, kind u8, hint u8, 0 u8
//!   tombstone = hash u128, version u64
//! ```
//! Layout 0, of format version 1, has neither `settled` nor tombstones; layout 1, of format
//! version 2, doesn't tell when a record expires.
//!
//! A checkpoint is made while changes go on. What it misses, or has too much of, is put right
//! by replaying everything from its journal page and its segments' replay offsets on, in the
//! order of versions; so it needn't be of one moment.
//!
//! Tails begin before what was in flight when it was begun, so they have changes that it covers as
//! well, but not all of those. So it says below which version everything is *settled* on this
//! drive: there it alone counts, and tails are passed over. And it lists the tombstones from that
//! version on that were published already: their own segment's tail may begin behind them, and
//! that of what they removed before it.

use super::bytes::{COUNTER_MAX, PAGE, array, crc_of, set, u32_at, u64_at};
use super::journal::{Row, row_len};
use super::record::{class_byte, class_of};
use super::segment::{HeaderState, Kind, Segment, State};
use crate::index::{Entry, KeyHash, Location, PartialHash};

const MAGIC: u32 = 0x4b72_6b6d;
const HEAD: usize = 32;
const CRC_AT: usize = 24;
/// Payload of a chunk.
pub(crate) const CHUNK: usize = (256 << 10) - HEAD;
const SEGMENT: usize = 32;
const ENTRY: usize = 28;
const TOMBSTONE: usize = 24;
/// The layout that we write.
const LAYOUT: u32 = 2;

/// Bytes of the stream for an index entry, and for an extent's row where it is one of these.
pub(crate) fn bytes_of(extent_key_len: Option<usize>) -> u64 {
    let row = extent_key_len.map_or(0, |len| 1 + row_len(len));
    (1 + ENTRY + row) as u64
}

/// What all live entries of a drive may take of a checkpoint. The rest is for those that come
/// between a look at this bound and the checkpoint, and for the times at which entries expire,
/// which are at most a third more.
pub(crate) fn budget(area_bytes: u64, segments: usize) -> u64 {
    let table = (24 + SEGMENT * segments + PAGE) as u64;
    area_bytes.saturating_sub(table) / 8 * 5
}

/// What a checkpoint begins with.
pub(crate) struct CheckpointHead {
    pub(crate) generation: u64,
    pub(crate) segments: u32,
    /// All changes of lower versions were published, or given up, when it was begun.
    pub(crate) settled: u64,
}

impl CheckpointHead {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.generation.to_le_bytes().to_vec();
        bytes.extend(self.segments.to_le_bytes());
        bytes.extend(LAYOUT.to_le_bytes());
        bytes.extend(self.settled.to_le_bytes());
        bytes
    }
}

pub(crate) fn encode_segment(segment: &Segment, out: &mut Vec<u8>) {
    out.extend(segment.generation.to_le_bytes());
    out.push(match segment.state {
        State::Free => 0,
        // Its next life may begin before the next checkpoint, and is looked for by its header.
        State::Reclaiming if segment.cleared => 0,
        State::Open => 1,
        State::Sealed | State::Reclaiming => 2,
    });
    out.push((segment.kind == Kind::Extents).into());
    out.push(class_byte(segment.class));
    out.push((segment.header == HeaderState::Done).into());
    out.extend(segment.opened.to_le_bytes());
    out.extend(segment.end.to_le_bytes());
    out.extend(segment.replay_from().to_le_bytes());
    out.extend(segment.epoch.to_le_bytes());
}

/// Writes an entry with its tag, and with the time when it expires where the index knows one and no
/// row tells it.
pub(crate) fn encode_entry(entry: &Entry, expiry_ms: Option<u64>, out: &mut Vec<u8>) {
    out.push(if expiry_ms.is_some() { 4 } else { 2 });
    let location = &entry.location;
    out.extend(entry.partial_hash.0.to_le_bytes());
    out.extend(location.segment_idx.to_le_bytes());
    out.extend(location.offset.to_le_bytes());
    out.extend([location.generation, location.kind, location.hint, 0]);
    if let Some(expiry_ms) = expiry_ms {
        out.extend(expiry_ms.to_le_bytes());
    }
}

/// A deletion that was published not long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) hash: KeyHash,
    pub(crate) version: u64,
}

pub(crate) fn encode_tombstone(tombstone: &Tombstone, out: &mut Vec<u8>) {
    out.push(3);
    out.extend(tombstone.hash.0.to_le_bytes());
    out.extend(tombstone.version.to_le_bytes());
}

/// Wraps a part of the stream.
pub(crate) fn encode_chunk(
    seed: &[u8; 16],
    generation: u64,
    chunk: u32,
    last: bool,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    set(&mut bytes, 0, &MAGIC.to_le_bytes());
    set(&mut bytes, 4, &(payload.len() as u32).to_le_bytes());
    set(&mut bytes, 8, &generation.to_le_bytes());
    set(&mut bytes, 16, &chunk.to_le_bytes());
    bytes[20] = last.into();
    let crc = crc_of(seed, &[&bytes]);
    set(&mut bytes, CRC_AT, &crc.to_le_bytes());
    bytes
}

/// Bytes of the chunk that begins with `page`, if it is one. Never panics.
pub(crate) fn chunk_len(page: &[u8]) -> Option<usize> {
    let head = page.get(..HEAD)?;
    let payload = u32_at(head, 4) as usize;
    (u32_at(head, 0) == MAGIC && payload <= CHUNK).then(|| (HEAD + payload).next_multiple_of(PAGE))
}

/// The payload of a chunk, and whether it is the last. Never panics.
pub(crate) fn decode_chunk<'a>(
    seed: &[u8; 16],
    generation: u64,
    chunk: u32,
    bytes: &'a [u8],
) -> Option<(&'a [u8], bool)> {
    let mut head: [u8; HEAD] = array(bytes.get(..HEAD)?, 0);
    let (payload, crc) = (u32_at(&head, 4) as usize, u32_at(&head, CRC_AT));
    set(&mut head, CRC_AT, &[0; 4]);
    let sound = u64_at(&head, 8) == generation
        && u32_at(&head, 16) == chunk
        && crc_of(seed, &[&head, &bytes[HEAD..]]) == crc;
    let payload = bytes.get(HEAD..HEAD + payload)?;
    sound.then_some((payload, head[20] == 1))
}

/// What a checkpoint holds.
pub(crate) struct Checkpoint {
    pub(crate) segments: Vec<Segment>,
    /// By segment.
    pub(crate) replay_from: Vec<u32>,
    pub(crate) rows: Vec<Row>,
    pub(crate) entries: Vec<Entry>,
    /// When those of them expire that do, and have no row.
    pub(crate) expiries: Vec<(Location, u64)>,
    /// See [`CheckpointHead::settled`]; 0 where nothing is known of it.
    pub(crate) settled: u64,
    pub(crate) tombstones: Vec<Tombstone>,
}

/// Reads the whole stream. Never panics.
pub(crate) fn decode(
    stream: &[u8],
    generation: u64,
    segments: u32,
    drive: u8,
) -> Option<Checkpoint> {
    let head = stream.get(..16)?;
    if u64_at(head, 0) != generation || u32_at(head, 8) != segments {
        return None;
    }
    let (settled, mut rest) = match u32_at(head, 12) {
        0 => (0, &stream[16..]),
        1 | LAYOUT => (u64_at(stream.get(16..24)?, 0), &stream[24..]),
        _ => return None,
    };
    if settled > COUNTER_MAX {
        return None;
    }
    let mut found = Checkpoint {
        segments: Vec::new(),
        replay_from: Vec::new(),
        rows: Vec::new(),
        entries: Vec::new(),
        expiries: Vec::new(),
        settled,
        tombstones: Vec::new(),
    };
    for _ in 0..segments {
        let bytes = rest.get(..SEGMENT)?;
        let state = match bytes[4] {
            _ if u64_at(bytes, 8).max(u64_at(bytes, 24)) > COUNTER_MAX => return None,
            0 => State::Free,
            1 => State::Open,
            2 => State::Sealed,
            _ => return None,
        };
        found.segments.push(Segment {
            state,
            kind: if bytes[5] == 1 {
                Kind::Extents
            } else {
                Kind::Records
            },
            class: class_of(bytes[6]),
            opened: u64_at(bytes, 8),
            epoch: u64_at(bytes, 24),
            end: u32_at(bytes, 16),
            // The checkpoint itself says what its header would, which may have been on its way.
            header: match state {
                State::Free => HeaderState::Missing,
                _ => HeaderState::Done,
            },
            covered: state == State::Sealed && u32_at(bytes, 16) == u32_at(bytes, 20),
            ..Segment::free(u32_at(bytes, 0))
        });
        found.replay_from.push(u32_at(bytes, 20));
        rest = &rest[SEGMENT..];
    }
    while let Some((tag, body)) = rest.split_first() {
        match tag {
            1 => {
                let (row, len) = Row::decode(body)?;
                found.rows.push(row);
                rest = &body[len..];
            }
            2 | 4 => {
                let entry = body.get(..ENTRY)?;
                let location = Location {
                    drive_idx: drive,
                    segment_idx: u32_at(entry, 16),
                    offset: u32_at(entry, 20),
                    generation: entry[24],
                    kind: entry[25],
                    hint: entry[26],
                };
                let partial_hash = PartialHash(u128::from_le_bytes(array(entry, 0)));
                found.entries.push(Entry {
                    partial_hash,
                    location,
                });
                rest = &body[ENTRY..];
                if *tag == 4 {
                    let expiry_ms = u64_at(rest.get(..8)?, 0);
                    found.expiries.push((location, expiry_ms));
                    rest = &rest[8..];
                }
            }
            3 => {
                let bytes = body
                    .get(..TOMBSTONE)
                    .filter(|bytes| u64_at(bytes, 16) <= COUNTER_MAX)?;
                found.tombstones.push(Tombstone {
                    hash: KeyHash(u128::from_le_bytes(array(bytes, 0))),
                    version: u64_at(bytes, 16),
                });
                rest = &body[TOMBSTONE..];
            }
            _ => return None,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment_log::segment::Segments;
    use crate::segment_log::superblock::Geometry;

    #[test]
    fn a_cleared_segment_that_is_still_read_is_a_free_one_to_a_recovery() {
        let geometry = Geometry::for_capacity(16 << 20);
        let list = vec![Segment::free(1); geometry.segment_count as usize];
        let mut segments = Segments::new(geometry, list);
        segments.get_mut(0).state = State::Reclaiming;
        segments.get_mut(0).readers = 1;
        segments.clear(0);
        let head = CheckpointHead {
            generation: 1,
            segments: 1,
            settled: 7,
        };
        let mut stream = head.encode();
        encode_segment(segments.get(0), &mut stream);
        let tombstone = Tombstone {
            hash: KeyHash(3 << 70),
            version: 9,
        };
        encode_tombstone(&tombstone, &mut stream);
        let found = decode(&stream, 1, 1, 0).expect("whole");
        assert_eq!(found.segments[0].state, State::Free);
        assert_eq!(found.segments[0].generation, 2);
        assert!(!found.segments[0].covered);
        assert_eq!((found.settled, found.tombstones), (7, vec![tombstone]));
    }

    #[test]
    fn a_checkpoint_of_format_version_1_is_read_as_one_that_settles_nothing() {
        let mut stream = 5u64.to_le_bytes().to_vec();
        stream.extend(1u32.to_le_bytes());
        stream.extend([0; 4]);
        encode_segment(&Segment::free(3), &mut stream);
        let found = decode(&stream, 5, 1, 0).expect("whole");
        assert_eq!((found.settled, found.segments[0].generation), (0, 3));
        stream[12] = 3;
        assert!(decode(&stream, 5, 1, 0).is_none(), "a layout of later");
    }
}
