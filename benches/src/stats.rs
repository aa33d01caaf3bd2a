//! Measurements, paired repeats and the rows of `bench.json`.
//!
//! Machines that run benchmarks drift: each repeat runs every side once, in turn, and ratios are taken pair by pair
//! within a repeat. A row quotes the median ratio with its least and greatest value.

use serde::Serialize;

/// What one run of one side did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure {
    /// Wall-clock seconds.
    pub(crate) seconds: f64,
    /// Operations, objects, keys or bytes, in the row's counting unit.
    pub(crate) work: f64,
    /// CPU seconds of both ends together: the driving process and the server's.
    pub(crate) cpu_seconds: f64,
}

impl Measure {
    pub(crate) fn rate(&self) -> f64 {
        self.work / self.seconds
    }

    pub(crate) fn cpu_per_work(&self) -> f64 {
        self.cpu_seconds / self.work
    }
}

/// Which way is better for a row's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One line of the table and one element of `bench.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) workload: String,
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    pub(crate) peer_name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) ratio: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
    /// Our CPU seconds per unit of work over the peer's; below 1 we use less.
    pub(crate) cpu_ratio: Option<f64>,
    pub(crate) must: f64,
    pub(crate) aim: f64,
    /// What else was measured beside it, as text (a limit, a note on conditions).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// The bound a row answers to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) better: Better,
    pub(crate) must: f64,
    pub(crate) aim: f64,
}

impl Row {
    /// True when the median ratio is on the right side of `must`.
    pub(crate) fn holds(&self) -> bool {
        match self.better {
            Better::Higher => self.ratio >= self.must,
            Better::Lower => self.ratio <= self.must,
        }
    }

    /// Builds a row from paired figures: `pairs` holds (ours, peer) in `unit`, `cpu` the same for CPU per unit of work.
    ///
    /// # Panics
    /// If `pairs` is empty: a row without a measurement is our own bug.
    pub(crate) fn paired(
        id: &'static str,
        workload: String,
        peer_name: String,
        unit: &'static str,
        goal: Goal,
        pairs: &[(f64, f64)],
        cpu: &[(f64, f64)],
    ) -> Self {
        assert!(!pairs.is_empty(), "a row needs at least one pair");
        let ratios: Vec<f64> = pairs.iter().map(|(ours, peer)| ours / peer).collect();
        let cpu_ratios: Vec<f64> = cpu.iter().map(|(ours, peer)| ours / peer).collect();
        Self {
            id,
            workload,
            ours: median(pairs.iter().map(|pair| pair.0)),
            peer: median(pairs.iter().map(|pair| pair.1)),
            peer_name,
            unit,
            better: goal.better,
            ratio: median(ratios.iter().copied()),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            cpu_ratio: (!cpu_ratios.is_empty()).then(|| median(cpu_ratios.iter().copied())),
            must: goal.must,
            aim: goal.aim,
            note: None,
        }
    }
}

/// The middle value, or the mean of the two middle ones.
///
/// # Panics
/// If there is no value.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    assert!(!sorted.is_empty(), "the median of nothing");
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_takes_the_middle_of_any_order() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn ratios_are_taken_within_a_repeat() {
        let goal = Goal {
            better: Better::Higher,
            must: 1.0,
            aim: 1.25,
        };
        // The machine halves its speed in the second repeat: the ratio stays 2.
        let row = Row::paired(
            "x",
            String::new(),
            String::new(),
            "GB/s",
            goal,
            &[(4.0, 2.0), (2.0, 1.0)],
            &[],
        );
        assert_eq!((row.ratio, row.ratio_min, row.ratio_max), (2.0, 2.0, 2.0));
        assert!(row.holds());
    }

    #[test]
    fn a_time_ratio_above_its_bound_does_not_hold() {
        let goal = Goal {
            better: Better::Lower,
            must: 1.5,
            aim: 1.2,
        };
        let row = Row::paired(
            "x",
            String::new(),
            String::new(),
            "µs",
            goal,
            &[(16.0, 10.0)],
            &[],
        );
        assert!(!row.holds());
    }
}
