//! Values longer than an extent: parts striped over the drives, and a list that names them.
//!
//! A put writes its parts first, window by window where it exceeds a quarter of the pool, each
//! an extent of its own with a row in its drive's journal. Only then the part list is put, as a
//! record of the key's own drive: it alone makes the value visible. A value with a part less is
//! no value: when a part's segment is reclaimed, or its drive is gone, the whole value goes.
//!
//! ```text
//! part list:  0 part bytes u64   8 parts u32   12 0 u32
//!            16 per part: member u16, generation u8, 0 u8, segment u32, offset u32
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::{Completion, CompletionResult, DriveIdx, IoTimes, Step, Tier, Token};
use crate::engine::Shared;
use crate::entry::{Meta, OwnedPut};
use crate::error::{GetError, PutError};
use crate::index::{If, KeyHash, Location};
use crate::lease::{ReadLease, WriteLease};
use crate::metrics::{Tick, now};
use crate::queue::CompletionSender;
use crate::segment_log::bytes::{array, crc_of_pieces, page_up, u32_at, u64_at};
use crate::segment_log::segment::KIND_EXTENT;
use crate::segment_log::{Body, Event, PartRead, PutWork, Reply, ReplyTo};
use crate::slab::ReadMemory;

const LIST_HEAD: usize = 16;
const LIST_PART: usize = 12;

/// A striped value.
#[derive(Clone, Debug)]
pub(crate) struct Stripes {
    pub(crate) hash: KeyHash,
    pub(crate) namespace: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) meta: Meta,
    pub(crate) part_bytes: u64,
    pub(crate) parts: Vec<Location>,
    /// Of the part list.
    pub(crate) list: Location,
}

/// The striped values by hash.
#[derive(Default)]
pub(crate) struct StripeTable {
    known: Mutex<HashMap<u128, Arc<Stripes>>>,
}

impl StripeTable {
    pub(crate) fn get(&self, hash: KeyHash) -> Option<Arc<Stripes>> {
        self.known.lock().get(&hash.0).cloned()
    }

    /// Puts a value in place of the key's last one, which it returns.
    pub(crate) fn put(&self, stripes: Stripes) -> Option<Arc<Stripes>> {
        self.known.lock().insert(stripes.hash.0, Arc::new(stripes))
    }

    /// Takes a value out, if it is the one that this list names.
    pub(crate) fn take(&self, hash: KeyHash, list: &Location) -> Option<Arc<Stripes>> {
        let mut known = self.known.lock();
        if known
            .get(&hash.0)
            .is_some_and(|stripes| stripes.list == *list)
        {
            return known.remove(&hash.0);
        }
        None
    }
}

/// Encodes a part list; `members` numbers the drives for good.
pub(crate) fn encode_list(part_bytes: u64, parts: &[Location], members: &[u16]) -> Vec<u8> {
    let mut list = part_bytes.to_le_bytes().to_vec();
    list.extend((parts.len() as u64).to_le_bytes());
    for part in parts {
        let member = members
            .get(usize::from(part.drive_idx))
            .copied()
            .unwrap_or(u16::MAX);
        list.extend(member.to_le_bytes());
        list.extend([part.generation, 0]);
        list.extend(part.segment_idx.to_le_bytes());
        list.extend(part.offset.to_le_bytes());
    }
    list
}

/// Reads a part list; `None` where it makes no sense or names a drive that isn't there.
/// Never panics.
pub(crate) fn decode_list(list: &[u8], len: u64, members: &[u16]) -> Option<(u64, Vec<Location>)> {
    let head = list.get(..LIST_HEAD)?;
    let (part_bytes, count) = (u64_at(head, 0), u32_at(head, 8) as usize);
    let sound = part_bytes > 0 && len.div_ceil(part_bytes) == count as u64;
    if !sound || list.len() != LIST_HEAD + count * LIST_PART {
        return None;
    }
    let part = |bytes: &[u8]| {
        let member = u16::from_le_bytes(array(bytes, 0));
        let drive = members
            .iter()
            .position(|known| *known == member && member != u16::MAX)?;
        Some(Location {
            drive_idx: drive as u8,
            generation: bytes[2],
            segment_idx: u32_at(bytes, 4),
            offset: u32_at(bytes, 8),
            kind: KIND_EXTENT,
            hint: 0,
        })
    };
    let parts: Option<Vec<Location>> = list[LIST_HEAD..]
        .chunks_exact(LIST_PART)
        .map(part)
        .collect();
    Some((part_bytes, parts?))
}

/// The parts of a value that were written out so far; those of an abandoned put are dead.
#[derive(Debug)]
pub(crate) struct WriteStream {
    shared: Arc<Shared>,
    parts: Vec<Location>,
}

