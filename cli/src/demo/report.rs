//! What the demo shows: a table per op, where its time went, which tier answered, and the slowest op taken apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use memkv_telemetry::OpKind;
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
    pub(super) times: Times,
    pub(super) seen: Scrape,
}

/// How long each call took as this program saw it, by op: exact, where a histogram of the server's knows buckets only.
#[derive(Debug, Default)]
pub(super) struct Times(BTreeMap<&'static str, Calls>);

/// All calls of one op, which ran one after the other.
#[derive(Debug, Default, Clone)]
struct Calls {
    /// How long each took.
    seconds: Vec<f64>,
    entries: usize,
    /// Of the values that moved; 0 where none do.
    bytes: u64,
}

impl Calls {
    /// Bytes a second while they ran, or entries a second where no values move.
    fn rate(&self) -> f64 {
        let moved = match self.bytes {
            0 => self.entries as f64,
            bytes => bytes as f64,
        };
        moved / self.seconds.iter().sum::<f64>().max(1e-9)
    }

    fn rate_text(&self) -> String {
        match self.bytes {
            0 => format!("{:.0} keys/s", self.rate()),
            _ => format!("{:.2} GB/s", self.rate() / 1e9),
        }
    }
}

impl Times {
    /// Runs a call of `op` with so many entries, whose values have so many bytes, and keeps how long it took.
    pub(super) fn of<T>(
        &mut self,
        op: OpKind,
        entries: usize,
        bytes: u64,
        call: impl FnOnce() -> T,
    ) -> T {
        let started = Instant::now();
        let answer = call();
        self.note(op, entries, bytes, started.elapsed().as_secs_f64());
        answer
    }

    fn note(&mut self, op: OpKind, entries: usize, bytes: u64, seconds: f64) {
        // A batch of one goes out as the single op, under whose name the server's stages are.
        let op = match (op, entries) {
            (OpKind::BatchRead, 1) => OpKind::Get,
            (OpKind::BatchWrite, 1) => OpKind::Put,
            _ => op,
        };
        let calls = self.0.entry(op.name()).or_default();
        calls.seconds.push(seconds);
        calls.entries += entries;
        calls.bytes += bytes;
    }

    /// Each op with its calls, their times sorted, busiest first.
    fn sorted(&self) -> Vec<(&'static str, Calls)> {
        let sort = |(op, calls): (&&'static str, &Calls)| {
            let mut calls = calls.clone();
            calls.seconds.sort_by(f64::total_cmp);
            (*op, calls)
        };
        let mut ops: Vec<_> = self.0.iter().map(sort).collect();
        let busy = |calls: &Calls| calls.seconds.iter().sum::<f64>();
        ops.sort_by(|a, b| busy(&b.1).total_cmp(&busy(&a.1)));
        ops
    }
}

/// The time that `q` (0 to 1) of the sorted `times` don't exceed: always one that was measured.
fn exact(times: &[f64], q: f64) -> Option<f64> {
    let rank = (q * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied()
}

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) phases: Vec<Phase>,
    status: Value,
    /// Everything fit the pool, so no phase read the drive.
    pub(super) unread_drive: bool,
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
        if self.unread_drive {
            let _ = writeln!(
                text,
                "\nNothing was read from the drive: all of it may lie in the server's memory of {}; give --bytes more.",
                chart::bytes(self.pool_bytes())
            );
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
        for (op, calls) in phase.times.sorted() {
            let times = &calls.seconds;
            let time = |q| human(exact(times, q));
            let _ = writeln!(
                text,
                "  {op:<12}{:>6} ops {:>14}  p50 {:>8}  p99 {:>8}  p99.9 {:>8}  max {:>8}",
                times.len(),
                calls.rate_text(),
                time(0.5),
                time(0.99),
                time(0.999),
                time(1.0),
            );
            stages_text(phase, op, times, text);
        }
    }

    fn slowest_text(&self, text: &mut String) {
        if let Some(slowest) = &self.slowest {
            let _ = write!(
                text,
                "\nOps are timed by this program, stages by the server; stages that overlap share their time.\n\
                 The slowest op since the server's start, as the server timed it: {}",
                slowest.render(48)
            );
        }
    }

    pub(super) fn json(&self) -> Value {
        let phases: Vec<Value> = self.phases.iter().map(Phase::json).collect();
        json!({ "drive_reads_are": self.drive_name(), "phases": phases, "slowest": self.slowest })
    }
}

