//! Reads: one I/O for all that want the same entry, and nothing believed that isn't verified.

use std::io;

use super::bytes::{PAGE, crc_of_pieces, page_up};
use super::record::{self, Header};
use super::segment::{Extent, HINT, KIND_EXTENT};
use super::{
    Answer, Context, DriveLog, MemoryWait, Note, PartRead, Purpose, ReadWork, Reply, Times,
};
use crate::api::{CompletionResult, Tier};
use crate::cache::CacheKey;
use crate::config::Verify;
use crate::drive::{Io, IoBuffer, IoDone, IoId};
use crate::entry::Meta;
use crate::error::GetError;
use crate::index::{Change, If, KeyHash, Location};
use crate::lease::ReadLease;
use crate::slab::{Grant, ReadMemory, WriteMemory};

/// Values below this are copied out of the pages that they were read in, so that small ones
/// don't hold whole pages of the hot tier.
const COPY_MAX: usize = 32 << 10;

/// One read in progress, and all who wait for it.
pub(super) struct ReadJob {
    hash: KeyHash,
    namespace: u32,
    key: Box<[u8]>,
    location: Location,
    /// Of the segment when the read began: it may be reclaimed meanwhile, but is not written to
    /// before the read ends.
    generation: u32,
    /// Of the segment's records, likewise.
    seed: [u8; 16],
    /// Bytes to read, from the entry's start.
    len: usize,
    /// What the table says of an extent.
    extent: Option<Extent>,
    waiters: Vec<Reply>,
    times: Times,
    reading: bool,
    /// Whether it keeps its segment from being written over: not while it waits for memory,
    /// which may be that of a change that waits for this very segment.
    pinned: bool,
}

/// What became of a read.
enum Found {
    Value(ReadMemory, Meta),
    Miss,
    /// The record is longer than its hint could say.
    Longer(usize),
    Corrupt(&'static str),
}

impl DriveLog {
    pub(super) fn read(&mut self, context: &mut Context<'_>, work: ReadWork) {
        let tables = context.tables;
        let key = CacheKey {
            hash: work.hash,
            namespace: work.namespace,
            key: &work.key,
        };
        // It may have come into RAM while the event was on its way.
        if let Some(hit) = tables.cache.get(&key) {
            let live = !hit.meta.expired(context.unix_ms);
            let lease = live.then(|| ReadLease::whole(hit.memory, hit.meta, Tier::Ram));
            self.answer(context, &work.reply, Times::default(), Ok(lease));
            return;
        }
        let location = tables.index.get(work.hash);
        let ours = location.filter(|location| location.drive_idx == self.config.drive);
        // A location of a segment's former life finds nothing any more.
        let alive = |location: &Location| {
            let segment = self.segments.get(location.segment_idx);
            segment.generation as u8 == location.generation && !self.down
        };
        let Some(location) = ours.filter(alive) else {
            self.answer(context, &work.reply, Times::default(), Ok(None));
            return;
        };
        if let Some(job) = self.reading.get(&(location.segment_idx, location.offset)) {
            let job = &mut self.reads[*job];
            let generation = self.segments.get(location.segment_idx).generation;
            let same = job.key == work.key && job.namespace == work.namespace;
            if same && job.generation == generation {
                job.waiters.push(work.reply);
                return;
            }
        }
        let (extent, len) = if location.kind == KIND_EXTENT {
            let segment = self.segments.get(location.segment_idx);
            let extent = segment.extents.get(&location.offset);
            let same =
                |extent: &&Extent| extent.namespace == work.namespace && extent.key == work.key;
            let Some(extent) = extent.filter(same).cloned() else {
                self.answer(context, &work.reply, Times::default(), Ok(None));
                return;
            };
            let len = page_up(extent.len) as usize;
            (Some(extent), len)
        } else {
            (None, usize::from(location.hint) * HINT)
        };
        let job = self.reads.insert(ReadJob {
            hash: work.hash,
            namespace: work.namespace,
            key: work.key,
            location,
            generation: self.segments.get(location.segment_idx).generation,
            seed: self.segments.get(location.segment_idx).seed(&self.seed),
            len,
            extent,
            waiters: vec![work.reply],
            times: Times::default(),
            reading: false,
            pinned: false,
        });
        self.reading
            .insert((location.segment_idx, location.offset), job);
        self.lease_and_read(context, job);
    }

    fn lease_and_read(&mut self, context: &mut Context<'_>, job: usize) {
        let (_, bytes) = self.pages_of(&self.reads[job].location, self.reads[job].len);
        match context.tables.lease_now(bytes) {
            Some(memory) => self.submit_read(context, job, memory),
            None => {
                self.unpin(job);
                let token = job as u64;
                context.effects.waits.push(MemoryWait { bytes, token });
            }
        }
    }

