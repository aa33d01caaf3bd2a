//! What the demo shows: a table per op, where its time went, which tier answered, and the slowest op taken apart.

use std::fmt::Write as _;

use memkv_telemetry::slow::{SlowOp, human_us};
use serde_json::{Value, json};

use crate::chart;
use crate::scrape::{Histogram, Scrape};

const OP: &str = "memkv_op_duration_seconds";
const STAGE: &str = "memkv_stage_duration_seconds";
const ENTRIES: &str = "memkv_entries_total";

/// One phase: what this program moved, and what the server counted meanwhile.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) entries: usize,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) seen: Scrape,
}

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) phases: Vec<Phase>,
    status: Value,
    pub(super) slowest: Option<SlowOp>,
}

impl Report {
    pub(super) fn describe_server(&mut self, status: &Value) {
        self.status = status.clone();
    }

    /// The pool's size as the server states it.
    pub(super) fn pool_bytes(&self) -> u64 {
        self.status["memory"]["pool_bytes"].as_u64().unwrap_or(0)
    }

    /// How a read that the drive answered may be called: cold only where nothing but the device can have had the bytes.
    fn drive_name(&self) -> &'static str {
        let drives = self.status["storage"]["devices"].as_array();
        let direct = drives.is_some_and(|drives| {
            !drives.is_empty()
                && drives
                    .iter()
                    .all(|drive| drive["direct_io"] == Value::Bool(true))
        });
        if direct {
            "drive"
        } else {
            "drive or page cache"
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for phase in &self.phases {
            self.phase_text(phase, &mut text);
        }
        self.slowest_text(&mut text);
        text
    }

    fn phase_text(&self, phase: &Phase, text: &mut String) {
        let _ = write!(text, "\n{}: {} entries", phase.name, phase.entries);
        if phase.bytes > 0 {
            let rate = phase.bytes as f64 / phase.seconds;
            let _ = write!(
                text,
                ", {}, {:.2} GB/s",
                chart::bytes(phase.bytes),
                rate / 1e9
            );
        }
        let _ = writeln!(text, " in {:.2} s", phase.seconds);
        let tiers = phase.tiers();
        if !tiers.is_empty() {
            let named = tiers.iter().map(|(tier, share)| {
                let name = if tier == "drive" {
                    self.drive_name()
                } else {
                    tier
                };
                format!("{name} {:.0} %", share * 100.0)
            });
            let _ = writeln!(
                text,
                "  answered by: {}",
                named.collect::<Vec<_>>().join(", ")
            );
        }
        for op in phase.ops() {
            let times = phase.seen.histogram(OP, &[("op", &op)]);
            let _ = writeln!(
                text,
                "  {op:<13}{:>8} ops   p50 {:>9}   p99 {:>9}   p99.9 {:>9}",
                times.count(),
                quantile(&times, 0.5),
                quantile(&times, 0.99),
                quantile(&times, 0.999),
            );
            stages_text(phase, &op, &times, text);
        }
    }

    fn slowest_text(&self, text: &mut String) {
        if let Some(slowest) = &self.slowest {
            let _ = write!(text, "\nThe slowest op of all: {}", slowest.render(48));
        }
    }

    pub(super) fn json(&self) -> Value {
        let phases: Vec<Value> = self.phases.iter().map(Phase::json).collect();
        json!({ "drive_reads_are": self.drive_name(), "phases": phases, "slowest": self.slowest })
    }
}

/// One line a stage: its share of the op's mean time as a bar, then its quantiles.
fn stages_text(phase: &Phase, op: &str, times: &Histogram, text: &mut String) {
    let mean = times.mean().unwrap_or(0.0);
    for stage in phase.stages(op) {
        let histogram = phase
            .seen
            .histogram(STAGE, &[("op", op), ("stage", &stage)]);
        // Spread over all ops of this kind: a stage that only some ops have weighs what it cost them all.
        let share = if mean > 0.0 {
            histogram.sum / times.count() / mean
        } else {
            0.0
        };
        let _ = writeln!(
            text,
            "    {stage:<9}{} {:>3.0} %   p50 {:>9}   p99 {:>9}   p99.9 {:>9}",
            chart::bar(share, 24),
            share * 100.0,
            quantile(&histogram, 0.5),
            quantile(&histogram, 0.99),
            quantile(&histogram, 0.999),
        );
    }
}

fn quantile(histogram: &Histogram, q: f64) -> String {
    histogram
        .quantile(q)
        .map_or_else(|| "-".to_owned(), |seconds| human_us(seconds * 1e6))
}

