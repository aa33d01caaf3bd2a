//! A backend that fails when a test wants it to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{IoBuffer, IoDone};

/// What is to fail on one drive, from now on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The backend can't start.
    pub(crate) start: AtomicBool,
    /// There is no io_uring.
    pub(crate) uring: AtomicBool,
    /// No memory may be locked.
    pub(crate) registration: AtomicBool,
    /// Every read and write ends with EIO.
    pub(crate) io: AtomicBool,
    /// Every flush ends with EIO.
    pub(crate) flush: AtomicBool,
    /// Every flush ends with ENOSPC.
    pub(crate) flush_no_room: AtomicBool,
    /// Every write ends with ENOSPC.
    pub(crate) no_room: AtomicBool,
    /// The backend itself fails, with I/O in flight.
    pub(crate) backend: AtomicBool,
}

/// By path: a drive's thread finds its faults where the test has put them.
static PLANNED: Mutex<BTreeMap<PathBuf, Arc<Faults>>> = Mutex::new(BTreeMap::new());

impl Faults {
    /// The faults of a drive; none yet.
    pub(crate) fn plan(path: &Path) -> Arc<Self> {
        let faults = Arc::new(Self::default());
        PLANNED.lock().insert(path.into(), faults.clone());
        faults
    }

    pub(super) fn of(path: &Path) -> Option<Arc<Self>> {
        PLANNED.lock().get(path).cloned()
    }

    pub(super) fn start(&self) -> io::Result<()> {
        fails(&self.start)
    }

    pub(super) fn ring(&self) -> io::Result<()> {
        match self.uring.load(Ordering::SeqCst) {
            true => Err(io::Error::from_raw_os_error(libc::EPERM)),
            false => Ok(()),
        }
    }

    pub(super) fn register(&self) -> io::Result<()> {
        match self.registration.load(Ordering::SeqCst) {
            true => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            false => Ok(()),
        }
    }

    /// Spoils what has just ended.
    pub(super) fn wait(&self, done: &mut [IoDone]) -> io::Result<()> {
        fails(&self.backend)?;
        for io in done {
            if io.result.is_ok() {
                io.result = match io.buffer {
                    IoBuffer::None => fails(&self.flush),
                    _ => fails(&self.io),
                };
            }
            let full = match io.buffer {
                IoBuffer::Source(_) => &self.no_room,
                IoBuffer::None => &self.flush_no_room,
                IoBuffer::Target(_) => continue,
            };
            if full.load(Ordering::SeqCst) {
                io.result = Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
        }
        Ok(())
    }
}

fn fails(fault: &AtomicBool) -> io::Result<()> {
    match fault.load(Ordering::SeqCst) {
        true => Err(io::Error::from_raw_os_error(libc::EIO)),
        false => Ok(()),
    }
}
