//! The store's facade: index and hot tier answer here, on the caller's thread; only I/O crosses
//! to a drive's thread.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{Cursor, Get, KEY_BYTES_MAX, Put, ScanPage, Step, Token};
use crate::cache::CacheKey;
use crate::config::EngineConfig;
use crate::error::{DeleteError, GetError, OpenError, PutError, ScanError, ShutdownError};
use crate::lease::{ReadLease, WriteLease};
use crate::queue::CompletionQueue;
use crate::status::EngineStatus;
use memkv_telemetry::EngineMetrics;

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod crash_tests;
mod drive_set;
mod drives;
#[cfg(test)]
mod evict_tests;
#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fault_tests;
mod get;
#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
pub(crate) mod image;
pub(crate) mod inspect;
#[cfg(test)]
mod kill_tests;
mod loss;
#[cfg(test)]
mod loss_tests;
mod memory;
#[cfg(test)]
mod model_tests;
mod open;
mod outside;
mod put;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod room_tests;
mod shared;
#[cfg(test)]
mod stall_tests;
#[cfg(test)]
mod step_tests;
#[cfg(test)]
mod stress_tests;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod wait;

pub(crate) use drive_set::Membership;
use drives::Drives;
pub(crate) use outside::Outside;
pub(crate) use shared::Shared;
pub(crate) use tables::Tables;

/// The store. Clones share it.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    drives: Arc<Drives>,
    _last: Arc<Last>,
}

/// Tells the drives' threads to stop when the last handle is dropped without a shutdown.
struct Last {
    shared: Arc<Shared>,
    drives: Arc<Drives>,
    process: u32,
}

impl Drop for Last {
    fn drop(&mut self) {
        // A forked child has the handles, but neither the threads nor the memory.
        if std::process::id() == self.process {
            self.shared.drain();
            self.drives.stop();
        }
    }
}

/// What each get of a batch came to.
pub type GetStep = Result<Step<Option<ReadLease>>, GetError>;

impl Engine {
    /// Opens the store: maps the pool, opens the drives, reads their checkpoints and journals.
    ///
    /// A drive that is missing or can't be used is left out (see [`EngineStatus`]) as long as
    /// another one is there; one that is in use, holds something else or is stale refuses the
    /// start.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: EngineConfig, metrics: EngineMetrics) -> Result<Self, OpenError> {
        config.check().map_err(OpenError::Config)?;
        let (shared, drives) = open::open(config, metrics)?;
        let process = std::process::id();
        let last = Arc::new(Last {
            shared: shared.clone(),
            drives: drives.clone(),
            process,
        });
        Ok(Self {
            shared,
            drives,
            _last: last,
        })
    }

    /// Makes a completion queue; `capacity` is how many calls its owner has in flight at most.
    ///
    /// # Errors
    /// Where no eventfd can be had.
    pub fn completion_queue(&self, capacity: usize) -> io::Result<CompletionQueue> {
        CompletionQueue::new(capacity)
    }

    /// Leases memory for a value; fill it, then commit or drop it.
    ///
    /// # Errors
    /// [`PutError`]; nothing is held then.
    pub fn reserve(
        &self,
        queue: &CompletionQueue,
        token: Token,
        put: &Put<'_>,
    ) -> Result<Step<WriteLease>, PutError> {
        self.shared.reserve(queue.sender().clone(), token, put)
    }

    /// Reads a value: at once from RAM, else through the queue. A miss is `None`.
    ///
    /// # Errors
    /// [`GetError`].
    pub fn get(
        &self,
        queue: &CompletionQueue,
        token: Token,
        namespace: u32,
        key: &[u8],
    ) -> GetStep {
        check_key(key)?;
        let hash = self.shared.tables.hasher.hash(namespace, key);
        self.shared.get(
            queue.sender(),
            token,
            &CacheKey {
                hash,
                namespace,
                key,
            },
        )
    }

    /// How many bytes the first window of a [pending](Step::Pending) get may have: a bound by what
    /// is known of the key in RAM, for who must find room before the value is there. A put that ends
    /// meanwhile may make it wrong.
    pub fn get_bytes_max(&self, namespace: u32, key: &[u8]) -> u64 {
        let hash = self.shared.tables.hasher.hash(namespace, key);
        self.shared.get_bytes_max(hash)
    }

    /// The longest value that isn't striped over the drives.
    pub fn block_bytes(&self) -> u64 {
        self.shared.tables.part_bytes
    }

    /// Reads many values, fetching index lines ahead; appends one answer per get to `out`.
    pub fn get_many(&self, queue: &CompletionQueue, gets: &[Get<'_>], out: &mut Vec<GetStep>) {
        self.shared.get_many(queue.sender(), gets, out);
    }

    /// Says which keys are there, from RAM alone; `out` is as long as `keys`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn exists(&self, namespace: u32, keys: &[&[u8]], out: &mut [bool]) {
        self.shared.exists(namespace, keys, out);
    }

    /// Deletes an entry; the answer is whether it was there.
    ///
    /// # Errors
    /// [`DeleteError`].
    pub fn delete(
        &self,
        queue: &CompletionQueue,
        token: Token,
        namespace: u32,
        key: &[u8],
    ) -> Result<Step<bool>, DeleteError> {
        check_key(key)?;
        let hash = self.shared.tables.hasher.hash(namespace, key);
        self.shared.delete(
            queue.sender(),
            token,
            &CacheKey {
                hash,
                namespace,
                key,
            },
        )
    }

    /// Lists about `limit` entries of a namespace from `cursor` on.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn scan(
        &self,
        queue: &CompletionQueue,
        token: Token,
        namespace: u32,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Step<ScanPage>, ScanError> {
        self.shared
            .scan(queue.sender(), token, namespace, cursor, limit)
    }

    /// Sets the gauges that are looked up instead of kept current; to be called before metrics are
    /// read. Takes the pool's lock for a moment.
    pub fn refresh_gauges(&self) {
        self.shared.tables.refresh_gauges();
    }

    /// The longest value that [`Engine::reserve`] takes as the store is.
    pub fn value_bytes_max(&self) -> u64 {
        self.shared.len_bound().0
    }

    /// What the store looks like now. Takes microseconds; call it for people, not per op.
    pub fn status(&self) -> EngineStatus {
        self.drives.status(&self.shared)
    }

    /// Finishes what is in flight, writes checkpoints and closes the drives; calls from then on
    /// answer `Draining`.
    ///
    /// # Errors
    /// [`ShutdownError`]; what was acknowledged is safe all the same.
    pub fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        self.shared.drain();
        self.drives.stop();
        self.drives.join(deadline)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// A key's length, where it is out of bounds.
pub(crate) struct BadKey(usize);

impl From<BadKey> for GetError {
    fn from(bad: BadKey) -> Self {
        Self::BadKey {
            len: bad.0,
            bound: KEY_BYTES_MAX,
        }
    }
}

impl From<BadKey> for DeleteError {
    fn from(bad: BadKey) -> Self {
        Self::BadKey {
            len: bad.0,
            bound: KEY_BYTES_MAX,
        }
    }
}

impl From<BadKey> for PutError {
    fn from(bad: BadKey) -> Self {
        Self::BadKey {
            len: bad.0,
            bound: KEY_BYTES_MAX,
        }
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<(), BadKey> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        Err(BadKey(key.len()))
    } else {
        Ok(())
    }
}
