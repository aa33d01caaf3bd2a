//! Changes on their way to the drive: places, batches of records, extents.

use std::io;

use super::bytes::{PAGE, crc_of, crc_of_pieces, page_up};
use super::record::{self, Header};
use super::recover::SegmentHeader;
use super::segment::{HINT, HeaderState, KIND_EXTENT, KIND_RECORD, KIND_STRIPES, Kind};
use super::{BUFFER_BYTES, Body, Context, DriveLog, EXTENT_BYTES_MIN, Purpose, Work};
use crate::api::{Class, CompletionResult};
use crate::error::PutError;
use crate::index::Location;
use crate::slab::WriteMemory;

/// Batches in flight; what comes meanwhile makes the next batch longer.
const BATCHES_IN_FLIGHT: usize = 2;

/// Records on their way into one write.
#[derive(Debug)]
pub(super) struct Batch {
    segment: u32,
    /// Of its first byte in the segment.
    offset: u32,
    memory: WriteMemory,
    used: usize,
    ops: Vec<usize>,
}

/// Why a change has no place yet.
enum NoPlace {
    /// A buffer or the journal will come free.
    Later,
    /// No segment is free.
    Full,
    /// The drive has just taken no more than it has.
    NoRoom,
}

impl DriveLog {
    /// Changes that wait for a place go in the order in which they came.
    pub(super) fn retry_stalled(&mut self, context: &mut Context<'_>) {
        while let Some(op) = self.stalled.front().copied() {
            match self.place(context, op) {
                Ok(()) => {
                    self.stalled.pop_front();
                }
                Err(NoPlace::Later) => return,
                Err(NoPlace::Full) if self.may_free(context) => return,
                Err(NoPlace::Full) => {
                    self.stalled.pop_front();
                    self.no_space(context, op);
                }
                Err(NoPlace::NoRoom) => {
                    self.stalled.pop_front();
                    self.fail_op(context, op, &io::ErrorKind::StorageFull.into());
                }
            }
        }
    }

    pub(super) fn put_in_place(&mut self, context: &mut Context<'_>, op: usize) {
        self.ops[op].admitted = true;
        if self.stalled.is_empty() {
            match self.place(context, op) {
                Ok(()) => return,
                Err(NoPlace::Full) if !self.may_free(context) => {
                    self.no_space(context, op);
                    return;
                }
                Err(NoPlace::NoRoom) => {
                    self.fail_op(context, op, &io::ErrorKind::StorageFull.into());
                    return;
                }
                Err(_) => {}
            }
        }
        self.stalled.push_back(op);
    }

    fn no_space(&mut self, context: &mut Context<'_>, op: usize) {
        let (used, capacity) = (self.segments.used_bytes, self.segments.capacity_bytes());
        if matches!(self.ops[op].work, Work::Put(_)) {
            let error = PutError::NoSpace { used, capacity };
            self.finish(context, op, CompletionResult::Committed(Err(error)));
        } else {
            self.fail_op(context, op, &io::ErrorKind::StorageFull.into());
        }
    }

    /// Drive offset and length of the whole pages around `len` bytes of an entry.
    pub(super) fn pages_of(&self, location: &Location, len: usize) -> (u64, usize) {
        let within = u64::from(location.offset);
        let start = within / PAGE as u64 * PAGE as u64;
        let end = page_up(within + len as u64).min(self.segments.limit().into());
        let base = self.segments.geometry.segment_at(location.segment_idx);
        (
            base + start,
            end.saturating_sub(start).max(PAGE as u64) as usize,
        )
    }

    /// Finds room for a change and writes its data, or puts it into the next batch.
    fn place(&mut self, context: &mut Context<'_>, op: usize) -> Result<(), NoPlace> {
        let extent = match &self.ops[op].work {
            Work::Put(work) => match &work.body {
                Body::Value(memory) => {
                    let long = work.put.len >= EXTENT_BYTES_MIN || work.part.is_some();
                    long && !memory.is_empty()
                }
                Body::Stripes { .. } => false,
            },
            Work::Delete(_) => false,
        };
        let delete = matches!(self.ops[op].work, Work::Delete(_));
        if !delete && self.has_no_room(context) {
            return Err(NoPlace::NoRoom);
        }
        if !delete && !self.segments.checkpoint_has_room() {
            if self.config.eviction && self.segments.sealed.is_empty() {
                self.segments.seal_evictable();
            }
            return Err(NoPlace::Full);
        }
        if extent {
            self.place_extent(context, op)
        } else {
            self.place_record(context, op)
        }
    }

