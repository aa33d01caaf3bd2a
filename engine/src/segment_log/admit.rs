//! Whether a change may go ahead: its key's turn, its condition, what is there.

use std::io;

use super::bytes::PAGE;
use super::record::Header;
use super::segment::{HINT, KIND_EXTENT};
use super::{Context, DriveLog, Op, Purpose, Times, Work};
use crate::api::CompletionResult;
use crate::cache::CacheKey;
use crate::drive::{Io, IoBuffer, IoDone, IoId};
use crate::entry::condition_holds;
use crate::error::PutError;
use crate::index::Location;

impl DriveLog {
    /// Takes a change; it starts when those of its key before it have ended.
    pub(super) fn accept(&mut self, work: Work) {
        let hash = work.hash().0;
        let (times, admitted) = (Times::default(), false);
        let op = Op {
            work,
            version: 0,
            location: None,
            times,
            frame: None,
            admitted,
        };
        let op = self.ops.insert(op);
        let chain = self.chains.entry(hash).or_default();
        chain.push_back(op);
        if chain.len() == 1 {
            self.ready.push_back(op);
        }
    }

    pub(super) fn run_ready(&mut self, context: &mut Context<'_>) {
        // Once around: one that has to wait for a buffer goes to the end.
        for _ in 0..self.ready.len() {
            let Some(op) = self.ready.pop_front() else {
                return;
            };
            self.start(context, op);
        }
    }

    fn start(&mut self, context: &mut Context<'_>, op: usize) {
        if self.down {
            self.fail_op(context, op, &io::Error::other("the drive was taken out"));
            return;
        }
        if self.admit(context, op) == Some(true) {
            self.put_in_place(context, op);
        }
    }

    /// Looks at a change's condition: `Some(true)` to go on, `Some(false)` when it was answered,
    /// `None` when a read must tell first.
    fn admit(&mut self, context: &mut Context<'_>, op: usize) -> Option<bool> {
        match &self.ops[op].work {
            Work::Delete(work) => {
                let key = CacheKey {
                    hash: work.hash,
                    namespace: work.namespace,
                    key: &work.key,
                };
                let indexed = context.tables.locate(work.hash).is_some();
                if indexed {
                    return Some(true);
                }
                let cached = context.tables.cache.remove(&key);
                let cached = cached.is_some_and(|hit| !hit.meta.expired(context.unix_ms));
                self.finish(context, op, CompletionResult::Deleted(Ok(cached)));
                Some(false)
            }
            Work::Put(work) => {
                let (put, condition) = (&work.put, work.put.condition);
                if condition == crate::api::Condition::None {
                    return Some(true);
                }
                let key = CacheKey {
                    hash: put.hash,
                    namespace: put.namespace,
                    key: &put.key,
                };
                let index = &context.tables.index;
                let location = context.tables.locate(put.hash);
                let cached = context.tables.cached_version(&key, || context.unix_ms);
                let Some(location) = location else {
                    return Some(self.judge(context, op, cached));
                };
                if index.expired(&location, || context.unix_ms) {
                    return Some(self.judge(context, op, None));
                }
                if cached.is_some() {
                    return Some(self.judge(context, op, cached));
                }
                if usize::from(location.drive_idx) != usize::from(self.config.drive) {
                    return Some(self.judge(context, op, Some(0)));
                }
                if location.kind == KIND_EXTENT {
                    let segment = self.segments.get(location.segment_idx);
                    let extent = segment.extents.get(&location.offset);
                    let extent = extent.filter(|extent| *extent.key == *put.key);
                    let expired = |ms: u64| ms != 0 && ms <= context.unix_ms;
                    let live = extent.filter(|extent| !expired(extent.attrs.expiry_ms));
                    let current = live.map(|extent| extent.version);
                    return Some(self.judge(context, op, current));
                }
                self.resolve(context, op, location);
                None
            }
        }
    }

    /// Compares a put's condition with what is there.
    fn judge(&mut self, context: &mut Context<'_>, op: usize, current: Option<u64>) -> bool {
        let Work::Put(work) = &self.ops[op].work else {
            return true;
        };
        if condition_holds(work.put.condition, current) {
            return true;
        }
        let error = PutError::ConditionFailed { current };
        self.finish(context, op, CompletionResult::Committed(Err(error)));
        false
    }

    /// Reads the header of the record that is there.
    fn resolve(&mut self, context: &mut Context<'_>, op: usize, location: Location) {
        let (start, len) = self.pages_of(&location, usize::from(location.hint) * HINT);
        let Ok(Some(target)) = self.buffers.try_lease(len) else {
            // No buffer: its turn comes again.
            self.ready.push_back(op);
            return;
        };
        self.segments.get_mut(location.segment_idx).readers += 1;
        let id = IoId(self.purposes.insert(Purpose::Resolve { op, location }));
        context.effects.ios.push(Io::Read {
            id,
            offset: start,
            target,
        });
    }

    pub(super) fn resolved(
        &mut self,
        context: &mut Context<'_>,
        op: usize,
        location: Location,
        done: IoDone,
    ) {
        self.segments.get_mut(location.segment_idx).readers -= 1;
        self.segments.release(location.segment_idx);
        self.ops[op].times.note(done.submitted, done.completed);
        if let Err(why) = done.result {
            self.fail_op(context, op, &why);
            return;
        }
        let Work::Put(work) = &self.ops[op].work else {
            return;
        };
        if context.tables.index.get(work.put.hash) != Some(location) {
            // It was reclaimed meanwhile: look again.
            self.ready.push_back(op);
            return;
        }
        let IoBuffer::Target(memory) = done.buffer else {
            return;
        };
        let memory = memory.freeze();
        let within = location.offset as usize % PAGE;
        let bytes = memory
            .contiguous()
            .unwrap_or_default()
            .get(within..)
            .unwrap_or_default();
        let segment = self.segments.get(location.segment_idx);
        let found = Header::decode(&segment.seed(&self.seed), segment.generation, bytes);
        let current = found.filter(|(header, key)| {
            let expiry = header.attrs.expiry_ms;
            **key == *work.put.key && (expiry == 0 || expiry > context.unix_ms)
        });
        let current = current.map(|(header, _)| header.version);
        if self.judge(context, op, current) {
            self.put_in_place(context, op);
        }
    }
}
