//! Housekeeping: reclaiming segments, writing checkpoints, keeping the superblock.

use super::checkpoint::{CHUNK, CheckpointHead, encode_chunk, encode_entry, encode_tombstone};
use super::end::{PAUSE_NS, is_no_room};
use super::journal::{Row, RowOp};
use super::segment::{KIND_EXTENT, State};
use super::superblock::CheckpointPointer;
use super::{Context, DriveLog, Note, Purpose};
use crate::clock::Tick;
use crate::drive::{IoBuffer, IoDone};
use crate::index::{Cursor, Entry, Location};

/// Index entries looked at per chunk.
const SCAN: usize = 8192;

/// A checkpoint being written, one I/O at a time.
pub(super) struct CheckpointRun {
    pointer: CheckpointPointer,
    stage: Stage,
    bytes: Vec<u8>,
    chunk: u32,
    written: u64,
    /// Segments that were sealed and quiet when it began.
    covers: Vec<(u32, u32)>,
    /// The member generation that it puts on record.
    members: Option<u64>,
    /// Nothing was written since the shutdown: the drive is clean after it.
    last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Extents(u32),
    Index(Cursor),
    Tail,
    FlushData,
    /// Copies of the superblock, in the order of their writing: 0, 2, flush, 1, 3, flush.
    Superblock(u8),
    Done,
}

impl DriveLog {
    /// Starts what is due.
    pub(super) fn maintain(&mut self, context: &mut Context<'_>) {
        self.reclaim(context);
        let geometry = &self.segments.geometry;
        let uncovered = self
            .segments
            .sealed
            .iter()
            .filter(|idx| !self.segments.get(**idx).covered)
            .count();
        let often = (geometry.segment_count as usize / 8).clamp(2, 64);
        if self.journal.ring.fill() > 0.5 || uncovered >= often {
            self.checkpoint_wanted = true;
        }
        let ready = match self.shutdown {
            true => self.ops.is_empty() && self.reads.is_empty(),
            false => !self.has_no_room(context),
        };
        if self.checkpoint_wanted && self.checkpoint.is_none() && ready && !self.closed {
            self.begin_checkpoint(context);
        }
    }

    fn reclaim(&mut self, context: &mut Context<'_>) {
        let low = (self.segments.list.len() / 16).clamp(2, 8);
        while self.segments.free.len() + self.reclaiming < low || self.index_is_too_full() {
            let Some(victim) = self.segments.victim(self.config.eviction) else {
                return;
            };
            let segment = self.segments.get_mut(victim);
            if !segment.covered {
                self.checkpoint_wanted = true;
                return;
            }
            segment.state = State::Reclaiming;
            self.segments.sealed.retain(|sealed| *sealed != victim);
            self.reclaiming += 1;
            self.submit_flush(context, Purpose::FlushBeforeFree(victim));
        }
    }

    /// What made a segment dispensable is on the drive: a loss of power leaves a value, or the one before
    /// it.
    pub(super) fn end_segment(&mut self, context: &mut Context<'_>, segment: u32, done: IoDone) {
        match done.result {
            Ok(()) => self.journal_free(context, segment),
            Err(why) => self.fail(context, format!("flush: {why}")),
        }
    }

    /// Whether entries must go although there are free segments: a checkpoint holds so many.
    fn index_is_too_full(&self) -> bool {
        self.config.eviction && self.reclaiming == 0 && !self.segments.checkpoint_has_room()
    }

    /// The end of a segment is journalled: its entries vanish at once.
    pub(super) fn reclaimed(&mut self, context: &mut Context<'_>, segment: u32) {
        let (index, drive) = (&context.tables.index, self.config.drive);
        let expired = index.expired_in(drive, segment, context.unix_ms);
        index.reclaim_segment(drive, segment);
        self.end_striped(context, segment);
        let expired_unread = self.segments.expired_unread(segment, context.unix_ms);
        let (count, never_read) = self.segments.clear(segment);
        let never_read = never_read.saturating_sub(expired_unread);
        count_gone(context, count, expired, never_read);
        // Its next life begins when the end of this one can't be forgotten: two of the same generation
        // would be taken for one. The flush keeps it from being written over, as a reader does.
        self.segments.get_mut(segment).readers += 1;
        self.submit_flush(context, Purpose::FlushAfterFree(segment));
    }

