//! One drive's log: `step(event) → effects`, with no thread, clock, randomness or system call
//! inside. It owns what a drive is made of and borrows the engine's [`Tables`](crate::engine::Tables)
//! for a step; whatever else it does is in its [`Effects`], what is to be counted or logged too. The
//! drive's thread feeds it and carries its effects out, or a simulator does.
//!
//! A key's changes happen one after another on its drive. A put's data is written first, an
//! extent's journal row after it, the index entry last; only then the put is acknowledged.
//! Records are their own journal entries, so for them the data is the journal.

mod admit;
pub(crate) mod bytes;
pub(crate) mod checkpoint;
mod commit;
mod end;
mod event;
mod frames;
pub(crate) mod journal;
mod maintain;
mod read;
pub(crate) mod record;
pub(crate) mod recover;
mod scan;
pub(crate) mod segment;
pub(crate) mod superblock;
mod write;

use std::collections::{BTreeMap, VecDeque};

use slab::Slab;

use crate::api::DriveIdx;
use crate::clock::Tick;
use crate::config::{EngineConfig, Mode};
use crate::drive::{Io, IoBuffer, IoDone, IoId};
use crate::engine::Membership;
use crate::index::{KeyHash, Location};
use crate::slab::{ReadMemory, SlabPool};
use checkpoint::Tombstone;
use end::is_no_room;
pub(crate) use event::{
    Answer, Body, Context, DeleteWork, Effects, Event, MemoryWait, Note, PartRead, PutWork,
    ReadWork, Reply, ReplyTo, Work,
};
use frames::{Frame, JournalState};
use maintain::CheckpointRun;
use read::ReadJob;
pub(crate) use scan::ScanJob;
use segment::Segments;
use superblock::Superblock;
use write::Batch;

/// Values of at least this many bytes are extents.
pub(crate) const EXTENT_BYTES_MIN: u64 = 64 << 10;
/// A batch of records, and the longest metadata I/O.
pub(crate) const BUFFER_BYTES: usize = 1 << 20;
/// Buffers for batches and metadata, per drive.
pub(crate) const BUFFERS: usize = 12;

/// Where an op's time went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) io_count: u32,
    pub(crate) first_start: Option<Tick>,
    pub(crate) last: Option<(Tick, Tick)>,
    pub(crate) lease_wait_ns: Option<u64>,
}

impl Times {
    pub(crate) fn note(&mut self, submitted: Tick, completed: Tick) {
        self.io_count += 1;
        self.first_start.get_or_insert(submitted);
        self.last = Some((submitted, completed));
    }
}

/// A change in progress.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) work: Work,
    pub(crate) version: u64,
    pub(crate) location: Option<Location>,
    pub(crate) times: Times,
    /// First page of the journal frame that has its row.
    pub(crate) frame: Option<u64>,
    /// The condition was looked at and holds.
    pub(crate) admitted: bool,
}

/// What an I/O is for.
pub(crate) enum Purpose {
    Batch {
        segment: u32,
        offset: u32,
        ops: Vec<usize>,
    },
    Extent(usize),
    Header(u32),
    Frame(Frame),
    /// Changes that wait for it, and the journal page before which all frames had ended.
    Flush {
        ops: Vec<usize>,
        ended: u64,
    },
    /// The flush of each second, or an earlier one that makes room.
    TimedFlush {
        ended: u64,
        burials: usize,
    },
    /// Before the end of a segment is journalled.
    FlushBeforeFree(u32),
    /// After that, before it is used again.
    FlushAfterFree(u32),
    Read(usize),
    Resolve {
        op: usize,
        location: Location,
    },
    Scan(Box<ScanJob>),
    Checkpoint,
}

/// What an operator configures of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogConfig {
    pub(crate) drive: u8,
    pub(crate) sync: crate::config::Sync,
    pub(crate) verify: crate::config::Verify,
    pub(crate) eviction: bool,
    pub(crate) flap_threshold: u32,
    /// A drive that is taken out stays out.
    pub(crate) blacklist: bool,
}

impl LogConfig {
    /// What a store's configuration means for one of its drives.
    pub(crate) fn of(drive: u8, config: &EngineConfig) -> Self {
        Self {
            drive,
            sync: config.sync,
            verify: config.verify,
            eviction: config.eviction,
            flap_threshold: config.flap_threshold,
            blacklist: config.mode == Mode::Direct,
        }
    }
}

/// Tombstones that were published while changes of lower versions were in flight, and few others:
/// what a checkpoint lists.
#[derive(Debug, Default)]
struct Tombstones {
    recent: Vec<Tombstone>,
    /// How many there may be before it is worth a look which of them are settled.
    look_at: usize,
}

