//! Segments: which are free, open, sealed; what lives in them; which goes next.

use std::collections::{BTreeMap, VecDeque};

use super::bytes::page_up;
use super::checkpoint;
use super::superblock::Geometry;
use crate::api::{Attrs, Class};
use crate::index::Location;

/// Kinds of a [`Location`].
pub(crate) const KIND_RECORD: u8 = 1;
/// An extent.
pub(crate) const KIND_EXTENT: u8 = 2;
/// A part list, in a record.
pub(crate) const KIND_STRIPES: u8 = 3;
/// Unit of a record's length in a location's hint.
pub(crate) const HINT: usize = 512;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Records,
    Extents,
}

/// What a segment is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    Open,
    Sealed,
    /// Its end is being journalled, or waited for by readers.
    Reclaiming,
}

/// How far a segment's header is on its way to the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderState {
    /// Not written, or that failed: whoever writes to the segment next writes it too.
    Missing,
    Writing,
    Done,
}

/// A live extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) namespace: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) attrs: Attrs,
    pub(crate) version: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
    /// `None` for a whole value.
    pub(crate) part: Option<u32>,
    pub(crate) was_read: bool,
    /// Written before the last unclean stop.
    pub(crate) unverified: bool,
}

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) state: State,
    pub(crate) kind: Kind,
    pub(crate) class: Class,
    /// Of its present life, or of the next one where it is free.
    pub(crate) generation: u32,
    /// The version when it was opened: its place in write order.
    pub(crate) opened: u64,
    /// Of the drive when it was opened.
    pub(crate) epoch: u64,
    /// Where the next write goes, from the segment's start.
    pub(crate) end: u32,
    pub(crate) live_bytes: u64,
    pub(crate) live_count: u64,
    /// What its entries take of a checkpoint.
    pub(crate) checkpoint_bytes: u64,
    /// Live extents by their offset.
    pub(crate) extents: BTreeMap<u32, Extent>,
    /// Writes that nothing points to yet: offset → how many entries.
    pub(crate) unpublished: BTreeMap<u32, u32>,
    /// Reads in flight.
    pub(crate) readers: u32,
    /// Whether its end is journalled and nothing in it lives: free once nobody reads it.
    pub(crate) cleared: bool,
    /// Records in it aren't acknowledged before its header is on the drive.
    pub(crate) header: HeaderState,
    /// Behind what was written to it: what was to come there has failed, or is on its way.
    pub(crate) written: u32,
    /// Where the last checkpoint would have a recovery begin to scan: nothing may be written before.
    pub(crate) scanned_from: u32,
    /// Whether the last checkpoint covers all of it.
    pub(crate) covered: bool,
}

impl Segment {
    pub(crate) fn free(generation: u32) -> Self {
        Self {
            state: State::Free,
            kind: Kind::Records,
            class: Class::Evictable,
            generation,
            opened: 0,
            epoch: 0,
            end: Geometry::SEGMENT_HEADER as u32,
            live_bytes: 0,
            live_count: 0,
            checkpoint_bytes: 0,
            extents: BTreeMap::new(),
            unpublished: BTreeMap::new(),
            readers: 0,
            cleared: false,
            header: HeaderState::Missing,
            written: Geometry::SEGMENT_HEADER as u32,
            scanned_from: Geometry::SEGMENT_HEADER as u32,
            covered: false,
        }
    }

    /// Seed of the checksums of its records. A loss of power may take the header of a segment and leave
    /// records, and its next life has the same generation, but never the same epoch.
    pub(crate) fn seed(&self, drive: &[u8; 16]) -> [u8; 16] {
        (u128::from_le_bytes(*drive) ^ u128::from(self.epoch)).to_le_bytes()
    }

    /// Where a recovery must begin to scan records.
    pub(crate) fn replay_from(&self) -> u32 {
        self.unpublished.keys().next().copied().unwrap_or(self.end)
    }

    /// Notes that entries were written at `offset`.
    pub(crate) fn wrote(&mut self, offset: u32, entries: u32) {
        *self.unpublished.entry(offset).or_default() += entries;
    }

