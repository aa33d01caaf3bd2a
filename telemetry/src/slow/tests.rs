use super::*;
use crate::clock::Tick;

/// A GET of 4 KiB with these stage times in µs, one after the other, that took `total_us`.
fn get(total_us: u64, stages: &[(Stage, u64)]) -> Timeline {
    let mut timeline = Timeline::begin(OpKind::Get, Transport::Tcp, Tick(1_000_000));
    let mut at = timeline.start;
    for (stage, us) in stages {
        let to = at.after(Duration::from_micros(*us));
        timeline.stamp(*stage, at, to);
        at = to;
    }
    timeline.count(Tier::Drive, OutcomeLabel::Ok, 1);
    timeline.bytes_out = 4096;
    timeline.key_hash = Some(0xabc);
    timeline.finish(timeline.start.after(Duration::from_micros(total_us)));
    timeline
}

/// A judge that has seen 200 ops of 100 µs, 60 of them in the drive.
fn seasoned() -> Judge {
    let mut judge = Judge::new(SlowPolicy::default());
    for _ in 0..200 {
        let stages = [
            (Stage::Receive, 10),
            (Stage::Index, 5),
            (Stage::Device, 60),
            (Stage::Reply, 20),
        ];
        judge.judge(&get(100, &stages));
    }
    judge
}

fn check_blame(stages: &[(Stage, u64)], expected: Blame) {
    let verdict = seasoned().judge(&get(20_000, stages));
    assert!(verdict.is_slow);
    assert_eq!(verdict.blame, Some(expected), "{stages:?}");
}

#[test]
fn blame_goes_to_what_explains_most_of_the_excess() {
    check_blame(
        &[(Stage::Device, 19_000), (Stage::Reply, 900)],
        Blame::Device,
    );
    check_blame(
        &[(Stage::Lease, 18_000), (Stage::Device, 1_500)],
        Blame::SlabWait,
    );
    check_blame(
        &[(Stage::Admit, 18_000), (Stage::Device, 1_500)],
        Blame::Credit,
    );
    check_blame(
        &[(Stage::Receive, 9_000), (Stage::Reply, 9_000)],
        Blame::Peer,
    );
    check_blame(
        &[(Stage::Queue, 15_000), (Stage::Device, 4_000)],
        Blame::BlockQueue,
    );
    check_blame(&[(Stage::Index, 15_000)], Blame::Cpu);
}

#[test]
fn every_stage_has_somebody_to_blame() {
    let expected = [
        (Stage::Receive, Blame::Peer),
        (Stage::Verify, Blame::Cpu),
        (Stage::Admit, Blame::Credit),
        (Stage::Lease, Blame::SlabWait),
        (Stage::Index, Blame::Cpu),
        (Stage::Transfer, Blame::Peer),
        (Stage::Queue, Blame::BlockQueue),
        (Stage::Device, Blame::Device),
        (Stage::Complete, Blame::Cpu),
        (Stage::Reply, Blame::Peer),
    ];
    assert_eq!(expected.len(), Stage::COUNT);
    for (stage, blame) in expected {
        check_blame(&[(stage, 19_900)], blame);
    }
}

#[test]
fn what_a_stage_usually_takes_is_not_what_made_an_op_slow() {
    // 60 ms in the drive are the rule; 50 ms for memory are not.
    let mut judge = Judge::new(SlowPolicy::default());
    for _ in 0..200 {
        judge.judge(&get(60_100, &[(Stage::Device, 60_000)]));
    }
    let verdict = judge.judge(&get(
        110_200,
        &[(Stage::Device, 60_000), (Stage::Lease, 50_000)],
    ));
    assert_eq!(verdict.blame, Some(Blame::SlabWait));
}

#[test]
fn a_clients_steps_blame_nobody() {
    let mut timeline = Timeline::begin_client(OpKind::Get, Transport::Tcp, Tick(0));
    // Nothing accounts for most of it: in a server that would be the processor's.
    timeline.stamp_step(crate::labels::Step::Queue, Tick(0), Tick(1_000));
    timeline.finish(Tick(1_000_000_000));
    let verdict = Judge::new(SlowPolicy::default()).judge(&timeline);
    assert_eq!(verdict.blame, Some(Blame::Unknown));
}

#[test]
fn a_median_is_of_one_kind_of_op_and_of_one_size_class() {
    let mut judge = Judge::new(SlowPolicy::default());
    let mut of = |op, bytes, us| {
        let mut timeline = get(us, &[]);
        (timeline.op, timeline.bytes_out) = (op, bytes);
        judge.judge(&timeline).median_ns
    };
    for n in 0..200 {
        let known = of(OpKind::Get, 4096, 100);
        assert_eq!(
            known.is_some(),
            n >= 128,
            "looked at every 64 ops, from 100 on"
        );
    }
    assert_eq!(of(OpKind::Put, 4096, 100), None, "another op");
    // Up to 4 KiB, 64 KiB, 1 MiB and 16 MiB, and above: each edge belongs to the class below it.
    let edges = [4 << 10, 64 << 10, 1 << 20, 16 << 20];
    assert!(of(OpKind::Get, 1, 100).is_some());
    for edge in edges {
        assert!(of(OpKind::Get, edge, 100).is_some(), "{edge} bytes");
        assert_eq!(of(OpKind::Get, edge + 1, 100), None, "{edge} bytes and one");
        (0..200).for_each(|_| _ = of(OpKind::Get, edge + 1, 100));
    }
    assert!(of(OpKind::Get, 1 << 40, 100).is_some());
}

#[test]
fn time_that_no_stage_accounts_for_is_the_processors() {
    check_blame(&[(Stage::Device, 60)], Blame::Cpu);
}

