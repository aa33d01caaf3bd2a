//! The telemetry thread: drains the rings, judges each Timeline and hands on what is kept.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Hub;
use crate::clock::{self, Anchor};
use crate::decide::{Decider, is_kept};
use crate::labels::Blame;
use crate::metrics;
use crate::recorder::Shard;
use crate::slow::{Judge, describe};
use crate::snapshot::Exemplar;
use crate::span::Kept;
use crate::timeline::Timeline;

/// How long the telemetry thread sleeps between looks at the rings.
const DRAIN_EVERY: Duration = Duration::from_millis(20);

/// The telemetry thread's state.
pub(super) struct Drain {
    judge: Judge,
    decider: Decider,
    anchor: Anchor,
    synced: Instant,
}

impl Drain {
    pub(super) fn new(hub: &Hub) -> Drain {
        Drain {
            judge: Judge::new(hub.config.slow),
            decider: Decider::new(hub.config.spans_per_second, clock::now()),
            anchor: Anchor::take(),
            synced: Instant::now(),
        }
    }

    pub(super) fn run(mut self, hub: &Hub) {
        loop {
            let is_stopping = hub.stop.load(Ordering::Acquire);
            if self.synced.elapsed() >= Duration::from_secs(1) {
                clock::resync();
                self.anchor = Anchor::take();
                self.synced = Instant::now();
            }
            for shard in hub.recorders.shards() {
                // Not more than was there: one busy thread must not keep the others' rings full.
                for _ in 0..shard.ring.capacity() {
                    let Some(timeline) = shard.ring.pop() else {
                        break;
                    };
                    self.take(hub, &timeline);
                }
            }
            if is_stopping {
                return;
            }
            std::thread::park_timeout(DRAIN_EVERY);
        }
    }

    fn take(&mut self, hub: &Hub, timeline: &Timeline) {
        let verdict = self.judge.judge(timeline);
        if let Some(blame) = verdict.blame {
            hub.slow_ops
                .add(timeline.op.idx() * Blame::COUNT + blame.idx(), 1);
        }
        let mut slow_ring = hub.slow_ring.lock();
        if slow_ring.wants(timeline, &verdict) {
            let op = describe(timeline, &verdict, &self.anchor, hub.config.error_name);
            slow_ring.keep(timeline.duration_ns(), op);
        }
        drop(slow_ring);
        let decision = self.decider.decide(timeline, &verdict, timeline.end);
        hub.spans.add(decision.idx(), 1);
        if !is_kept(decision) || !timeline.trace.is_valid() {
            return;
        }
        if let Some(worker) = &hub.span_worker {
            let anchor = self.anchor;
            worker.offer(Kept {
                timeline: *timeline,
                decision,
                blame: verdict.blame,
                anchor,
            });
        }
        // A trace that nobody recorded is no use as an exemplar.
        let is_recorded = hub.span_worker.is_some() || timeline.trace.is_sampled();
        if is_recorded {
            hub.note_exemplar(timeline, &self.anchor);
        }
    }
}

impl Hub {
    fn note_exemplar(&self, timeline: &Timeline, anchor: &Anchor) {
        let seconds = timeline.duration_ns() as f64 / 1e9;
        // The bounds of the server's and of the client's op histogram are the same.
        let bucket = metrics::FINE_SECONDS.partition_point(|bound| *bound < seconds);
        let exemplar = Exemplar {
            trace_id: timeline.trace.trace_id,
            span_id: timeline.span_id,
            value: seconds,
            unix_ms: anchor.unix_ns(timeline.end) / 1_000_000,
        };
        self.exemplars
            .lock()
            .insert((Shard::duration_idx(timeline), bucket), exemplar);
    }
}
