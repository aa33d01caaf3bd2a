//! How changes and drives end: answers, failures, and what is kept of their times.

use std::collections::BTreeSet;
use std::io;

use super::{Answer, Context, DriveLog, Note, Purpose, Reply, Times, Work};
use crate::api::{CompletionResult, IoTimes};
use crate::clock::Tick;
use crate::error::{DeleteError, GetError, PutError};

/// How long puts are refused after one found no room.
pub(super) const PAUSE_NS: u64 = 100_000_000;
/// How often the log tells of that.
const TELL_NS: u64 = 10_000_000_000;

impl DriveLog {
    /// Counts a failed I/O; too many of them take the drive out.
    pub(super) fn media_error(&mut self, context: &mut Context<'_>, why: &io::Error) {
        self.superblock.media_errors += 1;
        self.superblock.last_error_ms = context.unix_ms;
        context.effects.notes.push(Note::IoFailed {
            errors: self.superblock.media_errors,
            why: why.to_string(),
        });
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

    /// Notes that the file system under the drive takes no more: that is no fault of the drive,
    /// which goes on, and soon tries again.
    pub(super) fn no_room(&mut self, context: &mut Context<'_>, why: &io::Error) {
        self.no_room_until = Tick(context.now.0 + PAUSE_NS);
        if context.now >= self.tell_no_room {
            self.tell_no_room = Tick(context.now.0 + TELL_NS);
            let why = why.to_string();
            context.effects.notes.push(Note::NoRoom { why });
        }
    }

    /// Whether puts are refused because the drive has just taken no more. What is in flight ends
    /// meanwhile, so that its room can be given back.
    pub(super) fn has_no_room(&self, context: &Context<'_>) -> bool {
        context.now < self.no_room_until
    }

    /// Takes the drive out: everything waiting fails, nothing new is taken.
    pub(super) fn fail(&mut self, context: &mut Context<'_>, why: String) {
        if self.down {
            return;
        }
        let note = Note::TakenOut { why: why.clone() };
        context.effects.notes.push(note);
        self.down = true;
        self.superblock.blacklisted = self.config.blacklist;
        context.effects.down = Some(why);
    }

    /// Ends everything, also what is in flight: no completion will come.
    pub(super) fn abandon(&mut self, context: &mut Context<'_>, why: String) {
        let purposes = std::mem::take(&mut self.purposes);
        if !self.down {
            // A log that has finished ends with its thread: nothing is lost.
            if !self.finished() {
                let note = Note::Lost { why: why.clone() };
                context.effects.notes.push(note);
            }
            self.down = true;
            context.effects.down = Some(why.clone());
        }
        self.checkpoint = None;
        self.fail_all(context);
        let reads: Vec<usize> = self.reads.iter().map(|(job, _)| job).collect();
        for job in reads {
            self.end_read(context, job, |drive| {
                let source = io::Error::other(why.clone());
                Err(GetError::Io { drive, source })
            });
        }
        for (_, purpose) in purposes {
            if let Purpose::Scan(job) = purpose {
                self.scan(context, *job);
            }
        }
    }

    /// Fails what isn't in the kernel's hands.
    pub(super) fn fail_all(&mut self, context: &mut Context<'_>) {
        self.stalled.clear();
        self.ready.clear();
        self.batches = [None, None];
        self.held.clear();
        self.to_flush.clear();
        self.journal.pending.clear();
        let in_flight: BTreeSet<usize> = self
            .purposes
            .iter()
            .flat_map(|(_, purpose)| match purpose {
                Purpose::Batch { ops, .. } | Purpose::Flush { ops, .. } => ops.clone(),
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
    pub(super) fn fail_op(&mut self, context: &mut Context<'_>, op: usize, why: &io::Error) {
        let source = match why.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(why.kind(), why.to_string()),
        };
        let drive = self.drive_idx();
        let full = is_no_room(why);
        let result = match self.ops[op].work {
            Work::Put(_) => CompletionResult::Committed(Err(match full {
                true => PutError::DriveFull { drive, source },
                false => PutError::Io { drive, source },
            })),
            Work::Delete(_) => CompletionResult::Deleted(Err(match full {
                true => DeleteError::DriveFull { drive, source },
                false => DeleteError::Io { drive, source },
            })),
        };
        self.finish(context, op, result);
    }

    /// Answers a change and starts the next one of its key.
    pub(super) fn finish(
        &mut self,
        context: &mut Context<'_>,
        op: usize,
        result: CompletionResult,
    ) {
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

    pub(super) fn io_times(&self, context: &Context<'_>, reply: &Reply, times: &Times) -> IoTimes {
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
}

/// Whether a write failed because there is no room for it, in the file system or in what a file may
/// have: not the drive's fault.
pub(super) fn is_no_room(why: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(why.kind(), FileTooLarge | QuotaExceeded | StorageFull)
}
