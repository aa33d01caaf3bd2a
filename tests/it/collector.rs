//! Traces, as a real OpenTelemetry Collector receives them from a real server and its client.

mod process;
mod shipped;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use memkv_client::{Attrs, Client, Condition};
use memkv_telemetry::recorder::RING_TIMELINES;
use memkv_telemetry::{
    Exporter, OtlpConfig, Role, SlowOp, SlowPolicy, SpanDecision, Telemetry, TelemetryConfig,
};
use memkv_tests::collector::{Collector, Span};
use memkv_tests::load;
use memkv_tests::poll::until;
use memkv_tests::server::{Builder, TestServer};

/// A client that samples `ratio` of its calls, finds none slow by itself, and sends its spans to the
/// collector.
fn traced_client(server: &TestServer, collector: &Collector, ratio: f64) -> (Client, Telemetry) {
    let mut config = TelemetryConfig::new(Role::Client, "test");
    config.sample_ratio = ratio;
    config.spans_per_second = 100_000;
    config.slow = SlowPolicy {
        base: Duration::from_secs(600),
        times_median: None,
        ..config.slow
    };
    config.otlp = Some(OtlpConfig::new(collector.endpoint()));
    let telemetry = Telemetry::new(config).expect("telemetry starts");
    let config = load::config(server.address());
    let client = Client::with_telemetry(config, telemetry.clone()).expect("a client can be made");
    (client, telemetry)
}

/// A server that sends its spans to the collector, samples nothing by itself, and has `slow` as
/// what is slow.
fn traced_server(collector: &Collector, slow: &str) -> TestServer {
    Builder::file("256 MiB")
        .telemetry(&format!("otlp_endpoint: {}", collector.endpoint()))
        .telemetry("sample_ratio: 0")
        .telemetry(slow)
        .start()
}

/// Every op is slow, so that every op is in /v1/slow, too.
const ALL_SLOW: &str = "slow: {base_ms: 0, per_mib_ms: 0}";
/// No op is.
const NONE_SLOW: &str = "slow: {base_ms: 600000, times_median: 0}";

/// Each kind of op once, batches of several keys among them; returns how many ops that is.
fn one_of_each(client: &Client) -> usize {
    let value = vec![7u8; 1 << 20];
    let keys: Vec<String> = (0..8).map(|idx| format!("block/{idx}")).collect();
    let items: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &value[..])).collect();
    for stored in client.batch_put(&items) {
        stored.expect("a put succeeds");
    }
    client.put(b"single", &value).expect("a put succeeds");
    assert_eq!(
        client.get(b"single").expect("a get succeeds").as_ref(),
        Some(&value)
    );
    assert_eq!(client.get(b"nowhere").expect("a miss is no error"), None);
    assert_eq!(client.batch_get(&keys).len(), 8);
    assert!(client.exists(b"single").expect("exists succeeds"));
    assert!(client.delete(b"single").expect("a delete succeeds"));
    7
}

fn by_trace(spans: &[Span]) -> BTreeMap<&str, Vec<&Span>> {
    let mut traces: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        traces.entry(&span.trace_id).or_default().push(span);
    }
    traces
}

/// The only span of a trace that `is` says it is.
fn only<'a>(trace: &[&'a Span], is: fn(&Span) -> bool) -> &'a Span {
    let mut found = trace.iter().filter(|span| is(span));
    let span = found
        .next()
        .unwrap_or_else(|| panic!("no such span in {trace:#?}"));
    assert_eq!(found.next(), None, "one trace per op: {trace:#?}");
    span
}

fn stages(trace: &[&Span], parent: &Span) -> BTreeSet<String> {
    let children = trace.iter().filter(|span| span.parent_id == parent.span_id);
    let stages = children.map(|span| span.attribute("memkv.stage").to_owned());
    stages.filter(|stage| !stage.is_empty()).collect()
}

