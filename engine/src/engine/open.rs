//! Opening a store: which drives belong to it, which are stale, what lives on them.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::shared::{Shared, random_bytes, unix_ms};
use crate::config::{EngineConfig, FILE_DRIVE_BYTES, Mode};
use crate::drive::inbox::{Inbox, Wake};
use crate::drive::media::Media;
use crate::drive::thread::{DriveHandle, DriveThread};
use crate::entry::Meta;
use crate::error::{DriveOpenError, OpenError};
use crate::index::{Change, Cursor, If, Index, KeyHasher, Location, StoreKey};
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::segment_log::bytes::{PAGE, crc_of, page_up};
use crate::segment_log::record::{self, Header};
use crate::segment_log::recover::{Recovered, Replay, recover};
use crate::segment_log::segment::{HINT, KIND_EXTENT, KIND_STRIPES, Segments};
use crate::segment_log::superblock::{
    CheckpointPointer, Decoded, FORMAT_VERSION, Geometry, Superblock, copies, show_uuid,
};
use crate::segment_log::{BUFFER_BYTES, BUFFERS, DriveLog, LogConfig};
use crate::slab::{NoObserver, PoolConfig, RegionConfig, RegionTier, SlabPool};
use crate::stream::{StripeTable, Stripes, decode_list};

/// Bytes that a drive must have.
const CAPACITY_MIN: u64 = crate::config::DRIVE_BYTES_MIN;

/// A drive as it was found.
pub(super) enum Found {
    Ready {
        media: Media,
        recovered: Box<Recovered>,
    },
    Down(String),
}

/// The drives of a store, recovered, none of them serving yet.
pub(super) struct Store {
    pub(super) key: [u8; 32],
    pub(super) drives: Vec<Found>,
}

impl Store {
    /// Segments of each drive, for the index.
    pub(super) fn segment_counts(&self) -> Vec<usize> {
        let count = |drive: &Found| match drive {
            Found::Ready { recovered, .. } => recovered.segments.len(),
            Found::Down(_) => 1,
        };
        if self.drives.is_empty() {
            vec![1]
        } else {
            self.drives.iter().map(count).collect()
        }
    }

    /// The drives' numbers for good; `u16::MAX` for those that aren't there.
    pub(super) fn members(&self) -> Vec<u16> {
        let member = |drive: &Found| match drive {
            Found::Ready { recovered, .. } => recovered.superblock.member_idx,
            Found::Down(_) => u16::MAX,
        };
        self.drives.iter().map(member).collect()
    }

    /// The longest extent that every drive takes.
    pub(super) fn part_bytes_max(&self) -> u64 {
        let longest = self.drives.iter().filter_map(|drive| match drive {
            Found::Ready { recovered, .. } => Some(recovered.superblock.geometry.segment_data / 4),
            Found::Down(_) => None,
        });
        longest.min().unwrap_or(u64::MAX)
    }
}

/// A drive that was opened, and its superblock where it has one.
struct Opened {
    media: Media,
    superblock: Option<Superblock>,
}

/// Opens all drives and reads what is on them.
pub(super) fn open_store(config: &EngineConfig) -> Result<Store, OpenError> {
    let mut opened: Vec<Result<Opened, String>> = Vec::new();
    for drive in &config.drives {
        let create =
            (config.mode == Mode::File).then(|| drive.max_size.unwrap_or(FILE_DRIVE_BYTES));
        match open_drive(drive, create) {
            Ok(drive) => opened.push(Ok(drive)),
            Err(source) if degrades(&source) => opened.push(Err(describe(&source))),
            Err(source) => {
                return Err(OpenError::Drive {
                    media: drive.media.clone(),
                    source,
                });
            }
        }
    }
    if let (true, Some(Err(_))) = (opened.iter().all(Result::is_err), opened.first()) {
        // With one drive its own error says more than "none".
        if let [drive] = &config.drives[..] {
            let create =
                (config.mode == Mode::File).then(|| drive.max_size.unwrap_or(FILE_DRIVE_BYTES));
            if let Err(source) = open_drive(drive, create) {
                return Err(OpenError::Drive {
                    media: drive.media.clone(),
                    source,
                });
            }
        }
        return Err(OpenError::NoDrives {
            count: config.drives.len(),
        });
    }
    let identity = identify(&opened).map_err(|(idx, source)| OpenError::Drive {
        media: config.drives[idx].media.clone(),
        source,
    })?;
    let members = opened
        .into_iter()
        .map(|drive| drive.map(|drive| join(drive, &identity)));
    let members: Vec<Result<(Media, Superblock), String>> = number(members.collect(), &identity);
    recover_all(config, identity, members)
}

