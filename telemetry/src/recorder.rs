//! The recorder: where a thread leaves the Timelines of the operations it has finished.
//!
//! Each thread has one of its own. It adds an op to histograms and counters that nobody else writes,
//! and pushes it into a ring that the telemetry thread drains. It never waits: a full ring loses the
//! Timeline and counts it.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use parking_lot::Mutex;

use crate::clock::Tick;
use crate::labels::{Direction, OpKind, OutcomeLabel, Stage, Step, Tier, Transport};
use crate::metrics::{self, SERVER_LABELS_MAX};
use crate::ring::Ring;
use crate::snapshot::{Cells, Histograms};
use crate::timeline::{Role, Timeline};
use crate::trace::{IdSource, TraceContext};

/// Timelines a ring holds before it loses some: 20 ms of 200,000 ops per second.
pub const RING_TIMELINES: usize = 4096;

/// What one thread writes and others read.
pub(crate) struct Shard {
    pub(crate) role: Role,
    pub(crate) op_duration: Histograms,
    pub(crate) stage_duration: Histograms,
    pub(crate) batch_entries: Histograms,
    pub(crate) bytes: Cells,
    /// Server: by op, tier, outcome. Client: see `server_entries`.
    pub(crate) entries: Cells,
    /// Client: by server, op, outcome; the last server's stand for all further ones.
    pub(crate) server_entries: Box<[AtomicU64]>,
    pub(crate) ring: Ring,
}

impl Shard {
    fn new(role: Role, ring_timelines: usize) -> Shard {
        let (op, stage, batch, bytes) = match role {
            Role::Server => (
                &metrics::OP_DURATION,
                &metrics::STAGE_DURATION,
                &metrics::BATCH_ENTRIES,
                &metrics::BYTES_TOTAL,
            ),
            Role::Client => (
                &metrics::CLIENT_OP_DURATION,
                &metrics::CLIENT_STEP_SECONDS,
                &metrics::CLIENT_BATCH_ENTRIES,
                &metrics::CLIENT_BYTES_TOTAL,
            ),
        };
        let server_entries = match role {
            Role::Server => 0,
            Role::Client => (SERVER_LABELS_MAX + 1) * OpKind::COUNT * OutcomeLabel::COUNT,
        };
        Shard {
            role,
            op_duration: Histograms::new(op),
            stage_duration: Histograms::new(stage),
            batch_entries: Histograms::new(batch),
            bytes: Cells::new(bytes),
            entries: Cells::new(&metrics::ENTRIES_TOTAL),
            server_entries: (0..server_entries).map(|_| AtomicU64::new(0)).collect(),
            ring: Ring::new(ring_timelines),
        }
    }

    /// Position of an op's duration histogram.
    #[inline]
    pub(crate) fn duration_idx(timeline: &Timeline) -> usize {
        let (op, outcome) = (timeline.op.idx(), timeline.outcome());
        match timeline.role {
            Role::Server => {
                let by_transport = op * Transport::COUNT + timeline.transport.idx();
                let by_tier = by_transport * Tier::COUNT + timeline.tier().idx();
                by_tier * OutcomeLabel::COUNT + outcome.idx()
            }
            Role::Client => op * OutcomeLabel::COUNT + outcome.idx(),
        }
    }

    #[inline]
    fn count_entries(&self, timeline: &Timeline) {
        let (op, counts) = (timeline.op.idx(), &timeline.entries);
        if self.role == Role::Client {
            let server_idx = usize::from(timeline.server_idx).min(SERVER_LABELS_MAX);
            let base = (server_idx * OpKind::COUNT + op) * OutcomeLabel::COUNT;
            let by_outcome = [
                counts.hits(),
                u64::from(counts.miss),
                u64::from(counts.error),
            ];
            for (offset, n) in by_outcome.into_iter().enumerate().filter(|(_, n)| *n > 0) {
                let cell = &self.server_entries[base + offset];
                cell.store(cell.load(Ordering::Relaxed) + n, Ordering::Relaxed);
            }
            return;
        }
        for (tier, outcome, n) in [
            (Tier::Ram, OutcomeLabel::Ok, counts.ram),
            (Tier::Drive, OutcomeLabel::Ok, counts.drive),
            (Tier::None, OutcomeLabel::Ok, counts.done),
            (Tier::None, OutcomeLabel::Miss, counts.miss),
            (Tier::None, OutcomeLabel::Error, counts.error),
        ] {
            if n > 0 {
                let idx = (op * Tier::COUNT + tier.idx()) * OutcomeLabel::COUNT + outcome.idx();
                self.entries.add_owned(idx, u64::from(n));
            }
        }
    }
}

/// All recorders of a process.
#[derive(Clone)]
pub struct Recorders(Arc<Shared>);

struct Shared {
    role: Role,
    is_recording: bool,
    ring_timelines: usize,
    /// Share of new traces that are sampled, as the bits of an f64: it can change while we run.
    ratio_bits: AtomicU64,
    all: Mutex<Vec<Arc<Shard>>>,
    /// Those whose recorder was dropped, for the next one.
    free: Mutex<Vec<Arc<Shard>>>,
    /// The thread to wake when a ring is half full.
    drainer: OnceLock<Thread>,
}

impl Recorders {
    /// None yet; `sample_ratio` of the operations that bring no trace start a sampled one.
    pub fn new(role: Role, sample_ratio: f64, ring_timelines: usize) -> Recorders {
        Recorders::with(true, role, sample_ratio, ring_timelines)
    }

    /// Recorders that record nothing: for measuring what recording costs. The product has none.
    ///
    /// They take servers' and clients' ops, and forget them.
    pub fn off() -> Recorders {
        Recorders::with(false, Role::Server, 0.0, 1)
    }