/// One line a stage: its share of the ops' time as a bar, then its quantiles.
fn stages_text(phase: &Phase, op: &str, times: &[f64], text: &mut String) {
    for stage in phase.stages(op) {
        let time = |q| human(stage.quantile(q, times));
        let _ = writeln!(
            text,
            "    {:<9}{} {:>3.0} %  p50 {:>8}  p99 {:>8}  p99.9 {:>8}",
            stage.name,
            chart::bar(stage.share, 20),
            stage.share * 100.0,
            time(0.5),
            time(0.99),
            time(0.999),
        );
    }
}

fn human(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| human_us(seconds * 1e6))
}

/// What a stage of an op cost, as the server counted it.
struct StageCost {
    name: &'static str,
    seconds: Histogram,
    /// Of the time of all ops of this kind; all stages together at most 1.
    share: f64,
}

impl StageCost {
    /// A quantile of its time; no stage takes longer than the slowest of the `ops` that it is part of.
    fn quantile(&self, q: f64, ops: &[f64]) -> Option<f64> {
        let found = self.seconds.quantile(q)?;
        Some(ops.last().map_or(found, |slowest| found.min(*slowest)))
    }
}

impl Phase {
    /// The stages that `op` went through, in the order they come.
    fn stages(&self, op: &str) -> Vec<StageCost> {
        let whole = self.seen.histogram(OP, &[("op", op)]).sum;
        let cost = |stage: &memkv_telemetry::Stage| {
            let name = stage.name();
            let seconds = self.seen.histogram(STAGE, &[("op", op), ("stage", name)]);
            // Spread over all ops of this kind: a stage that only some ops have weighs what it cost them all.
            let share = if whole > 0.0 {
                seconds.sum / whole
            } else {
                0.0
            };
            (seconds.count() > 0.0).then_some(StageCost {
                name,
                seconds,
                share,
            })
        };
        let mut stages: Vec<StageCost> = memkv_telemetry::Stage::ALL
            .iter()
            .filter_map(cost)
            .collect();
        // Stages that run at once add up to more than there was.
        let sum = stages.iter().map(|stage| stage.share).sum::<f64>();
        for stage in &mut stages {
            stage.share /= sum.max(1.0);
        }
        stages
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
        let quantiles = |count: f64, of: &dyn Fn(f64) -> Option<f64>| {
            json!({
                "count": count,
                "p50_seconds": of(0.5),
                "p99_seconds": of(0.99),
                "p999_seconds": of(0.999),
            })
        };
        let ops: Vec<Value> = self
            .times
            .sorted()
            .iter()
            .map(|(op, calls)| {
                let times = &calls.seconds;
                let stages: serde_json::Map<String, Value> = self
                    .stages(op)
                    .into_iter()
                    .map(|stage| {
                        let mut shown =
                            quantiles(stage.seconds.count(), &|q| stage.quantile(q, times));
                        shown["share"] = json!(stage.share);
                        (stage.name.to_owned(), shown)
                    })
                    .collect();
                let mut time = quantiles(times.len() as f64, &|q| exact(times, q));
                time["max_seconds"] = json!(times.last());
                let moves = match calls.bytes {
                    0 => "entries_per_second",
                    _ => "bytes_per_second",
                };
                json!({ "op": op, moves: calls.rate(), "time": time, "stages": stages })
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

    fn times(op: OpKind, seconds: &[f64]) -> Times {
        let mut times = Times::default();
        seconds
            .iter()
            .for_each(|seconds| times.note(op, 1, 1 << 20, *seconds));
        times
    }

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
            times: times(OpKind::Get, &[0.0004; 10]),
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
    fn a_batch_of_one_counts_as_the_op_that_it_is() {
        let mut some = Times::default();
        for entries in [1, 2] {
            some.note(OpKind::BatchRead, entries, 1, 0.1 * entries as f64);
            some.note(OpKind::BatchWrite, entries, 1, 0.01 * entries as f64);
        }
        let ops: Vec<&str> = some.sorted().iter().map(|(op, _)| *op).collect();
        assert_eq!(ops, ["batch_read", "get", "batch_write", "put"]);
    }

    #[test]
    fn ops_show_what_they_moved_a_second() {
        let mut some = times(OpKind::Get, &[0.001, 0.003]);
        some.note(OpKind::Exists, 8, 0, 0.002);
        let rates: Vec<String> = some
            .sorted()
            .iter()
            .map(|(_, calls)| calls.rate_text())
            .collect();
        assert_eq!(rates, ["0.52 GB/s", "4000 keys/s"]);
        assert!(report(true).text().contains("2.62 GB/s"));
    }

    #[test]
    fn stages_show_their_share_of_the_op() {
        let text = report(true).text();
        assert!(text.contains("75 %"), "{text}");
        assert!(text.contains("device"), "{text}");
    }

    /// What a server says after puts that took these times, with two stages that ran at once.
    fn overlapping(seconds: &[f64]) -> Phase {
        let (sum, count): (f64, usize) = (seconds.iter().sum(), seconds.len());
        let buckets = |name: &str, labels: &str, sum: f64| {
            format!(
                "{name}_bucket{{{labels},le=\"0.032768\"}} {}\n{name}_bucket{{{labels},le=\"0.065536\"}} {count}\n\
                 {name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum}\n",
                count - 1
            )
        };
        let seen = buckets(OP, "op=\"put\"", sum)
            + &buckets(STAGE, "op=\"put\",stage=\"lease\"", sum * 0.6)
            + &buckets(STAGE, "op=\"put\",stage=\"transfer\"", sum * 0.99);
        Phase {
            name: "write",
            entries: count,
            bytes: 0,
            seconds: 1.0,
            times: times(OpKind::Put, seconds),
            seen: Scrape::parse(&seen),
        }
    }

    #[test]
    fn no_quantile_is_above_the_slowest_op_and_one_op_shows_one_time() {
        for seconds in [vec![0.0526], [vec![0.02; 9], vec![0.0526]].concat()] {
            let shown = overlapping(&seconds).json();
            let op = &shown["ops"][0];
            let time = |of: &Value, q: &str| of[q].as_f64().unwrap();
            for q in ["p50_seconds", "p99_seconds", "p999_seconds"] {
                let (lowest, highest) = (seconds[0], 0.0526);
                let found = time(&op["time"], q);
                assert!((lowest..=highest).contains(&found), "{q}: {shown}");
                for stage in ["lease", "transfer"] {
                    assert!(time(&op["stages"][stage], q) <= highest, "{q}: {shown}");
                }
            }
            assert_eq!(op["time"]["count"], seconds.len() as f64);
            assert_eq!(op["time"]["max_seconds"], 0.0526);
        }
    }

    #[test]
    fn shares_of_stages_that_overlap_sum_to_at_most_the_whole() {
        let shown = overlapping(&[0.02, 0.03]).json();
        let share = |stage: &str| {
            let share = &shown["ops"][0]["stages"][stage]["share"];
            share.as_f64().unwrap()
        };
        let (lease, transfer) = (share("lease"), share("transfer"));
        assert!(lease + transfer <= 1.0 + 1e-9, "{shown}");
        assert!((lease / transfer - 0.6 / 0.99).abs() < 1e-9, "{shown}");
    }
}