fn slow_ops(server: &TestServer) -> Vec<SlowOp> {
    let url = server.url("/v1/slow?sort=newest&limit=1000");
    let mut response = ureq::get(url).call().expect("is served");
    let text = response.body_mut().read_to_string().expect("is text");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_measured_stage_is_a_child_of_the_server_span() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let server = traced_server(&collector, ALL_SLOW);
    let (client, telemetry) = traced_client(&server, &collector, 1.0);
    let ops = one_of_each(&client);
    telemetry.shutdown(Duration::from_secs(10));

    let spans = collector.wait_for("both spans of each op arrive", |spans| {
        let count = |is: fn(&Span) -> bool| spans.iter().filter(|span| is(span)).count();
        (count(Span::is_server) >= ops && count(Span::is_client) >= ops).then(|| spans.to_vec())
    });
    let traces = by_trace(&spans);
    assert_eq!(
        traces.len(),
        ops,
        "one trace per op, however many keys: {traces:#?}"
    );
    let slow = slow_ops(&server);
    assert_eq!(slow.len(), ops);
    for (trace_id, trace) in &traces {
        let from_client = only(trace, Span::is_client);
        let from_server = only(trace, Span::is_server);
        assert_eq!(from_client.parent_id, "");
        assert_eq!(from_server.parent_id, from_client.span_id);
        assert_eq!(from_server.name, from_client.name);
        assert_eq!(from_server.attribute("db.system.name"), "memkv");
        assert!(from_client.start_ns <= from_client.end_ns);

        let of_this = |op: &&SlowOp| op.trace_id.as_deref() == Some(*trace_id);
        let op = slow.iter().find(of_this).expect("/v1/slow has every op");
        let measured: BTreeSet<String> =
            op.stages.iter().map(|bar| bar.stage.to_string()).collect();
        assert!(measured.len() >= 3, "{op:?}");
        assert_eq!(stages(trace, from_server), measured);
        assert!(!stages(trace, from_client).is_empty());
    }
    let of_8 = |span: &&Span| span.attribute("db.operation.batch.size") == "8";
    let batches: Vec<&Span> = spans.iter().filter(of_8).collect();
    assert_eq!(batches.len(), 4, "two batches, at both ends: {batches:#?}");
}

#[test]
fn slow_ops_are_traced_at_both_ends_even_at_ratio_0() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let server = traced_server(&collector, ALL_SLOW);
    let (client, telemetry) = traced_client(&server, &collector, 0.0);
    let ops = one_of_each(&client);
    telemetry.shutdown(Duration::from_secs(10));
    let by_hint = telemetry.spans(SpanDecision::Server);
    assert_eq!(
        by_hint, ops as u64,
        "the client keeps what the server says it keeps"
    );

    let spans = collector.wait_for("both spans of each op arrive", |spans| {
        let count = |is: fn(&Span) -> bool| spans.iter().filter(|span| is(span)).count();
        (count(Span::is_server) >= ops && count(Span::is_client) >= ops).then(|| spans.to_vec())
    });
    let traces = by_trace(&spans);
    assert_eq!(traces.len(), ops);
    for trace in traces.values() {
        let from_client = only(trace, Span::is_client);
        assert_eq!(only(trace, Span::is_server).parent_id, from_client.span_id);
        assert_eq!(from_client.parent_id, "");
    }
}

#[test]
fn nothing_is_traced_at_either_end_at_ratio_0_where_nothing_is_slow() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let server = traced_server(&collector, NONE_SLOW);
    let (client, telemetry) = traced_client(&server, &collector, 0.0);
    one_of_each(&client);
    telemetry.shutdown(Duration::from_secs(10));
    server.stop();
    assert_eq!(telemetry.spans(SpanDecision::Server), 0);
    assert_eq!(collector.spans(), []);
}

