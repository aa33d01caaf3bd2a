//! Which of several entries of a key counts: the one with the highest version, whichever drive it
//! lies on, and whether a checkpoint or a tail tells of it.
//!
//! A tail's changes carry their versions, and so do extents. A checkpoint's entry of a record has
//! none, because the index has none: the record's own header tells it. That is read only where
//! what is known without it leaves open which of two entries is the newer one, as it does for
//! keys that have moved between drives.

use std::ops::RangeInclusive;

use super::Found;
use crate::drive::media::Media;
use crate::index::{Change, Entry, If, Index, KeyHash, Location, PartialHash};
use crate::segment_log::bytes::PAGE;
use crate::segment_log::record::{self, Header};
use crate::segment_log::recover::{Recovered, Replay};
use crate::segment_log::segment::{HINT, KIND_EXTENT};
use crate::segment_log::superblock::Geometry;

/// The newest change of a key that the tails tell of.
struct Newest {
    key: PartialHash,
    version: u64,
    replay: Replay,
}

/// Fills the index with the newest entry of each key.
pub(super) fn merge(
    index: &Index,
    drives: &[Found],
    tail: Vec<(u64, Replay)>,
    entries: Vec<Entry>,
) {
    let newest = newest_of(index, tail);
    for change in &newest {
        if let Replay::Put { hash, location } = change.replay {
            let _: Change = index.put(hash, location, If::Always);
        }
    }
    let versions = Versions { drives };
    for entry in entries {
        let place = &entry.location;
        if index.generation(place.drive_idx, place.segment_idx) != place.generation {
            continue;
        }
        let found = newest.binary_search_by_key(&entry.partial_hash.0, |change| change.key.0);
        let rival = found.ok().map(|at| &newest[at]);
        let beaten = |rival: &Newest| {
            rival.lies_at(place) || !versions.newer(place, &Claim::Version(rival.version))
        };
        if rival.is_some_and(beaten) {
            continue;
        }
        // What is there and isn't the rival's comes from another drive's checkpoint.
        let there = index.get(KeyHash(entry.partial_hash.0));
        let there = there.filter(|there| !rival.is_some_and(|rival| rival.lies_at(there)));
        if there.is_none_or(|there| versions.newer(place, &Claim::At(there))) {
            let _: Change = index.restore(entry, If::Always);
        }
    }
}

/// The newest change of each key, by key.
fn newest_of(index: &Index, tail: Vec<(u64, Replay)>) -> Vec<Newest> {
    let newest = tail.into_iter().map(|(version, replay)| {
        let (Replay::Put { hash, .. } | Replay::Remove { hash }) = replay;
        Newest {
            key: index.partial(hash),
            version,
            replay,
        }
    });
    let mut newest: Vec<Newest> = newest.collect();
    newest.sort_unstable_by_key(|change| (change.key.0, std::cmp::Reverse(change.version)));
    newest.dedup_by_key(|change| change.key.0);
    newest
}

impl Newest {
    fn lies_at(&self, place: &Location) -> bool {
        matches!(&self.replay, Replay::Put { location, .. } if same(location, place))
    }
}

fn same(one: &Location, other: &Location) -> bool {
    let place = |at: &Location| (at.drive_idx, at.segment_idx, at.offset, at.generation);
    place(one) == place(other)
}

/// What an entry must be newer than.
enum Claim {
    Version(u64),
    At(Location),
}

/// The versions of what was found on the drives.
struct Versions<'a> {
    drives: &'a [Found],
}

impl Versions<'_> {
    /// Whether the entry at a place of a checkpoint is newer than something else.
    fn newer(&self, place: &Location, than: &Claim) -> bool {
        let other = |exact: bool| match than {
            Claim::Version(version) => *version..=*version,
            Claim::At(there) if exact => self.exact(there),
            Claim::At(there) => self.bounds(there),
        };
        let (ours, theirs) = (self.bounds(place), other(false));
        if ours.start() > theirs.end() {
            return true;
        }
        if ours.end() <= theirs.start() {
            return false;
        }
        self.exact(place).start() > other(true).start()
    }

    fn drive(&self, place: &Location) -> Option<(&Media, &Recovered)> {
        match self.drives.get(usize::from(place.drive_idx))? {
            Found::Ready { media, recovered } => Some((media, recovered)),
            Found::Down(_) => None,
        }
    }

    /// Between which versions the entry at a place is, without reading anything. An entry that is
    /// younger than its checkpoint is in its drive's tail too, and was settled there.
    fn bounds(&self, place: &Location) -> RangeInclusive<u64> {
        let Some((_, recovered)) = self.drive(place) else {
            return 0..=0;
        };
        let segment = &recovered.segments[place.segment_idx as usize];
        let extent = segment.extents.get(&place.offset);
        match extent.filter(|_| place.kind == KIND_EXTENT) {
            Some(extent) => extent.version..=extent.version,
            None => segment.opened..=recovered.superblock.checkpoint.version.max(segment.opened),
        }
    }

    /// As [`bounds`](Self::bounds), from the record itself. One that can't be read is as old as
    /// it can be.
    fn exact(&self, place: &Location) -> RangeInclusive<u64> {
        let bounds = self.bounds(place);
        if bounds.start() == bounds.end() {
            return bounds;
        }
        let version = self
            .drive(place)
            .and_then(|(media, recovered)| version_of(media, recovered, place));
        let version = version.unwrap_or(*bounds.start());
        version..=version
    }
}

/// The version in a record's header.
fn version_of(media: &Media, recovered: &Recovered, place: &Location) -> Option<u64> {
    let block = &recovered.superblock;
    let segment = &recovered.segments[place.segment_idx as usize];
    let seed = segment.seed(&block.seed());
    let limit = Geometry::SEGMENT_HEADER + block.geometry.segment_data;
    let within = place.offset as usize % PAGE;
    let start = u64::from(place.offset) - within as u64;
    let at = block.geometry.segment_at(place.segment_idx) + start;
    // Mostly the key is on the record's first page.
    let longest = record::HEADER + crate::api::KEY_BYTES_MAX;
    let hinted = usize::from(place.hint) * HINT;
    [hinted.min(PAGE), longest].into_iter().find_map(|len| {
        let pages = (within + len.max(1)).next_multiple_of(PAGE) as u64;
        let bytes = media.read(at, pages.min(limit.checked_sub(start)?) as usize);
        let bytes = bytes.ok()?;
        let (header, _) = Header::decode(&seed, segment.generation, bytes.get(within..)?)?;
        Some(header.version)
    })
}
