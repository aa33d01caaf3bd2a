//! Scans: the index says where entries are, their drives say what they are.

use super::bytes::PAGE;
use super::record::Header;
use super::segment::{HINT, KIND_EXTENT};
use super::{Answer, Context, DriveLog, Purpose, ReplyTo};
use crate::api::{CompletionResult, IoTimes, ScanEntry, ScanPage};
use crate::drive::{Io, IoBuffer, IoDone, IoId};
use crate::engine::Shared;
use crate::index::Location;
use crate::segment_log::Event;

/// A page of a scan on its way from drive to drive.
#[derive(Debug)]
pub(crate) struct ScanJob {
    pub(crate) namespace: u32,
    pub(crate) left: Vec<Location>,
    pub(crate) page: ScanPage,
    pub(crate) to: ReplyTo,
}

impl ScanJob {
    /// Sends the job to the drive of its next entry, or its answer to the caller.
    pub(crate) fn go_on(mut self, shared: &Shared) {
        while let Some(next) = self.left.last() {
            let drive = next.drive_idx;
            if shared.tables.drives.serves(drive) {
                return shared.post(drive, Event::Scan(Box::new(self)));
            }
            self.left.pop();
        }
        self.answer().deliver();
    }

    fn answer(self) -> Answer {
        let result = CompletionResult::Scanned(Ok(self.page));
        Answer {
            to: self.to,
            result,
            io: IoTimes::default(),
            location: None,
        }
    }
}

impl DriveLog {
    /// Looks at the job's next entries, as long as they are ours and no I/O is needed.
    pub(super) fn scan(&mut self, context: &mut Context<'_>, mut job: ScanJob) {
        while let Some(location) = job.left.last().copied() {
            if location.drive_idx != self.config.drive || self.down {
                if location.drive_idx == self.config.drive {
                    job.left.pop();
                    continue;
                }
                context
                    .effects
                    .elsewhere
                    .push((location.drive_idx, Event::Scan(Box::new(job))));
                return;
            }
            let segment = self.segments.get(location.segment_idx);
            if segment.generation as u8 != location.generation {
                job.left.pop();
                continue;
            }
            if location.kind == KIND_EXTENT {
                if let Some(extent) = segment.extents.get(&location.offset) {
                    let expiry = extent.attrs.expiry_ms;
                    let live = expiry == 0 || expiry > context.unix_ms;
                    if extent.namespace == job.namespace && live {
                        job.page.entries.push(ScanEntry {
                            key: extent.key.to_vec(),
                            attrs: extent.attrs,
                            version: extent.version,
                            value_len: extent.len,
                        });
                    }
                }
                job.left.pop();
                continue;
            }
            self.scan_record(context, job, location);
            return;
        }
        context.effects.answers.push(job.answer());
    }

    fn scan_record(&mut self, context: &mut Context<'_>, job: ScanJob, location: Location) {
        let max = super::record::HEADER + crate::api::KEY_BYTES_MAX;
        let (offset, len) = self.pages_of(&location, (usize::from(location.hint) * HINT).min(max));
        let Ok(Some(target)) = self.buffers.try_lease(len) else {
            // All buffers are in use: ask again when some of them are back.
            context
                .effects
                .elsewhere
                .push((self.config.drive, Event::Scan(Box::new(job))));
            return;
        };
        self.segments.get_mut(location.segment_idx).readers += 1;
        let id = IoId(self.purposes.insert(Purpose::Scan(Box::new(job))));
        context.effects.ios.push(Io::Read { id, offset, target });
    }

    pub(super) fn scan_done(&mut self, context: &mut Context<'_>, mut job: ScanJob, done: IoDone) {
        let Some(location) = job.left.pop() else {
            return;
        };
        let segment = self.segments.get(location.segment_idx);
        let (generation, seed) = (segment.generation, segment.seed(&self.seed));
        self.segments.get_mut(location.segment_idx).readers -= 1;
        self.segments.release(location.segment_idx);
        if let (Ok(()), IoBuffer::Target(memory)) = (&done.result, done.buffer) {
            let memory = memory.freeze();
            let bytes = memory.contiguous().unwrap_or_default();
            let bytes = bytes
                .get(location.offset as usize % PAGE..)
                .unwrap_or_default();
            if let Some((header, key)) = Header::decode(&seed, generation, bytes) {
                let expiry = header.attrs.expiry_ms;
                let live = expiry == 0 || expiry > context.unix_ms;
                if header.namespace == job.namespace && live {
                    job.page.entries.push(ScanEntry {
                        key: key.to_vec(),
                        attrs: header.attrs,
                        version: header.version,
                        value_len: header.value_len,
                    });
                }
            }
        }
        self.scan(context, job);
    }
}
