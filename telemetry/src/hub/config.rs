//! What a process's telemetry is to do.

use std::time::Duration;

use crate::otlp::OtlpProtocol;
use crate::recorder::RING_TIMELINES;
use crate::slow::SlowPolicy;
use crate::timeline::Role;

/// Where to send spans, a client's metrics and, if wanted, log records.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    /// `http://HOST:PORT` or `HOST:PORT`.
    pub endpoint: String,
    /// How to speak to it; [`OtlpProtocol::detect`] where it isn't configured.
    pub protocol: OtlpProtocol,
    /// What one send may take.
    pub timeout: Duration,
    /// How often a client's metrics are sent; a server's are scraped.
    pub metrics_every: Duration,
}

impl OtlpConfig {
    /// A collector at `endpoint`, by the protocol that fits it, with 5 s for a send and 10 s between metrics.
    pub fn new(endpoint: impl Into<String>) -> OtlpConfig {
        let endpoint = endpoint.into();
        let protocol = OtlpProtocol::detect(&endpoint, None);
        OtlpConfig {
            endpoint,
            protocol,
            timeout: Duration::from_secs(5),
            metrics_every: Duration::from_secs(10),
        }
    }
}

/// What a process's telemetry is to do.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// Server or client.
    pub role: Role,
    /// The build's version, for `memkv_build_info` and spans.
    pub version: String,
    /// The node's identity, for spans.
    pub instance: String,
    /// The data port, for a server's spans.
    pub server_port: u16,
    /// A client's servers, as configured.
    pub servers: Vec<String>,
    /// Share of operations without a caller's trace that start a sampled one, 0 to 1.
    pub sample_ratio: f64,
    /// The most operations per second that become spans by sampling; as many again for being slow or
    /// failed.
    pub spans_per_second: u32,
    /// From when on an op is slow.
    pub slow: SlowPolicy,
    /// Where spans and a client's metrics go; `None` sends none.
    pub otlp: Option<OtlpConfig>,
    /// The name of a wire error code.
    pub error_name: fn(u16) -> &'static str,
    /// Timelines a thread's ring holds.
    pub ring_timelines: usize,
}

impl TelemetryConfig {
    /// A process of this role and version, with defaults and no collector.
    pub fn new(role: Role, version: impl Into<String>) -> TelemetryConfig {
        TelemetryConfig {
            role,
            version: version.into(),
            instance: String::new(),
            server_port: 0,
            servers: Vec::new(),
            sample_ratio: 1.0 / 4096.0,
            spans_per_second: 200,
            slow: SlowPolicy::default(),
            otlp: None,
            error_name: |_| "error",
            ring_timelines: RING_TIMELINES,
        }
    }
}
