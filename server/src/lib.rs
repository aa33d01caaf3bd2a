//! The server as a library: [`Server::start`] serves the native protocol over TCP and the admin endpoint over HTTP.
//!
//! ```text
//! front/tcp   bytes ↔ frames           decides nothing
//! dispatch    frames ↔ engine calls    the only caller of the engine; admission, deadlines, priorities
//! status      engine errors → wire     the one table
//! admin       what people and probes ask
//! ```
//!
//! Threads: `memkv-main` (a tokio runtime) accepts, serves the admin endpoint and keeps time; each of the
//! `network.threads` data threads `memkv-data-N` owns its connections from accept to close.
#![deny(unsafe_code)]

mod admin;
mod admission;
mod buffers;
pub mod config;
mod dispatch;
pub mod env;
mod front;
#[doc(hidden)]
pub mod fuzzing;
mod half_open;
mod limits;
mod listen;
mod observe;
mod server;
mod shared;
mod status;
mod threads;

pub use admin::serve::TlsError;
pub use admin::socket::SocketError;
pub use limits::Limits;
pub use listen::ListenError;
pub use observe::telemetry_of;
pub use server::{
    LogLevelSetter, ReloadError, Reloaded, RunningServer, Server, StartError, StartOptions,
    StopError, Stopped,
};
