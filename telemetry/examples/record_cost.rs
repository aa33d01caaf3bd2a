//! Prints what an operation's telemetry costs: stamps and `record` on the data thread, and the
//! telemetry thread's share behind it.
//!
//! `cargo run --release -p memkv-telemetry --features export --example record_cost`

use std::hint::black_box;
use std::time::{Duration, Instant};

use memkv_telemetry::clock;
use memkv_telemetry::{
    OpKind, OutcomeLabel, Role, Stage, Telemetry, TelemetryConfig, Tier, Transport,
};

/// Ops at a stretch: fewer than a ring holds, so that none is lost and each is paid for.
const OPS: u32 = 2000;
const ROUNDS: u32 = 200;

fn main() {
    let telemetry = Telemetry::new(TelemetryConfig::new(Role::Server, "0")).expect("no exporter");
    let mut recorder = telemetry.recorder();
    println!("clock: {}", clock::source());
    let started = Instant::now();
    (0..1_000_000).for_each(|_| _ = black_box(clock::now()));
    println!(
        "clock::now {:.1} ns",
        started.elapsed().as_nanos() as f64 / 1e6
    );
    let stages = [
        Stage::Receive,
        Stage::Verify,
        Stage::Index,
        Stage::Transfer,
        Stage::Reply,
    ];
    let (mut op_ns, mut record_ns) = (u128::MAX, u128::MAX);
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let mut last = None;
        for _ in 0..OPS {
            let mut at = clock::now();
            let mut timeline = recorder.begin(OpKind::Get, Transport::Tcp, at, None);
            for stage in stages {
                let now = clock::now();
                timeline.stamp(stage, at, now);
                at = now;
            }
            timeline.count(Tier::Ram, OutcomeLabel::Ok, 1);
            timeline.bytes_out = 1024;
            timeline.finish(at);
            recorder.record(black_box(&timeline));
            last = Some(timeline);
        }
        op_ns = op_ns.min(started.elapsed().as_nanos());
        std::thread::sleep(Duration::from_millis(25));
        let timeline = last.expect("at least one op");
        let started = Instant::now();
        (0..OPS).for_each(|_| recorder.record(black_box(&timeline)));
        record_ns = record_ns.min(started.elapsed().as_nanos());
        std::thread::sleep(Duration::from_millis(25));
    }
    let ops = f64::from(OPS);
    println!(
        "begin, {} stamps, finish, record: {:.0} ns",
        stages.len(),
        op_ns as f64 / ops
    );
    println!("record alone: {:.0} ns", record_ns as f64 / ops);
    let behind = telemetry_thread_ns() as f64 / (2.0 * ops * f64::from(ROUNDS));
    println!("telemetry thread, its timer included: {behind:.0} ns per op");
    println!("timelines lost: {}", telemetry.summary().timelines_lost);
    telemetry.shutdown(Duration::from_secs(1));
}

/// CPU time of the telemetry thread so far.
fn telemetry_thread_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let ours = tasks.map(|task| task.path()).find(|path| {
        std::fs::read_to_string(path.join("comm"))
            .is_ok_and(|name| name.trim() == "memkv-telemetry")
    });
    let text = ours.and_then(|path| std::fs::read_to_string(path.join("schedstat")).ok());
    text.and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0)
}
