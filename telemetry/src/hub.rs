//! The hub: owns what is counted, runs the telemetry thread, and answers scrapes.

mod summary;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry::InstrumentationScope;
use parking_lot::Mutex;
use prometheus::{Encoder as _, Registry, TextEncoder};

use crate::clock::{self, Anchor};
use crate::decide::{Decider, is_kept};
use crate::exposition::{Format, HubCollector, is_exposed, open_metrics};
use crate::handles::{ClientMetrics, EngineMetrics, ServerMetrics};
use crate::histogram::HistogramSnapshot;
use crate::labels::{Blame, LogLevel, OpKind, OutcomeLabel};
use crate::metrics;
use crate::otlp::{self, ExportCounts, MetricShape, MetricWorker, OtlpError, OtlpProtocol, Worker};
use crate::recorder::{RING_TIMELINES, Recorder, Recorders, Shard};
use crate::slow::{Judge, SlowOps, SlowPolicy, SlowRing, describe};
use crate::snapshot::{Cells, Exemplar, Family, Histograms, Sample, Value};
use crate::span::{Kept, SpanShape, spans};
use crate::timeline::{Role, Timeline};
use crate::trace::IdSource;

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

/// How long the telemetry thread sleeps between looks at the rings.
const DRAIN_EVERY: Duration = Duration::from_millis(20);

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
    /// collector does. Further calls do nothing.
    pub fn shutdown(&self, timeout: Duration) {
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
        spans.inspect(|worker| worker.join(deadline));
        metrics.inspect(|worker| worker.join(deadline));
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

/// The telemetry thread's state.
struct Drain {
    judge: Judge,
    decider: Decider,
    anchor: Anchor,
    synced: Instant,
}

impl Drain {
    fn new(hub: &Hub) -> Drain {
        Drain {
            judge: Judge::new(hub.config.slow),
            decider: Decider::new(hub.config.spans_per_second, clock::now()),
            anchor: Anchor::take(),
            synced: Instant::now(),
        }
    }

    fn run(mut self, hub: &Hub) {
        loop {
            let is_stopping = hub.stop.load(Ordering::Acquire);
            if self.synced.elapsed() >= Duration::from_secs(1) {
                clock::resync();
                self.anchor = Anchor::take();
                self.synced = Instant::now();
            }
            for shard in hub.recorders.shards() {
                // Not more than was there: one busy thread must not keep the others' rings full.
                for _ in 0..shard.ring.capacity() {
                    let Some(timeline) = shard.ring.pop() else {
                        break;
                    };
                    self.take(hub, &timeline);
                }
            }
            if is_stopping {
                return;
            }
            std::thread::park_timeout(DRAIN_EVERY);
        }
    }

    fn take(&mut self, hub: &Hub, timeline: &Timeline) {
        let verdict = self.judge.judge(timeline);
        if let Some(blame) = verdict.blame {
            hub.slow_ops
                .add(timeline.op.idx() * Blame::COUNT + blame.idx(), 1);
        }
        let mut slow_ring = hub.slow_ring.lock();
        if slow_ring.wants(timeline, &verdict) {
            let op = describe(timeline, &verdict, &self.anchor, hub.config.error_name);
            slow_ring.keep(timeline.duration_ns(), op);
        }
        drop(slow_ring);
        let decision = self.decider.decide(timeline, &verdict, timeline.end);
        hub.spans.add(decision.idx(), 1);
        if !is_kept(decision) || !timeline.trace.is_valid() {
            return;
        }
        if let Some(worker) = &hub.span_worker {
            let anchor = self.anchor;
            worker.offer(Kept {
                timeline: *timeline,
                decision,
                blame: verdict.blame,
                anchor,
            });
        }
        // A trace that nobody recorded is no use as an exemplar.
        let is_recorded = hub.span_worker.is_some() || timeline.trace.is_sampled();
        if is_recorded {
            hub.note_exemplar(timeline, &self.anchor);
        }
    }
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

    pub(crate) fn families(&self) -> Vec<Family> {
        let shards = self.recorders.shards();
        let mut families = self.op_families(&shards);
        match self.recorders.role() {
            Role::Server => {
                families.push(self.slow_ops.family());
                families.extend(self.server.families());
                families.extend(self.engine.families());
            }
            Role::Client => families.extend(self.client.families()),
        }
        let number = |series, labels, number| Family {
            series,
            samples: vec![Sample {
                labels,
                value: Value::Number(number),
            }],
        };
        let lost = self.recorders.lost() as f64;
        families.extend([
            self.spans.family(),
            number(&metrics::TIMELINES_LOST_TOTAL, Vec::new(), lost),
            self.export_counts.dropped.family(),
            self.export_counts.failures.family(),
            self.log_events.family(),
            self.scrape.family(),
            number(
                &metrics::BUILD_INFO,
                vec![Cow::Owned(self.config.version.clone())],
                1.0,
            ),
        ]);
        let role = self.recorders.role();
        debug_assert!(
            families
                .iter()
                .all(|family| is_exposed(family.series.scope, role))
        );
        families
    }

    fn op_families(&self, shards: &[Arc<Shard>]) -> Vec<Family> {
        let role = self.recorders.role();
        let (op, stage, batch, bytes) = match role {
            Role::Server => (
                &metrics::OP_DURATION,
                &metrics::STAGE_DURATION,
                &metrics::BATCH_ENTRIES,
                &metrics::BYTES_TOTAL,
            ),
            Role::Client => (
                &metrics::CLIENT_OP_DURATION,
                &metrics::CLIENT_STEP_SECONDS,
                &metrics::CLIENT_BATCH_ENTRIES,
                &metrics::CLIENT_BYTES_TOTAL,
            ),
        };
        let durations = Histograms::snapshots(op, shards.iter().map(|shard| &shard.op_duration));
        let mut op_family = Histograms::family_from(op, &durations);
        self.attach_exemplars(&mut op_family, &durations);
        let entries = match role {
            Role::Server => {
                let cells = shards.iter().map(|shard| &shard.entries);
                Cells::family_of(&metrics::ENTRIES_TOTAL, cells)
            }
            Role::Client => self.server_entries(shards),
        };
        vec![
            op_family,
            Histograms::family_of(stage, shards.iter().map(|shard| &shard.stage_duration)),
            Histograms::family_of(batch, shards.iter().map(|shard| &shard.batch_entries)),
            Cells::family_of(bytes, shards.iter().map(|shard| &shard.bytes)),
            entries,
        ]
    }

    /// A client's entries by server: only combinations that happened, as most never do.
    fn server_entries(&self, shards: &[Arc<Shard>]) -> Family {
        let mut family = Family {
            series: &metrics::CLIENT_ENTRIES_TOTAL,
            samples: Vec::new(),
        };
        for (server_idx, server) in self.client.servers().iter().enumerate() {
            for op in OpKind::ALL {
                for outcome in OutcomeLabel::ALL {
                    let by_op = server_idx * OpKind::COUNT + op.idx();
                    let idx = by_op * OutcomeLabel::COUNT + outcome.idx();
                    let counts = shards
                        .iter()
                        .map(|s| s.server_entries[idx].load(Ordering::Relaxed));
                    let total: u64 = counts.sum();
                    if total > 0 {
                        let labels = vec![server.clone(), op.name().into(), outcome.name().into()];
                        family.samples.push(Sample {
                            labels,
                            value: Value::Number(total as f64),
                        });
                    }
                }
            }
        }
        family
    }

    fn note_exemplar(&self, timeline: &Timeline, anchor: &Anchor) {
        let seconds = timeline.duration_ns() as f64 / 1e9;
        // The bounds of the server's and of the client's op histogram are the same.
        let bucket = metrics::FINE_SECONDS.partition_point(|bound| *bound < seconds);
        let exemplar = Exemplar {
            trace_id: timeline.trace.trace_id,
            span_id: timeline.span_id,
            value: seconds,
            unix_ms: anchor.unix_ns(timeline.end) / 1_000_000,
        };
        self.exemplars
            .lock()
            .insert((Shard::duration_idx(timeline), bucket), exemplar);
    }

    fn attach_exemplars(&self, family: &mut Family, durations: &[Option<HistogramSnapshot>]) {
        let exemplars = self.exemplars.lock();
        let present = (0..durations.len()).filter(|idx| durations[*idx].is_some());
        for (idx, sample) in present.zip(&mut family.samples) {
            if let Value::Histogram {
                exemplars: slots, ..
            } = &mut sample.value
            {
                let buckets = 0..=family.series.buckets.len();
                *slots = buckets
                    .map(|bucket| exemplars.get(&(idx, bucket)).copied())
                    .collect();
            }
        }
    }
}

pub use summary::{OpSummary, StageSummary, Summary};

#[cfg(test)]
mod tests;