impl WriteStream {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            parts: Vec::new(),
        }
    }
}

impl Drop for WriteStream {
    fn drop(&mut self) {
        self.shared.bury_parts(&self.parts);
    }
}

/// What follows when all parts of a window are written.
enum Next {
    Advance,
    Commit { crc: u32 },
}

/// A window of parts on its way to the drives.
pub(crate) struct StripeWrite {
    shared: Arc<Shared>,
    state: Mutex<WriteState>,
    sender: CompletionSender,
    token: Token,
    accepted: Tick,
}

struct WriteState {
    left: usize,
    parts: Vec<Option<Location>>,
    error: Option<PutError>,
    /// Taken when the last part has ended.
    rest: Option<(OwnedPut, WriteStream, Next, u64)>,
    /// The whole value, where it was one window.
    whole: Option<ReadMemory>,
    io: IoTimes,
}

impl std::fmt::Debug for StripeWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeWrite").finish_non_exhaustive()
    }
}

impl Shared {
    /// Writes out the window of a striped put.
    pub(crate) fn write_window(
        self: &Arc<Self>,
        lease: WriteLease,
        commit: Option<u32>,
        sender: CompletionSender,
        token: Token,
    ) -> Result<(), PutError> {
        let inner = *lease.inner;
        let (put, window) = (inner.put, inner.window);
        let stream = inner
            .stream
            .unwrap_or_else(|| WriteStream::new(self.clone()));
        let memory = inner.memory.freeze();
        let part_bytes = self.part_bytes;
        let first = window.start / part_bytes;
        let count = (window.end - window.start).div_ceil(part_bytes);
        let next = commit.map_or(Next::Advance, |crc| Next::Commit { crc });
        let whole = (window.start == 0 && window.end == put.len).then(|| memory.clone());
        let works: Vec<(u8, Box<PutWork>)>;
        let accepted = now();
        let home = self.home(put.hash).ok_or(PutError::NoDrive)?;
        let job = Arc::new(StripeWrite {
            shared: self.clone(),
            state: Mutex::new(WriteState {
                left: count as usize,
                parts: vec![None; count as usize],
                error: None,
                rest: None,
                whole,
                io: IoTimes::default(),
            }),
            sender,
            token,
            accepted,
        });
        works = (0..count)
            .map(|idx| {
                let start = idx * part_bytes;
                let len = part_bytes.min(window.end - window.start - start);
                let body = memory.part(start as usize, page_up(len) as usize);
                let crc = crc_of_pieces(body.part(0, len as usize).pieces());
                let part = (first + idx) as u32;
                let to = ReplyTo::StripeWrite(job.clone(), idx as usize);
                let put = OwnedPut {
                    // Changes of one key wait for each other; its parts need not.
                    hash: KeyHash(put.hash.0 ^ (u128::from(part) + 1)),
                    namespace: put.namespace,
                    key: put.key.clone(),
                    len,
                    attrs: put.attrs,
                    condition: crate::api::Condition::None,
                };
                let reply = Reply { to, accepted };
                let body = Body::Value(body);
                let work = PutWork {
                    put,
                    body,
                    crc,
                    part: Some(part),
                    reply,
                };
                (self.stripe_drive(home, u64::from(part)), Box::new(work))
            })
            .collect();
        job.state.lock().rest = Some((put, stream, next, window.end));
        for (drive, work) in works {
            if !self.send_if_up(drive, Event::Put(work)) {
                // Nobody will answer for this part but we.
                let source = io::Error::other("the drive was taken out");
                let error = PutError::Io {
                    drive: DriveIdx(drive.into()),
                    source,
                };
                job.ended(None, Err(error), IoTimes::default());
            }
        }
        Ok(())
    }

    /// Tells the drives that these parts belong to nothing.
    pub(crate) fn bury_parts(&self, parts: &[Location]) {
        for part in parts {
            self.send_to_drive(part.drive_idx, Event::Dead(*part));
        }
    }

    /// Ends a striped value: its index entry, and its parts.
    pub(crate) fn purge_stripes(&self, stripes: &Stripes) {
        self.index.remove(stripes.hash, If::At(stripes.list));
        if let Some(stripes) = self.stripes.take(stripes.hash, &stripes.list) {
            self.bury_parts(&stripes.parts);
            self.send_to_drive(stripes.list.drive_idx, Event::Dead(stripes.list));
        }
    }
}

