//! From what is on a drive to a log: checkpoint, then the journal's and the segments' tails, in
//! the order of versions.
//!
//! ```text
//! segment header page:  0 magic u32   4 segment u32   8 generation u32  12 kind u8  13 class u8
//!                      16 opened u64  24 crc u32      32 epoch u64  40 zeroes
//! ```
//!
//! Torn, stale and misplaced structures are told by checksum, epoch and generation, and dropped
//! alone. Nothing here panics on what a drive holds, and no more is allocated than it has.

use super::bytes::{COUNTER_MAX, PAGE, array, crc_of, page_up, set, u32_at, u64_at};
use super::checkpoint;
use super::journal::{FrameHead, Ring, Row, RowOp, decode_frame};
use super::record::{self, Header, class_byte, class_of};
use super::segment::{
    Extent, HINT, HeaderState, KIND_EXTENT, KIND_RECORD, KIND_STRIPES, Kind, Segment, State,
};
use super::superblock::{Geometry, Superblock};
use crate::api::Class;
use crate::drive::media::Media;
use crate::error::DriveOpenError;
use crate::index::{Entry, KeyHash, KeyHasher, Location};

const MAGIC: u32 = 0x4872_6b6d;
const CRC_AT: usize = 24;
/// A scan of records after a clean end gives up after this much without one.
const GAP_MAX: usize = 1 << 20;
const READ_BYTES: usize = 1 << 20;

/// The first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) idx: u32,
    pub(crate) generation: u32,
    pub(crate) kind: Kind,
    pub(crate) class: Class,
    pub(crate) opened: u64,
    pub(crate) epoch: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, seed: &[u8; 16]) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        set(&mut page, 0, &MAGIC.to_le_bytes());
        set(&mut page, 4, &self.idx.to_le_bytes());
        set(&mut page, 8, &self.generation.to_le_bytes());
        page[12] = (self.kind == Kind::Extents).into();
        page[13] = class_byte(self.class);
        set(&mut page, 16, &self.opened.to_le_bytes());
        set(&mut page, 32, &self.epoch.to_le_bytes());
        let crc = crc_of(seed, &[&page]);
        set(&mut page, CRC_AT, &crc.to_le_bytes());
        page
    }

    /// Never panics.
    pub(crate) fn decode(seed: &[u8; 16], page: &[u8]) -> Option<Self> {
        let mut page: [u8; PAGE] = array(page.get(..PAGE)?, 0);
        let crc = u32_at(&page, CRC_AT);
        set(&mut page, CRC_AT, &[0; 4]);
        if u32_at(&page, 0) != MAGIC || crc_of(seed, &[&page]) != crc {
            return None;
        }
        if u64_at(&page, 16) > COUNTER_MAX || u64_at(&page, 32) > COUNTER_MAX {
            return None;
        }
        Some(Self {
            idx: u32_at(&page, 4),
            generation: u32_at(&page, 8),
            kind: if page[12] == 1 {
                Kind::Extents
            } else {
                Kind::Records
            },
            class: class_of(page[13]),
            opened: u64_at(&page, 16),
            epoch: u64_at(&page, 32),
        })
    }
}

/// A change found in a tail.
#[derive(Debug)]
pub(crate) enum Replay {
    Put { hash: KeyHash, location: Location },
    Remove { hash: KeyHash },
}

/// What was found on a drive.
pub(crate) struct Recovered {
    pub(crate) superblock: Superblock,
    pub(crate) segments: Vec<Segment>,
    pub(crate) ring: Ring,
    /// Of the checkpoint.
    pub(crate) entries: Vec<Entry>,
    /// When records expire, as far as they do.
    pub(crate) expiries: Vec<(Location, u64)>,
    /// Of the tails, by version, in no order.
    pub(crate) tail: Vec<(u64, Replay)>,
    pub(crate) last_version: u64,
    /// Structures that were dropped.
    pub(crate) dropped: u64,
    /// Some of them are rows of the journal.
    pub(crate) has_dropped_rows: bool,
    /// Of these, records whose header is whole and whose checksum is wrong.
    pub(crate) mismatches: u64,
}

