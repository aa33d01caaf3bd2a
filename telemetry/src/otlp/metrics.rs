//! A snapshot of what was counted, as an OTLP request.
//!
//! Names, label values and buckets are those of the exposition. Sums and histograms are cumulative since
//! the telemetry started, so a request that gets lost costs resolution and no counts. A request has at
//! most [`crate::metrics::SERIES_MAX`] numbers.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    self as otlp, AggregationTemporality, HistogramDataPoint, NumberDataPoint, exemplar, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::metrics::{Kind, Series, Unit};
use crate::snapshot::{Exemplar, Family, Sample, Value};

/// What all requests of a process have in common.
pub(crate) struct MetricShape {
    resource: Resource,
    scope: InstrumentationScope,
    /// When counting began.
    start_unix_ns: u64,
}

impl MetricShape {
    pub(crate) fn new(
        resource: &opentelemetry_sdk::Resource,
        version: &str,
        start_unix_ns: u64,
    ) -> MetricShape {
        let attributes = resource
            .iter()
            .map(|(key, value)| attribute(key.as_str(), &value.as_str()));
        MetricShape {
            resource: Resource {
                attributes: attributes.collect(),
                ..Default::default()
            },
            scope: InstrumentationScope {
                name: "memkv".to_owned(),
                version: version.to_owned(),
                ..Default::default()
            },
            start_unix_ns,
        }
    }

    /// The families that have samples, as of `now_unix_ns`.
    pub(crate) fn request(
        &self,
        families: &[Family],
        now_unix_ns: u64,
    ) -> ExportMetricsServiceRequest {
        // A wall clock that was set back must not make an interval end before it begins.
        let times = Times {
            start_unix_ns: self.start_unix_ns,
            now_unix_ns: now_unix_ns.max(self.start_unix_ns),
        };
        let metrics = families
            .iter()
            .filter(|family| !family.samples.is_empty())
            .map(|family| times.metric(family))
            .collect();
        ExportMetricsServiceRequest {
            resource_metrics: vec![otlp::ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![otlp::ScopeMetrics {
                    scope: Some(self.scope.clone()),
                    metrics,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        }
    }
}

#[derive(Clone, Copy)]
struct Times {
    start_unix_ns: u64,
    now_unix_ns: u64,
}

impl Times {
    fn metric(self, family: &Family) -> otlp::Metric {
        let series = family.series;
        let temporality = AggregationTemporality::Cumulative.into();
        let numbers = || {
            family
                .samples
                .iter()
                .filter_map(|sample| self.number(series, sample))
                .collect()
        };
        let data = match series.kind {
            Kind::Counter => metric::Data::Sum(otlp::Sum {
                data_points: numbers(),
                aggregation_temporality: temporality,
                is_monotonic: true,
            }),
            Kind::Gauge => metric::Data::Gauge(otlp::Gauge {
                data_points: numbers(),
            }),
            Kind::Histogram => metric::Data::Histogram(otlp::Histogram {
                data_points: family
                    .samples
                    .iter()
                    .filter_map(|sample| self.histogram(series, sample))
                    .collect(),
                aggregation_temporality: temporality,
            }),
        };
        otlp::Metric {
            name: series.name.to_owned(),
            description: series.help.to_owned(),
            unit: unit(series.unit).to_owned(),
            data: Some(data),
            ..Default::default()
        }
    }

    fn number(self, series: &Series, sample: &Sample) -> Option<NumberDataPoint> {
        let Value::Number(number) = sample.value else {
            return None;
        };
        let value = match series.unit {
            Unit::Seconds => number_data_point::Value::AsDouble(number),
            Unit::Count | Unit::Bytes => number_data_point::Value::AsInt(number as i64),
        };
        // A gauge has no beginning.
        let is_gauge = series.kind == Kind::Gauge;
        Some(NumberDataPoint {
            attributes: attributes(series, sample),
            start_time_unix_nano: if is_gauge { 0 } else { self.start_unix_ns },
            time_unix_nano: self.now_unix_ns,
            value: Some(value),
            ..Default::default()
        })
    }

    fn histogram(self, series: &Series, sample: &Sample) -> Option<HistogramDataPoint> {
        let Value::Histogram {
            cumulative,
            count,
            sum,
            exemplars,
        } = &sample.value
        else {
            return None;
        };
        let mut below = 0;
        let bucket_counts = cumulative.iter().chain(std::iter::once(count)).map(|seen| {
            let within = seen - below;
            below = *seen;
            within
        });
        Some(HistogramDataPoint {
            attributes: attributes(series, sample),
            start_time_unix_nano: self.start_unix_ns,
            time_unix_nano: self.now_unix_ns,
            count: *count,
            sum: Some(*sum),
            bucket_counts: bucket_counts.collect(),
            explicit_bounds: series.buckets.to_vec(),
            exemplars: exemplars.iter().flatten().map(to_otlp).collect(),
            ..Default::default()
        })
    }
}

fn to_otlp(exemplar: &Exemplar) -> otlp::Exemplar {
    otlp::Exemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: exemplar.unix_ms.saturating_mul(1_000_000),
        span_id: exemplar.span_id.to_vec(),
        trace_id: exemplar.trace_id.to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.value)),
    }
}

/// UCUM's name of a unit. Plain numbers have none: with `1`, a collector that speaks Prometheus would call
/// a gauge a ratio.
fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "",
        Unit::Bytes => "By",
        Unit::Seconds => "s",
    }
}

fn attributes(series: &Series, sample: &Sample) -> Vec<KeyValue> {
    let labels = series.labels.iter().zip(&sample.labels);
    labels
        .map(|(label, value)| attribute(label.name(), value))
        .collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..Default::default()
    }
}
