use std::collections::BTreeSet;
use std::path::Path;

use super::*;

#[test]
fn the_docs_are_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("MEMKV_BLESS").is_some() {
        std::fs::write(&path, metrics_md()).unwrap();
    }
    let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        on_disk == metrics_md(),
        "docs/metrics.md differs; run MEMKV_BLESS=1 cargo test -p memkv-telemetry and commit"
    );
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for series in SERIES {
        let name = series.name;
        assert!(names.insert(name), "{name} is declared twice");
        assert!(name.starts_with("memkv_"), "{name}");
        assert_eq!(
            series.kind == Kind::Counter,
            name.ends_with("_total"),
            "{name}"
        );
        if series.unit != Unit::Count {
            assert!(
                series.family_name().ends_with(series.unit.name()),
                "{name} hides its unit"
            );
        }
        assert!(series.help.ends_with('.'), "{name}");
        assert_eq!(
            series.kind == Kind::Histogram,
            !series.buckets.is_empty(),
            "{name}"
        );
        assert!(series.buckets.is_sorted_by(|a, b| a < b), "{name}");
    }
}

/// What users were promised, written down by hand: a series that is renamed, or has other labels, breaks their
/// dashboards although ours follow by themselves.
const PROMISED: &[(&str, &[&str])] = &[
    (
        "memkv_op_duration_seconds",
        &["op", "transport", "tier", "outcome"],
    ),
    ("memkv_entries_total", &["op", "tier", "outcome"]),
    ("memkv_stage_duration_seconds", &["op", "stage"]),
    ("memkv_batch_entries", &["op"]),
    ("memkv_bytes_total", &["op", "direction"]),
    ("memkv_slabs", &["state"]),
    ("memkv_slab_wait_seconds", &[]),
    ("memkv_drive_io_duration_seconds", &["drive", "op"]),
    ("memkv_drive_used_bytes", &["drive"]),
    ("memkv_drive_capacity_bytes", &["drive"]),
    ("memkv_drive_errors_total", &["drive", "op"]),
    ("memkv_drive_up", &["drive"]),
    ("memkv_evictions_total", &["reason"]),
    ("memkv_never_read_bytes_total", &[]),
    ("memkv_auth_failures_total", &["reason"]),
    ("memkv_clock_skew_seconds", &[]),
    ("memkv_connections", &["transport"]),
    ("memkv_slow_ops_total", &["op", "blame"]),
    ("memkv_spans_total", &["decision"]),
    ("memkv_timelines_lost_total", &[]),
    ("memkv_exporter_dropped_total", &["exporter"]),
    ("memkv_scrape_duration_seconds", &[]),
    ("memkv_auth_key_uses_total", &["key"]),
    ("memkv_build_info", &["version"]),
    ("memkv_client_step_seconds", &["op", "step"]),
];

#[test]
fn every_promised_series_is_declared_with_its_labels() {
    for (name, expected) in PROMISED {
        let series = SERIES.iter().find(|series| series.name == *name);
        let series = series.unwrap_or_else(|| panic!("{name} isn't declared"));
        let labels: Vec<&str> = series.labels.iter().map(Label::name).collect();
        assert_eq!(labels, *expected, "{name}");
    }
    assert_eq!(SERIES_MAX, 5_000);
}

#[test]
fn latency_buckets_run_from_1_us_to_30_s() {
    for series in SERIES.iter().filter(|series| series.unit == Unit::Seconds) {
        if let (Some(first), Some(last)) = (series.buckets.first(), series.buckets.last()) {
            assert!(*first == 1e-6 && *last >= 30.0, "{}", series.name);
        }
    }
}
