//! What an engine's logic runs in here: a clock that is set, a drive that is a vector, one thread.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::drive_set::{DriveSet, Membership};
use super::tables::Begin;
use super::{Outside, Shared, Tables};
use crate::api::Completion;
use crate::clock::Tick;
use crate::config::EngineConfig;
use crate::drive::{Io, IoBuffer, IoDone};
use crate::index::{Index, IndexConfig, KeyHasher, StoreKey};
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::queue::{Complete, CompletionSender};
use crate::segment_log::journal::Ring;
use crate::segment_log::segment::{Segment, Segments};
use crate::segment_log::superblock::{CheckpointPointer, Geometry, Superblock};
use crate::segment_log::{
    BUFFER_BYTES, BUFFERS, Context, DriveLog, Effects, Event, LogConfig, bytes::PAGE,
};
use crate::slab::{NoObserver, PoolConfig, RegionConfig, RegionTier, SlabPool};
use crate::stream::StripeTable;
use crate::{EngineMetrics, Mode};

const MEMBERSHIP: Membership = Membership {
    generation: 1,
    present: 3,
};

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

/// A drive: its log, its bytes, and the I/Os that have not ended.
struct FakeDrive {
    log: DriveLog,
    bytes: Vec<u8>,
    pending: Vec<(Tick, Io)>,
    effects: Effects,
}

/// An engine without a thread, a ring or a clock.
pub(super) struct World {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<FakeQueue>,
    outside: Arc<FakeOutside>,
    drives: Vec<FakeDrive>,
    random: u64,
    /// What each step wanted done, in words.
    pub(super) trace: Vec<String>,
}

impl World {
    /// Blank drives of this size, two of them; none in memory mode.
    pub(super) fn new(config: EngineConfig, drive_bytes: u64, seed: u64) -> Self {
        let geometry = Geometry::for_capacity(drive_bytes);
        let count = if config.mode == Mode::Memory { 0 } else { 2 };
        let pool_bytes = match config.mode {
            Mode::Memory => config.memory_bytes,
            _ => config.pool_bytes,
        };
        let begin = Begin {
            hasher: KeyHasher::new(&StoreKey([7; 32])),
            index: Index::new(&IndexConfig {
                shards: 4,
                segments: vec![geometry.segment_count as usize; count.max(1)],
            }),
            pool: pool(pool_bytes as usize, config.slab_bytes as usize),
            stripes: StripeTable::default(),
            drives: DriveSet::new((0..count as u16).collect(), MEMBERSHIP),
            part_bytes_max: geometry.segment_data / 4,
            data_bytes: geometry.segment_data * u64::from(geometry.segment_count),
            version: 0,
        };
        let drives = (0..count as u8).map(|idx| FakeDrive {
            log: blank_log(idx, geometry, &config),
            bytes: vec![0; drive_bytes as usize],
            pending: Vec::new(),
            effects: Effects::default(),
        });
        let drives = drives.collect();
        let outside = Arc::new(FakeOutside::default());
        let tables = Tables::new(config, EngineMetrics::detached(), begin);
        Self {
            shared: Shared::new(tables, outside.clone()),
            queue: Arc::default(),
            outside,
            drives,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            trace: Vec::new(),
        }
    }

    pub(super) fn sender(&self) -> CompletionSender {
        CompletionSender::new(self.queue.clone())
    }

    /// A number below `bound`.
    pub(super) fn pick(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % bound
    }

    pub(super) fn pass(&self, ns: u64) {
        self.outside.now_ns.fetch_add(ns, Ordering::Relaxed);
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
        describe(idx, &drive.effects, &mut self.trace);
        let ios = drive.effects.ios.drain(..).map(|io| (now, io));
        drive.pending.extend(ios);
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
        let (submitted, io) = drive.pending.swap_remove(at);
        let (id, buffer) = match io {
            Io::Read {
                id,
                offset,
                mut target,
            } => {
                let (start, len) = (offset as usize, target.len());
                target.copy_from(0, &drive.bytes[start..start + len]);
                (id, IoBuffer::Target(target))
            }
            Io::Write { id, offset, source } => {
                let mut at = offset as usize;
                for piece in source.pieces() {
                    drive.bytes[at..at + piece.len()].copy_from_slice(piece);
                    at += piece.len();
                }
                (id, IoBuffer::Source(source))
            }
            Io::Flush { id } => (id, IoBuffer::None),
        };
        let done = IoDone {
            id,
            buffer,
            result: Ok(()),
            submitted,
            completed: self.outside.now(),
        };
        self.step(idx as u8, Event::Io(done));
        self.settle();
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

/// The log of a drive on which nothing was ever written.
fn blank_log(idx: u8, geometry: Geometry, config: &EngineConfig) -> DriveLog {
    let superblock = Superblock {
        generation: 1,
        drive_uuid: [idx; 16],
        store_uuid: [9; 16],
        store_key: [7; 32],
        member_idx: idx.into(),
        member_count: 2,
        member_generation: MEMBERSHIP.generation,
        members_present: MEMBERSHIP.present,
        epoch: 1,
        clean: false,
        created_ms: 0,
        geometry,
        checkpoint: CheckpointPointer::default(),
        media_errors: 0,
        blacklisted: false,
        last_error_ms: 0,
    };
    let list = vec![Segment::free(0); geometry.segment_count as usize];
    let ring = Ring {
        pages: geometry.journal_bytes / PAGE as u64,
        tail: 0,
        head: 0,
    };
    let log_config = LogConfig {
        drive: idx,
        sync: config.sync,
        verify: config.verify,
        eviction: config.eviction,
        flap_threshold: config.flap_threshold,
        blacklist: false,
    };
    let buffers = pool(BUFFERS * BUFFER_BYTES, BUFFER_BYTES);
    let segments = Segments::new(geometry, list);
    DriveLog::new(log_config, superblock, segments, ring, buffers)
}
