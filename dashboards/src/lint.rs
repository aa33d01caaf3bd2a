//! The rules of Grafana's dashboard-linter, checked on the JSON that is committed.
//!
//! Each test carries the linter's name for the rule. `target-logql` and its variants have nothing
//! to look at: no panel asks Loki. That expressions parse (`target-promql`) is also checked by
//! promtool, in the tests that start a real Prometheus.

use serde_json::Value;

use memkv_telemetry::metrics;

use crate::dashboards;

/// A dashboard's file name and JSON.
fn documents() -> Vec<(&'static str, Value)> {
    let render = |(path, dashboard): (&'static str, crate::grafana::Dashboard)| {
        let text = dashboard.render(metrics::BUILD_INFO.name);
        (path, serde_json::from_str(&text).expect("is JSON"))
    };
    dashboards().into_iter().map(render).collect()
}

/// Every panel that shows data: rows only group.
fn panels(document: &Value) -> impl Iterator<Item = &Value> {
    let panels = document["panels"].as_array().expect("has panels").iter();
    panels.filter(|panel| panel["type"] != "row")
}

fn for_each_panel(check: impl Fn(&str, &Value)) {
    for (path, document) in documents() {
        for panel in panels(&document) {
            check(&format!("{path}: {}", panel["title"]), panel);
        }
    }
}

fn for_each_expr(check: impl Fn(&str, &str)) {
    for_each_panel(|place, panel| {
        for target in panel["targets"].as_array().expect("has targets") {
            check(place, target["expr"].as_str().expect("has an expression"));
        }
    });
}

fn variable<'a>(document: &'a Value, name: &str) -> &'a Value {
    let variables = document["templating"]["list"]
        .as_array()
        .expect("has variables");
    variables
        .iter()
        .find(|variable| variable["name"] == name)
        .expect("has the variable")
}

/// One use of a series in an expression.
struct Selector {
    name: String,
    /// What stands in braces.
    matchers: String,
    /// What stands before it.
    before: String,
}

fn selectors(expr: &str) -> Vec<Selector> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut end = 0;
    while let Some(offset) = expr[end..].find("memkv_") {
        let start = end + offset;
        let length = expr[start..]
            .find(|c| !is_word(c))
            .unwrap_or(expr.len() - start);
        end = start + length;
        let braces = expr[end..]
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        found.push(Selector {
            name: expr[start..end].to_owned(),
            matchers: braces.map_or("", |(matchers, _)| matchers).to_owned(),
            before: expr[..start].to_owned(),
        });
    }
    found
}

/// The names of the series in an expression, with the suffixes of histograms.
pub(crate) fn metric_names(expr: &str) -> Vec<String> {
    selectors(expr)
        .into_iter()
        .map(|selector| selector.name)
        .collect()
}

#[test]
fn template_datasource_rule() {
    for (path, document) in documents() {
        let datasource = variable(&document, "datasource");
        assert_eq!(datasource["type"], "datasource", "{path}");
        assert_eq!(datasource["query"], "prometheus", "{path}");
        assert_eq!(datasource["label"], "Data source", "{path}");
    }
}

#[test]
fn template_job_and_instance_rules() {
    for (path, document) in documents() {
        for (name, label) in [("job", "Job"), ("instance", "Instance")] {
            let variable = variable(&document, name);
            assert_eq!(variable["type"], "query", "{path} {name}");
            assert_eq!(variable["label"], label, "{path} {name}");
            assert_eq!(
                variable["datasource"]["uid"], "${datasource}",
                "{path} {name}"
            );
            assert_eq!(variable["multi"], true, "{path} {name}");
            assert_eq!(variable["includeAll"], true, "{path} {name}");
            assert_eq!(variable["allValue"], ".+", "{path} {name}");
        }
    }
}

#[test]
fn template_on_time_change_reload_rule() {
    for (path, document) in documents() {
        for variable in document["templating"]["list"].as_array().unwrap() {
            if variable["type"] == "query" {
                assert_eq!(variable["refresh"], 2, "{path} {}", variable["name"]);
            }
        }
    }
}

