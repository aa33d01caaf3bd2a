//! What the client shows of itself: a Timeline per request frame, counters of connections, and whoever exports them.
//!
//! Exporters are the process's, not a client's: the first client whose configuration asks for one starts them, all later
//! ones share them. Where nobody asks, there is no recorder and an op costs nothing here but a branch.

use std::sync::OnceLock;
use std::time::Duration;

use memkv_proto::blocks;
use memkv_proto::op::{ErrorCode, OpCode};
use memkv_telemetry::clock::Tick;
use memkv_telemetry::listener::MetricsListener;
use memkv_telemetry::{
    ClientMetrics, ConnectionState, OpKind, OtlpConfig, OutcomeLabel, Recorder, RetryReason, Role,
    Step, Telemetry, TelemetryConfig, Tier, TraceContext, Transport,
};
use parking_lot::Mutex;
use tracing::warn;

use crate::config::ClientConfig;
use crate::error::{EntryOutcome, OpError};
use crate::pump::op::{Body, Op};
use crate::shared::BuildError;

/// The telemetry of the process, once a client has started it.
static INSTALLED: OnceLock<Installed> = OnceLock::new();
/// Held while it is being started, so that two clients don't both try.
static INSTALLING: Mutex<()> = Mutex::new(());

struct Installed {
    telemetry: Telemetry,
    asked: (Option<String>, Option<String>),
    /// Serves as long as it lives, and a static lives for ever.
    _listener: Option<MetricsListener>,
}

/// A client's part of it.
pub(crate) struct Meter {
    telemetry: Option<Telemetry>,
    metrics: ClientMetrics,
}

impl Meter {
    /// Starts what the configuration asks for, or joins what runs already.
    pub(crate) fn from_config(config: &ClientConfig) -> Result<Self, BuildError> {
        let asked = (config.otel_endpoint.clone(), config.prometheus_bind.clone());
        if asked == (None, None) {
            return Ok(Self::new(None, config));
        }
        let installing = INSTALLING.lock();
        let installed = match INSTALLED.get() {
            Some(installed) => installed,
            None => {
                let started = install(config, asked.clone())?;
                INSTALLED.get_or_init(|| started)
            }
        };
        drop(installing);
        if installed.asked != asked {
            warn!(
                otel_endpoint = ?asked.0, prometheus_bind = ?asked.1,
                running_otel_endpoint = ?installed.asked.0, running_prometheus_bind = ?installed.asked.1,
                "this process exports its telemetry elsewhere already; keeping that"
            );
        }
        Ok(Self::new(Some(installed.telemetry.clone()), config))
    }

    /// Records into `telemetry`, or nowhere.
    pub(crate) fn new(telemetry: Option<Telemetry>, config: &ClientConfig) -> Self {
        let metrics = match &telemetry {
            Some(telemetry) => telemetry.client_metrics(),
            None => {
                let servers: Vec<String> = config
                    .servers
                    .iter()
                    .map(|server| server.server.clone())
                    .collect();
                ClientMetrics::for_servers(&servers)
            }
        };
        metrics.set_transport(Transport::Tcp);
        Self { telemetry, metrics }
    }

    /// What the client counts into.
    pub(crate) fn metrics(&self) -> &ClientMetrics {
        &self.metrics
    }

    /// What one lane, or one I/O thread, records with.
    pub(crate) fn scribe(&self) -> Scribe {
        Scribe {
            recorder: self.telemetry.as_ref().map(Telemetry::recorder),
        }
    }

    pub(crate) fn connection_moved(
        &self,
        server: usize,
        from: Option<ConnectionState>,
        to: Option<ConnectionState>,
    ) {
        self.metrics.connection_moved(server, from, to);
    }

    pub(crate) fn retried(&self) {
        self.metrics.retried(RetryReason::Connection);
    }
}

