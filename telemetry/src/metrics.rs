//! The one table of series: everything memkv exposes is declared here, as data.
//!
//! Handles, exposition, docs/metrics.md and the dashboards are built from it, so that a series that
//! isn't declared can't be emitted, and a renamed one doesn't compile where it is used.
//!
//! To add one: a constant and a row in [`SERIES`] here, a cell in the handles that count it, and
//! `MEMKV_BLESS=1 cargo test -p memkv-telemetry` for the docs. The tests fail until the series has a
//! handle, stays within [`SERIES_MAX`], and the docs are current.

use std::fmt::Write as _;

use crate::labels::{
    AuthFailure, AuthKeyLabel, Blame, ConnectionState, CrcSource, Direction, DriveOp,
    EvictionReason, Exporter, LogLevel, OpKind, OutcomeLabel, ProtocolFault, RejectReason,
    RetryReason, SlabState, SpanDecision, Stage, Step, Tier, Transport,
};

/// The most lines one process may expose (a histogram has one per bucket, a sum and a count).
pub const SERIES_MAX: usize = 5_000;
/// Drives that have a label of their own; the others share [`MORE`].
pub const DRIVE_LABELS_MAX: usize = 16;
/// Servers that have a label of their own in a client; the others share [`MORE`].
pub const SERVER_LABELS_MAX: usize = 64;
/// The label value of drives or servers beyond the bound.
pub const MORE: &str = "more";

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever rises.
    Counter,
    /// Has a present value.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

impl Kind {
    /// The name in expositions.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What is counted or measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// The suffix in names; empty for plain numbers.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Count => "",
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
        }
    }
}

/// Which processes expose a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Servers.
    Server,
    /// Processes that embed the client.
    Client,
    /// Both.
    Both,
}

/// A label: its name and what values it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    name: &'static str,
    values: Values,
}

/// What values a label takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    Closed(&'static [&'static str]),
    /// From the configuration or the build, at most so many.
    Configured(usize),
}

