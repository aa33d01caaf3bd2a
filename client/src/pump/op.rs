//! One request frame and its memory, as the caller keeps it while the core works on it.
//!
//! The core owns no payload and borrows none between polls: an [`Op`] with its keys, sources and destinations stays in a
//! table of the caller, which lends it to each poll. So the compiler proves what a NIC would need a fence for: a reply that
//! comes after a call has returned finds no op, and therefore no buffer to land in. The blocking client's table lives on
//! the caller's stack and borrows the caller's slices; the async client's table owns what it holds ([`Bytes::Owned`]) until
//! the op is finished or fenced.

mod reply;
mod value;

use std::sync::Arc;

use memkv_proto::blocks::TraceContext;
use memkv_proto::checksum::{Crc32c, crc32c};
use memkv_proto::op::{Attrs, Condition, OpCode, PutEntry};
use memkv_proto::reply::Pong;
use memkv_proto::request::{encode_keys, encode_ping, encode_stat, encode_writes};
use memkv_proto::stat::StatKey;
use memkv_proto::{EncodeError, FrameHead};
use memkv_telemetry::Timeline;
use memkv_telemetry::clock::Tick;

use crate::error::OpError;
use crate::pool::Load;

/// Bytes that a request sends: borrowed for a blocking call, owned (and shared, not copied) for an async one.
#[derive(Debug, Clone)]
pub enum Bytes<'a> {
    /// The caller's memory, untouched and unmoved until the call returns.
    Borrowed(&'a [u8]),
    /// Memory that the op owns.
    Owned(Arc<[u8]>),
    /// Memory that the op owns, taken over from a `Vec` without a copy.
    Vec(Vec<u8>),
}

impl Bytes<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(slice) => slice,
            Self::Owned(shared) => shared,
            Self::Vec(vec) => vec,
        }
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(slice: &'a [u8]) -> Self {
        Self::Borrowed(slice)
    }
}

impl From<Vec<u8>> for Bytes<'_> {
    fn from(vec: Vec<u8>) -> Self {
        Self::Vec(vec)
    }
}

impl From<Arc<[u8]>> for Bytes<'_> {
    fn from(shared: Arc<[u8]>) -> Self {
        Self::Owned(shared)
    }
}

/// Where a value goes.
#[derive(Debug)]
pub enum Dest<'a> {
    /// A `Vec` that is allocated once the value's length is known, authenticated and within the limit.
    Vec(Vec<u8>),
    /// The caller's buffer; a longer value is [`OpError::BufferTooSmall`].
    Slice(&'a mut [u8]),
    /// A buffer that the op owns, handed back with the result.
    Owned(Vec<u8>),
}

/// What the server told about a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The store's sequence number of the put that wrote it.
    pub version: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its CRC32C.
    pub crc: u32,
    /// Its attributes.
    pub attrs: Attrs,
}

/// What became of one entry; `Ok(None)` is a miss.
pub type EntryResult<T> = Result<Option<T>, OpError>;

/// A value to write.
#[derive(Debug)]
pub struct WriteEntry<'a> {
    /// Its key.
    pub key: Bytes<'a>,
    /// Its bytes, sent from where they lie.
    pub value: Bytes<'a>,
    /// Its attributes.
    pub attrs: Attrs,
    /// When to write it.
    pub condition: Condition,
    /// The version it got. A put never misses.
    pub result: Option<Result<u64, OpError>>,
}

/// A value to read.
#[derive(Debug)]
pub struct ReadEntry<'a> {
    /// Its key.
    pub key: Bytes<'a>,
    /// Where it goes.
    pub dest: Dest<'a>,
    /// What is known of it, once it is whole and verified.
    pub result: Option<EntryResult<Meta>>,
    pub(crate) state: Receiving,
}

/// How far a value has come in: `planned` bytes are announced by segments, `got` of them have arrived.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Receiving {
    #[default]
    Nothing,
    /// Bytes land in `dest`.
    Into {
        meta: Meta,
        planned: u64,
        got: u64,
        crc: Crc32c,
    },
    /// Bytes are dropped: the destination is too small.
    Discard { meta: Meta, planned: u64, got: u64 },
}

impl<'a> ReadEntry<'a> {
    /// An entry that hasn't been sent yet.
    pub fn new(key: Bytes<'a>, dest: Dest<'a>) -> Self {
        Self {
            key,
            dest,
            result: None,
            state: Receiving::Nothing,
        }
    }
}

/// A key to delete or to look for.
#[derive(Debug)]
pub struct KeyEntry<'a> {
    /// The key.
    pub key: Bytes<'a>,
    /// Whether it was there.
    pub result: Option<Result<bool, OpError>>,
}

/// What a request carries.
#[derive(Debug)]
pub enum Body<'a> {
    /// Put and BatchWrite.
    Write(Vec<WriteEntry<'a>>),
    /// Get and BatchRead.
    Read(Vec<ReadEntry<'a>>),
    /// Delete and Exists.
    Keys(Vec<KeyEntry<'a>>),
    /// Ping and Stat: nothing goes out.
    Bare(Option<Result<BareReply, OpError>>),
}

/// What comes back to a request without entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BareReply {
    /// To a Ping.
    Pong(Pong),
    /// To a Stat: the figures that this build knows.
    Stat(Vec<(StatKey, u64)>),
}

/// When the steps of an op happened; absent where one was not reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Steps {
    /// It was submitted to the core.
    pub submitted: Option<Tick>,
    /// Its frame began to be made: its values to be checksummed.
    pub begun: Option<Tick>,
    /// Its frame was sealed and may leave.
    pub sealed: Option<Tick>,
    /// The last byte of its frame was handed to the kernel.
    pub sent: Option<Tick>,
    /// The first frame of its reply was authenticated.
    pub answered: Option<Tick>,
    /// All its entries were settled.
    pub settled: Option<Tick>,
}

