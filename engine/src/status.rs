//! What the store looks like, for people and for the admin endpoint.

use std::path::PathBuf;

use crate::api::DriveIdx;
use crate::config::Mode;

/// A snapshot of the store.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// Where values live.
    pub mode: Mode,
    /// Entries in the index.
    pub entries: u64,
    /// The last version that was given to a put.
    pub version: u64,
    /// Entries in the hot tier (all of them in memory mode).
    pub hot_entries: u64,
    /// Bytes of the pool that they occupy.
    pub hot_bytes: u64,
    /// Bytes of the pool.
    pub pool_bytes: u64,
    /// Bytes of the pool that nobody uses.
    pub pool_free_bytes: u64,
    /// Calls that wait for pool memory.
    pub pool_waiting: u64,
    /// Values evicted since the start.
    pub evictions: u64,
    /// Bytes evicted that were never read since they were put.
    pub never_read_bytes: u64,
    /// The drives, in the order of the configuration.
    pub drives: Vec<DriveStatus>,
    /// What isn't as it should be, each a sentence with a remedy.
    pub findings: Vec<String>,
}

/// One drive.
#[derive(Clone, Debug)]
pub struct DriveStatus {
    /// Its position in the configuration.
    pub idx: DriveIdx,
    /// Its path.
    pub media: PathBuf,
    /// Whether it serves.
    pub state: DriveState,
    /// Bytes that values can take.
    pub capacity_bytes: u64,
    /// Bytes of live values and their metadata.
    pub used_bytes: u64,
    /// How full the journal is, 0 to 1.
    pub journal_fill: f64,
    /// Media errors since it was formatted.
    pub errors: u64,
    /// Bytes or records dropped because they weren't what was written, since the start.
    pub corruptions: u64,
    /// Bytes written since the start.
    pub written_bytes: u64,
    /// Bytes read since the start.
    pub read_bytes: u64,
    /// Whether I/O goes past the page cache.
    pub direct_io: bool,
}

/// Whether a drive serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriveState {
    /// It does.
    Up,
    /// It doesn't, and why. Its values miss.
    Down(String),
}

impl DriveStatus {
    /// A drive that was left out.
    pub(crate) fn down(idx: DriveIdx, media: PathBuf, state: DriveState) -> Self {
        Self {
            idx,
            media,
            state,
            capacity_bytes: 0,
            used_bytes: 0,
            journal_fill: 0.0,
            errors: 0,
            corruptions: 0,
            written_bytes: 0,
            read_bytes: 0,
            direct_io: false,
        }
    }
}
