//! The engine's pool.

use std::sync::Arc;

use memkv_telemetry::EngineMetrics;

use crate::clock::now;
use crate::config::{EngineConfig, HugePages, Mode};
use crate::error::OpenError;
use crate::mapping::{Mapping, MappingConfig, PagePolicy};
use crate::slab::{PoolConfig, PoolObserver, RegionConfig, RegionTier, SlabPool};

/// Tells the pool the time, and the metrics what it tells.
struct PoolEyes(EngineMetrics);

impl PoolObserver for PoolEyes {
    fn now_ns(&self) -> u64 {
        now().0
    }

    fn waited(&self, waited_ns: u64) {
        self.0.slab_waited(waited_ns);
    }

    fn freed_twice(&self) {
        self.0.slab_double_freed();
    }
}

/// Maps the pool; findings say what it had to do without.
pub(super) fn open(
    config: &EngineConfig,
    metrics: &EngineMetrics,
) -> Result<(SlabPool, Vec<String>), OpenError> {
    // In memory mode the pool is the store.
    let (bytes, field) = match config.mode {
        Mode::Memory => (config.memory_bytes, "storage.max_size"),
        Mode::Direct | Mode::File => (config.pool_bytes, "memory.max_size"),
    };
    let fault = |source: Box<dyn std::error::Error + Send + std::marker::Sync>| OpenError::Pool {
        bytes,
        field,
        source,
    };
    let pages = match (config.huge_pages, config.mode) {
        (HugePages::Required, _) | (HugePages::Auto, Mode::Direct) => PagePolicy::Require,
        (HugePages::Auto, _) => PagePolicy::Prefer,
        (HugePages::Off, _) => PagePolicy::Plain,
    };
    let mapping = MappingConfig {
        bytes: bytes as usize,
        pages,
        numa_node: None,
        prefault_threads: 0,
    };
    let mapping = Mapping::new(&mapping).map_err(|why| fault(Box::new(why)))?;
    let finding = mapping.finding().degraded.clone();
    let findings = finding.map(|why| format!("the pool has no huge pages: {why}"));
    let pool = PoolConfig {
        slab_bytes: config.slab_bytes as usize,
        regions: vec![RegionConfig {
            mapping,
            tier: RegionTier::Fast,
        }],
        double_free_trace: config.double_free_trace,
    };
    let pool = SlabPool::new(pool, Arc::new(PoolEyes(metrics.clone())))
        .map_err(|why| fault(Box::new(why)))?;
    Ok((pool, findings.into_iter().collect()))
}