/// Who the store is.
struct Identity {
    store_uuid: [u8; 16],
    store_key: [u8; 32],
    generation: u64,
    member_count: u16,
}

/// A drive that isn't there, or is damaged, leaves the others to serve; one that somebody else
/// uses or that would bring back old values must be dealt with first.
fn degrades(error: &DriveOpenError) -> bool {
    matches!(
        error,
        DriveOpenError::Missing { .. }
            | DriveOpenError::Io { .. }
            | DriveOpenError::Corrupt { .. }
            | DriveOpenError::Blacklisted { .. }
    )
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        text.push_str(": ");
        text.push_str(&why.to_string());
        cause = why.source();
    }
    text
}

fn open_drive(
    drive: &crate::config::DriveConfig,
    create: Option<u64>,
) -> Result<Opened, DriveOpenError> {
    let media = Media::open(&drive.media, create)?;
    let capacity = drive.max_size.unwrap_or(u64::MAX).min(media.bytes);
    if capacity < CAPACITY_MIN {
        let (path, bytes) = (drive.media.clone(), capacity);
        return Err(DriveOpenError::TooSmall {
            path,
            bytes,
            needed: CAPACITY_MIN,
        });
    }
    let superblock = match read_superblock(&media)? {
        Decoded::Valid(superblock) => Some(*superblock),
        Decoded::Newer(found) => {
            let path = drive.media.clone();
            return Err(DriveOpenError::NewerVersion {
                path,
                found,
                supported: FORMAT_VERSION,
            });
        }
        Decoded::Corrupt => return Err(media.corrupt("every copy of the superblock")),
        Decoded::Foreign => {
            if let Some(what) = super::inspect::signature(&media)? {
                return Err(DriveOpenError::Foreign {
                    path: drive.media.clone(),
                    what,
                });
            }
            None
        }
    };
    if let Some(superblock) = &superblock {
        if superblock.geometry.capacity > media.bytes {
            let (path, needed) = (drive.media.clone(), superblock.geometry.capacity);
            return Err(DriveOpenError::TooSmall {
                path,
                bytes: media.bytes,
                needed,
            });
        }
        if superblock.blacklisted {
            let (path, failures) = (drive.media.clone(), superblock.media_errors);
            return Err(DriveOpenError::Blacklisted { path, failures });
        }
        return Ok(Opened {
            media,
            superblock: Some(superblock.clone()),
        });
    }
    let mut media = media;
    media.bytes = capacity;
    Ok(Opened {
        media,
        superblock: None,
    })
}

/// Reads all copies. Those at the end are found by the capacity of the first valid one, else by
/// the size of the media.
pub(super) fn read_superblock(media: &Media) -> Result<Decoded, DriveOpenError> {
    let mut found = Vec::new();
    for at in [0, copies(media.bytes)[1]] {
        found.push(Superblock::decode(&media.read(at, PAGE)?));
    }
    let capacity = found.iter().find_map(|copy| match copy {
        Decoded::Valid(superblock) => Some(superblock.geometry.capacity),
        _ => None,
    });
    let capacity = capacity.unwrap_or(media.bytes / PAGE as u64 * PAGE as u64);
    for at in &copies(capacity)[2..] {
        if at + PAGE as u64 <= media.bytes {
            found.push(Superblock::decode(&media.read(*at, PAGE)?));
        }
    }
    let chosen = Superblock::choose(&found);
    let is_valid = |copy: &&Decoded| matches!(copy, Decoded::Valid(_));
    let valid = found.iter().filter(is_valid).count();
    if valid > 0 && valid < found.len() {
        let (drive, copies) = (media.path.display(), found.len());
        tracing::warn!(
            %drive, valid, copies,
            "some copies of the superblock were damaged; they are written anew"
        );
    }
    Ok(chosen)
}

