//! What is told about ops, and where that goes.

use std::time::Duration;

use memkv_settings::{Environment, Setting, Source};
use memkv_telemetry::OtlpProtocol;

use super::super::raw::{OtlpProtocolChoice, RawConfig, RawSlow, RawTelemetry};
use super::super::{Slow, Telemetry, rules};
use super::Checker;

/// `OTEL_EXPORTER_OTLP_ENDPOINT` counts only where nothing of ours names a collector.
pub(super) fn fall_back_to_otel(raw: &mut RawConfig, environment: &Environment) {
    const NAME: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let endpoint = &mut raw.telemetry.otlp_endpoint;
    if let (None, Some(url)) = (&endpoint.value, environment.get(NAME)) {
        let url = Some(url.to_owned());
        // Other programs' variable: a value that isn't for us is no reason to refuse.
        if rules::otlp_endpoint(&url).is_ok() {
            *endpoint = Setting {
                value: url,
                source: Source::Env(NAME),
            };
        }
    }
}

impl Checker<'_> {
    pub(super) fn telemetry(&mut self, raw: RawTelemetry) -> Telemetry {
        let RawTelemetry {
            otlp_endpoint,
            otlp_protocol,
            sample_ratio,
            spans_per_second,
            logs_otlp,
            slow,
        } = raw;
        let RawSlow {
            base_ms,
            per_mib_ms,
            times_median,
        } = slow;
        if logs_otlp.value && otlp_endpoint.value.is_none() {
            self.warn(format!(
                "{}: telemetry.logs_otlp is true, but telemetry.otlp_endpoint is not set; logs go to stderr only",
                logs_otlp.source
            ));
        }
        let protocol = match otlp_protocol.value {
            OtlpProtocolChoice::Grpc => OtlpProtocol::Grpc,
            OtlpProtocolChoice::Http => OtlpProtocol::Http,
            OtlpProtocolChoice::Auto => {
                let endpoint = otlp_endpoint.value.as_deref();
                let found = endpoint.map(|endpoint| OtlpProtocol::detect(endpoint, None));
                let word = match found {
                    Some(OtlpProtocol::Http) => "auto: http",
                    Some(OtlpProtocol::Grpc) => "auto: grpc",
                    None => "auto",
                };
                if found.is_some() {
                    let from = Source::Detected("telemetry.otlp_endpoint".into());
                    self.show("telemetry.otlp_protocol", word.to_owned(), from);
                }
                found.unwrap_or(OtlpProtocol::Grpc)
            }
        };
        let milliseconds = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
        Telemetry {
            otlp_endpoint: otlp_endpoint.value,
            otlp_protocol: protocol,
            sample_ratio: sample_ratio.value,
            spans_per_second: spans_per_second.value,
            logs_otlp: logs_otlp.value,
            slow: Slow {
                base: milliseconds(base_ms.value),
                per_mib: milliseconds(per_mib_ms.value),
                times_median: Some(times_median.value).filter(|times| *times > 0.0),
            },
        }
    }
}
