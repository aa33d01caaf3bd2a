//! What a drive's log is told, and what it wants done.

use std::sync::Arc;

use memkv_telemetry::{CrcSource, EvictionReason};

use crate::api::{Class, Completion, CompletionResult, IoTimes, Token};
use crate::clock::Tick;
use crate::drive::{Io, IoDone};
use crate::engine::{Membership, Tables};
use crate::entry::OwnedPut;
use crate::index::{KeyHash, Location};
use crate::queue::CompletionSender;
use crate::segment_log::ScanJob;
use crate::slab::{Grant, ReadMemory};
use crate::stream::{StripeRead, StripeWrite, Stripes};

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
    /// Memory that the pool can never give.
    NoMemory(MemoryWait),
    Io(IoDone),
    /// Nothing else waits: send off what was gathered.
    Idle,
    /// Another drive is lost: to be put on record.
    Members(Membership),
    /// Finish, write a checkpoint, stop.
    Shutdown,
    /// Nothing does this drive's I/O any more, and what is in flight won't be heard of. Why.
    Lost(String),
}

/// Memory of the pool that a read needs, and the hot tier couldn't spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryWait {
    pub(crate) bytes: usize,
    /// Comes back in [`Event::Granted`].
    pub(crate) token: u64,
}

/// Something that is to be counted or logged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Note {
    IoFailed {
        errors: u64,
        why: String,
    },
    /// The file system takes no more.
    NoRoom {
        why: String,
    },
    TakenOut {
        why: String,
    },
    Lost {
        why: String,
    },
    CheckpointTooLong {
        area: u64,
    },
    CheckpointFailed {
        why: String,
    },
    /// Entries that had expired when their segment was reclaimed.
    Expired {
        count: u64,
    },
    /// Other entries of a segment that was reclaimed, and the bytes of them that nobody read.
    Evicted {
        count: u64,
        never_read: u64,
    },
    /// What of it, and whether the value left the index with it.
    Corrupt {
        what: &'static str,
        purged: bool,
    },
}

impl Note {
    /// Tells the operator of it.
    pub(crate) fn tell(self, drive: u8, tables: &Tables) {
        match self {
            Self::IoFailed { errors, why } => {
                tracing::warn!(drive, errors, error = why, "drive i/o failed");
            }
            Self::NoRoom { why } => tracing::warn!(
                drive,
                error = why,
                "a write found no room: puts are refused and reads go on; free space in the \
                 drive's file system"
            ),
            Self::TakenOut { why } => tracing::error!(drive, why, "drive is taken out"),
            Self::Lost { why } => tracing::error!(drive, why, "drive is lost"),
            Self::CheckpointTooLong { area } => {
                tracing::error!(drive, area, "the checkpoint doesn't fit");
            }
            Self::CheckpointFailed { why } => {
                tracing::warn!(drive, error = why, "checkpoint write failed");
            }
            Self::Expired { count } => tables.count_expired(count),
            Self::Evicted { count, never_read } => tables.count_evictions(count, never_read),
            Self::Corrupt { what, purged } => {
                let metrics = &tables.metrics;
                metrics.crc_mismatch(CrcSource::Read);
                tracing::error!(drive, what, "a value is corrupt; purged");
                if purged {
                    // Somebody was reading it, so its bytes aren't unread ones.
                    metrics.evicted(EvictionReason::Corrupt, 1, 0);
                }
            }
        }
    }
}

/// What a log wants done: all that a step does outside the log itself and [`Tables`].
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) ios: Vec<Io>,
    pub(crate) answers: Vec<Answer>,
    /// Events for logs of other drives, or for this one later.
    pub(crate) elsewhere: Vec<(u8, Event)>,
    pub(crate) waits: Vec<MemoryWait>,
    /// The member generation that the superblock has now.
    pub(crate) recorded: Option<u64>,
    pub(crate) notes: Vec<Note>,
    /// The drive failed and must not be used any more.
    pub(crate) down: Option<String>,
}

/// What surrounds one step: the time is told, not asked for.
pub(crate) struct Context<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) now: Tick,
    pub(crate) unix_ms: u64,
    pub(crate) effects: &'a mut Effects,
}

impl Context<'_> {
    /// Tells the drives that these parts belong to nothing.
    pub(super) fn bury(&mut self, parts: &[Location]) {
        let events = parts
            .iter()
            .map(|part| (part.drive_idx, Event::Dead(*part)));
        self.effects.elsewhere.extend(events);
    }
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
