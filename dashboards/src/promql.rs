//! PromQL over the declared table of series: an expression can name only what exists.
//!
//! A query's functions take a [`Series`], check that the asked labels are declared for it and that
//! its kind fits (a counter only inside `rate`/`increase`), and panic otherwise: generation is a
//! test, so a panic here is a failing test that names the fault. Constants instead of text mean
//! that a renamed or removed series doesn't even compile.

use std::fmt;

use memkv_telemetry::metrics::{Kind, Series};

/// Operations, or entries, that failed.
pub(crate) const ERROR: &[(&str, &str)] = &[("outcome", "error")];
/// Entries that were asked for and there. Puts and deletes are `ok` too, and no hits.
pub(crate) const HIT: &[(&str, &str)] = &[("op", "=~get|batch_read"), ("outcome", "ok")];
/// Entries that were asked for, there or not: what a hit ratio is a share of.
pub(crate) const READS: &[(&str, &str)] = &[("op", "=~get|batch_read"), ("outcome", "=~ok|miss")];

/// One PromQL expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expr(String);

impl Expr {
    /// The text that Prometheus evaluates, once Grafana's variables are filled in.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `self / other`, parted where both are zero: no operations mean no ratio, not zero.
    #[must_use]
    pub fn per(self, other: Expr) -> Expr {
        Expr(format!("{}\n/\n{}", self.0, other.0))
    }

    /// `self > bound`, an alert's condition.
    #[must_use]
    pub fn above(self, bound: &str) -> Expr {
        Expr(format!("{} > {bound}", self.0))
    }

    /// `self < bound`, an alert's condition.
    #[must_use]
    pub fn below(self, bound: &str) -> Expr {
        Expr(format!("{} < {bound}", self.0))
    }

    /// `self`, and zero where only `other` has a sample: a histogram of what never happened has no
    /// series, and "none of them failed" should be drawn as 0, not as no data.
    #[must_use]
    pub fn or_zero_like(self, other: &Expr) -> Expr {
        Expr(format!("({} or 0 * {other})", self.0))
    }

    /// `self + other`.
    #[must_use]
    pub fn plus(self, other: Expr) -> Expr {
        Expr(format!("({} + {})", self.0, other.0))
    }

    /// Without its sign.
    #[must_use]
    pub fn abs(self) -> Expr {
        Expr(format!("abs({})", self.0))
    }

    /// The only sample's value, for arithmetic with many.
    #[must_use]
    pub fn scalar(self) -> Expr {
        Expr(format!("scalar({})", self.0))
    }

    /// Both conditions, with the value of the first.
    #[must_use]
    pub fn and(self, other: Expr) -> Expr {
        Expr(format!("({})\nand\n({})", self.0, other.0))
    }

    /// The expression that this PromQL text is; for what isn't ours (`up`) or was recorded.
    pub fn raw(text: impl Into<String>) -> Expr {
        Expr(text.into())
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the expressions of one document have in common: label matchers and the range of rates.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    matchers: &'static str,
    range: &'static str,
    /// Aggregations keep these besides the asked ones.
    keep: &'static [&'static str],
}

impl Query {
    /// For panels: the chosen jobs and instances, the range that fits the zoom.
    pub const PANEL: Query = Query {
        matchers: "job=~\"$job\",instance=~\"$instance\"",
        range: "$__rate_interval",
        keep: &[],
    };

    /// For rules: everything, per job and instance.
    pub const fn rule(range: &'static str) -> Query {
        Query {
            matchers: "",
            range,
            keep: &["job", "instance"],
        }
    }

    /// Events per second of a counter, summed by `by`.
    pub fn rate(&self, series: &Series, by: &[&str], matching: &[(&str, &str)]) -> Expr {
        self.ranged("rate", series, "", Kind::Counter, by, matching)
    }

    /// Events within the range of a counter, summed by `by`.
    pub fn increase(&self, series: &Series, by: &[&str], matching: &[(&str, &str)]) -> Expr {
        self.ranged("increase", series, "", Kind::Counter, by, matching)
    }

    /// Observations per second of a histogram, summed by `by`.
    pub fn count_rate(&self, series: &Series, by: &[&str], matching: &[(&str, &str)]) -> Expr {
        self.ranged("rate", series, "_count", Kind::Histogram, by, matching)
    }

    /// What a histogram's observations add up to per second, summed by `by`.
    pub fn sum_rate(&self, series: &Series, by: &[&str], matching: &[(&str, &str)]) -> Expr {
        self.ranged("rate", series, "_sum", Kind::Histogram, by, matching)
    }

    /// Mean of a histogram's observations, by `by`.
    pub fn mean(&self, series: &Series, by: &[&str], matching: &[(&str, &str)]) -> Expr {
        self.sum_rate(series, by, matching)
            .per(self.count_rate(series, by, matching))
    }

    /// A histogram's buckets for a heatmap.
    pub fn buckets(&self, series: &Series, matching: &[(&str, &str)]) -> Expr {
        let buckets = self.selector(series, "_bucket", Kind::Histogram, &[], matching);
        let by = self.by_clause(&["le"]);
        Expr(format!("sum{by} (increase({buckets}[{}]))", self.range))
    }

