//! The server's telemetry, built from its configuration.

use std::time::Duration;

use memkv_proto::op::ErrorCode;
use memkv_telemetry::{
    OtlpConfig, OtlpError, OtlpProtocol, Role, SlowPolicy, Telemetry, TelemetryConfig,
};

use crate::config::{self, Config};

/// The telemetry of a server that runs on `config` as `version`, with its threads started.
///
/// Made before the server, so that the log, which counts and may export its lines through it, is there when it starts.
///
/// # Errors
/// When the collector's endpoint can't be one. A collector that isn't there is no error.
pub fn telemetry_of(config: &Config, version: &str) -> Result<Telemetry, OtlpError> {
    let settings = &config.telemetry;
    let otlp = settings.otlp_endpoint.as_ref().map(|endpoint| {
        let protocol = match settings.otlp_protocol {
            config::OtlpProtocol::Grpc => OtlpProtocol::Grpc,
            config::OtlpProtocol::Http => OtlpProtocol::Http,
        };
        OtlpConfig {
            protocol,
            timeout: Duration::from_secs(5),
            ..OtlpConfig::new(endpoint)
        }
    });
    let address = config.network.address;
    Telemetry::new(TelemetryConfig {
        instance: config
            .network
            .node_id
            .clone()
            .unwrap_or_else(|| address.to_string()),
        server_port: address.port(),
        sample_ratio: settings.sample_ratio,
        spans_per_second: settings.spans_per_second,
        slow: SlowPolicy {
            base: settings.slow.base,
            per_mib: settings.slow.per_mib,
            times_median: settings.slow.times_median,
        },
        otlp,
        error_name,
        ..TelemetryConfig::new(Role::Server, version)
    })
}

/// The name of a wire error code.
fn error_name(code: u16) -> &'static str {
    ErrorCode::from_wire(code).map_or("unknown", ErrorCode::name)
}
