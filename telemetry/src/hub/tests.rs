mod kept;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use super::*;
use crate::clock::Tick;
use crate::exposition::is_exposed;
use crate::labels::{
    AuthFailure, Blame, DriveOp, EvictionReason, Exporter, OpKind, OutcomeLabel, SlabState,
    SpanDecision, Stage, Step, Tier, Transport,
};
use crate::metrics::{DRIVE_LABELS_MAX, Kind, SERIES, SERIES_MAX, SERVER_LABELS_MAX};
use crate::snapshot::Value;
use crate::timeline::Timeline;
use crate::trace::TraceContext;

fn server() -> Telemetry {
    Telemetry::new(TelemetryConfig::new(Role::Server, "1.2.3")).unwrap()
}

/// A finished GET of 1 KiB from RAM that took `us`.
fn get(recorder: &mut Recorder, us: u64, caller: Option<TraceContext>) -> Timeline {
    let start = clock::now();
    let mut timeline = recorder.begin(OpKind::Get, Transport::Tcp, start, caller);
    timeline.stamp(
        Stage::Device,
        start,
        start.after(Duration::from_micros(us * 9 / 10)),
    );
    timeline.count(Tier::Ram, OutcomeLabel::Ok, 1);
    timeline.bytes_out = 1024;
    timeline.finish(start.after(Duration::from_micros(us)));
    timeline
}