fn install(
    config: &ClientConfig,
    asked: (Option<String>, Option<String>),
) -> Result<Installed, BuildError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source: Box<dyn std::error::Error + Send + Sync>| BuildError::Telemetry {
            what,
            source,
        }
    };
    let mut wanted = TelemetryConfig::new(Role::Client, env!("CARGO_PKG_VERSION"));
    wanted.instance = crate::shared::node_name();
    wanted.servers = config
        .servers
        .iter()
        .map(|server| server.server.clone())
        .collect();
    wanted.sample_ratio = config.trace_ratio;
    wanted.error_name = error_name;
    wanted.otlp = config.otel_endpoint.as_ref().map(OtlpConfig::new);
    let telemetry = Telemetry::new(wanted);
    let endpoint = config.otel_endpoint.as_deref().unwrap_or("none");
    let telemetry =
        telemetry.map_err(|error| failed(&format!("otel_endpoint {endpoint}"))(Box::new(error)))?;
    // OTLP wins where both are set.
    let listener = match (&config.otel_endpoint, &config.prometheus_bind) {
        (None, Some(bind)) => {
            let listener = MetricsListener::start(bind, telemetry.clone());
            let listener = listener
                .map_err(|error| failed(&format!("prometheus_bind {bind}"))(Box::new(error)))?;
            Some(listener)
        }
        _ => None,
    };
    Ok(Installed {
        telemetry,
        asked,
        _listener: listener,
    })
}

/// Sends what the process's exporters still hold; to be called before a process ends, if it can wait for `timeout`.
///
/// Closing a client doesn't do it, because other clients of the process share the exporters.
///
/// # Errors
/// When the collector didn't take everything.
pub fn shutdown_telemetry(timeout: Duration) -> Result<(), UnsentTelemetry> {
    let Some(installed) = INSTALLED.get() else {
        return Ok(());
    };
    if installed.telemetry.shutdown(timeout) {
        return Ok(());
    }
    let endpoint = installed.asked.0.clone().unwrap_or_default();
    Err(UnsentTelemetry { endpoint, timeout })
}

/// Traces or metrics of this process are lost.
#[derive(Debug, thiserror::Error)]
#[error(
    "the collector {endpoint} didn't take all traces and metrics, for which it had {} ms at the end; check that it runs, \
     or unset otel_endpoint (MEMKV_OTEL_ENDPOINT)",
    .timeout.as_millis()
)]
pub struct UnsentTelemetry {
    /// The collector's address.
    pub endpoint: String,
    /// How long the end waited for it.
    pub timeout: Duration,
}

fn error_name(code: u16) -> &'static str {
    match code {
        TRANSPORT_ERROR => "transport",
        _ => ErrorCode::from_wire(code).map_or("unknown", ErrorCode::name),
    }
}

/// What a Timeline carries as its error where no server answered; 0 and 1 can't be errors on the wire.
const TRANSPORT_ERROR: u16 = 1;

/// Records the ops of one lane. Does nothing where nobody exports.
pub(crate) struct Scribe {
    recorder: Option<Recorder>,
}

