//! A real OpenTelemetry Collector that writes what it receives to a file.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::free_address;
use crate::poll::until;
use crate::tier::{Tier, cache};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running collector; killed when dropped.
pub struct Collector {
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    dir: TempDir,
}

/// One log record as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// `service.name` of its resource.
    pub service: String,
    /// `INFO`, `WARN` …
    pub severity: String,
    /// Its text.
    pub body: String,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
}

/// One span as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, or empty at the root.
    pub parent_id: String,
    /// What it says happened.
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: u64,
    /// ns since 1970.
    pub start_ns: u64,
    /// ns since 1970.
    pub end_ns: u64,
    /// Whether its status is an error.
    pub is_error: bool,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// Whether it is a server's span.
    pub fn is_server(&self) -> bool {
        self.kind == 2
    }

    /// Whether it is a client's span.
    pub fn is_client(&self) -> bool {
        self.kind == 3
    }

    /// An attribute's text; empty where there is none.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

impl Collector {
    /// Starts one; `None`, reported as a skipped tier, where none is built.
    pub fn start() -> Option<Collector> {
        Collector::of("collector-test.yaml", |command, dir| {
            command.env("SPANS_FILE", dir.join("received.json"));
        })
    }

    /// Starts one on the configuration that users get, which passes traces and logs on to `next` and shows
    /// metrics at `metrics`.
    pub fn shipped(next: &Collector, metrics: SocketAddr) -> Option<Collector> {
        Collector::of("collector.yaml", |command, _| {
            command
                .env("TRACES_ENDPOINT", next.grpc.to_string())
                .env("METRICS_ENDPOINT", metrics.to_string())
                // Its own metrics have a fixed port, which somebody else may have.
                .arg("--set=service.telemetry.metrics.level=none");
        })
    }

    fn of(config: &str, settle: impl Fn(&mut Command, &Path)) -> Option<Collector> {
        let Some(program) = find() else {
            Tier::Collector.skipped(
                "no collector; run `cargo xtask collector` (it needs Go, see https://go.dev/dl)",
            );
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        // Its ports can't be asked for either; see `Prometheus::start`.
        for _ in 0..5 {
            let [grpc, http, health] = [free_address(), free_address(), free_address()];
            let mut command = command(&program, config, dir.path());
            command
                .env("OTLP_GRPC_ENDPOINT", grpc.to_string())
                .env("OTLP_HTTP_ENDPOINT", http.to_string())
                .env("HEALTH_ENDPOINT", health.to_string());
            settle(&mut command, dir.path());
            let mut child = command.spawn().expect("the collector can be started");
            let is_ready = until("the collector is ready or has ended", PATIENCE, || {
                let has_ended = child.try_wait().expect("can be waited for").is_some();
                let is_ready = ureq::get(format!("http://{health}/")).call().is_ok();
                (has_ended || is_ready).then_some(!has_ended)
            });
            if is_ready {
                Tier::Collector.ran();
                return Some(Collector {
                    child,
                    grpc,
                    http,
                    dir,
                });
            }
        }
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("the collector doesn't start:\n{log}");
    }

    /// For `MEMKV_OTEL_ENDPOINT` and `telemetry.otlp_endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The same for HTTP.
    pub fn http_endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.http)
    }

    /// Every span that arrived so far.
    pub fn spans(&self) -> Vec<Span> {
        self.batches().iter().flat_map(spans_of).collect()
    }

    /// Every log record that arrived so far.
    pub fn records(&self) -> Vec<Record> {
        self.batches().iter().flat_map(records_of).collect()
    }

    /// The names of metrics that arrived so far, each with its `service.name`.
    pub fn metrics(&self) -> BTreeSet<(String, String)> {
        self.batches().iter().flat_map(metrics_of).collect()
    }

    fn batches(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("received.json")).unwrap_or_default();
        // The last line may be half written.
        let batches = text.lines().map(serde_json::from_str);
        batches.filter_map(Result::ok).collect()
    }

    /// Waits until the spans that arrived satisfy `condition`.
    pub fn wait_for<T>(&self, what: &str, mut condition: impl FnMut(&[Span]) -> Option<T>) -> T {
        until(what, PATIENCE, || condition(&self.spans()))
    }

    /// Stops it without ending it: connections stay open and nothing is read.
    pub fn stall(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("it runs");
    }

    /// Lets a stalled one go on.
    pub fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).expect("it runs");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        self.child.wait().expect("it was our child");
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What xtask built and passed on, else what an earlier run left in the cache.
fn find() -> Option<PathBuf> {
    if let Some(path) = env::var_os("MEMKV_OTELCOL") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let builds = fs::read_dir(cache()?.join("otelcol")).ok()?;
    let paths = builds.filter_map(|entry| Some(entry.ok()?.path().join("otelcol")));
    paths.filter(|path| path.is_file()).max_by_key(|path| {
        fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .ok()
    })
}