    /// A quantile of a histogram, by `by`.
    pub fn quantile(
        &self,
        quantile: &str,
        series: &Series,
        by: &[&str],
        matching: &[(&str, &str)],
    ) -> Expr {
        let buckets = self.selector(series, "_bucket", Kind::Histogram, by, matching);
        let mut labels = vec!["le"];
        labels.extend(by);
        let by = self.by_clause(&labels);
        let range = self.range;
        Expr(format!(
            "histogram_quantile({quantile}, sum{by} (rate({buckets}[{range}])))"
        ))
    }

    /// A gauge, aggregated by `by` with `sum`, `max`, `min` or `count`.
    pub fn gauge(
        &self,
        aggregation: &str,
        series: &Series,
        by: &[&str],
        matching: &[(&str, &str)],
    ) -> Expr {
        let selector = self.selector(series, "", Kind::Gauge, by, matching);
        Expr(format!("{aggregation}{} ({selector})", self.by_clause(by)))
    }

    fn ranged(
        &self,
        function: &str,
        series: &Series,
        suffix: &str,
        kind: Kind,
        by: &[&str],
        matching: &[(&str, &str)],
    ) -> Expr {
        let selector = self.selector(series, suffix, kind, by, matching);
        let by = self.by_clause(by);
        Expr(format!("sum{by} ({function}({selector}[{}]))", self.range))
    }

    /// `by` clauses of rules keep job and instance; those of panels only what is asked.
    fn by_clause(&self, by: &[&str]) -> String {
        let labels: Vec<&str> = self.keep.iter().chain(by).copied().collect();
        if labels.is_empty() {
            String::new()
        } else {
            format!(" by ({})", labels.join(", "))
        }
    }

    fn selector(
        &self,
        series: &Series,
        suffix: &str,
        kind: Kind,
        by: &[&str],
        matching: &[(&str, &str)],
    ) -> String {
        let name = series.name;
        assert_eq!(
            series.kind, kind,
            "{name} isn't what its query takes it for"
        );
        for label in by.iter().chain(matching.iter().map(|(label, _)| label)) {
            // Prometheus adds these to every target's series.
            let is_targets = matches!(*label, "job" | "instance");
            let is_declared = series.labels.iter().any(|known| known.name() == *label);
            assert!(is_targets || is_declared, "{name} has no label {label}");
        }
        let mut matchers = self.matchers.to_owned();
        for (label, value) in matching {
            if !matchers.is_empty() {
                matchers.push(',');
            }
            // A leading `!`, `=~` or `!~` is the operator; equality needs none.
            let operator_len = value
                .find(|c| !matches!(c, '!' | '=' | '~'))
                .unwrap_or(value.len());
            let (operator, value) = value.split_at(operator_len);
            let operator = match operator {
                "" => "=",
                "!" => "!=",
                other => other,
            };
            matchers.push_str(&format!("{label}{operator}\"{value}\""));
        }
        if matchers.is_empty() {
            format!("{name}{suffix}")
        } else {
            format!("{name}{suffix}{{{matchers}}}")
        }
    }
}

#[cfg(test)]
mod tests {
    use memkv_telemetry::metrics as s;

    use super::*;

    const Q: Query = Query::rule("5m");

    fn check(expr: Expr, expected: &str) {
        assert_eq!(expr.as_str(), expected);
    }

    #[test]
    fn expressions_name_series_labels_and_range() {
        check(
            Q.rate(&s::BYTES_TOTAL, &["op"], &[("direction", "in")]),
            "sum by (job, instance, op) (rate(memkv_bytes_total{direction=\"in\"}[5m]))",
        );
        check(
            Q.quantile("0.99", &s::OP_DURATION, &["op"], &[("outcome", "!error")]),
            "histogram_quantile(0.99, sum by (job, instance, le, op) \
             (rate(memkv_op_duration_seconds_bucket{outcome!=\"error\"}[5m])))",
        );
        check(
            Query::PANEL.gauge("min", &s::DRIVE_UP, &["drive"], &[("drive", "=~$drive")]),
            "min by (drive) (memkv_drive_up{job=~\"$job\",instance=~\"$instance\",drive=~\"$drive\"})",
        );
    }

    #[test]
    #[should_panic(expected = "memkv_bytes_total has no label stage")]
    fn a_label_that_isnt_declared_breaks_generation() {
        let _never = Q.rate(&s::BYTES_TOTAL, &["stage"], &[]);
    }

    #[test]
    #[should_panic(expected = "memkv_bytes_total has no label outcome")]
    fn a_matcher_that_isnt_declared_breaks_generation() {
        let _never = Q.rate(&s::BYTES_TOTAL, &[], ERROR);
    }

    #[test]
    #[should_panic(expected = "memkv_slabs isn't what its query takes it for")]
    fn the_rate_of_a_gauge_breaks_generation() {
        let _never = Q.rate(&s::SLABS, &[], &[]);
    }
}
