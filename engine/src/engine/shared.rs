//! What all callers of an engine share: pool, index, hot tier, and who waits for memory.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memkv_telemetry::{EngineMetrics, EvictionReason, SlabState};
use parking_lot::Mutex;

use super::memory::MemoryStore;
use super::{check_key, open};
use crate::api::{
    Committed, Completion, CompletionResult, Cursor, DriveIdx, Get, IoTimes, Put, ScanEntry,
    ScanPage, Step, Tier, Token, VALUE_BYTES_MAX,
};
use crate::cache::{Cache, CacheConfig, CacheKey, Evicted};
use crate::config::{EngineConfig, Mode};
use crate::drive::thread::DriveHandle;
use crate::entry::{Meta, OwnedPut};
use crate::error::{DeleteError, GetError, OpenError, PutError, ScanError, ShutdownError};
use crate::index::{self, Index, IndexConfig, KeyHash, KeyHasher, StoreKey};
use crate::lease::{ReadLease, WriteInner, WriteLease, zero_tail};
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::metrics::now;
use crate::queue::{CompletionQueue, CompletionSender};
use crate::segment_log::bytes::page_up;
use crate::segment_log::segment::KIND_STRIPES;
use crate::segment_log::{
    Body, DeleteWork, EXTENT_BYTES_MIN, Event, PutWork, ReadWork, Reply, ReplyTo, ScanJob,
};
use crate::slab::{
    Grant, GrantSink, Leased, PoolConfig, PoolObserver, ReadMemory, RegionConfig, RegionTier,
    SlabPool, Ticket, Waiter, WriteMemory,
};
use crate::status::{DriveState, DriveStatus, EngineStatus};
use crate::stream::{StreamBudget, StripeTable, Stripes, WriteStream, read_window};

/// Keys of a batch that are hashed and looked up together.
const BATCH: usize = 64;
/// When a caller who was refused may try again.
const BUSY_US: u32 = 1000;
/// Entries that one page of a scan looks at, at most.
const SCAN_MAX: usize = 4096;

/// What all callers of an engine share.
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) hasher: KeyHasher,
    pub(crate) index: Index,
    pub(crate) cache: Cache<Meta>,
    pub(crate) pool: SlabPool,
    pub(crate) versions: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) never_read_bytes: AtomicU64,
    pub(super) memory: MemoryStore,
    drives: OnceLock<Vec<Result<DriveHandle, String>>>,
    /// The drives' numbers for good.
    members: Vec<u16>,
    pub(crate) stripes: StripeTable,
    pub(crate) streams: StreamBudget,
    /// Values longer than this are striped.
    pub(crate) part_bytes: u64,
    draining: AtomicBool,
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    waiters: AtomicU64,
    findings: Vec<String>,
    pub(crate) metrics: EngineMetrics,
}

/// A reserve that waits for memory.
struct Waiting {
    ticket: Ticket,
    sink: Arc<ReserveSink>,
}

/// Turns a grant into a lease and hands it to the caller's queue.
struct ReserveSink {
    shared: Arc<Shared>,
    number: u64,
    token: Token,
    sender: CompletionSender,
    put: Mutex<Option<OwnedPut>>,
}

impl GrantSink for ReserveSink {
    fn granted(&self, grant: Grant) {
        self.shared.waiting.lock().remove(&self.number);
        let Some(put) = self.put.lock().take() else {
            return;
        };
        let lease = self.shared.write_lease(put, grant.memory);
        let io = IoTimes {
            lease_wait_ns: Some(grant.waited_ns),
            ..IoTimes::default()
        };
        let result = CompletionResult::Reserved(Ok(lease));
        self.sender.push(Completion {
            token: self.token,
            result,
            io,
        });
    }
}

/// Turns a grant into the next window of a put.
struct WindowSink {
    shared: Arc<Shared>,
    rest: Mutex<Option<(OwnedPut, WriteStream)>>,
    window: Range<u64>,
    sender: CompletionSender,
    token: Token,
    io: IoTimes,
}