    /// Ends the striped values of which a segment has a part or the list: one with a part less is no
    /// value. What a list in the segment names is counted with the segment's entries, any other here.
    fn end_striped(&mut self, context: &mut Context<'_>, segment: u32) {
        let drive = self.config.drive;
        for stripes in context.tables.stripes.in_segment(drive, segment) {
            let is_here =
                |place: &&Location| (place.drive_idx, place.segment_idx) == (drive, segment);
            let mut parts = stripes.parts.iter().filter(is_here);
            let was_read = self.segments.was_read(segment, &mut parts);
            let count = u64::from(self.end_stripes(context, &stripes));
            let expired = count * u64::from(stripes.meta.expired(context.unix_ms));
            let never_read = u64::from(!was_read) * (count - expired) * stripes.meta.len;
            count_gone(context, count, expired, never_read);
        }
    }

    /// The end of a segment can't be forgotten any more.
    pub(super) fn reuse_segment(&mut self, context: &mut Context<'_>, segment: u32, done: IoDone) {
        self.reclaiming -= 1;
        self.segments.get_mut(segment).readers -= 1;
        match done.result {
            Ok(()) => self.segments.release(segment),
            Err(why) => self.fail(context, format!("flush: {why}")),
        }
    }

    fn begin_checkpoint(&mut self, context: &mut Context<'_>) {
        self.checkpoint_wanted = false;
        let last = self.superblock.checkpoint;
        let pointer = CheckpointPointer {
            area: (last.area + 1) & 1,
            generation: last.generation + 1,
            bytes: 0,
            journal_page: self.journal.replay_from(),
            version: context.tables.last_version(),
            epoch: self.superblock.epoch,
        };
        let quiet = |segment: &super::segment::Segment| {
            segment.state == State::Sealed && segment.unpublished.is_empty()
        };
        for segment in &mut self.segments.list {
            segment.scanned_from = segment.replay_from();
        }
        let covers = (0..)
            .zip(&self.segments.list)
            .filter(|(_, segment)| quiet(segment));
        let covers = covers
            .map(|(idx, segment)| (idx, segment.generation))
            .collect();
        let mut bytes = CheckpointHead {
            generation: pointer.generation,
            segments: self.segments.list.len() as u32,
            settled: self.settle(pointer.version),
        }
        .encode();
        for segment in &self.segments.list {
            super::checkpoint::encode_segment(segment, &mut bytes);
        }
        for tombstone in &self.tombstones.recent {
            encode_tombstone(tombstone, &mut bytes);
        }
        self.checkpoint = Some(CheckpointRun {
            pointer,
            stage: Stage::Extents(0),
            bytes,
            chunk: 0,
            written: 0,
            covers,
            members: None,
            last: self.shutdown,
        });
        self.checkpoint_step(context);
    }

    /// From which version on changes of this drive may be in flight, which is what a checkpoint
    /// that begins now may miss; forgets the tombstones of lower ones.
    pub(super) fn settle(&mut self, last_version: u64) -> u64 {
        let in_flight = self.ops.iter().map(|(_, op)| op.version);
        let first = in_flight.filter(|version| *version > 0).min();
        let settled = first.unwrap_or(last_version + 1);
        self.tombstones.forget(settled);
        settled
    }

