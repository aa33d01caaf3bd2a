//! The Timeline: what one operation did and when, as plain data.
//!
//! The thread that serves an op owns its Timeline, stamps stages for a few nanoseconds each, and hands
//! it to its recorder at the end. Nothing is allocated and nothing is shared. A stage that wasn't
//! measured is absent, never 0.

use crate::clock::Tick;
use crate::labels::{OpKind, OutcomeLabel, Stage, Step, Tier, Transport};
use crate::slow::SlowPolicy;
use crate::trace::TraceContext;

/// Whether a Timeline has a server's stages or a client's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its slots are [`Stage`]s.
    Server,
    /// Its slots are [`Step`]s.
    Client,
}

/// When a stage began, and how long it took in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// ns from the op's start to the stage's first start.
    pub start_ns: u64,
    /// ns in the stage, all its parts together.
    pub dur_ns: u64,
}

impl StageTime {
    const ABSENT: StageTime = StageTime {
        start_ns: u64::MAX,
        dur_ns: 0,
    };
}

/// How many entries of an op ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Served from or stored in RAM.
    pub ram: u32,
    /// Served from or stored on a drive.
    pub drive: u32,
    /// Done without touching a value.
    pub done: u32,
    /// Not there.
    pub miss: u32,
    /// Failed.
    pub error: u32,
}

impl EntryCounts {
    /// Adds `n` entries. A miss or an error has no tier, because nothing was served.
    #[inline]
    pub fn add(&mut self, tier: Tier, outcome: OutcomeLabel, n: u32) {
        let count = match (outcome, tier) {
            (OutcomeLabel::Error, _) => &mut self.error,
            (OutcomeLabel::Miss, _) => &mut self.miss,
            (OutcomeLabel::Ok, Tier::Ram) => &mut self.ram,
            (OutcomeLabel::Ok, Tier::Drive) => &mut self.drive,
            (OutcomeLabel::Ok, Tier::None) => &mut self.done,
        };
        *count = count.saturating_add(n);
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.hits() + u64::from(self.miss) + u64::from(self.error)
    }

    /// Those that ended well.
    pub fn hits(&self) -> u64 {
        u64::from(self.ram) + u64::from(self.drive) + u64::from(self.done)
    }
}

/// An op's I/Os in numbers: its stages are those of the I/O that completed last, so a batch shows here
/// what the others were like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoTotals {
    /// How many there were.
    pub count: u32,
    /// ns in the device, over all of them; they overlap.
    pub device_sum_ns: u64,
    /// ns in the device of the longest one.
    pub device_max_ns: u64,
}

/// One operation's record.
#[derive(Clone, Copy, Debug)]
pub struct Timeline {
    /// What it did.
    pub op: OpKind,
    /// What carried it.
    pub transport: Transport,
    /// Whose record it is.
    pub role: Role,
    /// Whether queue, device and complete are the kernel's times. Without, device runs from submission
    /// to completion as seen by our thread.
    pub is_probed: bool,
    /// Whether the whole op failed or one of its entries did.
    pub is_failed: bool,
    /// Client: the reply said that the server keeps its half ([`Timeline::is_kept_hint`]).
    pub is_kept_by_server: bool,
    /// Wire code of the first error; 0 where there was none.
    pub error_code: u16,
    /// The drive of its last-completing I/O.
    pub drive_idx: Option<u16>,
    /// Position of the server it went to in the client's configuration.
    pub server_idx: u16,
    /// Its I/Os.
    pub io: IoTotals,
    /// What its entries came to.
    pub entries: EntryCounts,
    /// The connection it came over.
    pub connection_id: u64,
    /// Hash of its (first) key; the key itself is never kept.
    pub key_hash: Option<u64>,
    /// Value bytes from the client.
    pub bytes_in: u64,
    /// Value bytes to the client.
    pub bytes_out: u64,
    /// The trace it belongs to, with the parent's span id; not valid where there is none.
    pub trace: TraceContext,
    /// The id its own span has if it is kept; what a reply carries.
    pub span_id: [u8; 8],
    /// When it began.
    pub start: Tick,
    /// When it ended; equal to `start` until then.
    pub end: Tick,
    stages: [StageTime; Stage::COUNT],
}

impl Timeline {
    /// A server's op that began at `start`, with nothing measured yet.
    #[inline]
    pub fn begin(op: OpKind, transport: Transport, start: Tick) -> Timeline {
        Timeline {
            op,
            transport,
            role: Role::Server,
            is_probed: false,
            is_failed: false,
            is_kept_by_server: false,
            error_code: 0,
            drive_idx: None,
            io: IoTotals::default(),
            server_idx: 0,
            entries: EntryCounts::default(),
            connection_id: 0,
            key_hash: None,
            bytes_in: 0,
            bytes_out: 0,
            trace: TraceContext::default(),
            span_id: [0; 8],
            start,
            end: start,
            stages: [StageTime::ABSENT; Stage::COUNT],
        }
    }

    /// A client's op that began at `start`, with nothing measured yet.
    #[inline]
    pub fn begin_client(op: OpKind, transport: Transport, start: Tick) -> Timeline {
        Timeline {
            role: Role::Client,
            ..Timeline::begin(op, transport, start)
        }
    }

