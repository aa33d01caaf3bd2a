//! Opening a store: which drives belong to it, which are stale, what lives on them.

use std::cmp::Reverse;
use std::sync::Arc;

use memkv_telemetry::EngineMetrics;

use super::drive_set::{DriveSet, Membership};
use super::drives::Drives;
use super::tables::Begin;
use super::{Shared, Tables};
use crate::clock::unix_ms;
use crate::config::{EngineConfig, FILE_DRIVE_BYTES, Mode, Sync};
use crate::drive::media::Media;
use crate::error::{DriveOpenError, OpenError};
use crate::index::{Index, IndexConfig, KeyHasher, StoreKey};
use crate::segment_log::recover::{Recovered, recover};
use crate::segment_log::superblock::{CheckpointPointer, Geometry, Superblock, show_uuid};
use crate::slab::SlabPool;
use crate::stream::StripeTable;

mod pool;
mod restore;
mod start;
mod superblocks;
mod versions;

use superblocks::open_drive;
pub(super) use superblocks::{read_superblock, write_superblock};
#[cfg(test)]
pub(super) use {start::logs, superblocks::examine};

/// Opens an engine: memory first, then what is on the drives, then their threads.
pub(super) fn open(
    config: EngineConfig,
    metrics: EngineMetrics,
) -> Result<(Arc<Shared>, Arc<Drives>), OpenError> {
    let (pool, mut findings) = pool::open(&config, &metrics)?;
    let mut store = match config.mode {
        Mode::Memory => Store {
            key: random_bytes(),
            drives: Vec::new(),
            findings: Vec::new(),
        },
        Mode::Direct | Mode::File => open_store(&config)?,
    };
    findings.append(&mut store.findings);
    let begin = begin(pool, &mut store);
    start::start(Tables::new(config, metrics, begin), store.drives, findings)
}

/// What is in memory when a store begins to serve: what is on its drives.
pub(super) fn begin(pool: SlabPool, store: &mut Store) -> Begin {
    let hasher = KeyHasher::new(&StoreKey(store.key));
    let index = Index::new(&IndexConfig {
        shards: 64,
        segments: store.segment_counts(),
    });
    let stripes = StripeTable::default();
    let members = store.members();
    let version = restore::restore(&index, &hasher, &mut store.drives, &members, &stripes);
    Begin {
        hasher,
        index,
        pool,
        stripes,
        drives: DriveSet::new(members, store.membership()),
        part_bytes_max: store.part_bytes_max(),
        data_bytes: store.data_bytes(),
        version,
    }
}

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
    pub(super) findings: Vec<String>,
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

    /// What this start has put on record.
    fn membership(&self) -> Membership {
        let ready = self.drives.iter().find_map(|drive| match drive {
            Found::Ready { recovered, .. } => Some(&recovered.superblock),
            Found::Down(_) => None,
        });
        ready.map_or(Membership::default(), |block| Membership {
            generation: block.member_generation,
            present: block.members_present,
        })
    }

    /// Bytes of data that all drives that are there have room for.
    fn data_bytes(&self) -> u64 {
        let room = |drive: &Found| match drive {
            Found::Ready { recovered, .. } => {
                let geometry = &recovered.superblock.geometry;
                geometry.segment_data * u64::from(geometry.segment_count)
            }
            Found::Down(_) => 0,
        };
        self.drives.iter().map(room).sum()
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
pub(super) struct Opened {
    media: Media,
    superblock: Option<Superblock>,
    /// What the operator should know of it.
    finding: Option<String>,
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
    assemble(config, opened)
}

/// Makes a store of the drives that could be opened, and begins a new epoch on them.
pub(super) fn assemble(
    config: &EngineConfig,
    opened: Vec<Result<Opened, String>>,
) -> Result<Store, OpenError> {
    let identity = identify(&opened).map_err(|(idx, source)| OpenError::Drive {
        media: config.drives[idx].media.clone(),
        source,
    })?;
    let findings = opened.iter().flatten();
    let findings = findings.filter_map(|drive| drive.finding.clone()).collect();
    let members = opened
        .into_iter()
        .map(|drive| drive.map(|drive| join(drive, &identity)));
    let members: Vec<Result<(Media, Superblock), String>> = number(members.collect(), &identity);
    let mut store = recover_all(config, identity, members)?;
    store.findings = findings;
    Ok(store)
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
        // Being behind is fine where the newest generation counts on the drive: whoever began it
        // was cut short before all drives had it on record, hence before any change relied on it.
        if behind > 0 && counted == 0 {
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
    for (_, block) in members.iter_mut().flatten() {
        block.member_count = next;
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
        let verify = config.sync != Sync::No;
        match recover(&media, block, idx as u8, &hasher, verify) {
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
    // Only now, when everything was read: from here on the drives count this start, and count on
    // those that could be read.
    let present = drives.iter().fold(0, |bits, drive| match drive {
        Found::Ready { recovered, .. } => {
            let member = u32::from(recovered.superblock.member_idx);
            bits | 1u64.checked_shl(member).unwrap_or(0)
        }
        Found::Down(_) => bits,
    });
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
        block.members_present = present;
        block.clean = false;
        write_superblock(media, block).map_err(fault)?;
    }
    Ok(Store {
        key: identity.store_key,
        drives,
        findings: Vec::new(),
    })
}

/// Random bytes of the system.
///
/// # Panics
/// If the system has none: two stores could then take each other for the same one.
fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has no random bytes");
    bytes
}