impl StripeWrite {
    /// One part is written, or failed.
    pub(crate) fn part_done(
        &self,
        idx: usize,
        location: Option<Location>,
        result: CompletionResult,
        io: IoTimes,
    ) {
        let result = match result {
            CompletionResult::Committed(result) => result.map(drop),
            _ => Ok(()),
        };
        self.ended(location.map(|location| (idx, location)), result, io);
    }

    fn ended(&self, part: Option<(usize, Location)>, result: Result<(), PutError>, io: IoTimes) {
        let (rest, parts, error, whole, times) = {
            let mut state = self.state.lock();
            match (result, part) {
                (Ok(()), Some((idx, location))) => state.parts[idx] = Some(location),
                (Err(error), _) => state.error = state.error.take().or(Some(error)),
                (Ok(()), None) => {}
            }
            let count = state.io.io_count + io.io_count;
            let first = state.io.first_start.or(io.first_start);
            state.io = IoTimes {
                io_count: count,
                first_start: first,
                ..io
            };
            state.left -= 1;
            if state.left > 0 {
                return;
            }
            let parts: Vec<Location> = state.parts.drain(..).flatten().collect();
            (
                state.rest.take(),
                parts,
                state.error.take(),
                state.whole.take(),
                state.io,
            )
        };
        let Some((put, mut stream, next, end)) = rest else {
            return;
        };
        stream.parts.extend(parts);
        match (error, next) {
            (Some(error), Next::Advance) => {
                self.answer(CompletionResult::Advanced(Err(error)), times);
            }
            (Some(error), Next::Commit { .. }) => {
                self.answer(CompletionResult::Committed(Err(error)), times);
            }
            (None, Next::Advance) => {
                self.shared
                    .lease_window(put, stream, end, self.sender.clone(), self.token, times)
            }
            (None, Next::Commit { crc }) => self.put_list(put, stream, crc, whole),
        }
    }

    fn put_list(
        &self,
        put: OwnedPut,
        mut stream: WriteStream,
        crc: u32,
        whole: Option<ReadMemory>,
    ) {
        let shared = &self.shared;
        let Some(home) = shared.home(put.hash) else {
            return self.answer(
                CompletionResult::Committed(Err(PutError::NoDrive)),
                IoTimes::default(),
            );
        };
        let parts = std::mem::take(&mut stream.parts);
        let list = encode_list(shared.part_bytes, &parts, shared.members());
        let to = ReplyTo::Caller(self.sender.clone(), self.token);
        let reply = Reply {
            to,
            accepted: self.accepted,
        };
        let body = Body::Stripes { list, parts, whole };
        let work = Box::new(PutWork {
            put,
            body,
            crc,
            part: None,
            reply,
        });
        if !shared.send_if_up(home, Event::Put(work)) {
            let source = io::Error::other("the drive was taken out");
            let error = PutError::Io {
                drive: DriveIdx(home.into()),
                source,
            };
            self.answer(CompletionResult::Committed(Err(error)), IoTimes::default());
        }
    }

    fn answer(&self, result: CompletionResult, io: IoTimes) {
        self.sender.push(Completion {
            token: self.token,
            result,
            io,
        });
    }
}

/// How many bytes of the pool windows of striped reads may take, and who waits for some: their
/// parts are leased one by one, so that half-leased windows could block each other for ever.
pub(crate) struct StreamBudget {
    state: Mutex<BudgetState>,
    bound: u64,
}

#[derive(Default)]
struct BudgetState {
    used: u64,
    waiting: VecDeque<Arc<StripeRead>>,
}

impl StreamBudget {
    pub(crate) fn new(bound: u64) -> Self {
        Self {
            state: Mutex::default(),
            bound,
        }
    }

    fn begin(&self, read: Arc<StripeRead>) {
        let start = {
            let mut state = self.state.lock();
            let fits = state.used == 0 || state.used + read.bytes <= self.bound;
            if fits && state.waiting.is_empty() {
                state.used += read.bytes;
                true
            } else {
                state.waiting.push_back(read.clone());
                false
            }
        };
        if start {
            read.start();
        }
    }

    fn end(&self, bytes: u64) {
        let mut ready = Vec::new();
        {
            let mut state = self.state.lock();
            state.used -= bytes;
            while let Some(next) = state.waiting.front() {
                if state.used > 0 && state.used + next.bytes > self.bound {
                    break;
                }
                state.used += next.bytes;
                ready.extend(state.waiting.pop_front());
            }
        }
        for read in ready {
            read.start();
        }
    }
}

/// A share of the budget, given back when dropped.
pub(crate) struct Permit {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.streams.end(self.bytes);
    }
}

/// Where the rest of a value is read from.
pub(crate) struct ReadStream {
    shared: Arc<Shared>,
    stripes: Arc<Stripes>,
    _permit: Permit,
}