    /// Notes that an entry at or behind a write's offset was published, or given up.
    pub(crate) fn settled(&mut self, offset: u32) {
        let Some((start, left)) = self.unpublished.range_mut(..=offset).next_back() else {
            return;
        };
        let start = *start;
        *left -= 1;
        if *left == 0 {
            self.unpublished.remove(&start);
        }
    }
}

/// The segments of a drive.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    pub(crate) geometry: Geometry,
    pub(crate) list: Vec<Segment>,
    pub(crate) free: VecDeque<u32>,
    /// In write order.
    pub(crate) sealed: VecDeque<u32>,
    /// By kind and class.
    open: [Option<u32>; 4],
    pub(crate) used_bytes: u64,
    /// What all live entries take of a checkpoint.
    checkpoint_bytes: u64,
}

impl Segments {
    pub(crate) fn new(geometry: Geometry, list: Vec<Segment>) -> Self {
        let mut segments = Self {
            geometry,
            list,
            free: VecDeque::new(),
            sealed: VecDeque::new(),
            open: [None; 4],
            used_bytes: 0,
            checkpoint_bytes: 0,
        };
        for segment in &mut segments.list {
            (segment.written, segment.scanned_from) = (segment.end, segment.end);
        }
        segments.sort();
        segments
    }

    /// Notes what was written to a segment.
    pub(crate) fn written(&mut self, idx: u32, end: u32) {
        let segment = self.get_mut(idx);
        segment.written = segment.written.max(end);
    }

    /// Gives back the room of writes that failed for want of room on the drive, once nothing of the
    /// segment is on its way: they would use up segment after segment, and leave a gap that ends a
    /// recovery's scan.
    pub(crate) fn give_back(&mut self, idx: u32) {
        let segment = self.get_mut(idx);
        if segment.state == State::Open && segment.unpublished.is_empty() {
            let end = segment.written.max(segment.scanned_from);
            segment.end = segment.end.min(end);
        }
    }

    /// Puts every segment where its state says, after recovery: of several open ones of a kind
    /// and class the youngest stays open.
    fn sort(&mut self) {
        let mut order: Vec<u32> = (0..self.list.len() as u32).collect();
        order.sort_by_key(|idx| (self.list[*idx as usize].opened, *idx));
        for idx in order {
            match self.list[idx as usize].state {
                State::Free => self.free.push_back(idx),
                State::Sealed | State::Reclaiming => {
                    self.list[idx as usize].state = State::Sealed;
                    self.sealed.push_back(idx);
                }
                State::Open => {
                    let segment = &self.list[idx as usize];
                    let slot = slot(segment.kind, segment.class);
                    if let Some(older) = self.open[slot].replace(idx) {
                        self.list[older as usize].state = State::Sealed;
                        self.sealed.push_back(older);
                    }
                }
            }
        }
        let list = &self.list;
        self.sealed
            .make_contiguous()
            .sort_by_key(|idx| list[*idx as usize].opened);
    }

    /// Bytes from a segment's start to its end.
    pub(crate) fn limit(&self) -> u32 {
        (Geometry::SEGMENT_HEADER + self.geometry.segment_data) as u32
    }

    pub(crate) fn get(&self, idx: u32) -> &Segment {
        &self.list[idx as usize]
    }

    pub(crate) fn get_mut(&mut self, idx: u32) -> &mut Segment {
        &mut self.list[idx as usize]
    }

    /// The open segment of a kind and class, if `bytes` still fit in.
    pub(crate) fn open_with_room(&self, kind: Kind, class: Class, bytes: u64) -> Option<u32> {
        let idx = self.open[slot(kind, class)]?;
        let end = u64::from(self.get(idx).end);
        (end + bytes <= u64::from(self.limit())).then_some(idx)
    }

