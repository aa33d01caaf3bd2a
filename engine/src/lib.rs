//! The store; knows no network, no tokio.
#![deny(unsafe_code)]

mod api;
mod cache;
mod clock;
mod config;
mod drive;
mod engine;
mod entry;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod lease;
#[expect(unsafe_code, reason = "owns the mmaps; see the module docs")]
mod mapping;
mod queue;
mod segment_log;
mod slab;
mod status;
mod stream;

/// The in-memory structures, for the example that measures them; no part of the interface.
#[doc(hidden)]
pub mod structures {
    pub use crate::cache::{Cache, CacheConfig, CacheKey};
    pub use crate::index::{
        Cursor, If, Index, IndexConfig, KeyHash, KeyHasher, Location, StoreKey,
    };
    pub use crate::mapping::{Mapping, MappingConfig, PagePolicy};
    pub use crate::slab::{NoObserver, PoolConfig, RegionConfig, RegionTier, SlabPool};
}

pub use api::*;
pub use config::*;
pub use engine::inspect::{MediaContent, format_drive, inspect_media};
pub use engine::{Engine, GetStep};
pub use error::*;
pub use lease::{ReadLease, WriteLease};
pub use memkv_telemetry::EngineMetrics;
pub use queue::CompletionQueue;
pub use status::{DriveState, DriveStatus, EngineStatus};
