//! The thread of a drive: waits, steps the log, does what it wants done.

use std::sync::Arc;
use std::time::Duration;

use memkv_telemetry::{DriveMetrics, DriveOp};
use parking_lot::Mutex;

use super::inbox::{Inbox, Wake};
use super::media::Media;
use super::{Backend, IoBuffer, IoDone, blocking::Blocking, ring::Ring};
use crate::engine::Shared;
use crate::metrics::{now, unix_ms};
use crate::segment_log::{Context, DriveLog, Effects, Event, LogCounts};
use crate::slab::SlabPool;

/// Longest sleep without a reason: bounds how late a missed one would be noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What the engine keeps of a drive that serves.
pub(crate) struct DriveHandle {
    pub(crate) inbox: Inbox<Event>,
    pub(crate) why_down: Mutex<String>,
    pub(crate) counts: Mutex<LogCounts>,
    pub(crate) findings: Mutex<Vec<String>>,
    pub(crate) capacity_bytes: u64,
    pub(crate) direct_io: bool,
    pub(crate) thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What a drive's thread starts with.
pub(crate) struct DriveThread {
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Arc<DriveHandle>,
    pub(crate) idx: u8,
    pub(crate) media: Media,
    pub(crate) log: DriveLog,
    pub(crate) metrics: DriveMetrics,
    pub(crate) buffers: SlabPool,
    pub(crate) wake: Arc<Wake>,
}

impl DriveThread {
    /// Runs until the log has finished.
    pub(crate) fn run(mut self) {
        let mut backend = match self.backend() {
            Ok(backend) => backend,
            Err(why) => {
                tracing::error!(%why, "drive has no i/o backend; it serves nothing until a restart");
                *self.handle.why_down.lock() = format!("no i/o backend: {why}");
                self.media.unlock();
                self.shared.tables.drives.lost(self.idx);
                return;
            }
        };
        self.metrics.set_up(true);
        let (mut events, mut done) = (Vec::new(), Vec::new());
        let mut effects = Effects::default();
        loop {
            self.handle.inbox.take(&mut events);
            self.count(&done, backend.in_flight());
            let ended = done.drain(..).map(Event::Io);
            for event in ended.chain(events.drain(..)).chain([Event::Idle]) {
                let mut context = Context {
                    tables: &self.shared.tables,
                    now: now(),
                    unix_ms: unix_ms(),
                    effects: &mut effects,
                };
                self.log.step(&mut context, event);
            }
            let more = self.deliver(&mut effects, &mut backend);
            *self.handle.counts.lock() = self.log.counts;
            self.metrics
                .set_space(self.log.counts.used_bytes, self.log.capacity_bytes());
            if self.log.finished() && backend.in_flight() == 0 {
                break;
            }
            let timeout = if more { Duration::ZERO } else { self.timeout() };
            if let Err(why) = backend.wait(timeout, &mut done) {
                tracing::error!(drive = self.idx, error = %why, "the ring failed");
                *self.handle.why_down.lock() = format!("the ring failed: {why}");
                break;
            }
        }
        self.shared.tables.drives.lost(self.idx);
        self.metrics.set_up(false);
        self.refuse_the_rest(&mut effects, &mut backend);
        drop(backend);
        // The kernel takes a ring apart in its own time and keeps the file open meanwhile, so
        // the lock is given back by hand.
        self.media.unlock();
    }

    /// Answers what came while the thread was about to end.
    fn refuse_the_rest(&mut self, effects: &mut Effects, backend: &mut Backend) {
        let mut events = Vec::new();
        self.log.close();
        self.handle.inbox.take(&mut events);
        for event in events.into_iter().chain([Event::Idle]) {
            let (now, unix_ms) = (now(), unix_ms());
            let mut context = Context {
                tables: &self.shared.tables,
                now,
                unix_ms,
                effects,
            };
            self.log.step(&mut context, event);
        }
        self.deliver(effects, backend);
    }

    /// Counts what ended.
    fn count(&self, done: &[IoDone], in_flight: usize) {
        for io in done {
            let (op, bytes) = match &io.buffer {
                IoBuffer::Source(memory) => (DriveOp::Write, memory.len()),
                IoBuffer::Target(memory) => (DriveOp::Read, memory.len()),
                IoBuffer::None => (DriveOp::Flush, 0),
            };
            match io.result {
                Ok(()) => self
                    .metrics
                    .io_done(op, io.completed.since(io.submitted), bytes as u64),
                Err(_) => self.metrics.io_failed(op),
            }
        }
        self.metrics.set_queue_depth(in_flight as u64);
    }

    /// Does what a step wanted done; returns whether the log must be stepped again at once.
    fn deliver(&self, effects: &mut Effects, backend: &mut Backend) -> bool {
        for io in effects.ios.drain(..) {
            backend.push(io);
        }
        self.shared.carry_out(self.idx, effects);
        if let Some(why) = effects.down.take() {
            *self.handle.why_down.lock() = why;
            self.shared.tables.drives.lost(self.idx);
            self.metrics.set_up(false);
            self.note_blacklisted();
            return true;
        }
        self.log.wants_step()
    }

    /// Writes the failure registry, as far as the drive still takes it.
    fn note_blacklisted(&self) {
        let superblock = self.log.superblock();
        let page = superblock.encode();
        for copy in superblock.geometry.copies() {
            if let Err(why) = self.media.write(copy, &page) {
                tracing::warn!(drive = self.idx, error = %why, "registry copy not written");
            }
        }
    }

    fn timeout(&self) -> Duration {
        let Some(timer) = self.log.next_timer() else {
            return SLEEP_MAX;
        };
        let left = timer.0.saturating_sub(now().0);
        Duration::from_nanos(left.max(1)).min(SLEEP_MAX)
    }

    fn backend(&mut self) -> std::io::Result<Backend> {
        let file = self.media.file.try_clone()?;
        let mut findings = Vec::new();
        let pools = [&self.shared.tables.pool, &self.buffers];
        let depth = self.shared.tables.config.queue_depth;
        let chunk = self.media.chunk_bytes;
        let metrics = self.shared.tables.metrics.clone();
        let ring = Ring::open(
            file,
            self.wake.clone(),
            depth,
            chunk,
            &pools,
            metrics,
            &mut findings,
        );
        self.handle.findings.lock().append(&mut findings);
        match ring {
            Ok(ring) => Ok(Backend::Ring(Box::new(ring))),
            Err(why) => {
                self.handle.findings.lock().push(format!(
                    "no io_uring ({why}): drive {} uses plain system calls, which are slower; \
                     allow io_uring_setup in the container's seccomp profile",
                    self.idx
                ));
                Ok(Backend::Blocking(Blocking::new(
                    self.media.file.try_clone()?,
                    self.wake.clone(),
                )))
            }
        }
    }
}
