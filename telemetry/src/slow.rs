//! Slow operations: which they are, what is to blame, and how they are shown.
//!
//! **Slow** is an op above a bound by its size (10 ms + 1 ms per MiB), or above 8 times the rolling
//! median of its kind and size class. Size classes are up to 4 KiB, 64 KiB, 1 MiB, 16 MiB, and above.
//!
//! **Blame** goes to what explains most of the excess over the median, if it explains half of it.
//! Each stage's share is its time less its own rolling mean; what a stage stands for without probes:
//!
//! | blame | stages |
//! |---|---|
//! | `device` | device (from submission to completion where there are no probes) |
//! | `block_queue` | queue (only with probes) |
//! | `slab_wait` | lease |
//! | `credit` | admit |
//! | `peer` | receive, transfer, reply: over TCP these last as long as the other side lets them |
//! | `cpu` | verify, index, complete, and time that no stage accounts for (the thread didn't run) |
//! | `unknown` | none of these explains half |
//!
//! `pause`, `retransmit`, `congestion` and `reclaim` need facts that a Timeline doesn't have.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Anchor;
use crate::histogram::{Histogram, HistogramSnapshot, Scale};
use crate::labels::{Blame, OpKind, OutcomeLabel, Stage, Tier, Transport};
use crate::timeline::{Role, Timeline};
use crate::trace::hex;

/// From when on an op is slow (`telemetry.slow`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowPolicy {
    /// What any op may take.
    pub base: Duration,
    /// What each MiB adds.
    pub per_mib: Duration,
    /// Slow is also this many times the rolling median; `None` turns that off.
    pub times_median: Option<f64>,
}

impl Default for SlowPolicy {
    fn default() -> Self {
        SlowPolicy {
            base: Duration::from_millis(10),
            per_mib: Duration::from_millis(1),
            times_median: Some(8.0),
        }
    }
}

impl SlowPolicy {
    #[inline]
    pub(crate) fn bound_ns(&self, bytes: u64) -> u64 {
        let mib = bytes as f64 / (1 << 20) as f64;
        (self.base.as_nanos() as f64 + self.per_mib.as_nanos() as f64 * mib) as u64
    }
}

/// A stage in a slow op's breakdown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageBar {
    /// Its name.
    pub stage: String,
    /// µs from the op's start.
    pub start_us: f64,
    /// µs in it, all its parts together.
    pub dur_us: f64,
}

/// A slow operation, taken apart: what `/v1/slow` returns and `memkv slow` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlowOp {
    /// What it did.
    pub op: OpKind,
    /// What carried it.
    pub transport: Transport,
    /// Where it was served from.
    pub tier: Tier,
    /// How it ended.
    pub outcome: OutcomeLabel,
    /// Name of its first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether it was above its bound. The slowest op of all is kept although it may not be.
    pub is_slow: bool,
    /// What explains it; `None` where it wasn't slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    /// When it began, in ms since 1970.
    pub start_unix_ms: u64,
    /// µs it took.
    pub duration_us: f64,
    /// µs that its kind and size usually takes; absent until enough were seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_us: Option<f64>,
    /// Entries it had.
    pub entries: u64,
    /// Entries that weren't there.
    pub misses: u64,
    /// Entries that failed.
    pub errors: u64,
    /// Value bytes from the client.
    pub bytes_in: u64,
    /// Value bytes to the client.
    pub bytes_out: u64,
    /// Hash of its first key, hexadecimal. The key is never shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_hash: Option<String>,
    /// The connection it came over.
    pub connection_id: u64,
    /// Drive of its last I/O, by position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drive_idx: Option<u16>,
    /// I/Os it took; its device stage is that of the last one to complete.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub io_count: u32,
    /// µs in the device over all I/Os, which overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_sum_us: Option<f64>,
    /// µs in the device of the longest I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_max_us: Option<f64>,
    /// Its trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Its span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
    /// Whether device time is the kernel's (probes) or from submission to completion.
    pub is_probed: bool,
    /// What was measured; a stage that wasn't is absent.
    pub stages: Vec<StageBar>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Slow ops, newest first, and the slowest ops, slowest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SlowOps {
    /// The newest slow ones.
    pub newest: Vec<SlowOp>,
    /// The slowest of all, whether above their bound or not.
    pub slowest: Vec<SlowOp>,
}

