//! The drives' threads as callers and the logic see them.

use std::sync::Arc;
use std::time::Duration;

use super::{Outside, Shared};
use crate::api::DriveIdx;
use crate::clock::{Tick, now, unix_ms};
use crate::config::EngineConfig;
use crate::drive::thread::DriveHandle;
use crate::error::ShutdownError;
use crate::segment_log::Event;
use crate::status::{DriveState, DriveStatus, EngineStatus};

/// A drive's handle, or why it was left out at the start.
pub(super) type Found = Result<Arc<DriveHandle>, String>;

/// Clock, inboxes and threads: what the engine's logic runs in outside a simulator.
pub(super) struct Drives {
    list: Vec<Found>,
    /// Of the pool.
    findings: Vec<String>,
}

impl Outside for Drives {
    fn now(&self) -> Tick {
        now()
    }

    fn unix_ms(&self) -> u64 {
        unix_ms()
    }

    fn offer(&self, drive: u8, event: Event) -> Result<(), Event> {
        match self.list.get(usize::from(drive)) {
            Some(Ok(drive)) => drive.inbox.offer(event),
            _ => Err(event),
        }
    }

    fn post(&self, drive: u8, event: Event) -> Result<(), Event> {
        match self.list.get(usize::from(drive)) {
            Some(Ok(drive)) => drive.inbox.push(event),
            _ => Err(event),
        }
    }
}

impl Drives {
    pub(super) fn new(list: Vec<Found>, findings: Vec<String>) -> Arc<Self> {
        Arc::new(Self { list, findings })
    }

    pub(super) fn status(&self, shared: &Shared) -> EngineStatus {
        let tables = &shared.tables;
        let (cached, slabs) = (tables.cache.counts(), tables.pool.counts());
        tables.refresh_gauges();
        EngineStatus {
            mode: tables.config.mode,
            entries: tables.index.len() as u64,
            version: tables.last_version(),
            hot_entries: cached.entries as u64,
            hot_bytes: cached.bytes as u64,
            pool_bytes: tables.pool.capacity_bytes() as u64,
            pool_free_bytes: (slabs.free * tables.pool.slab_bytes()) as u64,
            pool_waiting: slabs.waiting as u64,
            evictions: tables.evictions(),
            never_read_bytes: tables.never_read_bytes(),
            drives: self.drive_status(shared),
            findings: self.findings(),
        }
    }

    fn drive_status(&self, shared: &Shared) -> Vec<DriveStatus> {
        let config: &EngineConfig = &shared.tables.config;
        let status = |(idx, drive): (usize, &Found)| {
            let idx16 = DriveIdx(idx as u16);
            let media = config.drives[idx].media.clone();
            let Ok(drive) = drive else {
                let state = DriveState::Down(drive.as_ref().err().cloned().unwrap_or_default());
                return DriveStatus::down(idx16, media, state);
            };
            let counts = *drive.counts.lock();
            let state = match shared.tables.drives.serves(idx as u8) {
                true => DriveState::Up,
                false => DriveState::Down(drive.why_down.lock().clone()),
            };
            DriveStatus {
                idx: idx16,
                media,
                state,
                capacity_bytes: drive.capacity_bytes,
                used_bytes: counts.used_bytes,
                journal_fill: counts.journal_fill,
                errors: counts.errors,
                corruptions: counts.corruptions,
                written_bytes: counts.written_bytes,
                read_bytes: counts.read_bytes,
                direct_io: drive.direct_io,
            }
        };
        self.list.iter().enumerate().map(status).collect()
    }

    fn findings(&self) -> Vec<String> {
        let mut findings = self.findings.clone();
        for (idx, drive) in self.list.iter().enumerate() {
            match drive {
                Ok(drive) => findings.extend(drive.findings.lock().iter().cloned()),
                Err(why) => findings.push(format!("drive {idx} is left out: {why}")),
            }
        }
        findings
    }

    /// Tells the drives to finish.
    pub(super) fn stop(&self) {
        for drive in self.list.iter().flatten() {
            // One that has ended needn't be told.
            let _ = drive.inbox.push(Event::Shutdown);
        }
    }

    /// Waits for the drives' threads until the deadline.
    pub(super) fn join(&self, deadline: Duration) -> Result<(), ShutdownError> {
        let until = std::time::Instant::now() + deadline;
        let mut late = 0;
        for drive in self.list.iter().flatten() {
            let mut thread = drive.thread.lock();
            while thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
                if std::time::Instant::now() >= until {
                    late += 1;
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if let Some(ended) = thread.take_if(|thread| thread.is_finished()) {
                let _ = ended.join();
            }
        }
        if late > 0 {
            Err(ShutdownError::Deadline { drives: late })
        } else {
            Ok(())
        }
    }
}
