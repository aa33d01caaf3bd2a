//! The Rust client of memkv.
#![deny(unsafe_code)]

mod async_client;
mod blocking;
mod call;
pub mod config;
pub mod core;
mod crc;
pub mod env;
mod error;
mod meter;
mod plan;
pub mod pool;
pub mod router;
mod shared;
#[cfg(test)]
mod tests;

pub use async_client::{AsyncClient, Pending};
pub use blocking::{Calls, Client};
pub use call::{CallOptions, ServerStat, Value};
pub use config::{ClientConfig, ConfigError};
pub use error::{EntryOutcome, OpError, TransportCause, outcome_of};
pub use memkv_proto::blocks::TraceContext;
pub use memkv_proto::op::{Attrs, Class, Condition, ErrorCode};
pub use memkv_proto::stat::StatKey;
pub use meter::shutdown_telemetry;
pub use shared::{BuildError, RegionError, TransportState};