    /// Writes the next piece of the checkpoint.
    fn checkpoint_step(&mut self, context: &mut Context<'_>) {
        let Some(mut run) = self.checkpoint.take() else {
            return;
        };
        self.gather(context, &mut run);
        let chunk_due = run.bytes.len() >= CHUNK || (run.stage == Stage::Tail);
        if chunk_due && matches!(run.stage, Stage::Extents(_) | Stage::Index(_) | Stage::Tail) {
            let payload: Vec<u8> = run.bytes.drain(..run.bytes.len().min(CHUNK)).collect();
            let last = run.stage == Stage::Tail && run.bytes.is_empty();
            let chunk = encode_chunk(
                &self.seed,
                run.pointer.generation,
                run.chunk,
                last,
                &payload,
            );
            let area = self.segments.geometry.checkpoint_bytes;
            if run.written + chunk.len() as u64 > area {
                let note = Note::CheckpointTooLong { area };
                context.effects.notes.push(note);
                self.checkpoint = None;
                self.closed = self.closed || run.last;
                return;
            }
            let Some(buffer) = self.buffer(&chunk) else {
                // Put the payload back; a later step has a buffer.
                let mut bytes = payload;
                bytes.append(&mut run.bytes);
                run.bytes = bytes;
                self.checkpoint = Some(run);
                self.checkpoint_stuck = true;
                return;
            };
            let at = self.segments.geometry.checkpoint_at(run.pointer.area) + run.written;
            run.written += chunk.len() as u64;
            run.chunk += 1;
            if last {
                run.stage = Stage::FlushData;
                run.pointer.bytes = run.written;
            }
            self.checkpoint = Some(run);
            self.submit_write(context, Purpose::Checkpoint, at, buffer);
            return;
        }
        self.checkpoint = Some(run);
        self.finish_checkpoint(context);
    }

    /// Fills the next chunk.
    fn gather(&self, context: &Context<'_>, run: &mut CheckpointRun) {
        while run.bytes.len() < CHUNK {
            match run.stage {
                Stage::Extents(idx) if (idx as usize) < self.segments.list.len() => {
                    let segment = self.segments.get(idx);
                    for (offset, extent) in &segment.extents {
                        run.bytes.push(1);
                        row_of(idx, segment.generation, *offset, extent).encode(&mut run.bytes);
                    }
                    run.stage = Stage::Extents(idx + 1);
                }
                Stage::Extents(_) => run.stage = Stage::Index(Cursor(0)),
                Stage::Index(cursor) => {
                    let mut entries: Vec<Entry> = Vec::with_capacity(SCAN);
                    let next = context.tables.index.scan(cursor, SCAN, &mut entries);
                    let drive = self.config.drive;
                    for entry in entries
                        .iter()
                        .filter(|entry| entry.location.drive_idx == drive)
                    {
                        // The row of an extent tells it of that.
                        let expiry = context.tables.index.expiry_ms(&entry.location);
                        let expiry = expiry.filter(|_| entry.location.kind != KIND_EXTENT);
                        encode_entry(entry, expiry, &mut run.bytes);
                    }
                    run.stage = next.map_or(Stage::Tail, Stage::Index);
                }
                _ => return,
            }
        }
    }

    /// Flushes, then writes the superblock's copies, two by two.
    fn finish_checkpoint(&mut self, context: &mut Context<'_>) {
        let Some(run) = &mut self.checkpoint else {
            return;
        };
        match run.stage {
            Stage::FlushData => {
                run.stage = Stage::Superblock(0);
                self.submit_flush(context, Purpose::Checkpoint);
            }
            Stage::Superblock(step @ (2 | 5)) => {
                run.stage = if step == 5 {
                    Stage::Done
                } else {
                    Stage::Superblock(3)
                };
                self.submit_flush(context, Purpose::Checkpoint);
            }
            Stage::Superblock(step) => {
                if step == 0 {
                    self.superblock.generation += 1;
                    self.superblock.checkpoint = run.pointer;
                    self.superblock.clean = run.last;
                    if let Some(members) = self.members {
                        self.superblock.member_generation = members.generation;
                        self.superblock.members_present = members.present;
                        run.members = Some(members.generation);
                    }
                }
                let page = self.superblock.encode();
                let Some(buffer) = self.buffer(&page) else {
                    if step == 0 {
                        self.superblock.generation -= 1;
                    }
                    self.checkpoint_stuck = true;
                    return;
                };
                let Some(run) = &mut self.checkpoint else {
                    return;
                };
                run.stage = Stage::Superblock(step + 1);
                let copy = [0, 2, 0, 1, 3][usize::from(step)];
                let at = self.segments.geometry.copies()[copy];
                self.submit_write(context, Purpose::Checkpoint, at, buffer);
            }
            Stage::Done => self.checkpoint_ended(context),
            _ => {}
        }
    }