#[test]
fn before_a_median_is_known_blame_goes_to_what_took_most() {
    let mut judge = Judge::new(SlowPolicy::default());
    for _ in 0..2 {
        let verdict = judge.judge(&get(1_920_000, &[(Stage::Reply, 1_860_000)]));
        assert!(verdict.is_slow);
        assert_eq!(verdict.median_ns, None);
        assert_eq!(verdict.blame, Some(Blame::Peer));
    }
    let verdict = judge.judge(&get(20_000, &[(Stage::Device, 60)]));
    assert_eq!(verdict.blame, Some(Blame::Cpu));
}

#[test]
fn blame_is_unknown_where_nothing_explains_half() {
    let stages = [
        (Stage::Device, 7_000),
        (Stage::Lease, 7_000),
        (Stage::Reply, 6_000),
    ];
    check_blame(&stages, Blame::Unknown);
}

#[test]
fn the_fixed_bound_grows_with_the_size() {
    let mut judge = Judge::new(SlowPolicy::default());
    assert!(!judge.judge(&get(9_999, &[])).is_slow);
    assert!(judge.judge(&get(10_100, &[])).is_slow);
    let mut large = get(13_900, &[]);
    large.bytes_out = 4 << 20;
    assert!(!judge.judge(&large).is_slow);
    large.finish(large.start.after(Duration::from_micros(14_100)));
    assert!(judge.judge(&large).is_slow);
}

#[test]
fn eight_times_the_median_is_slow_once_the_median_is_known() {
    let mut fresh = Judge::new(SlowPolicy::default());
    assert!(!fresh.judge(&get(1_000, &[])).is_slow);
    let mut judge = seasoned();
    assert!(!judge.judge(&get(700, &[])).is_slow);
    assert!(judge.judge(&get(900, &[])).is_slow);
    let mut off = Judge::new(SlowPolicy {
        times_median: None,
        ..SlowPolicy::default()
    });
    (0..200).for_each(|_| _ = off.judge(&get(100, &[])));
    assert!(!off.judge(&get(5_000, &[])).is_slow);
}

#[test]
fn the_median_follows_the_load() {
    let mut judge = seasoned();
    // More than what comes after, so that only forgetting lets the median move.
    (0..4 * WINDOW_OPS).for_each(|_| _ = judge.judge(&get(100, &[])));
    (0..3 * WINDOW_OPS).for_each(|_| _ = judge.judge(&get(1_000, &[])));
    let verdict = judge.judge(&get(1_000, &[]));
    let median = verdict.median_ns.unwrap();
    assert!((990_000..1_070_000).contains(&median), "{median}");
    assert!(!verdict.is_slow);
}

#[test]
fn failed_ops_dont_lower_the_median() {
    let mut judge = seasoned();
    for _ in 0..2 * WINDOW_OPS {
        let mut refused = get(2, &[]);
        refused.fail(1);
        judge.judge(&refused);
    }
    assert!(judge.judge(&get(100, &[])).median_ns.unwrap() > 90_000);
}

#[test]
fn the_ring_keeps_the_newest_slow_and_the_slowest_of_all() {
    let mut ring = SlowRing::new();
    let anchor = Anchor::take();
    let mut offer = |total_us: u64, is_slow: bool| {
        let verdict = Verdict {
            is_slow,
            blame: None,
            median_ns: None,
        };
        let timeline = get(total_us, &[]);
        if ring.wants(&timeline, &verdict) {
            ring.keep(
                timeline.duration_ns(),
                describe(&timeline, &verdict, &anchor, |_| "x"),
            );
        }
    };
    (1..=1000).for_each(|us| offer(us, us % 2 == 0));
    offer(1000, false);
    offer(5, true);
    let ops = ring.ops();
    assert_eq!(ops.newest.len(), NEWEST);
    assert_eq!(ops.newest[0].duration_us, 5.0);
    assert_eq!(ops.slowest.len(), SLOWEST);
    // Two that took as long are two.
    assert_eq!(ops.slowest[0].duration_us, 1000.0);
    assert_eq!(ops.slowest[1].duration_us, 1000.0);
    assert_eq!(
        ops.slowest[SLOWEST - 1].duration_us,
        1000.0 - (SLOWEST - 2) as f64
    );
}

#[test]
fn a_slow_op_survives_json_and_shows_no_unmeasured_stage() {
    let mut timeline = get(12_000, &[(Stage::Receive, 2_000), (Stage::Device, 9_000)]);
    timeline.fail(7);
    let verdict = Verdict {
        is_slow: true,
        blame: Some(Blame::Device),
        median_ns: Some(100_000),
    };
    let op = describe(&timeline, &verdict, &Anchor::take(), |_| "corrupt");
    assert_eq!(op.stages.len(), 2);
    assert_eq!(op.error.as_deref(), Some("corrupt"));
    assert_eq!(op.key_hash.as_deref(), Some("0000000000000abc"));
    assert_eq!(op.bars(12), [("receive", 0, 2), ("device", 2, 9)]);
}

#[test]
fn a_slow_op_is_drawn_as_bars() {
    let timeline = get(12_000, &[(Stage::Receive, 2_000), (Stage::Device, 9_000)]);
    let verdict = Verdict {
        is_slow: true,
        blame: Some(Blame::Device),
        median_ns: Some(100_000),
    };
    let op = describe(&timeline, &verdict, &Anchor::take(), |_| "");
    expect_test::expect![[r#"
        GET 12.0 ms (usually 100 µs), blame: device
          1 entry, 4096 bytes, tier drive, ok
          receive  ██             2.00 ms  17 %
          device     █████████    9.00 ms  75 %
    "#]]
    .assert_eq(&op.render(12));
}