impl Phase {
    /// The ops that ran, busiest first.
    fn ops(&self) -> Vec<String> {
        let mut ops: Vec<(f64, String)> = self
            .seen
            .label_values(&format!("{OP}_bucket"), "op")
            .into_iter()
            .map(|op| (self.seen.histogram(OP, &[("op", &op)]).sum, op))
            .filter(|(sum, _)| *sum > 0.0)
            .collect();
        ops.sort_by(|a, b| b.0.total_cmp(&a.0));
        ops.into_iter().map(|(_, op)| op).collect()
    }

    /// The stages that `op` went through, in the order they come.
    fn stages(&self, op: &str) -> Vec<String> {
        memkv_telemetry::Stage::ALL
            .iter()
            .map(|stage| stage.name().to_owned())
            .filter(|stage| {
                self.seen
                    .histogram(STAGE, &[("op", op), ("stage", stage)])
                    .count()
                    > 0.0
            })
            .collect()
    }

    /// Shares of the entries by the tier that answered; entries without one (writes, exists) don't count.
    fn tiers(&self) -> Vec<(String, f64)> {
        let counts: Vec<(String, f64)> = ["ram", "drive"]
            .into_iter()
            .map(|tier| {
                let reads = ["get", "batch_read"]
                    .map(|op| self.seen.sum(ENTRIES, &[("tier", tier), ("op", op)]));
                (tier.to_owned(), reads.iter().sum())
            })
            .collect();
        let total: f64 = counts.iter().map(|(_, count)| count).sum();
        counts
            .into_iter()
            .filter(|(_, count)| *count > 0.0)
            .map(|(tier, count)| (tier, count / total))
            .collect()
    }

    fn json(&self) -> Value {
        let quantiles = |histogram: &Histogram| {
            json!({
                "count": histogram.count(),
                "p50_seconds": histogram.quantile(0.5),
                "p99_seconds": histogram.quantile(0.99),
                "p999_seconds": histogram.quantile(0.999),
            })
        };
        let ops: Vec<Value> = self
            .ops()
            .iter()
            .map(|op| {
                let stages: serde_json::Map<String, Value> = self
                    .stages(op)
                    .into_iter()
                    .map(|stage| {
                        let histogram = self.seen.histogram(STAGE, &[("op", op), ("stage", &stage)]);
                        (stage, quantiles(&histogram))
                    })
                    .collect();
                json!({ "op": op, "time": quantiles(&self.seen.histogram(OP, &[("op", op)])), "stages": stages })
            })
            .collect();
        let tiers: serde_json::Map<String, Value> = self
            .tiers()
            .into_iter()
            .map(|(tier, share)| (tier, json!(share)))
            .collect();
        json!({
            "name": self.name,
            "entries": self.entries,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "tier_shares": tiers,
            "ops": ops,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(direct_io: bool) -> Report {
        let seen = "memkv_op_duration_seconds_bucket{op=\"get\",le=\"0.001\"} 10\n\
            memkv_op_duration_seconds_bucket{op=\"get\",le=\"+Inf\"} 10\nmemkv_op_duration_seconds_sum{op=\"get\"} 0.004\n\
            memkv_stage_duration_seconds_bucket{op=\"get\",stage=\"device\",le=\"0.001\"} 10\n\
            memkv_stage_duration_seconds_bucket{op=\"get\",stage=\"device\",le=\"+Inf\"} 10\n\
            memkv_stage_duration_seconds_sum{op=\"get\",stage=\"device\"} 0.003\n\
            memkv_entries_total{op=\"get\",tier=\"drive\",outcome=\"ok\"} 10\n";
        let phase = Phase {
            name: "read the oldest",
            entries: 10,
            bytes: 1 << 20,
            seconds: 0.5,
            seen: Scrape::parse(seen),
        };
        let mut report = Report {
            phases: vec![phase],
            ..Report::default()
        };
        report.describe_server(&json!({ "storage": { "devices": [{ "direct_io": direct_io }] } }));
        report
    }

    #[test]
    fn a_read_that_the_page_cache_may_have_answered_is_not_called_the_drives() {
        assert!(report(true).text().contains("answered by: drive 100 %"));
        assert!(
            report(false)
                .text()
                .contains("answered by: drive or page cache 100 %")
        );
    }

    #[test]
    fn stages_show_their_share_of_the_op() {
        let text = report(true).text();
        assert!(text.contains("75 %"), "{text}");
        assert!(text.contains("device"), "{text}");
    }
}
