//! Values longer than an extent: parts striped over the drives, and a list that names them.
//!
//! A put writes its parts first, window by window where it exceeds a quarter of the pool, each
//! an extent of its own with a row in its drive's journal. Only then the part list is put, as a
//! record of the key's own drive: it alone makes the value visible. A value with a part less is
//! no value: when a part's segment is reclaimed, or its drive is gone, the whole value goes.
//!
//! ```text
//! part list:  0 part bytes u64   8 parts u32   12 0 u32
//!            16 per part: member u16, generation u8, 0 u8, segment u32, offset u32
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::IoTimes;
use crate::entry::Meta;
use crate::index::{KeyHash, Location};
use crate::segment_log::bytes::{array, u32_at, u64_at};
use crate::segment_log::segment::KIND_EXTENT;

mod read;
mod write;

pub(crate) use read::{ReadStream, StreamBudget, StripeRead, read_window, window_end};
pub(crate) use write::{StripeWrite, WriteStream};

const LIST_HEAD: usize = 16;
const LIST_PART: usize = 12;

/// A striped value.
#[derive(Clone, Debug)]
pub(crate) struct Stripes {
    pub(crate) hash: KeyHash,
    pub(crate) namespace: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) meta: Meta,
    pub(crate) part_bytes: u64,
    pub(crate) parts: Vec<Location>,
    /// Of the part list.
    pub(crate) list: Location,
}

/// The striped values by hash, and by the segments that they lie in.
#[derive(Default)]
pub(crate) struct StripeTable {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    values: BTreeMap<u128, Arc<Stripes>>,
    /// Drive, segment and hash of every list and part.
    places: BTreeSet<(u8, u32, u128)>,
}

impl Known {
    fn put(&mut self, stripes: Stripes) -> Option<Arc<Stripes>> {
        let last = self.take(stripes.hash);
        self.places.extend(stripes.in_segments());
        self.values.insert(stripes.hash.0, Arc::new(stripes));
        last
    }

    fn take(&mut self, hash: KeyHash) -> Option<Arc<Stripes>> {
        let taken = self.values.remove(&hash.0)?;
        for place in taken.in_segments() {
            self.places.remove(&place);
        }
        Some(taken)
    }

    fn within(&self, places: impl RangeBounds<(u8, u32, u128)>) -> Vec<Arc<Stripes>> {
        let hashes: BTreeSet<u128> = self.places.range(places).map(|place| place.2).collect();
        let values = hashes.iter().filter_map(|hash| self.values.get(hash));
        values.cloned().collect()
    }
}

impl Stripes {
    fn in_segments(&self) -> impl Iterator<Item = (u8, u32, u128)> {
        let places = self.parts.iter().chain([&self.list]);
        places.map(|place| (place.drive_idx, place.segment_idx, self.hash.0))
    }
}

impl StripeTable {
    pub(crate) fn get(&self, hash: KeyHash) -> Option<Arc<Stripes>> {
        self.known.lock().values.get(&hash.0).cloned()
    }

    /// Puts a value in place of the key's last one, which it returns.
    pub(crate) fn put(&self, stripes: Stripes) -> Option<Arc<Stripes>> {
        self.known.lock().put(stripes)
    }

    /// The values of which a drive has a part or the list.
    pub(crate) fn on_drive(&self, drive: u8) -> Vec<Arc<Stripes>> {
        let all = (drive, 0, 0)..=(drive, u32::MAX, u128::MAX);
        self.known.lock().within(all)
    }

    /// The values of which a segment has a part or the list.
    pub(crate) fn in_segment(&self, drive: u8, segment: u32) -> Vec<Arc<Stripes>> {
        let all = (drive, segment, 0)..=(drive, segment, u128::MAX);
        self.known.lock().within(all)
    }

    /// Takes a value out, if it is the one that this list names.
    pub(crate) fn take(&self, hash: KeyHash, list: &Location) -> Option<Arc<Stripes>> {
        let mut known = self.known.lock();
        let known_list = known.values.get(&hash.0).map(|stripes| stripes.list);
        known_list
            .filter(|known| known == list)
            .and_then(|_| known.take(hash))
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.lock().values.len()
    }
}

/// Encodes a part list; `members` numbers the drives for good.
pub(crate) fn encode_list(part_bytes: u64, parts: &[Location], members: &[u16]) -> Vec<u8> {
    let mut list = part_bytes.to_le_bytes().to_vec();
    list.extend((parts.len() as u64).to_le_bytes());
    for part in parts {
        let member = members
            .get(usize::from(part.drive_idx))
            .copied()
            .unwrap_or(u16::MAX);
        list.extend(member.to_le_bytes());
        list.extend([part.generation, 0]);
        list.extend(part.segment_idx.to_le_bytes());
        list.extend(part.offset.to_le_bytes());
    }
    list
}

/// Reads a part list; `None` where it makes no sense or names a drive that isn't there.
/// Never panics.
pub(crate) fn decode_list(list: &[u8], len: u64, members: &[u16]) -> Option<(u64, Vec<Location>)> {
    let head = list.get(..LIST_HEAD)?;
    let (part_bytes, count) = (u64_at(head, 0), u32_at(head, 8) as usize);
    let sound = part_bytes > 0 && len.div_ceil(part_bytes) == count as u64;
    if !sound || list.len() != LIST_HEAD + count * LIST_PART {
        return None;
    }
    let part = |bytes: &[u8]| {
        let member = u16::from_le_bytes(array(bytes, 0));
        let drive = members
            .iter()
            .position(|known| *known == member && member != u16::MAX)?;
        Some(Location {
            drive_idx: drive as u8,
            generation: bytes[2],
            segment_idx: u32_at(bytes, 4),
            offset: u32_at(bytes, 8),
            kind: KIND_EXTENT,
            hint: 0,
        })
    };
    let parts: Option<Vec<Location>> = list[LIST_HEAD..]
        .chunks_exact(LIST_PART)
        .map(part)
        .collect();
    Some((part_bytes, parts?))
}

/// Adds one I/O's times to a window's: the sums of all, the rest of the one that ended last.
fn add_times(all: &mut IoTimes, one: IoTimes) {
    *all = IoTimes {
        io_count: all.io_count + one.io_count,
        first_start: all.first_start.or(one.first_start),
        ..one
    };
}
