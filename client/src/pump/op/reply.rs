//! How a reply settles the entries of its op. A reply that doesn't fit its request is a fault of the peer, told by name.

use std::sync::Arc;
use std::time::Duration;

use memkv_proto::op::{ErrorCode, Outcome, Segment};
use memkv_proto::reply::{Failure, Outcomes, WriteResults};

use super::{BareReply, Body, Op, Receiving, Sink};
use crate::error::OpError;

impl Op<'_> {
    /// Takes in the reply to a write.
    ///
    /// # Errors
    /// What rule of the protocol the peer broke.
    pub(crate) fn written(
        &mut self,
        server: &Arc<str>,
        results: &WriteResults<'_>,
    ) -> Result<(), &'static str> {
        let Body::Write(entries) = &mut self.body else {
            return Err("reply of another op than the request's");
        };
        if results.len() != entries.len() {
            return Err("reply has another number of entries than the request");
        }
        for (entry, result) in entries.iter_mut().zip(results.iter()) {
            let settled = match result.outcome {
                Outcome::Ok => Ok(result.version),
                Outcome::Error(code) => {
                    Err(server_error(server, code, results.retry_after_us(), ""))
                }
                Outcome::Miss => return Err("a put can't miss"),
            };
            settle(&mut entry.result, &mut self.unsettled, settled)?;
        }
        Ok(())
    }

    /// Takes in the reply to a delete or exists.
    ///
    /// # Errors
    /// What rule of the protocol the peer broke.
    pub(crate) fn outcomes(
        &mut self,
        server: &Arc<str>,
        outcomes: &Outcomes<'_>,
    ) -> Result<(), &'static str> {
        let Body::Keys(entries) = &mut self.body else {
            return Err("reply of another op than the request's");
        };
        if outcomes.len() != entries.len() {
            return Err("reply has another number of entries than the request");
        }
        for (entry, outcome) in entries.iter_mut().zip(outcomes.iter()) {
            let settled = match outcome {
                Outcome::Ok => Ok(true),
                Outcome::Miss => Ok(false),
                Outcome::Error(code) => {
                    Err(server_error(server, code, outcomes.retry_after_us(), ""))
                }
            };
            settle(&mut entry.result, &mut self.unsettled, settled)?;
        }
        Ok(())
    }

    /// Takes in that the whole request failed.
    pub(crate) fn failed(&mut self, server: &Arc<str>, failure: &Failure<'_>) {
        self.fail_unsettled(&server_error(
            server,
            failure.code,
            failure.retry_after_us,
            failure.detail,
        ));
    }

    /// Takes in what a part of a reply says of one value, and says where the segment's bytes go.
    ///
    /// # Errors
    /// What rule of the protocol the peer broke.
    pub(crate) fn value(
        &mut self,
        server: &Arc<str>,
        segment: &Segment,
        retry_after_us: u32,
    ) -> Result<Sink, &'static str> {
        let Body::Read(entries) = &mut self.body else {
            return Err("reply of another op than the request's");
        };
        let idx = segment.entry_idx as usize;
        let entry = entries
            .get_mut(idx)
            .ok_or("reply names an entry that the request doesn't have")?;
        let settled = match segment.outcome {
            Outcome::Ok => {
                let sink = entry.begin(segment)?;
                if segment.value_len == 0 && entry.advance(server, 0) {
                    self.unsettled -= 1;
                }
                return Ok(sink);
            }
            Outcome::Miss => Ok(None),
            Outcome::Error(code) => Err(server_error(server, code, retry_after_us, "")),
        };
        settle(&mut entry.result, &mut self.unsettled, settled)?;
        Ok(Sink::Discard)
    }

    /// The rest of entry `idx`'s destination, at most `want` bytes of it; `None` where its bytes are dropped.
    pub(crate) fn dest(&mut self, idx: usize, want: usize) -> Option<&mut [u8]> {
        let Body::Read(entries) = &mut self.body else {
            return None;
        };
        let entry = entries.get_mut(idx)?;
        let Receiving::Into { got, .. } = entry.state else {
            return None;
        };
        let start = got as usize;
        Some(&mut entry.dest.as_mut_slice()[start..start + want])
    }

    /// The `count` bytes of entry `idx` that came last and that [`Op::advance`] doesn't know of yet.
    pub(crate) fn filled(&self, idx: usize, count: usize) -> Option<&[u8]> {
        let Body::Read(entries) = &self.body else {
            return None;
        };
        let entry = entries.get(idx)?;
        let Receiving::Into { got, .. } = entry.state else {
            return None;
        };
        entry
            .dest
            .as_slice()
            .get(got as usize..got as usize + count)
    }

    /// Notes that `count` bytes of entry `idx` have come in (into [`Op::dest`], or to be dropped). Where a MAC is to follow
    /// them, what they settle counts only once that is [vouched](Op::vouched) for.
    pub(crate) fn advance(&mut self, server: &Arc<str>, idx: usize, count: usize, signed: bool) {
        let Body::Read(entries) = &mut self.body else {
            return;
        };
        let Some(entry) = entries.get_mut(idx) else {
            return;
        };
        if entry.advance(server, count) {
            self.unsettled -= 1;
            if signed {
                self.unverified.push(idx);
            }
        }
    }

    /// The MAC of a frame's payload is the right one.
    pub(crate) fn vouched(&mut self) {
        self.unverified.clear();
    }

    /// Takes back what unverified payload has settled: its checksum may have been made to fit.
    pub(super) fn distrust(&mut self) {
        let Body::Read(entries) = &mut self.body else {
            return;
        };
        for idx in self.unverified.drain(..) {
            entries[idx].result = None;
            self.unsettled += 1;
        }
    }

    /// Settles a request without entries.
    ///
    /// # Errors
    /// When the request has entries.
    pub(crate) fn bare(&mut self, reply: BareReply) -> Result<(), &'static str> {
        let Body::Bare(result) = &mut self.body else {
            return Err("reply of another op than the request's");
        };
        settle(result, &mut self.unsettled, Ok(reply))
    }
}

fn server_error(server: &Arc<str>, code: ErrorCode, retry_after_us: u32, detail: &str) -> OpError {
    OpError::Server {
        server: Arc::clone(server),
        code,
        retry_after: (retry_after_us > 0).then(|| Duration::from_micros(retry_after_us.into())),
        detail: detail.into(),
    }
}

fn settle<T>(
    result: &mut Option<Result<T, OpError>>,
    unsettled: &mut usize,
    value: Result<T, OpError>,
) -> Result<(), &'static str> {
    if result.is_some() {
        return Err("reply settles an entry twice");
    }
    *result = Some(value);
    *unsettled -= 1;
    Ok(())
}
