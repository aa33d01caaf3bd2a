//! One drive's log: `step(event) → effects`, with no thread, clock, randomness or system call
//! inside. The drive's thread feeds it, does its I/O and delivers its answers.
//!
//! A key's changes happen one after another on its drive. A put's data is written first, an
//! extent's journal row after it, the index entry last; only then the put is acknowledged.
//! Records are their own journal entries, so for them the data is the journal.

pub(crate) mod bytes;
pub(crate) mod checkpoint;
mod commit;
pub(crate) mod journal;
mod maintain;
mod read;
pub(crate) mod record;
pub(crate) mod recover;
mod scan;
pub(crate) mod segment;
pub(crate) mod superblock;
mod write;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use slab::Slab;

use crate::api::{Class, Completion, CompletionResult, DriveIdx, IoTimes, Token};
use crate::drive::{Io, IoDone, IoId};
use crate::engine::Shared;
use crate::entry::OwnedPut;
use crate::error::{DeleteError, PutError};
use crate::index::{KeyHash, Location};
use crate::metrics::Tick;
use crate::queue::CompletionSender;
use crate::slab::{Grant, ReadMemory, SlabPool};
use crate::stream::{StripeRead, StripeWrite, Stripes};
use commit::{Frame, JournalState, Ticket};
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

/// Whom to answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) to: ReplyTo,
    pub(crate) accepted: Tick,
}

/// Who that is.
#[derive(Clone, Debug)]
pub(crate) enum ReplyTo {
    Caller(CompletionSender, Token),
    StripeWrite(Arc<StripeWrite>, usize),
    StripeRead(Arc<StripeRead>, usize),
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) to: ReplyTo,
    pub(crate) result: CompletionResult,
    pub(crate) io: IoTimes,
    /// Where a change was written.
    pub(crate) location: Option<Location>,
}

impl Answer {
    /// Hands it over.
    pub(crate) fn deliver(self) {
        let Self {
            to,
            result,
            io,
            location,
        } = self;
        match to {
            ReplyTo::Caller(sender, token) => sender.push(Completion { token, result, io }),
            ReplyTo::StripeWrite(job, idx) => job.part_done(idx, location, result, io),
            ReplyTo::StripeRead(job, idx) => job.part_done(idx, result, io),
        }
    }
}

/// A read of a part of a striped value.
#[derive(Debug)]
pub(crate) struct PartRead {
    pub(crate) location: Location,
    pub(crate) part: u32,
    pub(crate) stripes: Arc<Stripes>,
    pub(crate) reply: Reply,
}

/// What a put stores.
#[derive(Debug)]
pub(crate) enum Body {
    /// The value, in memory of whole pages where it becomes an extent.
    Value(ReadMemory),
    /// The part list of a striped value.
    Stripes {
        list: Vec<u8>,
        parts: Vec<Location>,
        /// The value, where it was one window.
        whole: Option<ReadMemory>,
    },
}

/// A committed put on its way to the drive.
#[derive(Debug)]
pub(crate) struct PutWork {
    pub(crate) put: OwnedPut,
    pub(crate) body: Body,
    pub(crate) crc: u32,
    /// `None` for a whole value, else which part of a striped one.
    pub(crate) part: Option<u32>,
    pub(crate) reply: Reply,
}

/// A delete on its way to the drive.
#[derive(Debug)]
pub(crate) struct DeleteWork {
    pub(crate) hash: KeyHash,
    pub(crate) namespace: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) reply: Reply,
}

/// A read on its way to the drive.
#[derive(Debug)]
pub(crate) struct ReadWork {
    pub(crate) hash: KeyHash,
    pub(crate) namespace: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) reply: Reply,
}

/// What happens to a log.
#[derive(Debug)]
pub(crate) enum Event {
    Put(Box<PutWork>),
    Delete(Box<DeleteWork>),
    Read(Box<ReadWork>),
    ReadPart(Box<PartRead>),
    Scan(Box<ScanJob>),
    /// An entry here was replaced by one on another drive.
    Dead(Location),
    /// Memory that a read waited for.
    Granted(Grant),
    Io(IoDone),
    /// Nothing else waits: send off what was gathered.
    Idle,
    /// Finish, write a checkpoint, stop.
    Shutdown,
}

/// What a log wants done.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) ios: Vec<Io>,
    pub(crate) answers: Vec<Answer>,
    /// Events for logs of other drives.
    pub(crate) elsewhere: Vec<(u8, Event)>,
    /// The drive failed and must not be used any more.
    pub(crate) down: Option<String>,
}