impl Tombstones {
    /// Adds one; true when it is time to forget those that are settled.
    fn add(&mut self, hash: KeyHash, version: u64) -> bool {
        self.recent.push(Tombstone { hash, version });
        self.recent.len() > self.look_at
    }

    fn forget(&mut self, settled: u64) {
        self.recent.retain(|tombstone| tombstone.version >= settled);
        self.look_at = (2 * self.recent.len()).max(256);
    }
}

/// Counters for the status.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogCounts {
    pub(crate) used_bytes: u64,
    pub(crate) journal_fill: f64,
    pub(crate) errors: u64,
    pub(crate) corruptions: u64,
    pub(crate) written_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) free_segments: u64,
}

/// See the module docs.
pub(crate) struct DriveLog {
    config: LogConfig,
    seed: [u8; 16],
    superblock: Superblock,
    segments: Segments,
    journal: JournalState,
    buffers: SlabPool,
    ops: Slab<Op>,
    purposes: Slab<Purpose>,
    /// Changes by key: the first of each is in progress.
    chains: BTreeMap<u128, VecDeque<usize>>,
    /// Changes whose turn has come.
    ready: VecDeque<usize>,
    /// Changes that wait for a buffer, a segment or the journal, in order.
    stalled: VecDeque<usize>,
    batches: [Option<Batch>; 2],
    batches_in_flight: usize,
    /// Batches whose segment's header isn't written yet.
    held: Vec<(u32, Vec<usize>)>,
    tombstones: Tombstones,
    to_flush: Vec<usize>,
    flushing: bool,
    timed_flush: bool,
    /// What is dead, here or elsewhere, once a flush covers what replaced it.
    burials: Vec<Location>,
    dirty: bool,
    next_flush: Tick,
    reads: Slab<ReadJob>,
    reading: BTreeMap<(u32, u32), usize>,
    checkpoint: Option<CheckpointRun>,
    checkpoint_wanted: bool,
    /// Recovery has dropped rows of the journal, and no checkpoint has been written since.
    has_dropped: bool,
    /// To be put on record by a checkpoint.
    members: Option<Membership>,
    /// The checkpoint waits for a buffer.
    checkpoint_stuck: bool,
    /// When a write of the checkpoint that failed is tried again.
    checkpoint_again: Option<Tick>,
    /// Until then no put is tried: a write has just found no room.
    no_room_until: Tick,
    tell_no_room: Tick,
    /// Segments whose end is being journalled.
    reclaiming: usize,
    shutdown: bool,
    /// The last checkpoint was written after the shutdown was asked for.
    closed: bool,
    down: bool,
    pub(crate) counts: LogCounts,
}

impl DriveLog {
    /// The log of a recovered drive.
    pub(crate) fn new(
        config: LogConfig,
        superblock: Superblock,
        segments: Segments,
        journal: journal::Ring,
        has_dropped: bool,
        buffers: SlabPool,
    ) -> Self {
        Self {
            config,
            seed: superblock.seed(),
            superblock,
            segments,
            journal: JournalState::new(journal),
            buffers,
            ops: Slab::new(),
            purposes: Slab::new(),
            chains: BTreeMap::new(),
            ready: VecDeque::new(),
            stalled: VecDeque::new(),
            batches: [None, None],
            batches_in_flight: 0,
            held: Vec::new(),
            tombstones: Tombstones::default(),
            to_flush: Vec::new(),
            flushing: false,
            timed_flush: false,
            burials: Vec::new(),
            dirty: false,
            next_flush: Tick(0),
            reads: Slab::new(),
            reading: BTreeMap::new(),
            checkpoint: None,
            checkpoint_wanted: has_dropped,
            has_dropped,
            members: None,
            checkpoint_stuck: false,
            checkpoint_again: None,
            no_room_until: Tick(0),
            tell_no_room: Tick(0),
            reclaiming: 0,
            shutdown: false,
            closed: false,
            down: false,
            counts: LogCounts::default(),
        }
    }

    /// Takes one event.
    pub(crate) fn step(&mut self, context: &mut Context<'_>, event: Event) {
        match event {
            Event::Put(work) => self.accept(Work::Put(work)),
            Event::Delete(work) => self.accept(Work::Delete(work)),
            Event::Read(work) => self.read(context, *work),
            Event::Scan(work) => self.scan(context, *work),
            Event::ReadPart(work) => self.read_part(context, *work),
            Event::Dead(location) => self.segments.add_dead(&location),
            Event::Granted(grant) => self.granted(context, grant),
            Event::NoMemory(wait) => self.no_memory(context, wait),
            Event::Io(done) => self.io_done(context, done),
            Event::Idle => self.idle(context),
            Event::Members(membership) => {
                self.members = Some(membership);
                self.checkpoint_wanted = true;
            }
            Event::Lost(why) => self.abandon(context, why),
            Event::Shutdown => {
                self.shutdown = true;
                self.checkpoint_wanted = true;
            }
        }
    }

