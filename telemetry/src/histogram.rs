//! Log-linear histograms: 16 sub-buckets per power of two, so a value is known to 6.25 %.
//!
//! A histogram has one writer, its owner, which needs no read-modify-write: relaxed loads and stores
//! of its own cells (about 2 ns). The scraper reads the same cells with relaxed loads, and may see an
//! observation whose sum it doesn't see yet; the next scrape has it. Where several threads observe,
//! [`Histogram::observe_shared`] pays for atomic additions.
//!
//! Durations are counted in units of 1/1024 µs instead of nanoseconds: so every power of two of a
//! microsecond is a bucket's edge, and the classic buckets derived from it are exact. Buckets contain
//! their upper edge, as Prometheus' `le` does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Sub-buckets per power of two.
const SUB: u64 = 16;
const SUB_BITS: u32 = SUB.trailing_zeros();
/// Values from `2^OCTAVES` (67 s as a duration) on share the last bucket.
const OCTAVES: u32 = 36;
/// Cells of one histogram.
const CELLS: usize = ((OCTAVES - SUB_BITS + 1) as u64 * SUB) as usize + 1;

/// What the observed numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Nanoseconds, exposed as seconds.
    Time,
    /// Plain numbers.
    Count,
}

impl Scale {
    #[inline]
    fn units(self, value: u64) -> u64 {
        match self {
            // ceil(ns * 1.024); beyond 2^50 ns it is the last bucket's anyway.
            Scale::Time => (value.min(1 << 50) * 1024).div_ceil(1000),
            Scale::Count => value,
        }
    }

    /// The value in exposed units (seconds, or the number itself) of an edge.
    fn exposed(self, units: u64) -> f64 {
        match self {
            Scale::Time => units as f64 / 1024.0 / 1e6,
            Scale::Count => units as f64,
        }
    }
}

#[inline]
fn cell(units: u64) -> usize {
    // Cells contain their upper edge, so it is the number below that picks the cell.
    let below = units.saturating_sub(1);
    if below < SUB {
        return below as usize;
    }
    let octave = below.ilog2();
    if octave >= OCTAVES {
        return CELLS - 1;
    }
    let sub = (below >> (octave - SUB_BITS)) & (SUB - 1);
    ((octave - SUB_BITS + 1) as usize) * SUB as usize + sub as usize
}

/// The greatest number of units that a cell holds.
fn upper_edge(cell: usize) -> u64 {
    let (row, sub) = (cell as u64 / SUB, cell as u64 % SUB);
    if row == 0 {
        return sub + 1;
    }
    (SUB + sub + 1) << (row - 1)
}