/// Finds out which store the drives belong to, and that none of them is of another one or
/// missed a start.
fn identify(opened: &[Result<Opened, String>]) -> Result<Identity, (usize, DriveOpenError)> {
    let known = || {
        opened.iter().enumerate().filter_map(|(idx, drive)| {
            let drive = drive.as_ref().ok()?;
            Some((idx, &drive.media, drive.superblock.as_ref()?))
        })
    };
    // Ours is the store that most drives are of; of as many, the one named first.
    let drives_of = |uuid: [u8; 16]| known().filter(|drive| drive.2.store_uuid == uuid).count();
    let ours = known()
        .map(|(idx, _, block)| (drives_of(block.store_uuid), Reverse(idx), block.store_uuid))
        .max()
        .map(|(_, _, uuid)| uuid);
    let newest = known()
        .filter(|(_, _, block)| Some(block.store_uuid) == ours)
        .max_by_key(|(_, _, block)| block.member_generation);
    let Some((_, _, newest)) = newest else {
        return Ok(Identity {
            store_uuid: random_bytes(),
            store_key: random_bytes(),
            generation: 0,
            member_count: 0,
        });
    };
    for (idx, media, block) in known() {
        let path = media.path.clone();
        if block.store_uuid != newest.store_uuid {
            let (found, expected) = (show_uuid(&block.store_uuid), show_uuid(&newest.store_uuid));
            return Err((
                idx,
                DriveOpenError::OtherStore {
                    path,
                    found,
                    expected,
                },
            ));
        }
        let behind = newest.member_generation - block.member_generation;
        let counted =
            newest.members_present & 1u64.checked_shl(block.member_idx.into()).unwrap_or(0);
        // One behind is fine where that start counted on the drive: it was cut short before it
        // had told all its drives, hence before it served.
        if behind > 1 || (behind == 1 && counted == 0) {
            return Err((idx, DriveOpenError::Stale { path, behind }));
        }
    }
    Ok(Identity {
        store_uuid: newest.store_uuid,
        store_key: newest.store_key,
        generation: newest.member_generation,
        member_count: known()
            .map(|(_, _, block)| block.member_count)
            .max()
            .unwrap_or(0),
    })
}

/// A drive, its superblock where it has one, and the one that it would get.
type Candidate = (Media, Option<Superblock>, Superblock);

/// Gives a new drive its superblock.
fn join(drive: Opened, identity: &Identity) -> Candidate {
    let geometry = Geometry::for_capacity(drive.media.bytes);
    let fresh = Superblock {
        generation: 0,
        drive_uuid: random_bytes(),
        store_uuid: identity.store_uuid,
        store_key: identity.store_key,
        member_idx: 0,
        member_count: 0,
        member_generation: 0,
        members_present: 0,
        epoch: 0,
        clean: true,
        created_ms: unix_ms(),
        geometry,
        checkpoint: CheckpointPointer::default(),
        media_errors: 0,
        blacklisted: false,
        last_error_ms: 0,
    };
    (drive.media, drive.superblock, fresh)
}

/// Numbers new members and counts the start on all.
fn number(
    drives: Vec<Result<Candidate, String>>,
    identity: &Identity,
) -> Vec<Result<(Media, Superblock), String>> {
    let mut next = identity.member_count;
    let mut members: Vec<Result<(Media, Superblock), String>> = drives
        .into_iter()
        .map(|drive| {
            let (media, known, fresh) = drive?;
            let block = known.unwrap_or_else(|| {
                next += 1;
                Superblock {
                    member_idx: next - 1,
                    ..fresh
                }
            });
            Ok((media, block))
        })
        .collect();
    let present = members.iter().flatten().fold(0, |bits, (_, block)| {
        bits | 1u64.checked_shl(block.member_idx.into()).unwrap_or(0)
    });
    for (_, block) in members.iter_mut().flatten() {
        block.member_count = next;
        block.members_present = present;
        block.member_generation = identity.generation + 1;
    }
    members
}

