//! From a call to request frames and back: which entry goes to which server in which frame, and where its result belongs.
//!
//! A frame holds what the protocol and the configuration allow: `MEMKV_MAX_BATCH_SIZE` entries of a read or write,
//! [`limits::BATCH_ENTRIES_MAX`] keys of an exists or delete, a control part of [`limits::CONTROL_BYTES_MAX`]. A call may be
//! of any size: it becomes as many frames as it takes. Entries that no server may ever see (a key of 0 or 513 bytes) get
//! their error here.

use memkv_proto::limits;
use memkv_proto::op::{Attrs, Condition, OpCode};
use memkv_telemetry::clock::Tick;

use crate::error::OpError;
use crate::pool::Load;
use crate::pump::op::{
    BareReply, Body, Bytes, Dest, EntryResult, KeyEntry, Meta, Op, ReadEntry, WriteEntry,
};
use crate::router::Router;

/// Payload of one write frame, unless a single value is larger: its checksums are computed before the frame leaves, and the
/// values should still be in the cache (or at least in the TLB) when the kernel copies them.
const WRITE_FRAME_BYTES: u64 = 16 * 1024 * 1024;

/// Control bytes of one entry beside its key, rounded up generously.
const ENTRY_CONTROL_BYTES: usize = 96;

/// What limits a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameLimits {
    pub(crate) entries: usize,
    pub(crate) payload: u64,
}

/// The frames of one call.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) ops: Vec<Op<'a>>,
    /// Per op, the place in the call of each of its entries.
    order: Vec<Vec<u32>>,
    early: Vec<(u32, OpError)>,
    count: usize,
}

struct Part<E> {
    server: usize,
    entries: Vec<E>,
    order: Vec<u32>,
    control: usize,
    payload: u64,
}

struct Batcher<E> {
    open: Vec<Part<E>>,
    full: Vec<Part<E>>,
    limits: FrameLimits,
    early: Vec<(u32, OpError)>,
    count: u32,
}

impl<E> Batcher<E> {
    fn new(servers: usize, limits: FrameLimits) -> Self {
        let open = (0..servers).map(|server| Part::new(server)).collect();
        Self {
            open,
            full: Vec::new(),
            limits,
            early: Vec::new(),
            count: 0,
        }
    }

    fn push(&mut self, server: usize, key_len: usize, payload: u64, entry: E) {
        let idx = self.count;
        self.count += 1;
        if let Err(error) = check(key_len, payload) {
            self.early.push((idx, error));
            return;
        }
        let control = key_len + ENTRY_CONTROL_BYTES;
        let part = &mut self.open[server];
        let full = part.entries.len() >= self.limits.entries
            || part.control + control > limits::CONTROL_BYTES_MAX
            || part.payload + payload > self.limits.payload;
        if full && !part.entries.is_empty() {
            self.full.push(std::mem::replace(part, Part::new(server)));
        }
        let part = &mut self.open[server];
        part.entries.push(entry);
        part.order.push(idx);
        part.control += control;
        part.payload += payload;
    }

    fn plan<'a>(
        self,
        code: impl Fn(usize) -> OpCode,
        load: Load,
        deadline: Tick,
        body: impl Fn(Vec<E>) -> Body<'a>,
    ) -> Plan<'a> {
        let mut plan = Plan {
            ops: Vec::new(),
            order: Vec::new(),
            early: self.early,
            count: self.count as usize,
        };
        // Full parts first: they are the older ones of their server.
        for part in self
            .full
            .into_iter()
            .chain(self.open)
            .filter(|part| !part.entries.is_empty())
        {
            let code = code(plan.count);
            plan.ops.push(Op::new(
                part.server,
                code,
                load,
                deadline,
                body(part.entries),
            ));
            plan.order.push(part.order);
        }
        plan
    }
}

impl<E> Part<E> {
    fn new(server: usize) -> Self {
        Self {
            server,
            entries: Vec::new(),
            order: Vec::new(),
            control: 0,
            payload: 0,
        }
    }
}

fn check(key_len: usize, payload: u64) -> Result<(), OpError> {
    if key_len == 0 || key_len > limits::KEY_BYTES_MAX {
        return Err(OpError::BadKey {
            len: key_len,
            max: limits::KEY_BYTES_MAX,
        });
    }
    if payload > limits::VALUE_BYTES_MAX {
        return Err(OpError::TooLarge {
            len: payload,
            max: limits::VALUE_BYTES_MAX,
        });
    }
    Ok(())
}

impl<'a> Plan<'a> {
    /// Reads of `items`, each to its destination.
    pub(crate) fn reads(
        router: &Router,
        items: impl IntoIterator<Item = (Bytes<'a>, Dest<'a>)>,
        entries_max: usize,
        load: Load,
        deadline: Tick,
        namespace: u32,
    ) -> Self {
        let limits = FrameLimits {
            entries: entries_max.min(limits::BATCH_ENTRIES_MAX),
            payload: u64::MAX,
        };
        let mut batcher = Batcher::new(router.nodes().len(), limits);
        for (key, dest) in items {
            let (server, len) = (router.pick(key.as_slice()), key.as_slice().len());
            batcher.push(server, len, 0, ReadEntry::new(key, dest));
        }
        let code = |count| {
            if count == 1 {
                OpCode::Get
            } else {
                OpCode::BatchRead
            }
        };
        batcher
            .plan(code, load, deadline, Body::Read)
            .in_namespace(namespace)
    }

