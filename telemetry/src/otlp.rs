//! Sends spans, log records and a client's metrics to a collector, by gRPC or HTTP, each from a thread of
//! its own.
//!
//! The queue in front of a thread is bounded and a full one drops; a collector that is gone or stalls
//! costs a time-out on that thread and a count, and nothing anywhere else.

mod connect;
mod metrics;
mod push;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    LogExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, SdkLogRecord};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use crate::labels::Exporter;
use crate::snapshot::Cells;

/// Items that wait for the collector before others are dropped.
const QUEUE_ITEMS: usize = 4096;
/// Items sent together.
const BATCH_ITEMS: usize = 256;
/// How long the first of a batch waits for company.
const BATCH_WAIT: Duration = Duration::from_millis(200);

/// How to speak to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC, usually port 4317.
    Grpc,
    /// HTTP with protobuf bodies, usually port 4318.
    Http,
}

impl OtlpProtocol {
    /// The protocol of an endpoint where none is configured: what `OTEL_EXPORTER_OTLP_PROTOCOL` says,
    /// else HTTP for port 4318 or a path `/v1/…`, else gRPC.
    pub fn detect(endpoint: &str, env_protocol: Option<&str>) -> OtlpProtocol {
        match env_protocol.map(str::trim) {
            Some("grpc") => OtlpProtocol::Grpc,
            Some(name) if name.starts_with("http") => OtlpProtocol::Http,
            _ => {
                let rest = endpoint
                    .split_once("://")
                    .map_or(endpoint, |(_, rest)| rest);
                let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
                let is_http = authority.ends_with(":4318") || path.starts_with("v1/");
                if is_http {
                    OtlpProtocol::Http
                } else {
                    OtlpProtocol::Grpc
                }
            }
        }
    }
}

/// Why an exporter can't be made. One that can be made may still find no collector; that is counted.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// Nothing to check the collector's certificate with.
    #[error(
        "otlp endpoint {endpoint}: https needs trusted certificates and this machine has none; install \
         ca-certificates or name a file of them in SSL_CERT_FILE"
    )]
    NoTrust {
        /// As configured.
        endpoint: String,
    },
    /// The endpoint isn't an address.
    #[error(
        "otlp endpoint {endpoint}: {reason}; write http://HOST:4317 (gRPC) or http://HOST:4318 (HTTP)"
    )]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What the exporter says.
        reason: String,
    },
    /// No thread or runtime.
    #[error("start the exporter's thread")]
    Thread(#[source] std::io::Error),
}

/// Counts of all exporters of a process.
#[derive(Debug)]
pub(crate) struct ExportCounts {
    pub(crate) dropped: Cells,
    pub(crate) failures: Cells,
}

impl ExportCounts {
    pub(crate) fn new() -> ExportCounts {
        ExportCounts {
            dropped: Cells::new(&crate::metrics::EXPORTER_DROPPED_TOTAL),
            failures: Cells::new(&crate::metrics::EXPORTER_FAILURES_TOTAL),
        }
    }
}

/// An exporter's thread.
struct ExporterThread(Mutex<Option<JoinHandle<()>>>);

impl ExporterThread {
    fn start(
        exporter: Exporter,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<ExporterThread, OtlpError> {
        let thread = std::thread::Builder::new()
            .name(format!("memkv-{}", exporter.name().replace('_', "-")))
            .spawn(run)
            .map_err(OtlpError::Thread)?;
        Ok(ExporterThread(Mutex::new(Some(thread))))
    }

    /// Waits for its end; gives up at the deadline and says so by `false`.
    fn join(&self, deadline: Instant) -> bool {
        let Some(thread) = self.0.lock().take() else {
            return true;
        };
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = thread.is_finished();
        if ended {
            _ = thread.join();
        }
        ended
    }
}

/// A bounded queue with a thread that empties it.
pub(crate) struct Worker<T> {
    queue: Mutex<Option<SyncSender<T>>>,
    thread: ExporterThread,
    exporter: Exporter,
    counts: Arc<ExportCounts>,
}

impl<T: Send + 'static> Worker<T> {
    fn start(
        exporter: Exporter,
        counts: Arc<ExportCounts>,
        runtime: Runtime,
        send: impl FnMut(&Runtime, Vec<T>) -> bool + Send + 'static,
    ) -> Result<Worker<T>, OtlpError> {
        let (sender, receiver) = sync_channel(QUEUE_ITEMS);
        let its_counts = Arc::clone(&counts);
        let thread = ExporterThread::start(exporter, move || {
            drain(&receiver, exporter, &its_counts, &runtime, send);
        })?;
        Ok(Worker {
            queue: Mutex::new(Some(sender)),
            thread,
            exporter,
            counts,
        })
    }

    /// Queues an item, or drops and counts it; never waits.
    pub(crate) fn offer(&self, item: T) {
        let is_queued = self
            .queue
            .lock()
            .as_ref()
            .is_some_and(|queue| queue.try_send(item).is_ok());
        if !is_queued {
            self.counts.dropped.add(self.exporter.idx(), 1);
        }
    }

    /// Takes nothing more; what is queued is still sent.
    pub(crate) fn close(&self) {
        drop(self.queue.lock().take());
    }