    fn with(is_recording: bool, role: Role, sample_ratio: f64, ring_timelines: usize) -> Recorders {
        Recorders(Arc::new(Shared {
            role,
            is_recording,
            ring_timelines,
            ratio_bits: AtomicU64::new(sample_ratio.to_bits()),
            all: Mutex::new(Vec::new()),
            free: Mutex::new(Vec::new()),
            drainer: OnceLock::new(),
        }))
    }

    /// A recorder for one thread. Dropping it keeps what it counted, and gives its memory (up to 1.7
    /// MiB) to the next one.
    pub fn recorder(&self) -> Recorder {
        let free = self.0.free.lock().pop();
        let shard = free.unwrap_or_else(|| {
            let shard = Arc::new(Shard::new(self.0.role, self.0.ring_timelines));
            self.0.all.lock().push(Arc::clone(&shard));
            shard
        });
        let ids = IdSource::new(self.sample_ratio());
        Recorder {
            is_recording: self.0.is_recording,
            shard,
            shared: Arc::clone(&self.0),
            ids,
            not_sync: PhantomData,
        }
    }

    /// Share of new traces that are sampled.
    pub fn sample_ratio(&self) -> f64 {
        f64::from_bits(self.0.ratio_bits.load(Ordering::Relaxed))
    }

    /// Changes it, for all recorders.
    pub fn set_sample_ratio(&self, ratio: f64) {
        self.0.ratio_bits.store(ratio.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.0.all.lock().clone()
    }

    #[cfg(feature = "export")]
    pub(crate) fn role(&self) -> Role {
        self.0.role
    }

    #[cfg(feature = "export")]
    pub(crate) fn set_drainer(&self, thread: Thread) {
        _ = self.0.drainer.set(thread);
    }

    /// Timelines lost so far, because a ring was full.
    pub fn lost(&self) -> u64 {
        self.shards().iter().map(|shard| shard.ring.lost()).sum()
    }
}

/// One thread's recorder. It can move to another thread, but not be shared.
pub struct Recorder {
    /// A copy of the shared one, so that the hot path needs no pointer for it.
    is_recording: bool,
    shard: Arc<Shard>,
    shared: Arc<Shared>,
    ids: IdSource,
    not_sync: PhantomData<Cell<()>>,
}

impl Recorder {
    /// A recorder that nobody reads, for tests and benchmarks: its ring fills and loses.
    pub fn detached() -> Recorder {
        Recorders::new(Role::Server, 0.0, 64).recorder()
    }

    /// Whether ops are recorded; false only for [`Recorders::off`], where whoever stamps may spare its looks
    /// at the clock.
    #[inline]
    pub fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// Begins a server's op with an id for its span, in the caller's trace or in one of its own.
    #[inline]
    pub fn begin(
        &mut self,
        op: OpKind,
        transport: Transport,
        start: Tick,
        caller: Option<TraceContext>,
    ) -> Timeline {
        let mut timeline = Timeline::begin(op, transport, start);
        self.attach(&mut timeline, caller);
        timeline
    }

    /// Begins a client's op, in the application's trace or in one of its own.
    #[inline]
    pub fn begin_client(
        &mut self,
        op: OpKind,
        transport: Transport,
        start: Tick,
        caller: Option<TraceContext>,
    ) -> Timeline {
        let mut timeline = Timeline::begin_client(op, transport, start);
        self.attach(&mut timeline, caller);
        timeline
    }

    #[inline]
    fn attach(&mut self, timeline: &mut Timeline, caller: Option<TraceContext>) {
        if !self.is_recording {
            return; // No span of it will ever be seen, so it needs no ids.
        }
        timeline.trace = match caller {
            Some(context) if context.is_valid() => context,
            _ => {
                let ratio = self.shared.ratio_bits.load(Ordering::Relaxed);
                self.ids.set_ratio(f64::from_bits(ratio));
                self.ids.root()
            }
        };
        timeline.span_id = self.ids.span_id();
    }

    /// Adds a finished op: 35 ns with warm caches (example `record_cost`), never blocks.
    #[inline]
    pub fn record(&mut self, timeline: &Timeline) {
        if !self.is_recording {
            return;
        }
        let shard = &*self.shard;
        debug_assert_eq!(
            shard.role, timeline.role,
            "a server's recorder takes a server's ops"
        );
        let op = timeline.op.idx();
        shard
            .op_duration
            .at(Shard::duration_idx(timeline))
            .observe(timeline.duration_ns());
        let slots = match shard.role {
            Role::Server => Stage::COUNT,
            Role::Client => Step::COUNT,
        };
        for idx in 0..slots {
            if let Some(time) = timeline.slot(idx) {
                shard
                    .stage_duration
                    .at(op * slots + idx)
                    .observe(time.dur_ns);
            }
        }
        let entries = timeline.entries.total();
        if entries > 0 {
            shard.batch_entries.at(op).observe(entries);
            shard.count_entries(timeline);
        }
        for (direction, bytes) in [
            (Direction::In, timeline.bytes_in),
            (Direction::Out, timeline.bytes_out),
        ] {
            if bytes > 0 {
                shard
                    .bytes
                    .add_owned(op * Direction::COUNT + direction.idx(), bytes);
            }
        }
        if shard.ring.push(timeline) == shard.ring.capacity() / 2
            && let Some(drainer) = self.shared.drainer.get()
        {
            drainer.unpark();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.free.lock().push(Arc::clone(&self.shard));
    }
}

#[cfg(test)]
mod tests;
