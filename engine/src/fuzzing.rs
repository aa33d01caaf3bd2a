//! Entry points for fuzzing: one function per decoder of bytes from a drive, plain bytes in, a
//! panic if a property doesn't hold.
//!
//! The properties are: decoding is total; what decodes stays within its limits; and encoding it
//! again and decoding that gives the same. Magic numbers and checksums, which fuzzing would not
//! guess, are put right first, on a copy: what a drive holds is also looked at as it is. Used by
//! the targets in `tests/fuzz` and by the test that replays their corpora.

use std::os::fd::OwnedFd;

use crate::config::DRIVE_BYTES_MIN;
use crate::drive::media::Media;
use crate::index::{KeyHasher, StoreKey};
use crate::segment_log::bytes::{COUNTER_MAX, PAGE, crc_of, set, u32_at, u64_at};
use crate::segment_log::checkpoint;
use crate::segment_log::journal::{self, FrameHead};
use crate::segment_log::record::{self, Header};
use crate::segment_log::recover::{Recovered, Replay, SegmentHeader, recover};
use crate::segment_log::segment::Segment;
use crate::segment_log::segment::Segments;
use crate::segment_log::superblock::{CheckpointPointer, Decoded, Geometry, Superblock};
use crate::stream::{decode_list, encode_list};

/// A fuzz entry point.
pub type Target = fn(&[u8]);

/// All entry points, by the names of their targets and corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("engine_superblock", fuzz_superblock),
    ("engine_segment_header", fuzz_segment_header),
    ("engine_record", fuzz_record),
    ("engine_journal", fuzz_journal),
    ("engine_checkpoint", fuzz_checkpoint),
    ("engine_part_list", fuzz_part_list),
    ("engine_drive", fuzz_drive),
];

const SEED: [u8; 16] = *b"a drive of fuzz.";

/// A page that begins with the input.
fn page_of(data: &[u8]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let len = data.len().min(PAGE);
    page[..len].copy_from_slice(&data[..len]);
    page
}

/// Puts magic and checksum right.
fn seal(bytes: &mut [u8], magic: &[u8], seed: &[u8], crc_at: usize) {
    if bytes.len() < (crc_at + 4).max(magic.len()) {
        return;
    }
    set(bytes, 0, magic);
    set(bytes, crc_at, &[0; 4]);
    let crc = crc_of(seed, &[bytes]);
    set(bytes, crc_at, &crc.to_le_bytes());
}

/// Superblocks.
pub fn fuzz_superblock(data: &[u8]) {
    let _ = Superblock::decode(data);
    let mut page = page_of(data);
    seal(&mut page, b"memkvSB\x01", &[], 12);
    let decoded = Superblock::decode(&page);
    assert_ne!(decoded, Decoded::Foreign);
    if let Decoded::Valid(block) = &decoded {
        assert_eq!(Superblock::decode(&block.encode()), decoded);
        let geometry = &block.geometry;
        let last = geometry.segment_at(geometry.segment_count - 1);
        let end = last + Geometry::SEGMENT_HEADER + geometry.segment_data;
        assert!(end <= geometry.copies()[2]);
        assert!(geometry.checkpoint_at(1) + geometry.checkpoint_bytes <= geometry.journal_start);
    }
}

/// Header pages of segments.
pub fn fuzz_segment_header(data: &[u8]) {
    let _ = SegmentHeader::decode(&SEED, data);
    let mut page = page_of(data);
    seal(&mut page, b"mkrH", &SEED, 24);
    if let Some(header) = SegmentHeader::decode(&SEED, &page) {
        let again = SegmentHeader::decode(&SEED, &header.encode(&SEED));
        assert_eq!(again, Some(header));
    }
}

/// Puts the checksums of a record right, as far as its header says what they cover.
fn seal_record(seed: &[u8; 16], bytes: &mut [u8]) {
    if bytes.len() < record::HEADER {
        return;
    }
    let key_end = record::HEADER + u32_at(bytes, 16) as usize;
    let body_end = key_end + u32_at(bytes, 20) as usize;
    if let Some(body) = bytes.get(key_end..body_end) {
        let crc = crc_of(&[], &[body]);
        set(bytes, 40, &crc.to_le_bytes());
    }
    if let Some(covered) = bytes.get_mut(..key_end) {
        seal(covered, b"mkRV", seed, 44);
    }
}

/// What the checksums of a segment's records begin with, by the drive's seed and the segment's header.
fn record_seed(drive: &[u8; 16], header: &[u8]) -> [u8; 16] {
    let segment = Segment {
        epoch: u64_at(header, 32),
        ..Segment::free(0)
    };
    segment.seed(drive)
}

