//! Optional tiers: tests that need a program or a right which not every machine has.
//!
//! A skipped tier says so, in the test's output and in the folder that `MEMKV_TIERS_DIR` names,
//! from which `cargo xtask ci` prints its summary. `MEMKV_REQUIRE_TIERS`, a comma-separated list,
//! turns a skip into a failure.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// What a tier's tests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// `prometheus` and `promtool`.
    Prometheus,
    /// An OpenTelemetry Collector.
    Collector,
    /// Block devices: root, and `losetup`.
    Block,
    /// Rights taken away and mounts of our own: `unshare` and `setpriv`.
    Faults,
    /// Ten thousand connections: that many open files.
    Connections,
    /// `make run`: two free ports side by side.
    Run,
    /// Minutes: `MEMKV_SLOW=1`.
    Slow,
}

impl Tier {
    /// As in `MEMKV_REQUIRE_TIERS`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Prometheus => "prometheus",
            Tier::Collector => "collector",
            Tier::Block => "block",
            Tier::Faults => "faults",
            Tier::Connections => "connections",
            Tier::Run => "run",
            Tier::Slow => "slow",
        }
    }

    /// Reports that a test of this tier started.
    pub fn ran(self) {
        self.report("ran", "");
    }

    /// Reports that a test of this tier can't run here.
    ///
    /// # Panics
    /// If `MEMKV_REQUIRE_TIERS` names the tier.
    pub fn skipped(self, reason: &str) {
        self.report("skipped", reason);
        eprintln!("SKIPPED, tier {}: {reason}", self.name());
        let required = env::var("MEMKV_REQUIRE_TIERS").unwrap_or_default();
        let is_required = required.split(',').any(|name| name.trim() == self.name());
        assert!(
            !is_required,
            "tier {} is required here, but: {reason}",
            self.name()
        );
    }

    /// Whether slow tests are wanted, which is reported either way.
    pub fn slow_is_wanted() -> bool {
        let wanted = env::var("MEMKV_SLOW").is_ok_and(|value| value == "1");
        match wanted {
            true => Tier::Slow.ran(),
            false => Tier::Slow.skipped("MEMKV_SLOW isn't 1"),
        }
        wanted
    }

    fn report(self, outcome: &str, text: &str) {
        if let Some(dir) = env::var_os("MEMKV_TIERS_DIR") {
            let path = Path::new(&dir).join(format!("{}.{outcome}", self.name()));
            fs::write(path, text).expect("the folder for tier reports exists");
        }
    }
}

/// Finds a program on `PATH` or among the tools that `scripts/deps.sh` unpacked.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let tools = cache().map(|cache| cache.join("tools/usr/bin"));
    env::split_paths(&path)
        .chain(tools)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Where `make` keeps downloads and built tools.
pub fn cache() -> Option<PathBuf> {
    match env::var_os("MEMKV_CACHE") {
        Some(cache) => Some(PathBuf::from(cache)),
        None => env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/memkv")),
    }
}
