//! What an engine's logic runs in here: a clock that is set, a drive that is a vector, one thread.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::open::{Store, assemble, begin, examine, logs, write_superblock};
use super::{Outside, Shared, Tables};
use crate::api::Completion;
use crate::clock::Tick;
use crate::config::{DriveConfig, EngineConfig};
use crate::drive::media::Media;
use crate::drive::{Io, IoBuffer, IoDone};
use crate::error::OpenError;
use crate::index::KeyHash;
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::queue::{Complete, CompletionSender};
use crate::segment_log::segment::KIND_STRIPES;
use crate::segment_log::superblock::{CheckpointPointer, Geometry, Superblock};
use crate::segment_log::{Context, DriveLog, Effects, Event, bytes::PAGE};
use crate::slab::{NoObserver, PoolConfig, ReadMemory, RegionConfig, RegionTier, SlabPool};
use crate::{EngineMetrics, Mode};

mod disk;

pub(super) use disk::{Crash, Disk};

/// A clock that stands still until it is moved, and the drives' inboxes.
#[derive(Default)]
pub(super) struct FakeOutside {
    now_ns: AtomicU64,
    events: Mutex<VecDeque<(u8, Event)>>,
}

impl Outside for FakeOutside {
    fn now(&self) -> Tick {
        Tick(self.now_ns.load(Ordering::Relaxed))
    }

    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.now().0 / 1_000_000
    }

    fn offer(&self, drive: u8, event: Event) -> Result<(), Event> {
        self.post(drive, event)
    }

    fn post(&self, drive: u8, event: Event) -> Result<(), Event> {
        self.events.lock().push_back((drive, event));
        Ok(())
    }
}

/// A caller's queue without a descriptor.
#[derive(Default)]
pub(super) struct FakeQueue(pub(super) Mutex<Vec<Completion>>);

impl fmt::Debug for FakeQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeQueue")
    }
}

impl Complete for FakeQueue {
    fn complete(&self, completion: Completion) {
        self.0.lock().push(completion);
    }
}

/// Numbers that look random and are the same for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// An I/O that has not ended.
struct Pending {
    io: Io,
    submitted: Tick,
    /// Writes of its drive that had ended when it was submitted.
    written: u64,
}

/// A drive: its log, its bytes, and the I/Os that have not ended.
struct FakeDrive {
    log: DriveLog,
    disk: Disk,
    pending: Vec<Pending>,
    effects: Effects,
}

/// An engine without a thread, a ring or a clock.
pub(super) struct World {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<FakeQueue>,
    outside: Arc<FakeOutside>,
    drives: Vec<FakeDrive>,
    pub(super) random: Random,
    /// Writes find no room.
    pub(super) full: bool,
    /// What each step wanted done, in words.
    pub(super) trace: Vec<String>,
    /// Whether that is wanted.
    pub(super) traces: bool,
}

impl World {
    /// Blank drives of this size, two of them; none in memory mode.
    pub(super) fn new(config: EngineConfig, drive_bytes: u64, seed: u64) -> Self {
        let count = if config.mode == Mode::Memory { 0 } else { 2 };
        let disks = (0..count).map(|idx| {
            let mut disk = Disk::new(drive_bytes);
            let geometry = Geometry::for_capacity(drive_bytes);
            let media = disk.media(usize::from(idx));
            write_superblock(&media, &mut blank(idx, geometry)).expect("a superblock");
            disk
        });
        let disks = disks.collect();
        Self::open(config, disks, Arc::default(), Random::new(seed)).expect("blank drives open")
    }

    /// Opens what is on the drives.
    fn open(
        mut config: EngineConfig,
        mut disks: Vec<Disk>,
        outside: Arc<FakeOutside>,
        random: Random,
    ) -> Result<Self, OpenError> {
        let media: Vec<Media> = (0..)
            .zip(&mut disks)
            .map(|(idx, disk)| disk.media(idx))
            .collect();
        let whole = |media: &Media| DriveConfig {
            media: media.path.clone(),
            max_size: None,
        };
        config.drives = media.iter().map(whole).collect();
        let opened = media.into_iter().zip(&config.drives);
        let opened =
            opened.map(|(media, drive)| examine(media, drive, true).map_err(|why| why.to_string()));
        let opened = opened.collect();
        let mut store = match config.mode {
            Mode::Memory => Store {
                key: [7; 32],
                drives: Vec::new(),
                findings: Vec::new(),
            },
            _ => assemble(&config, opened)?,
        };
        let pool_bytes = match config.mode {
            Mode::Memory => config.memory_bytes,
            _ => config.pool_bytes,
        };
        let pool = pool(pool_bytes as usize, config.slab_bytes as usize);
        let begin = begin(pool, &mut store);
        let tables = Tables::new(config, EngineMetrics::detached(), begin);
        let logs = logs(&tables, store.drives)?;
        let drives = disks.into_iter().zip(logs).map(|(disk, ready)| FakeDrive {
            log: ready.expect("every drive is there").log,
            disk,
            pending: Vec::new(),
            effects: Effects::default(),
        });
        Ok(Self {
            drives: drives.collect(),
            shared: Shared::new(tables, outside.clone()),
            queue: Arc::default(),
            outside,
            random,
            full: false,
            trace: Vec::new(),
            traces: true,
        })
    }