fn recover_all(
    config: &EngineConfig,
    identity: Identity,
    members: Vec<Result<(Media, Superblock), String>>,
) -> Result<Store, OpenError> {
    let hasher = KeyHasher::new(&StoreKey(identity.store_key));
    let mut drives = Vec::new();
    for (idx, member) in members.into_iter().enumerate() {
        let (media, block) = match member {
            Ok(member) => member,
            Err(why) => {
                drives.push(Found::Down(why));
                continue;
            }
        };
        match recover(&media, block, idx as u8, &hasher) {
            Ok(recovered) => drives.push(Found::Ready {
                media,
                recovered: Box::new(recovered),
            }),
            Err(source) if degrades(&source) && config.drives.len() > 1 => {
                drives.push(Found::Down(describe(&source)));
            }
            Err(source) => {
                return Err(OpenError::Drive {
                    media: config.drives[idx].media.clone(),
                    source,
                });
            }
        }
    }
    // Only now, when everything was read: from here on the drives count this start.
    for (drive, drive_config) in drives.iter_mut().zip(&config.drives) {
        let Found::Ready { media, recovered } = drive else {
            continue;
        };
        let fault = |source| OpenError::Drive {
            media: drive_config.media.clone(),
            source,
        };
        let block = &mut recovered.superblock;
        block.epoch += 1;
        block.clean = false;
        write_superblock(media, block).map_err(fault)?;
    }
    Ok(Store {
        key: identity.store_key,
        drives,
    })
}

/// Writes the copies of a superblock, two by two.
pub(super) fn write_superblock(
    media: &Media,
    block: &mut Superblock,
) -> Result<(), DriveOpenError> {
    block.generation += 1;
    let page = block.encode();
    let [first, second, third, fourth] = block.geometry.copies();
    for pair in [[first, third], [second, fourth]] {
        for at in pair {
            media.write(at, &page)?;
        }
        media.flush()?;
    }
    Ok(())
}

/// Fills the index with what was recovered; returns the last version.
pub(super) fn restore(
    index: &Index,
    hasher: &KeyHasher,
    drives: &mut [Found],
    members: &[u16],
    stripes: &StripeTable,
) -> u64 {
    let mut tail = Vec::new();
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
    }
    for drive in drives.iter_mut() {
        let Found::Ready { recovered, .. } = drive else {
            continue;
        };
        for entry in std::mem::take(&mut recovered.entries) {
            index.restore(entry, If::Always);
        }
    }
    tail.sort_by_key(|(version, _)| *version);
    for (_, replay) in tail {
        let _: Change = match replay {
            Replay::Put { hash, location } => index.put(hash, location, If::Always),
            Replay::Remove { hash } => index.remove(hash, If::Always),
        };
    }
    let parts = load_stripes(index, hasher, drives, members, stripes);
    prune(index, hasher, drives, &parts);
    last_version
}

/// Drive, segment and offset of an extent.
type Place = (u8, u32, u32);