    /// Seals the open segment of a kind and class and opens the oldest free one.
    pub(crate) fn open_next(
        &mut self,
        kind: Kind,
        class: Class,
        version: u64,
        keep_free: usize,
    ) -> Option<u32> {
        if self.free.len() <= keep_free {
            return None;
        }
        let idx = self.free.pop_front()?;
        if let Some(full) = self.open[slot(kind, class)].replace(idx) {
            self.get_mut(full).state = State::Sealed;
            self.sealed.push_back(full);
        }
        let segment = self.get_mut(idx);
        *segment = Segment {
            state: State::Open,
            kind,
            class,
            opened: version,
            // A read may have begun by a location of the former life; what it finds isn't its key.
            readers: segment.readers,
            ..Segment::free(segment.generation)
        };
        Some(idx)
    }

    /// Counts an entry as live.
    pub(crate) fn add_live(&mut self, location: &Location) {
        let bytes = self.charge(location);
        let noted = self.noted(location);
        let segment = self.get_mut(location.segment_idx);
        segment.live_bytes += bytes;
        segment.live_count += 1;
        segment.checkpoint_bytes += noted;
        self.used_bytes += bytes;
        self.checkpoint_bytes += noted;
    }

    /// Counts the parts of striped values as live, which no index entry points to.
    pub(crate) fn count_parts(&mut self) {
        for segment in &mut self.list {
            for extent in segment
                .extents
                .values()
                .filter(|extent| extent.part.is_some())
            {
                segment.live_bytes += page_up(extent.len);
                segment.live_count += 1;
                self.used_bytes += page_up(extent.len);
                let noted = checkpoint::bytes_of(Some(extent.key.len()));
                segment.checkpoint_bytes += noted;
                self.checkpoint_bytes += noted;
            }
        }
    }

    /// Counts an entry as dead, if its segment still is in the life that it was written in.
    pub(crate) fn add_dead(&mut self, location: &Location) {
        let Some(segment) = self.list.get(location.segment_idx as usize) else {
            return;
        };
        if segment.generation as u8 != location.generation || segment.state == State::Free {
            return;
        }
        let bytes = self.charge(location);
        let noted = self.noted(location);
        let segment = self.get_mut(location.segment_idx);
        segment.extents.remove(&location.offset);
        let noted = noted.min(segment.checkpoint_bytes);
        segment.checkpoint_bytes -= noted;
        let bytes = bytes.min(segment.live_bytes);
        segment.live_bytes -= bytes;
        segment.live_count = segment.live_count.saturating_sub(1);
        self.used_bytes -= bytes;
        self.checkpoint_bytes -= noted;
    }

    /// Whether a checkpoint can hold another entry.
    pub(crate) fn checkpoint_has_room(&self) -> bool {
        let budget = checkpoint::budget(self.geometry.checkpoint_bytes, self.list.len());
        self.checkpoint_bytes < budget
    }

    /// What an entry takes of a checkpoint.
    fn noted(&self, location: &Location) -> u64 {
        let extents = &self.get(location.segment_idx).extents;
        let extent = extents.get(&location.offset);
        match location.kind {
            KIND_EXTENT => extent.map_or(0, |extent| checkpoint::bytes_of(Some(extent.key.len()))),
            _ => checkpoint::bytes_of(None),
        }
    }

    /// Seals the open segments whose entries may be evicted, so that they can be reclaimed.
    pub(crate) fn seal_evictable(&mut self) {
        for kind in [Kind::Records, Kind::Extents] {
            if let Some(idx) = self.open[slot(kind, Class::Evictable)].take() {
                self.get_mut(idx).state = State::Sealed;
                self.sealed.push_back(idx);
            }
        }
    }

    /// Bytes that an entry is counted with.
    fn charge(&self, location: &Location) -> u64 {
        if location.kind != KIND_EXTENT {
            return u64::from(location.hint) * HINT as u64;
        }
        let extent = self.get(location.segment_idx).extents.get(&location.offset);
        extent.map_or(0, |extent| page_up(extent.len))
    }