/// Waits until the telemetry thread has done what `is_done` asks for.
#[track_caller]
fn until(is_done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_done() {
        assert!(Instant::now() < deadline, "not done after 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Each sample line's value, without comments and exemplars.
fn lines(text: &str) -> BTreeMap<String, String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.split(" # ").next().unwrap());
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// Makes every label combination of a server, with more drives than there are labels for.
fn fill_server(telemetry: &Telemetry) {
    let mut recorder = telemetry.recorder();
    for op in OpKind::ALL {
        for transport in Transport::ALL {
            for tier in Tier::ALL {
                for outcome in OutcomeLabel::ALL {
                    let mut timeline = Timeline::begin(*op, *transport, Tick(1));
                    for stage in Stage::ALL {
                        timeline.stamp(*stage, Tick(1), Tick(1_000));
                    }
                    timeline.count(*tier, *outcome, 1);
                    (timeline.bytes_in, timeline.bytes_out) = (1, 1);
                    timeline.finish(Tick(2_000));
                    recorder.record(&timeline);
                }
            }
        }
    }
    let engine = telemetry.engine_metrics();
    engine.slab_waited(1);
    for idx in 0..DRIVE_LABELS_MAX + 4 {
        let drive = engine.drive(&format!("nvme{idx}n1"));
        DriveOp::ALL
            .iter()
            .for_each(|op| drive.io_done(*op, 1_000, 4096));
    }
}

fn fill_client(telemetry: &Telemetry) {
    let mut recorder = telemetry.recorder();
    for op in OpKind::ALL {
        for outcome in OutcomeLabel::ALL {
            for server_idx in 0..SERVER_LABELS_MAX as u16 + 8 {
                let mut timeline = Timeline::begin_client(*op, Transport::Tcp, Tick(1));
                for step in Step::ALL {
                    timeline.stamp_step(*step, Tick(1), Tick(1_000));
                }
                timeline.server_idx = server_idx;
                timeline.count(Tier::None, *outcome, 1);
                (timeline.bytes_in, timeline.bytes_out) = (1, 1);
                timeline.finish(Tick(2_000));
                recorder.record(&timeline);
            }
        }
    }
}

fn client_of_many() -> Telemetry {
    let mut config = TelemetryConfig::new(Role::Client, "1.2.3");
    config.servers = (0..SERVER_LABELS_MAX + 8)
        .map(|idx| format!("10.0.0.{idx}:9900"))
        .collect();
    Telemetry::new(config).unwrap()
}

#[test]
fn every_label_combination_stays_within_the_bound() {
    for (telemetry, fill) in [
        (server(), fill_server as fn(&Telemetry)),
        (client_of_many(), fill_client),
    ] {
        fill(&telemetry);
        telemetry.render(Format::Text);
        let count = lines(&telemetry.render(Format::Text)).len();
        let role = telemetry.config().role;
        println!("{role:?}: {count} lines");
        assert!(
            count > 1_000,
            "{role:?} made only {count} lines: combinations are missing"
        );
        assert!(count <= SERIES_MAX, "{role:?} exposes {count} lines");
    }
}

#[test]
fn a_process_exposes_exactly_what_is_declared_for_its_role() {
    for telemetry in [server(), client_of_many()] {
        let role = telemetry.config().role;
        let declared = SERIES
            .iter()
            .filter(|series| is_exposed(series.scope, role));
        let mut declared: Vec<_> = declared.map(|series| series.name).collect();
        let families = telemetry.families();
        let mut exposed: Vec<_> = families.iter().map(|family| family.series.name).collect();
        declared.sort_unstable();
        exposed.sort_unstable();
        assert_eq!(exposed, declared);
        for family in &families {
            for sample in &family.samples {
                assert_eq!(
                    sample.labels.len(),
                    family.series.labels.len(),
                    "{}",
                    family.series.name
                );
                let is_histogram = matches!(sample.value, Value::Histogram { .. });
                assert_eq!(is_histogram, family.series.kind == Kind::Histogram);
            }
        }
    }
}

#[test]
fn the_two_expositions_have_the_same_samples() {
    for (telemetry, fill) in [
        (server(), fill_server as fn(&Telemetry)),
        (client_of_many(), fill_client),
    ] {
        fill(&telemetry);
        telemetry.shutdown(Duration::from_secs(5));
        telemetry.server_metrics().auth_failed(AuthFailure::BadMac);
        telemetry
            .engine_metrics()
            .evicted(EvictionReason::Capacity, 3, 4096);
        telemetry.engine_metrics().set_slabs(SlabState::Free, 7);
        telemetry.render(Format::Text);
        let without_scrapes = |text: &str| {
            let mut lines = lines(text);
            lines.retain(|name, _| !name.starts_with("memkv_scrape_duration_seconds"));
            lines
        };
        let text = without_scrapes(&telemetry.render(Format::Text));
        let open_text = telemetry.render(Format::OpenMetrics);
        assert_eq!(without_scrapes(&open_text), text);
        assert!(open_text.ends_with("# EOF\n"));
    }
}

#[test]
fn drives_beyond_the_bound_share_a_label() {
    let telemetry = server();
    fill_server(&telemetry);
    let lines = lines(&telemetry.render(Format::Text));
    assert_eq!(
        lines["memkv_drive_bytes_total{drive=\"nvme0n1\",op=\"read\"}"],
        "4096"
    );
    assert_eq!(
        lines["memkv_drive_bytes_total{drive=\"more\",op=\"read\"}"],
        (4 * 4096).to_string()
    );
}

#[test]
fn servers_beyond_the_bound_share_a_label() {
    let telemetry = client_of_many();
    fill_client(&telemetry);
    for server_idx in [0, SERVER_LABELS_MAX, SERVER_LABELS_MAX + 7] {
        let metrics = telemetry.client_metrics();
        metrics.set_identity_mismatch(server_idx, true);
    }
    let lines = lines(&telemetry.render(Format::Text));
    let of = |series: &str, server: &str, more: &str| {
        let line = format!("{series}{{server=\"{server}\"{more}}}");
        lines[&line].clone()
    };
    let mismatch = "memkv_client_identity_mismatch";
    assert_eq!(of(mismatch, "10.0.0.0:9900", ""), "1");
    assert_eq!(of(mismatch, "10.0.0.1:9900", ""), "0");
    assert_eq!(of(mismatch, "more", ""), "2");
    let misses = ",op=\"get\",outcome=\"miss\"";
    let entries = "memkv_client_entries_total";
    assert_eq!(of(entries, "10.0.0.1:9900", misses), "1");
    assert_eq!(of(entries, "more", misses), "8");
}

#[test]
fn a_slow_op_is_counted_taken_apart_and_kept_as_a_span() {
    let telemetry = server();
    let mut recorder = telemetry.recorder();
    let mut timeline = get(&mut recorder, 50_000, None);
    timeline.key_hash = Some(0xbeef);
    recorder.record(&timeline);
    until(|| telemetry.spans(SpanDecision::Slow) == 1);
    let ops = telemetry.slow_ops();
    assert_eq!(ops.newest[0].blame, Some(Blame::Device));
    assert_eq!(ops.newest[0].key_hash.as_deref(), Some("000000000000beef"));
    assert_eq!(ops.newest[0].stages.len(), 1);
    let lines = lines(&telemetry.render(Format::Text));
    assert_eq!(
        lines["memkv_slow_ops_total{op=\"get\",blame=\"device\"}"],
        "1"
    );
    assert_eq!(lines["memkv_spans_total{decision=\"slow\"}"], "1");
    telemetry.shutdown(Duration::from_secs(1));
}

#[test]
fn a_sampled_ops_trace_is_an_exemplar_of_its_bucket() {
    let telemetry = server();
    let mut recorder = telemetry.recorder();
    let caller = TraceContext {
        trace_id: [0xab; 16],
        span_id: [1; 8],
        flags: 1,
    };
    let timeline = get(&mut recorder, 100, Some(caller));
    recorder.record(&timeline);
    until(|| telemetry.spans(SpanDecision::Sampled) == 1);
    telemetry.shutdown(Duration::from_secs(1));
    let text = telemetry.render(Format::OpenMetrics);
    let line = text
        .lines()
        .find(|line| line.contains(" # {"))
        .expect("an exemplar");
    assert!(
        line.contains("le=\"0.000128\"") && line.contains(&"ab".repeat(16)),
        "{line}"
    );
    assert!(!telemetry.render(Format::Text).contains(" # {"));
}

#[test]
fn a_full_ring_loses_timelines_but_counts_them_and_their_ops() {
    let mut config = TelemetryConfig::new(Role::Server, "1");
    config.ring_timelines = 16;
    let telemetry = Telemetry::new(config).unwrap();
    telemetry.shutdown(Duration::from_secs(1)); // Nobody drains any more.
    let mut recorder = telemetry.recorder();
    for _ in 0..20 {
        let timeline = get(&mut recorder, 10, None);
        recorder.record(&timeline);
    }
    let lines = lines(&telemetry.render(Format::Text));
    assert_eq!(lines["memkv_timelines_lost_total"], "4");
    assert_eq!(
        lines["memkv_entries_total{op=\"get\",tier=\"ram\",outcome=\"ok\"}"],
        "20"
    );
    assert_eq!(telemetry.summary().ops[0].count, 20);
}

#[test]
fn telemetry_that_is_off_shows_its_handles_counts_and_no_ops() {
    let telemetry = Telemetry::off();
    let mut recorder = telemetry.recorder();
    let timeline = get(&mut recorder, 50_000, None);
    recorder.record(&timeline);
    telemetry.server_metrics().auth_failed(AuthFailure::BadMac);
    telemetry.shutdown(Duration::from_secs(1));
    let lines = lines(&telemetry.render(Format::Text));
    assert_eq!(lines["memkv_auth_failures_total{reason=\"bad_mac\"}"], "1");
    assert!(
        !lines
            .keys()
            .any(|name| name.starts_with("memkv_op_duration_seconds"))
    );
    assert_eq!(lines["memkv_spans_total{decision=\"slow\"}"], "0");
    assert!(telemetry.slow_ops().slowest.is_empty() && telemetry.summary().ops.is_empty());
}

#[test]
fn the_summary_has_times_per_op_and_stage() {
    let telemetry = server();
    let mut recorder = telemetry.recorder();
    for us in 1..=100 {
        let timeline = get(&mut recorder, us * 10, None);
        recorder.record(&timeline);
    }
    let summary = telemetry.summary();
    let op = &summary.ops[0];
    assert_eq!((op.op, op.count, op.bytes_out), (OpKind::Get, 100, 102_400));
    assert!((500.0..535.0).contains(&op.p50_us), "{}", op.p50_us);
    assert_eq!(op.max_us, 1000.0);
    assert_eq!(op.stages.len(), 1);
    assert!(
        (450.0..480.0).contains(&op.stages[0].p50_us),
        "{}",
        op.stages[0].p50_us
    );
}

#[test]
fn gauges_are_refreshed_before_each_scrape() {
    let telemetry = server();
    let engine = telemetry.engine_metrics();
    telemetry.before_scrape(move || engine.set_index_entries(42));
    assert_eq!(
        lines(&telemetry.render(Format::Text))["memkv_index_entries"],
        "42"
    );
}

fn exporting_to(endpoint: String, timeout: Duration) -> Telemetry {
    let mut config = TelemetryConfig::new(Role::Server, "1");
    config.spans_per_second = 1_000_000;
    config.otlp = Some(OtlpConfig {
        timeout,
        ..OtlpConfig::new(endpoint)
    });
    Telemetry::new(config).unwrap()
}

/// Records sampled ops; returns the slowest single `record` call.
fn record_sampled(telemetry: &Telemetry, count: u64) -> Duration {
    let mut recorder = telemetry.recorder();
    let caller = TraceContext {
        trace_id: [0xcd; 16],
        span_id: [1; 8],
        flags: 1,
    };
    let mut slowest = Duration::ZERO;
    for n in 0..count {
        let timeline = get(&mut recorder, 10, Some(caller));
        let started = Instant::now();
        recorder.record(&timeline);
        slowest = slowest.max(started.elapsed());
        if n % 1000 == 999 {
            std::thread::sleep(Duration::from_millis(25)); // No op is to be lost here.
        }
    }
    slowest
}

#[test]
fn a_collector_that_is_gone_is_only_counted() {
    for scheme in ["http://127.0.0.1:9", "http://127.0.0.1:9/v1/traces"] {
        let telemetry = exporting_to(scheme.to_owned(), Duration::from_millis(300));
        record_sampled(&telemetry, 10);
        until(|| telemetry.exporter_dropped(Exporter::Traces) == 10);
        telemetry.shutdown(Duration::from_secs(2));
        let lines = lines(&telemetry.render(Format::Text));
        assert_eq!(
            lines["memkv_exporter_dropped_total{exporter=\"otlp_traces\"}"],
            "10"
        );
        assert_ne!(
            lines["memkv_exporter_failures_total{exporter=\"otlp_traces\"}"],
            "0"
        );
    }
}

#[test]
fn a_collector_that_stalls_never_holds_up_recording_or_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Connections complete in the kernel's backlog; nobody ever reads them.
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let telemetry = exporting_to(endpoint, Duration::from_secs(60));
    let slowest = record_sampled(&telemetry, 8_000);
    assert!(
        slowest < Duration::from_millis(500),
        "a record took {slowest:?}"
    );
    until(|| telemetry.spans(SpanDecision::Sampled) == 8_000);
    // 256 are being sent and 4096 wait; the others had no room.
    assert!(telemetry.exporter_dropped(Exporter::Traces) >= 3_000);
    let started = Instant::now();
    telemetry.shutdown(Duration::from_millis(500));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

/// An HTTP collector that takes one request and tells its head and body.
fn collector_of_one() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut all, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let n = stream.read(&mut piece).unwrap();
            all.extend_from_slice(&piece[..n]);
            let Some(end) = all.windows(4).position(|end| end == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.unwrap().parse().unwrap();
            if all.len() >= end + 4 + length {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .unwrap();
                sender.send((head, all[end + 4..].to_vec())).unwrap();
                return;
            }
        }
    });
    (address, receiver)
}