    /// Waits until it is sent; gives up at the deadline and says so by `false`.
    pub(crate) fn join(&self, deadline: Instant) -> bool {
        self.thread.join(deadline)
    }
}

fn drain<T>(
    queue: &Receiver<T>,
    exporter: Exporter,
    counts: &ExportCounts,
    runtime: &Runtime,
    mut send: impl FnMut(&Runtime, Vec<T>) -> bool,
) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        let until = Instant::now() + BATCH_WAIT;
        while batch.len() < BATCH_ITEMS {
            match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(next) => batch.push(next),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let count = batch.len() as u64;
        if !send(runtime, batch) {
            counts.failures.add(exporter.idx(), 1);
            counts.dropped.add(exporter.idx(), count);
        }
    }
}

use connect::{grpc_tls, http_client, url};
pub(crate) use metrics::MetricShape;
pub(crate) use push::MetricWorker;

fn runtime() -> Result<Runtime, OtlpError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(OtlpError::Thread)
}

/// Who we are, on every span and record.
pub(crate) fn resource(version: &str, instance: &str, role: &str) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Resource::builder_empty()
        .with_attribute(KeyValue::new("service.name", role.to_owned()))
        .with_attribute(KeyValue::new("service.version", version.to_owned()))
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .with_attribute(KeyValue::new("memkv.node_id", instance.to_owned()))
        .with_attribute(KeyValue::new("host.name", host.trim().to_owned()))
        .build()
}

/// The exporter of a signal; its builder's type differs by signal, and has no trait in common. The macro
/// returns from the function around it where there can't be one.
macro_rules! exporter_of {
    ($builder:expr, $config:expr, $signal:literal) => {{
        let (builder, config) = ($builder, $config);
        let url = url(&config.endpoint, config.protocol, $signal);
        let built = match config.protocol {
            OtlpProtocol::Grpc => {
                let tonic = builder.with_tonic().with_endpoint(url);
                let tonic = tonic.with_timeout(config.timeout);
                match grpc_tls(config)? {
                    Some(tls) => tonic.with_tls_config(tls).build(),
                    None => tonic.build(),
                }
            }
            OtlpProtocol::Http => builder
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_http_client(http_client(config)?)
                .with_endpoint(url)
                .with_timeout(config.timeout)
                .build(),
        };
        built.map_err(|error| endpoint_error(config, &error))?
    }};
}

/// Sends what `to_spans` makes of each item.
pub(crate) fn span_worker<T: Send + 'static>(
    config: &crate::hub::OtlpConfig,
    resource: &Resource,
    counts: Arc<ExportCounts>,
    mut to_spans: impl FnMut(T) -> Vec<SpanData> + Send + 'static,
) -> Result<Worker<T>, OtlpError> {
    let runtime = runtime()?;
    let guard = runtime.enter();
    let mut exporter = exporter_of!(SpanExporter::builder(), config, "traces");
    exporter.set_resource(resource);
    drop(guard);
    let timeout = config.timeout;
    Worker::start(
        Exporter::Traces,
        counts,
        runtime,
        move |runtime, items: Vec<T>| {
            let spans = items.into_iter().flat_map(&mut to_spans).collect();
            let sent = runtime
                .block_on(async { tokio::time::timeout(timeout, exporter.export(spans)).await });
            matches!(sent, Ok(Ok(())))
        },
    )
}

/// Sends log records.
pub(crate) fn log_worker(
    config: &crate::hub::OtlpConfig,
    resource: &Resource,
    counts: Arc<ExportCounts>,
) -> Result<Worker<Box<(SdkLogRecord, InstrumentationScope)>>, OtlpError> {
    let runtime = runtime()?;
    let guard = runtime.enter();
    let mut exporter = exporter_of!(LogExporter::builder(), config, "logs");
    exporter.set_resource(resource);
    drop(guard);
    let timeout = config.timeout;
    type Record = Box<(SdkLogRecord, InstrumentationScope)>;
    Worker::start(
        Exporter::Logs,
        counts,
        runtime,
        move |runtime, items: Vec<Record>| {
            let records: Vec<_> = items.iter().map(|item| (&item.0, &item.1)).collect();
            let sent = runtime.block_on(async {
                tokio::time::timeout(timeout, exporter.export(LogBatch::new(&records))).await
            });
            matches!(sent, Ok(Ok(())))
        },
    )
}

fn endpoint_error(config: &crate::hub::OtlpConfig, error: &dyn std::error::Error) -> OtlpError {
    OtlpError::Endpoint {
        endpoint: config.endpoint.clone(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_follows_the_environment_then_the_endpoint() {
        for (endpoint, env, expected) in [
            ("http://localhost:4317", None, OtlpProtocol::Grpc),
            ("collector:4317", None, OtlpProtocol::Grpc),
            ("http://localhost:4318", None, OtlpProtocol::Http),
            ("http://localhost:80/v1/traces", None, OtlpProtocol::Http),
            (
                "http://localhost:4317",
                Some("http/protobuf"),
                OtlpProtocol::Http,
            ),
            ("http://localhost:4318", Some("grpc"), OtlpProtocol::Grpc),
        ] {
            assert_eq!(
                OtlpProtocol::detect(endpoint, env),
                expected,
                "{endpoint} {env:?}"
            );
        }
    }
}
