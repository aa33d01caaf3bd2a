//! Reads by callers: get, exists, scan.

use std::sync::Arc;

use super::shared::BUSY_US;
use super::{GetStep, Shared, check_key};
use crate::api::{Cursor, Get, ScanEntry, ScanPage, Step, Tier, Token};
use crate::cache::CacheKey;
use crate::entry::Meta;
use crate::error::{GetError, ScanError};
use crate::index::{self, KeyHash, Location};
use crate::lease::ReadLease;
use crate::queue::CompletionSender;
use crate::segment_log::segment::{HINT, KIND_RECORD, KIND_STRIPES};
use crate::segment_log::{Event, ReadWork, Reply, ReplyTo, ScanJob};
use crate::stream::{Stripes, read_window, window_end};

/// Keys of a batch that are hashed and looked up together.
const BATCH: usize = 64;
/// Entries that one page of a scan looks at, at most.
const SCAN_MAX: usize = 4096;

impl Shared {
    pub(super) fn get(
        self: &Arc<Self>,
        sender: &CompletionSender,
        token: Token,
        key: &CacheKey<'_>,
    ) -> GetStep {
        if let Some(hit) = self.tables.cache.get(key) {
            if hit.meta.attrs.expiry_ms == 0 || !hit.meta.expired(self.unix_ms()) {
                let lease = ReadLease::whole(hit.memory, hit.meta, Tier::Ram);
                return Ok(Step::Ready(Some(lease)));
            }
            if self.tables.in_memory() {
                self.memory.expire(self, key);
            }
            return Ok(Step::Ready(None));
        }
        if self.tables.in_memory() {
            return Ok(Step::Ready(None));
        }
        let Some(location) = self.tables.locate(key.hash) else {
            return Ok(Step::Ready(None));
        };
        if self.tables.index.expired(&location, || self.unix_ms()) {
            return Ok(Step::Ready(None));
        }
        if self.draining() {
            return Err(GetError::Draining);
        }
        if location.kind == KIND_STRIPES {
            let stripes = self.tables.stripes.get(key.hash);
            let same = |stripes: &Arc<Stripes>| {
                stripes.list == location
                    && stripes.namespace == key.namespace
                    && *stripes.key == *key.key
                    && !stripes.meta.expired(self.unix_ms())
            };
            let Some(stripes) = stripes.filter(same) else {
                return Ok(Step::Ready(None));
            };
            read_window(self, stripes, 0, sender.clone(), token);
            return Ok(Step::Pending);
        }
        let reply = Reply {
            to: ReplyTo::Caller(sender.clone(), token),
            accepted: self.now(),
        };
        let (hash, namespace) = (key.hash, key.namespace);
        let work = Box::new(ReadWork {
            hash,
            namespace,
            key: key.key.into(),
            reply,
        });
        let busy = |_| GetError::Busy {
            retry_after_us: BUSY_US,
        };
        self.offer(location.drive_idx, Event::Read(work))
            .map_err(busy)?;
        Ok(Step::Pending)
    }

    /// What a pending get of a key brings at most, as far as the index tells: a record's length is
    /// in its hint, a striped value's in its table, and an extent is at most a block.
    pub(super) fn get_bytes_max(&self, hash: KeyHash) -> u64 {
        let block = self.tables.part_bytes;
        match self.tables.locate(hash) {
            Some(at) if at.kind == KIND_RECORD && at.hint < u8::MAX => {
                u64::from(at.hint) * HINT as u64
            }
            Some(at) if at.kind == KIND_STRIPES => {
                let stripes = self.tables.stripes.get(hash);
                stripes.map_or(block, |stripes| window_end(self, &stripes, 0))
            }
            _ => block,
        }
    }