#[test]
fn spans_reach_an_http_collector_with_the_callers_trace() {
    let (address, received) = collector_of_one();
    let telemetry = exporting_to(
        format!("http://{address}/v1/traces"),
        Duration::from_secs(10),
    );
    record_sampled(&telemetry, 1);
    let (head, body) = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    let has = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    assert!(has(&[0xcd; 16]), "the trace id");
    assert!(has(b"GET") && has(b"read extent") && has(b"db.system.name"));
    telemetry.shutdown(Duration::from_secs(5));
    assert_eq!(telemetry.exporter_dropped(Exporter::Traces), 0);
}

#[test]
fn log_records_reach_the_collector_with_their_trace() {
    let (address, received) = collector_of_one();
    let telemetry = exporting_to(
        format!("http://{address}/v1/traces"),
        Duration::from_secs(10),
    );
    let config = crate::log::LogConfig {
        level: LogLevel::Info,
        format: crate::log::LogFormat::Json,
        otlp: true,
    };
    let (subscriber, handle) = crate::log::subscriber(config, &telemetry, std::io::sink).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::warn!(
            trace_id = %"ef".repeat(16), span_id = %"cd".repeat(8), device = "mlx5_0", "no routable gid"
        );
        // What the exporter's own libraries log must not come back to the exporter.
        tracing::warn!(target: "hyper::client", "connection reset by collector");
    });
    let (head, body) = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(head.starts_with("post /v1/logs http/1.1"), "{head}");
    let has = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    assert!(has(&[0xef; 16]) && has(b"no routable gid") && has(b"mlx5_0"));
    assert!(has(&[0xcd; 8]), "the record's span");
    assert!(!has(b"reset by collector"));
    handle.shutdown(Duration::from_secs(5));
}
