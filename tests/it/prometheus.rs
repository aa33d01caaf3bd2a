//! What ships for Prometheus and Grafana, against a real Prometheus that scrapes a real server.
//!
//! The dashboards and rules are read as committed, so what is checked is what a user imports.

use std::fs;
use std::path::{Path, PathBuf};

use memkv_tests::prometheus::promtool;
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

/// Every query of every committed dashboard, its variables filled in as Grafana would for "All".
fn panel_queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for entry in fs::read_dir(dashboards().join("json")).expect("dashboards are committed") {
        let path = entry.expect("can be listed").path();
        let text = fs::read_to_string(&path).expect("can be read");
        let dashboard: Value = serde_json::from_str(&text).expect("is JSON");
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

#[test]
fn promtool_finds_no_fault_with_rules_and_panels() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // promtool parses rules only, so each panel's query becomes one.
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (idx, query) in panel_queries().iter().enumerate() {
        let Query { place, expr } = query;
        let expr = serde_json::to_string(expr).expect("a string");
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