    /// As [`get`](Self::get) for many; the index lines of a batch are fetched together.
    pub(super) fn get_many(
        self: &Arc<Self>,
        sender: &CompletionSender,
        gets: &[Get<'_>],
        out: &mut Vec<GetStep>,
    ) {
        out.reserve(gets.len());
        let mut hashes = [KeyHash(0); BATCH];
        let mut found = [None; BATCH];
        for gets in gets.chunks(BATCH) {
            let (hashes, found) = (&mut hashes[..gets.len()], &mut found[..gets.len()]);
            for (hash, get) in hashes.iter_mut().zip(gets) {
                *hash = self.tables.hasher.hash(get.namespace, get.key);
            }
            self.tables.index.get_many(hashes, found);
            for (get, hash) in gets.iter().zip(hashes) {
                let (hash, namespace, key) = (*hash, get.namespace, get.key);
                let step = match check_key(key) {
                    Ok(()) => self.get(
                        sender,
                        get.token,
                        &CacheKey {
                            hash,
                            namespace,
                            key,
                        },
                    ),
                    Err(bad) => Err(bad.into()),
                };
                out.push(step);
            }
        }
    }

    pub(super) fn exists(&self, namespace: u32, keys: &[&[u8]], out: &mut [bool]) {
        assert_eq!(keys.len(), out.len(), "one answer per key");
        let mut hashes = [KeyHash(0); BATCH];
        let mut found = [None; BATCH];
        for (keys, out) in keys.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let (hashes, found) = (&mut hashes[..keys.len()], &mut found[..keys.len()]);
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.tables.hasher.hash(namespace, key);
            }
            self.tables.index.get_many(hashes, found);
            let keys = keys.iter().zip(hashes).map(|(key, hash)| CacheKey {
                hash: *hash,
                namespace,
                key,
            });
            for ((out, found), key) in out.iter_mut().zip(found).zip(keys) {
                let serves = |at: &Location| self.tables.drives.serves(at.drive_idx);
                *out = match found.filter(serves) {
                    Some(at) => !self.tables.index.expired(&at, || self.unix_ms()),
                    None => self.outlives_its_drive(&key),
                };
            }
        }
    }

    /// Whether RAM still has a value that is on no drive any more: its segment was reclaimed, or its
    /// drive is lost. Reads are answered with it, so it exists.
    fn outlives_its_drive(&self, key: &CacheKey<'_>) -> bool {
        // In memory mode the index has all that is in RAM.
        !self.tables.in_memory() && self.tables.cached_version(key, || self.unix_ms()).is_some()
    }

    pub(super) fn scan(
        self: &Arc<Self>,
        sender: &CompletionSender,
        token: Token,
        namespace: u32,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Step<ScanPage>, ScanError> {
        if self.draining() {
            return Err(ScanError::Draining);
        }
        let limit = limit.clamp(1, SCAN_MAX);
        if self.tables.in_memory() {
            return Ok(Step::Ready(self.scan_memory(namespace, cursor, limit)));
        }
        let mut found = Vec::new();
        let next = self
            .tables
            .index
            .scan(index::Cursor(cursor.0), limit, &mut found);
        let job = ScanJob {
            namespace,
            left: found.into_iter().map(|entry| entry.location).collect(),
            page: ScanPage {
                entries: Vec::new(),
                next: next.map(|next| Cursor(next.0)),
            },
            to: ReplyTo::Caller(sender.clone(), token),
        };
        job.go_on(self);
        Ok(Step::Pending)
    }

    fn scan_memory(&self, namespace: u32, cursor: Cursor, limit: usize) -> ScanPage {
        let mut entries = Vec::new();
        let now = self.unix_ms();
        let next = self
            .tables
            .cache
            .scan(cursor.0, limit, &mut |key, meta: &Meta| {
                if key.namespace == namespace && !meta.expired(now) {
                    let (attrs, version, value_len) = (meta.attrs, meta.version, meta.len);
                    entries.push(ScanEntry {
                        key: key.key.to_vec(),
                        attrs,
                        version,
                        value_len,
                    });
                }
            });
        ScanPage {
            entries,
            next: next.map(Cursor),
        }
    }
}
