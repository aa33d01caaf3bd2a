//! What whole processes export, by nothing but their environment and configuration.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use memkv_tests::collector::{Collector, Span};
use memkv_tests::free_pair;
use memkv_tests::poll::until;
use memkv_tests::program::{self, Setup};
use memkv_tests::server::{KEY, TestServer, key_hex};

const PATIENCE: Duration = Duration::from_secs(60);

/// `memkv` as a client of `server` that traces every call, where somebody wants to know.
fn client(home: &Path, server: &TestServer, arguments: &[&str]) -> Command {
    fs::write(home.join("client.yaml"), "trace_ratio: 1\n").expect("a writable home");
    let mut command = program::command(home, arguments);
    command
        .env("MEMKV_CONFIG", "client.yaml")
        .env("MEMKV_SERVERS", server.address().to_string())
        .env("MEMKV_AUTH_KEY", key_hex(&KEY));
    command
}

#[test]
fn a_client_process_sends_its_spans_and_metrics_where_its_environment_says() {
    let Some(collector) = Collector::start() else {
        return;
    };
    let server = TestServer::memory();
    let home = tempfile::tempdir().expect("a temporary folder");
    fs::write(home.path().join("value"), "bytes").expect("a writable home");
    let endpoints = [collector.endpoint(), collector.http_endpoint()];
    // Where both are named the collector wins: this address is taken, so whoever bound it would fail.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = (taken.local_addr().expect("it is bound"), taken);
    for (count, endpoint) in endpoints.iter().enumerate() {
        let mut put = client(home.path(), &server, &["put", "key", "value"]);
        put.env("MEMKV_OTEL_ENDPOINT", endpoint)
            .env("MEMKV_PROMETHEUS_BIND", taken.0.to_string());
        let ended = put.output();
        let ended = ended.expect("memkv runs");
        assert!(ended.status.success(), "{ended:?}");
        let is_put = |span: &&Span| span.is_client() && span.name == "PUT";
        collector.wait_for(&format!("a client's span by {endpoint}"), |spans| {
            (spans.iter().filter(is_put).count() > count).then_some(())
        });
    }
    for span in collector.spans().iter().filter(|span| span.is_client()) {
        assert_eq!(span.service, "memkv-client");
        assert_eq!(span.attribute("db.system.name"), "memkv");
    }
    let expected = ("memkv-client", "memkv_client_op_duration_seconds");
    let expected = (expected.0.to_owned(), expected.1.to_owned());
    until("the client's metrics arrive", PATIENCE, || {
        collector.metrics().contains(&expected).then_some(())
    });
}

#[test]
fn a_client_process_shows_its_metrics_where_its_environment_says() {
    let server = TestServer::memory();
    let home = tempfile::tempdir().expect("a temporary folder");
    let address = free_pair();
    let arguments = ["bench", "--sizes", "1KiB", "--threads", "1"];
    let mut bench = client(home.path(), &server, &arguments);
    bench
        .env("MEMKV_PROMETHEUS_BIND", address.to_string())
        .stdout(Stdio::null())
        .stderr(fs::File::create(home.path().join("said")).expect("a writable home"));
    let mut bench = bench.spawn().expect("memkv runs");
    let mut last = String::new();
    let calls = until("the client counts its calls", PATIENCE, || {
        let ended = bench.try_wait().expect("a child");
        let said = || fs::read_to_string(home.path().join("said")).unwrap_or_default();
        assert!(
            ended.is_none(),
            "it ended before it was asked: {ended:?}\n{}\n{last}",
            said()
        );
        let mut page = ureq::get(format!("http://{address}/metrics")).call().ok()?;
        last = page.body_mut().read_to_string().expect("is text");
        let mut lines = last.lines();
        let calls = lines.find(|line| {
            let is_put = line.contains(r#"op="put""#);
            line.starts_with("memkv_client_op_duration_seconds_count") && is_put
        })?;
        calls.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    bench.kill().expect("it runs");
    bench.wait().expect("it was our child");
    assert!(calls > 0.0);
    let server_label = format!("server=\"{}\"", server.address());
    for series in ["memkv_client_entries_total", "memkv_client_connections"] {
        let mut lines = last.lines().filter(|line| line.starts_with(series));
        assert!(
            lines.any(|line| line.contains(&server_label)),
            "{series} in\n{last}"
        );
    }
    assert!(last.contains("memkv_build_info"));
}

#[test]
fn a_servers_log_reaches_the_collector_by_either_protocol() {
    let Some(collector) = Collector::start() else {
        return;
    };
    for (endpoint, protocol) in [
        (collector.endpoint(), "grpc"),
        (collector.http_endpoint(), "http"),
    ] {
        let before = collector.records().len();
        let home = tempfile::tempdir().expect("a temporary folder");
        let mut setup = Setup::new(home.path(), "64 MiB").pool("16 MiB");
        setup.sections = format!(
            "telemetry:\n  otlp_endpoint: {endpoint}\n  otlp_protocol: {protocol}\n  logs_otlp: true\n"
        );
        let server = setup.start();
        let address = server.data.to_string();
        server.stop();
        let records = until(&format!("the log arrives by {protocol}"), PATIENCE, || {
            let records = collector.records().split_off(before);
            let is_last = |body: &str| body == "stopped";
            records
                .iter()
                .any(|record| is_last(&record.body))
                .then_some(records)
        });
        let serving = records.iter().find(|record| record.body == "serving");
        let serving = serving.unwrap_or_else(|| panic!("no line says so: {records:#?}"));
        assert_eq!(
            (serving.service.as_str(), serving.severity.as_str()),
            ("memkv", "INFO")
        );
        let told = serving.attributes.get("data_address");
        assert_eq!(told, Some(&address), "{serving:?}");
    }
}
