//! Striped reads: windows of parts on their way from the drives, and how much of the pool they
//! may take.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Stripes, add_times};
use crate::api::{Completion, CompletionResult, IoTimes, Step, Tier, Token};
use crate::clock::Tick;
use crate::engine::Shared;
use crate::error::GetError;
use crate::lease::ReadLease;
use crate::queue::CompletionSender;
use crate::segment_log::{Event, PartRead, Reply, ReplyTo};
use crate::slab::ReadMemory;

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

/// Where the window of a striped value that begins at `offset` ends.
pub(crate) fn window_end(shared: &Shared, stripes: &Stripes, offset: u64) -> u64 {
    let unit = stripes.part_bytes;
    let most = (shared.tables.pool.window_bytes() as u64 / unit).max(1) * unit;
    stripes.meta.len.min(offset + most)
}

/// Reads the window of a striped value that begins at `offset`; the answer lands as `Got`.
pub(crate) fn read_window(
    shared: &Arc<Shared>,
    stripes: Arc<Stripes>,
    offset: u64,
    sender: CompletionSender,
    token: Token,
) {
    let end = window_end(shared, &stripes, offset);
    let count = (end - offset).div_ceil(stripes.part_bytes) as usize;
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
        accepted: shared.now(),
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
                .post_if_up(location.drive_idx, Event::ReadPart(Box::new(work)))
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
            add_times(&mut state.io, io);
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
