//! From what was found on the drives to the index and the table of striped values.

use std::collections::{HashMap, HashSet};

use super::Found;
use super::versions::merge;
use crate::drive::media::Media;
use crate::entry::Meta;
use crate::index::{Cursor, If, Index, KeyHash, KeyHasher, Location};
use crate::segment_log::bytes::{PAGE, crc_of, page_up};
use crate::segment_log::record::{self, Header};
use crate::segment_log::recover::{Recovered, Replay};
use crate::segment_log::segment::{HINT, KIND_EXTENT, KIND_STRIPES, Segments};
use crate::segment_log::superblock::Geometry;
use crate::stream::{StripeTable, Stripes, decode_list};

/// Fills the index with what was recovered; returns the last version.
pub(super) fn restore(
    index: &Index,
    hasher: &KeyHasher,
    drives: &mut [Found],
    members: &[u16],
    stripes: &StripeTable,
) -> u64 {
    let (mut tail, mut entries) = (Vec::new(), Vec::new());
    let mut last_version = 0;
    for (idx, drive) in drives.iter_mut().enumerate() {
        let Found::Ready { recovered, .. } = drive else {
            continue;
        };
        for (segment, state) in (0..).zip(&recovered.segments) {
            index.set_generation(idx as u8, segment, state.generation as u8);
        }
        last_version = last_version.max(recovered.last_version);
        tail.append(&mut recovered.tail);
        entries.append(&mut recovered.entries);
    }
    tail.retain(|(_, change)| match change {
        Replay::Put { location, .. } => counts(drives, members, location),
        Replay::Remove { .. } => true,
    });
    merge(index, drives, tail, entries);
    let parts = load_stripes(index, hasher, drives, members, stripes);
    prune(index, hasher, drives, &parts);
    note_expiries(index, drives);
    last_version
}

/// Whether a change of a tail tells about its key. The list of a striped value doesn't, if a loss of
/// power has kept it and not the last of its parts: it must not hide the key's last value. Where parts
/// are gone for another reason (their drive is, or they were evicted) they were there once, and the key
/// has no value.
fn counts(drives: &[Found], members: &[u16], location: &Location) -> bool {
    if location.kind != KIND_STRIPES {
        return true;
    }
    let Some((header, key, body)) = list_at(drives, location) else {
        return true;
    };
    let Some((_, parts)) = decode_list(&body, header.value_len, members) else {
        return true;
    };
    // A checkpoint that is younger than the list had all parts, or knew why not.
    let was_there = |part: &Location| match drives.get(usize::from(part.drive_idx)) {
        Some(Found::Ready { recovered, .. }) => {
            recovered.superblock.checkpoint.version >= header.version
        }
        _ => true,
    };
    let mut parts = parts.iter();
    parts.all(|part| holds(drives, part, &key) || was_there(part))
}

/// Reads a part list.
fn list_at(drives: &[Found], list: &Location) -> Option<(Header, Vec<u8>, Vec<u8>)> {
    let Some(Found::Ready { media, recovered }) = drives.get(usize::from(list.drive_idx)) else {
        return None;
    };
    read_record(media, recovered, list)
}

/// Drive, segment and offset of an extent.
type Place = (u8, u32, u32);

/// Reads the part lists of all striped values; one that misses a part is no value, nor is one whose
/// list can't be read.
fn load_stripes(
    index: &Index,
    hasher: &KeyHasher,
    drives: &mut [Found],
    members: &[u16],
    table: &StripeTable,
) -> HashSet<Place> {
    let mut lists = HashMap::new();
    let mut cursor = Some(Cursor(0));
    while let Some(at) = cursor {
        let mut entries = Vec::new();
        cursor = index.scan(at, 4096, &mut entries);
        let stripes = entries
            .iter()
            .filter(|entry| entry.location.kind == KIND_STRIPES);
        lists.extend(stripes.map(|entry| (entry.location, entry.partial_hash)));
    }
    let mut used = HashSet::new();
    for (list, hash) in lists {
        let Some((header, key, body)) = list_at(drives, &list) else {
            if let Some(Found::Ready { recovered, .. }) =
                drives.get_mut(usize::from(list.drive_idx))
            {
                recovered.dropped += 1;
                recovered.mismatches += 1;
            }
            tracing::error!(drive = list.drive_idx, "a part list is corrupt; dropped");
            index.remove(KeyHash(hash.0), If::At(list));
            continue;
        };
        let hash = hasher.hash(header.namespace, &key);
        let found = decode_list(&body, header.value_len, members);
        let found = found.filter(|(_, parts)| parts.iter().all(|part| holds(drives, part, &key)));
        let Some((part_bytes, parts)) = found else {
            index.remove(hash, If::At(list));
            continue;
        };
        used.extend(
            parts
                .iter()
                .map(|part| (part.drive_idx, part.segment_idx, part.offset)),
        );
        let meta = Meta {
            attrs: header.attrs,
            version: header.version,
            len: header.value_len,
            crc: header.value_crc,
        };
        let (namespace, key) = (header.namespace, key.into());
        table.put(Stripes {
            hash,
            namespace,
            key,
            meta,
            part_bytes,
            parts,
            list,
        });
    }
    used
}

