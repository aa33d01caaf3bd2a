//! How callers reach a drive's thread: a bounded queue, and an eventfd that wakes its ring.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};

/// The descriptor that wakes a drive's thread.
pub(crate) struct Wake {
    event: OwnedFd,
    signalled: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            event,
            signalled: AtomicBool::new(false),
        })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Wakes the thread, unless somebody did since it last looked.
    pub(crate) fn signal(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Called by the thread before it looks into its inbox.
    pub(crate) fn clear(&self) {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&self.event, &mut counter);
        self.signalled.store(false, Ordering::SeqCst);
    }

    /// Waits without a ring.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut polled = [PollFd::new(&self.event, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }
}

/// A bounded queue into a drive's thread, until that closes it.
pub(crate) struct Inbox<T> {
    waiting: Mutex<Waiting<T>>,
    bound: usize,
    wake: Arc<Wake>,
}

struct Waiting<T> {
    events: Vec<T>,
    closed: bool,
}

impl<T> Inbox<T> {
    pub(crate) fn new(bound: usize, wake: Arc<Wake>) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                events: Vec::new(),
                closed: false,
            }),
            bound,
            wake,
        }
    }

    /// Adds an event of a caller, or gives it back when too many wait or it is closed.
    pub(crate) fn offer(&self, event: T) -> Result<(), T> {
        let mut waiting = self.waiting.lock();
        if waiting.closed || waiting.events.len() >= self.bound {
            return Err(event);
        }
        waiting.events.push(event);
        drop(waiting);
        self.wake.signal();
        Ok(())
    }

    /// Adds an event of the engine itself, which is bounded by what callers have in flight; gives
    /// it back when it is closed.
    pub(crate) fn push(&self, event: T) -> Result<(), T> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(event);
        }
        waiting.events.push(event);
        drop(waiting);
        self.wake.signal();
        Ok(())
    }

    /// Takes everything.
    pub(crate) fn take(&self, out: &mut Vec<T>) {
        out.append(&mut self.waiting.lock().events);
    }

    /// Takes everything, and nothing from now on: who adds something hears that nobody listens.
    pub(crate) fn close(&self, out: &mut Vec<T>) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        out.append(&mut waiting.events);
    }
}