    /// Whether a shutdown has ended.
    pub(crate) fn finished(&self) -> bool {
        let quiet = self.ops.is_empty() && self.reads.is_empty() && self.purposes.is_empty();
        self.shutdown && quiet && (self.closed || self.down)
    }

    /// When the log next wants to be stepped, if nothing happens.
    pub(crate) fn next_timer(&self) -> Option<Tick> {
        if self.down {
            return None;
        }
        let everysec = self.config.sync == crate::config::Sync::Everysec;
        let flush = self.dirty && everysec && !self.timed_flush;
        let flush = flush.then_some(self.next_flush);
        let waits = !self.journal.pending.is_empty() || self.checkpoint_wanted;
        let room = (waits && self.no_room_until > Tick(0)).then_some(self.no_room_until);
        [flush, room, self.checkpoint_again]
            .into_iter()
            .flatten()
            .min()
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.segments.capacity_bytes()
    }

    /// Whether what a segment holds is on its way out.
    #[cfg(test)]
    pub(crate) fn is_reclaiming(&self, segment: u32) -> bool {
        self.segments.get(segment).state == segment::State::Reclaiming
    }

    /// Whether there is something to do without an event.
    pub(crate) fn wants_step(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    fn drive_idx(&self) -> DriveIdx {
        DriveIdx(self.config.drive.into())
    }

    /// Sends off what was gathered.
    fn idle(&mut self, context: &mut Context<'_>) {
        self.counts.errors = self.superblock.media_errors;
        if self.down {
            self.fail_all(context);
            return;
        }
        if !self.has_no_room(context) {
            self.no_room_until = Tick(0);
        }
        self.run_ready(context);
        self.retry_stalled(context);
        self.send_batches(context);
        self.send_frame(context);
        self.send_flush(context);
        self.unstick(context);
        self.maintain(context);
        self.send_frame(context);
        self.counts.used_bytes = self.segments.used_bytes;
        self.counts.journal_fill = self.journal.ring.fill();
        self.counts.free_segments = self.segments.free.len() as u64;
    }

    fn io_done(&mut self, context: &mut Context<'_>, done: IoDone) {
        let purpose = self.purposes.remove(done.id.0);
        match (&done.result, &done.buffer) {
            (Ok(()), _) => {}
            (Err(why), IoBuffer::Source(_)) if is_no_room(why) => self.no_room(context, why),
            (Err(why), _) => self.media_error(context, why),
        }
        match purpose {
            Purpose::Batch {
                segment,
                offset,
                ops,
            } => {
                self.batch_done(context, (segment, offset), ops, done);
            }
            Purpose::Extent(op) => self.extent_done(context, op, done),
            Purpose::Header(segment) => self.header_done(context, segment, done),
            Purpose::Frame(frame) => self.frame_done(context, frame, done),
            Purpose::Flush { ops, ended } => self.flush_done(context, ops, ended, done),
            Purpose::TimedFlush { ended, burials } => {
                self.timed_flush_done(context, ended, burials, &done);
            }
            Purpose::FlushBeforeFree(segment) => self.end_segment(context, segment, done),
            Purpose::FlushAfterFree(segment) => self.reuse_segment(context, segment, done),
            Purpose::Read(job) => self.read_done(context, job, done),
            Purpose::Scan(job) => self.scan_done(context, *job, done),
            Purpose::Resolve { op, location } => self.resolved(context, op, location, done),
            Purpose::Checkpoint => self.checkpoint_done(context, done),
        }
    }

    fn submit_write(
        &mut self,
        context: &mut Context<'_>,
        purpose: Purpose,
        offset: u64,
        source: ReadMemory,
    ) {
        self.counts.written_bytes += source.len() as u64;
        let id = IoId(self.purposes.insert(purpose));
        context.effects.ios.push(Io::Write { id, offset, source });
    }

    fn submit_flush(&mut self, context: &mut Context<'_>, purpose: Purpose) {
        let id = IoId(self.purposes.insert(purpose));
        context.effects.ios.push(Io::Flush { id });
    }

    /// Copies metadata into a buffer of whole pages; `None` while all buffers are in use.
    fn buffer(&self, bytes: &[u8]) -> Option<ReadMemory> {
        let mut memory = self.buffers.try_lease(bytes.len()).ok()??;
        memory.copy_from(0, bytes);
        Some(memory.freeze())
    }
}