/// Reads a drive. With `verify`, extents that were written after the last flush on record are looked
/// at: a loss of power may have kept the row of one and not the value.
///
/// # Errors
/// Where it can't be read, or a checkpoint that must be there isn't whole.
pub(crate) fn recover(
    media: &Media,
    superblock: Superblock,
    drive: u8,
    hasher: &KeyHasher,
    verify: bool,
) -> Result<Recovered, DriveOpenError> {
    let verify = verify && !superblock.clean;
    let seed = superblock.seed();
    let pages = superblock.geometry.journal_bytes / PAGE as u64;
    let start = superblock.checkpoint.journal_page;
    let count = superblock.geometry.segment_count;
    let last_version = superblock.checkpoint.version;
    let mut recovery = Recovery {
        media,
        drive,
        hasher,
        seed,
        found: Recovered {
            segments: (0..count).map(|_| Segment::free(0)).collect(),
            ring: Ring {
                pages,
                tail: start,
                head: start,
            },
            entries: Vec::new(),
            expiries: Vec::new(),
            tail: Vec::new(),
            last_version,
            dropped: 0,
            has_dropped_rows: false,
            mismatches: 0,
            superblock,
        },
        verify,
        settled: 0,
        replay_from: vec![Geometry::SEGMENT_HEADER as u32; count as usize],
        rows: Vec::new(),
    };
    recovery.read_checkpoint()?;
    recovery.read_journal()?;
    recovery.read_headers()?;
    recovery.place_rows();
    recovery.read_records()?;
    Ok(recovery.found)
}

struct Recovery<'a> {
    media: &'a Media,
    drive: u8,
    hasher: &'a KeyHasher,
    seed: [u8; 16],
    found: Recovered,
    /// Changes of lower versions are in the checkpoint as they ended.
    settled: u64,
    verify: bool,
    replay_from: Vec<u32>,
    /// Rows, and the journal page of their frame; none for those of the checkpoint.
    rows: Vec<(Row, Option<u64>)>,
}