impl SlowOp {
    /// Each stage as a bar for `width` columns: (name, columns before it, its columns, at least 1).
    pub fn bars(&self, width: usize) -> Vec<(&str, usize, usize)> {
        let per_column = (self.duration_us / width.max(1) as f64).max(f64::MIN_POSITIVE);
        self.stages
            .iter()
            .map(|bar| {
                let before = ((bar.start_us / per_column) as usize).min(width.saturating_sub(1));
                let columns = (bar.dur_us / per_column).round() as usize;
                (
                    bar.stage.as_str(),
                    before,
                    columns.clamp(1, (width - before).max(1)),
                )
            })
            .collect()
    }

    /// Several lines for a terminal: what it was, and a bar per stage.
    pub fn render(&self, width: usize) -> String {
        let mut text = format!("{} {}", self.op.span_name(), human_us(self.duration_us));
        if let Some(median) = self.median_us {
            _ = write!(text, " (usually {})", human_us(median));
        }
        if let Some(blame) = self.blame {
            _ = write!(text, ", blame: {blame}");
        }
        let (entries, bytes) = (self.entries, self.bytes_in + self.bytes_out);
        let plural = if entries == 1 { "entry" } else { "entries" };
        _ = write!(
            text,
            "\n  {entries} {plural}, {bytes} bytes, tier {}, {}",
            self.tier, self.outcome
        );
        if let Some(trace_id) = &self.trace_id {
            _ = write!(text, ", trace {trace_id}");
        }
        text.push('\n');
        for (bar, (name, before, columns)) in self.stages.iter().zip(self.bars(width)) {
            let share = 100.0 * bar.dur_us / self.duration_us.max(f64::MIN_POSITIVE);
            let drawn = format!("{}{}", " ".repeat(before), "█".repeat(columns));
            let time = human_us(bar.dur_us);
            _ = writeln!(text, "  {name:<8} {drawn:<width$} {time:>9} {share:>3.0} %");
        }
        text
    }
}

/// A time in the unit that fits it.
pub fn human_us(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2} µs"),
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e4 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Up to these many bytes, a size class; above, the last one.
const CLASS_BYTES: [u64; 4] = [4 << 10, 64 << 10, 1 << 20, 16 << 20];
const CLASSES: usize = CLASS_BYTES.len() + 1;

fn size_class(bytes: u64) -> usize {
    CLASS_BYTES
        .iter()
        .position(|most| bytes <= *most)
        .unwrap_or(CLASSES - 1)
}

/// Ops of a kind seen before its median counts.
const USUAL_OPS_MIN: u64 = 100;
/// Ops after which the older half of a window is forgotten.
const WINDOW_OPS: u64 = 8192;
/// Ops between two looks at the median.
const REFRESH_OPS: u64 = 64;

/// What is usual for one kind of op.
struct Usual {
    current: Histogram,
    previous: HistogramSnapshot,
    seen: u64,
    median_ns: Option<u64>,
    /// Rolling means of the stages' times, ns; a stage that is absent counts as 0.
    stage_means: [f64; Stage::COUNT],
    /// The same of what no stage accounts for.
    unaccounted_mean: f64,
}

impl Usual {
    fn new() -> Usual {
        Usual {
            current: Histogram::new(Scale::Time),
            previous: HistogramSnapshot::new(Scale::Time),
            seen: 0,
            median_ns: None,
            stage_means: [0.0; Stage::COUNT],
            unaccounted_mean: 0.0,
        }
    }