    /// Memory that a read waited for.
    pub(super) fn granted(&mut self, context: &mut Context<'_>, grant: Grant) {
        let job = grant.token as usize;
        let Some(read) = self.reads.get_mut(job).filter(|read| !read.reading) else {
            return;
        };
        read.times.lease_wait_ns = Some(grant.waited_ns);
        let segment = self.segments.get(read.location.segment_idx);
        if segment.generation == read.generation {
            self.submit_read(context, job, grant.memory);
        } else {
            // It was reclaimed meanwhile.
            self.end_read(context, job, |_| Ok(None));
        }
    }

    /// A read that the pool is too small for.
    pub(super) fn no_memory(&mut self, context: &mut Context<'_>, wait: MemoryWait) {
        let job = wait.token as usize;
        if self.reads.get(job).is_none_or(|read| read.reading) {
            return;
        }
        self.end_read(context, job, |drive| {
            let what = format!(
                "{} bytes are more than the pool holds; raise memory.max_size",
                wait.bytes
            );
            let source = io::Error::new(io::ErrorKind::OutOfMemory, what);
            Err(GetError::Io { drive, source })
        });
    }

    /// Lets its segment be written over.
    fn unpin(&mut self, job: usize) {
        let read = &mut self.reads[job];
        if std::mem::take(&mut read.pinned) {
            let segment = read.location.segment_idx;
            self.segments.get_mut(segment).readers -= 1;
            self.segments.release(segment);
        }
    }

    fn submit_read(&mut self, context: &mut Context<'_>, job: usize, target: WriteMemory) {
        let read = &mut self.reads[job];
        read.reading = true;
        let (location, len) = (read.location, read.len);
        if !std::mem::replace(&mut read.pinned, true) {
            self.segments.get_mut(location.segment_idx).readers += 1;
        }
        let (offset, bytes) = self.pages_of(&location, len);
        debug_assert_eq!(bytes, target.len());
        self.counts.read_bytes += bytes as u64;
        let id = IoId(self.purposes.insert(Purpose::Read(job)));
        context.effects.ios.push(Io::Read { id, offset, target });
    }

    pub(super) fn read_done(&mut self, context: &mut Context<'_>, job: usize, done: IoDone) {
        self.reads[job].times.note(done.submitted, done.completed);
        self.reads[job].reading = false;
        let memory = match (done.result, done.buffer) {
            (Ok(()), IoBuffer::Target(memory)) => memory.freeze(),
            (Err(why), _) => {
                self.end_read(context, job, |drive| {
                    Err(GetError::Io {
                        drive,
                        source: copy_of(&why),
                    })
                });
                return;
            }
            _ => unreachable!("a read has a target"),
        };
        let found = self.examine(context, &self.reads[job], memory);
        let (location, hash) = (self.reads[job].location, self.reads[job].hash);
        match found {
            Found::Longer(len) => {
                self.reads[job].len = len;
                self.lease_and_read(context, job);
            }
            Found::Miss => self.end_read(context, job, |_| Ok(None)),
            Found::Corrupt(what) => {
                self.counts.corruptions += 1;
                let part = self.reads[job]
                    .extent
                    .as_ref()
                    .is_some_and(|e| e.part.is_some());
                // Of a striped value the whole goes, when its reader hears of it.
                let purged = !part
                    && matches!(
                        context.tables.index.remove(hash, If::At(location)),
                        Change::Done(Some(_))
                    );
                if purged {
                    self.segments.add_dead(&location);
                }
                let note = Note::Corrupt { what, purged };
                context.effects.notes.push(note);
                self.end_read(context, job, |drive| Err(GetError::Corrupt { drive, what }));
            }
            Found::Value(memory, meta) => {
                if meta.expired(context.unix_ms) {
                    // Checkpoints of former formats don't tell it of a record.
                    let index = &context.tables.index;
                    if location.kind != KIND_EXTENT && index.get(hash) == Some(location) {
                        index.note_expiry(&location, meta.attrs.expiry_ms);
                    }
                    self.end_read(context, job, |_| Ok(None));
                    return;
                }
                self.note_read(&location);
                let read = &self.reads[job];
                // Only what the index still points to: a put may have ended meanwhile.
                let part = read
                    .extent
                    .as_ref()
                    .is_some_and(|extent| extent.part.is_some());
                if !part && context.tables.index.get(hash) == Some(location) {
                    let key = CacheKey {
                        hash,
                        namespace: read.namespace,
                        key: &read.key,
                    };
                    context.tables.adopt(&key, memory.clone(), meta);
                }
                self.end_read(context, job, |_| {
                    Ok(Some(ReadLease::whole(memory.clone(), meta, Tier::Drive)))
                });
            }
        }
    }

    fn note_read(&mut self, location: &Location) {
        let segment = self.segments.get_mut(location.segment_idx);
        if let Some(extent) = segment.extents.get_mut(&location.offset) {
            extent.was_read = true;
            extent.unverified = false;
        }
    }