impl WindowSink {
    fn deliver(&self, memory: WriteMemory, lease_wait_ns: Option<u64>) {
        let Some((put, stream)) = self.rest.lock().take() else {
            return;
        };
        let (shared, window, stream) = (self.shared.clone(), self.window.clone(), Some(stream));
        let inner = WriteInner {
            shared,
            put,
            memory,
            window,
            stream,
        };
        let result = CompletionResult::Advanced(Ok(WriteLease {
            inner: Box::new(inner),
        }));
        let io = IoTimes {
            lease_wait_ns,
            ..self.io
        };
        self.sender.push(Completion {
            token: self.token,
            result,
            io,
        });
    }
}

impl GrantSink for WindowSink {
    fn granted(&self, grant: Grant) {
        self.deliver(grant.memory, Some(grant.waited_ns));
    }
}

/// Hands memory to a drive's thread.
struct DriveSink {
    shared: Arc<Shared>,
    drive: u8,
}

impl GrantSink for DriveSink {
    fn granted(&self, grant: Grant) {
        self.shared.send_to_drive(self.drive, Event::Granted(grant));
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn open(
        config: EngineConfig,
        metrics: EngineMetrics,
    ) -> Result<Arc<Self>, OpenError> {
        let (pool, findings) = open_pool(&config, &metrics)?;
        let capacity_bytes = pool.capacity_bytes();
        let mut store = match config.mode {
            Mode::Memory => open::Store {
                key: random_bytes(),
                drives: Vec::new(),
            },
            Mode::Direct | Mode::File => open::open_store(&config)?,
        };
        let hasher = KeyHasher::new(&StoreKey(store.key));
        let index = Index::new(&IndexConfig {
            shards: 64,
            segments: store.segment_counts(),
        });
        let stripes = StripeTable::default();
        let members = store.members();
        let version = open::restore(&index, &hasher, &mut store.drives, &members, &stripes);
        let pool_bytes = pool.capacity_bytes() as u64;
        let part_bytes = store
            .part_bytes_max()
            .min(config.extent_bytes)
            .min(pool.window_bytes() as u64);
        let cache = Cache::new(&CacheConfig {
            capacity_bytes,
            small_percent: 30,
            shards: 16,
        });
        let shared = Arc::new(Self {
            hasher,
            index,
            cache,
            pool,
            versions: AtomicU64::new(version),
            evictions: AtomicU64::new(0),
            never_read_bytes: AtomicU64::new(0),
            memory: MemoryStore::new(),
            drives: OnceLock::new(),
            members,
            stripes,
            streams: StreamBudget::new(pool_bytes / 2),
            part_bytes,
            draining: AtomicBool::new(false),
            waiting: Mutex::default(),
            waiters: AtomicU64::new(0),
            findings,
            config,
            metrics,
        });
        open::start(&shared, store.drives)?;
        Ok(shared)
    }

    pub(super) fn set_drives(&self, drives: Vec<Result<DriveHandle, String>>) {
        assert!(self.drives.set(drives).is_ok(), "drives are set once");
    }

    pub(super) fn set_thread(&self, idx: usize, thread: std::thread::JoinHandle<()>) {
        if let Some(Ok(drive)) = self.drives().get(idx) {
            *drive.thread.lock() = Some(thread);
        }
    }

    fn drives(&self) -> &[Result<DriveHandle, String>] {
        self.drives.get().map_or(&[], Vec::as_slice)
    }

    /// The drive of this number, if it serves.
    fn drive(&self, idx: u8) -> Option<&DriveHandle> {
        let drive = self.drives().get(usize::from(idx))?.as_ref().ok()?;
        drive.up.load(Ordering::Relaxed).then_some(drive)
    }

    /// Where a change of a key goes: to the drive that has it, else to one of those that were
    /// there at the start, always the same one. A drive that fails later keeps its keys, so
    /// that what is on it can't become stale.
    pub(crate) fn home(&self, hash: KeyHash) -> Option<u8> {
        if let Some(location) = self.index.get(hash)
            && self.drive(location.drive_idx).is_some()
        {
            return Some(location.drive_idx);
        }
        let ready = || {
            (0u8..)
                .zip(self.drives())
                .filter(|(_, drive)| drive.is_ok())
        };
        let count = ready().count();
        let pick = (hash.0 >> 64) as usize % count.max(1);
        ready().nth(pick).map(|(idx, _)| idx)
    }

    pub(crate) fn is_up(&self, drive: u8) -> bool {
        self.drive(drive).is_some()
    }

    pub(crate) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn last_version(&self) -> u64 {
        self.versions.load(Ordering::Relaxed)
    }

    /// Makes a value that lies in the pool the cached one of its key.
    pub(crate) fn adopt(&self, key: &CacheKey<'_>, memory: ReadMemory, meta: Meta) {
        let _ = self.cache.insert(key, memory, meta, false, &mut drop);
        self.relieve_waiters();
    }

    pub(crate) fn count_evictions(&self, count: u64, never_read_bytes: u64) {
        self.evictions.fetch_add(count, Ordering::Relaxed);
        self.never_read_bytes
            .fetch_add(never_read_bytes, Ordering::Relaxed);
        self.metrics
            .evicted(EvictionReason::Capacity, count, never_read_bytes);
    }

    /// An event of the engine itself for another drive.
    pub(crate) fn send_to_drive(&self, drive: u8, event: Event) {
        if let Some(Ok(drive)) = self.drives().get(usize::from(drive)) {
            drive.inbox.push(event);
        }
    }

    /// Leases memory for a read, or lets the drive know when there is some.
    pub(crate) fn lease_for_drive(
        self: &Arc<Self>,
        drive: u8,
        bytes: usize,
        token: u64,
    ) -> Option<WriteMemory> {
        let sink = Arc::new(DriveSink {
            shared: self.clone(),
            drive,
        });
        match self.pool.lease(bytes, Waiter { sink, token }) {
            Ok(Leased::Now(memory)) => Some(memory),
            _ => None,
        }
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn reserve(
        self: &Arc<Self>,
        sender: CompletionSender,
        token: Token,
        put: &Put<'_>,
    ) -> Result<Step<WriteLease>, PutError> {
        check_key(put.key)?;
        self.check_len(put.len)?;
        if self.draining() {
            return Err(PutError::Draining);
        }
        let put = OwnedPut {
            hash: self.hasher.hash(put.namespace, put.key),
            namespace: put.namespace,
            key: put.key.into(),
            len: put.len,
            attrs: put.attrs,
            condition: put.condition,
        };
        let bytes = self.lease_bytes(put.len);
        if let Some(memory) = self.lease_now(bytes) {
            return Ok(Step::Ready(self.write_lease(put, memory)));
        }
        self.refuse_when_stuck(bytes)?;
        self.wait_for_memory(sender, token, put)
    }

    /// Bytes to lease for a value: whole pages for what becomes an extent.
    fn lease_bytes(&self, len: u64) -> usize {
        let pages = self.config.mode != Mode::Memory && len >= EXTENT_BYTES_MIN;
        let len = len.min(self.write_window_bytes());
        (if pages { page_up(len) } else { len }) as usize
    }

    fn check_len(&self, len: u64) -> Result<(), PutError> {
        if len > VALUE_BYTES_MAX {
            let limit = "the engine's longest value";
            return Err(PutError::TooLarge {
                len,
                bound: VALUE_BYTES_MAX,
                limit,
            });
        }
        let window = self.pool.window_bytes() as u64;
        if self.config.mode == Mode::Memory && len > window {
            let limit = "a quarter of storage.max_size in memory mode";
            return Err(PutError::TooLarge {
                len,
                bound: window,
                limit,
            });
        }
        Ok(())
    }

    /// Leases memory, evicting from the hot tier what it takes.
    pub(crate) fn lease_now(&self, bytes: usize) -> Option<WriteMemory> {
        loop {
            // A lease that could never be granted was refused before: nothing exceeds a window.
            if let Some(memory) = self.pool.try_lease(bytes).ok()? {
                return Some(memory);
            }
            let wanted = bytes.max(self.pool.shortage_bytes()).max(1);
            if self.make_room(wanted) == 0 {
                return self.pool.try_lease(bytes).ok()?;
            }
        }
    }

    /// Evicts from the hot tier; returns how many bytes that were.
    pub(crate) fn make_room(&self, bytes: usize) -> usize {
        self.cache
            .make_room(&self.pool, bytes, &mut |evicted| self.evicted(&evicted))
    }

    /// Takes note of a value that left the hot tier for want of room.
    pub(crate) fn evicted(&self, evicted: &Evicted<Meta>) {
        if self.config.mode != Mode::Memory {
            return;
        }
        self.memory.forget(&self.index, evicted.hash, &evicted.meta);
        let unread = if evicted.was_read {
            0
        } else {
            evicted.meta.len
        };
        self.count_evictions(1, unread);
    }

    /// In memory mode, where nothing can be evicted and nobody is filling a lease, waiting
    /// would be for a delete: that is a full store.
    fn refuse_when_stuck(&self, bytes: usize) -> Result<(), PutError> {
        if self.config.mode != Mode::Memory || self.pool.counts().writing > 0 {
            return Ok(());
        }
        let used = self.cache.counts().bytes as u64;
        let capacity = self.pool.capacity_bytes() as u64;
        if used + bytes as u64 + self.pool.slab_bytes() as u64 > capacity {
            return Err(PutError::NoSpace { used, capacity });
        }
        Ok(())
    }

    fn wait_for_memory(
        self: &Arc<Self>,
        sender: CompletionSender,
        token: Token,
        put: OwnedPut,
    ) -> Result<Step<WriteLease>, PutError> {
        let number = self.waiters.fetch_add(1, Ordering::Relaxed);
        let bytes = self.lease_bytes(put.len);
        let sink = Arc::new(ReserveSink {
            shared: self.clone(),
            number,
            token,
            sender,
            put: Mutex::new(Some(put)),
        });
        let waiter = Waiter {
            sink: sink.clone(),
            token: token.0,
        };
        // Held over the call, so that a grant finds its entry; a sink is never called by it.
        let mut waiting = self.waiting.lock();
        match self.pool.lease(bytes, waiter) {
            Ok(Leased::Now(memory)) => {
                drop(waiting);
                let put = sink
                    .put
                    .lock()
                    .take()
                    .expect("nobody else has this sink yet");
                Ok(Step::Ready(self.write_lease(put, memory)))
            }
            Ok(Leased::Later(ticket)) => {
                waiting.insert(number, Waiting { ticket, sink });
                Ok(Step::Pending)
            }
            Err(_) => {
                let bound = self.pool.window_bytes() as u64;
                Err(PutError::TooLarge {
                    len: bytes as u64,
                    bound,
                    limit: "memory.max_size",
                })
            }
        }
    }

    /// After memory was frozen for good: lets waiters have what the hot tier can spare, and
    /// refuses those that nothing but a delete could help.
    pub(crate) fn relieve_waiters(&self) {
        let shortage = self.pool.shortage_bytes();
        if shortage == 0 || self.make_room(shortage) > 0 {
            return;
        }
        if self.config.mode != Mode::Memory || self.pool.counts().writing > 0 {
            return;
        }
        let used = self.cache.counts().bytes as u64;
        let capacity = self.pool.capacity_bytes() as u64;
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (_, waiter) in waiting {
            if self.pool.cancel(waiter.ticket) {
                let error = PutError::NoSpace { used, capacity };
                let result = CompletionResult::Reserved(Err(error));
                let (token, io) = (waiter.sink.token, IoTimes::default());
                waiter.sink.sender.push(Completion { token, result, io });
            }
        }
    }

    /// What a put fills at once: whole parts, at most a quarter of the pool.
    fn write_window_bytes(&self) -> u64 {
        let window = self.pool.window_bytes() as u64;
        if self.config.mode == Mode::Memory {
            return window;
        }
        (window / self.part_bytes).max(1) * self.part_bytes
    }

    fn write_lease(self: &Arc<Self>, put: OwnedPut, memory: WriteMemory) -> WriteLease {
        let window = 0..put.len.min(self.write_window_bytes());
        let shared = self.clone();
        WriteLease {
            inner: Box::new(WriteInner {
                shared,
                put,
                memory,
                window,
                stream: None,
            }),
        }
    }

    pub(crate) fn advance_write(
        self: &Arc<Self>,
        mut lease: WriteLease,
        sender: CompletionSender,
        token: Token,
    ) -> Result<Step<WriteLease>, PutError> {
        if self.draining() {
            return Err(PutError::Draining);
        }
        lease.zero_tail();
        self.write_window(lease, None, sender, token)?;
        Ok(Step::Pending)
    }

    /// Leases the next window of a put, and tells its caller.
    pub(crate) fn lease_window(
        self: &Arc<Self>,
        put: OwnedPut,
        stream: WriteStream,
        start: u64,
        sender: CompletionSender,
        token: Token,
        io: IoTimes,
    ) {
        let window = start..put.len.min(start + self.write_window_bytes());
        let bytes = page_up(window.end - window.start) as usize;
        let sink = Arc::new(WindowSink {
            shared: self.clone(),
            rest: Mutex::new(Some((put, stream))),
            window,
            sender,
            token,
            io,
        });
        let memory = self.lease_now(bytes).or_else(|| {
            let waiter = Waiter {
                sink: sink.clone(),
                token: token.0,
            };
            match self.pool.lease(bytes, waiter) {
                Ok(Leased::Now(memory)) => Some(memory),
                _ => None,
            }
        });
        if let Some(memory) = memory {
            sink.deliver(memory, None);
        }
    }

    pub(crate) fn members(&self) -> &[u16] {
        &self.members
    }

    /// The drive of a part: the next ones after the key's own, round and round.
    pub(crate) fn stripe_drive(&self, home: u8, part: u64) -> u8 {
        let ready = || {
            (0u8..)
                .zip(self.drives())
                .filter(|(_, drive)| drive.is_ok())
        };
        let count = ready().count().max(1) as u64;
        let first = ready().position(|(idx, _)| idx == home).unwrap_or(0) as u64;
        ready()
            .nth(((first + part) % count) as usize)
            .map_or(home, |(idx, _)| idx)
    }

    /// An event of the engine itself; false if the drive doesn't serve.
    pub(crate) fn send_if_up(&self, drive: u8, event: Event) -> bool {
        match self.drive(drive) {
            Some(drive) => {
                drive.inbox.push(event);
                true
            }
            None => false,
        }
    }

    pub(crate) fn commit(
        self: &Arc<Self>,
        lease: WriteLease,
        crc: u32,
        sender: CompletionSender,
        token: Token,
    ) -> Result<Step<Committed>, PutError> {
        if self.draining() {
            return Err(PutError::Draining);
        }
        if self.config.mode != Mode::Memory && lease.len() > self.part_bytes {
            let mut lease = lease;
            lease.zero_tail();
            self.write_window(lease, Some(crc), sender, token)?;
            return Ok(Step::Pending);
        }
        let WriteInner {
            put, mut memory, ..
        } = *lease.inner;
        if self.config.mode == Mode::Memory {
            return self.memory.commit(self, put, memory, crc).map(Step::Ready);
        }
        zero_tail(&mut memory, put.len as usize);
        let home = self.home(put.hash).ok_or(PutError::NoDrive)?;
        let Some(drive) = self.drive(home) else {
            let source = io::Error::other("the drive was taken out");
            return Err(PutError::Io {
                drive: DriveIdx(home.into()),
                source,
            });
        };
        let reply = Reply {
            to: ReplyTo::Caller(sender, token),
            accepted: now(),
        };
        let body = Body::Value(memory.freeze());
        let work = Box::new(PutWork {
            put,
            body,
            crc,
            part: None,
            reply,
        });
        drive
            .inbox
            .offer(Event::Put(work))
            .map_err(|_| PutError::Busy {
                retry_after_us: BUSY_US,
            })?;
        Ok(Step::Pending)
    }

    pub(super) fn get(
        self: &Arc<Self>,
        queue: &CompletionQueue,
        token: Token,
        key: &CacheKey<'_>,
    ) -> super::GetStep {
        if let Some(hit) = self.cache.get(key) {
            if hit.meta.attrs.expiry_ms == 0 || !hit.meta.expired(unix_ms()) {
                let lease = ReadLease::whole(hit.memory, hit.meta, Tier::Ram);
                return Ok(Step::Ready(Some(lease)));
            }
            if self.config.mode == Mode::Memory {
                self.memory.expire(self, key);
            }
            return Ok(Step::Ready(None));
        }
        if self.config.mode == Mode::Memory {
            return Ok(Step::Ready(None));
        }
        let Some(location) = self.index.get(key.hash) else {
            return Ok(Step::Ready(None));
        };
        let Some(drive) = self.drive(location.drive_idx) else {
            return Ok(Step::Ready(None));
        };
        if self.draining() {
            return Err(GetError::Draining);
        }
        if location.kind == KIND_STRIPES {
            let stripes = self.stripes.get(key.hash);
            let same = |stripes: &Arc<Stripes>| {
                stripes.list == location
                    && stripes.namespace == key.namespace
                    && *stripes.key == *key.key
                    && !stripes.meta.expired(unix_ms())
            };
            let Some(stripes) = stripes.filter(same) else {
                return Ok(Step::Ready(None));
            };
            read_window(self, stripes, 0, queue.sender(), token);
            return Ok(Step::Pending);
        }
        let reply = Reply {
            to: ReplyTo::Caller(queue.sender(), token),
            accepted: now(),
        };
        let (hash, namespace) = (key.hash, key.namespace);
        let work = Box::new(ReadWork {
            hash,
            namespace,
            key: key.key.into(),
            reply,
        });
        let busy = |_| GetError::Busy {
            retry_after_us: BUSY_US,
        };
        drive.inbox.offer(Event::Read(work)).map_err(busy)?;
        Ok(Step::Pending)
    }

    /// As [`get`](Self::get) for many; the index lines of a batch are fetched together.
    pub(super) fn get_many(
        self: &Arc<Self>,
        queue: &CompletionQueue,
        gets: &[Get<'_>],
        out: &mut Vec<super::GetStep>,
    ) {
        out.reserve(gets.len());
        let mut hashes = [KeyHash(0); BATCH];
        let mut found = [None; BATCH];
        for gets in gets.chunks(BATCH) {
            let (hashes, found) = (&mut hashes[..gets.len()], &mut found[..gets.len()]);
            for (hash, get) in hashes.iter_mut().zip(gets) {
                *hash = self.hasher.hash(get.namespace, get.key);
            }
            self.index.get_many(hashes, found);
            for (get, hash) in gets.iter().zip(hashes) {
                let (hash, namespace, key) = (*hash, get.namespace, get.key);
                let step = match check_key(key) {
                    Ok(()) => self.get(
                        queue,
                        get.token,
                        &CacheKey {
                            hash,
                            namespace,
                            key,
                        },
                    ),
                    Err(bad) => Err(bad.into()),
                };
                out.push(step);
            }
        }
    }

    pub(super) fn exists(&self, namespace: u32, keys: &[&[u8]], out: &mut [bool]) {
        assert_eq!(keys.len(), out.len(), "one answer per key");
        let mut hashes = [KeyHash(0); BATCH];
        let mut found = [None; BATCH];
        for (keys, out) in keys.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let (hashes, found) = (&mut hashes[..keys.len()], &mut found[..keys.len()]);
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.hasher.hash(namespace, key);
            }
            self.index.get_many(hashes, found);
            for (out, found) in out.iter_mut().zip(found) {
                *out = found.is_some();
            }
        }
    }

    pub(super) fn delete(
        self: &Arc<Self>,
        queue: &CompletionQueue,
        token: Token,
        key: &CacheKey<'_>,
    ) -> Result<Step<bool>, DeleteError> {
        if self.draining() {
            return Err(DeleteError::Draining);
        }
        if self.config.mode == Mode::Memory {
            return Ok(Step::Ready(self.memory.delete(self, key)));
        }
        let home = self.home(key.hash).map(|home| (home, self.drive(home)));
        let Some((home, Some(drive))) = home else {
            let drive = DriveIdx(home.map_or(0, |(home, _)| home).into());
            let source = io::Error::other("the drive was taken out");
            return Err(DeleteError::Io { drive, source });
        };
        let _ = home;
        let reply = Reply {
            to: ReplyTo::Caller(queue.sender(), token),
            accepted: now(),
        };
        let (hash, namespace) = (key.hash, key.namespace);
        let work = Box::new(DeleteWork {
            hash,
            namespace,
            key: key.key.into(),
            reply,
        });
        let busy = |_| DeleteError::Busy {
            retry_after_us: BUSY_US,
        };
        drive.inbox.offer(Event::Delete(work)).map_err(busy)?;
        Ok(Step::Pending)
    }

    pub(super) fn scan(
        self: &Arc<Self>,
        queue: &CompletionQueue,
        token: Token,
        namespace: u32,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Step<ScanPage>, ScanError> {
        if self.draining() {
            return Err(ScanError::Draining);
        }
        let limit = limit.clamp(1, SCAN_MAX);
        if self.config.mode == Mode::Memory {
            return Ok(Step::Ready(self.scan_memory(namespace, cursor, limit)));
        }
        let mut found = Vec::new();
        let next = self.index.scan(index::Cursor(cursor.0), limit, &mut found);
        let job = ScanJob {
            namespace,
            left: found.into_iter().map(|entry| entry.location).collect(),
            page: ScanPage {
                entries: Vec::new(),
                next: next.map(|next| Cursor(next.0)),
            },
            to: ReplyTo::Caller(queue.sender(), token),
        };
        job.go_on(self);
        Ok(Step::Pending)
    }

    fn scan_memory(&self, namespace: u32, cursor: Cursor, limit: usize) -> ScanPage {
        let mut entries = Vec::new();
        let now = unix_ms();
        let next = self.cache.scan(cursor.0, limit, &mut |key, meta: &Meta| {
            if key.namespace == namespace && !meta.expired(now) {
                let (attrs, version, value_len) = (meta.attrs, meta.version, meta.len);
                entries.push(ScanEntry {
                    key: key.key.to_vec(),
                    attrs,
                    version,
                    value_len,
                });
            }
        });
        ScanPage {
            entries,
            next: next.map(Cursor),
        }
    }

    pub(super) fn status(&self) -> EngineStatus {
        let (cached, slabs) = (self.cache.counts(), self.pool.counts());
        self.refresh_gauges();
        EngineStatus {
            mode: self.config.mode,
            entries: self.index.len() as u64,
            version: self.versions.load(Ordering::Relaxed),
            hot_entries: cached.entries as u64,
            hot_bytes: cached.bytes as u64,
            pool_bytes: self.pool.capacity_bytes() as u64,
            pool_free_bytes: (slabs.free * self.pool.slab_bytes()) as u64,
            pool_waiting: slabs.waiting as u64,
            evictions: self.evictions.load(Ordering::Relaxed),
            never_read_bytes: self.never_read_bytes.load(Ordering::Relaxed),
            drives: self.drive_status(),
            findings: self.all_findings(),
        }
    }

    /// Sets the gauges that nobody else keeps.
    pub(crate) fn refresh_gauges(&self) {
        let slabs = self.pool.counts();
        let values = (slabs.capacity - slabs.free - slabs.writing) as u64;
        let memory = self.config.mode == Mode::Memory;
        let (hot, stored) = if memory { (0, values) } else { (values, 0) };
        self.metrics.set_slabs(SlabState::Free, slabs.free as u64);
        self.metrics
            .set_slabs(SlabState::Leased, slabs.writing as u64);
        self.metrics.set_slabs(SlabState::Hot, hot);
        self.metrics.set_slabs(SlabState::Stored, stored);
        self.metrics.set_index_entries(self.index.len() as u64);
    }

    fn drive_status(&self) -> Vec<DriveStatus> {
        let status = |(idx, drive): (usize, &Result<DriveHandle, String>)| {
            let idx16 = DriveIdx(idx as u16);
            let media = self.config.drives[idx].media.clone();
            let Ok(drive) = drive else {
                let state = DriveState::Down(drive.as_ref().err().cloned().unwrap_or_default());
                return DriveStatus::down(idx16, media, state);
            };
            let counts = *drive.counts.lock();
            let state = match drive.up.load(Ordering::Relaxed) {
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
        self.drives().iter().enumerate().map(status).collect()
    }

    fn all_findings(&self) -> Vec<String> {
        let mut findings = self.findings.clone();
        for (idx, drive) in self.drives().iter().enumerate() {
            match drive {
                Ok(drive) => findings.extend(drive.findings.lock().iter().cloned()),
                Err(why) => findings.push(format!("drive {idx} is left out: {why}")),
            }
        }
        findings
    }

    /// Refuses new calls and tells the drives to finish.
    pub(super) fn stop(&self) {
        self.draining.store(true, Ordering::Relaxed);
        for (_, waiter) in std::mem::take(&mut *self.waiting.lock()) {
            if self.pool.cancel(waiter.ticket) {
                let result = CompletionResult::Reserved(Err(PutError::Draining));
                let (token, io) = (waiter.sink.token, IoTimes::default());
                waiter.sink.sender.push(Completion { token, result, io });
            }
        }
        for drive in self.drives().iter().flatten() {
            drive.inbox.push(Event::Shutdown);
        }
    }

    pub(super) fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        self.stop();
        let until = std::time::Instant::now() + deadline;
        let mut late = 0;
        for drive in self.drives().iter().flatten() {
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

/// Wall-clock milliseconds, for expiry.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}

/// Tells the pool the time, and the metrics its waits.
struct PoolEyes(EngineMetrics);

impl PoolObserver for PoolEyes {
    fn now_ns(&self) -> u64 {
        now().0
    }

    fn waited(&self, waited_ns: u64) {
        self.0.slab_waited(waited_ns);
    }
}

fn open_pool(
    config: &EngineConfig,
    metrics: &EngineMetrics,
) -> Result<(SlabPool, Vec<String>), OpenError> {
    let memory = config.mode == Mode::Memory;
    let bytes = if memory {
        config.memory_bytes
    } else {
        config.pool_bytes
    };
    let fault = |source: Box<dyn std::error::Error + Send + std::marker::Sync>| OpenError::Pool {
        bytes,
        source,
    };
    let pages = if config.mode == Mode::Direct {
        PagePolicy::Require
    } else {
        PagePolicy::Prefer
    };
    let mapping = MappingConfig {
        bytes: bytes as usize,
        pages,
        numa_node: None,
        prefault_threads: 0,
    };
    let mapping = Mapping::new(&mapping).map_err(|why| fault(Box::new(why)))?;
    let finding = mapping.finding().degraded.clone();
    let findings = finding.map(|why| format!("the pool has no huge pages: {why}"));
    let pool = PoolConfig {
        slab_bytes: config.slab_bytes as usize,
        regions: vec![RegionConfig {
            mapping,
            tier: RegionTier::Fast,
        }],
        double_free_trace: config.double_free_trace,
    };
    let pool = SlabPool::new(pool, Arc::new(PoolEyes(metrics.clone())))
        .map_err(|why| fault(Box::new(why)))?;
    Ok((pool, findings.into_iter().collect()))
}

/// Random bytes of the system.
///
/// # Panics
/// If the system has none: two stores could then take each other for the same one.
pub(super) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has no random bytes");
    bytes
}
