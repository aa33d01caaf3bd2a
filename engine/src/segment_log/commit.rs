//! From data on the drive to an acknowledged change: journal, flush, index.

use std::io;

use super::end::is_no_room;
use super::frames::Ticket;
use super::journal::{Row, RowOp};
use super::segment::{Extent, HeaderState};
use super::{Body, Context, DriveLog, Note, Purpose, Work};
use crate::api::{Committed, CompletionResult};
use crate::cache::CacheKey;
use crate::clock::Tick;
use crate::config::Sync;
use crate::drive::{IoBuffer, IoDone};
use crate::entry::Meta;
use crate::index::{Change, If, KeyHash, Location};
use crate::stream::Stripes;

const SECOND_NS: u64 = 1_000_000_000;

impl DriveLog {
    pub(super) fn extent_done(&mut self, context: &mut Context<'_>, op: usize, done: IoDone) {
        self.ops[op].times.note(done.submitted, done.completed);
        let (Some(location), IoBuffer::Source(written)) = (self.ops[op].location, &done.buffer)
        else {
            return;
        };
        if let Err(why) = done.result {
            self.fail_op(context, op, &why);
            self.after_failure(location.segment_idx, &why);
            return;
        }
        let end = location.offset + written.len() as u32;
        self.segments.written(location.segment_idx, end);
        let change = &self.ops[op];
        let Work::Put(work) = &change.work else {
            return;
        };
        let row = Row {
            op: if work.part.is_some() {
                RowOp::Part
            } else {
                RowOp::Extent
            },
            namespace: work.put.namespace,
            attrs: work.put.attrs,
            version: change.version,
            segment: location.segment_idx,
            offset: location.offset,
            generation: self.segments.get(location.segment_idx).generation,
            value_len: work.put.len,
            crc: work.crc,
            part: work.part.unwrap_or(0),
            key: work.put.key.clone(),
        };
        self.journal.pending.push_back((row, Ticket::Op(op)));
    }

    pub(super) fn batch_done(
        &mut self,
        context: &mut Context<'_>,
        (segment, offset): (u32, u32),
        ops: Vec<usize>,
        done: IoDone,
    ) {
        self.batches_in_flight -= 1;
        for op in &ops {
            self.ops[*op].times.note(done.submitted, done.completed);
        }
        let header = self.segments.get(segment).header;
        let result = match (done.result, header) {
            (Ok(()), HeaderState::Missing) => Err(self.header_error(context)),
            (result, _) => result,
        };
        if let Err(why) = result {
            for op in ops {
                self.fail_op(context, op, &why);
            }
            self.after_failure(segment, &why);
            return;
        }
        if let IoBuffer::Source(written) = done.buffer {
            let end = offset + written.len() as u32;
            self.segments.written(segment, end);
        }
        if header == HeaderState::Writing {
            self.held.push((segment, ops));
            return;
        }
        for op in ops {
            self.durable(context, op);
        }
    }

    /// Why records can't be acknowledged whose segment has no header.
    fn header_error(&self, context: &Context<'_>) -> io::Error {
        match self.has_no_room(context) {
            true => io::ErrorKind::StorageFull.into(),
            false => io::Error::other("the segment's header can't be written"),
        }
    }

    /// After a write to a segment failed, and what it was for.
    fn after_failure(&mut self, segment: u32, why: &io::Error) {
        if is_no_room(why) {
            self.segments.give_back(segment);
        }
    }

