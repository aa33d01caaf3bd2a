//! The hub: owns what is counted, runs the telemetry thread, and answers scrapes.

mod config;
mod drain;
mod families;
mod summary;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry::InstrumentationScope;
use parking_lot::Mutex;
use prometheus::{Encoder as _, Registry, TextEncoder};

use crate::clock;
use crate::exposition::{Format, HubCollector, open_metrics};
use crate::handles::{ClientMetrics, EngineMetrics, ServerMetrics};
use crate::labels::{Exporter, LogLevel};
use crate::metrics;
use crate::otlp::{self, ExportCounts, MetricShape, MetricWorker, OtlpError, Worker};
use crate::recorder::{Recorder, Recorders};
use crate::slow::{SlowOps, SlowPolicy, SlowRing};
use crate::snapshot::{Cells, Exemplar, Family, Histograms};
use crate::span::{Kept, SpanShape, spans};
use crate::timeline::Role;
use crate::trace::IdSource;

pub use config::{OtlpConfig, TelemetryConfig};
use drain::Drain;
pub use summary::{OpSummary, StageSummary, Summary};

/// A process's telemetry; clones share it.
#[derive(Clone)]
pub struct Telemetry(Arc<Hub>);

type Hook = Box<dyn Fn() + Send + Sync>;

pub(crate) struct Hub {
    config: TelemetryConfig,
    recorders: Recorders,
    engine: EngineMetrics,
    server: ServerMetrics,
    client: ClientMetrics,
    slow_ops: Cells,
    spans: Cells,
    export_counts: Arc<ExportCounts>,
    log_events: Cells,
    scrape: Histograms,
    slow_ring: Mutex<SlowRing>,
    /// By position of the duration histogram and of the bucket.
    exemplars: Mutex<HashMap<(usize, usize), Exemplar>>,
    before_scrape: Mutex<Vec<Hook>>,
    registry: Registry,
    span_worker: Option<Worker<Kept>>,
    /// Made after the hub, because it asks the hub for what it sends.
    metric_worker: OnceLock<MetricWorker>,
    stop: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Telemetry {
    /// Starts the telemetry thread and, with a collector, the exporter's.
    ///
    /// # Errors
    /// When the endpoint can't be one, or a thread can't be started. A collector that isn't there is no
    /// error: what can't be sent is counted.
    pub fn new(config: TelemetryConfig) -> Result<Telemetry, OtlpError> {
        let export_counts = Arc::new(ExportCounts::new());
        let span_worker = match &config.otlp {
            Some(otlp) => Some(start_span_worker(
                &config,
                otlp,
                Arc::clone(&export_counts),
            )?),
            None => None,
        };
        let recorders = Recorders::new(config.role, config.sample_ratio, config.ring_timelines);
        let hub = Hub::new(config, recorders, export_counts, span_worker);
        if let (Role::Client, Some(otlp)) = (hub.config.role, &hub.config.otlp) {
            _ = hub.metric_worker.set(start_metric_worker(&hub, otlp)?);
        }
        let its_hub = Arc::clone(&hub);
        let thread = std::thread::Builder::new()
            .name("memkv-telemetry".to_owned())
            .spawn(move || Drain::new(&its_hub).run(&its_hub))
            .map_err(OtlpError::Thread)?;
        hub.recorders.set_drainer(thread.thread().clone());
        *hub.thread.lock() = Some(thread);
        Ok(Telemetry(hub))
    }

    /// Telemetry whose recorders record nothing, for a server or a client: the other side of a measurement
    /// of what recording costs. The product never uses it.
    ///
    /// An op then costs one predictable branch in [`Recorder::begin`] and one in [`Recorder::record`],
    /// beside the stamps of whoever serves it ([`Recorder::is_recording`] lets it spare those). There is
    /// no thread and no exporter; the handles still count, as they do rare events.
    pub fn off() -> Telemetry {
        let config = TelemetryConfig::new(Role::Server, "off");
        let counts = Arc::new(ExportCounts::new());
        Telemetry(Hub::new(config, Recorders::off(), counts, None))
    }

    /// A recorder for one data thread.
    pub fn recorder(&self) -> Recorder {
        self.0.recorders.recorder()
    }

    /// What the engine counts into.
    pub fn engine_metrics(&self) -> EngineMetrics {
        self.0.engine.clone()
    }

    /// What the server counts into.
    pub fn server_metrics(&self) -> ServerMetrics {
        self.0.server.clone()
    }

    /// What the client counts into.
    pub fn client_metrics(&self) -> ClientMetrics {
        self.0.client.clone()
    }

    /// Runs `refresh` before each scrape: for gauges that are cheaper to look up than to keep current.
    pub fn before_scrape(&self, refresh: impl Fn() + Send + Sync + 'static) {
        self.0.before_scrape.lock().push(Box::new(refresh));
    }

    /// From when on an op is slow.
    pub fn slow_policy(&self) -> &SlowPolicy {
        &self.0.config.slow
    }

    /// Changes the share of operations without a caller's trace that start a sampled one.
    pub fn set_sample_ratio(&self, ratio: f64) {
        self.0.recorders.set_sample_ratio(ratio);
    }

    /// The newest slow ops and the slowest ops, taken apart; what `/v1/slow` returns.
    pub fn slow_ops(&self) -> SlowOps {
        self.0.slow_ring.lock().ops()
    }

    /// The exposition.
    pub fn render(&self, format: Format) -> String {
        let started = Instant::now();
        self.0.refresh();
        let text = match format {
            Format::Text => {
                let mut text = Vec::new();
                let encoded = TextEncoder::new().encode(&self.0.registry.gather(), &mut text);
                encoded.expect("writing to memory, families that have samples");
                String::from_utf8(text).expect("label values are text")
            }
            Format::OpenMetrics => {
                let mut families = self.0.families();
                families.sort_by_key(|family| family.series.name);
                open_metrics(&families)
            }
        };
        let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.scrape.at(0).observe_shared(took);
        text
    }

    /// What is exposed, as data.
    pub fn families(&self) -> Vec<Family> {
        self.0.families()
    }

    /// Times per op and stage so far.
    pub fn summary(&self) -> Summary {
        self.0.summary()
    }

    /// What became of so many operations' spans.
    pub fn spans(&self, decision: crate::labels::SpanDecision) -> u64 {
        self.0.spans.get(decision.idx())
    }

    /// Spans or records that were to be sent and weren't.
    pub fn exporter_dropped(&self, exporter: crate::labels::Exporter) -> u64 {
        self.0.export_counts.dropped.get(exporter.idx())
    }

    /// Lines logged at a level so far.
    pub fn log_events(&self, level: LogLevel) -> u64 {
        self.0.log_events.get(level.idx())
    }

    pub(crate) fn count_log_event(&self, level: LogLevel) {
        self.0.log_events.add(level.idx(), 1);
    }

    pub(crate) fn config(&self) -> &TelemetryConfig {
        &self.0.config
    }

    pub(crate) fn export_counts(&self) -> Arc<ExportCounts> {
        Arc::clone(&self.0.export_counts)
    }

    /// Drains the rings once more and sends what is queued; returns by the deadline whatever the
    /// collector does. Further calls do nothing. Says whether the collector took all there was since the start.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        self.0.stop.store(true, Ordering::Release);
        if let Some(thread) = self.0.thread.lock().take() {
            thread.thread().unpark();
            // It never waits for anything but its own timer.
            _ = thread.join();
        }
        // All are told before any is waited for, so that one that hangs costs the others nothing.
        let (spans, metrics) = (self.0.span_worker.as_ref(), self.0.metric_worker.get());
        spans.inspect(|worker| worker.close());
        metrics.inspect(|worker| worker.close());
        let spans_ended = spans.is_none_or(|worker| worker.join(deadline));
        let metrics_ended = metrics.is_none_or(|worker| worker.join(deadline));
        let failures = &self.0.export_counts.failures;
        let failed =
            [Exporter::Traces, Exporter::Metrics].map(|exporter| failures.get(exporter.idx()));
        spans_ended && metrics_ended && failed == [0, 0]
    }
}

