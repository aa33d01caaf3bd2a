//! The rows: what is run, against whom, and the bounds each answers to.

mod batches;
mod bulk_rows;
mod overheads;
mod round_trip;

use crate::stats::{Better, Goal, Row};
use anyhow::Result;

/// How much to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Repeats of rows that compare with a peer.
    pub(crate) repeats: usize,
    /// Pairs of rows that compare ourselves with ourselves.
    pub(crate) pairs: usize,
    /// Scales the work of one run; 1.0 is the full size.
    pub(crate) scale: f64,
}

impl Effort {
    /// `count` scaled, at least 1.
    pub(crate) fn scaled(&self, count: usize) -> usize {
        ((count as f64 * self.scale) as usize).max(1)
    }
}

/// A benchmark: its id, the bounds it answers to, and what measures it (one row, or one per sub-workload).
pub(crate) struct Benchmark {
    pub(crate) id: &'static str,
    pub(crate) goal: Goal,
    pub(crate) measure: fn(Goal, Effort) -> Result<Vec<Row>>,
}

const fn at_least(must: f64, aim: f64) -> Goal {
    let better = Better::Higher;
    Goal { better, must, aim }
}

const fn at_most(must: f64, aim: f64) -> Goal {
    let better = Better::Lower;
    Goal { better, must, aim }
}

/// All benchmarks, in the order they run.
pub(crate) const ALL: &[Benchmark] = &[
    Benchmark {
        id: "get-4m",
        goal: at_least(1.0, 1.25),
        measure: bulk_rows::get_4m,
    },
    Benchmark {
        id: "put-4m",
        goal: at_least(1.0, 1.15),
        measure: bulk_rows::put_4m,
    },
    Benchmark {
        id: "batch-get-4m",
        goal: at_least(1.6, 2.6),
        measure: batches::get_4m,
    },
    Benchmark {
        id: "batch-get-1k",
        goal: at_least(10.0, 40.0),
        measure: batches::get_1k,
    },
    Benchmark {
        id: "exists-512",
        goal: at_least(5.0, 15.0),
        measure: batches::exists_512,
    },
    Benchmark {
        id: "get-1k-rtt",
        goal: at_most(1.5, 1.2),
        measure: round_trip::get_1k,
    },
    Benchmark {
        id: "hmac-1",
        goal: at_least(0.85, 0.93),
        measure: overheads::hmac_1,
    },
    Benchmark {
        id: "hmac-64",
        goal: at_least(0.95, 0.99),
        measure: overheads::hmac_64,
    },
    Benchmark {
        id: "telemetry",
        goal: at_least(0.95, 0.985),
        measure: overheads::telemetry,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What was promised, so that a bound can't be let down in passing.
    #[test]
    fn every_row_answers_to_the_bounds_that_were_promised() {
        let promised = [
            ("get-4m", Better::Higher, 1.0, 1.25),
            ("put-4m", Better::Higher, 1.0, 1.15),
            ("batch-get-4m", Better::Higher, 1.6, 2.6),
            ("batch-get-1k", Better::Higher, 10.0, 40.0),
            ("exists-512", Better::Higher, 5.0, 15.0),
            ("get-1k-rtt", Better::Lower, 1.5, 1.2),
            ("hmac-1", Better::Higher, 0.85, 0.93),
            ("hmac-64", Better::Higher, 0.95, 0.99),
            ("telemetry", Better::Higher, 0.95, 0.985),
        ];
        let found: Vec<_> = ALL
            .iter()
            .map(|row| (row.id, row.goal.better, row.goal.must, row.goal.aim))
            .collect();
        assert_eq!(found, promised);
        let without_mooncake = batches::WITHOUT_MOONCAKE;
        assert_eq!(
            (without_mooncake.must, without_mooncake.better),
            (0.95, Better::Higher)
        );
    }
}
