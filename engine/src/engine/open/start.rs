//! Starting the drives' threads.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use memkv_telemetry::CrcSource;
use parking_lot::Mutex;

use super::restore::count_live;
use super::{Drives, Found, Shared, Tables};
use crate::config::{Mode, locked_bytes};
use crate::drive::inbox::{Inbox, Wake};
use crate::drive::media::Media;
use crate::drive::thread::{DriveHandle, DriveThread};
use crate::error::OpenError;
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::segment_log::recover::Recovered;
use crate::segment_log::segment::Segments;
use crate::segment_log::{BUFFER_BYTES, BUFFERS, DriveLog, LogConfig};
use crate::slab::{NoObserver, PoolConfig, RegionConfig, RegionTier, SlabPool};

/// How long drives that came up may take to stop when another one refused to start.
const REFUSED_STOP_MAX: Duration = Duration::from_secs(10);

/// A recovered drive that may serve.
pub(in crate::engine) struct Ready {
    pub(in crate::engine) media: Media,
    pub(in crate::engine) log: DriveLog,
    /// Of the log.
    buffers: SlabPool,
}

/// The logs of the drives that were found; why, for those that can't serve.
pub(in crate::engine) fn logs(
    tables: &Tables,
    found: Vec<Found>,
) -> Result<Vec<Result<Ready, String>>, OpenError> {
    let (mut segments, mut parts) = (Vec::new(), Vec::new());
    for drive in found {
        match drive {
            Found::Ready { media, recovered } => {
                let Recovered {
                    superblock,
                    segments: list,
                    ring,
                    dropped,
                    mismatches,
                    has_dropped_rows,
                    ..
                } = *recovered;
                for _ in 0..mismatches {
                    tables.metrics.crc_mismatch(CrcSource::Recovery);
                }
                segments.push(Some(Segments::new(superblock.geometry, list)));
                parts.push(Ok((media, superblock, ring, dropped, has_dropped_rows)));
            }
            Found::Down(why) => {
                segments.push(None);
                parts.push(Err(why));
            }
        }
    }
    count_live(&tables.index, &mut segments);
    let mut logs = Vec::new();
    for (idx, (part, segments)) in (0u8..).zip(parts.into_iter().zip(segments)) {
        logs.push(match part {
            Ok((media, superblock, ring, dropped, has_dropped)) => {
                let segments = segments.expect("a ready drive has segments");
                let config = LogConfig::of(idx, &tables.config);
                let buffers = buffers()?;
                let mut log = DriveLog::new(
                    config,
                    superblock,
                    segments,
                    ring,
                    has_dropped,
                    buffers.clone(),
                );
                log.counts.corruptions = dropped;
                Ok(Ready {
                    media,
                    log,
                    buffers,
                })
            }
            Err(why) => Err(why),
        });
    }
    Ok(logs)
}

/// Starts the drives' threads; what they share comes to life with them.
pub(super) fn start(
    tables: Tables,
    found: Vec<Found>,
    findings: Vec<String>,
) -> Result<(Arc<Shared>, Arc<Drives>), OpenError> {
    let found = logs(&tables, found)?;
    let (mut handles, mut threads) = (Vec::new(), Vec::new());
    for (idx, drive) in (0u8..).zip(found) {
        let handle = match drive {
            Ok(ready) => {
                let (handle, thread) = make(&tables, idx, ready)?;
                threads.push(thread);
                Ok(handle)
            }
            Err(why) => {
                tracing::warn!(drive = idx, why, "drive is left out; its values miss");
                Err(why)
            }
        };
        handles.push(handle);
    }
    let drives = Drives::new(handles, findings);
    let shared = Shared::new(tables, drives.clone());
    let count = threads.len();
    let (started, starts) = std::sync::mpsc::sync_channel(count);
    for thread in threads {
        let thread = thread(shared.clone());
        let (handle, started) = (thread.handle.clone(), started.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("memkv-drive-{}", thread.idx))
            .spawn(move || thread.run(&started))
            .map_err(fault)?;
        *handle.thread.lock() = Some(spawned);
    }
    drop(started);
    let starts: Vec<io::Result<()>> = starts.iter().take(count).collect();
    let refused = |why: &io::Error| why.raw_os_error() == Some(libc::ENOMEM);
    if let Some(source) = starts.into_iter().filter_map(Result::err).find(refused)
        && shared.tables.config.mode == Mode::Direct
    {
        shared.drain();
        drives.stop();
        // Nothing was written yet but superblocks.
        let _ = drives.join(REFUSED_STOP_MAX);
        let pool_bytes = shared.tables.pool.capacity_bytes() as u64;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        return Err(OpenError::Memlock {
            bytes: locked_bytes(pool_bytes, count),
            drives: count,
            limit: limit.unwrap_or(u64::MAX),
            source,
        });
    }
    Ok((shared, drives))
}

fn fault(source: io::Error) -> OpenError {
    OpenError::Start {
        what: "a drive's thread",
        source,
    }
}

/// Makes a drive's thread as soon as there is what it shares with others.
type MakeThread = Box<dyn FnOnce(Arc<Shared>) -> DriveThread>;

/// A drive's handle, and its thread as soon as there is what it shares with others.
fn make(
    tables: &Tables,
    idx: u8,
    ready: Ready,
) -> Result<(Arc<DriveHandle>, MakeThread), OpenError> {
    let config = &tables.config;
    let wake = Arc::new(Wake::new().map_err(fault)?);
    let Ready {
        media,
        log,
        buffers,
    } = ready;
    let capacity_bytes = log.capacity_bytes();
    let metrics = tables.metrics.drive(&media.path.display().to_string());
    let handle = Arc::new(DriveHandle {
        inbox: Inbox::new(config.backlog as usize, wake.clone()),
        why_down: Mutex::default(),
        counts: Mutex::new(log.counts),
        findings: Mutex::default(),
        capacity_bytes,
        direct_io: media.direct,
        thread: Mutex::new(None),
    });
    let thread = {
        let handle = handle.clone();
        Box::new(move |shared| DriveThread {
            shared,
            handle,
            idx,
            media,
            log,
            metrics,
            buffers,
            wake,
        })
    };
    Ok((handle, thread))
}

/// Buffers for a drive's batches and metadata.
fn buffers() -> Result<SlabPool, OpenError> {
    let fault = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Start {
        what: "a drive's buffers",
        source: io::Error::other(source),
    };
    let pages = PagePolicy::Plain;
    let mapping = MappingConfig {
        bytes: BUFFERS * BUFFER_BYTES,
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