    /// How many bytes of a segment's values that have expired nobody ever read. Parts are no values.
    pub(crate) fn expired_unread(&self, idx: u32, unix_ms: u64) -> u64 {
        let unread = self.get(idx).extents.values().filter(|extent| {
            let expiry_ms = extent.attrs.expiry_ms;
            extent.part.is_none() && !extent.was_read && expiry_ms != 0 && expiry_ms <= unix_ms
        });
        unread.map(|extent| extent.len).sum()
    }

    /// Whether any of these places in a segment was ever read.
    pub(crate) fn was_read(&self, idx: u32, places: &mut dyn Iterator<Item = &Location>) -> bool {
        let extents = &self.get(idx).extents;
        places
            .filter_map(|place| extents.get(&place.offset))
            .any(|extent| extent.was_read)
    }

    /// Ends a segment's life: everything in it is gone. Returns how many values that were, and how
    /// many bytes of extents that nobody ever read; parts of striped values are no values.
    pub(crate) fn clear(&mut self, idx: u32) -> (u64, u64) {
        let segment = self.get_mut(idx);
        let extents = segment.extents.values();
        let (parts, values): (Vec<_>, Vec<_>) = extents.partition(|extent| extent.part.is_some());
        let never_read = values.iter().filter(|extent| !extent.was_read);
        let never_read = never_read.map(|extent| extent.len).sum();
        let parts = parts.len() as u64;
        let (bytes, count) = (segment.live_bytes, segment.live_count);
        let noted = segment.checkpoint_bytes;
        *segment = Segment {
            readers: segment.readers,
            cleared: true,
            state: State::Reclaiming,
            ..Segment::free(segment.generation.wrapping_add(1))
        };
        self.used_bytes -= bytes;
        self.checkpoint_bytes -= noted;
        self.sealed.retain(|sealed| *sealed != idx);
        (count.saturating_sub(parts), never_read)
    }

    /// Frees a cleared segment once nobody reads it. One that is being reclaimed isn't cleared yet:
    /// freed by the end of a read, it would be free again when its end is journalled, and two lives
    /// would be written over each other.
    pub(crate) fn release(&mut self, idx: u32) {
        let segment = self.get_mut(idx);
        if segment.cleared && segment.readers == 0 {
            segment.cleared = false;
            segment.state = State::Free;
            self.free.push_back(idx);
        }
    }

    /// The segment to reclaim next: one where nothing lives, else, with eviction, the oldest.
    pub(crate) fn victim(&self, eviction: bool) -> Option<u32> {
        let quiet = |idx: &&u32| self.get(**idx).unpublished.is_empty();
        let empty = self
            .sealed
            .iter()
            .filter(quiet)
            .find(|idx| self.get(**idx).live_count == 0);
        let oldest = || {
            let mut sealed = self.sealed.iter().filter(quiet);
            sealed.find(|idx| self.get(**idx).class == Class::Evictable)
        };
        empty
            .or_else(|| if eviction { oldest() } else { None })
            .copied()
    }

    /// Bytes that values can take.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.list.len() as u64 * self.geometry.segment_data
    }
}

fn slot(kind: Kind, class: Class) -> usize {
    usize::from(kind == Kind::Extents) * 2 + usize::from(class == Class::Durable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_ends_while_its_segment_is_reclaimed_frees_nothing() {
        let geometry = Geometry::for_capacity(256 << 20);
        let list = vec![Segment::free(1); geometry.segment_count as usize];
        let mut segments = Segments::new(geometry, list);
        let idx = segments.open_next(Kind::Extents, Class::Evictable, 1, 0);
        let idx = idx.expect("one is free");
        let free_count = segments.free.len();

        segments.get_mut(idx).readers = 1;
        segments.get_mut(idx).state = State::Reclaiming;
        segments.get_mut(idx).readers = 0;
        segments.release(idx);
        assert_eq!(
            segments.free.len(),
            free_count,
            "its end isn't journalled yet"
        );

        segments.clear(idx);
        segments.release(idx);
        segments.release(idx);
        assert_eq!(segments.free.len(), free_count + 1, "freed once");
    }
}
