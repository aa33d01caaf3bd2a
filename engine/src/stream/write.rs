//! Striped puts: windows of parts on their way to the drives.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Stripes, add_times, encode_list};
use crate::api::{Completion, CompletionResult, DriveIdx, IoTimes, Token};
use crate::clock::Tick;
use crate::engine::Shared;
use crate::entry::OwnedPut;
use crate::error::PutError;
use crate::index::{KeyHash, Location};
use crate::lease::WriteLease;
use crate::queue::CompletionSender;
use crate::segment_log::bytes::{crc_of_pieces, page_up};
use crate::segment_log::{Body, Event, PutWork, Reply, ReplyTo};
use crate::slab::ReadMemory;

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
        let part_bytes = self.tables.part_bytes;
        let first = window.start / part_bytes;
        let count = (window.end - window.start).div_ceil(part_bytes);
        let next = commit.map_or(Next::Advance, |crc| Next::Commit { crc });
        let whole = (window.start == 0 && window.end == put.len).then(|| memory.clone());
        let works: Vec<(u8, Box<PutWork>)>;
        let accepted = self.now();
        let home = self.tables.home(put.hash).ok_or(PutError::NoDrive)?;
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
                (
                    self.tables.stripe_drive(home, u64::from(part)),
                    Box::new(work),
                )
            })
            .collect();
        job.state.lock().rest = Some((put, stream, next, window.end));
        for (drive, work) in works {
            if !self.post_if_up(drive, Event::Put(work)) {
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
            self.post(part.drive_idx, Event::Dead(*part));
        }
    }

    /// Ends a striped value, unless another has taken its place; true if it was there.
    pub(crate) fn purge_stripes(&self, stripes: &Stripes) -> bool {
        let (was_there, dead) = self.tables.end_stripes(stripes);
        self.bury_parts(&dead);
        was_there
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
            add_times(&mut state.io, io);
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
        let Some(home) = shared.tables.home(put.hash) else {
            return self.answer(
                CompletionResult::Committed(Err(PutError::NoDrive)),
                IoTimes::default(),
            );
        };
        let parts = std::mem::take(&mut stream.parts);
        let list = encode_list(
            shared.tables.part_bytes,
            &parts,
            shared.tables.drives.members(),
        );
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
        if !shared.post_if_up(home, Event::Put(work)) {
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
