//! Times per op and stage, with the histograms' full resolution: what a person reads where there is no
//! Prometheus.

use serde::{Deserialize, Serialize};

use super::Hub;
use crate::histogram::{HistogramSnapshot, Scale};
use crate::labels::{Direction, OpKind, Stage, Step};
use crate::metrics;
use crate::snapshot::Histograms;
use crate::timeline::Role;

/// An op's times, all since the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpSummary {
    /// The op.
    pub op: OpKind,
    /// How many.
    pub count: u64,
    /// Median, µs.
    pub p50_us: f64,
    /// 99 % were faster, µs.
    pub p99_us: f64,
    /// 99.9 % were faster, µs.
    pub p999_us: f64,
    /// The slowest, µs.
    pub max_us: f64,
    /// Seconds of all together.
    pub total_seconds: f64,
    /// Value bytes from clients.
    pub bytes_in: u64,
    /// Value bytes to clients.
    pub bytes_out: u64,
    /// Its stages (a client's: steps), those that were measured.
    pub stages: Vec<StageSummary>,
}

/// A stage's times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageSummary {
    /// Its name.
    pub stage: String,
    /// How many ops had it.
    pub count: u64,
    /// Median, µs.
    pub p50_us: f64,
    /// 99 % were faster, µs.
    pub p99_us: f64,
    /// 99.9 % were faster, µs.
    pub p999_us: f64,
    /// Seconds of all together.
    pub total_seconds: f64,
}

/// Times per op, for `memkv demo` and `memkv admin status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Ops that happened.
    pub ops: Vec<OpSummary>,
    /// Timelines lost because a ring was full.
    pub timelines_lost: u64,
}

fn quantile_us(snapshot: &HistogramSnapshot, quantile: f64) -> f64 {
    snapshot.quantile(quantile).unwrap_or(0) as f64 / 1e3
}

impl Hub {
    pub(super) fn summary(&self) -> Summary {
        let shards = self.recorders.shards();
        let role = self.recorders.role();
        let (op_series, stage_series, stage_names) = match role {
            Role::Server => (
                &metrics::OP_DURATION,
                &metrics::STAGE_DURATION,
                Stage::NAMES,
            ),
            Role::Client => (
                &metrics::CLIENT_OP_DURATION,
                &metrics::CLIENT_STEP_SECONDS,
                Step::NAMES,
            ),
        };
        let durations = Histograms::snapshots(op_series, shards.iter().map(|s| &s.op_duration));
        let stages = Histograms::snapshots(stage_series, shards.iter().map(|s| &s.stage_duration));
        let per_op = durations.len() / OpKind::COUNT;
        let bytes = |op: &OpKind, direction: Direction| -> u64 {
            let idx = op.idx() * Direction::COUNT + direction.idx();
            shards.iter().map(|shard| shard.bytes.get(idx)).sum()
        };
        let mut ops = Vec::new();
        for op in OpKind::ALL {
            let mut all = HistogramSnapshot::new(Scale::Time);
            let combinations = &durations[op.idx() * per_op..(op.idx() + 1) * per_op];
            combinations
                .iter()
                .flatten()
                .for_each(|snapshot| all.merge(snapshot));
            if all.count() == 0 {
                continue;
            }
            let its_stages = &stages[op.idx() * stage_names.len()..][..stage_names.len()];
            let its_stages = stage_names
                .iter()
                .zip(its_stages)
                .filter_map(|(name, snapshot)| {
                    let snapshot = snapshot.as_ref()?;
                    Some(StageSummary {
                        stage: (*name).to_owned(),
                        count: snapshot.count(),
                        p50_us: quantile_us(snapshot, 0.5),
                        p99_us: quantile_us(snapshot, 0.99),
                        p999_us: quantile_us(snapshot, 0.999),
                        total_seconds: snapshot.sum(),
                    })
                });
            ops.push(OpSummary {
                op: *op,
                count: all.count(),
                p50_us: quantile_us(&all, 0.5),
                p99_us: quantile_us(&all, 0.99),
                p999_us: quantile_us(&all, 0.999),
                max_us: all.max() as f64 / 1e3,
                total_seconds: all.sum(),
                bytes_in: bytes(op, Direction::In),
                bytes_out: bytes(op, Direction::Out),
                stages: its_stages.collect(),
            });
        }
        Summary {
            ops,
            timelines_lost: self.recorders.lost(),
        }
    }
}