    /// A segment's header is on the drive: its first batches may be acknowledged. Without it nothing
    /// in the segment could be found again, so they fail, and the next one writes it again.
    pub(super) fn header_done(&mut self, context: &mut Context<'_>, segment: u32, done: IoDone) {
        self.segments.get_mut(segment).header = match done.result {
            Ok(()) => HeaderState::Done,
            Err(_) => HeaderState::Missing,
        };
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(held, _)| *held == segment);
        self.held = later;
        for op in now.into_iter().flat_map(|(_, ops)| ops) {
            match &done.result {
                Ok(()) => self.durable(context, op),
                Err(why) => self.fail_op(context, op, why),
            }
        }
    }

    /// The kernel has completed a change's data and journal.
    pub(super) fn durable(&mut self, context: &mut Context<'_>, op: usize) {
        let flushes = match self.config.sync {
            Sync::Always => true,
            Sync::Everysec => self.is_part_among_drives(context, op),
            Sync::No => false,
        };
        if flushes {
            self.to_flush.push(op);
            return;
        }
        self.mark_dirty(context);
        self.publish(context, op);
    }

    /// Whether it is a part whose list may be another drive's. That may be flushed before the part, and
    /// would hide the key's last value and have none itself.
    fn is_part_among_drives(&self, context: &Context<'_>, op: usize) -> bool {
        let is_part = matches!(&self.ops[op].work, Work::Put(work) if work.part.is_some());
        is_part && context.tables.drives.members().len() > 1
    }

    pub(super) fn mark_dirty(&mut self, context: &Context<'_>) {
        if !self.dirty {
            self.dirty = true;
            self.next_flush = Tick(context.now.0 + SECOND_NS);
        }
    }

    /// One flush for all that wait for one; the next one starts when it is done.
    pub(super) fn send_flush(&mut self, context: &mut Context<'_>) {
        if !self.to_flush.is_empty() && !self.flushing {
            self.flushing = true;
            let ops = std::mem::take(&mut self.to_flush);
            let ended = self.journal.ended();
            self.submit_flush(context, Purpose::Flush { ops, ended });
        }
        let due = self.dirty && context.now >= self.next_flush;
        if due && self.config.sync == Sync::Everysec && !self.timed_flush {
            self.timed_flush = true;
            self.dirty = false;
            let ended = self.journal.ended();
            let burials = self.burials.len();
            self.submit_flush(context, Purpose::TimedFlush { ended, burials });
        }
    }

    pub(super) fn timed_flush_done(
        &mut self,
        context: &mut Context<'_>,
        ended: u64,
        burials: usize,
        done: &IoDone,
    ) {
        self.timed_flush = false;
        match &done.result {
            Ok(()) => {
                self.journal.covered(ended);
                let (ours, others): (Vec<Location>, Vec<Location>) = self
                    .burials
                    .drain(..burials)
                    .partition(|dead| dead.drive_idx == self.config.drive);
                // At once, because a change may wait for just that room.
                ours.iter().for_each(|dead| self.segments.add_dead(dead));
                context.bury(&others);
            }
            Err(why) => self.fail(context, format!("flush: {why}")),
        }
    }

    pub(super) fn flush_done(
        &mut self,
        context: &mut Context<'_>,
        ops: Vec<usize>,
        ended: u64,
        done: IoDone,
    ) {
        self.flushing = false;
        if done.result.is_ok() {
            self.journal.covered(ended);
        }
        for op in ops {
            match &done.result {
                Ok(()) => {
                    self.ops[op].times.note(done.submitted, done.completed);
                    self.publish(context, op);
                }
                // What a failed flush was about is unknown for ever: the kernel forgets.
                Err(why) => self.fail_op(context, op, why),
            }
        }
        if let Err(why) = done.result {
            self.fail(context, format!("flush: {why}"));
        }
    }

    /// Makes a change visible and answers it.
    fn publish(&mut self, context: &mut Context<'_>, op: usize) {
        if self.down {
            // Its key may be another drive's already.
            let why = io::Error::other("the drive was taken out");
            return self.fail_op(context, op, &why);
        }
        let location = self.ops[op].location.expect("a durable change has a place");
        let version = self.ops[op].version;
        let (tables, unix_ms) = (context.tables, context.unix_ms);
        let result = match &mut self.ops[op].work {
            Work::Delete(work) => {
                let key = CacheKey {
                    hash: work.hash,
                    namespace: work.namespace,
                    key: &work.key,
                };
                let indexed = tables.index.get(work.hash);
                let there = indexed.is_some_and(|at| !tables.index.expired(&at, || unix_ms));
                let before = tables.index.remove(work.hash, If::Always);
                tables.cache.remove(&key);
                let hash = work.hash;
                self.bury(context, hash, before);
                if self.tombstones.add(hash, version) {
                    self.settle(context.tables.last_version());
                }
                CompletionResult::Deleted(Ok(there))
            }
            Work::Put(work) => {
                if location.kind == super::segment::KIND_EXTENT {
                    let extent = Extent {
                        namespace: work.put.namespace,
                        key: work.put.key.clone(),
                        attrs: work.put.attrs,
                        version,
                        len: work.put.len,
                        crc: work.crc,
                        part: work.part,
                        was_read: false,
                        unverified: false,
                    };
                    let segment = self.segments.get_mut(location.segment_idx);
                    segment.extents.insert(location.offset, extent);
                }
                self.segments.add_live(&location);
                if work.part.is_none() {
                    let key = CacheKey {
                        hash: work.put.hash,
                        namespace: work.put.namespace,
                        key: &work.put.key,
                    };
                    let (len, crc, hash) = (work.put.len, work.crc, work.put.hash);
                    let meta = Meta {
                        attrs: work.put.attrs,
                        version,
                        len,
                        crc,
                    };
                    tables.index.note_expiry(&location, meta.attrs.expiry_ms);
                    let before = tables.index.put(work.put.hash, location, If::Always);
                    match &mut work.body {
                        Body::Value(memory) => {
                            tables.adopt(&key, memory.part(0, len as usize), meta);
                        }
                        Body::Stripes { parts, whole, .. } => {
                            tables.cache.remove(&key);
                            if let Some(whole) = whole {
                                tables.adopt(&key, whole.part(0, len as usize), meta);
                            }
                            let stripes = Stripes {
                                hash: work.put.hash,
                                namespace: work.put.namespace,
                                key: work.put.key.clone(),
                                meta,
                                part_bytes: tables.part_bytes,
                                parts: std::mem::take(parts),
                                list: location,
                            };
                            if let Some(last) = tables.stripes.put(stripes) {
                                self.bury_parts(context, &last.parts);
                            }
                            self.bury_only(context, before);
                            self.end_if_incomplete(context, hash);
                            return self.finish(
                                context,
                                op,
                                CompletionResult::Committed(Ok(Committed { version })),
                            );
                        }
                    }
                    self.bury(context, hash, before);
                }
                CompletionResult::Committed(Ok(Committed { version }))
            }
        };
        self.finish(context, op, result);
    }

    /// Ends a striped value of which a part was evicted when nothing told yet what it was a part of.
    /// An eviction ends its segment's life before it looks which values it takes along, and this looks
    /// after the value is known: one of the two sees the other.
    fn end_if_incomplete(&mut self, context: &mut Context<'_>, hash: KeyHash) {
        let tables = context.tables;
        let Some(stripes) = tables.stripes.get(hash) else {
            return;
        };
        if stripes
            .parts
            .iter()
            .all(|part| tables.index.is_current(part))
        {
            return;
        }
        let count = u64::from(self.end_stripes(context, &stripes));
        let never_read = count * stripes.meta.len;
        let note = Note::Evicted { count, never_read };
        context.effects.notes.push(note);
    }

    /// Ends a striped value; true if it was there. Nothing took its place, so no flush is waited for.
    pub(super) fn end_stripes(&mut self, context: &mut Context<'_>, stripes: &Stripes) -> bool {
        let (was_there, dead) = context.tables.end_stripes(stripes);
        let (ours, others): (Vec<Location>, Vec<Location>) = dead
            .into_iter()
            .partition(|dead| dead.drive_idx == self.config.drive);
        ours.iter().for_each(|dead| self.segments.add_dead(dead));
        context.bury(&others);
        was_there
    }

    /// Counts what an index entry replaced as dead, wherever it lies, with its parts.
    fn bury(&mut self, context: &mut Context<'_>, hash: KeyHash, change: Change) {
        if let Change::Done(Some(location)) = change
            && let Some(stripes) = context.tables.stripes.take(hash, &location)
        {
            self.bury_parts(context, &stripes.parts);
        }
        self.bury_only(context, change);
    }

    fn bury_only(&mut self, context: &mut Context<'_>, change: Change) {
        let Change::Done(Some(location)) = change else {
            return;
        };
        self.bury_at(context, location);
    }

    pub(super) fn bury_at(&mut self, context: &mut Context<'_>, location: Location) {
        if location.drive_idx == self.config.drive {
            self.segments.add_dead(&location);
        } else {
            self.bury_parts(context, &[location]);
        }
    }

    /// Tells the drives that these belong to nothing, as soon as a loss of power can't bring back what
    /// they belonged to: another drive would have forgotten them by then.
    fn bury_parts(&mut self, context: &mut Context<'_>, parts: &[Location]) {
        if self.config.sync == Sync::Everysec {
            self.burials.extend_from_slice(parts);
        } else {
            context.bury(parts);
        }
    }
}