/// One request frame: what it asks, the memory it works on, and what became of it.
#[derive(Debug)]
pub struct Op<'a> {
    /// Which server it goes to.
    pub server: usize,
    /// What it asks.
    pub code: OpCode,
    /// Which connections it may use.
    pub load: Load,
    /// When it is given up.
    pub deadline: Tick,
    /// The name space of its keys; writes have one per entry.
    pub namespace: u32,
    /// The caller's span, parent of the server's.
    pub trace: Option<TraceContext>,
    /// Its entries.
    pub body: Body<'a>,
    /// When its steps happened.
    pub steps: Steps,
    /// The server's span, where it told.
    pub reply_span: Option<[u8; 8]>,
    /// Its record, where somebody exports it.
    pub(crate) timeline: Option<Box<Timeline>>,
    unsettled: usize,
    /// Entries that are settled by payload whose MAC isn't verified yet; see [`Op::vouched`].
    unverified: Vec<usize>,
}

/// Where the bytes of a segment go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    /// To the entry's destination.
    Entry,
    /// Nowhere.
    Discard,
}

impl<'a> Op<'a> {
    /// A request that was not sent yet.
    pub fn new(server: usize, code: OpCode, load: Load, deadline: Tick, body: Body<'a>) -> Self {
        let unsettled = match &body {
            Body::Write(entries) => entries.len(),
            Body::Read(entries) => entries.len(),
            Body::Keys(entries) => entries.len(),
            Body::Bare(_) => 1,
        };
        Self {
            server,
            code,
            load,
            deadline,
            namespace: 0,
            trace: None,
            body,
            steps: Steps::default(),
            reply_span: None,
            timeline: None,
            unsettled,
            unverified: Vec::new(),
        }
    }

    /// Whether every entry has its result.
    pub fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    /// The bytes of entry `idx` that follow the control part of a write.
    pub(crate) fn payload(&self, idx: usize) -> &[u8] {
        match &self.body {
            Body::Write(entries) => entries.get(idx).map_or(&[], |entry| entry.value.as_slice()),
            _ => &[],
        }
    }

    /// How many entries have payload to send.
    pub(crate) fn payload_count(&self) -> usize {
        match &self.body {
            Body::Write(entries) => entries.len(),
            _ => 0,
        }
    }

    /// Settles whatever has no result yet, and whatever has one that nobody vouched for.
    pub(crate) fn fail_unsettled(&mut self, error: &OpError) {
        self.distrust();
        match &mut self.body {
            Body::Write(entries) => {
                for entry in entries.iter_mut().filter(|entry| entry.result.is_none()) {
                    entry.result = Some(Err(error.clone()));
                }
            }
            Body::Read(entries) => {
                for entry in entries.iter_mut().filter(|entry| entry.result.is_none()) {
                    entry.result = Some(Err(error.clone()));
                }
            }
            Body::Keys(entries) => {
                for entry in entries.iter_mut().filter(|entry| entry.result.is_none()) {
                    entry.result = Some(Err(error.clone()));
                }
            }
            Body::Bare(result) => {
                result.get_or_insert_with(|| Err(error.clone()));
            }
        }
        self.unsettled = 0;
    }

    /// Puts a read that can be sent again back into its first state; true when it is one.
    pub(crate) fn reset_read(&mut self) -> bool {
        self.unverified.clear();
        match &mut self.body {
            Body::Read(entries) => {
                for entry in entries.iter_mut() {
                    entry.result = None;
                    entry.state = Receiving::Nothing;
                }
                self.unsettled = entries.len();
            }
            Body::Keys(entries) if self.code == OpCode::Exists => {
                for entry in entries.iter_mut() {
                    entry.result = None;
                }
                self.unsettled = entries.len();
            }
            _ => return false,
        }
        self.steps = Steps {
            submitted: self.steps.submitted,
            ..Steps::default()
        };
        true
    }
}

impl Op<'_> {
    /// Appends the control part and says what the frame's head is. Values are checksummed here, right before they leave.
    ///
    /// # Errors
    /// When the op breaks a limit that whoever planned it must keep.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<FrameHead, EncodeError> {
        let trace = self.trace.as_ref();
        match &self.body {
            Body::Write(entries) => {
                let entries = entries.iter().map(|entry| PutEntry {
                    key: entry.key.as_slice(),
                    attrs: entry.attrs,
                    condition: entry.condition,
                    value_len: entry.value.as_slice().len() as u64,
                    crc: crc32c(entry.value.as_slice()),
                });
                encode_writes(out, self.code, trace, entries)
            }
            Body::Read(entries) => {
                let keys = entries.iter().map(|entry| entry.key.as_slice());
                encode_keys(out, self.code, trace, self.namespace, keys)
            }
            Body::Keys(entries) => {
                let keys = entries.iter().map(|entry| entry.key.as_slice());
                encode_keys(out, self.code, trace, self.namespace, keys)
            }
            Body::Bare(_) if self.code == OpCode::Stat => Ok(encode_stat()),
            Body::Bare(_) => Ok(encode_ping(out, 0)),
        }
    }
}
