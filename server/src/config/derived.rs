//! What follows from a configuration: what the store is opened with, and what a reload leaves for a restart.

use memkv_engine::{DriveConfig, EngineConfig, HugePages, Mode, Sync, Verify};
use memkv_settings::{Effective, Source};

use super::{Backend, Config, Drive, HugepageMode, SyncMode, VerifyMode};

impl Config {
    /// What the store is opened with.
    pub(crate) fn engine(&self) -> EngineConfig {
        let (memory, storage) = (&self.memory, &self.storage);
        let drives = |drives: &[Drive]| {
            let drive = |drive: &Drive| DriveConfig {
                media: drive.media.clone(),
                max_size: drive.capacity_bytes,
            };
            drives.iter().map(drive).collect()
        };
        let (mode, drives, memory_bytes) = match &storage.backend {
            Backend::Direct(configured) => (Mode::Direct, drives(configured), 0),
            Backend::File(configured) => (Mode::File, drives(configured), 0),
            Backend::Memory { .. } => (Mode::Memory, Vec::new(), memory.pool_bytes),
        };
        EngineConfig {
            mode,
            drives,
            memory_bytes,
            extent_bytes: storage.extent_bytes,
            slab_bytes: memory.block_bytes,
            pool_bytes: memory.pool_bytes,
            huge_pages: match memory.hugepages {
                HugepageMode::Auto => HugePages::Auto,
                HugepageMode::Required => HugePages::Required,
                HugepageMode::Off => HugePages::Off,
            },
            eviction: storage.eviction,
            sync: match storage.sync {
                SyncMode::Always => Sync::Always,
                SyncMode::EverySecond => Sync::Everysec,
                SyncMode::No => Sync::No,
            },
            verify: match storage.verify {
                VerifyMode::Always => Verify::Always,
                VerifyMode::Unclean => Verify::Unclean,
            },
            flap_threshold: storage.flap_threshold,
            double_free_trace: memory.double_free_trace,
            ..EngineConfig::default()
        }
    }

    /// What a value of `len` bytes holds of the pool while it is written. On drives one that is longer than a quarter
    /// of the pool streams, a window at a time; in memory mode a value lies in the pool as a whole.
    pub(crate) fn bytes_held(&self, len: u64) -> u64 {
        match self.storage.backend {
            Backend::Memory { .. } => len,
            Backend::Direct(_) | Backend::File(_) => len.min((self.memory.pool_bytes / 4).max(1)),
        }
    }

    /// Keys of `other` that differ from this, the running configuration, and need a restart; but none that follows from
    /// others in both, because nobody changed that.
    pub(crate) fn needs_restart(&self, other: &Config) -> Vec<String> {
        const RELOADED: [&str; 4] = [
            "network.auth_key",
            "network.auth_key_previous",
            "network.tls_cert",
            "network.tls_key",
        ];
        fn find<'a>(config: &'a Config, path: &str) -> Option<&'a Effective> {
            config.effective().iter().find(|one| one.path == path)
        }
        let is_derived = |one: &Effective| matches!(one.source, Source::Detected(_));
        let is_changed = |ours: &&Effective| {
            find(other, &ours.path).is_none_or(|theirs| {
                ours.value != theirs.value && !(is_derived(ours) && is_derived(theirs))
            })
        };
        let changed = self.effective().iter().filter(is_changed);
        // Those of a drive more.
        let added = other.effective().iter();
        let added = added.filter(|theirs| find(self, &theirs.path).is_none());
        changed
            .chain(added)
            .map(|one| one.path.clone())
            .filter(|key| !RELOADED.contains(&key.as_str()))
            .collect()
    }
}