    /// Ends the run without asking it, and opens what is left on the drives.
    pub(super) fn crash(mut self, crash: Crash) -> Result<Self, OpenError> {
        let config = self.shared.tables.config.clone();
        let mut disks = Vec::new();
        for mut drive in self.drives {
            let in_flight = drive
                .pending
                .iter()
                .filter_map(|pending| match &pending.io {
                    Io::Write { offset, source, .. } => Some((*offset, bytes_of(source))),
                    _ => None,
                });
            drive
                .disk
                .crash(crash, in_flight.collect(), &mut self.random);
            disks.push(drive.disk);
        }
        self.outside.events.lock().clear();
        let traces = self.traces;
        let mut world = Self::open(config, disks, self.outside, self.random)?;
        world.traces = traces;
        Ok(world)
    }

    pub(super) fn sender(&self) -> CompletionSender {
        CompletionSender::new(self.queue.clone())
    }

    /// A number below `bound`.
    pub(super) fn pick(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    pub(super) fn pass(&self, ns: u64) {
        self.outside.now_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Tick {
        self.outside.now()
    }

    /// The drives' disks.
    pub(super) fn disks(&self) -> impl Iterator<Item = &Disk> {
        self.drives.iter().map(|drive| &drive.disk)
    }

    /// Steps the logs until nothing waits but I/O.
    pub(super) fn settle(&mut self) {
        loop {
            let event = self.outside.events.lock().pop_front();
            match event {
                Some((drive, event)) => self.step(drive, event),
                None => {
                    (0..self.drives.len()).for_each(|drive| self.step(drive as u8, Event::Idle));
                    let more = |drive: &FakeDrive| drive.log.wants_step();
                    if self.outside.events.lock().is_empty() && !self.drives.iter().any(more) {
                        return;
                    }
                }
            }
        }
    }

    fn step(&mut self, idx: u8, event: Event) {
        let (now, unix_ms) = (self.outside.now(), self.outside.unix_ms());
        let drive = &mut self.drives[usize::from(idx)];
        let mut context = Context {
            tables: &self.shared.tables,
            now,
            unix_ms,
            effects: &mut drive.effects,
        };
        drive.log.step(&mut context, event);
        if self.traces {
            describe(idx, &drive.effects, &mut self.trace);
        }
        for io in drive.effects.ios.drain(..) {
            if matches!(io, Io::Flush { .. }) {
                drive.disk.flushing = drive.disk.written;
            }
            drive.pending.push(Pending {
                io,
                submitted: now,
                written: drive.disk.written,
            });
        }
        self.shared.carry_out(idx, &mut drive.effects);
    }

    pub(super) fn ios_pending(&self) -> usize {
        self.drives.iter().map(|drive| drive.pending.len()).sum()
    }

    /// Ends any one I/O of any drive, whenever it was submitted.
    pub(super) fn end_an_io(&mut self) {
        let total = self.ios_pending();
        if total == 0 {
            return;
        }
        let mut at = self.pick(total);
        let mut idx = 0;
        while at >= self.drives[idx].pending.len() {
            at -= self.drives[idx].pending.len();
            idx += 1;
        }
        let drive = &mut self.drives[idx];
        let pending = drive.pending.swap_remove(at);
        let no_room = self.full && matches!(pending.io, Io::Write { .. });
        let (id, buffer) = match pending.io {
            Io::Write { id, source, .. } if no_room => (id, IoBuffer::Source(source)),
            Io::Read {
                id,
                offset,
                mut target,
            } => {
                let mut bytes = vec![0; target.len()];
                drive.disk.read(offset, &mut bytes);
                target.copy_from(0, &bytes);
                (id, IoBuffer::Target(target))
            }
            Io::Write { id, offset, source } => {
                drive.disk.write(offset, bytes_of(&source));
                (id, IoBuffer::Source(source))
            }
            Io::Flush { id } => {
                drive.disk.flush(pending.written);
                (id, IoBuffer::None)
            }
        };
        let done = IoDone {
            id,
            buffer,
            result: match no_room {
                true => Err(std::io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            },
            submitted: pending.submitted,
            completed: self.outside.now(),
        };
        self.step(idx as u8, Event::Io(done));
        self.settle();
    }

    /// Whether a key's value was evicted, or is about to be.
    pub(super) fn evicts(&self, hash: KeyHash) -> bool {
        let tables = &self.shared.tables;
        let Some(location) = tables.index.get(hash) else {
            return tables.evictions() > 0;
        };
        let log = &self.drives[usize::from(location.drive_idx)].log;
        // Of the parts of a striped value only their drives know.
        log.is_reclaiming(location.segment_idx)
            || (location.kind == KIND_STRIPES && tables.evictions() > 0)
    }

    /// Segments of all drives that are free.
    pub(super) fn free_segments(&self) -> u64 {
        let free = |drive: &FakeDrive| drive.log.counts.free_segments;
        self.drives.iter().map(free).sum()
    }

    /// Stops the logs; true if all of them ended.
    pub(super) fn shut_down(&mut self) -> bool {
        (0..self.drives.len()).for_each(|drive| self.step(drive as u8, Event::Shutdown));
        self.settle();
        while self.ios_pending() > 0 {
            self.end_an_io();
        }
        self.drives.iter().all(|drive| drive.log.finished())
    }
}

/// What a step wanted done, without addresses.
fn describe(drive: u8, effects: &Effects, trace: &mut Vec<String>) {
    let notes = effects.notes.iter();
    trace.extend(notes.map(|note| format!("{drive} {note:?}")));
    for io in &effects.ios {
        trace.push(match io {
            Io::Read { id, offset, target } => {
                format!("{drive}: read {id:?} {offset} {}", target.len())
            }
            Io::Write { id, offset, source } => {
                assert_eq!(source.len() % PAGE, 0, "whole pages");
                let crc = crate::segment_log::bytes::crc_of_pieces(source.pieces());
                format!("{drive}: write {id:?} {offset} {} {crc:08x}", source.len())
            }
            Io::Flush { id } => format!("{drive}: flush {id:?}"),
        });
    }
    let answers = effects
        .answers
        .iter()
        .map(|answer| format!("{drive}: {answer:?}"));
    trace.extend(answers);
    let elsewhere = effects
        .elsewhere
        .iter()
        .map(|(to, event)| format!("{drive}: to {to} {event:?}"));
    trace.extend(elsewhere);
    trace.extend(
        effects
            .waits
            .iter()
            .map(|wait| format!("{drive}: {wait:?}")),
    );
    trace.extend(
        effects
            .down
            .iter()
            .map(|why| format!("{drive}: down {why}")),
    );
}

fn pool(bytes: usize, slab_bytes: usize) -> SlabPool {
    let mapping = Mapping::new(&MappingConfig {
        bytes,
        pages: PagePolicy::Plain,
        numa_node: None,
        prefault_threads: 0,
    });
    let region = RegionConfig {
        mapping: mapping.expect("memory"),
        tier: RegionTier::Fast,
    };
    let config = PoolConfig {
        slab_bytes,
        regions: vec![region],
        double_free_trace: false,
    };
    SlabPool::new(config, Arc::new(NoObserver)).expect("pool")
}

fn bytes_of(memory: &ReadMemory) -> Vec<u8> {
    memory.pieces().collect::<Vec<_>>().concat()
}

/// The superblock of a drive on which nothing was ever written.
fn blank(idx: u16, geometry: Geometry) -> Superblock {
    Superblock {
        generation: 0,
        drive_uuid: [idx as u8; 16],
        store_uuid: [9; 16],
        store_key: [7; 32],
        member_idx: idx,
        member_count: 2,
        member_generation: 1,
        members_present: 3,
        epoch: 1,
        clean: true,
        created_ms: 0,
        geometry,
        checkpoint: CheckpointPointer::default(),
        media_errors: 0,
        blacklisted: false,
        last_error_ms: 0,
    }
}