    fn place_extent(&mut self, context: &mut Context<'_>, op: usize) -> Result<(), NoPlace> {
        let Work::Put(work) = &self.ops[op].work else {
            unreachable!("deletes are records")
        };
        let Body::Value(memory) = &work.body else {
            unreachable!("part lists are records")
        };
        let (memory, class) = (memory.clone(), work.put.attrs.class);
        let segment = self.room(context, Kind::Extents, class, memory.len() as u64, false)?;
        let version = self.next_version(context);
        let entry = self.segments.get_mut(segment);
        let (offset, generation) = (entry.end, entry.generation);
        entry.end += memory.len() as u32;
        entry.wrote(offset, 1);
        self.ops[op].version = version;
        self.ops[op].location = Some(Location {
            drive_idx: self.config.drive,
            segment_idx: segment,
            offset,
            generation: generation as u8,
            kind: KIND_EXTENT,
            hint: 0,
        });
        let at = self.segments.geometry.segment_at(segment) + u64::from(offset);
        self.submit_write(context, Purpose::Extent(op), at, memory);
        Ok(())
    }

    fn place_record(&mut self, context: &mut Context<'_>, op: usize) -> Result<(), NoPlace> {
        let class = self.ops[op].work.class();
        let delete = matches!(self.ops[op].work, Work::Delete(_));
        let (key_len, body_len) = match &self.ops[op].work {
            Work::Delete(work) => (work.key.len(), 0),
            Work::Put(work) => match &work.body {
                Body::Value(memory) => (work.put.key.len(), memory.len()),
                Body::Stripes { list, .. } => (work.put.key.len(), list.len()),
            },
        };
        let len = record::record_len(key_len, body_len);
        let slot = usize::from(class == Class::Durable);
        if self.batches[slot]
            .as_ref()
            .is_some_and(|batch| batch.used + len > batch.memory.len())
        {
            self.send_batch(context, slot);
        }
        if self.batches[slot].is_none() {
            self.batches[slot] = Some(self.new_batch(context, class, len, delete)?);
        }
        let version = self.next_version(context);
        let Some(batch) = &mut self.batches[slot] else {
            unreachable!("was just made")
        };
        let segment = &self.segments.list[batch.segment as usize];
        let (generation, seed) = (segment.generation, segment.seed(&self.seed));
        let offset = batch.offset + batch.used as u32;
        let kind = encode(&seed, &self.ops[op].work, version, generation, len, batch);
        batch.used += len;
        batch.ops.push(op);
        self.segments.get_mut(batch.segment).wrote(batch.offset, 1);
        self.ops[op].version = version;
        self.ops[op].location = Some(Location {
            drive_idx: self.config.drive,
            segment_idx: batch.segment,
            offset,
            generation: generation as u8,
            kind,
            hint: len.div_ceil(HINT).min(255) as u8,
        });
        Ok(())
    }

    fn new_batch(
        &mut self,
        context: &mut Context<'_>,
        class: Class,
        len: usize,
        delete: bool,
    ) -> Result<Batch, NoPlace> {
        let wanted = page_up(len as u64);
        let segment = self.room(context, Kind::Records, class, wanted, delete)?;
        let offset = self.segments.get(segment).end;
        let room = (self.segments.limit() - offset) as usize;
        let bytes = BUFFER_BYTES.min(room).max(wanted as usize);
        let memory = self
            .buffers
            .try_lease(bytes)
            .ok()
            .flatten()
            .ok_or(NoPlace::Later)?;
        // The end moves at once, so that nothing else is placed here while the batch is open;
        // what it doesn't use is given back when it is sent.
        self.segments.get_mut(segment).end += bytes as u32;
        Ok(Batch {
            segment,
            offset,
            memory,
            used: 0,
            ops: Vec::new(),
        })
    }

    /// An open segment with room for `bytes`.
    fn room(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        class: Class,
        bytes: u64,
        delete: bool,
    ) -> Result<u32, NoPlace> {
        let open = self.segments.open_with_room(kind, class, bytes);
        let segment = match open {
            Some(segment) => segment,
            None => {
                let version = context.tables.last_version();
                // The last free segment is kept for tombstones, so that deletes always work.
                let keep = usize::from(!delete);
                let next = self.segments.open_next(kind, class, version, keep);
                next.ok_or(NoPlace::Full)?
            }
        };
        if self.segments.get(segment).header == HeaderState::Missing {
            self.write_header(context, segment)?;
        }
        Ok(segment)
    }

    fn write_header(&mut self, context: &mut Context<'_>, idx: u32) -> Result<(), NoPlace> {
        let segment = self.segments.get_mut(idx);
        segment.epoch = self.superblock.epoch;
        let header = SegmentHeader {
            idx,
            generation: segment.generation,
            kind: segment.kind,
            class: segment.class,
            opened: segment.opened,
            epoch: segment.epoch,
        };
        let page = header.encode(&self.seed);
        let page = self.buffer(&page).ok_or(NoPlace::Later)?;
        self.segments.get_mut(idx).header = HeaderState::Writing;
        let at = self.segments.geometry.segment_at(idx);
        self.submit_write(context, Purpose::Header(idx), at, page);
        Ok(())
    }

    fn next_version(&self, context: &Context<'_>) -> u64 {
        context.tables.next_version()
    }

