use super::*;

fn op(recorder: &mut Recorder) -> Timeline {
    let mut timeline = recorder.begin(OpKind::BatchRead, Transport::Tcp, Tick(0), None);
    timeline.count(Tier::Ram, OutcomeLabel::Ok, 3);
    timeline.count(Tier::Drive, OutcomeLabel::Ok, 1);
    timeline.stamp(Stage::Index, Tick(10), Tick(20));
    timeline.bytes_out = 4096;
    timeline.finish(Tick(5_000));
    timeline
}

#[test]
fn an_op_is_counted_once_in_each_of_its_series() {
    let recorders = Recorders::new(Role::Server, 0.0, 8);
    let mut recorder = recorders.recorder();
    let timeline = op(&mut recorder);
    recorder.record(&timeline);
    let shard = &recorders.shards()[0];
    let durations = shard.op_duration.family();
    assert_eq!(durations.samples.len(), 1);
    assert_eq!(
        durations.samples[0].labels,
        ["batch_read", "tcp", "drive", "ok"]
    );
    let stages = shard.stage_duration.family();
    assert_eq!(stages.samples.len(), 1, "only what was measured");
    assert_eq!(stages.samples[0].labels, ["batch_read", "index"]);
    assert_eq!(shard.entries.numbers().sum::<f64>(), 4.0);
    assert_eq!(shard.bytes.numbers().sum::<f64>(), 4096.0);
}

#[test]
fn a_dropped_recorders_counts_stay_and_its_memory_is_used_again() {
    let recorders = Recorders::new(Role::Server, 0.0, 8);
    for _ in 0..3 {
        let mut recorder = recorders.recorder();
        let timeline = op(&mut recorder);
        recorder.record(&timeline);
    }
    assert_eq!(recorders.shards().len(), 1);
    assert_eq!(recorders.shards()[0].entries.numbers().sum::<f64>(), 12.0);
}

#[test]
fn an_op_without_a_caller_has_a_trace_of_its_own() {
    let mut recorder = Recorders::new(Role::Server, 1.0, 8).recorder();
    let timeline = recorder.begin(OpKind::Get, Transport::Tcp, Tick(0), None);
    assert!(timeline.trace.is_valid() && timeline.trace.is_sampled());
    assert_eq!(timeline.trace.span_id, [0; 8]);
    let caller = TraceContext {
        trace_id: [7; 16],
        span_id: [8; 8],
        flags: 0,
    };
    let timeline = recorder.begin(OpKind::Get, Transport::Tcp, Tick(0), Some(caller));
    assert_eq!(timeline.trace, caller);
    assert_ne!(timeline.span_id, [0; 8]);
}

#[test]
fn a_context_that_names_no_trace_is_none() {
    let mut recorder = Recorders::new(Role::Server, 1.0, 8).recorder();
    let nothing = TraceContext {
        span_id: [8; 8],
        ..TraceContext::default()
    };
    let timeline = recorder.begin(OpKind::Get, Transport::Tcp, Tick(0), Some(nothing));
    assert!(timeline.trace.is_valid());
    assert_eq!(timeline.trace.span_id, [0; 8], "it has no parent");
}

#[test]
fn recorders_in_use_share_no_ring_and_no_count() {
    let recorders = Recorders::new(Role::Server, 0.0, 2);
    let mut two = [recorders.recorder(), recorders.recorder()];
    for recorder in &mut two {
        for _ in 0..2 {
            let timeline = op(recorder);
            recorder.record(&timeline);
        }
    }
    assert_eq!(recorders.lost(), 0, "each ring holds two");
    let shards = recorders.shards();
    let entries = shards.iter().map(|shard| shard.entries.numbers().sum());
    assert_eq!(entries.collect::<Vec<f64>>(), [8.0, 8.0]);
}

#[test]
fn a_ring_that_is_half_full_wakes_who_drains_it() {
    let recorders = Recorders::new(Role::Server, 0.0, 8);
    recorders.0.drainer.set(std::thread::current()).unwrap();
    let mut recorder = recorders.recorder();
    let patience = std::time::Duration::from_secs(60);
    let started = std::time::Instant::now();
    for _ in 0..4 {
        let timeline = op(&mut recorder);
        recorder.record(&timeline);
    }
    std::thread::park_timeout(patience);
    assert!(started.elapsed() < patience, "nobody woke it");
}

#[test]
fn an_entry_without_a_value_has_no_tier() {
    let recorders = Recorders::new(Role::Server, 0.0, 8);
    let mut recorder = recorders.recorder();
    let mut timeline = recorder.begin(OpKind::Exists, Transport::Tcp, Tick(0), None);
    timeline.count(Tier::None, OutcomeLabel::Ok, 3);
    recorder.record(&timeline);
    let family = recorders.shards()[0].entries.family();
    let counted = |sample: &&crate::snapshot::Sample| matches!(sample.value, crate::snapshot::Value::Number(n) if n == 3.0);
    let labels: Vec<_> = family
        .samples
        .iter()
        .filter(counted)
        .map(|sample| &sample.labels[..])
        .collect();
    assert_eq!(labels, [["exists", "none", "ok"]]);
}

#[test]
fn the_ratio_changes_for_recorders_in_use() {
    let recorders = Recorders::new(Role::Server, 0.0, 8);
    let mut recorder = recorders.recorder();
    let mut is_sampled = || {
        recorder
            .begin(OpKind::Get, Transport::Tcp, Tick(0), None)
            .trace
            .is_sampled()
    };
    assert!(!is_sampled());
    recorders.set_sample_ratio(1.0);
    assert!(is_sampled());
}

#[test]
fn a_recorder_that_is_off_records_nothing_of_either_role() {
    let recorders = Recorders::off();
    let mut recorder = recorders.recorder();
    assert!(!recorder.is_recording());
    let server_op = op(&mut recorder);
    let client_op = recorder.begin_client(OpKind::Get, Transport::Tcp, Tick(0), None);
    for timeline in [server_op, client_op] {
        assert!(!timeline.trace.is_valid());
        (0..10).for_each(|_| recorder.record(&timeline));
    }
    let shard = &recorders.shards()[0];
    assert!(shard.op_duration.family().samples.is_empty());
    assert!(shard.stage_duration.family().samples.is_empty());
    assert_eq!(shard.entries.numbers().sum::<f64>(), 0.0);
    assert_eq!(shard.bytes.numbers().sum::<f64>(), 0.0);
    assert!(shard.ring.pop().is_none() && recorders.lost() == 0);
}

#[test]
fn a_clients_entries_are_counted_by_server() {
    let recorders = Recorders::new(Role::Client, 0.0, 8);
    let mut recorder = recorders.recorder();
    let mut timeline = recorder.begin_client(OpKind::Get, Transport::Tcp, Tick(0), None);
    timeline.server_idx = 2;
    timeline.count(Tier::None, OutcomeLabel::Miss, 5);
    recorder.record(&timeline);
    let idx = (2 * OpKind::COUNT + OpKind::Get.idx()) * OutcomeLabel::COUNT;
    let counts: Vec<u64> = recorders.shards()[0].server_entries[idx..idx + 3]
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .collect();
    assert_eq!(counts, [0, 5, 0]);
}
