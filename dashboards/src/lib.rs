//! Grafana dashboards and Prometheus rules, generated from the declared table of series.
//!
//! Whatever memkv emits is shown: a test compares the table with what panels, alerts and rules use.
//! Expressions are built from telemetry's constants, so a renamed series breaks the build and a
//! label that isn't declared breaks generation. The JSON and YAML are committed; a test compares,
//! and writes them anew when `MEMKV_BLESS=1` (or `cargo xtask dashboards`).
//!
//! To add a panel or an alert, see the recipe in ARCHITECTURE.md.
#![forbid(unsafe_code)]

pub mod grafana;
mod overview;
pub mod promql;
pub mod rules;
mod tail_latency;

#[cfg(test)]
mod lint;

use grafana::Dashboard;
use memkv_telemetry::metrics;

/// One committed file.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Relative to this crate's folder.
    pub path: &'static str,
    /// Its whole content.
    pub text: String,
}

/// Every dashboard, with the file it is written to.
pub fn dashboards() -> Vec<(&'static str, Dashboard)> {
    vec![
        ("json/overview.json", overview::overview()),
        ("json/tail-latency.json", tail_latency::tail_latency()),
    ]
}

/// Everything that is committed.
pub fn generate() -> Vec<Generated> {
    let mut files: Vec<Generated> = dashboards()
        .into_iter()
        .map(|(path, dashboard)| {
            let text = dashboard.render(metrics::BUILD_INFO.name);
            Generated { path, text }
        })
        .collect();
    files.push(Generated {
        path: "alerts/memkv-alerts.yaml",
        text: rules::alerts_yaml(),
    });
    files.push(Generated {
        path: "alerts/memkv-recorded.yaml",
        text: rules::recorded_yaml(),
    });
    files
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use memkv_telemetry::metrics::SERIES;

    use super::*;

    /// Declared, documented in docs/metrics.md, and on purpose on no dashboard and in no rule.
    const NOT_SHOWN: &[(&str, &str)] = &[];

    /// Every expression of every panel, rule and alert.
    fn expressions() -> Vec<String> {
        let mut all = Vec::new();
        for (_, dashboard) in dashboards() {
            for panel in dashboard.panels() {
                all.extend(panel.exprs().map(|expr| expr.to_string()));
            }
        }
        all.extend(rules::alerts().iter().map(|alert| alert.expr.to_string()));
        all.extend(
            rules::recorded()
                .iter()
                .map(|record| record.expr.to_string()),
        );
        all
    }

    #[test]
    fn generated_files_are_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut stale = Vec::new();
        for file in generate() {
            let path = root.join(file.path);
            if std::env::var_os("MEMKV_BLESS").is_some() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, &file.text).unwrap();
            }
            if fs::read_to_string(&path).is_ok_and(|text| text == file.text) {
                continue;
            }
            stale.push(file.path);
        }
        assert!(
            stale.is_empty(),
            "{stale:?} differ; run `cargo xtask dashboards` and commit"
        );
    }

    #[test]
    fn no_file_lies_beside_the_generated_ones() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let known: BTreeSet<_> = generate().iter().map(|file| root.join(file.path)).collect();
        for dir in ["json", "alerts"] {
            for entry in fs::read_dir(root.join(dir)).unwrap() {
                let path = entry.unwrap().path();
                assert!(
                    known.contains(&path),
                    "nothing generates {}",
                    path.display()
                );
            }
        }
    }

    #[test]
    fn every_declared_series_is_shown_or_said_not_to_be() {
        let expressions = expressions();
        for series in SERIES {
            let is_shown = expressions.iter().any(|expr| mentions(expr, series.name));
            let is_excused = NOT_SHOWN.iter().any(|(name, _)| *name == series.name);
            assert!(
                is_shown != is_excused,
                "{} has to be on a dashboard or in a rule, or else in NOT_SHOWN",
                series.name
            );
        }
    }

    /// Whether a series' name occurs as a whole word, with or without a histogram's suffix.
    fn mentions(expr: &str, name: &str) -> bool {
        lint::metric_names(expr).iter().any(|used| {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| used.strip_suffix(end));
            used == name || base == Some(name)
        })
    }

    #[test]
    fn every_alert_has_a_section_in_the_runbook_and_a_rule_test() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let runbook = fs::read_to_string(root.join("../docs/alerts.md")).unwrap();
        let tests = fs::read_to_string(root.join("tests/alerts.yaml")).unwrap();
        for alert in rules::alerts() {
            let heading = format!("\n## {}\n", alert.name);
            assert!(
                runbook.contains(&heading),
                "docs/alerts.md has no section {}",
                alert.name
            );
            let name = format!("alertname=\"{}\"", alert.name);
            let mut cases = tests.split("\n  - name: ").skip(1);
            let case = cases.find(|case| case.contains(&name));
            let case =
                case.unwrap_or_else(|| panic!("tests/alerts.yaml has no case for {}", alert.name));
            for (part, why) in [
                ("\n            value: 1", "in which it fires"),
                (
                    "\n        exp_samples: []",
                    "at a time when it doesn't fire",
                ),
                ("instance=\"good\"", "with an instance that is all right"),
            ] {
                assert!(
                    case.contains(part),
                    "tests/alerts.yaml has no case {why} for {}",
                    alert.name
                );
            }
        }
        for section in runbook
            .lines()
            .filter_map(|line| line.strip_prefix("## Memkv"))
        {
            let is_known = rules::alerts()
                .iter()
                .any(|alert| alert.name.ends_with(section));
            assert!(
                is_known,
                "docs/alerts.md describes Memkv{section}, which is no alert"
            );
        }
    }

    #[test]
    fn recorded_names_are_unique_and_alerts_too() {
        let mut names = BTreeSet::new();
        for name in rules::alerts().iter().map(|alert| alert.name) {
            assert!(names.insert(name), "{name} occurs twice");
        }
        for name in rules::recorded().iter().map(|record| record.name) {
            assert!(names.insert(name), "{name} occurs twice");
        }
    }
}
