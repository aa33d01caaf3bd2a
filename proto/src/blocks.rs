//! Optional blocks at the front of a control part: trace context, span id, stage summary.
//!
//! ```text
//! request   [trace context 26, if TRACE]                      body
//! reply     [span id 8, if SPAN] [stage summary 40, if STAGES] body
//! ```

use crate::frame::Flags;
use crate::wire::{DecodeError, Reader};

/// Stages that a summary has room for.
pub const STAGE_COUNT: usize = 10;
/// The value of a stage that wasn't measured.
pub const STAGE_ABSENT: u32 = u32::MAX;

/// The only version of a trace context that is defined.
const TRACE_VERSION: u8 = 0;

/// A W3C trace context: the span of the client that a server's spans become children of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Version of the format, 0.
    pub version: u8,
    /// The trace.
    pub trace_id: [u8; 16],
    /// The parent span.
    pub span_id: [u8; 8],
    /// Trace flags; bit 0 is `sampled`.
    pub flags: u8,
}

impl TraceContext {
    /// Whether the client samples this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Whether both ids are set; W3C gives zeroes no meaning, so a server starts a trace of its own.
    pub fn is_valid(&self) -> bool {
        self.trace_id != [0; 16] && self.span_id != [0; 8]
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.version);
        out.extend_from_slice(&self.trace_id);
        out.extend_from_slice(&self.span_id);
        out.push(self.flags);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = reader.u8("trace version")?;
        if version != TRACE_VERSION {
            let (field, value) = ("trace version", version.into());
            return Err(DecodeError::BadValue { field, value });
        }
        Ok(TraceContext {
            version,
            trace_id: reader.array("trace id")?,
            span_id: reader.array("span id")?,
            flags: reader.u8("trace flags")?,
        })
    }
}

/// How long the server spent in each stage of a request, in ns, in the order receive, verify, admit, lease, index,
/// transfer, queue, device, complete, reply. [`STAGE_ABSENT`] is not measured, which isn't 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StageSummary(pub [u32; STAGE_COUNT]);

impl StageSummary {
    /// Nothing measured.
    pub const EMPTY: StageSummary = StageSummary([STAGE_ABSENT; STAGE_COUNT]);

    /// Sets a stage; what doesn't fit in 32 bits (4.29 s) becomes the longest that does.
    ///
    /// # Panics
    /// If `stage_idx` isn't below [`STAGE_COUNT`].
    pub fn set(&mut self, stage_idx: usize, ns: u64) {
        self.0[stage_idx] = u32::try_from(ns).unwrap_or(u32::MAX).min(STAGE_ABSENT - 1);
    }

    /// A stage's time in ns; `None` if it wasn't measured or there is no such stage.
    pub fn get(&self, stage_idx: usize) -> Option<u32> {
        self.0
            .get(stage_idx)
            .copied()
            .filter(|ns| *ns != STAGE_ABSENT)
    }
}

impl Default for StageSummary {
    fn default() -> Self {
        StageSummary::EMPTY
    }
}

/// The blocks of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyBlocks {
    /// The server's span of this request, if it has one; its trace is the request's.
    pub span_id: Option<[u8; 8]>,
    /// Where the time went, if the request asked for it.
    pub stages: Option<StageSummary>,
    /// Whether the server keeps its span although nothing may have sampled it: the client should keep its
    /// own, or the trace lacks its root. A flag of the frame, without bytes of its own.
    pub is_kept: bool,
}

impl ReplyBlocks {
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Flags {
        if let Some(span_id) = &self.span_id {
            out.extend_from_slice(span_id);
        }
        if let Some(stages) = &self.stages {
            for ns in stages.0 {
                out.extend_from_slice(&ns.to_le_bytes());
            }
        }
        Flags::REPLY
            .with_if(Flags::SPAN, self.span_id.is_some())
            .with_if(Flags::STAGES, self.stages.is_some())
            .with_if(Flags::KEPT, self.is_kept)
    }

    pub(crate) fn read(flags: Flags, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut blocks = ReplyBlocks {
            is_kept: flags.contains(Flags::KEPT),
            ..ReplyBlocks::default()
        };
        if flags.contains(Flags::SPAN) {
            blocks.span_id = Some(reader.array("span id")?);
        }
        if flags.contains(Flags::STAGES) {
            let mut stages = StageSummary::EMPTY;
            for ns in &mut stages.0 {
                *ns = reader.u32("stage summary")?;
            }
            blocks.stages = Some(stages);
        }
        Ok(blocks)
    }
}

pub(crate) fn write_trace(trace: Option<&TraceContext>, out: &mut Vec<u8>) -> Flags {
    if let Some(trace) = trace {
        trace.write(out);
    }
    Flags::NONE.with_if(Flags::TRACE, trace.is_some())
}

pub(crate) fn read_trace(
    flags: Flags,
    reader: &mut Reader<'_>,
) -> Result<Option<TraceContext>, DecodeError> {
    flags
        .contains(Flags::TRACE)
        .then(|| TraceContext::read(reader))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_of_an_unknown_version_is_refused() {
        for version in [0, 1, 0xff] {
            let trace = TraceContext {
                version,
                trace_id: [1; 16],
                span_id: [2; 8],
                flags: 1,
            };
            let mut bytes = Vec::new();
            trace.write(&mut bytes);
            let read = read_trace(Flags::TRACE, &mut Reader::new(&bytes));
            let field = "trace version";
            let expected = match version {
                0 => Ok(Some(trace)),
                _ => Err(DecodeError::BadValue {
                    field,
                    value: version.into(),
                }),
            };
            assert_eq!(read, expected);
        }
    }
}
