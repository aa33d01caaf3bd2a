//! What ships for Prometheus and Grafana, against a real Prometheus that scrapes a real server.
//!
//! The dashboards and rules are read as committed, so what is checked is what a user imports.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use memkv_client::Client;
use memkv_telemetry::listener::MetricsListener;
use memkv_telemetry::metrics::SERIES_MAX;
use memkv_telemetry::{Role, Telemetry, TelemetryConfig};
use memkv_tests::load::{self, Load};
use memkv_tests::prometheus::{Prometheus, Target, promtool};
use memkv_tests::server::Builder;
use serde_json::Value;

/// A panel's query, with where it stands.
struct Query {
    place: String,
    expr: String,
}

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

fn rule_files() -> Vec<PathBuf> {
    let dir = dashboards().join("alerts");
    let entries = fs::read_dir(dir).expect("rules are committed");
    entries
        .map(|entry| entry.expect("can be listed").path())
        .collect()
}

/// Every committed dashboard.
fn documents() -> Vec<Value> {
    let dir = fs::read_dir(dashboards().join("json")).expect("dashboards are committed");
    let paths = dir.map(|entry| entry.expect("can be listed").path());
    let texts = paths.map(|path| fs::read_to_string(path).expect("can be read"));
    texts
        .map(|text| serde_json::from_str(&text).expect("is JSON"))
        .collect()
}

/// What fills each variable of each dashboard: the series, and its label that the variable lists.
fn variable_queries() -> Vec<(Query, String)> {
    let mut queries = Vec::new();
    for dashboard in documents() {
        let variables = dashboard["templating"]["list"].as_array();
        for variable in variables.expect("has variables") {
            let Some(query) = variable["query"]["query"].as_str() else {
                continue; // The choice of a data source asks nobody.
            };
            let inside = query.strip_prefix("label_values(");
            let inside = inside.and_then(|rest| rest.strip_suffix(')'));
            let parts = inside.and_then(|inside| inside.rsplit_once(", "));
            let (selector, label) = parts.unwrap_or_else(|| panic!("{query} lists no label"));
            let place = format!("{}, variable {}", dashboard["title"], variable["name"]);
            let expr = filled_in(selector);
            queries.push((Query { place, expr }, label.to_owned()));
        }
    }
    assert!(queries.len() >= 5, "only {} queries found", queries.len());
    queries
}

/// What draws marks over each dashboard's panels.
fn annotation_queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for dashboard in documents() {
        let annotations = dashboard["annotations"]["list"].as_array();
        for annotation in annotations.expect("has annotations") {
            let expr = annotation["expr"].as_str().expect("has an expression");
            let place = format!("{}, {}", dashboard["title"], annotation["name"]);
            let expr = filled_in(expr);
            queries.push(Query { place, expr });
        }
    }
    queries
}

/// Every query of every committed dashboard, its variables filled in as Grafana would for "All".
fn panel_queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for dashboard in documents() {
        for panel in dashboard["panels"].as_array().expect("has panels") {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expr = target["expr"].as_str().expect("has an expression");
                let place = format!("{}, {}", dashboard["title"], panel["title"]);
                queries.push(Query {
                    place,
                    expr: filled_in(expr),
                });
            }
        }
    }
    assert!(queries.len() > 40, "only {} queries found", queries.len());
    queries
}

fn filled_in(expr: &str) -> String {
    let mut filled = expr.replace("$__rate_interval", "15s");
    for variable in ["$job", "$instance", "$op"] {
        filled = filled.replace(variable, ".+");
    }
    assert!(
        !filled.contains('$'),
        "{expr} uses a variable that this test doesn't know"
    );
    filled
}

/// The names of series in an expression, recorded ones included.
fn series_names(expr: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expr.split(|c| !is_word(c));
    let is_series = |word: &&str| word.starts_with("memkv_") || word.contains(":memkv_");
    words.filter(is_series).map(str::to_owned).collect()
}