/// Counts of values by size.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    cells: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Histogram {
    /// An empty one; 4 KiB.
    pub fn new(scale: Scale) -> Histogram {
        let cells = (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Histogram {
            scale,
            cells,
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Adds a value (nanoseconds where it counts time); only the owner may call this.
    ///
    /// Two threads calling it would lose observations, nothing worse.
    #[inline]
    pub fn observe(&self, value: u64) {
        let cell = &self.cells[cell(self.scale.units(value))];
        cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.sum.store(
            self.sum.load(Ordering::Relaxed).wrapping_add(value),
            Ordering::Relaxed,
        );
        if value > self.max.load(Ordering::Relaxed) {
            self.max.store(value, Ordering::Relaxed);
        }
    }

    /// Adds a value from any thread.
    #[inline]
    pub fn observe_shared(&self, value: u64) {
        self.cells[cell(self.scale.units(value))].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// Adds its present counts to a snapshot.
    pub fn add_to(&self, snapshot: &mut HistogramSnapshot) {
        assert_eq!(
            self.scale, snapshot.scale,
            "a snapshot holds one kind of number"
        );
        for (total, cell) in snapshot.cells.iter_mut().zip(&self.cells) {
            *total += cell.load(Ordering::Relaxed);
        }
        snapshot.sum = snapshot.sum.wrapping_add(self.sum.load(Ordering::Relaxed));
        snapshot.max = snapshot.max.max(self.max.load(Ordering::Relaxed));
    }

    /// Its present counts.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut snapshot = HistogramSnapshot::new(self.scale);
        self.add_to(&mut snapshot);
        snapshot
    }
}

/// What one or several histograms counted, at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    scale: Scale,
    cells: Vec<u64>,
    sum: u64,
    max: u64,
}

impl HistogramSnapshot {
    /// An empty one, to add to.
    pub fn new(scale: Scale) -> HistogramSnapshot {
        HistogramSnapshot {
            scale,
            cells: vec![0; CELLS],
            sum: 0,
            max: 0,
        }
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &HistogramSnapshot) {
        assert_eq!(
            self.scale, other.scale,
            "a snapshot holds one kind of number"
        );
        for (total, cell) in self.cells.iter_mut().zip(&other.cells) {
            *total += cell;
        }
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What was counted since an earlier snapshot of the same histograms. The greatest value can't be
    /// told apart by time: it stays that of all.
    #[must_use]
    pub fn since(&self, earlier: &HistogramSnapshot) -> HistogramSnapshot {
        let mut later = self.clone();
        for (total, cell) in later.cells.iter_mut().zip(&earlier.cells) {
            *total = total.saturating_sub(*cell);
        }
        later.sum = later.sum.wrapping_sub(earlier.sum);
        later
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// The values' sum in exposed units (seconds, or plain numbers).
    pub fn sum(&self) -> f64 {
        match self.scale {
            Scale::Time => self.sum as f64 / 1e9,
            Scale::Count => self.sum as f64,
        }
    }

    /// The greatest value, exactly, in raw units (ns).
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value below which the share `quantile` of all lies, in raw units (ns); at most 6.25 % too
    /// high, never above the greatest. `None` where nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (idx, cell) in self.cells.iter().enumerate() {
            seen += cell;
            if seen >= rank {
                let value = match self.scale {
                    Scale::Time => upper_edge(idx) * 1000 / 1024,
                    Scale::Count => upper_edge(idx),
                };
                return Some(if idx == CELLS - 1 {
                    self.max
                } else {
                    value.min(self.max)
                });
            }
        }
        Some(self.max)
    }

    /// Cumulative counts at classic bounds, without the infinite one. Exact where a bound is an edge.
    pub fn cumulative(&self, bounds: &[f64]) -> Vec<u64> {
        let mut counts = Vec::with_capacity(bounds.len());
        let (mut idx, mut seen) = (0, 0);
        for bound in bounds {
            // A billionth of slack, because the edges go through floating point.
            let within = |idx: usize| self.scale.exposed(upper_edge(idx)) <= bound * (1.0 + 1e-9);
            while idx < CELLS - 1 && within(idx) {
                seen += self.cells[idx];
                idx += 1;
            }
            counts.push(seen);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_cell_holds_what_lies_between_its_edges() {
        let mut lower = 0;
        for idx in 0..CELLS - 1 {
            let upper = upper_edge(idx);
            assert_eq!(cell(lower + 1), idx);
            assert_eq!(cell(upper), idx);
            assert!(
                upper - lower <= 1 || (upper - lower) * SUB <= lower + 1,
                "cell {idx}"
            );
            lower = upper;
        }
        assert_eq!(cell(lower + 1), CELLS - 1);
        assert_eq!(cell(u64::MAX), CELLS - 1);
    }

    #[test]
    fn a_value_on_a_bound_is_counted_at_that_bound() {
        let histogram = Histogram::new(Scale::Time);
        for ns in [1_000, 1_001, 2_000, 2_001, 1_024_000, 1_024_001] {
            histogram.observe(ns);
        }
        let counts = histogram
            .snapshot()
            .cumulative(&[1e-6, 2e-6, 4e-6, 1.024e-3, 2.048e-3]);
        assert_eq!(counts, [1, 3, 4, 5, 6]);
    }

    #[test]
    fn small_numbers_are_exact() {
        let histogram = Histogram::new(Scale::Count);
        for entries in [1, 1, 2, 64, 65, 1024] {
            histogram.observe(entries);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(
            snapshot.cumulative(&[1.0, 2.0, 32.0, 64.0, 512.0, 1024.0]),
            [2, 3, 3, 4, 5, 6]
        );
        assert_eq!(snapshot.sum(), 1157.0);
    }

    #[test]
    fn what_takes_longer_than_a_minute_is_still_counted() {
        let histogram = Histogram::new(Scale::Time);
        histogram.observe(3_600_000_000_000);
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 1);
        assert_eq!(snapshot.quantile(0.5), Some(3_600_000_000_000));
        assert_eq!(snapshot.cumulative(&[33.554_432]), [0]);
        histogram.observe(u64::MAX);
        assert_eq!(histogram.snapshot().count(), 2);
    }

    #[test]
    fn what_several_histograms_saw_adds_up() {
        let (owned, shared) = (Histogram::new(Scale::Time), Histogram::new(Scale::Time));
        owned.observe(1_000);
        shared.observe_shared(3_000);
        shared.observe_shared(2_000);
        let mut all = owned.snapshot();
        all.merge(&shared.snapshot());
        assert_eq!((all.count(), all.max()), (3, 3_000));
        assert!((all.sum() - 6e-6).abs() < 1e-12, "{}", all.sum());
        assert_eq!(all.cumulative(&[1e-6, 2e-6, 4e-6]), [1, 2, 3]);
    }

    #[test]
    fn since_counts_only_what_came_after() {
        let histogram = Histogram::new(Scale::Time);
        histogram.observe(1_000);
        let before = histogram.snapshot();
        histogram.observe(5_000_000);
        let after = histogram.snapshot().since(&before);
        assert_eq!(after.count(), 1);
        assert!((after.sum() - 0.005).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn quantiles_are_within_a_sixteenth(mut values in prop::collection::vec(1u64..20_000_000_000, 1..200)) {
            let histogram = Histogram::new(Scale::Time);
            values.iter().for_each(|value| histogram.observe(*value));
            values.sort_unstable();
            let snapshot = histogram.snapshot();
            for quantile in [0.5, 0.9, 0.99, 1.0] {
                let rank = ((quantile * values.len() as f64).ceil() as usize).max(1);
                let exact = values[rank - 1] as f64;
                let ours = snapshot.quantile(quantile).unwrap() as f64;
                prop_assert!(ours >= exact * 0.99 - 2.0 && ours <= exact * 1.07 + 16.0, "{ours} for {exact}");
            }
        }
    }
}