    /// Writes of `items`.
    pub(crate) fn writes(
        router: &Router,
        items: impl IntoIterator<Item = (Bytes<'a>, Bytes<'a>, Attrs, Condition)>,
        entries_max: usize,
        deadline: Tick,
    ) -> Self {
        let entries = entries_max.min(limits::BATCH_ENTRIES_MAX);
        let mut batcher = Batcher::new(
            router.nodes().len(),
            FrameLimits {
                entries,
                payload: WRITE_FRAME_BYTES,
            },
        );
        let mut bytes = 0;
        for (key, value, attrs, condition) in items {
            let (server, key_len) = (router.pick(key.as_slice()), key.as_slice().len());
            let value_len = value.as_slice().len() as u64;
            bytes += value_len;
            batcher.push(
                server,
                key_len,
                value_len,
                WriteEntry {
                    key,
                    value,
                    attrs,
                    condition,
                    result: None,
                },
            );
        }
        let code = |count| {
            if count == 1 {
                OpCode::Put
            } else {
                OpCode::BatchWrite
            }
        };
        batcher.plan(code, Load::of_bytes(bytes), deadline, Body::Write)
    }

    /// Deletes or looks for `keys`.
    pub(crate) fn keys(
        router: &Router,
        code: OpCode,
        keys: impl IntoIterator<Item = Bytes<'a>>,
        deadline: Tick,
        namespace: u32,
    ) -> Self {
        let limits = FrameLimits {
            entries: limits::BATCH_ENTRIES_MAX,
            payload: u64::MAX,
        };
        let mut batcher = Batcher::new(router.nodes().len(), limits);
        for key in keys {
            let (server, len) = (router.pick(key.as_slice()), key.as_slice().len());
            batcher.push(server, len, 0, KeyEntry { key, result: None });
        }
        batcher
            .plan(|_| code, Load::Small, deadline, Body::Keys)
            .in_namespace(namespace)
    }

    fn in_namespace(mut self, namespace: u32) -> Self {
        for op in &mut self.ops {
            op.namespace = namespace;
        }
        self
    }

    /// A request without entries to one server.
    pub(crate) fn bare(server: usize, code: OpCode, deadline: Tick) -> Self {
        let op = Op::new(server, code, Load::Small, deadline, Body::Bare(None));
        Self {
            ops: vec![op],
            order: vec![vec![0]],
            early: Vec::new(),
            count: 1,
        }
    }

    /// The load to check out a lane for.
    pub(crate) fn load(&self) -> Load {
        self.ops.first().map_or(Load::Small, |op| op.load)
    }

    /// Settles everything with `error`: the call never got as far as a connection.
    pub(crate) fn fail(&mut self, error: &OpError) {
        for op in &mut self.ops {
            op.fail_unsettled(error);
        }
    }

    fn collect<T>(
        self,
        take: impl Fn(Body<'a>) -> Vec<Result<T, OpError>>,
    ) -> Vec<Result<T, OpError>> {
        let mut results: Vec<Option<Result<T, OpError>>> = (0..self.count).map(|_| None).collect();
        for (idx, error) in self.early {
            results[idx as usize] = Some(Err(error));
        }
        for (op, order) in self.ops.into_iter().zip(self.order) {
            for (result, idx) in take(op.body).into_iter().zip(order) {
                results[idx as usize] = Some(result);
            }
        }
        results
            .into_iter()
            .map(|result| result.unwrap_or(Err(OpError::Closed)))
            .collect()
    }

    /// The versions that were written, in the call's order.
    pub(crate) fn written(self) -> Vec<Result<u64, OpError>> {
        self.collect(|body| match body {
            Body::Write(entries) => entries
                .into_iter()
                .map(|entry| entry.result.unwrap_or(Err(OpError::Closed)))
                .collect(),
            _ => Vec::new(),
        })
    }

    /// The values that were read, in the call's order, with their buffers where the op owned them.
    pub(crate) fn read(self) -> Vec<EntryResult<(Meta, Vec<u8>)>> {
        self.collect(|body| match body {
            Body::Read(entries) => entries.into_iter().map(read_result).collect(),
            _ => Vec::new(),
        })
    }

    /// Whether each key was there, in the call's order.
    pub(crate) fn found(self) -> Vec<Result<bool, OpError>> {
        self.collect(|body| match body {
            Body::Keys(entries) => entries
                .into_iter()
                .map(|entry| entry.result.unwrap_or(Err(OpError::Closed)))
                .collect(),
            _ => Vec::new(),
        })
    }

    /// The reply to a request without entries.
    pub(crate) fn bare_reply(self) -> Result<BareReply, OpError> {
        let mut results = self.collect(|body| match body {
            Body::Bare(result) => vec![result.unwrap_or(Err(OpError::Closed))],
            _ => Vec::new(),
        });
        results.pop().unwrap_or(Err(OpError::Closed))
    }
}

fn read_result(entry: ReadEntry<'_>) -> EntryResult<(Meta, Vec<u8>)> {
    let meta = entry.result.unwrap_or(Err(OpError::Closed))?;
    Ok(meta.map(|meta| match entry.dest {
        Dest::Vec(vec) | Dest::Owned(vec) => (meta, vec),
        Dest::Slice(_) => (meta, Vec::new()),
    }))
}