    /// Adds the time between two ticks to a stage; several stamps of a stage add up, and its start is the
    /// first one's. What lies before the op's start counts from there on.
    #[inline]
    pub fn stamp(&mut self, stage: Stage, from: Tick, to: Tick) {
        debug_assert_eq!(self.role, Role::Server);
        self.stamp_slot(stage.idx(), from, to);
    }

    /// The same for a client's step.
    #[inline]
    pub fn stamp_step(&mut self, step: Step, from: Tick, to: Tick) {
        debug_assert_eq!(self.role, Role::Client);
        self.stamp_slot(step.idx(), from, to);
    }

    #[inline]
    fn stamp_slot(&mut self, idx: usize, from: Tick, to: Tick) {
        let slot = &mut self.stages[idx];
        slot.start_ns = slot.start_ns.min(from.since(self.start));
        slot.dur_ns += to.since(from.max(self.start));
    }

    /// Adds nanoseconds to a stage that began at `from`: for times that others measured.
    #[inline]
    pub fn add(&mut self, stage: Stage, from: Tick, dur_ns: u64) {
        self.stamp(stage, from, Tick(from.0.saturating_add(dur_ns)));
    }

    /// Sets a stage to `dur_ns` from `from` on, whatever it was: for the I/O that completed last, which
    /// stands for all I/Os of a batch. Their times would add up to more than the op took.
    #[inline]
    pub fn replace(&mut self, stage: Stage, from: Tick, dur_ns: u64) {
        self.stages[stage.idx()] = StageTime::ABSENT;
        self.add(stage, from, dur_ns);
    }

    /// Counts `count` I/Os whose last one was `device_ns` in the device.
    #[inline]
    pub fn count_io(&mut self, count: u32, device_ns: u64) {
        self.io.count = self.io.count.saturating_add(count);
        self.io.device_sum_ns = self.io.device_sum_ns.saturating_add(device_ns);
        self.io.device_max_ns = self.io.device_max_ns.max(device_ns);
    }

    /// A stage's time; `None` where it wasn't measured.
    pub fn stage(&self, stage: Stage) -> Option<StageTime> {
        (self.role == Role::Server)
            .then(|| self.slot(stage.idx()))
            .flatten()
    }

    /// A step's time; `None` where it wasn't measured.
    pub fn step(&self, step: Step) -> Option<StageTime> {
        (self.role == Role::Client)
            .then(|| self.slot(step.idx()))
            .flatten()
    }

    #[inline]
    pub(crate) fn slot(&self, idx: usize) -> Option<StageTime> {
        let time = self.stages[idx];
        (time != StageTime::ABSENT).then_some(time)
    }

    /// What was measured, with each stage's or step's name, in their order.
    pub fn measured(&self) -> impl Iterator<Item = (&'static str, StageTime)> + '_ {
        let names = match self.role {
            Role::Server => Stage::NAMES,
            Role::Client => Step::NAMES,
        };
        names
            .iter()
            .enumerate()
            .filter_map(|(idx, name)| Some((*name, self.slot(idx)?)))
    }

    /// Counts `n` entries; an error also fails the op.
    #[inline]
    pub fn count(&mut self, tier: Tier, outcome: OutcomeLabel, n: u32) {
        self.entries.add(tier, outcome, n);
        self.is_failed |= outcome == OutcomeLabel::Error && n > 0;
    }

    /// Marks the op as failed with a wire code (the first one stays).
    #[inline]
    pub fn fail(&mut self, error_code: u16) {
        self.is_failed = true;
        if self.error_code == 0 {
            self.error_code = error_code;
        }
    }

    /// Sets the end.
    #[inline]
    pub fn finish(&mut self, end: Tick) {
        self.end = end.max(self.start);
    }

    /// Whether it is known at `now`, before the reply is sent, that this op is one to keep: it failed, or is
    /// above its fixed bound already. Plain arithmetic, no look at the clock.
    ///
    /// A server says so in its reply, and the client sets [`Timeline::is_kept_by_server`], so that a slow op's
    /// trace has both halves. It is a hint: being slow against the median is only judged later, and the rate
    /// cap may still suppress either half.
    #[inline]
    pub fn is_kept_hint(&self, policy: &SlowPolicy, now: Tick) -> bool {
        self.outcome() == OutcomeLabel::Error
            || now.since(self.start) > policy.bound_ns(self.bytes())
    }

    /// ns from start to end.
    #[inline]
    pub fn duration_ns(&self) -> u64 {
        self.end.since(self.start)
    }

    /// How the op ended: as its worst entry.
    #[inline]
    pub fn outcome(&self) -> OutcomeLabel {
        if self.is_failed || self.entries.error > 0 {
            OutcomeLabel::Error
        } else if self.entries.miss > 0 {
            OutcomeLabel::Miss
        } else {
            OutcomeLabel::Ok
        }
    }

    /// The slowest tier that served; none unless all went well, so that a tier's times aren't those of
    /// misses.
    #[inline]
    pub fn tier(&self) -> Tier {
        if self.outcome() != OutcomeLabel::Ok {
            Tier::None
        } else if self.entries.drive > 0 {
            Tier::Drive
        } else if self.entries.ram > 0 {
            Tier::Ram
        } else {
            Tier::None
        }
    }

    /// Value bytes both ways.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes_in.saturating_add(self.bytes_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        Timeline::begin(OpKind::Get, Transport::Tcp, Tick(1_000))
    }

