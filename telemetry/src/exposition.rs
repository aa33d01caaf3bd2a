//! The two expositions: Prometheus text through crate `prometheus` and a collector of our own, and
//! OpenMetrics with exemplars by the encoder below, over the same snapshot.

use std::fmt::Write as _;
use std::sync::Weak;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use crate::hub::Hub;
use crate::metrics::{Kind, SERIES, Scope, Unit};
use crate::snapshot::{Exemplar, Family, Value};
use crate::timeline::Role;
use crate::trace::hex;

/// What a scraper gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
}

impl Format {
    /// What a request's `Accept` asks for; text where it doesn't ask for OpenMetrics.
    pub fn from_accept(accept: &str) -> Format {
        let asks = |media: &str| {
            let mut parts = media.split(';').map(str::trim);
            let is_ours = parts.next() == Some("application/openmetrics-text");
            is_ours && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
        };
        if accept.split(',').any(|media| asks(media.trim())) {
            Format::OpenMetrics
        } else {
            Format::Text
        }
    }

    /// The reply's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Whether a process of this role exposes a series.
pub(crate) fn is_exposed(scope: Scope, role: Role) -> bool {
    match scope {
        Scope::Both => true,
        Scope::Server => role == Role::Server,
        Scope::Client => role == Role::Client,
    }
}

/// Hands the hub's snapshot to a `prometheus` registry. The registry lies in the hub, hence weakly.
pub(crate) struct HubCollector {
    hub: Weak<Hub>,
    descs: Vec<Desc>,
}

impl HubCollector {
    pub(crate) fn new(hub: Weak<Hub>, role: Role) -> Result<HubCollector, prometheus::Error> {
        let exposed = SERIES
            .iter()
            .filter(|series| is_exposed(series.scope, role));
        let descs = exposed.map(|series| {
            let labels = series
                .labels
                .iter()
                .map(|label| label.name().to_owned())
                .collect();
            Desc::new(
                series.name.to_owned(),
                series.help.to_owned(),
                labels,
                Default::default(),
            )
        });
        Ok(HubCollector {
            hub,
            descs: descs.collect::<Result<_, _>>()?,
        })
    }
}

impl Collector for HubCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let families = self
            .hub
            .upgrade()
            .map(|hub| hub.families())
            .unwrap_or_default();
        families
            .iter()
            .filter(|family| !family.samples.is_empty())
            .map(to_proto)
            .collect()
    }
}

fn to_proto(family: &Family) -> proto::MetricFamily {
    let series = family.series;
    let mut out = proto::MetricFamily::default();
    out.set_name(series.name.to_owned());
    out.set_help(series.help.to_owned());
    out.set_field_type(match series.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    let metrics = family.samples.iter().map(|sample| {
        let pairs = series
            .labels
            .iter()
            .zip(&sample.labels)
            .map(|(label, value)| {
                let mut pair = proto::LabelPair::default();
                pair.set_name(label.name().to_owned());
                pair.set_value(value.to_string());
                pair
            });
        let mut metric = proto::Metric::from_label(pairs.collect());
        match (&sample.value, series.kind) {
            (Value::Number(number), Kind::Gauge) => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(*number);
                metric.set_gauge(gauge);
            }
            (Value::Number(number), _) => {
                let mut counter = proto::Counter::default();
                counter.set_value(*number);
                metric.set_counter(counter);
            }
            (
                Value::Histogram {
                    cumulative,
                    count,
                    sum,
                    ..
                },
                _,
            ) => {
                let buckets = series.buckets.iter().zip(cumulative).map(|(bound, seen)| {
                    let mut bucket = proto::Bucket::default();
                    bucket.set_upper_bound(*bound);
                    bucket.set_cumulative_count(*seen);
                    bucket
                });
                let mut histogram = proto::Histogram::default();
                histogram.set_bucket(buckets.collect());
                histogram.set_sample_count(*count);
                histogram.set_sample_sum(*sum);
                metric.set_histogram(histogram);
            }
        }
        metric
    });
    out.set_metric(metrics.collect());
    out
}

/// OpenMetrics text of families.
pub(crate) fn open_metrics(families: &[Family]) -> String {
    let mut text = String::with_capacity(64 << 10);
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        write_family(&mut text, family);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(text: &mut String, family: &Family) {
    let series = family.series;
    let name = series.family_name();
    _ = writeln!(text, "# TYPE {name} {}", series.kind.name());
    if series.unit != Unit::Count {
        _ = writeln!(text, "# UNIT {name} {}", series.unit.name());
    }
    _ = writeln!(text, "# HELP {name} {}", escaped(series.help));
    for sample in &family.samples {
        let mut labels = String::new();
        for (label, value) in series.labels.iter().zip(&sample.labels) {
            let comma = if labels.is_empty() { "" } else { "," };
            _ = write!(labels, "{comma}{}=\"{}\"", label.name(), escaped(value));
        }
        let braced = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        match &sample.value {
            Value::Number(number) => _ = writeln!(text, "{}{braced} {number}", series.name),
            Value::Histogram {
                cumulative,
                count,
                sum,
                exemplars,
            } => {
                let comma = if labels.is_empty() { "" } else { "," };
                let bounds = series.buckets.iter().map(|bound| bound.to_string());
                let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
                let counts = cumulative.iter().chain(std::iter::once(count));
                for (idx, (bound, seen)) in bounds.zip(counts).enumerate() {
                    _ = write!(
                        text,
                        "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {seen}"
                    );
                    if let Some(Some(exemplar)) = exemplars.get(idx) {
                        write_exemplar(text, exemplar);
                    }
                    text.push('\n');
                }
                _ = writeln!(text, "{name}_sum{braced} {sum}");
                _ = writeln!(text, "{name}_count{braced} {count}");
            }
        }
    }
}

fn write_exemplar(text: &mut String, exemplar: &Exemplar) {
    let (trace, span) = (hex(&exemplar.trace_id), hex(&exemplar.span_id));
    let (seconds, ms) = (exemplar.unix_ms / 1000, exemplar.unix_ms % 1000);
    let value = exemplar.value;
    _ = write!(
        text,
        " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {value} {seconds}.{ms:03}"
    );
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_sent_only_where_it_is_accepted() {
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain;version=0.0.4", Format::Text),
            (
                "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
                Format::OpenMetrics,
            ),
            (
                "text/plain, application/openmetrics-text; q=0",
                Format::Text,
            ),
        ] {
            assert_eq!(Format::from_accept(accept), expected, "{accept:?}");
        }
    }
}