#[test]
fn failed_ops_are_traced_even_at_ratio_0_and_others_are_not() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let server = traced_server(&collector, NONE_SLOW);
    let (client, _telemetry) = traced_client(&server, &collector, 0.0);
    client.put(b"taken", b"value").expect("a put succeeds");
    for _ in 0..20 {
        client.get(b"taken").expect("a get succeeds");
    }
    for _ in 0..3 {
        let put = client.put_with(b"taken", b"x", Attrs::default(), Condition::IfAbsent);
        put.expect_err("the key is taken");
    }
    collector.wait_for("the failed ops' server spans arrive", |spans| {
        (spans.iter().filter(|span| span.is_server()).count() >= 3).then_some(())
    });
    // A stop sends what is still held, so that what hasn't come by then was not kept.
    server.stop();
    let spans = collector.spans();
    let ops: Vec<&Span> = spans.iter().filter(|span| span.is_server()).collect();
    assert_eq!(ops.len(), 3, "only the failed ones: {ops:#?}");
    for op in ops {
        assert!(op.is_error, "{op:#?}");
        assert_eq!(
            (op.name.as_str(), op.attribute("memkv.outcome")),
            ("PUT", "error")
        );
        assert!(!op.attribute("error.type").is_empty(), "{op:#?}");
    }
}

const GETS: usize = 2_000;

/// What a number of gets takes.
fn time_of_gets(client: &Client) -> Duration {
    let start = Instant::now();
    for _ in 0..GETS {
        client.get(b"hot").expect("a get succeeds");
    }
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A counter of the server's, summed over its labels.
fn counter(server: &TestServer, name: &str) -> f64 {
    let mut response = ureq::get(server.url("/v1/metrics"))
        .call()
        .expect("is served");
    let text = response.body_mut().read_to_string().expect("is text");
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

/// A server in memory and its client, which trace a share of the ops and send all of it to `collector`.
fn busy_pair(collector: &Collector, ratio: f64) -> (TestServer, Client, Telemetry) {
    let server = Builder::memory("64 MiB")
        .telemetry(&format!("otlp_endpoint: {}", collector.endpoint()))
        .telemetry("spans_per_second: 100000")
        .telemetry("sample_ratio: 0")
        .telemetry(NONE_SLOW)
        .allow("otlp")
        .start();
    let (client, telemetry) = traced_client(&server, collector, ratio);
    client.put(b"hot", &[1; 1024]).expect("a put succeeds");
    time_of_gets(&client);
    (server, client, telemetry)
}

/// What gets take where none is traced and where all are, by turns; the latter may take no longer.
fn takes_no_longer(what: &str, untraced: &Client, traced: &Client) {
    let times = (0..7).map(|_| (time_of_gets(untraced), time_of_gets(traced)));
    let (untraced, traced): (Vec<_>, Vec<_>) = times.unzip();
    let (untraced, traced) = (median(untraced), median(traced));
    // Nothing waits for the collector: a single wait for its time-out alone would be 100 times this.
    // The factor leaves room for other tests on the same cores.
    assert!(
        traced < untraced * 2,
        "{untraced:?} where nothing is traced, {traced:?} {what}"
    );
}

#[test]
fn a_collector_that_stalls_or_dies_costs_spans_and_no_time() {
    let Some(mut collector) = Collector::start() else {
        return;
    };
    let (_untraced_server, untraced, _untraced_telemetry) = busy_pair(&collector, 0.0);
    let (server, client, telemetry) = busy_pair(&collector, 1.0);

    collector.stall();
    until(
        "spans that a stalled collector doesn't take are counted, at both ends",
        Duration::from_secs(60),
        || {
            time_of_gets(&client);
            let by_server = counter(&server, "memkv_exporter_dropped_total") > 0.0;
            let by_client = telemetry.exporter_dropped(Exporter::Traces) > 0;
            (by_server && by_client).then_some(())
        },
    );
    // The queues are full. If that held up who fills them, the rings behind would be after this.
    let mut gets = 0;
    while gets <= 2 * RING_TIMELINES {
        time_of_gets(&client);
        gets += GETS;
    }
    takes_no_longer("with a stalled collector", &untraced, &client);

    collector.kill();
    let failures = counter(&server, "memkv_exporter_failures_total");
    until(
        "sends to a dead collector are counted",
        Duration::from_secs(60),
        || {
            time_of_gets(&client);
            (counter(&server, "memkv_exporter_failures_total") > failures).then_some(())
        },
    );
    takes_no_longer("with a dead collector", &untraced, &client);

    let start = Instant::now();
    server.stop();
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "a stop doesn't wait for a dead collector"
    );
}
