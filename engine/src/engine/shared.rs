//! What all callers of an engine and its drives share: the tables, who waits, what is streamed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::memory::MemoryStore;
use super::wait::{DriveSink, WaitingList};
use super::{Outside, Tables};
use crate::api::{CompletionResult, DriveIdx, IoTimes};

use crate::clock::Tick;
use crate::error::{DeleteError, PutError};
use crate::segment_log::{Answer, Effects, Event, MemoryWait};
use crate::slab::{Grant, Leased, Waiter};
use crate::stream::StreamBudget;

/// When a caller who was refused may try again.
pub(super) const BUSY_US: u32 = 1000;

/// The engine's logic, apart from the drives' logs. See [`Outside`] for what it does besides
/// changing what it holds.
pub(crate) struct Shared {
    pub(crate) tables: Tables,
    pub(crate) streams: StreamBudget,
    pub(super) memory: MemoryStore,
    pub(super) waiting: WaitingList,
    outside: Arc<dyn Outside>,
    draining: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(tables: Tables, outside: Arc<dyn Outside>) -> Arc<Self> {
        let pool_bytes = tables.pool.capacity_bytes() as u64;
        Arc::new(Self {
            tables,
            streams: StreamBudget::new(pool_bytes / 2),
            memory: MemoryStore::new(),
            waiting: WaitingList::default(),
            outside,
            draining: AtomicBool::new(false),
        })
    }

    pub(crate) fn now(&self) -> Tick {
        self.outside.now()
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.outside.unix_ms()
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A caller's event for a drive that serves; comes back when too many wait.
    pub(super) fn offer(&self, drive: u8, event: Event) -> Result<(), Event> {
        self.outside.offer(drive, event)
    }

    /// An event of the engine itself for a drive. Where nobody listens any more it is answered at
    /// once, as the log of a drive that was taken out would.
    pub(crate) fn post(&self, drive: u8, event: Event) {
        let Err(refused) = self.outside.post(drive, event) else {
            return;
        };
        let source = io::Error::other("the drive was taken out");
        let idx = DriveIdx(drive.into());
        let (to, result) = match refused {
            Event::Put(work) => {
                let error = PutError::Io { drive: idx, source };
                (work.reply.to, CompletionResult::Committed(Err(error)))
            }
            Event::Delete(work) => {
                let error = DeleteError::Io { drive: idx, source };
                (work.reply.to, CompletionResult::Deleted(Err(error)))
            }
            Event::Read(work) => (work.reply.to, CompletionResult::Got(Ok(None))),
            Event::ReadPart(work) => (work.reply.to, CompletionResult::Got(Ok(None))),
            Event::Scan(mut job) => {
                job.left.retain(|location| location.drive_idx != drive);
                return job.go_on(self);
            }
            _ => return,
        };
        let io = IoTimes::default();
        let answer = Answer {
            to,
            result,
            io,
            location: None,
        };
        answer.deliver();
    }

    /// As [`post`](Self::post); false if the drive doesn't serve.
    pub(crate) fn post_if_up(&self, drive: u8, event: Event) -> bool {
        let serves = self.tables.drives.serves(drive);
        if serves {
            self.post(drive, event);
        }
        serves
    }

    /// Does what a step of a drive's log wants done, apart from I/O, which is its backend's.
    /// Returns why the drive is lost, if it just was.
    pub(crate) fn carry_out(&self, drive: u8, effects: &mut Effects) -> Option<String> {
        for note in effects.notes.drain(..) {
            note.tell(drive, &self.tables);
        }
        for answer in effects.answers.drain(..) {
            answer.deliver();
        }
        for (to, event) in effects.elsewhere.drain(..) {
            self.post(to, event);
        }
        for wait in effects.waits.drain(..) {
            self.wait_for_drive(drive, wait);
        }
        if let Some(generation) = effects.recorded.take() {
            self.tables.drives.recorded(drive, generation);
        }
        let down = effects.down.take()?;
        if let Some(membership) = self.tables.drives.lost(drive) {
            self.forget_drive(drive);
            for left in self.tables.drives.serving() {
                self.post(left, Event::Members(membership));
            }
        }
        Some(down)
    }

    /// Leases memory for a read; the drive hears of it at once, or when there is some.
    fn wait_for_drive(&self, drive: u8, wait: MemoryWait) {
        let MemoryWait { bytes, token } = wait;
        let outside = self.outside.clone();
        let sink = Arc::new(DriveSink { outside, drive });
        let memory = match self.tables.pool.lease(bytes, Waiter { sink, token }) {
            Ok(Leased::Now(memory)) => memory,
            Ok(Leased::Later(_)) => {
                self.tables.spare();
                return;
            }
            // What was written with a larger pool than this one.
            Err(_) => return self.post(drive, Event::NoMemory(wait)),
        };
        let waited_ns = 0;
        let grant = Grant {
            token,
            memory,
            waited_ns,
        };
        self.post(drive, Event::Granted(grant));
    }

    /// Refuses new calls, and those that wait for memory.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        for waiter in self.waiting.take_all() {
            if self.tables.pool.cancel(waiter.ticket) {
                waiter.refuse(PutError::Draining);
            }
        }
    }
}