    /// Sends the batches off, while few enough are in flight.
    pub(super) fn send_batches(&mut self, context: &mut Context<'_>) {
        for slot in 0..self.batches.len() {
            let waits = self.batches[slot]
                .as_ref()
                .is_some_and(|batch| !batch.ops.is_empty());
            if waits && self.batches_in_flight < BATCHES_IN_FLIGHT {
                self.send_batch(context, slot);
            }
        }
    }

    fn send_batch(&mut self, context: &mut Context<'_>, slot: usize) {
        let Some(mut batch) = self.batches[slot].take() else {
            return;
        };
        let bytes = page_up(batch.used as u64) as usize;
        let (used, segment, offset) = (batch.used, batch.segment, batch.offset);
        let unused = batch.memory.len() - bytes;
        // Nothing was placed behind an open batch, so what it doesn't use is free again.
        self.segments.get_mut(segment).end -= unused as u32;
        zero(&mut batch.memory, used, bytes);
        batch.memory.truncate(bytes);
        self.batches_in_flight += 1;
        let at = self.segments.geometry.segment_at(segment) + u64::from(offset);
        let purpose = Purpose::Batch {
            segment,
            offset,
            ops: batch.ops,
        };
        self.submit_write(context, purpose, at, batch.memory.freeze());
    }

    /// Whether a segment may come free without a delete.
    fn may_free(&mut self, context: &mut Context<'_>) -> bool {
        let may = self.reclaiming > 0
            || self.checkpoint.is_some()
            || self.segments.victim(self.config.eviction).is_some()
            || self.hastens_burials(context)
            || self.busy();
        if may {
            self.maintain(context);
        }
        may
    }

    /// Flushes at once where something is dead as soon as that has ended; false where nothing is.
    fn hastens_burials(&mut self, context: &Context<'_>) -> bool {
        let buries = !self.burials.is_empty();
        if buries && !self.timed_flush {
            self.dirty = true;
            self.next_flush = context.now;
        }
        buries
    }

    /// Whether something in flight may seal or settle a segment.
    fn busy(&self) -> bool {
        self.config.eviction
            && (self.batches_in_flight > 0
                || !self.purposes.is_empty()
                || self
                    .segments
                    .list
                    .iter()
                    .any(|segment| segment.state == super::segment::State::Reclaiming))
    }
}

/// Writes a change's record behind those that are in the batch; returns the kind of its
/// location.
fn encode(
    seed: &[u8; 16],
    work: &Work,
    version: u64,
    generation: u32,
    len: usize,
    batch: &mut Batch,
) -> u8 {
    let at = batch.used;
    let (header, key, kind) = header_of(work, version, generation);
    let key_len = key.len();
    let mut head = vec![0u8; record::HEADER + key_len];
    header.encode(seed, key, &mut head);
    batch.memory.copy_from(at, &head);
    let mut end = at + head.len();
    if let Work::Put(work) = work {
        match &work.body {
            Body::Value(memory) => {
                for piece in memory.pieces() {
                    batch.memory.copy_from(end, piece);
                    end += piece.len();
                }
            }
            Body::Stripes { list, .. } => {
                batch.memory.copy_from(end, list);
                end += list.len();
            }
        }
    }
    zero(&mut batch.memory, end, at + len);
    kind
}

fn header_of(work: &Work, version: u64, generation: u32) -> (Header, &[u8], u8) {
    match work {
        Work::Delete(work) => {
            let header = Header {
                kind: record::Kind::Tombstone,
                namespace: work.namespace,
                attrs: crate::api::Attrs::default(),
                version,
                generation,
                key_len: work.key.len() as u32,
                body_len: 0,
                body_crc: 0,
                value_len: 0,
                value_crc: 0,
            };
            (header, &work.key, KIND_RECORD)
        }
        Work::Put(work) => {
            let (kind, location_kind, body_len, body_crc) = match &work.body {
                Body::Value(memory) => {
                    let crc = crc_of_pieces(memory.pieces());
                    (record::Kind::Value, KIND_RECORD, memory.len(), crc)
                }
                Body::Stripes { list, .. } => (
                    record::Kind::Stripes,
                    KIND_STRIPES,
                    list.len(),
                    crc_of(&[], &[list]),
                ),
            };
            let header = Header {
                kind,
                namespace: work.put.namespace,
                attrs: work.put.attrs,
                version,
                generation,
                key_len: work.put.key.len() as u32,
                body_len: body_len as u32,
                body_crc,
                value_len: work.put.len,
                value_crc: work.crc,
            };
            (header, &work.put.key, location_kind)
        }
    }
}

fn zero(memory: &mut WriteMemory, from: usize, to: usize) {
    let mut at = from;
    while at < to {
        let piece = memory.piece_at(at);
        let len = piece.len().min(to - at);
        piece[..len].fill(0);
        at += len;
    }
}
