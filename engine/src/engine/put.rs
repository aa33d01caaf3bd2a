//! Changes by callers: reserve, advance, commit, delete.

use std::io;
use std::sync::Arc;

use super::shared::BUSY_US;
use super::{Shared, check_key};
use crate::api::{Committed, DriveIdx, Put, Step, Token, VALUE_BYTES_MAX};
use crate::cache::CacheKey;
use crate::entry::OwnedPut;
use crate::error::{DeleteError, PutError};
use crate::lease::{WriteInner, WriteLease, zero_tail};
use crate::queue::CompletionSender;
use crate::segment_log::bytes::page_up;
use crate::segment_log::{Body, DeleteWork, EXTENT_BYTES_MIN, Event, PutWork, Reply, ReplyTo};
use crate::slab::WriteMemory;

impl Shared {
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
            hash: self.tables.hasher.hash(put.namespace, put.key),
            namespace: put.namespace,
            key: put.key.into(),
            len: put.len,
            attrs: put.attrs,
            condition: put.condition,
        };
        let bytes = self.lease_bytes(put.len);
        if let Some(memory) = self.tables.lease_now(bytes) {
            return Ok(Step::Ready(self.write_lease(put, memory)));
        }
        self.refuse_when_stuck(bytes)?;
        self.wait_for_memory(sender, token, put)
    }

    /// Bytes to lease for a value: whole pages for what becomes an extent.
    pub(super) fn lease_bytes(&self, len: u64) -> usize {
        let pages = !self.tables.in_memory() && len >= EXTENT_BYTES_MIN;
        let len = len.min(self.write_window_bytes());
        (if pages { page_up(len) } else { len }) as usize
    }

    /// The longest value that the store takes, and what limits it.
    pub(super) fn len_bound(&self) -> (u64, &'static str) {
        let (bound, limit) = if self.tables.in_memory() {
            let capacity = self.tables.pool.capacity_bytes() as u64;
            (capacity, "storage.max_size in memory mode")
        } else {
            // What fills the drives is evicted for its own end before that is written.
            (self.tables.data_bytes / 2, "half of what all drives hold")
        };
        if bound < VALUE_BYTES_MAX {
            (bound, limit)
        } else {
            (VALUE_BYTES_MAX, "the engine's longest value")
        }
    }

    fn check_len(&self, len: u64) -> Result<(), PutError> {
        let (bound, limit) = self.len_bound();
        if len > bound {
            return Err(PutError::TooLarge { len, bound, limit });
        }
        Ok(())
    }

    /// What a put fills at once: whole parts, at most a quarter of the pool. In memory mode all of
    /// it, because that is where it stays.
    pub(super) fn write_window_bytes(&self) -> u64 {
        if self.tables.in_memory() {
            return self.tables.pool.capacity_bytes() as u64;
        }
        let window = self.tables.pool.window_bytes() as u64;
        (window / self.tables.part_bytes).max(1) * self.tables.part_bytes
    }

    pub(super) fn write_lease(self: &Arc<Self>, put: OwnedPut, memory: WriteMemory) -> WriteLease {
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
        if !self.tables.in_memory() && lease.len() > self.tables.part_bytes {
            let mut lease = lease;
            lease.zero_tail();
            self.write_window(lease, Some(crc), sender, token)?;
            return Ok(Step::Pending);
        }
        let WriteInner {
            put, mut memory, ..
        } = *lease.inner;
        if self.tables.in_memory() {
            return self.memory.commit(self, put, memory, crc).map(Step::Ready);
        }
        zero_tail(&mut memory, put.len as usize);
        let home = self.tables.home(put.hash).ok_or(PutError::NoDrive)?;
        if !self.tables.drives.serves(home) {
            let source = io::Error::other("the drive was taken out");
            return Err(PutError::Io {
                drive: DriveIdx(home.into()),
                source,
            });
        }
        let reply = Reply {
            to: ReplyTo::Caller(sender, token),
            accepted: self.now(),
        };
        let body = Body::Value(memory.freeze());
        let work = Box::new(PutWork {
            put,
            body,
            crc,
            part: None,
            reply,
        });
        self.offer(home, Event::Put(work))
            .map_err(|_| PutError::Busy {
                retry_after_us: BUSY_US,
            })?;
        Ok(Step::Pending)
    }

    pub(super) fn delete(
        self: &Arc<Self>,
        sender: &CompletionSender,
        token: Token,
        key: &CacheKey<'_>,
    ) -> Result<Step<bool>, DeleteError> {
        if self.draining() {
            return Err(DeleteError::Draining);
        }
        if self.tables.in_memory() {
            return Ok(Step::Ready(self.memory.delete(self, key)));
        }
        let home = self.tables.home(key.hash);
        let Some(home) = home.filter(|home| self.tables.drives.serves(*home)) else {
            let drive = DriveIdx(home.unwrap_or(0).into());
            let source = io::Error::other("the drive was taken out");
            return Err(DeleteError::Io { drive, source });
        };
        let reply = Reply {
            to: ReplyTo::Caller(sender.clone(), token),
            accepted: self.now(),
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
        self.offer(home, Event::Delete(work)).map_err(busy)?;
        Ok(Step::Pending)
    }
}