    /// Verifies what was read.
    fn examine(&self, context: &Context<'_>, read: &ReadJob, memory: ReadMemory) -> Found {
        if let Some(extent) = &read.extent {
            let len = extent.len;
            let memory = memory.part(0, len as usize);
            let verify = self.config.verify == Verify::Always || extent.unverified;
            if verify && crc_of_pieces(memory.pieces()) != extent.crc {
                return Found::Corrupt("checksum of an extent");
            }
            let (attrs, version, crc) = (extent.attrs, extent.version, extent.crc);
            return Found::Value(
                memory,
                Meta {
                    attrs,
                    version,
                    len,
                    crc,
                },
            );
        }
        let within = read.location.offset as usize % PAGE;
        let generation = read.generation;
        let pieces: Vec<u8>;
        let bytes = match memory.contiguous() {
            Some(bytes) => bytes,
            None => {
                pieces = memory.pieces().flatten().copied().collect();
                &pieces
            }
        };
        let bytes = bytes.get(within..).unwrap_or_default();
        let Some((header, key)) = Header::decode(&read.seed, generation, bytes) else {
            let max = record::HEADER + crate::api::KEY_BYTES_MAX;
            let room = (self.segments.limit() - read.location.offset) as usize;
            if read.location.hint == 255 && bytes.len() < max.min(room) {
                return Found::Longer(max.min(room));
            }
            return Found::Corrupt("header of a record");
        };
        if header.namespace != read.namespace || *key != *read.key {
            return Found::Miss;
        }
        let start = record::HEADER + key.len();
        let end = start + header.body_len as usize;
        let Some(body) = bytes.get(start..end) else {
            return Found::Longer(header.record_len());
        };
        if crc_of_pieces(std::iter::once(body)) != header.body_crc {
            return Found::Corrupt("checksum of a record");
        }
        let (attrs, version) = (header.attrs, header.version);
        let meta = Meta {
            attrs,
            version,
            len: header.value_len,
            crc: header.value_crc,
        };
        match header.kind {
            record::Kind::Tombstone => Found::Miss,
            record::Kind::Stripes => Found::Miss,
            record::Kind::Value => {
                if header.value_len != body.len() as u64 {
                    return Found::Corrupt("length of a record");
                }
                let exact = (body.len() < COPY_MAX)
                    .then(|| context.tables.lease_now(body.len()))
                    .flatten();
                let memory = match exact {
                    Some(mut exact) => {
                        exact.copy_from(0, body);
                        exact.freeze()
                    }
                    None => memory.part(within + start, body.len()),
                };
                Found::Value(memory, meta)
            }
        }
    }

    /// Answers all who wait for a read.
    pub(super) fn end_read(
        &mut self,
        context: &mut Context<'_>,
        job: usize,
        result: impl Fn(crate::api::DriveIdx) -> Result<Option<ReadLease>, GetError>,
    ) {
        let (waiters, times) = self.close_read(job);
        for reply in waiters {
            let result = result(self.drive_idx());
            self.answer(context, &reply, times, result);
        }
    }

    fn close_read(&mut self, job: usize) -> (Vec<Reply>, Times) {
        self.unpin(job);
        let read = self.reads.remove(job);
        let place = (read.location.segment_idx, read.location.offset);
        if self.reading.get(&place) == Some(&job) {
            self.reading.remove(&place);
        }
        (read.waiters, read.times)
    }

    fn answer(
        &self,
        context: &mut Context<'_>,
        reply: &Reply,
        times: Times,
        result: Result<Option<ReadLease>, GetError>,
    ) {
        let io = self.io_times(context, reply, &times);
        let (to, result) = (reply.to.clone(), CompletionResult::Got(result));
        context.effects.answers.push(Answer {
            to,
            result,
            io,
            location: None,
        });
    }

    /// Reads a part of a striped value; a part that isn't there any more is a miss.
    pub(super) fn read_part(&mut self, context: &mut Context<'_>, work: PartRead) {
        let location = work.location;
        let same = |extent: &&Extent| {
            extent.part == Some(work.part)
                && extent.namespace == work.stripes.namespace
                && extent.key == work.stripes.key
        };
        let segment = self.segments.list.get(location.segment_idx as usize);
        let extent = segment
            .filter(|segment| segment.generation as u8 == location.generation && !self.down)
            .and_then(|segment| segment.extents.get(&location.offset))
            .filter(same)
            .cloned();
        let Some(extent) = extent else {
            self.answer(context, &work.reply, Times::default(), Ok(None));
            return;
        };
        let job = self.reads.insert(ReadJob {
            hash: work.stripes.hash,
            namespace: extent.namespace,
            key: extent.key.clone(),
            location,
            generation: self.segments.get(location.segment_idx).generation,
            seed: self.segments.get(location.segment_idx).seed(&self.seed),
            len: page_up(extent.len) as usize,
            extent: Some(extent),
            waiters: vec![work.reply],
            times: Times::default(),
            reading: false,
            pinned: false,
        });
        self.lease_and_read(context, job);
    }
}

/// An I/O error for one more who waited.
fn copy_of(why: &io::Error) -> io::Error {
    match why.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(why.kind(), why.to_string()),
    }
}
