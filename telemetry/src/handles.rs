//! Typed handles on what the engine, the server and the client count.
//!
//! They travel in the structs that are passed in, never in a global, so every test has its own. Clones
//! share the counts. What an op's thread counts goes through its [`crate::Recorder`] instead; these are
//! for rarer events, and any thread may call them (5 to 20 ns).

mod client;
mod drive;
mod engine;
mod server;

use std::sync::atomic::{AtomicU64, Ordering};

pub use client::ClientMetrics;
pub use drive::DriveMetrics;
pub use engine::EngineMetrics;
pub use server::ServerMetrics;

/// One number of a series whose labels aren't all closed.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
