//! The way in: frames are authenticated header first, and payload goes where the ops of the table want it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use memkv_proto::frame::{FrameHead, HEADER_BYTES};
use memkv_proto::mac::FrameMac;
use memkv_proto::op::OpCode;
use memkv_proto::payload::TRAILER_BYTES;
use memkv_proto::reply::Reply;
use memkv_socket::set_receive_low_water;
use memkv_telemetry::clock;

use super::{Conn, Payload, Phase, Piece, Stage, violation};
use crate::error::TransportCause;
use crate::pump::inbound::Arrived;
use crate::pump::job::{OpId, Phase as JobPhase};
use crate::pump::op::{BareReply, Op, Sink};
use crate::pump::{OpTable, State};

/// Stretches shorter than this go through the buffer: copying them is cheaper than a system call of their own.
const DIRECT_BYTES_MIN: usize = 4096;

/// What is left of a value is waited for in steps of at most this: half of a 4 MiB block, so that sender and receiver are
/// busy at once, and few wake-ups. A quarter of it cost a tenth more CPU per block over one connection.
const LOW_WATER_BYTES_MAX: usize = 2 << 20;
/// For less than this a wake-up is not worth the system call that saves it.
const LOW_WATER_BYTES_MIN: usize = 32 << 10;

impl<M: FrameMac> Conn<M> {
    /// Reads and takes in until the socket has nothing more.
    pub(super) fn receive<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<(), TransportCause> {
        loop {
            let arrived = self
                .read(state, table)
                .map_err(|error| TransportCause::Lost(Arc::new(error)))?;
            let full = match arrived {
                Arrived::Nothing => {
                    self.readable = false;
                    self.set_low_water();
                    return Ok(());
                }
                Arrived::End => return Err(TransportCause::ClosedByPeer),
                Arrived::Some { direct, full } => {
                    if direct > 0 {
                        self.payload_arrived(state, table, direct)?;
                    }
                    full
                }
            };
            while self.parse(state, table)? {}
            // A stream that gave less than there was room for is empty, and tells when there is more.
            if !full && !self.ending {
                self.readable = false;
                self.set_low_water();
                return Ok(());
            }
        }
    }

    /// Lets the poller sleep until a chunk of the value that is arriving is there, or what is left of it. Whatever comes
    /// next is waited for byte by byte: it may be short.
    fn set_low_water(&mut self) {
        let wanted = match &self.stage {
            Stage::Payload(payload) => payload.pieces.front().map_or(1, |piece| piece.left),
            _ => 1,
        };
        let wanted = if wanted < LOW_WATER_BYTES_MIN {
            1
        } else {
            wanted.min(LOW_WATER_BYTES_MAX)
        };
        if let Some(stream) = &self.stream
            && wanted != self.low_water
        {
            set_receive_low_water(stream, wanted);
            self.low_water = wanted;
        }
    }

    fn read<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> io::Result<Arrived> {
        let Some(stream) = &mut self.stream else {
            return Ok(Arrived::Nothing);
        };
        if let Stage::Payload(payload) = &self.stage
            && let Some(&Piece {
                entry,
                left,
                sink: Sink::Entry,
            }) = payload.pieces.front()
            && left >= DIRECT_BYTES_MIN
            && self.buffer.filled().is_empty()
            && let Some(op) = state
                .jobs
                .get(payload.id)
                .and_then(|job| table.op_mut(job.token))
            && let Some(dest) = op.dest(entry, left)
        {
            return self.buffer.read_direct(stream, dest);
        }
        self.buffer.read(stream)
    }

    /// Takes in one step's worth of what is in the buffer; false when it needs more bytes.
    fn parse<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<bool, TransportCause> {
        match &mut self.stage {
            Stage::Hello => self.parse_hello(state),
            Stage::Header => self.parse_header(state, table),
            Stage::Control(head) => {
                let head = *head;
                let need = head.control_len as usize;
                if self.buffer.filled().len() < need {
                    self.buffer.reserve(need);
                    return Ok(false);
                }
                self.parse_control(state, table, &head)?;
                self.buffer.consume(need);
                Ok(true)
            }
            Stage::Payload(_) => self.parse_payload(state, table),
        }
    }