/// A collector on a configuration of the folder `otel`.
fn command(program: &Path, config: &str, dir: &Path) -> Command {
    let otel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../otel");
    let log = fs::File::create(dir.join("log")).expect("the log can be made");
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(otel.join(config))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

/// What is in a batch of `kinds`, each with the `service.name` of its resource.
fn items<'b>(batch: &'b Value, [resources, scopes, kinds]: [&str; 3]) -> Vec<(String, &'b Value)> {
    let mut items = Vec::new();
    for resource in list(&batch[resources]) {
        let service = attributes(&resource["resource"]["attributes"])
            .remove("service.name")
            .unwrap_or_default();
        for scope in list(&resource[scopes]) {
            let of_scope = list(&scope[kinds]).iter();
            items.extend(of_scope.map(|item| (service.clone(), item)));
        }
    }
    items
}

fn spans_of(batch: &Value) -> Vec<Span> {
    let spans = items(batch, ["resourceSpans", "scopeSpans", "spans"]);
    let spans = spans.iter();
    spans
        .map(|(service, span)| span_of(service, span))
        .collect()
}

fn metrics_of(batch: &Value) -> Vec<(String, String)> {
    let metrics = items(batch, ["resourceMetrics", "scopeMetrics", "metrics"]);
    let name = |metric: &Value| metric["name"].as_str().unwrap_or_default().to_owned();
    let metrics = metrics.into_iter();
    metrics
        .map(|(service, metric)| (service, name(metric)))
        .collect()
}

fn records_of(batch: &Value) -> Vec<Record> {
    let records = items(batch, ["resourceLogs", "scopeLogs", "logRecords"]);
    let record = |(service, record): (String, &Value)| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Record {
            service,
            severity: text(&record["severityText"]),
            body: text(&record["body"]["stringValue"]),
            attributes: attributes(&record["attributes"]),
        }
    };
    records.into_iter().map(record).collect()
}

fn span_of(service: &str, span: &Value) -> Span {
    let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| text(key).parse().unwrap_or(0);
    Span {
        service: service.to_owned(),
        trace_id: text("traceId"),
        span_id: text("spanId"),
        parent_id: text("parentSpanId"),
        name: text("name"),
        kind: span["kind"].as_u64().unwrap_or(0),
        start_ns: number("startTimeUnixNano"),
        end_ns: number("endTimeUnixNano"),
        // 2 is STATUS_CODE_ERROR.
        is_error: span["status"]["code"] == 2,
        attributes: attributes(&span["attributes"]),
    }
}

fn attributes(value: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for attribute in list(value) {
        let key = attribute["key"].as_str().unwrap_or_default().to_owned();
        // {"stringValue": "x"}, {"intValue": "3"}, {"boolValue": true}
        let value = attribute["value"]
            .as_object()
            .and_then(|typed| typed.values().next());
        let text = match value {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        found.insert(key, text);
    }
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