    #[test]
    fn an_unmeasured_stage_is_absent_and_a_measured_zero_is_not() {
        let mut timeline = timeline();
        timeline.stamp(Stage::Index, Tick(1_200), Tick(1_200));
        assert_eq!(
            timeline.stage(Stage::Index),
            Some(StageTime {
                start_ns: 200,
                dur_ns: 0
            })
        );
        assert_eq!(timeline.stage(Stage::Device), None);
        assert_eq!(timeline.measured().count(), 1);
    }

    #[test]
    fn stamps_of_one_stage_add_up_and_keep_the_first_start() {
        let mut timeline = timeline();
        timeline.stamp(Stage::Transfer, Tick(1_100), Tick(1_150));
        timeline.stamp(Stage::Transfer, Tick(1_300), Tick(1_400));
        assert_eq!(
            timeline.stage(Stage::Transfer),
            Some(StageTime {
                start_ns: 100,
                dur_ns: 150
            })
        );
    }

    #[test]
    fn the_io_that_completed_last_stands_for_the_batch() {
        let mut timeline = timeline();
        for (from, dur_ns) in [(1_100, 700), (1_200, 900)] {
            timeline.replace(Stage::Device, Tick(from), dur_ns);
            timeline.count_io(1, dur_ns);
        }
        assert_eq!(
            timeline.stage(Stage::Device),
            Some(StageTime {
                start_ns: 200,
                dur_ns: 900
            })
        );
        let totals = IoTotals {
            count: 2,
            device_sum_ns: 1_600,
            device_max_ns: 900,
        };
        assert_eq!(timeline.io, totals);
    }

    #[test]
    fn times_before_the_start_or_backwards_dont_underflow() {
        let mut timeline = timeline();
        timeline.stamp(Stage::Receive, Tick(900), Tick(1_100));
        timeline.stamp(Stage::Reply, Tick(1_300), Tick(1_200));
        timeline.finish(Tick(10));
        assert_eq!(
            timeline.stage(Stage::Receive),
            Some(StageTime {
                start_ns: 0,
                dur_ns: 100
            })
        );
        assert_eq!(
            timeline.stage(Stage::Reply),
            Some(StageTime {
                start_ns: 300,
                dur_ns: 0
            })
        );
        assert_eq!(timeline.duration_ns(), 0);
    }

    #[test]
    fn an_op_ends_as_its_worst_entry() {
        let mut timeline = timeline();
        timeline.count(Tier::Ram, OutcomeLabel::Ok, 60);
        assert_eq!(
            (timeline.tier(), timeline.outcome()),
            (Tier::Ram, OutcomeLabel::Ok)
        );
        timeline.count(Tier::Drive, OutcomeLabel::Ok, 2);
        assert_eq!(
            (timeline.tier(), timeline.outcome()),
            (Tier::Drive, OutcomeLabel::Ok)
        );
        timeline.count(Tier::Drive, OutcomeLabel::Miss, 1);
        assert_eq!(
            (timeline.tier(), timeline.outcome()),
            (Tier::None, OutcomeLabel::Miss)
        );
        timeline.count(Tier::Drive, OutcomeLabel::Error, 1);
        assert_eq!(
            (timeline.tier(), timeline.outcome()),
            (Tier::None, OutcomeLabel::Error)
        );
        assert_eq!(timeline.entries.total(), 64);
    }

    #[test]
    fn the_first_error_names_a_failure() {
        let mut timeline = timeline();
        assert_eq!(timeline.error_code, 0);
        timeline.fail(7);
        timeline.fail(9);
        assert_eq!(timeline.error_code, 7);
        assert_eq!(timeline.outcome(), OutcomeLabel::Error);
    }

    #[test]
    fn a_failed_op_and_one_above_its_bound_are_to_be_kept_before_the_reply_is_sent() {
        let policy = SlowPolicy::default();
        let hint = |bytes_out, after_ms: u64, is_failed| {
            let mut timeline = timeline();
            timeline.bytes_out = bytes_out;
            timeline.is_failed = is_failed;
            let now = timeline
                .start
                .after(std::time::Duration::from_millis(after_ms));
            timeline.is_kept_hint(&policy, now)
        };
        assert!(!hint(1024, 9, false));
        assert!(hint(1024, 11, false), "above 10 ms");
        assert!(!hint(64 << 20, 70, false), "64 MiB may take 74 ms");
        assert!(hint(64 << 20, 75, false));
        assert!(hint(1024, 0, true));
    }

    #[test]
    fn the_record_stays_small() {
        assert!(
            size_of::<Timeline>() <= 320,
            "{} bytes",
            size_of::<Timeline>()
        );
    }
}
