//! The store's facade: index and hot tier answer here, on the caller's thread; only I/O crosses
//! to a drive's thread.

use std::io;
use std::time::Duration;

use crate::api::{Cursor, Get, Put, ScanPage, Step, Token};
use crate::config::EngineConfig;
use crate::error::{DeleteError, GetError, OpenError, PutError, ScanError, ShutdownError};
use crate::lease::{ReadLease, WriteLease};
use crate::metrics::EngineMetrics;
use crate::queue::CompletionQueue;
use crate::status::EngineStatus;

/// The store. Clones share it.
#[derive(Clone, Debug)]
pub struct Engine {}

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
        let _ = (config, metrics);
        todo!()
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
        let _ = (queue, token, put);
        todo!()
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
        let _ = (queue, token, namespace, key);
        todo!()
    }

    /// Reads many values, fetching index lines ahead; appends one answer per get to `out`.
    pub fn get_many(&self, queue: &CompletionQueue, gets: &[Get<'_>], out: &mut Vec<GetStep>) {
        let _ = (queue, gets, out);
        todo!()
    }

    /// Says which keys are there, from RAM alone; `out` is as long as `keys`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn exists(&self, namespace: u32, keys: &[&[u8]], out: &mut [bool]) {
        let _ = (namespace, keys, out);
        todo!()
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
        let _ = (queue, token, namespace, key);
        todo!()
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
        let _ = (queue, token, namespace, cursor, limit);
        todo!()
    }

    /// What the store looks like now. Takes microseconds; call it for people, not per op.
    pub fn status(&self) -> EngineStatus {
        todo!()
    }

    /// Finishes what is in flight, writes checkpoints and closes the drives; calls from then on
    /// answer `Draining`.
    ///
    /// # Errors
    /// [`ShutdownError`]; what was acknowledged is safe all the same.
    pub fn shutdown(&self, deadline: Duration) -> Result<(), ShutdownError> {
        let _ = deadline;
        todo!()
    }
}
