//! Optional test tiers: what needs a program or a machine that not everybody has.
//!
//! A tier's tests report themselves by a file `<tier>.ran` or `<tier>.skipped` (holding the
//! reason) in the folder that `MEMKV_TIERS_DIR` names. So a tier counts as run only if its tests
//! really started, not because its program was found. `MEMKV_REQUIRE_TIERS`, a comma-separated
//! list, turns anything but a run into a failure.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh;

struct Tier {
    name: &'static str,
    what: &'static str,
}

const TIERS: &[Tier] = &[
    Tier {
        name: "prometheus",
        what: "every dashboard, rule and alert expression, by Prometheus",
    },
    Tier {
        name: "collector",
        what: "traces through a real OpenTelemetry Collector",
    },
    Tier {
        name: "block",
        what: "setup and direct mode on block devices (loop devices; needs root)",
    },
    Tier {
        name: "faults",
        what: "drives that are read-only or forbidden (needs unshare and setpriv)",
    },
    Tier {
        name: "connections",
        what: "10,000 idle connections (needs ulimit -n of 10,700)",
    },
    Tier {
        name: "run",
        what: "make run: server, demo, Ctrl-C",
    },
    Tier {
        name: "slow",
        what: "what takes minutes (MEMKV_SLOW=1, as cargo xtask nightly sets it)",
    },
];

/// Tiers that the design names and nothing provides yet.
const NOT_BUILT: &[&str] = &["ebpf", "vm"];

/// Where tests of one CI run leave their reports.
pub(crate) struct Reports {
    dir: PathBuf,
}

impl Reports {
    /// Starts with no report of an earlier run.
    pub(crate) fn new() -> Result<Reports> {
        let dir = sh::target()?.join("tiers");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("clear {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Reports { dir })
    }

    /// For the tests' environment.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Prints one line per tier.
    ///
    /// # Errors
    /// If a required tier didn't run, or a required name is no tier.
    pub(crate) fn conclude(&self) -> Result<()> {
        let required = std::env::var("MEMKV_REQUIRE_TIERS").unwrap_or_default();
        let required: Vec<&str> = required
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        println!("\noptional tiers:");
        let mut missing = Vec::new();
        for tier in TIERS {
            let outcome = self.outcome(tier.name);
            println!("  {:<11} {outcome:<40} {}", tier.name, tier.what);
            if required.contains(&tier.name) && outcome != "ran" {
                missing.push(format!("{}: {outcome}", tier.name));
            }
        }
        for name in NOT_BUILT {
            println!("  {name:<11} not built yet");
        }
        for name in required {
            if !TIERS.iter().any(|tier| tier.name == name) {
                missing.push(format!("{name}: not a tier that can run"));
            }
        }
        if !missing.is_empty() {
            bail!(
                "MEMKV_REQUIRE_TIERS asks for tiers that didn't run: {}",
                missing.join("; ")
            );
        }
        Ok(())
    }

    fn outcome(&self, name: &str) -> String {
        // Both files mean that some tests of the tier ran and some didn't: that isn't a run.
        if let Ok(reason) = fs::read_to_string(self.dir.join(format!("{name}.skipped"))) {
            return format!("SKIPPED: {}", reason.trim());
        }
        if self.dir.join(format!("{name}.ran")).exists() {
            return "ran".to_owned();
        }
        "SKIPPED: no test of it started".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All but the slow one, which is the nightly run's.
    #[test]
    fn what_decides_about_a_change_requires_every_tier() {
        let run = fs::read_to_string(sh::root().join(".ci/run")).unwrap();
        let required = run
            .lines()
            .find_map(|line| line.strip_prefix("export MEMKV_REQUIRE_TIERS="))
            .unwrap();
        let mut tiers: Vec<&str> = TIERS.iter().map(|tier| tier.name).collect();
        tiers.retain(|name| *name != "slow");
        assert_eq!(required.split(',').collect::<Vec<_>>(), tiers);
    }
}