impl ReadStream {
    pub(crate) fn advance(
        self: Box<Self>,
        offset: u64,
        sender: CompletionSender,
        token: Token,
    ) -> Result<Step<ReadLease>, GetError> {
        let (shared, stripes) = (self.shared.clone(), self.stripes.clone());
        // The window's share first, or the next could wait for it.
        drop(self);
        read_window(&shared, stripes, offset, sender, token);
        Ok(Step::Pending)
    }
}

/// A window of parts on its way from the drives.
pub(crate) struct StripeRead {
    shared: Arc<Shared>,
    stripes: Arc<Stripes>,
    window: Range<u64>,
    bytes: u64,
    state: Mutex<ReadState>,
    sender: CompletionSender,
    token: Token,
    accepted: Tick,
}

struct ReadState {
    left: usize,
    parts: Vec<Option<ReadMemory>>,
    failed: Option<GetError>,
    io: IoTimes,
}

impl std::fmt::Debug for StripeRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeRead")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// Reads the window of a striped value that begins at `offset`; the answer lands as `Got`.
pub(crate) fn read_window(
    shared: &Arc<Shared>,
    stripes: Arc<Stripes>,
    offset: u64,
    sender: CompletionSender,
    token: Token,
) {
    let unit = stripes.part_bytes;
    let most = (shared.pool.window_bytes() as u64 / unit).max(1) * unit;
    let end = stripes.meta.len.min(offset + most);
    let count = (end - offset).div_ceil(unit) as usize;
    let read = StripeRead {
        shared: shared.clone(),
        window: offset..end,
        bytes: end - offset,
        state: Mutex::new(ReadState {
            left: count,
            parts: (0..count).map(|_| None).collect(),
            failed: None,
            io: IoTimes::default(),
        }),
        stripes,
        sender,
        token,
        accepted: now(),
    };
    shared.streams.begin(Arc::new(read));
}

impl StripeRead {
    fn start(self: &Arc<Self>) {
        let unit = self.stripes.part_bytes;
        let first = (self.window.start / unit) as usize;
        for idx in 0..self.window.clone().step_by(unit as usize).count() {
            let location = self.stripes.parts[first + idx];
            let work = PartRead {
                location,
                part: (first + idx) as u32,
                stripes: self.stripes.clone(),
                reply: Reply {
                    to: ReplyTo::StripeRead(self.clone(), idx),
                    accepted: self.accepted,
                },
            };
            if !self
                .shared
                .send_if_up(location.drive_idx, Event::ReadPart(Box::new(work)))
            {
                let gone = CompletionResult::Got(Err(GetError::Gone));
                self.part_done(idx, gone, IoTimes::default());
            }
        }
    }

    /// One part is here, or isn't.
    pub(crate) fn part_done(&self, idx: usize, result: CompletionResult, io: IoTimes) {
        let (parts, failed, times) = {
            let mut state = self.state.lock();
            match result {
                CompletionResult::Got(Ok(Some(lease))) => {
                    state.parts[idx] = lease.memory.into_iter().next();
                }
                CompletionResult::Got(Err(error)) => {
                    state.failed = state.failed.take().or(Some(error));
                }
                _ => state.failed = state.failed.take().or(Some(GetError::Gone)),
            }
            let count = state.io.io_count + io.io_count;
            let first = state.io.first_start.or(io.first_start);
            state.io = IoTimes {
                io_count: count,
                first_start: first,
                ..io
            };
            state.left -= 1;
            if state.left > 0 {
                return;
            }
            let parts: Vec<ReadMemory> = state.parts.drain(..).flatten().collect();
            (parts, state.failed.take(), state.io)
        };
        let permit = Permit {
            shared: self.shared.clone(),
            bytes: self.bytes,
        };
        let result = match failed {
            // At the start a value with a part less is a miss; later its reader must know.
            Some(error) => {
                if !matches!(error, GetError::Io { .. }) {
                    self.shared.purge_stripes(&self.stripes);
                }
                match error {
                    GetError::Gone if self.window.start == 0 => Ok(None),
                    error => Err(error),
                }
            }
            None => {
                let (shared, stripes) = (self.shared.clone(), self.stripes.clone());
                let stream = ReadStream {
                    shared,
                    stripes,
                    _permit: permit,
                };
                Ok(Some(ReadLease {
                    memory: parts,
                    meta: self.stripes.meta,
                    tier: Tier::Drive,
                    window: self.window.clone(),
                    stream: Some(Box::new(stream)),
                }))
            }
        };
        let result = CompletionResult::Got(result);
        self.sender.push(Completion {
            token: self.token,
            result,
            io: times,
        });
    }
}