impl Recovery<'_> {
    fn read_checkpoint(&mut self) -> Result<(), DriveOpenError> {
        let pointer = self.found.superblock.checkpoint;
        if pointer.generation == 0 {
            return Ok(());
        }
        let geometry = self.found.superblock.geometry;
        let corrupt = || self.media.corrupt("the checkpoint");
        let base = geometry.checkpoint_at(pointer.area);
        let (mut at, mut chunk, mut stream) = (0, 0, Vec::new());
        loop {
            let room = geometry.checkpoint_bytes - at;
            let page = self.media.read(base + at, PAGE.min(room as usize))?;
            let len = checkpoint::chunk_len(&page).filter(|len| *len as u64 <= room);
            let bytes = self.media.read(base + at, len.ok_or_else(corrupt)?)?;
            let (payload, last) =
                checkpoint::decode_chunk(&self.seed, pointer.generation, chunk, &bytes)
                    .ok_or_else(corrupt)?;
            stream.extend(payload);
            at += bytes.len() as u64;
            chunk += 1;
            if last {
                break;
            }
        }
        let count = geometry.segment_count;
        let found = checkpoint::decode(&stream, pointer.generation, count, self.drive)
            .ok_or_else(corrupt)?;
        let limit = (Geometry::SEGMENT_HEADER + geometry.segment_data) as u32;
        let mut ends = found.segments.iter().map(|segment| segment.end);
        // The next write would go over the segment's header, or beyond it.
        if !ends.all(|end| (FIRST as u32..=limit).contains(&end)) {
            return Err(corrupt());
        }
        self.found.segments = found.segments;
        self.replay_from = found.replay_from;
        self.found.entries = found.entries;
        self.found.expiries = found.expiries;
        self.settled = found.settled;
        for tombstone in found.tombstones {
            let hash = tombstone.hash;
            let removal = (tombstone.version, Replay::Remove { hash });
            self.found.tail.push(removal);
        }
        let sound = |entry: &Entry| {
            entry.location.segment_idx < count
                && entry.location.offset < limit
                && entry.location.offset.is_multiple_of(16)
                && entry.location.kind < 16
        };
        self.found.entries.retain(sound);
        self.rows = found.rows.into_iter().map(|row| (row, None)).collect();
        Ok(())
    }

    fn read_journal(&mut self) -> Result<(), DriveOpenError> {
        let geometry = self.found.superblock.geometry;
        let pages = self.found.ring.pages;
        // Behind the last frame there may lie what a lost tail of an earlier run has left.
        let mut epoch = self.found.superblock.checkpoint.epoch;
        let mut page = self.found.ring.head;
        while page < self.found.ring.tail + pages {
            let Some((rows, next, newest)) = self.read_frame(&geometry, page, epoch)? else {
                // The frame may have gone to the ring's start.
                let start = page.next_multiple_of(pages);
                if start == page || start >= self.found.ring.tail + pages {
                    break;
                }
                match self.read_frame(&geometry, start, epoch)? {
                    Some(_) => {
                        page = start;
                        continue;
                    }
                    None => break,
                }
            };
            self.rows
                .extend(rows.into_iter().map(|row| (row, Some(page))));
            (page, epoch) = (next, newest);
            self.found.ring.head = page;
        }
        Ok(())
    }

    fn read_frame(
        &self,
        geometry: &Geometry,
        page: u64,
        epoch: u64,
    ) -> Result<Option<(Vec<Row>, u64, u64)>, DriveOpenError> {
        let pages = self.found.ring.pages;
        let within = page % pages;
        let at = geometry.journal_start + within * PAGE as u64;
        let first = self.media.read(at, PAGE)?;
        let Some(head) = FrameHead::peek(&first, page) else {
            return Ok(None);
        };
        if within + u64::from(head.pages) > pages || head.epoch < epoch {
            return Ok(None);
        }
        let frame = match head.pages {
            1 => first,
            pages => self.media.read(at, pages as usize * PAGE)?,
        };
        let rows = decode_frame(&self.seed, &frame);
        Ok(rows.map(|rows| (rows, page + u64::from(head.pages), head.epoch)))
    }

    /// Looks for segments that were opened since the checkpoint.
    fn read_headers(&mut self) -> Result<(), DriveOpenError> {
        let geometry = self.found.superblock.geometry;
        // Ends of lives first: a header may be of the very life that ended.
        for (row, _) in &self.rows {
            let Some(segment) = self.found.segments.get_mut(row.segment as usize) else {
                continue;
            };
            if row.op == RowOp::Free && row.generation >= segment.generation {
                *segment = Segment::free(row.generation.wrapping_add(1));
                self.replay_from[row.segment as usize] = Geometry::SEGMENT_HEADER as u32;
            }
        }
        for idx in 0..geometry.segment_count {
            let page = self.media.read(geometry.segment_at(idx), PAGE)?;
            let Some(header) = SegmentHeader::decode(&self.seed, &page) else {
                continue;
            };
            let segment = &mut self.found.segments[idx as usize];
            let newer = header.generation > segment.generation
                || (header.generation == segment.generation && segment.state == State::Free);
            if header.idx == idx && newer {
                *segment = Segment {
                    state: State::Open,
                    kind: header.kind,
                    class: header.class,
                    opened: header.opened,
                    epoch: header.epoch,
                    header: HeaderState::Done,
                    ..Segment::free(header.generation)
                };
                self.replay_from[idx as usize] = Geometry::SEGMENT_HEADER as u32;
            }
            self.found.last_version = self.found.last_version.max(header.opened);
        }
        Ok(())
    }

    /// Puts rows into their segments and the tail.
    fn place_rows(&mut self) {
        let geometry = self.found.superblock.geometry;
        let limit = Geometry::SEGMENT_HEADER + geometry.segment_data;
        let clean = self.found.superblock.clean;
        let rows = std::mem::take(&mut self.rows);
        let told = rows.iter().filter(|(row, _)| row.op == RowOp::Flushed);
        let flushed = told.map(|(row, _)| row.version).max().unwrap_or(0);
        for (row, page) in rows {
            if row.op == RowOp::Flushed {
                continue;
            }
            self.found.last_version = self.found.last_version.max(row.version);
            let extent = matches!(row.op, RowOp::Extent | RowOp::Part);
            let end = u64::from(row.offset).saturating_add(row.value_len);
            if !extent {
                continue;
            }
            let segment = self.found.segments.get_mut(row.segment as usize);
            let Some(segment) = segment.filter(|_| end <= limit && row.offset.is_multiple_of(16))
            else {
                self.found.dropped += 1;
                continue;
            };
            if row.generation > segment.generation
                || (row.generation == segment.generation && segment.state == State::Free)
            {
                // Its header never reached the drive: the row tells as much.
                *segment = Segment {
                    state: State::Open,
                    kind: Kind::Extents,
                    class: row.attrs.class,
                    opened: row.version,
                    header: HeaderState::Done,
                    ..Segment::free(row.generation)
                };
            }
            if row.generation == segment.generation {
                segment.end = segment.end.max(page_up(end) as u32);
                let in_doubt = self.verify && page.is_some_and(|page| page >= flushed);
                if in_doubt && !is_whole(self.media, &geometry, &row) {
                    self.found.dropped += 1;
                    self.found.has_dropped_rows = true;
                    continue;
                }
                let part = (row.op == RowOp::Part).then_some(row.part);
                segment
                    .extents
                    .insert(row.offset, extent_of(&row, part, !clean));
            }
            if page.is_some() && row.op == RowOp::Extent && row.version >= self.settled {
                let location = Location {
                    drive_idx: self.drive,
                    segment_idx: row.segment,
                    offset: row.offset,
                    generation: row.generation as u8,
                    kind: KIND_EXTENT,
                    hint: 0,
                };
                let hash = self.hasher.hash(row.namespace, &row.key);
                self.found
                    .tail
                    .push((row.version, Replay::Put { hash, location }));
            }
        }
    }

    fn read_records(&mut self) -> Result<(), DriveOpenError> {
        for idx in 0..self.found.segments.len() as u32 {
            let segment = &self.found.segments[idx as usize];
            if segment.kind != Kind::Records || segment.state == State::Free || segment.covered {
                continue;
            }
            self.scan(idx)?;
        }
        Ok(())
    }

    /// Reads the records of one segment from its replay offset on.
    fn scan(&mut self, idx: u32) -> Result<(), DriveOpenError> {
        let geometry = self.found.superblock.geometry;
        let limit = (Geometry::SEGMENT_HEADER + geometry.segment_data) as usize;
        let base = geometry.segment_at(idx);
        let segment = &self.found.segments[idx as usize];
        let (generation, seed) = (segment.generation, segment.seed(&self.seed));
        let mut at = (self.replay_from[idx as usize] as usize).clamp(FIRST, limit) / PAGE * PAGE;
        let (mut last_good, mut bytes, mut start) = (at, Vec::new(), at);
        // A loss of power takes any of them, and what lies behind must not turn up at a later start.
        let gap_max = if self.found.superblock.clean {
            GAP_MAX
        } else {
            limit
        };
        while at + record::HEADER <= limit && at - last_good < gap_max {
            let have = start + bytes.len();
            if at + READ_BYTES.min(limit - at) > have {
                start = at / PAGE * PAGE;
                bytes = self
                    .media
                    .read(base + start as u64, (2 * READ_BYTES).min(limit - start))?;
            }
            let rest = &bytes[at - start..];
            let record = Header::decode(&seed, generation, rest);
            let whole = record.filter(|(header, _)| {
                let body = record::HEADER + header.key_len as usize;
                let body = rest.get(body..body + header.body_len as usize);
                body.is_some_and(|body| crc_of(&[], &[body]) == header.body_crc)
            });
            let Some((header, key)) = whole else {
                self.found.dropped += u64::from(record.is_some());
                self.found.mismatches += u64::from(record.is_some());
                at = (at + 1).next_multiple_of(PAGE);
                continue;
            };
            let hash = self.hasher.hash(header.namespace, key);
            let kind = if header.kind == record::Kind::Stripes {
                KIND_STRIPES
            } else {
                KIND_RECORD
            };
            let replay = match header.kind {
                record::Kind::Tombstone => Replay::Remove { hash },
                _ => {
                    let location = Location {
                        drive_idx: self.drive,
                        segment_idx: idx,
                        offset: at as u32,
                        generation: generation as u8,
                        kind,
                        hint: header.record_len().div_ceil(HINT).min(255) as u8,
                    };
                    if header.attrs.expiry_ms != 0 {
                        let expiry = (location, header.attrs.expiry_ms);
                        self.found.expiries.push(expiry);
                    }
                    Replay::Put { hash, location }
                }
            };
            if header.version >= self.settled {
                self.found.tail.push((header.version, replay));
            }
            self.found.last_version = self.found.last_version.max(header.version);
            at += header.record_len();
            last_good = at;
        }
        let segment = &mut self.found.segments[idx as usize];
        if segment.state == State::Open {
            // Everything whole was found, so what follows is free to write; one batch may have
            // been torn between two that were not, and is passed over again next time.
            segment.end = last_good.next_multiple_of(PAGE).min(limit) as u32;
        }
        Ok(())
    }
}

const FIRST: usize = Geometry::SEGMENT_HEADER as usize;

/// Whether the value that a row tells of is there. What can't be read isn't, and costs no other value.
fn is_whole(media: &Media, geometry: &Geometry, row: &Row) -> bool {
    let at = geometry.segment_at(row.segment) + u64::from(row.offset);
    let Ok(value) = media.read(at, page_up(row.value_len) as usize) else {
        return false;
    };
    let value = value.get(..row.value_len as usize);
    value.is_some_and(|value| crc_of(&[], &[value]) == row.crc)
}

fn extent_of(row: &Row, part: Option<u32>, unverified: bool) -> Extent {
    Extent {
        namespace: row.namespace,
        key: row.key.clone(),
        attrs: row.attrs,
        version: row.version,
        len: row.value_len,
        crc: row.crc,
        part,
        was_read: true,
        unverified,
    }
}
