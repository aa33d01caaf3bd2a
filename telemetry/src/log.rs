//! The process's log: JSON or text on standard error, each line with its fields, and by OTLP if wanted.
//!
//! There are no live spans on the data path, so a line that belongs to an op carries its trace as
//! fields: `warn!(trace_id = %hex(&trace.trace_id), …)`. The exporter moves those into the record's
//! trace context. Libraries below us are heard from `warn` on, whatever our own level is.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::{InstrumentationScope, SpanId, TraceId};
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger, SdkLoggerProvider};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

use crate::hub::{Telemetry, resource};
use crate::labels::LogLevel;
use crate::otlp::{OtlpError, Worker, log_worker};
use crate::trace::unhex;

/// An error with its causes, on one line: as a field of its own type it shows none of them in JSON.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(why) = cause {
            write!(f, ": {why}")?;
            cause = why.source();
        }
        Ok(())
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and how.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// The least severe level.
    pub level: LogLevel,
    /// The form.
    pub format: LogFormat,
    /// Whether lines go to the telemetry's collector too.
    pub otlp: bool,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another subscriber is in place.
    #[error("install the log: this process has one already")]
    Installed,
    /// The exporter can't be made.
    #[error("send the log by otlp")]
    Otlp(#[source] OtlpError),
    /// `otlp` without a collector.
    #[error(
        "send the log by otlp: there is no otlp endpoint; set one or turn the log's export off"
    )]
    NoEndpoint,
}

type Records = Worker<Box<(SdkLogRecord, InstrumentationScope)>>;

/// Changes the log while the process runs.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    records: Option<Arc<Records>>,
}

impl LogHandle {
    /// Changes the least severe level.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when the subscriber is gone, and then nobody logs.
        _ = self.filter.reload(filter(level));
    }

    /// Sends what is queued for the collector, within `timeout`.
    pub fn shutdown(&self, timeout: Duration) {
        if let Some(records) = &self.records {
            records.close();
            records.join(Instant::now() + timeout);
        }
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

/// Installs the process's log on standard error.
///
/// # Errors
/// When there is one already, or the exporter can't be made.
pub fn init(config: LogConfig, telemetry: &Telemetry) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(config, telemetry, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)?;
    Ok(handle)
}

/// The log as a subscriber with a writer of the caller's: for tests, and processes with several.
///
/// # Errors
/// When the exporter can't be made.
pub fn subscriber<W>(
    config: LogConfig,
    telemetry: &Telemetry,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, LogHandle), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let records = if config.otlp {
        Some(Arc::new(records(telemetry)?))
    } else {
        None
    };
    let (filter, filter_handle) = reload::Layer::new(filter(config.level));
    let handle = LogHandle {
        filter: filter_handle,
        records: records.clone(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<_> + Send + Sync> = match config.format {
        LogFormat::Json => Box::new(
            lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false),
        ),
        LogFormat::Text => Box::new(lines.with_ansi(false)),
    };
    // What the exporter's own libraries log must not be exported: that would never end.
    let is_exported = |meta: &Metadata<'_>| meta.target().starts_with("memkv");
    let export = records.map(|records| {
        let provider = SdkLoggerProvider::builder().build();
        Export {
            logger: provider.logger("memkv"),
            records,
        }
        .with_filter(FilterFn::new(is_exported))
    });
    let count = Count {
        telemetry: telemetry.clone(),
    };
    Ok((
        Registry::default()
            .with(filter)
            .with(lines)
            .with(count)
            .with(export),
        handle,
    ))
}

fn records(telemetry: &Telemetry) -> Result<Records, LogError> {
    let config = telemetry.config();
    let otlp = config.otlp.as_ref().ok_or(LogError::NoEndpoint)?;
    log_worker(otlp, &resource(config), telemetry.export_counts()).map_err(LogError::Otlp)
}

fn filter(level: LogLevel) -> EnvFilter {
    let others = if level == LogLevel::Error {
        "error"
    } else {
        "warn"
    };
    let crates = [
        "memkv",
        "memkv_cli",
        "memkv_server",
        "memkv_engine",
        "memkv_client",
    ];
    let more = [
        "memkv_telemetry",
        "memkv_settings",
        "memkv_proto",
        "memkv_tests",
    ];
    let ours = crates
        .into_iter()
        .chain(more)
        .map(|name| format!("{name}={level}"));
    let text = std::iter::once(others.to_owned())
        .chain(ours)
        .collect::<Vec<_>>()
        .join(",");
    EnvFilter::new(text)
}

fn log_level(level: &Level) -> LogLevel {
    match *level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

/// Counts lines by level.
struct Count {
    telemetry: Telemetry,
}

impl<S: Subscriber> Layer<S> for Count {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.telemetry
            .count_log_event(log_level(event.metadata().level()));
    }
}

/// Turns events into OTLP records.
struct Export {
    logger: SdkLogger,
    records: Arc<Records>,
}

impl<S: Subscriber> Layer<S> for Export {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let mut record = self.logger.create_log_record();
        let now = SystemTime::now();
        record.set_timestamp(now);
        record.set_observed_timestamp(now);
        record.set_target(meta.target().to_owned());
        let (number, text) = match *meta.level() {
            Level::ERROR => (Severity::Error, "ERROR"),
            Level::WARN => (Severity::Warn, "WARN"),
            Level::INFO => (Severity::Info, "INFO"),
            Level::DEBUG => (Severity::Debug, "DEBUG"),
            Level::TRACE => (Severity::Trace, "TRACE"),
        };
        record.set_severity_number(number);
        record.set_severity_text(text);
        let mut fields = Fields {
            record: &mut record,
            trace_id: None,
            span_id: None,
        };
        event.record(&mut fields);
        let (trace_id, span_id) = (fields.trace_id, fields.span_id);
        if let Some(trace_id) = trace_id {
            let span_id = SpanId::from_bytes(span_id.unwrap_or_default());
            record.set_trace_context(TraceId::from_bytes(trace_id), span_id, None);
        }
        let scope = InstrumentationScope::builder("memkv").build();
        self.records.offer(Box::new((record, scope)));
    }
}

struct Fields<'a> {
    record: &'a mut SdkLogRecord,
    trace_id: Option<[u8; 16]>,
    span_id: Option<[u8; 8]>,
}

impl Fields<'_> {
    fn text(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.record.set_body(AnyValue::from(text)),
            "trace_id" if unhex::<16>(&text).is_some() => self.trace_id = unhex(&text),
            "span_id" if unhex::<8>(&text).is_some() => self.span_id = unhex(&text),
            name => self.record.add_attribute(name, AnyValue::from(text)),
        }
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record.add_attribute(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record
            .add_attribute(field.name(), i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record.add_attribute(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record.add_attribute(field.name(), value);
    }
}

#[cfg(test)]
mod tests;