#[test]
fn template_label_promql_rule() {
    for (path, document) in documents() {
        for variable in document["templating"]["list"].as_array().unwrap() {
            if variable["type"] == "query" {
                let query = variable["query"]["query"].as_str().unwrap();
                let is_lookup = query.starts_with("label_values(memkv_") && query.ends_with(')');
                assert!(is_lookup, "{path}: {query}");
            }
        }
    }
}

#[test]
fn panel_datasource_rule() {
    for_each_panel(|place, panel| {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{place}");
    });
}

#[test]
fn panel_title_description_rule() {
    for_each_panel(|place, panel| {
        for key in ["title", "description"] {
            assert!(
                panel[key].as_str().is_some_and(|text| text.len() > 1),
                "{place}: no {key}"
            );
        }
        let description = panel["description"].as_str().unwrap();
        assert!(
            description.ends_with('.'),
            "{place}: a description is a sentence"
        );
        assert!(
            !description.contains("  "),
            "{place}: blanks in the description"
        );
    });
}

#[test]
fn panel_units_rule() {
    for_each_panel(|place, panel| {
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(
            unit.is_some_and(|unit| !unit.is_empty()),
            "{place}: no unit"
        );
    });
}

#[test]
fn panel_no_targets_rule() {
    for_each_panel(|place, panel| {
        assert!(
            !panel["targets"].as_array().unwrap().is_empty(),
            "{place}: nothing to show"
        );
    });
}

#[test]
fn target_promql_rule() {
    for_each_expr(|place, expr| {
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            let balance = expr.matches(open).count() as i64 - expr.matches(close).count() as i64;
            assert_eq!(balance, 0, "{place}: {expr}");
        }
        assert!(
            !metric_names(expr).is_empty(),
            "{place}: {expr} names no series"
        );
    });
}

#[test]
fn target_rate_interval_rule() {
    for_each_expr(|place, expr| {
        for range in expr.split('[').skip(1) {
            assert!(range.starts_with("$__rate_interval]"), "{place}: {expr}");
        }
    });
}

#[test]
fn target_job_and_instance_rules() {
    for_each_expr(|place, expr| {
        for Selector { name, matchers, .. } in selectors(expr) {
            for matcher in ["job=~\"$job\"", "instance=~\"$instance\""] {
                assert!(
                    matchers.contains(matcher),
                    "{place}: {name} without {matcher}"
                );
            }
        }
    });
}

#[test]
fn target_counter_agg_rule() {
    for_each_expr(|place, expr| {
        for Selector { name, before, .. } in selectors(expr) {
            let ends = ["_total", "_count", "_sum", "_bucket"];
            let is_counter = ends.iter().any(|end| name.ends_with(end));
            let is_aggregated = before.ends_with("rate(") || before.ends_with("increase(");
            assert_eq!(is_counter, is_aggregated, "{place}: {name} in {expr}");
        }
    });
}

#[test]
fn uneditable_dashboard_rule() {
    for (path, document) in documents() {
        assert_eq!(document["editable"], false, "{path}");
    }
}

