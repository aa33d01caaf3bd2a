//! Replays the corpora of the fuzz targets, and sees that no target is without one.
//!
//! Inputs to begin with are cut out of the drive images; `MEMKV_BLESS=1` writes them.

use std::path::{Path, PathBuf};

use super::*;
use crate::engine::image;

type Seed = (&'static str, String, Vec<u8>);

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

fn trim(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().rposition(|byte| *byte != 0);
    &bytes[..len.map_or(0, |at| at + 1)]
}

/// One piece of the input of [`fuzz_drive`].
fn piece(what: u8, place: u64, bytes: &[u8]) -> Vec<u8> {
    let mut piece = vec![what];
    piece.extend(u16::try_from(place).expect("a small drive").to_le_bytes());
    piece.extend(
        u16::try_from(bytes.len())
            .expect("a small piece")
            .to_le_bytes(),
    );
    piece.extend(bytes);
    piece
}

/// What of a drive's bytes begins with a magic number.
fn cut(name: &str, drive: &[u8], seeds: &mut Vec<Seed>) {
    let Decoded::Valid(block) = Superblock::decode(&drive[..PAGE]) else {
        panic!("{name} has no superblock");
    };
    let geometry = block.geometry;
    let name = name.trim_start_matches("disk-v1/").replace('/', "_");
    let mut whole = Vec::new();
    let mut add = |target, at: usize, bytes: &[u8]| {
        seeds.push((target, format!("{name}_{at:x}"), bytes.to_vec()));
    };
    add("engine_superblock", 0, trim(&drive[..PAGE]));
    let ring = geometry.journal_start..geometry.segments_start;
    for (idx, page) in drive.chunks(PAGE).enumerate() {
        let at = idx * PAGE;
        let segment = (at as u64).saturating_sub(geometry.segments_start)
            / (geometry.segment_data + Geometry::SEGMENT_HEADER);
        if page.starts_with(b"mkrH") {
            add("engine_segment_header", at, trim(page));
            whole.extend(piece(2, segment, trim(page)));
        } else if page.starts_with(b"mkrJ") && ring.contains(&(at as u64)) {
            let frame = trim(&drive[at..at + u32_at(page, 4) as usize * PAGE]);
            add("engine_journal", at, frame);
            let place = (at as u64 - geometry.journal_start) / PAGE as u64;
            whole.extend(piece(1, place, frame));
        } else if page.starts_with(b"mkrK") {
            let payload = &drive[at + 32..at + 32 + u32_at(page, 4) as usize];
            add("engine_checkpoint", at, &drive[at..at + 32 + payload.len()]);
            add("engine_checkpoint", at + 32, payload);
            whole.extend(piece(4, u64::from(block.checkpoint.area), payload));
        } else if page.starts_with(b"mkRV") {
            let segment_at = geometry.segment_at(segment as u32) as usize;
            let seed = record_seed(&block.seed(), &drive[segment_at..]);
            let header = Header::decode(&seed, u32_at(page, 48), &drive[at..]);
            let (header, key) = header.expect("an honest record");
            let record = &drive[at..at + header.record_len()];
            add("engine_record", at, trim(record));
            if header.kind == record::Kind::Stripes {
                let mut list = header.value_len.to_le_bytes().to_vec();
                let body = &record[record::HEADER + key.len()..];
                list.extend(&body[..header.body_len as usize]);
                add("engine_part_list", at, &list);
            }
            let data_at = geometry.segment_at(segment as u32) + Geometry::SEGMENT_HEADER;
            let within = (at as u64 - data_at) / 256;
            let place = within * u64::from(geometry.segment_count) + segment;
            whole.extend(piece(3, place, trim(record)));
        }
    }
    add("engine_drive", 0, &whole);
}

/// Counters at their end, which overflowed when something was added to them; ends of segments
/// that lie before their data.
fn wrong_numbers(seeds: &mut Vec<Seed>) {
    let end = u64::MAX.to_le_bytes();
    // Journal page to replay from, version that the checkpoint covers, epoch.
    for at in [200u64, 208, 104] {
        seeds.push((
            "engine_drive",
            format!("superblock_{at}"),
            piece(0, at, &end),
        ));
    }
    let mut header = vec![0; 24];
    header[8] = 1;
    set(&mut header, 16, &end);
    seeds.push(("engine_drive", "opened_last".into(), piece(2, 0, &header)));
    let count = FuzzDrive::new().block.geometry.segment_count as usize;
    let mut stream = vec![0; 16 + 32 * count];
    for segment in 0..count {
        stream[16 + 32 * segment + 4] = 1;
    }
    seeds.push((
        "engine_drive",
        "segment_ends_early".into(),
        piece(4, 0, &stream),
    ));
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for name in image::IMAGES {
        cut(name, &image::drive(name), &mut seeds);
    }
    wrong_numbers(&mut seeds);
    seeds
}

#[test]
fn every_fuzz_target_exists_and_its_corpus_replays() {
    if std::env::var_os("MEMKV_BLESS").is_some() {
        for (target, name, bytes) in seeds() {
            let dir = fuzz_dir().join("corpus").join(target);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    }
    for (name, target) in TARGETS {
        let source = fuzz_dir().join("fuzz_targets").join(format!("{name}.rs"));
        assert!(source.exists(), "{} is missing", source.display());
        let dir = fuzz_dir().join("corpus").join(name);
        let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let mut count = 0;
        for file in files {
            target(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", dir.display());
    }
}

#[test]
fn what_drives_hold_passes_every_fuzz_property() {
    for (name, _, bytes) in seeds() {
        let (_, target) = TARGETS.iter().find(|(found, _)| *found == name).unwrap();
        target(&bytes);
    }
}

#[test]
fn a_drive_built_from_an_image_is_recovered_by_the_fuzz_target() {
    // Else the target would fuzz the way to an early refusal.
    let mut drive = FuzzDrive::new();
    let seed = seeds()
        .into_iter()
        .find(|(target, ..)| *target == "engine_drive");
    let (_, _, data) = seed.expect("a seed");
    let mut rest = &data[..];
    while let Some((head, behind)) = rest.split_first_chunk::<5>() {
        let (bytes, behind) = behind.split_at(usize::from(u16::from_le_bytes([head[3], head[4]])));
        drive.put(head[0], u16::from_le_bytes([head[1], head[2]]), bytes);
        rest = behind;
    }
    let hasher = KeyHasher::new(&StoreKey(drive.block.store_key));
    let found = recover(&drive.media, drive.block, 0, &hasher, true).expect("it is recovered");
    assert!(!found.entries.is_empty(), "the checkpoint is read");
    assert!(found.last_version > 1);
}