/// Reads the part lists of all striped values; one that misses a part is no value.
fn load_stripes(
    index: &Index,
    hasher: &KeyHasher,
    drives: &[Found],
    members: &[u16],
    table: &StripeTable,
) -> HashSet<Place> {
    let mut lists = HashSet::new();
    let mut cursor = Some(Cursor(0));
    while let Some(at) = cursor {
        let mut entries = Vec::new();
        cursor = index.scan(at, 4096, &mut entries);
        let stripes = entries
            .iter()
            .filter(|entry| entry.location.kind == KIND_STRIPES);
        lists.extend(stripes.map(|entry| entry.location));
    }
    let mut used = HashSet::new();
    for list in lists {
        let Some(Found::Ready { media, recovered }) = drives.get(usize::from(list.drive_idx))
        else {
            continue;
        };
        let generation = recovered.segments[list.segment_idx as usize].generation;
        let block = &recovered.superblock;
        let Some((header, key, body)) = read_record(media, block, &list, generation) else {
            tracing::warn!(drive = list.drive_idx, "a part list can't be read");
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
    block: &Superblock,
    location: &Location,
    generation: u32,
) -> Option<(Header, Vec<u8>, Vec<u8>)> {
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
        let (header, key) = Header::decode(&block.seed(), generation, record)?;
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

/// Counts what lives where.
fn count_live(index: &Index, logs: &mut [Option<Segments>]) {
    let mut cursor = Some(Cursor(0));
    let mut entries = Vec::new();
    let mut seen = std::collections::HashSet::new();
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

/// Starts the drives' threads.
pub(super) fn start(shared: &Arc<Shared>, found: Vec<Found>) -> Result<(), OpenError> {
    let mut logs: Vec<Option<Segments>> = Vec::new();
    let mut parts = Vec::new();
    for drive in found {
        match drive {
            Found::Ready { media, recovered } => {
                let Recovered {
                    superblock,
                    segments,
                    ring,
                    dropped,
                    ..
                } = *recovered;
                logs.push(Some(Segments::new(superblock.geometry, segments)));
                parts.push(Ok((media, superblock, ring, dropped)));
            }
            Found::Down(why) => {
                logs.push(None);
                parts.push(Err(why));
            }
        }
    }
    count_live(&shared.index, &mut logs);
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    for (idx, (part, segments)) in parts.into_iter().zip(logs).enumerate() {
        let (media, superblock, ring, dropped) = match part {
            Ok(part) => part,
            Err(why) => {
                tracing::warn!(drive = idx, why, "drive is left out; its values miss");
                handles.push(Err(why));
                continue;
            }
        };
        let segments = segments.expect("a ready drive has segments");
        let fault = |source| OpenError::Start {
            what: "a drive's thread",
            source,
        };
        let wake = Arc::new(Wake::new().map_err(fault)?);
        let inbox = Arc::new(Inbox::new(shared.config.backlog as usize, wake.clone()));
        let buffers = buffers()?;
        let capacity_bytes = segments.capacity_bytes();
        let config = LogConfig {
            drive: idx as u8,
            sync: shared.config.sync,
            verify: shared.config.verify,
            eviction: shared.config.eviction,
            flap_threshold: shared.config.flap_threshold,
            blacklist: shared.config.mode == Mode::Direct,
        };
        let direct_io = media.direct;
        let name = media.path.display().to_string();
        let mut log = DriveLog::new(config, superblock, segments, ring, buffers.clone());
        log.counts.corruptions = dropped;
        let handle = DriveHandle {
            inbox: inbox.clone(),
            up: Arc::new(AtomicBool::new(true)),
            why_down: Arc::new(Mutex::new(String::new())),
            counts: Arc::new(Mutex::new(log.counts)),
            findings: Arc::new(Mutex::new(Vec::new())),
            capacity_bytes,
            direct_io,
            thread: Mutex::new(None),
        };
        threads.push((
            idx,
            DriveThread {
                shared: shared.clone(),
                idx: idx as u8,
                media,
                log,
                metrics: shared.metrics.drive(&name),
                buffers,
                inbox,
                wake,
                up: handle.up.clone(),
                why_down: handle.why_down.clone(),
                counts: handle.counts.clone(),
                findings: handle.findings.clone(),
            },
        ));
        handles.push(Ok(handle));
    }
    shared.set_drives(handles);
    for (idx, thread) in threads {
        let spawned = std::thread::Builder::new()
            .name(format!("memkv-drive-{idx}"))
            .spawn(move || thread.run())
            .map_err(|source| OpenError::Start {
                what: "a drive's thread",
                source,
            })?;
        shared.set_thread(idx, spawned);
    }
    Ok(())
}

/// Buffers for a drive's batches and metadata.
fn buffers() -> Result<SlabPool, OpenError> {
    let bytes = BUFFERS * BUFFER_BYTES;
    let fault = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Pool {
        bytes: bytes as u64,
        source,
    };
    let pages = PagePolicy::Plain;
    let mapping = MappingConfig {
        bytes,
        pages,
        numa_node: None,
        prefault_threads: 0,
    };
    let mapping = Mapping::new(&mapping).map_err(|why| fault(Box::new(why)))?;
    let pool = PoolConfig {
        slab_bytes: BUFFER_BYTES,
        regions: vec![RegionConfig {
            mapping,
            tier: RegionTier::Fast,
        }],
        double_free_trace: false,
    };
    SlabPool::new(pool, Arc::new(NoObserver)).map_err(|why| fault(Box::new(why)))
}
