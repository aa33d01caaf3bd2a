//! Frames of the journal on their way to the drive: one at a time, and none leaves a hole.

use std::collections::VecDeque;
use std::io;

use super::bytes::PAGE;
use super::end::is_no_room;
use super::journal::{FRAME_MAX, Ring, Row, RowOp, encode_frame};
use super::{Context, DriveLog, Purpose};
use crate::drive::{IoBuffer, IoDone};
use crate::slab::ReadMemory;

/// What a journalled row was for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ticket {
    Op(usize),
    Free(u32),
}

/// A frame on its way.
pub(crate) struct Frame {
    page: u64,
    tickets: Vec<Ticket>,
    attempts: u32,
}

impl Frame {
    pub(super) fn ops(&self) -> Vec<usize> {
        let op = |ticket: &Ticket| match ticket {
            Ticket::Op(op) => Some(*op),
            Ticket::Free(_) => None,
        };
        self.tickets.iter().filter_map(op).collect()
    }
}

/// The journal: what waits to be written, and which frames hold what isn't published yet.
pub(super) struct JournalState {
    pub(super) ring: Ring,
    pub(super) pending: VecDeque<(Row, Ticket)>,
    /// First page of the frame that is being written.
    in_flight: Option<u64>,
    /// First page → rows that aren't published.
    frames: VecDeque<(u64, u32)>,
    /// The ring had no room for a frame.
    pub(super) full: bool,
    /// A flush covers all frames before this page, and a row says so of those before the other.
    flushed: u64,
    told: u64,
}

impl JournalState {
    pub(super) fn new(ring: Ring) -> Self {
        Self {
            ring,
            pending: VecDeque::new(),
            in_flight: None,
            frames: VecDeque::new(),
            full: false,
            flushed: 0,
            told: 0,
        }
    }

    /// The page before which all frames have ended, and so will be covered by a flush that begins now.
    pub(super) fn ended(&self) -> u64 {
        self.in_flight.unwrap_or(self.ring.head)
    }

    /// A flush that began when so much had ended covers it.
    pub(super) fn covered(&mut self, ended: u64) {
        self.flushed = self.flushed.max(ended);
    }

    /// From which page on a recovery must replay to see all that isn't published.
    pub(super) fn replay_from(&self) -> u64 {
        self.frames
            .front()
            .map_or(self.ring.head, |(page, _)| *page)
    }

    /// Notes that a row of a frame was published, or given up.
    pub(super) fn settled(&mut self, page: u64) {
        if let Some(frame) = self.frames.iter_mut().find(|(first, _)| *first == page) {
            frame.1 = frame.1.saturating_sub(1);
        }
        while self.frames.front().is_some_and(|(_, left)| *left == 0) {
            self.frames.pop_front();
        }
    }
}

const FRAME_ATTEMPTS: u32 = 3;

impl DriveLog {
    /// Writes the next frame, when none is in flight and rows wait.
    pub(super) fn send_frame(&mut self, context: &mut Context<'_>) {
        let nothing_to_send = self.journal.in_flight.is_some() || self.journal.pending.is_empty();
        if nothing_to_send || self.has_no_room(context) {
            return;
        }
        let mut bytes = 0;
        let fits = self.journal.pending.iter().take_while(|(row, _)| {
            bytes += row.encoded_len();
            bytes <= FRAME_MAX
        });
        let count = fits.count().max(1);
        let rows = self.journal.pending.iter().take(count);
        let mut rows: Vec<Row> = rows.map(|(row, _)| row.clone()).collect();
        // Rows that recovery has dropped must never be believed: a checkpoint comes first.
        let flushed = self.journal.flushed;
        let tells = flushed > self.journal.told && !self.has_dropped;
        if tells {
            rows.push(Row::about_segment(RowOp::Flushed, 0, 0, flushed));
        }
        let pages = encode_frame(&self.seed, 0, 0, &rows).len() / PAGE;
        let Some(page) = self.journal.ring.place(pages as u64) else {
            // Back-pressure, not a fault: a checkpoint makes room.
            self.journal.full = true;
            self.checkpoint_wanted = true;
            return;
        };
        self.journal.full = false;
        let bytes = encode_frame(&self.seed, page, self.superblock.epoch, &rows);
        let Some(buffer) = self.buffer(&bytes) else {
            return;
        };
        let tickets: Vec<Ticket> = self
            .journal
            .pending
            .drain(..count)
            .map(|(_, ticket)| ticket)
            .collect();
        self.journal.ring.head = page + pages as u64;
        if tells {
            self.journal.told = flushed;
        }
        self.journal.frames.push_back((page, tickets.len() as u32));
        let frame = Frame {
            page,
            tickets,
            attempts: 0,
        };
        for op in frame.ops() {
            self.ops[op].frame = Some(page);
        }
        self.write_frame(context, frame, buffer);
    }

    fn write_frame(&mut self, context: &mut Context<'_>, frame: Frame, buffer: ReadMemory) {
        self.journal.in_flight = Some(frame.page);
        let ring = self.segments.geometry.journal_bytes / PAGE as u64;
        let at = self.segments.geometry.journal_start + frame.page % ring * PAGE as u64;
        self.submit_write(context, Purpose::Frame(frame), at, buffer);
    }

    pub(super) fn frame_done(&mut self, context: &mut Context<'_>, frame: Frame, done: IoDone) {
        self.journal.in_flight = None;
        if let Err(why) = done.result {
            let again = frame.attempts < FRAME_ATTEMPTS && !is_no_room(&why) && !self.down;
            if let (true, IoBuffer::Source(buffer)) = (again, done.buffer) {
                let frame = Frame {
                    attempts: frame.attempts + 1,
                    ..frame
                };
                self.write_frame(context, frame, buffer);
            } else {
                self.take_back(context, frame, &why);
            }
            return;
        }
        for ticket in frame.tickets {
            match ticket {
                Ticket::Op(op) => {
                    self.ops[op].times.note(done.submitted, done.completed);
                    self.durable(context, op);
                }
                Ticket::Free(segment) => {
                    self.journal.settled(frame.page);
                    self.reclaimed(context, segment);
                }
            }
        }
    }

    /// Gives up a frame that can't be written. A hole in the journal would hide every later frame
    /// from a recovery, so the next one is written in its place.
    fn take_back(&mut self, context: &mut Context<'_>, frame: Frame, why: &io::Error) {
        for ticket in frame.tickets {
            match ticket {
                Ticket::Op(op) => self.fail_op(context, op, why),
                // What ends a segment's life is due all the same.
                Ticket::Free(segment) => self.journal_free(context, segment),
            }
        }
        self.journal.frames.retain(|(page, _)| *page != frame.page);
        self.journal.ring.head = frame.page;
    }

    pub(super) fn journal_free(&mut self, context: &Context<'_>, segment: u32) {
        let generation = self.segments.get(segment).generation;
        let version = context.tables.next_version();
        let row = Row::about_segment(RowOp::Free, segment, generation, version);
        self.journal.pending.push_back((row, Ticket::Free(segment)));
    }
}