impl Scribe {
    /// Gives each op a span and puts it into its frame; without an exporter, only passes the caller's trace on. All frames of
    /// one call are in one trace.
    pub(crate) fn begin(
        &mut self,
        ops: &mut [Op<'_>],
        caller: Option<blocks::TraceContext>,
        start: Tick,
    ) {
        let Some(recorder) = &mut self.recorder else {
            if caller.is_some() {
                for op in ops {
                    op.trace = caller;
                }
            }
            return;
        };
        let mut parent = caller.map(|caller| TraceContext {
            trace_id: caller.trace_id,
            span_id: caller.span_id,
            flags: caller.flags,
        });
        for op in ops {
            let Some(kind) = kind(op.code) else { continue };
            let mut timeline = recorder.begin_client(kind, Transport::Tcp, start, parent);
            timeline.server_idx = u16::try_from(op.server).unwrap_or(u16::MAX);
            // The first frame of a call without a caller's trace makes one; the others join it.
            parent.get_or_insert(timeline.trace);
            op.trace = Some(blocks::TraceContext {
                version: 0,
                trace_id: timeline.trace.trace_id,
                span_id: timeline.span_id,
                flags: timeline.trace.flags,
            });
            op.timeline = Some(Box::new(timeline));
        }
    }

    /// Records an op that is settled.
    pub(crate) fn finish(&mut self, op: &mut Op<'_>) {
        let (Some(recorder), Some(mut timeline)) = (&mut self.recorder, op.timeline.take()) else {
            return;
        };
        let steps = &op.steps;
        let mut stamp = |step, from: Option<Tick>, to: Option<Tick>| {
            if let (Some(from), Some(to)) = (from, to) {
                timeline.stamp_step(step, from, to);
            }
        };
        let start = timeline_start(op);
        stamp(Step::Queue, start, steps.begun.or(steps.settled));
        stamp(
            Step::Checksum,
            steps.begun.filter(|_| op.payload_count() > 0),
            steps.sealed,
        );
        stamp(Step::Send, steps.sealed, steps.sent.or(steps.settled));
        stamp(Step::Wait, steps.sent, steps.answered.or(steps.settled));
        stamp(Step::Receive, steps.answered, steps.settled);
        count(&mut timeline, op);
        let end = steps.settled.unwrap_or_else(memkv_telemetry::clock::now);
        timeline.finish(end);
        recorder.record(&timeline);
    }
}

fn timeline_start(op: &Op<'_>) -> Option<Tick> {
    op.steps.submitted
}

fn kind(code: OpCode) -> Option<OpKind> {
    match code {
        OpCode::Put => Some(OpKind::Put),
        OpCode::Get => Some(OpKind::Get),
        OpCode::Delete => Some(OpKind::Delete),
        OpCode::Exists => Some(OpKind::Exists),
        OpCode::BatchWrite => Some(OpKind::BatchWrite),
        OpCode::BatchRead => Some(OpKind::BatchRead),
        _ => None,
    }
}

/// Counts an op's entries and bytes. The client doesn't know which tier served it.
fn count(timeline: &mut memkv_telemetry::Timeline, op: &Op<'_>) {
    let failed = |error: &OpError| match error.outcome() {
        EntryOutcome::Error(code) => code.to_wire(),
        _ => TRANSPORT_ERROR,
    };
    let add =
        |timeline: &mut memkv_telemetry::Timeline, result: Result<bool, &OpError>| match result {
            Ok(true) => timeline.count(Tier::None, OutcomeLabel::Ok, 1),
            Ok(false) => timeline.count(Tier::None, OutcomeLabel::Miss, 1),
            Err(error) => {
                timeline.count(Tier::None, OutcomeLabel::Error, 1);
                timeline.fail(failed(error));
            }
        };
    match &op.body {
        Body::Write(entries) => {
            for entry in entries {
                timeline.bytes_in += entry.value.as_slice().len() as u64;
                if let Some(result) = &entry.result {
                    add(timeline, result.as_ref().map(|_| true));
                }
            }
        }
        Body::Read(entries) => {
            for entry in entries {
                if let Some(result) = &entry.result {
                    timeline.bytes_out += result
                        .as_ref()
                        .ok()
                        .and_then(|found| *found)
                        .map_or(0, |meta| meta.len);
                    add(timeline, result.as_ref().map(Option::is_some));
                }
            }
        }
        Body::Keys(entries) => {
            for entry in entries {
                if let Some(result) = &entry.result {
                    add(timeline, result.as_ref().map(|there| *there));
                }
            }
        }
        Body::Bare(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memkv_settings::AuthKey;

    #[test]
    fn otlp_wins_where_both_exporters_are_asked_for() {
        let started = |otel_endpoint: Option<&str>| {
            let mut config = ClientConfig::new(["127.0.0.1:9900"], AuthKey::new([7; 32]));
            config.prometheus_bind = Some("127.0.0.1:0".to_owned());
            config.otel_endpoint = otel_endpoint.map(str::to_owned);
            install(&config, (None, None)).unwrap()
        };
        assert!(started(None)._listener.is_some());
        // Nobody listens there; an exporter doesn't mind.
        assert!(started(Some("http://127.0.0.1:1"))._listener.is_none());
    }
}