    fn learn(&mut self, timeline: &Timeline) {
        self.current.observe(timeline.duration_ns());
        self.seen += 1;
        // The first ops count fully, so that a mean isn't 0 for long.
        let weight = (1.0 / self.seen as f64).max(1.0 / 256.0);
        for (idx, mean) in self.stage_means.iter_mut().enumerate() {
            let time = timeline.slot(idx).map_or(0.0, |time| time.dur_ns as f64);
            *mean += (time - *mean) * weight;
        }
        self.unaccounted_mean += (unaccounted_ns(timeline) - self.unaccounted_mean) * weight;
        if self.seen >= USUAL_OPS_MIN && self.seen.is_multiple_of(REFRESH_OPS) {
            let mut window = self.current.snapshot();
            window.merge(&self.previous);
            self.median_ns = window.quantile(0.5);
        }
        if self.seen.is_multiple_of(WINDOW_OPS) {
            self.previous = self.current.snapshot();
            self.current = Histogram::new(Scale::Time);
        }
    }
}

fn unaccounted_ns(timeline: &Timeline) -> f64 {
    let known: u64 = timeline.measured().map(|(_, time)| time.dur_ns).sum();
    timeline.duration_ns().saturating_sub(known) as f64
}

/// What was found out about an op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) is_slow: bool,
    pub(crate) blame: Option<Blame>,
    pub(crate) median_ns: Option<u64>,
}

/// Tells slow ops from others and keeps the rolling medians.
pub(crate) struct Judge {
    policy: SlowPolicy,
    usual: Vec<Option<Box<Usual>>>,
}

impl Judge {
    pub(crate) fn new(policy: SlowPolicy) -> Judge {
        Judge {
            policy,
            usual: (0..OpKind::COUNT * CLASSES).map(|_| None).collect(),
        }
    }

    /// Judges an op by what came before it, then learns from it. A failed op teaches nothing: a
    /// refusal's few µs would lower the median.
    pub(crate) fn judge(&mut self, timeline: &Timeline) -> Verdict {
        let class = timeline.op.idx() * CLASSES + size_class(timeline.bytes());
        let usual = self.usual[class].get_or_insert_with(|| Box::new(Usual::new()));
        let (duration, median) = (timeline.duration_ns(), usual.median_ns);
        let above_median = match (self.policy.times_median, median) {
            (Some(times), Some(median)) => duration as f64 > median as f64 * times,
            _ => false,
        };
        let is_slow = above_median || duration > self.policy.bound_ns(timeline.bytes());
        let blame = is_slow.then(|| blame(timeline, usual));
        if timeline.outcome() != OutcomeLabel::Error {
            usual.learn(timeline);
        }
        Verdict {
            is_slow,
            blame,
            median_ns: median,
        }
    }
}

fn blame(timeline: &Timeline, usual: &Usual) -> Blame {
    if timeline.role == Role::Client {
        return Blame::Unknown; // A client's steps don't tell; its server's span does.
    }
    // Until it is known what is usual, nothing is subtracted from the whole, so nothing from its parts either.
    let (median_ns, weight) = match usual.median_ns {
        Some(median_ns) => (median_ns, 1.0),
        None => (0, 0.0),
    };
    let excess = timeline.duration_ns().saturating_sub(median_ns) as f64;
    let over = |stages: &[Stage]| -> f64 {
        let stages = stages.iter().filter_map(|stage| {
            let time = timeline.stage(*stage)?.dur_ns as f64;
            Some((time - weight * usual.stage_means[stage.idx()]).max(0.0))
        });
        stages.sum()
    };
    let off_stage = (unaccounted_ns(timeline) - weight * usual.unaccounted_mean).max(0.0);
    let shares = [
        (Blame::Device, over(&[Stage::Device])),
        (Blame::BlockQueue, over(&[Stage::Queue])),
        (Blame::SlabWait, over(&[Stage::Lease])),
        (Blame::Credit, over(&[Stage::Admit])),
        (
            Blame::Peer,
            over(&[Stage::Receive, Stage::Transfer, Stage::Reply]),
        ),
        (
            Blame::Cpu,
            over(&[Stage::Verify, Stage::Index, Stage::Complete]) + off_stage,
        ),
    ];
    let (most, share) = shares
        .into_iter()
        .fold((Blame::Unknown, 0.0), |best, next| {
            if next.1 > best.1 { next } else { best }
        });
    if share >= excess / 2.0 {
        most
    } else {
        Blame::Unknown
    }
}

