//! The store; knows no network, no tokio.
#![deny(unsafe_code)]

mod api;
pub mod cache;
mod config;
mod drive;
mod engine;
mod entry;
mod error;
pub mod index;
mod lease;
#[expect(unsafe_code, reason = "owns the mmaps; see the module docs")]
pub mod mapping;
mod metrics;
mod queue;
mod segment_log;
pub mod slab;
mod status;
mod stream;

pub use api::*;
pub use config::*;
pub use engine::inspect::{MediaContent, format_drive, inspect_media};
pub use engine::{Engine, GetStep};
pub use error::*;
pub use lease::{ReadLease, WriteLease};
pub use memkv_telemetry::EngineMetrics;
pub use queue::CompletionQueue;
pub use status::{DriveState, DriveStatus, EngineStatus};