fn holds(drives: &[Found], part: &Location, key: &[u8]) -> bool {
    let Some(Found::Ready { recovered, .. }) = drives.get(usize::from(part.drive_idx)) else {
        return false;
    };
    let segment = recovered.segments.get(part.segment_idx as usize);
    segment.is_some_and(|segment| {
        segment.generation as u8 == part.generation
            && segment
                .extents
                .get(&part.offset)
                .is_some_and(|extent| *extent.key == *key)
    })
}

/// Reads a whole record at start.
fn read_record(
    media: &Media,
    recovered: &Recovered,
    location: &Location,
) -> Option<(Header, Vec<u8>, Vec<u8>)> {
    let block = &recovered.superblock;
    let segment = &recovered.segments[location.segment_idx as usize];
    let seed = segment.seed(&block.seed());
    let geometry = &block.geometry;
    let limit = Geometry::SEGMENT_HEADER + geometry.segment_data;
    let start = u64::from(location.offset) / PAGE as u64 * PAGE as u64;
    let within = location.offset as usize % PAGE;
    let base = geometry.segment_at(location.segment_idx);
    let mut len = within + usize::from(location.hint) * HINT;
    for _ in 0..2 {
        let bytes = page_up(len as u64).min(limit - start) as usize;
        let bytes = media.read(base + start, bytes).ok()?;
        let record = bytes.get(within..)?;
        let (header, key) = Header::decode(&seed, segment.generation, record)?;
        let body = record::HEADER + key.len();
        match record.get(body..body + header.body_len as usize) {
            Some(body) if crc_of(&[], &[body]) == header.body_crc => {
                return Some((header, key.to_vec(), body.to_vec()));
            }
            Some(_) => return None,
            None => len = within + header.record_len(),
        }
    }
    None
}

/// Drops extents that nothing points to.
fn prune(index: &Index, hasher: &KeyHasher, drives: &mut [Found], parts: &HashSet<Place>) {
    for (idx, drive) in drives.iter_mut().enumerate() {
        let Found::Ready { recovered, .. } = drive else {
            continue;
        };
        for (number, segment) in (0u32..).zip(&mut recovered.segments) {
            segment.extents.retain(|offset, extent| {
                if extent.part.is_some() {
                    return parts.contains(&(idx as u8, number, *offset));
                }
                let hash = hasher.hash(extent.namespace, &extent.key);
                index.get(hash).is_some_and(|location| {
                    usize::from(location.drive_idx) == idx
                        && location.segment_idx == number
                        && location.offset == *offset
                        && location.kind == KIND_EXTENT
                })
            });
        }
    }
}

/// Tells the index when its entries expire.
fn note_expiries(index: &Index, drives: &mut [Found]) {
    let place = |at: &Location| (at.drive_idx, at.segment_idx, at.offset, at.generation);
    let mut records = HashMap::new();
    for (idx, drive) in drives.iter_mut().enumerate() {
        let Found::Ready { recovered, .. } = drive else {
            continue;
        };
        let expiries = std::mem::take(&mut recovered.expiries);
        records.extend(
            expiries
                .iter()
                .map(|(at, expiry_ms)| (place(at), *expiry_ms)),
        );
        for (segment_idx, segment) in (0u32..).zip(&recovered.segments) {
            let whole = segment.extents.iter();
            for (offset, extent) in whole.filter(|(_, extent)| extent.part.is_none()) {
                let location = Location {
                    drive_idx: idx as u8,
                    segment_idx,
                    offset: *offset,
                    generation: segment.generation as u8,
                    kind: KIND_EXTENT,
                    hint: 0,
                };
                index.note_expiry(&location, extent.attrs.expiry_ms);
            }
        }
    }
    let mut cursor = (!records.is_empty()).then_some(Cursor(0));
    while let Some(at) = cursor {
        let mut entries = Vec::new();
        cursor = index.scan(at, 4096, &mut entries);
        for entry in entries {
            if let Some(expiry_ms) = records.get(&place(&entry.location)) {
                index.note_expiry(&entry.location, *expiry_ms);
            }
        }
    }
}

/// Counts what lives where.
pub(super) fn count_live(index: &Index, logs: &mut [Option<Segments>]) {
    let mut cursor = Some(Cursor(0));
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    while let Some(at) = cursor {
        entries.clear();
        cursor = index.scan(at, 4096, &mut entries);
        for entry in &entries {
            let drive = usize::from(entry.location.drive_idx);
            let Some(Some(segments)) = logs.get_mut(drive) else {
                continue;
            };
            // Nothing changes meanwhile, but a scan may still meet an entry twice.
            if seen.insert((drive, entry.location.segment_idx, entry.location.offset)) {
                segments.add_live(&entry.location);
            }
        }
    }
    for segments in logs.iter_mut().flatten() {
        segments.count_parts();
    }
}