/// Slow ops kept as the newest.
const NEWEST: usize = 128;
/// Ops kept as the slowest.
const SLOWEST: usize = 32;

/// The newest slow ops, and the slowest of all.
pub(crate) struct SlowRing {
    newest: VecDeque<SlowOp>,
    /// By (duration, arrival).
    slowest: BTreeMap<(u64, u64), SlowOp>,
    arrivals: u64,
}

impl SlowRing {
    pub(crate) fn new() -> SlowRing {
        SlowRing {
            newest: VecDeque::new(),
            slowest: BTreeMap::new(),
            arrivals: 0,
        }
    }

    /// Whether an op would be kept: asked first, because describing one allocates.
    pub(crate) fn wants(&self, timeline: &Timeline, verdict: &Verdict) -> bool {
        verdict.is_slow || self.is_among_slowest(timeline.duration_ns())
    }

    fn is_among_slowest(&self, duration_ns: u64) -> bool {
        let least = self.slowest.first_key_value();
        self.slowest.len() < SLOWEST || least.is_some_and(|((least, _), _)| duration_ns > *least)
    }

    pub(crate) fn keep(&mut self, duration_ns: u64, op: SlowOp) {
        if self.is_among_slowest(duration_ns) {
            self.arrivals += 1;
            self.slowest
                .insert((duration_ns, self.arrivals), op.clone());
            if self.slowest.len() > SLOWEST {
                self.slowest.pop_first();
            }
        }
        if op.is_slow {
            self.newest.push_front(op);
            self.newest.truncate(NEWEST);
        }
    }

    pub(crate) fn ops(&self) -> SlowOps {
        SlowOps {
            newest: self.newest.iter().cloned().collect(),
            slowest: self.slowest.values().rev().cloned().collect(),
        }
    }
}

/// Takes an op apart.
pub(crate) fn describe(
    timeline: &Timeline,
    verdict: &Verdict,
    anchor: &Anchor,
    error_name: fn(u16) -> &'static str,
) -> SlowOp {
    let us = |ns: u64| ns as f64 / 1e3;
    SlowOp {
        op: timeline.op,
        transport: timeline.transport,
        tier: timeline.tier(),
        outcome: timeline.outcome(),
        error: (timeline.error_code != 0).then(|| error_name(timeline.error_code).to_owned()),
        is_slow: verdict.is_slow,
        blame: verdict.blame,
        start_unix_ms: anchor.unix_ns(timeline.start) / 1_000_000,
        duration_us: us(timeline.duration_ns()),
        median_us: verdict.median_ns.map(us),
        entries: timeline.entries.total(),
        misses: u64::from(timeline.entries.miss),
        errors: u64::from(timeline.entries.error),
        bytes_in: timeline.bytes_in,
        bytes_out: timeline.bytes_out,
        key_hash: timeline.key_hash.map(|hash| format!("{hash:016x}")),
        connection_id: timeline.connection_id,
        drive_idx: timeline.drive_idx,
        io_count: timeline.io.count,
        device_sum_us: (timeline.io.count > 0).then(|| us(timeline.io.device_sum_ns)),
        device_max_us: (timeline.io.count > 0).then(|| us(timeline.io.device_max_ns)),
        trace_id: timeline
            .trace
            .is_valid()
            .then(|| hex(&timeline.trace.trace_id)),
        span_id: (timeline.span_id != [0; 8]).then(|| hex(&timeline.span_id)),
        is_probed: timeline.is_probed,
        stages: timeline
            .measured()
            .map(|(name, time)| StageBar {
                stage: name.to_owned(),
                start_us: us(time.start_ns),
                dur_us: us(time.dur_ns),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
