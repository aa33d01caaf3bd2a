//! What an engine is opened with: checked, in bytes, nothing automatic left but what is measured.

use std::path::PathBuf;

/// Smallest and largest `memory.block_size`.
pub const SLAB_BYTES_RANGE: (u64, u64) = (64 << 10, 64 << 20);
/// Smallest and largest `storage.block_size`.
pub const EXTENT_BYTES_RANGE: (u64, u64) = (64 << 10, 16 << 20);
/// Smallest drive.
pub const DRIVE_BYTES_MIN: u64 = 16 << 20;
/// Size of a file drive that has no `max_size`.
pub const FILE_DRIVE_BYTES: u64 = 4 << 30;
/// Most drives of a store.
pub const DRIVES_MAX: usize = 64;

/// Where values live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Raw devices.
    Direct,
    /// Regular files.
    File,
    /// Slabs only; nothing survives a stop.
    Memory,
}

/// What a power loss may take (a killed process loses nothing that was acknowledged).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// Nothing.
    Always,
    /// At most the last second.
    #[default]
    Everysec,
    /// Whatever the drive had not written.
    No,
}

/// When a value that was read from a drive is compared with its CRC32C.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// On every read.
    #[default]
    Always,
    /// Only values that were written before the last unclean stop.
    Unclean,
}

/// Reserved huge pages for the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Required in direct mode, used elsewhere where there are enough.
    #[default]
    Auto,
    /// Without enough of them, the engine doesn't open.
    Required,
    /// Never used.
    Off,
}

/// One drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveConfig {
    /// Device or file.
    pub media: PathBuf,
    /// How much of it to use; `None` = a whole device, 4 GiB of a file.
    pub max_size: Option<u64>,
}

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// `storage.mode`
    pub mode: Mode,
    /// `storage.drives`; empty in memory mode.
    pub drives: Vec<DriveConfig>,
    /// `storage.max_size`: what values may take in memory mode.
    pub memory_bytes: u64,
    /// `storage.block_size`: the longest extent; longer values are striped.
    pub extent_bytes: u64,
    /// `memory.block_size`: size of a slab.
    pub slab_bytes: u64,
    /// `memory.max_size`: size of the pool (of the hot tier and of everything in flight).
    pub pool_bytes: u64,
    /// `memory.hugepages`
    pub huge_pages: HugePages,
    /// `storage.eviction`
    pub eviction: bool,
    /// `storage.sync`
    pub sync: Sync,
    /// `storage.verify`
    pub verify: Verify,
    /// `storage.flap_threshold`: media errors after which a drive is taken out.
    pub flap_threshold: u32,
    /// I/Os in flight per drive.
    pub queue_depth: u32,
    /// Calls waiting per drive before `Busy`.
    pub backlog: u32,
    /// `MEMKV_SLAB_DOUBLE_FREE_TRACE`: keeps where slabs were freed.
    pub double_free_trace: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            mode: Mode::File,
            drives: Vec::new(),
            memory_bytes: 1 << 30,
            extent_bytes: 4 << 20,
            slab_bytes: 2 << 20,
            pool_bytes: 1 << 30,
            huge_pages: HugePages::default(),
            eviction: true,
            sync: Sync::default(),
            verify: Verify::default(),
            flap_threshold: 5,
            queue_depth: 128,
            backlog: 65_536,
            double_free_trace: false,
        }
    }
}

impl EngineConfig {
    /// Memory mode with this many bytes.
    pub fn memory(bytes: u64) -> Self {
        Self {
            mode: Mode::Memory,
            memory_bytes: bytes,
            ..Self::default()
        }
    }

    /// File mode on these files.
    pub fn files(media: impl IntoIterator<Item = PathBuf>) -> Self {
        let drives = media.into_iter().map(|media| DriveConfig {
            media,
            max_size: None,
        });
        Self {
            drives: drives.collect(),
            ..Self::default()
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is out of its bounds, with the value, the bound and what to do.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |field, value: u64, (low, high): (u64, u64)| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::OutOfRange {
                field,
                value,
                low,
                high,
            })
        };
        let power = |field, value: u64| {
            if value.is_power_of_two() {
                return Ok(());
            }
            Err(ConfigError::NotPowerOfTwo { field, value })
        };
        range("memory.block_size", self.slab_bytes, SLAB_BYTES_RANGE)?;
        power("memory.block_size", self.slab_bytes)?;
        range("storage.block_size", self.extent_bytes, EXTENT_BYTES_RANGE)?;
        power("storage.block_size", self.extent_bytes)?;
        range(
            "storage.flap_threshold",
            self.flap_threshold.into(),
            (1, 1 << 20),
        )?;
        range("storage.queue_depth", self.queue_depth.into(), (1, 4096))?;
        range("storage.backlog", self.backlog.into(), (1, 1 << 24))?;
        if self.mode == Mode::Memory {
            return range(
                "storage.max_size",
                self.memory_bytes,
                (4 * self.slab_bytes, 1 << 46),
            );
        }
        range(
            "memory.max_size",
            self.pool_bytes,
            (4 * self.slab_bytes, 1 << 46),
        )?;
        range(
            "storage.drives (count)",
            self.drives.len() as u64,
            (1, DRIVES_MAX as u64),
        )?;
        for (idx, drive) in self.drives.iter().enumerate() {
            if self.drives[..idx]
                .iter()
                .any(|other| other.media == drive.media)
            {
                return Err(ConfigError::TwiceTheSame {
                    media: drive.media.clone(),
                });
            }
            if let Some(bytes) = drive.max_size {
                range(
                    "storage.drives[].max_size",
                    bytes,
                    (DRIVE_BYTES_MIN, 1 << 46),
                )?;
            }
        }
        Ok(())
    }
}

/// Bytes that drives lock when they register a pool: each registers all of it with its own ring, and
/// the buffers of its own. In memory mode there are no drives, and nothing is locked.
pub fn locked_bytes(pool_bytes: u64, drives: usize) -> u64 {
    use crate::segment_log::{BUFFER_BYTES, BUFFERS};
    pool_bytes
        .saturating_add((BUFFERS * BUFFER_BYTES) as u64)
        .saturating_mul(drives as u64)
}

/// Why a configuration can't work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too small or too large.
    #[error("{field} is {value}: must be {low} to {high}")]
    OutOfRange {
        /// The key.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The smallest that goes.
        low: u64,
        /// The largest that goes.
        high: u64,
    },
    /// Sizes of blocks are powers of two.
    #[error("{field} is {value}: must be a power of two; use {} or {}",
        value.next_power_of_two() / 2, value.next_power_of_two())]
    NotPowerOfTwo {
        /// The key.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// Two drives can't be one.
    #[error("storage.drives names {} twice; name each drive once", media.display())]
    TwiceTheSame {
        /// The path.
        media: PathBuf,
    },
}
