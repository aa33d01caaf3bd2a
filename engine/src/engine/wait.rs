//! Who waits for memory of the pool: puts, windows of puts, reads of drives.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Outside, Shared};
use crate::api::{Completion, CompletionResult, IoTimes, Step, Token};
use crate::entry::OwnedPut;
use crate::error::PutError;
use crate::lease::{WriteInner, WriteLease};
use crate::queue::CompletionSender;
use crate::segment_log::Event;
use crate::segment_log::bytes::page_up;
use crate::slab::{Grant, GrantSink, Leased, Ticket, Waiter, WriteMemory};
use crate::stream::WriteStream;

/// The reserves that wait, by number.
#[derive(Default)]
pub(super) struct WaitingList {
    list: Mutex<BTreeMap<u64, Waiting>>,
    next: AtomicU64,
}

impl WaitingList {
    pub(super) fn take_all(&self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(&mut *self.list.lock()).into_values()
    }
}

/// A reserve that waits for memory.
pub(super) struct Waiting {
    pub(super) ticket: Ticket,
    sink: Arc<ReserveSink>,
}

impl Waiting {
    /// Ends the wait without memory; to be called where the ticket was cancelled.
    pub(super) fn refuse(&self, error: PutError) {
        let ReserveSink { token, sender, .. } = &*self.sink;
        sender.push(Completion {
            token: *token,
            result: CompletionResult::Reserved(Err(error)),
            io: IoTimes::default(),
        });
    }
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
        self.shared.waiting.list.lock().remove(&self.number);
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

/// Hands memory to a drive's log.
pub(super) struct DriveSink {
    pub(super) outside: Arc<dyn Outside>,
    pub(super) drive: u8,
}

impl GrantSink for DriveSink {
    fn granted(&self, grant: Grant) {
        // Where nobody listens any more, the memory goes to the next who waits.
        let _ = self.outside.post(self.drive, Event::Granted(grant));
    }
}

impl Shared {
    /// In memory mode, where nothing can be evicted and nobody is filling a lease, waiting
    /// would be for a delete: that is a full store.
    pub(super) fn refuse_when_stuck(&self, bytes: usize) -> Result<(), PutError> {
        if !self.tables.in_memory() || self.tables.pool.counts().writing > 0 {
            return Ok(());
        }
        let used = self.tables.cache.counts().bytes as u64;
        let capacity = self.tables.pool.capacity_bytes() as u64;
        // What is kept may leave its last slab partly full.
        let slack = match used {
            0 => 0,
            _ => self.tables.pool.slab_bytes() as u64,
        };
        if used + bytes as u64 + slack > capacity {
            return Err(PutError::NoSpace { used, capacity });
        }
        Ok(())
    }

    pub(super) fn wait_for_memory(
        self: &Arc<Self>,
        sender: CompletionSender,
        token: Token,
        put: OwnedPut,
    ) -> Result<Step<WriteLease>, PutError> {
        let number = self.waiting.next.fetch_add(1, Ordering::Relaxed);
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
        let mut waiting = self.waiting.list.lock();
        match self.tables.pool.lease(bytes, waiter) {
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
                drop(waiting);
                // What became evictable since nothing was is nobody else's to evict.
                self.relieve_waiters();
                Ok(Step::Pending)
            }
            Err(_) => {
                let bound = self.tables.pool.capacity_bytes() as u64;
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
        if self.tables.spare() {
            return;
        }
        if !self.tables.in_memory() || self.tables.pool.counts().writing > 0 {
            return;
        }
        let used = self.tables.cache.counts().bytes as u64;
        let capacity = self.tables.pool.capacity_bytes() as u64;
        for waiter in self.waiting.take_all() {
            if self.tables.pool.cancel(waiter.ticket) {
                waiter.refuse(PutError::NoSpace { used, capacity });
            }
        }
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
        let memory = self.tables.lease_now(bytes).or_else(|| {
            let waiter = Waiter {
                sink: sink.clone(),
                token: token.0,
            };
            match self.tables.pool.lease(bytes, waiter) {
                Ok(Leased::Now(memory)) => Some(memory),
                _ => None,
            }
        });
        match memory {
            Some(memory) => sink.deliver(memory, None),
            None => drop(self.tables.spare()),
        }
    }
}
