//! The thread of a drive: waits, steps the log, does what it wants done.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use memkv_telemetry::{DriveMetrics, DriveOp};
use parking_lot::Mutex;

use super::inbox::{Inbox, Wake};
use super::media::Media;
use super::{Backend, IoBuffer, IoDone, blocking::Blocking, ring::Ring};
use crate::clock::{now, unix_ms};
use crate::config::Mode;
use crate::engine::Shared;
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
    ///
    /// Says on `started` how its backend came up: `ENOMEM` where the pool can't be registered and
    /// must be.
    pub(crate) fn run(mut self, started: &SyncSender<io::Result<()>>) {
        let mut effects = Effects::default();
        match self.backend() {
            Ok(mut backend) => {
                let _ = started.send(Ok(()));
                self.metrics.set_up(true);
                let lost = self.serve(&mut backend, &mut effects).err();
                self.end(
                    &mut effects,
                    lost.map(|why| format!("the ring failed: {why}")),
                );
            }
            Err(why) => {
                if self.refuses_start(&why) {
                    // No drive is lost: the engine never opens, and nobody stands in for it.
                    self.shared.drain();
                }
                self.end(&mut effects, Some(format!("no i/o backend: {why}")));
                let _ = started.send(Err(why));
            }
        }
        // The kernel takes a ring apart in its own time and keeps the file open meanwhile, so
        // the lock is given back by hand.
        self.media.unlock();
    }

    /// Steps the log and does its I/O until it has finished; fails where no I/O can be done.
    fn serve(&mut self, backend: &mut Backend, effects: &mut Effects) -> io::Result<()> {
        let (mut events, mut done) = (Vec::new(), Vec::new());
        loop {
            self.handle.inbox.take(&mut events);
            self.count(&done, backend.in_flight());
            let ended = done.drain(..).map(Event::Io);
            for event in ended.chain(events.drain(..)).chain([Event::Idle]) {
                self.step(event, effects);
            }
            let more = self.deliver(effects, backend);
            *self.handle.counts.lock() = self.log.counts;
            self.metrics
                .set_space(self.log.counts.used_bytes, self.log.capacity_bytes());
            if self.log.finished() && backend.in_flight() == 0 {
                return Ok(());
            }
            let timeout = if more { Duration::ZERO } else { self.timeout() };
            backend.wait(timeout, &mut done)?;
        }
    }

    fn step(&mut self, event: Event, effects: &mut Effects) {
        let mut context = Context {
            tables: &self.shared.tables,
            now: now(),
            unix_ms: unix_ms(),
            effects,
        };
        self.log.step(&mut context, event);
    }

    /// Takes the drive out and answers all that waits for it: what is in flight, where it was lost,
    /// and what is in the inbox. Nothing comes into that afterwards.
    fn end(&mut self, effects: &mut Effects, lost: Option<String>) {
        self.shared.tables.drives.stopped(self.idx);
        self.metrics.set_up(false);
        let mut events = Vec::new();
        self.handle.inbox.close(&mut events);
        if let Some(why) = &lost {
            *self.handle.why_down.lock() = why.clone();
        }
        let why = lost.unwrap_or_else(|| "the engine has stopped".into());
        for event in [Event::Lost(why)]
            .into_iter()
            .chain(events)
            .chain([Event::Idle])
        {
            self.step(event, effects);
        }
        effects.ios.clear();
        if self.shared.draining() {
            // Its end is the store's: nobody need stand in for it.
            effects.down = None;
        }
        self.shared.carry_out(self.idx, effects);
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
        if let Some(why) = self.shared.carry_out(self.idx, effects) {
            self.metrics.set_up(false);
            *self.handle.why_down.lock() = why;
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

    #[cfg(test)]
    fn backend(&mut self) -> io::Result<Backend> {
        let Some(faults) = super::faulty::Faults::of(&self.media.path) else {
            return self.real_backend();
        };
        faults.start()?;
        Ok(Backend::Faulty(Box::new(self.real_backend()?), faults))
    }

    #[cfg(not(test))]
    fn backend(&mut self) -> io::Result<Backend> {
        self.real_backend()
    }

    fn real_backend(&mut self) -> io::Result<Backend> {
        let file = self.media.file.try_clone()?;
        let tables = &self.shared.tables;
        let pools = [&tables.pool, &self.buffers];
        let depth = tables.config.queue_depth;
        let (chunk, metrics) = (self.media.chunk_bytes, tables.metrics.clone());
        let opened = Ring::open(file, self.wake.clone(), depth, chunk, &pools, metrics);
        #[cfg(test)]
        let opened = match super::faulty::Faults::of(&self.media.path) {
            Some(faults) => faults.ring().and(opened),
            None => opened,
        };
        match opened {
            Ok((ring, registered)) => {
                self.judge_registration(registered)?;
                Ok(Backend::Ring(Box::new(ring)))
            }
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

    fn refuses_start(&self, why: &io::Error) -> bool {
        let direct = self.shared.tables.config.mode == Mode::Direct;
        direct && why.raw_os_error() == Some(libc::ENOMEM)
    }

    /// Direct mode refuses to start where too little memory may be locked, because it would run at
    /// a third of its speed and nobody would notice why; others go on with a finding.
    fn judge_registration(&self, registered: io::Result<()>) -> io::Result<()> {
        #[cfg(test)]
        let registered =
            registered.and_then(|()| match super::faulty::Faults::of(&self.media.path) {
                Some(faults) => faults.register(),
                None => Ok(()),
            });
        let Err(why) = registered else {
            return Ok(());
        };
        if self.refuses_start(&why) {
            return Err(why);
        }
        self.handle.findings.lock().push(format!(
            "the pool isn't registered with io_uring ({why}): large I/O costs more CPU; \
             raise the memlock limit (ulimit -l, LimitMEMLOCK=infinity)"
        ));
        Ok(())
    }
}
