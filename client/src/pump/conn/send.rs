//! The way out of a connection: requests and cancellations are sealed in turn and written as the kernel takes them.

use std::sync::Arc;

use memkv_proto::frame::{FrameHead, HEADER_BYTES};
use memkv_proto::mac::FrameMac;
use memkv_proto::payload::TRAILER_BYTES;
use memkv_proto::request::encode_cancel;
use memkv_telemetry::clock;

use super::{Conn, Phase};
use crate::error::TransportCause;
use crate::pump::job::{OpId, Phase as JobPhase};
use crate::pump::op::Op;
use crate::pump::outbound::Paused;
use crate::pump::{OpTable, State};

/// Frames are sealed only while less than this many wait for the kernel, so that a checksum is computed shortly before its
/// bytes leave, and a withdrawn op was really never sent.
const SEALED_FRAMES_MAX: usize = 32;

impl<M: FrameMac> Conn<M> {
    /// Seals what may go now and writes until the kernel takes no more.
    pub(super) fn send<'a, T: OpTable<'a>>(
        &mut self,
        state: &mut State,
        table: &mut T,
    ) -> Result<(), TransportCause> {
        loop {
            self.seal_ready(state, table);
            let Some(stream) = &mut self.stream else {
                return Ok(());
            };
            if !self.writable || self.outbound.is_empty() {
                return Ok(());
            }
            let mut sent = std::mem::take(&mut state.scratch);
            let wrote = self.outbound.write(stream, &state.jobs, table, &mut sent);
            let now = clock::now();
            for id in sent.drain(..) {
                let Some(job) = state.jobs.get_mut(id) else {
                    continue;
                };
                job.sent = true;
                let answered = job.answered;
                if let Some(op) = table.op_mut(job.token) {
                    op.steps.sent = Some(now);
                }
                if answered {
                    state.finish(id);
                }
            }
            state.scratch = sent;
            match wrote {
                Ok(Paused::Empty) => {}
                Ok(Paused::Blocked) => self.writable = false,
                Ok(Paused::Turn) => return Ok(()),
                Err(error) => return Err(TransportCause::Lost(Arc::new(error))),
            }
        }
    }

    /// Seals cancellations first, then requests, as far as the window and the frames already waiting allow.
    fn seal_ready<'a, T: OpTable<'a>>(&mut self, state: &mut State, table: &mut T) {
        while self.is_up() && self.outbound.len() < SEALED_FRAMES_MAX {
            if let Some(id) = self.cancels.pop_front() {
                self.seal_cancel(state, id);
            } else if self.in_flight < state.config.window
                && let Some(id) = self.queue.pop_front()
            {
                self.seal_request(state, table, id);
            } else {
                break;
            }
        }
    }

    fn seal_cancel(&mut self, state: &State, id: OpId) {
        if state.jobs.get(id).is_none() {
            return;
        }
        // Ids of ops have a sequence of at least 1 in their high half, so these never collide with one.
        self.cancel_sequence = self.cancel_sequence % u64::from(u32::MAX) + 1;
        self.cancelling.push((self.cancel_sequence, id));
        let mut frame = self.outbound.buffer();
        frame.resize(HEADER_BYTES, 0);
        let head = encode_cancel(&mut frame, id.0).with_request_id(self.cancel_sequence);
        self.seal(&head, &mut frame);
        self.outbound.push(frame, None, None);
    }

    fn seal_request<'a, T: OpTable<'a>>(&mut self, state: &mut State, table: &mut T, id: OpId) {
        let Some(job) = state.jobs.get_mut(id) else {
            return;
        };
        let Some(op) = table.op_mut(job.token) else {
            return;
        };
        let now = clock::now();
        // A budget of 0 would mean none.
        let budget_us =
            (job.deadline.0.saturating_sub(now.0) / 1000).clamp(1, u32::MAX.into()) as u32;
        let mut frame = self.outbound.buffer();
        frame.resize(HEADER_BYTES, 0);
        let head = match op.encode(&mut frame) {
            Ok(head) => head.with_request_id(id.0).with_deadline_us(budget_us),
            Err(error) => {
                // Plans keep every limit, so this is a fault of ours; it stays one of this op alone.
                let text = format!("request can't be encoded: {error}");
                state.finish_with(
                    table,
                    id,
                    self.server,
                    TransportCause::Protocol(text.into()),
                );
                return;
            }
        };
        job.phase = JobPhase::Sent;
        job.sent = false;
        op.steps.begun = Some(now);
        let header = self.seal(&head, &mut frame);
        let trailer = self.trailer(&header, op);
        op.steps.sealed = Some(clock::now());
        self.in_flight += 1;
        self.outbound
            .push(frame, Some((id, op.payload_count())), trailer);
    }

    /// Puts the sealed header in front of a control part that `frame` holds behind the header's place.
    fn seal(&mut self, head: &FrameHead, frame: &mut [u8]) -> [u8; HEADER_BYTES] {
        let Phase::Up { sealer, .. } = &mut self.phase else {
            unreachable!("only a connection that stands seals")
        };
        let header = sealer.seal(head, &frame[HEADER_BYTES..]);
        frame[..HEADER_BYTES].copy_from_slice(&header);
        header
    }

    /// The payload MAC of a write, where one was agreed on.
    fn trailer(&self, header: &[u8; HEADER_BYTES], op: &Op<'_>) -> Option<[u8; TRAILER_BYTES]> {
        let Phase::Up { sealer, .. } = &self.phase else {
            return None;
        };
        let mut mac = sealer.payload_key()?.for_header(header);
        let mut bytes = 0;
        for idx in 0..op.payload_count() {
            mac.update(op.payload(idx));
            bytes += op.payload(idx).len();
        }
        (bytes > 0).then(|| mac.finish())
    }
}