/// What surrounds one step.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) now: Tick,
    pub(crate) unix_ms: u64,
    pub(crate) effects: &'a mut Effects,
}

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

/// What a change is.
#[derive(Debug)]
pub(crate) enum Work {
    Put(Box<PutWork>),
    Delete(Box<DeleteWork>),
}

impl Work {
    pub(crate) fn hash(&self) -> KeyHash {
        match self {
            Self::Put(work) => work.put.hash,
            Self::Delete(work) => work.hash,
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Put(work) => work.put.attrs.class,
            // Tombstones are as lasting as the values that they end.
            Self::Delete(_) => Class::Evictable,
        }
    }

    pub(crate) fn reply(&self) -> &Reply {
        match self {
            Self::Put(work) => &work.reply,
            Self::Delete(work) => &work.reply,
        }
    }
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
    Flush(Vec<usize>),
    /// The flush of each second.
    TimedFlush,
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
    chains: HashMap<u128, VecDeque<usize>>,
    /// Changes whose turn has come.
    ready: VecDeque<usize>,
    /// Changes that wait for a buffer, a segment or the journal, in order.
    stalled: VecDeque<usize>,
    batches: [Option<Batch>; 2],
    batches_in_flight: usize,
    /// Batches whose segment's header isn't written yet.
    held: Vec<(u32, Vec<usize>)>,
    to_flush: Vec<usize>,
    flushing: bool,
    timed_flush: bool,
    dirty: bool,
    next_flush: Tick,
    reads: Slab<ReadJob>,
    reading: HashMap<(u32, u32), usize>,
    checkpoint: Option<CheckpointRun>,
    checkpoint_wanted: bool,
    /// The checkpoint waits for a buffer.
    checkpoint_stuck: bool,
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
            chains: HashMap::new(),
            ready: VecDeque::new(),
            stalled: VecDeque::new(),
            batches: [None, None],
            batches_in_flight: 0,
            held: Vec::new(),
            to_flush: Vec::new(),
            flushing: false,
            timed_flush: false,
            dirty: false,
            next_flush: Tick(0),
            reads: Slab::new(),
            reading: HashMap::new(),
            checkpoint: None,
            checkpoint_wanted: false,
            checkpoint_stuck: false,
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
            Event::Put(work) => self.accept(context, Work::Put(work)),
            Event::Delete(work) => self.accept(context, Work::Delete(work)),
            Event::Read(work) => self.read(context, *work),
            Event::Scan(work) => self.scan(context, *work),
            Event::ReadPart(work) => self.read_part(context, *work),
            Event::Dead(location) => self.segments.add_dead(&location),
            Event::Granted(grant) => self.granted(context, grant),
            Event::Io(done) => self.io_done(context, done),
            Event::Idle => self.idle(context),
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

    /// Takes nothing any more: changes fail, reads miss.
    pub(crate) fn close(&mut self) {
        self.down = true;
    }