    fn parse_header<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<bool, TransportCause> {
        let Some(header) = self.buffer.filled().first_chunk::<HEADER_BYTES>() else {
            self.buffer.reserve(HEADER_BYTES);
            return Ok(false);
        };
        let Phase::Up { opener, .. } = &mut self.phase else {
            return Err(violation("frame before the handshake"));
        };
        let head = opener
            .open(header)
            .map_err(|error| violation(&error.to_string()))?;
        self.buffer.consume(HEADER_BYTES);
        let answered = state
            .jobs
            .get(OpId(head.request_id))
            .and_then(|job| table.op_mut(job.token));
        if let Some(op) = answered {
            op.steps.answered.get_or_insert_with(clock::now);
        }
        self.stage = Stage::Control(head);
        Ok(true)
    }

    fn parse_control<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        head: &FrameHead,
    ) -> Result<(), TransportCause> {
        let Phase::Up { opener, .. } = &mut self.phase else {
            return Err(violation("frame before the handshake"));
        };
        let control = &self.buffer.filled()[..head.control_len as usize];
        opener
            .check_control(head, control)
            .map_err(|error| violation(&error.to_string()))?;
        let (blocks, reply) =
            Reply::decode(head, control).map_err(|error| violation(&error.to_string()))?;
        self.stage = Stage::Header;
        if head.op == OpCode::Cancel {
            return self.cancelled(state, table, head.request_id);
        }
        let id = OpId(head.request_id);
        let server = &state.config.servers[self.server].name;
        let job = state.jobs.get(id);
        if job.is_some_and(|job| job.conn != self.idx || matches!(job.phase, JobPhase::Queued)) {
            return Err(violation("answers a request that it was never sent"));
        }
        let op = job.and_then(|job| table.op_mut(job.token));
        let mut pieces = std::mem::take(&mut self.spare_pieces);
        pieces.clear();
        match (op, reply) {
            (Some(op), reply) => {
                op.reply_span = blocks.span_id.or(op.reply_span);
                if let Some(timeline) = op.timeline.as_mut().filter(|_| blocks.is_kept) {
                    timeline.is_kept_by_server = true;
                }
                if head.op != op.code {
                    return Err(violation("reply of another op than the request's"));
                }
                let taken = take_in(op, server, reply, &mut pieces);
                taken.map_err(violation)?;
            }
            // The answer to what was cancelled or timed out meanwhile: nobody waits for it, its bytes go nowhere.
            (None, Reply::Values(_)) => {
                let left = usize::try_from(head.payload_len)
                    .map_err(|_| violation("payload is too long"))?;
                pieces.push_back(Piece {
                    entry: 0,
                    left,
                    sink: Sink::Discard,
                });
            }
            (None, _) => {}
        }
        pieces.retain(|piece| piece.left > 0);
        let mac = opener
            .payload_key()
            .filter(|_| head.payload_len > 0)
            .map(|key| Box::new(key.for_head(head)));
        if pieces.is_empty() && mac.is_none() {
            self.spare_pieces = pieces;
            return self.frame_done(state, table, id, head.has_more());
        }
        self.stage = Stage::Payload(Payload {
            id,
            more: head.has_more(),
            pieces,
            mac,
        });
        Ok(())
    }

    /// The server will not touch a cancelled op any more.
    fn cancelled<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        cancel: u64,
    ) -> Result<(), TransportCause> {
        let found = self.cancelling.iter().position(|(sent, _)| *sent == cancel);
        let found =
            found.ok_or_else(|| violation("acknowledges a cancellation that was never sent"))?;
        let (_, id) = self.cancelling.swap_remove(found);
        let cause = match state.jobs.get(id).map(|job| &job.phase) {
            Some(JobPhase::Fencing { cause, .. }) => cause.clone(),
            // Its answer came first.
            _ => return Ok(()),
        };
        if !state.jobs.get(id).is_some_and(|job| job.answered) {
            self.in_flight -= 1;
        }
        state.finish_with(table, id, self.server, cause);
        Ok(())
    }

    /// Takes payload (and its MAC) out of the buffer; false when it needs more bytes.
    fn parse_payload<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<bool, TransportCause> {
        let Stage::Payload(payload) = &mut self.stage else {
            return Ok(false);
        };
        let Some(&Piece { entry, left, sink }) = payload.pieces.front() else {
            let Some(trailer) = self.buffer.filled().first_chunk::<TRAILER_BYTES>() else {
                self.buffer.reserve(TRAILER_BYTES);
                return Ok(false);
            };
            if !payload.mac.as_ref().is_none_or(|mac| mac.verify(trailer)) {
                return Err(violation("payload MAC doesn't match"));
            }
            let op = state.jobs.get(payload.id);
            if let Some(op) = op.and_then(|job| table.op_mut(job.token)) {
                op.vouched();
            }
            self.buffer.consume(TRAILER_BYTES);
            self.payload_done(state, table)?;
            return Ok(true);
        };
        let have = self.buffer.filled().len().min(left);
        if have == 0 {
            self.buffer.reserve(1);
            return Ok(false);
        }
        let op = state
            .jobs
            .get(payload.id)
            .and_then(|job| table.op_mut(job.token));
        match op
            .and_then(|op| op.dest(entry, have))
            .filter(|_| sink == Sink::Entry)
        {
            Some(dest) => dest.copy_from_slice(&self.buffer.filled()[..have]),
            None => {
                // Bytes that go nowhere still count for the MAC.
                if let Some(mac) = &mut payload.mac {
                    mac.update(&self.buffer.filled()[..have]);
                }
            }
        }
        self.buffer.consume(have);
        self.payload_arrived(state, table, have)?;
        Ok(true)
    }

    /// Accounts for `count` bytes of the current piece that are where they belong.
    fn payload_arrived<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        count: usize,
    ) -> Result<(), TransportCause> {
        let Stage::Payload(payload) = &mut self.stage else {
            return Ok(());
        };
        let Some(piece) = payload.pieces.front_mut() else {
            return Ok(());
        };
        let entry = piece.entry;
        piece.left -= count;
        let piece_done = piece.left == 0;
        if let Some(op) = state
            .jobs
            .get(payload.id)
            .and_then(|job| table.op_mut(job.token))
        {
            if let (Some(mac), Some(bytes)) = (&mut payload.mac, op.filled(entry, count)) {
                mac.update(bytes);
            }
            let server = &state.config.servers[self.server].name;
            op.advance(server, entry, count, payload.mac.is_some());
        }
        if piece_done {
            payload.pieces.pop_front();
            if payload.pieces.is_empty() && payload.mac.is_none() {
                return self.payload_done(state, table);
            }
        }
        Ok(())
    }

    fn payload_done<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<(), TransportCause> {
        let Stage::Payload(payload) = std::mem::replace(&mut self.stage, Stage::Header) else {
            return Ok(());
        };
        self.spare_pieces = payload.pieces;
        self.frame_done(state, table, payload.id, payload.more)
    }

    /// A whole frame is in; if it was its reply's last, the op is done.
    fn frame_done<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
        id: OpId,
        more: bool,
    ) -> Result<(), TransportCause> {
        let Some(op) = state.jobs.get(id).and_then(|job| table.op_mut(job.token)) else {
            return Ok(());
        };
        if more {
            return Ok(());
        }
        if !op.is_settled() {
            return Err(violation("reply ends before all its entries are answered"));
        }
        op.steps.settled = Some(clock::now());
        let Some(job) = state.jobs.get_mut(id).filter(|job| !job.answered) else {
            return Err(violation("answers a request twice"));
        };
        self.in_flight -= 1;
        if job.sent {
            state.finish(id);
        } else {
            // A refusal that overtook its request's payload: the op is done once that is out.
            job.answered = true;
        }
        Ok(())
    }
}

/// Hands a reply to its op; where a value's bytes go is added to `pieces`, in the order in which they come.
fn take_in(
    op: &mut Op<'_>,
    server: &Arc<str>,
    reply: Reply<'_>,
    pieces: &mut VecDeque<Piece>,
) -> Result<(), &'static str> {
    match reply {
        Reply::Values(segments) => {
            for segment in segments.iter() {
                let entry = segment.entry_idx as usize;
                let sink = op.value(server, &segment, segments.retry_after_us())?;
                pieces.push_back(Piece {
                    entry,
                    left: segment.chunk_len as usize,
                    sink,
                });
            }
            Ok(())
        }
        Reply::Written(results) => op.written(server, &results),
        Reply::Outcomes(outcomes) => op.outcomes(server, &outcomes),
        Reply::Failed(failure) => {
            op.failed(server, &failure);
            Ok(())
        }
        Reply::Pong(pong) => op.bare(BareReply::Pong(pong)),
        Reply::Stat(fields) => op.bare(BareReply::Stat(fields.iter().collect())),
        Reply::Connected(_) | Reply::Cancelled(_) => Err("reply of another op than the request's"),
    }
}
