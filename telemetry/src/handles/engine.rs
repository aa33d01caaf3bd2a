//! What the engine counts.

use std::sync::Arc;

use parking_lot::Mutex;

use super::drive::{DriveMetrics, drive_families};
use crate::labels::{CrcSource, EvictionReason, SlabState};
use crate::metrics;
use crate::snapshot::{Cells, Family, Histograms};

/// What the engine counts.
#[derive(Clone, Debug)]
pub struct EngineMetrics(Arc<EngineCells>);

#[derive(Debug)]
struct EngineCells {
    slabs: Cells,
    slab_wait: Histograms,
    slab_double_frees: Cells,
    index_entries: Cells,
    evictions: Cells,
    never_read_bytes: Cells,
    crc_mismatches: Cells,
    stale_completions: Cells,
    drives: Mutex<Vec<DriveMetrics>>,
}

impl EngineMetrics {
    /// Counts that nobody scrapes: for tests and benchmarks of the engine alone.
    pub fn detached() -> EngineMetrics {
        EngineMetrics(Arc::new(EngineCells {
            slabs: Cells::new(&metrics::SLABS),
            slab_wait: Histograms::new(&metrics::SLAB_WAIT_SECONDS),
            slab_double_frees: Cells::new(&metrics::SLAB_DOUBLE_FREES_TOTAL),
            index_entries: Cells::new(&metrics::INDEX_ENTRIES),
            evictions: Cells::new(&metrics::EVICTIONS_TOTAL),
            never_read_bytes: Cells::new(&metrics::NEVER_READ_BYTES_TOTAL),
            crc_mismatches: Cells::new(&metrics::CRC_MISMATCHES_TOTAL),
            stale_completions: Cells::new(&metrics::STALE_COMPLETIONS_TOTAL),
            drives: Mutex::new(Vec::new()),
        }))
    }

    /// Sets how many slabs are in a state.
    pub fn set_slabs(&self, state: SlabState, count: u64) {
        self.0.slabs.set(state.idx(), count as i64);
    }

    /// How many slabs are in a state.
    pub fn slabs(&self, state: SlabState) -> u64 {
        self.0.slabs.get(state.idx())
    }

    /// A request for slab memory waited so long.
    pub fn slab_waited(&self, wait_ns: u64) {
        self.0.slab_wait.at(0).observe_shared(wait_ns);
    }

    /// A slab was returned twice.
    pub fn slab_double_freed(&self) {
        self.0.slab_double_frees.add(0, 1);
    }

    /// How often a slab was returned twice.
    pub fn slab_double_frees(&self) -> u64 {
        self.0.slab_double_frees.get(0)
    }

    /// Sets how many entries the index holds.
    pub fn set_index_entries(&self, count: u64) {
        self.0.index_entries.set(0, count as i64);
    }

    /// Entries left; `never_read_bytes` of them were never read.
    pub fn evicted(&self, reason: EvictionReason, entries: u64, never_read_bytes: u64) {
        self.0.evictions.add(reason.idx(), entries);
        self.0.never_read_bytes.add(0, never_read_bytes);
    }

    /// How many entries left for a reason.
    pub fn evictions(&self, reason: EvictionReason) -> u64 {
        self.0.evictions.get(reason.idx())
    }

    /// A value's checksum was wrong.
    pub fn crc_mismatch(&self, source: CrcSource) {
        self.0.crc_mismatches.add(source.idx(), 1);
    }

    /// How many checksums were wrong.
    pub fn crc_mismatches(&self, source: CrcSource) -> u64 {
        self.0.crc_mismatches.get(source.idx())
    }

    /// A completion named an operation no longer in flight.
    pub fn stale_completion(&self) {
        self.0.stale_completions.add(0, 1);
    }

    /// How many completions named an operation no longer in flight.
    pub fn stale_completions(&self) -> u64 {
        self.0.stale_completions.get(0)
    }

    /// The handles of a drive; the same drive has the same ones. Beyond [`metrics::DRIVE_LABELS_MAX`] drives
    /// the handles are the drive's own, but are exposed together as [`metrics::MORE`].
    pub fn drive(&self, name: &str) -> DriveMetrics {
        let mut drives = self.0.drives.lock();
        if let Some(known) = drives.iter().find(|drive| drive.name() == name) {
            return known.clone();
        }
        let drive = DriveMetrics::detached(name);
        drives.push(drive.clone());
        drive
    }

    pub(crate) fn families(&self) -> Vec<Family> {
        let cells = &self.0;
        let mut families = vec![
            cells.slabs.family(),
            cells.slab_wait.family(),
            cells.slab_double_frees.family(),
            cells.index_entries.family(),
            cells.evictions.family(),
            cells.never_read_bytes.family(),
            cells.crc_mismatches.family(),
            cells.stale_completions.family(),
        ];
        families.extend(drive_families(&cells.drives.lock()));
        families
    }
}
