//! The Rust client of memkv: [`Client`] for threads, [`AsyncClient`] for futures, [`pump`] for event loops of one's own.
//!
//! ```no_run
//! let client = memkv_client::Client::from_process()?; // MEMKV_CONFIG, MEMKV_SERVERS, MEMKV_AUTH_KEY …
//! client.put(b"model/layer-0", b"its block")?;
//! assert_eq!(client.get(b"model/layer-0")?.as_deref(), Some(b"its block".as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Every entry of every call has an outcome of its own: `Ok(Some(_))`, `Ok(None)` for a miss, or an [`OpError`] that tells
//! what a server answered from what happened on the way. Keys are placed by [`router`], large calls are cut into frames,
//! values are checked end to end by CRC32C, and a call that gives up is fenced before it says so.
#![deny(unsafe_code)]

mod async_client;
mod blocking;
mod call;
pub mod config;
pub mod env;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod meter;
mod plan;
pub mod pool;
pub mod pump;
pub mod router;
mod shared;
#[cfg(test)]
mod tests;

pub use async_client::{AsyncCalls, AsyncClient, Filled, Pending};
pub use blocking::{Calls, Client};
pub use call::{CallOptions, ServerStat, Value};
pub use config::{ClientConfig, ConfigError};
pub use error::{EntryOutcome, OpError, TransportCause, outcome_of};
pub use memkv_proto::blocks::TraceContext;
pub use memkv_proto::op::{Attrs, Class, Condition, ErrorCode};
pub use memkv_proto::stat::StatKey;
pub use meter::{UnsentTelemetry, shutdown_telemetry};
pub use shared::{BuildError, RegionError, TransportState};