#[test]
fn promtool_finds_no_fault_with_rules_and_panels() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // promtool parses rules only, so each panel's query becomes one.
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    let variables = variable_queries().into_iter().map(|(query, _)| query);
    let queries = panel_queries().into_iter().chain(variables);
    for (idx, query) in queries.chain(annotation_queries()).enumerate() {
        let Query { place, expr } = query;
        let expr = serde_json::to_string(&expr).expect("a string");
        let record = format!("record: panel:{idx}\n        expr: {expr}");
        rules.push_str(&format!("      # {place}\n      - {record}\n"));
    }
    fs::write(dir.path().join("panels.yaml"), rules).expect("can be written");
    let mut arguments = vec![
        "check".to_owned(),
        "rules".to_owned(),
        "panels.yaml".to_owned(),
    ];
    arguments.extend(rule_files().iter().map(|path| path.display().to_string()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(Err(fault)) = promtool(dir.path(), &arguments, "") {
        panic!("{fault}");
    }
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    let dir = dashboards().join("tests");
    if let Some(Err(fault)) = promtool(&dir, &["test", "rules", "alerts.yaml"], "") {
        panic!("{fault}");
    }
}

#[test]
fn every_expression_returns_data_from_a_server_under_load() {
    // Small enough that values are evicted, wait for slabs and come from the drive; every op is
    // slow, and nobody listens where spans go.
    let server = Builder::file("256 MiB")
        .pool("16 MiB")
        .telemetry("slow: {base_ms: 0, per_mib_ms: 0}")
        .telemetry("sample_ratio: 1")
        .telemetry("otlp_endpoint: http://127.0.0.1:9")
        .allow("auth")
        .allow("otlp")
        .start();
    let mut config = TelemetryConfig::new(Role::Client, "test");
    config.servers = vec![server.address().to_string()];
    let telemetry = Telemetry::new(config).expect("telemetry starts");
    let config = load::config(server.address());
    let client = Client::with_telemetry(config, telemetry.clone()).expect("a client can be made");
    let exposed = MetricsListener::start("127.0.0.1:0", telemetry).expect("a port is free");
    let targets = [
        Target {
            address: server.running().admin_address(),
            path: "/v1/metrics",
        },
        Target {
            address: exposed.address(),
            path: "/metrics",
        },
    ];
    let load = Load::mixed(client, 8);
    let strangers = Load::with_wrong_key(server.address());
    let Some(prometheus) = Prometheus::start(&targets, &rule_files()) else {
        return;
    };

    for Query { place, expr } in panel_queries() {
        prometheus.wait_for(&place, &expr);
    }
    for (Query { place, expr }, label) in variable_queries() {
        let samples = prometheus.wait_for(&place, &expr);
        let has_label = samples
            .iter()
            .any(|sample| sample.labels[&label].is_string());
        assert!(has_label, "{place}: {expr} has no label {label}");
    }
    for rule in prometheus.rules() {
        let name = rule["name"].as_str().expect("has a name");
        assert_eq!(rule["health"], "ok", "{name}: {}", rule["lastError"]);
        let query = rule["query"].as_str().expect("has a query");
        for series in series_names(query) {
            prometheus.wait_for(name, &series);
        }
        if rule["type"] == "recording" {
            prometheus.wait_for(name, name);
        }
    }
    let exemplars = prometheus
        .exemplars("memkv_op_duration_seconds_bucket")
        .expect("exemplars can be queried");
    let has_trace = exemplars.iter().any(|series| {
        let exemplars = series["exemplars"].as_array();
        exemplars
            .into_iter()
            .flatten()
            .any(|one| one["labels"]["trace_id"].is_string())
    });
    assert!(has_trace, "no exemplar leads to a trace: {exemplars:?}");

    let metrics = ureq::get(server.url("/v1/metrics"))
        .call()
        .expect("metrics are served");
    let metrics = metrics.into_body().read_to_string().expect("is text");
    let lines = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .count();
    assert!((500..=SERIES_MAX).contains(&lines), "{lines} lines");
    if let Some(Err(fault)) = promtool(Path::new("."), &["check", "metrics"], &metrics) {
        panic!("{fault}");
    }
    drop((load, strangers));
}