#[test]
fn panels_fit_the_grid_and_never_overlap() {
    for (path, document) in documents() {
        let mut taken = std::collections::HashMap::new();
        let mut ids = std::collections::HashSet::new();
        for panel in document["panels"].as_array().unwrap() {
            assert!(
                ids.insert(panel["id"].as_u64().unwrap()),
                "{path}: an id occurs twice"
            );
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{path}: {}", panel["title"]);
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    let other = taken.insert((x, y), panel["title"].clone());
                    assert_eq!(other, None, "{path}: {} lies on it", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn schema_is_one_that_grafana_9_3_reads() {
    for (path, document) in documents() {
        assert!(
            (37..=39).contains(&document["schemaVersion"].as_u64().unwrap()),
            "{path}"
        );
    }
}

/// The options of each panel type that Grafana 9.3 has, by its own schema.
const OPTIONS: &[(&str, &[&str])] = &[
    ("row", &[]),
    ("timeseries", &["legend", "timezone", "tooltip"]),
    (
        "stat",
        &[
            "colorMode",
            "graphMode",
            "justifyMode",
            "orientation",
            "reduceOptions",
            "text",
            "textMode",
        ],
    ),
    (
        "heatmap",
        &[
            "calculate",
            "calculation",
            "cellGap",
            "cellRadius",
            "cellValues",
            "color",
            "exemplars",
            "filterValues",
            "legend",
            "rowsFrame",
            "showValue",
            "tooltip",
            "yAxis",
        ],
    ),
    ("table", &["footer", "frameIndex", "showHeader", "sortBy"]),
];

#[test]
fn panels_are_of_types_and_have_options_that_grafana_9_3_knows() {
    for (path, document) in documents() {
        for panel in document["panels"].as_array().unwrap() {
            let place = format!("{path}: {}", panel["title"]);
            let known = OPTIONS.iter().find(|(name, _)| panel["type"] == *name);
            let (_, known) = known.unwrap_or_else(|| panic!("{place}: {}", panel["type"]));
            for option in panel["options"].as_object().into_iter().flatten() {
                assert!(known.contains(&option.0.as_str()), "{place}: {}", option.0);
            }
            for target in panel["targets"].as_array().into_iter().flatten() {
                let format = target["format"].as_str().unwrap();
                let expected = match panel["type"].as_str().unwrap() {
                    kind @ ("heatmap" | "table") => kind,
                    _ => "time_series",
                };
                assert_eq!(format, expected, "{place}");
                assert_ne!(target["instant"], target["range"], "{place}");
            }
        }
    }
}

#[test]
fn a_document_is_one_to_import() {
    for (path, document) in documents() {
        for key in ["uid", "title", "description"] {
            let text = document[key].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{path} has no {key}");
        }
        assert!(document["uid"].as_str().unwrap().len() <= 40, "{path}");
        // An id is a place in one Grafana's database: an import with one overwrites what has it there.
        assert_eq!(document.get("id"), None, "{path}");
    }
}

/// What a panel of one row asks, by the row's title.
fn asked<'a>(document: &'a Value, row: &str) -> Vec<(&'a str, &'a Value)> {
    let panels = document["panels"].as_array().expect("has panels").iter();
    let from = panels.skip_while(|panel| panel["type"] != "row" || panel["title"] != row);
    let panels = from.skip(1).take_while(|panel| panel["type"] != "row");
    let exprs = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("has targets").iter();
        targets.map(move |target| (target["expr"].as_str().expect("a query"), panel))
    });
    exprs.collect()
}

#[test]
fn the_overview_tells_rate_errors_and_duration_of_each_operation() {
    let documents = documents();
    let (_, overview) = documents
        .iter()
        .find(|(path, _)| path.ends_with("overview.json"))
        .expect("is generated");
    for (row, parts) in [
        (
            "Rate",
            ["sum by (op) (rate(memkv_op_duration_seconds_count"],
        ),
        ("Errors", ["outcome=\"error\""]),
        ("Duration", ["histogram_quantile(0.99, sum by (le, op)"]),
    ] {
        for part in parts {
            let is_asked = asked(overview, row)
                .iter()
                .any(|(expr, _)| expr.contains(part));
            assert!(is_asked, "row {row} doesn't ask {part}");
        }
    }
}

#[test]
fn tail_latency_has_a_heatmap_with_exemplars_the_stages_and_the_slow_ops() {
    let documents = documents();
    let (_, tail) = documents
        .iter()
        .find(|(path, _)| path.ends_with("tail-latency.json"))
        .expect("is generated");
    let distribution = asked(tail, "Distribution");
    let (expr, panel) = distribution[0];
    assert_eq!(panel["type"], "heatmap");
    assert!(expr.starts_with("sum by (le) (increase(memkv_op_duration_seconds_bucket"));
    assert_eq!(panel["targets"][0]["exemplar"], true);
    // The buckets are counted already, and `le` in a legend is what makes them rows.
    assert_eq!(panel["options"]["calculate"], false);
    assert_eq!(panel["targets"][0]["legendFormat"], "{{le}}");
    let of = |row: &str, part: &str| asked(tail, row).iter().any(|(expr, _)| expr.contains(part));
    assert!(of(
        "Stages",
        "sum by (stage) (rate(memkv_stage_duration_seconds_sum"
    ));
    assert!(of(
        "Slow operations",
        "sum by (blame) (rate(memkv_slow_ops_total"
    ));
}
