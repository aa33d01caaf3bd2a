//! What is recorded: what alerts compare over days, and what federation should carry.

use super::Record;
use crate::promql::{ERROR, HIT, Query, READS};
use memkv_telemetry::metrics as s;

const Q: Query = Query::rule("5m");

/// Operations per second.
pub(super) const OP_RATE: &str = "job_instance_op:memkv_op:rate5m";
/// Share of operations that failed.
pub(super) const OP_ERROR_RATIO: &str = "job_instance_op:memkv_op_errors:ratio_rate5m";
/// 99th percentile of operations' duration.
pub(super) const OP_P99: &str = "job_instance_op:memkv_op_duration_seconds:p99_5m";
/// Share of operations that were slow.
pub(super) const SLOW_RATIO: &str = "job_instance:memkv_slow_ops:ratio_rate5m";
/// Share of the entries read that were there.
pub(super) const HIT_RATIO: &str = "job_instance:memkv_entries_hit:ratio_rate5m";

/// All recording rules.
pub fn recorded() -> Vec<Record> {
    let ops = Q.count_rate(&s::OP_DURATION, &["op"], &[]);
    vec![
        Record {
            name: OP_RATE,
            expr: Q.count_rate(&s::OP_DURATION, &["op"], &[]),
        },
        Record {
            name: OP_ERROR_RATIO,
            expr: Q
                .count_rate(&s::OP_DURATION, &["op"], ERROR)
                .or_zero_like(&ops)
                .per(ops.clone()),
        },
        Record {
            name: "job_instance_op:memkv_op_duration_seconds:p50_5m",
            expr: Q.quantile("0.5", &s::OP_DURATION, &["op"], &[]),
        },
        Record {
            name: OP_P99,
            expr: Q.quantile("0.99", &s::OP_DURATION, &["op"], &[]),
        },
        Record {
            name: SLOW_RATIO,
            expr: Q
                .rate(&s::SLOW_OPS_TOTAL, &[], &[])
                .per(Q.count_rate(&s::OP_DURATION, &[], &[])),
        },
        Record {
            name: HIT_RATIO,
            expr: Q
                .rate(&s::ENTRIES_TOTAL, &[], HIT)
                .per(Q.rate(&s::ENTRIES_TOTAL, &[], READS)),
        },
    ]
}