/// Records: header and key.
pub fn fuzz_record(data: &[u8]) {
    let _ = Header::decode(&SEED, 1, data);
    let mut bytes = data.to_vec();
    seal_record(&SEED, &mut bytes);
    if bytes.len() < record::HEADER {
        return;
    }
    let generation = u32_at(&bytes, 48);
    let Some((header, key)) = Header::decode(&SEED, generation, &bytes) else {
        return;
    };
    assert_eq!(key.len(), header.key_len as usize);
    assert!(header.body_len as usize <= record::BODY_MAX);
    assert!(header.record_len().is_multiple_of(record::ALIGN));
    let mut again = vec![0; header.record_len()];
    header.encode(&SEED, key, &mut again);
    let decoded = Header::decode(&SEED, generation, &again);
    assert_eq!(decoded, Some((header, key)));
}

/// Frames of the journal, and their rows.
pub fn fuzz_journal(data: &[u8]) {
    let _ = journal::decode_frame(&SEED, data);
    let mut frame = data.to_vec();
    frame.resize(data.len().next_multiple_of(PAGE).max(PAGE), 0);
    seal(&mut frame, b"mkrJ", &SEED, 28);
    let page = u64_at(&frame, 8);
    if let Some(head) = FrameHead::peek(&frame, page) {
        assert!(head.pages as usize * PAGE <= 2 * journal::FRAME_MAX);
    }
    let Some(rows) = journal::decode_frame(&SEED, &frame) else {
        return;
    };
    assert_eq!(rows.len(), u32_at(&frame, 24) as usize);
    let again = journal::encode_frame(&SEED, page, 1, &rows);
    assert_eq!(journal::decode_frame(&SEED, &again), Some(rows));
}

/// Checkpoints: the input is a chunk, and again a stream.
pub fn fuzz_checkpoint(data: &[u8]) {
    let _ = checkpoint::chunk_len(data);
    let _ = checkpoint::decode_chunk(&SEED, 1, 0, data);
    let mut chunk = data.to_vec();
    seal(&mut chunk, b"mkrK", &SEED, 24);
    if chunk.len() >= 32 {
        let (generation, idx) = (u64_at(&chunk, 8), u32_at(&chunk, 16));
        let decoded = checkpoint::decode_chunk(&SEED, generation, idx, &chunk);
        if let Some((payload, last)) = decoded.filter(|(p, _)| p.len() <= checkpoint::CHUNK) {
            let again = checkpoint::encode_chunk(&SEED, generation, idx, last, payload);
            assert_eq!(checkpoint::chunk_len(&again), Some(again.len()));
            let decoded = checkpoint::decode_chunk(&SEED, generation, idx, &again);
            assert_eq!(decoded, Some((payload, last)));
        }
    }
    if data.len() < 16 {
        return;
    }
    let (generation, count) = (u64_at(data, 0), u32_at(data, 8));
    if let Some(found) = checkpoint::decode(data, generation, count, 0) {
        assert_eq!(found.segments.len(), count as usize);
        assert_eq!(found.replay_from.len(), count as usize);
        assert!(found.segments.iter().all(|s| s.opened <= COUNTER_MAX));
        let mut rows = Vec::new();
        found.rows.iter().for_each(|row| row.encode(&mut rows));
        assert!(rows.len() <= data.len());
    }
}

/// Part lists: `value bytes u64 | list`.
pub fn fuzz_part_list(data: &[u8]) {
    let Some((len, list)) = data.split_first_chunk::<8>() else {
        return;
    };
    let (len, members) = (u64::from_le_bytes(*len), [0, 1, 7]);
    if let Some((part_bytes, parts)) = decode_list(list, len, &members) {
        assert!(
            parts
                .iter()
                .all(|part| usize::from(part.drive_idx) < members.len())
        );
        let again = encode_list(part_bytes, &parts, &members);
        assert_eq!(
            decode_list(&again, len, &members),
            Some((part_bytes, parts))
        );
    }
}

/// A whole drive, built from the input and recovered: `what u8 | where u16 | bytes u16 | bytes`,
/// again and again. It is a file of zeroes in memory until something is written to it.
pub fn fuzz_drive(data: &[u8]) {
    let mut drive = FuzzDrive::new();
    let mut rest = data;
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        let place = u16::from_le_bytes([head[1], head[2]]);
        let len = usize::from(u16::from_le_bytes([head[3], head[4]])).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        drive.put(head[0], place, bytes);
        rest = behind;
    }
    let hasher = KeyHasher::new(&StoreKey(drive.block.store_key));
    let (media, block) = (drive.media, drive.block);
    if let Ok(found) = recover(&media, block, 0, &hasher, true) {
        check_recovered(found);
    }
}

struct FuzzDrive {
    media: Media,
    block: Superblock,
}

