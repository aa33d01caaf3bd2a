//! Names and shapes of everything memkv emits, and the machinery that emits it.
//!
//! An op leaves a [`Timeline`]: a plain record that its thread stamps for a few nanoseconds a stage
//! and hands to its [`Recorder`] when it is done. The recorder adds it to histograms that only this
//! thread writes, and pushes it into a ring. Everything else happens off the hot path: one
//! telemetry thread drains the rings, tells which ops were slow and why ([`slow`]), decides which
//! become spans, and feeds the exporters.
//!
//! [`metrics`] holds the one table of series; dashboards, docs and handles are built from it.
//!
//! Without the feature `export` there are the names, the Timeline, the histograms and the handles
//! that the engine counts into. With it: `Telemetry`, the exposition, OTLP and the logs.
#![deny(unsafe_code)]
#![cfg_attr(
    not(feature = "export"),
    allow(
        dead_code,
        reason = "what reads the counts and judges the Timelines isn't built then"
    )
)]

#[expect(unsafe_code, reason = "rdtsc and clock_gettime; see the module docs")]
pub mod clock;
mod handles;
pub mod histogram;
pub mod labels;
pub mod metrics;
pub mod recorder;
mod ring;
pub mod slow;
pub mod snapshot;
pub mod timeline;
pub mod trace;

pub use clock::Tick;
pub use handles::{ClientMetrics, DriveMetrics, EngineMetrics, ServerMetrics};
pub use labels::{
    AuthFailure, AuthKeyLabel, Blame, ConnectionState, CrcSource, Direction, DriveOp,
    EvictionReason, Exporter, LogLevel, OpKind, OutcomeLabel, ProtocolFault, RejectReason,
    RetryReason, SlabState, SpanDecision, Stage, Step, Tier, Transport,
};
pub use recorder::{Recorder, Recorders};
pub use slow::{SlowOp, SlowOps, SlowPolicy, StageBar};
pub use timeline::{EntryCounts, Role, StageTime, Timeline};
pub use trace::{IdSource, TraceContext};

#[cfg(feature = "export")]
mod decide;
#[cfg(feature = "export")]
mod exposition;
#[cfg(feature = "export")]
mod hub;
#[cfg(feature = "export")]
pub mod listener;
#[cfg(feature = "export")]
pub mod log;
#[cfg(feature = "export")]
mod otlp;
#[cfg(feature = "export")]
mod span;

#[cfg(feature = "export")]
pub use exposition::Format;
#[cfg(feature = "export")]
pub use hub::{OpSummary, OtlpConfig, StageSummary, Summary, Telemetry, TelemetryConfig};
#[cfg(feature = "export")]
pub use otlp::{OtlpError, OtlpProtocol};
