//! The words of the engine's interface: what a caller asks for, and how answers come back.

use std::fmt;

use crate::clock::Tick;

use crate::error::{DeleteError, GetError, PutError, ScanError};
use crate::lease::{ReadLease, WriteLease};

/// The longest key of the engine; a front may allow less.
pub const KEY_BYTES_MAX: usize = 65_536;
/// The longest value of the engine.
pub const VALUE_BYTES_MAX: u64 = 1 << 30;

/// A caller's name for one call; it comes back in the [`Completion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The answer of a call: here and now, or later in the caller's queue.
#[derive(Debug)]
#[must_use = "a pending step completes in the caller's queue; a ready one holds the answer"]
pub enum Step<T> {
    /// Done, without I/O and without waiting.
    Ready(T),
    /// One [`Completion`] with the caller's token will land in its queue.
    Pending,
}

/// How a store may treat an entry when space runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Class {
    /// May be evicted.
    #[default]
    Evictable,
    /// Leaves by delete or expiry only.
    Durable,
}

/// What an entry carries beside its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs {
    /// What kind of value a front stored; 0 for plain bytes. The engine doesn't interpret it.
    pub type_tag: u8,
    /// A front's own bits. The engine doesn't interpret them.
    pub flags: u32,
    /// Unix milliseconds from which on the entry is a miss; 0 = never.
    pub expiry_ms: u64,
    /// How the store may treat the entry when space runs out.
    pub class: Class,
}

/// What must hold for a put to be applied; decided when it commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// There is no such entry.
    IfAbsent,
    /// The entry is there with this version.
    IfVersion(u64),
}

/// One put.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Keys of different namespaces never meet.
    pub namespace: u32,
    /// 1 to [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// Length of the value, up to [`VALUE_BYTES_MAX`].
    pub len: u64,
    /// What the entry carries.
    pub attrs: Attrs,
    /// What must hold when it commits.
    pub condition: Condition,
}

/// One get of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// Comes back in the completion, where the answer isn't immediate.
    pub token: Token,
    /// Namespace of the key.
    pub namespace: u32,
    /// The key.
    pub key: &'a [u8],
}

/// A put that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The store's rising sequence number; higher = committed later.
    pub version: u64,
}

/// 0-based position of a drive in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DriveIdx(pub u16);

impl fmt::Display for DriveIdx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The hot tier, or the store of memory mode.
    Ram,
    /// A drive.
    Drive,
}

/// Where a call that didn't end at once spent its time. What wasn't measured is absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct IoTimes {
    /// Waiting for slab memory.
    pub lease_wait_ns: Option<u64>,
    /// From the caller's hand-over to the submission of the I/O that completed last.
    pub queue_ns: Option<u64>,
    /// From submission to completion of the I/O that completed last.
    pub device_ns: Option<u64>,
    /// From that completion to this one.
    pub complete_ns: Option<u64>,
    /// I/Os that the call took.
    pub io_count: u32,
    /// The drive of the I/O that completed last.
    pub drive: Option<DriveIdx>,
    /// When the first I/O was submitted.
    pub first_start: Option<Tick>,
}

/// The end of one pending call.
#[derive(Debug)]
pub struct Completion {
    /// The token of the call.
    pub token: Token,
    /// Its answer.
    pub result: CompletionResult,
    /// Where its time went.
    pub io: IoTimes,
}

/// The answer of a pending call.
#[derive(Debug)]
pub enum CompletionResult {
    /// Of [`Engine::reserve`](crate::Engine::reserve).
    Reserved(Result<WriteLease, PutError>),
    /// Of [`WriteLease::advance`].
    Advanced(Result<WriteLease, PutError>),
    /// Of [`WriteLease::commit`].
    Committed(Result<Committed, PutError>),
    /// Of [`Engine::get`](crate::Engine::get), `get_many` and [`ReadLease::advance`].
    Got(Result<Option<ReadLease>, GetError>),
    /// Of [`Engine::delete`](crate::Engine::delete): whether there was such an entry.
    Deleted(Result<bool, DeleteError>),
    /// Of [`Engine::scan`](crate::Engine::scan).
    Scanned(Result<ScanPage, ScanError>),
}

/// Where a scan goes on. Opaque; [`Cursor::START`] begins one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

impl Cursor {
    /// The beginning of a scan.
    pub const START: Self = Self(0);
}

/// One entry that a scan met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEntry {
    /// Its key.
    pub key: Vec<u8>,
    /// What it carries.
    pub attrs: Attrs,
    /// Its version.
    pub version: u64,
    /// Length of its value.
    pub value_len: u64,
}

/// A part of a scan.
///
/// An entry that is there during the whole scan is met at least once; one that comes or goes
/// meanwhile may or may not be.
#[derive(Clone, Debug, Default)]
pub struct ScanPage {
    /// What was met, in no order.
    pub entries: Vec<ScanEntry>,
    /// Where to go on; `None` at the end.
    pub next: Option<Cursor>,
}
