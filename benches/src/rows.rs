//! The rows: what is run, against whom, and the bounds each answers to.

mod batches;
mod bulk_rows;
mod overheads;
mod round_trip;

use crate::stats::Row;
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

/// A benchmark: its id, and what measures it (one row, or one per sub-workload).
pub(crate) struct Benchmark {
    pub(crate) id: &'static str,
    pub(crate) measure: fn(Effort) -> Result<Vec<Row>>,
}

/// All benchmarks, in the order they run.
pub(crate) const ALL: &[Benchmark] = &[
    Benchmark {
        id: "get-4m",
        measure: bulk_rows::get_4m,
    },
    Benchmark {
        id: "put-4m",
        measure: bulk_rows::put_4m,
    },
    Benchmark {
        id: "batch-get-4m",
        measure: batches::get_4m,
    },
    Benchmark {
        id: "batch-get-1k",
        measure: batches::get_1k,
    },
    Benchmark {
        id: "exists-512",
        measure: batches::exists_512,
    },
    Benchmark {
        id: "get-1k-rtt",
        measure: round_trip::get_1k,
    },
    Benchmark {
        id: "hmac-1",
        measure: overheads::hmac_1,
    },
    Benchmark {
        id: "hmac-64",
        measure: overheads::hmac_64,
    },
    Benchmark {
        id: "telemetry",
        measure: overheads::telemetry,
    },
];