impl FuzzDrive {
    fn new() -> Self {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file: OwnedFd = rustix::fs::memfd_create("memkv-fuzz", flags).expect("a memfd");
        rustix::fs::ftruncate(&file, DRIVE_BYTES_MIN).expect("set its length");
        let media = Media {
            path: "fuzz".into(),
            file,
            bytes: DRIVE_BYTES_MIN,
            direct: false,
            chunk_bytes: 1 << 20,
            is_file: true,
        };
        let block = Superblock {
            generation: 1,
            drive_uuid: SEED,
            store_uuid: [2; 16],
            store_key: [3; 32],
            member_idx: 0,
            member_count: 1,
            member_generation: 1,
            members_present: 1,
            epoch: 1,
            clean: false,
            created_ms: 0,
            geometry: Geometry::for_capacity(DRIVE_BYTES_MIN),
            checkpoint: CheckpointPointer::default(),
            media_errors: 0,
            blacklisted: false,
            last_error_ms: 0,
        };
        Self { media, block }
    }

    fn put(&mut self, what: u8, place: u16, bytes: &[u8]) {
        let geometry = self.block.geometry;
        let idx = u32::from(place) % geometry.segment_count;
        match what % 5 {
            0 => self.alter_superblock(usize::from(place), bytes),
            1 => {
                let page = u64::from(place) % (geometry.journal_bytes / PAGE as u64);
                let mut frame = bytes.to_vec();
                frame.resize(bytes.len().next_multiple_of(PAGE).max(PAGE), 0);
                seal(&mut frame, b"mkrJ", &SEED, 28);
                self.write(geometry.journal_start + page * PAGE as u64, &frame);
            }
            2 => {
                let mut page = page_of(bytes);
                seal(&mut page, b"mkrH", &SEED, 24);
                self.write(geometry.segment_at(idx), &page);
            }
            3 => {
                let mut bytes = bytes.to_vec();
                seal_record(&self.record_seed(idx), &mut bytes);
                let at = u64::from(u32::from(place) / geometry.segment_count) * 256;
                let data_at = geometry.segment_at(idx) + Geometry::SEGMENT_HEADER;
                self.write(data_at + at, &bytes);
            }
            _ => {
                // One chunk is the whole checkpoint.
                let pointer = &mut self.block.checkpoint;
                (pointer.area, pointer.generation) = ((place & 1) as u8, 1);
                let mut stream = bytes.to_vec();
                if stream.len() >= 12 {
                    set(&mut stream, 0, &1u64.to_le_bytes());
                    set(&mut stream, 8, &geometry.segment_count.to_le_bytes());
                }
                let chunk = checkpoint::encode_chunk(&SEED, 1, 0, true, &stream);
                self.write(geometry.checkpoint_at((place & 1) as u8), &chunk);
            }
        }
    }

    /// What the checksums of a segment's records begin with, going by its header.
    fn record_seed(&self, idx: u32) -> [u8; 16] {
        let at = self.block.geometry.segment_at(idx);
        let header = self.media.read(at, PAGE).expect("within the drive");
        record_seed(&SEED, &header)
    }

    /// Takes what the superblock is with these bytes at this place, if it still is one of ours.
    fn alter_superblock(&mut self, place: usize, bytes: &[u8]) {
        let mut page = self.block.encode();
        let at = place % PAGE;
        let len = bytes.len().min(PAGE - at);
        page[at..at + len].copy_from_slice(&bytes[..len]);
        seal(&mut page, b"memkvSB\x01", &[], 12);
        let Decoded::Valid(block) = Superblock::decode(&page) else {
            return;
        };
        // Another layout, or other checksums, make nothing of what is on the drive.
        if block.geometry == self.block.geometry && block.drive_uuid == SEED {
            self.block = *block;
        }
    }

    /// As far as it fits.
    fn write(&self, offset: u64, bytes: &[u8]) {
        let room = DRIVE_BYTES_MIN
            .saturating_sub(offset)
            .min(bytes.len() as u64);
        let wrote = rustix::io::pwrite(&self.media.file, &bytes[..room as usize], offset);
        assert!(wrote.is_ok());
    }
}

fn check_recovered(found: Recovered) {
    let geometry = found.superblock.geometry;
    let limit = (Geometry::SEGMENT_HEADER + geometry.segment_data) as u32;
    let data = Geometry::SEGMENT_HEADER as u32..=limit;
    let puts = found.tail.iter().filter_map(|(_, replay)| match replay {
        Replay::Put { location, .. } => Some(location),
        Replay::Remove { .. } => None,
    });
    for location in puts.chain(found.entries.iter().map(|entry| &entry.location)) {
        assert!(location.segment_idx < geometry.segment_count);
        assert!(location.offset < limit);
    }
    assert!(found.last_version <= COUNTER_MAX);
    assert_eq!(found.segments.len(), geometry.segment_count as usize);
    assert!(
        found
            .segments
            .iter()
            .all(|segment| data.contains(&segment.end))
    );
    let ring = found.ring;
    assert!((ring.tail..=ring.tail + ring.pages).contains(&ring.head));
    let mut segments = Segments::new(geometry, found.segments);
    segments.count_parts();
    for entry in &found.entries {
        segments.add_live(&entry.location);
    }
    for entry in &found.entries {
        segments.add_dead(&entry.location);
    }
}

#[cfg(test)]
mod tests;
