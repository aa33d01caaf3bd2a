//! Completion queues: bounded by what their owner has in flight, readable through an eventfd.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use crate::api::Completion;

/// Where the completions of one caller land. Owned by one thread at a time.
///
/// Its event descriptor is readable while completions wait that [`drain`](Self::drain) hasn't
/// taken; wait for it with poll, epoll or io_uring.
#[derive(Debug)]
pub struct CompletionQueue {
    shared: Arc<Shared>,
    sender: CompletionSender,
}

/// Takes completions for a caller. Never blocks.
pub(crate) trait Complete: fmt::Debug + Send + Sync {
    fn complete(&self, completion: Completion);
}

/// The engine's end of a queue, of whatever kind.
#[derive(Clone, Debug)]
pub(crate) struct CompletionSender(Arc<dyn Complete>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<VecDeque<Completion>>,
    event: OwnedFd,
}

impl CompletionQueue {
    /// Makes a queue with room for `capacity` completions; it grows when its owner has more in
    /// flight than that.
    pub(crate) fn new(capacity: usize) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let waiting = Mutex::new(VecDeque::with_capacity(capacity));
        let shared = Arc::new(Shared { waiting, event });
        let sender = CompletionSender(shared.clone());
        Ok(Self { shared, sender })
    }

    /// The descriptor to wait on: readable when something is in the queue.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    /// Moves everything that waits to the end of `out`. Never blocks.
    pub fn drain(&self, out: &mut Vec<Completion>) {
        let mut counter = [0u8; 8];
        // An empty counter says EAGAIN: nothing was pushed since the last drain. The read comes
        // before the take, so that a push in between leaves the descriptor readable.
        let _ = rustix::io::read(&self.shared.event, &mut counter);
        out.extend(self.shared.waiting.lock().drain(..));
    }

    /// Waits until something is in the queue, or the time is over. For callers with no event
    /// loop of their own, and for tests.
    ///
    /// # Errors
    /// What poll says.
    pub fn wait(&self, timeout: std::time::Duration) -> io::Result<bool> {
        let mut polled = [rustix::event::PollFd::new(
            &self.shared.event,
            rustix::event::PollFlags::IN,
        )];
        let timeout = rustix::event::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        Ok(rustix::event::poll(&mut polled, Some(&timeout))? > 0)
    }

    pub(crate) fn sender(&self) -> &CompletionSender {
        &self.sender
    }
}

impl CompletionSender {
    #[cfg(test)]
    pub(crate) fn new(to: Arc<dyn Complete>) -> Self {
        Self(to)
    }

    /// Hands one completion over.
    pub(crate) fn push(&self, completion: Completion) {
        self.0.complete(completion);
    }
}

impl Complete for Shared {
    /// Adds one completion and makes the queue's descriptor readable.
    fn complete(&self, completion: Completion) {
        let first = {
            let mut waiting = self.waiting.lock();
            waiting.push_back(completion);
            waiting.len() == 1
        };
        if first {
            // The counter can't overflow: it is bumped once per drain.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}
