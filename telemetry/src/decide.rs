//! Which operations become spans: sampled ones by the caller's or our own decision, and the slow and the
//! failed always, each within a rate. A client also keeps its half of what the server said it keeps.

use std::time::Duration;

use crate::clock::Tick;
use crate::labels::{OutcomeLabel, SpanDecision};
use crate::slow::Verdict;
use crate::timeline::Timeline;

/// Lets `per_second` pass, and as many at once after a quiet second.
struct TokenBucket {
    per_second: f64,
    tokens: f64,
    filled: Tick,
}

impl TokenBucket {
    fn new(per_second: u32, now: Tick) -> TokenBucket {
        TokenBucket {
            per_second: per_second.into(),
            tokens: per_second.into(),
            filled: now,
        }
    }

    fn take(&mut self, now: Tick) -> bool {
        let elapsed = Duration::from_nanos(now.since(self.filled)).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.per_second);
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

/// Decides by the rates. Sampled ops have a bucket of their own, so that a client that samples
/// everything can't crowd out the slow and the failed.
pub(crate) struct Decider {
    sampled: TokenBucket,
    tail: TokenBucket,
}

impl Decider {
    pub(crate) fn new(spans_per_second: u32, now: Tick) -> Decider {
        let bucket = || TokenBucket::new(spans_per_second, now);
        Decider {
            sampled: bucket(),
            tail: bucket(),
        }
    }

    pub(crate) fn decide(
        &mut self,
        timeline: &Timeline,
        verdict: &Verdict,
        now: Tick,
    ) -> SpanDecision {
        let tail = match (timeline.outcome(), verdict.is_slow) {
            (OutcomeLabel::Error, _) => Some(SpanDecision::Failed),
            (_, true) => Some(SpanDecision::Slow),
            _ if timeline.is_kept_by_server => Some(SpanDecision::Server),
            _ => None,
        };
        let is_sampled = timeline.trace.is_sampled();
        match tail {
            Some(decision) if self.tail.take(now) => decision,
            _ if is_sampled && self.sampled.take(now) => SpanDecision::Sampled,
            None if !is_sampled => SpanDecision::Unsampled,
            _ => SpanDecision::Suppressed,
        }
    }
}

/// Whether the op's span is sent.
pub(crate) fn is_kept(decision: SpanDecision) -> bool {
    matches!(
        decision,
        SpanDecision::Sampled | SpanDecision::Slow | SpanDecision::Failed | SpanDecision::Server
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{OpKind, Tier, Transport};
    use crate::trace::TraceContext;

    const FAST: Verdict = Verdict {
        is_slow: false,
        blame: None,
        median_ns: None,
    };
    const SLOW: Verdict = Verdict {
        is_slow: true,
        blame: None,
        median_ns: None,
    };

    fn op(is_sampled: bool, outcome: OutcomeLabel) -> Timeline {
        let mut timeline = Timeline::begin(OpKind::Get, Transport::Tcp, Tick(0));
        timeline.trace = TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            flags: is_sampled.into(),
        };
        timeline.count(Tier::Ram, outcome, 1);
        timeline
    }

    #[test]
    fn sampled_slow_and_failed_ops_are_kept_and_others_not() {
        let mut decider = Decider::new(10, Tick(0));
        let mut check = |is_sampled, outcome, verdict, expected| {
            let decision = decider.decide(&op(is_sampled, outcome), &verdict, Tick(0));
            assert_eq!(decision, expected);
        };
        check(false, OutcomeLabel::Ok, FAST, SpanDecision::Unsampled);
        check(false, OutcomeLabel::Miss, FAST, SpanDecision::Unsampled);
        check(true, OutcomeLabel::Ok, FAST, SpanDecision::Sampled);
        check(false, OutcomeLabel::Ok, SLOW, SpanDecision::Slow);
        check(false, OutcomeLabel::Error, FAST, SpanDecision::Failed);
        check(true, OutcomeLabel::Error, SLOW, SpanDecision::Failed);
    }

    #[test]
    fn a_client_keeps_its_half_of_what_the_server_keeps() {
        let mut decider = Decider::new(1, Tick(0));
        let mut fast = op(false, OutcomeLabel::Ok);
        fast.is_kept_by_server = true;
        let decision = decider.decide(&fast, &FAST, Tick(0));
        assert_eq!(decision, SpanDecision::Server);
        assert!(is_kept(decision));
        let decision = decider.decide(&fast, &FAST, Tick(0));
        assert_eq!(
            decision,
            SpanDecision::Suppressed,
            "the rate holds for it too"
        );
    }

    #[test]
    fn sampled_ops_dont_crowd_out_the_slow_ones() {
        let mut decider = Decider::new(5, Tick(0));
        let (sampled, slow) = (op(true, OutcomeLabel::Ok), op(false, OutcomeLabel::Ok));
        let decisions: Vec<_> = (0..7)
            .map(|_| decider.decide(&sampled, &FAST, Tick(0)))
            .collect();
        assert_eq!(decisions[..5], [SpanDecision::Sampled; 5]);
        assert_eq!(decisions[5..], [SpanDecision::Suppressed; 2]);
        assert_eq!(decider.decide(&slow, &SLOW, Tick(0)), SpanDecision::Slow);
    }

    #[test]
    fn a_sampled_op_is_kept_as_such_where_slow_ones_have_used_up_their_rate() {
        let mut decider = Decider::new(1, Tick(0));
        let slow = op(false, OutcomeLabel::Ok);
        assert_eq!(decider.decide(&slow, &SLOW, Tick(0)), SpanDecision::Slow);
        let decision = decider.decide(&slow, &SLOW, Tick(0));
        assert_eq!(decision, SpanDecision::Suppressed);
        let both = op(true, OutcomeLabel::Error);
        let decision = decider.decide(&both, &SLOW, Tick(0));
        assert_eq!(decision, SpanDecision::Sampled);
    }

    #[test]
    fn a_part_of_a_token_lets_nothing_pass() {
        let mut decider = Decider::new(1, Tick(0));
        let slow = op(false, OutcomeLabel::Ok);
        let mut kept = |at_ms: u64| is_kept(decider.decide(&slow, &SLOW, Tick(at_ms * 1_000_000)));
        assert!(kept(0));
        assert!(!kept(900));
        assert!(kept(1_800), "what came in between isn't lost either");
    }

    #[test]
    fn the_rate_refills_with_time_and_never_beyond_a_second() {
        let mut decider = Decider::new(4, Tick(0));
        let slow = op(false, OutcomeLabel::Ok);
        let mut kept = |at_ms: u64| {
            let now = Tick(at_ms * 1_000_000);
            (0..100)
                .filter(|_| is_kept(decider.decide(&slow, &SLOW, now)))
                .count()
        };
        assert_eq!(kept(0), 4);
        assert_eq!(kept(500), 2);
        assert_eq!(kept(60_000), 4);
    }
}
