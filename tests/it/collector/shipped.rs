//! The collector's configuration that users get, between a server and its client and whoever stores traces.

use std::time::Duration;

use memkv_tests::collector::{Collector, Span};
use memkv_tests::free_pair;
use memkv_tests::poll::until;
use memkv_tests::program::Setup;

use super::{NONE_SLOW, by_trace, one_of_each, only, traced_client, traced_server};

/// Tail sampling waits 10 s for a trace to be complete, metrics of spans are made every 15 s.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn the_shipped_pipelines_pass_on_traces_whole_and_metrics_and_logs() {
    let Some(next) = Collector::start() else {
        return;
    };
    let metrics = free_pair();
    let Some(collector) = Collector::shipped(&next, metrics) else {
        return;
    };
    let server = traced_server(&collector, NONE_SLOW);
    let (client, telemetry) = traced_client(&server, &collector, 1.0);
    let ops = one_of_each(&client);
    telemetry.shutdown(Duration::from_secs(10));
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut logging = Setup::new(home.path(), "64 MiB").pool("16 MiB");
    let endpoint = collector.endpoint();
    logging.sections = format!("telemetry:\n  otlp_endpoint: {endpoint}\n  logs_otlp: true\n");
    logging.start().stop();

    // Fast and well as they were, all of them were kept here, so all of them are kept there.
    let spans = until("both spans of each op are passed on", PATIENCE, || {
        let spans = next.spans();
        let count = |is: fn(&Span) -> bool| spans.iter().filter(|span| is(span)).count();
        (count(Span::is_server) >= ops && count(Span::is_client) >= ops).then_some(spans)
    });
    let traces = by_trace(&spans);
    assert_eq!(traces.len(), ops);
    for trace in traces.values() {
        let from_client = only(trace, Span::is_client);
        let from_server = only(trace, Span::is_server);
        assert_eq!(from_server.parent_id, from_client.span_id);
    }
    until("the log is passed on", PATIENCE, || {
        let records = next.records();
        let serving = records.iter().any(|record| record.body == "serving");
        serving.then_some(())
    });
    until("metrics are shown, those of spans too", PATIENCE, || {
        let mut page = ureq::get(format!("http://{metrics}/metrics")).call().ok()?;
        let page = page.body_mut().read_to_string().expect("is text");
        let has = |name: &str| page.lines().any(|line| line.starts_with(name));
        let is_there = has("memkv_client_op_duration_seconds_bucket") && has("spans_calls_total");
        is_there.then_some(())
    });
}
