//! The store; knows no network, no tokio.
#![deny(unsafe_code)]

mod api;
mod config;
mod engine;
mod error;
mod lease;
mod metrics;
mod queue;
mod status;

pub use api::*;
pub use config::*;
pub use engine::{Engine, GetStep};
pub use error::*;
pub use lease::{ReadLease, WriteLease};
pub use metrics::*;
pub use queue::CompletionQueue;
pub use status::{DriveState, DriveStatus, EngineStatus};