impl Label {
    const fn closed(name: &'static str, values: &'static [&'static str]) -> Label {
        Label {
            name,
            values: Values::Closed(values),
        }
    }

    const fn configured(name: &'static str, at_most: usize) -> Label {
        Label {
            name,
            values: Values::Configured(at_most),
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its values.
    pub const fn values(&self) -> Values {
        self.values
    }

    /// How many values it can have.
    pub const fn count_max(&self) -> usize {
        match self.values {
            Values::Closed(values) => values.len(),
            Values::Configured(at_most) => at_most,
        }
    }
}

const OP: Label = Label::closed("op", OpKind::NAMES);
const TRANSPORT: Label = Label::closed("transport", Transport::NAMES);
const TIER: Label = Label::closed("tier", Tier::NAMES);
const OUTCOME: Label = Label::closed("outcome", OutcomeLabel::NAMES);
const DIRECTION: Label = Label::closed("direction", Direction::NAMES);
const DRIVE: Label = Label::configured("drive", DRIVE_LABELS_MAX + 1);
const SERVER: Label = Label::configured("server", SERVER_LABELS_MAX + 1);
const EXPORTER: Label = Label::closed("exporter", Exporter::NAMES);

/// One declared series.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its numbers are.
    pub unit: Unit,
    /// Its labels, in order.
    pub labels: &'static [Label],
    /// What it says.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets without the infinite one, rising.
    pub buckets: &'static [f64],
    /// Who exposes it.
    pub scope: Scope,
}

impl Series {
    const fn new(name: &'static str, kind: Kind, unit: Unit, help: &'static str) -> Series {
        Series {
            name,
            kind,
            unit,
            labels: &[],
            help,
            buckets: &[],
            scope: Scope::Server,
        }
    }

    const fn counter(name: &'static str, help: &'static str) -> Series {
        Series::new(name, Kind::Counter, Unit::Count, help)
    }

    const fn gauge(name: &'static str, help: &'static str) -> Series {
        Series::new(name, Kind::Gauge, Unit::Count, help)
    }

    const fn seconds(name: &'static str, buckets: &'static [f64], help: &'static str) -> Series {
        Series {
            buckets,
            ..Series::new(name, Kind::Histogram, Unit::Seconds, help)
        }
    }

    const fn unit(self, unit: Unit) -> Series {
        Series { unit, ..self }
    }

    const fn by(self, labels: &'static [Label]) -> Series {
        Series { labels, ..self }
    }

    const fn of(self, scope: Scope) -> Series {
        Series { scope, ..self }
    }

    /// Exposed lines of one label combination.
    pub const fn lines(&self) -> usize {
        match self.kind {
            Kind::Histogram => self.buckets.len() + 3,
            Kind::Counter | Kind::Gauge => 1,
        }
    }

    /// The name without the counter's suffix, as OpenMetrics names a family.
    pub fn family_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }
}

/// Powers of two of a microsecond, 1 µs to 33.6 s: where a heatmap needs every step.
pub const FINE_SECONDS: &[f64] = &[
    1e-6, 2e-6, 4e-6, 8e-6, 1.6e-5, 3.2e-5, 6.4e-5, 1.28e-4, 2.56e-4, 5.12e-4, 1.024e-3, 2.048e-3,
    4.096e-3, 8.192e-3, 1.6384e-2, 3.2768e-2, 6.5536e-2, 0.131072, 0.262144, 0.524288, 1.048576,
    2.097152, 4.194304, 8.388608, 16.777216, 33.554432,
];

/// The same range with fine steps only between 16 µs and 16 ms, where decisions about stages are made.
pub const STAGE_SECONDS: &[f64] = &[
    1e-6, 4e-6, 1.6e-5, 3.2e-5, 6.4e-5, 1.28e-4, 2.56e-4, 5.12e-4, 1.024e-3, 2.048e-3, 4.096e-3,
    8.192e-3, 1.6384e-2, 6.5536e-2, 0.262144, 1.048576, 4.194304, 16.777216, 33.554432,
];

/// The same range in steps of four: for series with many label combinations.
pub const COARSE_SECONDS: &[f64] = &[
    1e-6, 4e-6, 1.6e-5, 6.4e-5, 2.56e-4, 1.024e-3, 4.096e-3, 1.6384e-2, 6.5536e-2, 0.262144,
    1.048576, 4.194304, 16.777216, 33.554432,
];

/// Entries of a batch, up to the protocol's bound.
pub const ENTRIES: &[f64] = &[1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 1024.];

/// Declares the constants and the table of all of them.
macro_rules! table {
    ($($name:ident = $series:expr;)+) => {
        $(#[doc = concat!("Row `", stringify!($name), "` of the table.")] pub const $name: Series = $series;)+

        /// Every series, in the order of docs/metrics.md.
        pub const SERIES: &[&Series] = &[$(&$name),+];
    };
}

table! {
    OP_DURATION = Series::seconds("memkv_op_duration_seconds", FINE_SECONDS,
        "Time from an operation's first byte to its reply's last one. A batch is one operation, with the tier and outcome \
         of its worst entry; the tier is none unless the outcome is ok.")
        .by(&[OP, TRANSPORT, TIER, OUTCOME]);
    STAGE_DURATION = Series::seconds("memkv_stage_duration_seconds", STAGE_SECONDS,
        "Time an operation spent in a stage, all its parts together. A stage that wasn't measured isn't counted.")
        .by(&[OP, Label::closed("stage", Stage::NAMES)]);
    ENTRIES_TOTAL = Series::counter("memkv_entries_total",
        "Entries of operations by what became of each; the tier is none unless the outcome is ok.")
        .by(&[OP, TIER, OUTCOME]);
    BATCH_ENTRIES = Series { buckets: ENTRIES, ..Series::new("memkv_batch_entries", Kind::Histogram, Unit::Count,
        "Entries per operation.") }.by(&[OP]);
    BYTES_TOTAL = Series::counter("memkv_bytes_total",
        "Value bytes received from clients (in) and sent to them (out).").unit(Unit::Bytes).by(&[OP, DIRECTION]);
    SLOW_OPS_TOTAL = Series::counter("memkv_slow_ops_total",
        "Operations above the bound of their size or above the multiple of the rolling median of their kind, by what \
         explains most of the excess.")
        .by(&[OP, Label::closed("blame", Blame::NAMES)]);

    CONNECTIONS = Series::gauge("memkv_connections", "Connections that are open.").by(&[TRANSPORT]);
    AUTH_FAILURES_TOTAL = Series::counter("memkv_auth_failures_total",
        "Handshakes, frames and admin requests refused as not authentic.")
        .by(&[Label::closed("reason", AuthFailure::NAMES)]);
    AUTH_KEY_USES_TOTAL = Series::counter("memkv_auth_key_uses_total",
        "Sessions opened with each of the two valid keys; a rotation is over when previous stays flat.")
        .by(&[Label::closed("key", AuthKeyLabel::NAMES)]);
    CLOCK_SKEW_SECONDS = Series::gauge("memkv_clock_skew_seconds",
        "How far the latest handshake's time stamp was from our clock; positive where the client's is ahead.")
        .unit(Unit::Seconds);
    PROTOCOL_FAULTS_TOTAL = Series::counter("memkv_protocol_faults_total",
        "Connections closed because of bytes that aren't the protocol.")
        .by(&[Label::closed("fault", ProtocolFault::NAMES)]);
    REJECTED_TOTAL = Series::counter("memkv_rejected_total", "Work refused or dropped before it started.")
        .by(&[Label::closed("reason", RejectReason::NAMES)]);
    ADMITTED_BYTES = Series::gauge("memkv_admitted_bytes", "Payload memory that operations in flight hold.")
        .unit(Unit::Bytes);
    CONFIG_UNKNOWN_KEYS = Series::gauge("memkv_config_unknown_keys",
        "Keys of the configuration that were let through although they aren't known.");

    SLABS = Series::gauge("memkv_slabs", "Slabs of the pool by use; the states add up to the pool.")
        .by(&[Label::closed("state", SlabState::NAMES)]);
    SLAB_WAIT_SECONDS = Series::seconds("memkv_slab_wait_seconds", FINE_SECONDS,
        "Time that requests for slab memory waited, of those that did.");
    SLAB_DOUBLE_FREES_TOTAL = Series::counter("memkv_slab_double_frees_total",
        "Slabs returned twice: a bug of ours; the second return was ignored.");
    INDEX_ENTRIES = Series::gauge("memkv_index_entries", "Entries in the index.");
    EVICTIONS_TOTAL = Series::counter("memkv_evictions_total", "Entries that left without being deleted.")
        .by(&[Label::closed("reason", EvictionReason::NAMES)]);
    NEVER_READ_BYTES_TOTAL = Series::counter("memkv_never_read_bytes_total",
        "Bytes of values that left without ever being read.").unit(Unit::Bytes);
    CRC_MISMATCHES_TOTAL = Series::counter("memkv_crc_mismatches_total", "Values whose checksum was wrong.")
        .by(&[Label::closed("source", CrcSource::NAMES)]);
    STALE_COMPLETIONS_TOTAL = Series::counter("memkv_stale_completions_total",
        "Completions from a drive's ring that named an operation no longer in flight.");

    DRIVE_IO_DURATION = Series::seconds("memkv_drive_io_duration_seconds", COARSE_SECONDS,
        "Time from a request's submission to its completion.")
        .by(&[DRIVE, Label::closed("op", DriveOp::NAMES)]);
    DRIVE_UP = Series::gauge("memkv_drive_up", "1 where the drive serves, 0 where it is missing or blacklisted.")
        .by(&[DRIVE]);
    DRIVE_USED_BYTES = Series::gauge("memkv_drive_used_bytes", "Bytes of live data.").unit(Unit::Bytes).by(&[DRIVE]);
    DRIVE_CAPACITY_BYTES = Series::gauge("memkv_drive_capacity_bytes", "Bytes the drive can hold.")
        .unit(Unit::Bytes).by(&[DRIVE]);
    DRIVE_QUEUE_DEPTH = Series::gauge("memkv_drive_queue_depth", "Requests in flight.").by(&[DRIVE]);
    DRIVE_BYTES_TOTAL = Series::counter("memkv_drive_bytes_total", "Bytes read from or written to the drive.")
        .unit(Unit::Bytes).by(&[DRIVE, Label::closed("op", DriveOp::NAMES)]);
    DRIVE_ERRORS_TOTAL = Series::counter("memkv_drive_errors_total", "Requests that failed.")
        .by(&[DRIVE, Label::closed("op", DriveOp::NAMES)]);

    CLIENT_OP_DURATION = Series::seconds("memkv_client_op_duration_seconds", FINE_SECONDS,
        "Time of a client's call to one server, from its submission until all entries were settled.")
        .by(&[OP, OUTCOME]).of(Scope::Client);
    CLIENT_STEP_SECONDS = Series::seconds("memkv_client_step_seconds", STAGE_SECONDS,
        "Time a client's call spent in a step, all its parts together.")
        .by(&[OP, Label::closed("step", Step::NAMES)]).of(Scope::Client);
    CLIENT_BATCH_ENTRIES = Series { buckets: ENTRIES, ..Series::new("memkv_client_batch_entries", Kind::Histogram,
        Unit::Count, "Entries per request frame.") }.by(&[OP]).of(Scope::Client);
    CLIENT_ENTRIES_TOTAL = Series::counter("memkv_client_entries_total",
        "Entries of reads and writes by server: a server whose entries only ever miss is asked for keys it never got.")
        .by(&[SERVER, OP, OUTCOME]).of(Scope::Client);
    CLIENT_BYTES_TOTAL = Series::counter("memkv_client_bytes_total", "Value bytes sent to servers (in) and received (out).")
        .unit(Unit::Bytes).by(&[OP, DIRECTION]).of(Scope::Client);
    CLIENT_CONNECTIONS = Series::gauge("memkv_client_connections", "Connections by server and state.")
        .by(&[SERVER, Label::closed("state", ConnectionState::NAMES)]).of(Scope::Client);
    CLIENT_TRANSPORT_ACTIVE = Series::gauge("memkv_client_transport_active", "1 for the transport in use.")
        .by(&[TRANSPORT]).of(Scope::Client);
    CLIENT_IDENTITY_MISMATCH = Series::gauge("memkv_client_identity_mismatch",
        "1 where the server last said that it is another node than the one its keys are placed by.")
        .by(&[SERVER]).of(Scope::Client);
    CLIENT_RETRIES_TOTAL = Series::counter("memkv_client_retries_total", "Reads that were sent again, by cause.")
        .by(&[Label::closed("reason", RetryReason::NAMES)]).of(Scope::Client);

    SPANS_TOTAL = Series::counter("memkv_spans_total", "Operations by what became of their span.")
        .by(&[Label::closed("decision", SpanDecision::NAMES)]).of(Scope::Both);
    TIMELINES_LOST_TOTAL = Series::counter("memkv_timelines_lost_total",
        "Operations whose Timeline found its ring full: counted in the histograms, but never seen as slow or traced.")
        .of(Scope::Both);
    EXPORTER_DROPPED_TOTAL = Series::counter("memkv_exporter_dropped_total",
        "Spans (one per operation), log records and snapshots of metrics that were to be sent and weren't.")
        .by(&[EXPORTER]).of(Scope::Both);
    EXPORTER_FAILURES_TOTAL = Series::counter("memkv_exporter_failures_total", "Sends that failed or took too long.")
        .by(&[EXPORTER]).of(Scope::Both);
    LOG_EVENTS_TOTAL = Series::counter("memkv_log_events_total", "Lines written to the log.")
        .by(&[Label::closed("level", LogLevel::NAMES)]).of(Scope::Both);
    SCRAPE_DURATION_SECONDS = Series::seconds("memkv_scrape_duration_seconds", COARSE_SECONDS,
        "Time it took to gather and render the metrics, of earlier scrapes.").of(Scope::Both);
    BUILD_INFO = Series::gauge("memkv_build_info", "Always 1; the version is the label.")
        .by(&[Label::configured("version", 1)]).of(Scope::Both);
}

/// docs/metrics.md, whole.
pub fn metrics_md() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Generated from telemetry/src/metrics.rs; MEMKV_BLESS=1 cargo test -p memkv-telemetry writes it anew. -->\n\n\
         A server exposes these at `/v1/metrics`, a client at `/metrics` of `MEMKV_PROMETHEUS_BIND`, as Prometheus text or,\n\
         where the scraper accepts it, as OpenMetrics with exemplars. Times are seconds, sizes are bytes. Label values are\n\
         closed sets; only drives and servers come from the configuration. One process exposes at most 5,000 lines.\n",
    );
    for (title, scope) in [
        ("Server", Scope::Server),
        ("Client", Scope::Client),
        ("Telemetry itself (server and client)", Scope::Both),
    ] {
        _ = write!(text, "\n## {title}\n");
        for series in SERIES.iter().filter(|series| series.scope == scope) {
            write_series(&mut text, series);
        }
    }
    text
}

fn write_series(text: &mut String, series: &Series) {
    let unit = match series.unit {
        Unit::Count => String::new(),
        unit => format!(" of {}", unit.name()),
    };
    _ = write!(
        text,
        "\n### {}\n\n{}{unit}. {}\n",
        series.name,
        series.kind.name(),
        series.help
    );
    if !series.labels.is_empty() {
        text.push('\n');
    }
    for label in series.labels {
        let values = match label.values() {
            Values::Closed(values) => format!("`{}`", values.join("`, `")),
            Values::Configured(1) => "of the build".to_owned(),
            Values::Configured(count) => {
                format!("as configured; those beyond {} share `{MORE}`", count - 1)
            }
        };
        _ = writeln!(text, "- `{}`: {values}", label.name());
    }
    if let (Some(first), Some(last)) = (series.buckets.first(), series.buckets.last()) {
        let unit = if series.unit == Unit::Seconds {
            " s"
        } else {
            ""
        };
        let count = series.buckets.len();
        _ = write!(
            text,
            "\n{count} buckets from {first}{unit} to {last}{unit}.\n"
        );
    }
}

#[cfg(test)]
mod tests;