    /// When the log next wants to be stepped, if nothing happens.
    pub(crate) fn next_timer(&self) -> Option<Tick> {
        (self.dirty && self.config.sync == crate::config::Sync::Everysec).then_some(self.next_flush)
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.segments.capacity_bytes()
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
        if self.down {
            self.fail_all(context);
            return;
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
        self.counts.errors = self.superblock.media_errors;
        self.counts.free_segments = self.segments.free.len() as u64;
    }

    fn io_done(&mut self, context: &mut Context<'_>, done: IoDone) {
        let purpose = self.purposes.remove(done.id.0);
        if let Err(why) = &done.result {
            self.media_error(context, why);
        }
        match purpose {
            Purpose::Batch {
                segment,
                offset,
                ops,
            } => {
                self.batch_done(context, segment, offset, ops, done);
            }
            Purpose::Extent(op) => self.extent_done(context, op, done),
            Purpose::Header(segment) => self.header_done(context, segment, done),
            Purpose::Frame(frame) => self.frame_done(context, frame, done),
            Purpose::Flush(ops) => self.flush_done(context, ops, done),
            Purpose::TimedFlush => self.timed_flush = false,
            Purpose::Read(job) => self.read_done(context, job, done),
            Purpose::Scan(job) => self.scan_done(context, *job, done),
            Purpose::Resolve { op, location } => self.resolved(context, op, location, done),
            Purpose::Checkpoint => self.checkpoint_done(context, done),
        }
    }

    /// Counts a failed I/O; too many of them take the drive out.
    fn media_error(&mut self, context: &mut Context<'_>, why: &io::Error) {
        self.superblock.media_errors += 1;
        self.superblock.last_error_ms = context.unix_ms;
        tracing::warn!(
            drive = self.config.drive,
            errors = self.superblock.media_errors,
            error = %why,
            "drive i/o failed"
        );
        if self.superblock.media_errors >= self.config.flap_threshold.into() {
            self.fail(
                context,
                format!(
                    "{} i/o errors, the last: {why}",
                    self.superblock.media_errors
                ),
            );
        }
    }

    /// Takes the drive out: everything waiting fails, nothing new is taken.
    fn fail(&mut self, context: &mut Context<'_>, why: String) {
        if self.down {
            return;
        }
        tracing::error!(drive = self.config.drive, why, "drive is taken out");
        self.down = true;
        self.superblock.blacklisted = self.config.blacklist;
        context.effects.down = Some(why);
    }

    /// Fails what isn't in the kernel's hands.
    fn fail_all(&mut self, context: &mut Context<'_>) {
        self.stalled.clear();
        self.ready.clear();
        self.batches = [None, None];
        self.held.clear();
        self.to_flush.clear();
        self.journal.pending.clear();
        let in_flight: std::collections::HashSet<usize> = self
            .purposes
            .iter()
            .flat_map(|(_, purpose)| match purpose {
                Purpose::Batch { ops, .. } | Purpose::Flush(ops) => ops.clone(),
                Purpose::Extent(op) | Purpose::Resolve { op, .. } => vec![*op],
                Purpose::Frame(frame) => frame.ops(),
                _ => Vec::new(),
            })
            .collect();
        let waiting: Vec<usize> = self
            .ops
            .iter()
            .map(|(idx, _)| idx)
            .filter(|idx| !in_flight.contains(idx))
            .collect();
        for op in waiting {
            self.fail_op(context, op, &io::Error::other("the drive was taken out"));
        }
        // Their successors are among those that have just failed.
        self.ready.clear();
    }

    /// Ends a change with an I/O error.
    fn fail_op(&mut self, context: &mut Context<'_>, op: usize, why: &io::Error) {
        let source = match why.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(why.kind(), why.to_string()),
        };
        let drive = self.drive_idx();
        let result = match self.ops[op].work {
            Work::Put(_) => CompletionResult::Committed(Err(PutError::Io { drive, source })),
            Work::Delete(_) => CompletionResult::Deleted(Err(DeleteError::Io { drive, source })),
        };
        self.finish(context, op, result);
    }

    /// Answers a change and starts the next one of its key.
    fn finish(&mut self, context: &mut Context<'_>, op: usize, result: CompletionResult) {
        let ended = self.ops.remove(op);
        if let Some(location) = ended.location {
            self.segments
                .get_mut(location.segment_idx)
                .settled(location.offset);
        }
        if let Some(page) = ended.frame {
            self.journal.settled(page);
        }
        let io = self.io_times(context, ended.work.reply(), &ended.times);
        let (to, location) = (ended.work.reply().to.clone(), ended.location);
        context.effects.answers.push(Answer {
            to,
            result,
            io,
            location,
        });
        let hash = ended.work.hash().0;
        let Some(chain) = self.chains.get_mut(&hash) else {
            return;
        };
        chain.pop_front();
        match chain.front().copied() {
            Some(next) => self.ready.push_back(next),
            None => {
                self.chains.remove(&hash);
            }
        }
    }

    fn io_times(&self, context: &Context<'_>, reply: &Reply, times: &Times) -> IoTimes {
        let since = |to: Tick, from: Tick| to.0.saturating_sub(from.0);
        IoTimes {
            lease_wait_ns: times.lease_wait_ns,
            queue_ns: times
                .last
                .map(|(submitted, _)| since(submitted, reply.accepted)),
            device_ns: times
                .last
                .map(|(submitted, completed)| since(completed, submitted)),
            complete_ns: times
                .last
                .map(|(_, completed)| since(context.now, completed)),
            io_count: times.io_count,
            drive: times.last.map(|_| self.drive_idx()),
            first_start: times.first_start,
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

    fn ticket_failed(&mut self, context: &mut Context<'_>, ticket: Ticket, why: &io::Error) {
        match ticket {
            Ticket::Op(op) => self.fail_op(context, op, why),
            Ticket::Free(_) => {}
        }
    }
}