    fn checkpoint_ended(&mut self, context: &mut Context<'_>) {
        let Some(run) = self.checkpoint.take() else {
            return;
        };
        self.journal.ring.tail = run.pointer.journal_page;
        for (idx, generation) in run.covers {
            let segment = self.segments.get_mut(idx);
            if segment.generation == generation {
                segment.covered = true;
            }
        }
        self.closed = run.last;
        self.has_dropped = false;
        if run.members.is_some() {
            context.effects.recorded = run.members;
        }
    }

    pub(super) fn checkpoint_done(&mut self, context: &mut Context<'_>, done: IoDone) {
        let Some(run) = &mut self.checkpoint else {
            return;
        };
        let Err(why) = done.result else {
            return self.checkpoint_step(context);
        };
        let is_write = matches!(done.buffer, IoBuffer::Source(_));
        // A flush that finds no room has lost what it was about.
        let no_room = is_write && is_no_room(&why);
        if !no_room {
            let why = why.to_string();
            context.effects.notes.push(Note::CheckpointFailed { why });
        }
        if let (Stage::Superblock(next @ 1..), true) = (run.stage, is_write && !self.shutdown) {
            // Some copies may name the new checkpoint and others the last one, so neither area may
            // be written to until all name the same.
            run.stage = Stage::Superblock(next - 1);
            self.checkpoint_again = Some(Tick(context.now.0 + PAUSE_NS));
            return;
        }
        let (last, stage) = (run.last, run.stage);
        self.checkpoint = None;
        if matches!(stage, Stage::Superblock(_) | Stage::Done) {
            if !no_room {
                self.fail(context, "the superblock can't be written".into());
            }
            // What the copies name is still whole, and the next start reads the journal from there.
            self.closed = self.shutdown;
        } else {
            self.closed = last;
        }
        self.checkpoint_wanted = !self.closed;
    }

    /// Goes on with a checkpoint that had no buffer, or is to be tried again.
    pub(super) fn unstick(&mut self, context: &mut Context<'_>) {
        if std::mem::take(&mut self.checkpoint_stuck) {
            self.checkpoint_step(context);
        }
        if self.checkpoint_again.is_some_and(|at| context.now >= at) {
            self.checkpoint_again = None;
            self.finish_checkpoint(context);
        }
    }
}

/// Tells of values whose room is used again, of which so many had expired.
fn count_gone(context: &mut Context<'_>, count: u64, expired: u64, never_read: u64) {
    let expired = expired.min(count);
    let notes = [
        Note::Expired { count: expired },
        Note::Evicted {
            count: count - expired,
            never_read,
        },
    ];
    context.effects.notes.extend(notes);
}

fn row_of(segment: u32, generation: u32, offset: u32, extent: &super::segment::Extent) -> Row {
    Row {
        op: if extent.part.is_some() {
            RowOp::Part
        } else {
            RowOp::Extent
        },
        namespace: extent.namespace,
        attrs: extent.attrs,
        version: extent.version,
        segment,
        offset,
        generation,
        value_len: extent.len,
        crc: extent.crc,
        part: extent.part.unwrap_or(0),
        key: extent.key.clone(),
    }
}