fn start_span_worker(
    config: &TelemetryConfig,
    otlp: &OtlpConfig,
    counts: Arc<ExportCounts>,
) -> Result<Worker<Kept>, OtlpError> {
    let shape = SpanShape {
        server_port: config.server_port,
        servers: config.servers.clone(),
        error_name: config.error_name,
        scope: InstrumentationScope::builder("memkv")
            .with_version(config.version.clone())
            .build(),
    };
    let mut ids = IdSource::new(0.0);
    otlp::span_worker(otlp, &resource(config), counts, move |kept| {
        spans(&kept, &shape, &mut ids)
    })
}

fn start_metric_worker(hub: &Arc<Hub>, otlp: &OtlpConfig) -> Result<MetricWorker, OtlpError> {
    let shape = MetricShape::new(
        &resource(&hub.config),
        &hub.config.version,
        clock::unix_ns(),
    );
    let weak = Arc::downgrade(hub);
    MetricWorker::start(otlp, Arc::clone(&hub.export_counts), move || {
        let hub = weak.upgrade()?;
        hub.refresh();
        Some(shape.request(&hub.families(), clock::unix_ns()))
    })
}

pub(crate) fn resource(config: &TelemetryConfig) -> opentelemetry_sdk::Resource {
    let service = match config.role {
        Role::Server => "memkv",
        Role::Client => "memkv-client",
    };
    otlp::resource(&config.version, &config.instance, service)
}

impl Hub {
    fn new(
        config: TelemetryConfig,
        recorders: Recorders,
        export_counts: Arc<ExportCounts>,
        span_worker: Option<Worker<Kept>>,
    ) -> Arc<Hub> {
        Arc::new_cyclic(|weak: &Weak<Hub>| {
            let registry = Registry::new();
            let collector = HubCollector::new(weak.clone(), config.role);
            let collector = collector.expect("the table's names are valid, as its tests check");
            registry
                .register(Box::new(collector))
                .expect("it is the only collector");
            Hub {
                engine: EngineMetrics::detached(),
                server: ServerMetrics::detached(),
                client: ClientMetrics::for_servers(&config.servers),
                slow_ops: Cells::new(&metrics::SLOW_OPS_TOTAL),
                spans: Cells::new(&metrics::SPANS_TOTAL),
                log_events: Cells::new(&metrics::LOG_EVENTS_TOTAL),
                scrape: Histograms::new(&metrics::SCRAPE_DURATION_SECONDS),
                slow_ring: Mutex::new(SlowRing::new()),
                exemplars: Mutex::new(HashMap::new()),
                before_scrape: Mutex::new(Vec::new()),
                stop: AtomicBool::new(false),
                thread: Mutex::new(None),
                config,
                recorders,
                export_counts,
                registry,
                span_worker,
                metric_worker: OnceLock::new(),
            }
        })
    }

    /// Brings gauges up to date that are looked up when somebody asks.
    fn refresh(&self) {
        self.before_scrape
            .lock()
            .iter()
            .for_each(|refresh| refresh());
    }
}

#[cfg(test)]
mod tests;
