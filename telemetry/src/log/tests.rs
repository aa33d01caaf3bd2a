use std::io::Write;

use parking_lot::Mutex;

use super::*;
use crate::hub::TelemetryConfig;
use crate::timeline::Role;

/// A writer that remembers.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
    }
}

fn telemetry() -> Telemetry {
    Telemetry::new(TelemetryConfig::new(Role::Server, "1")).unwrap()
}

/// Runs `log` under a subscriber; returns what was written.
fn written(format: LogFormat, level: LogLevel, log: impl Fn(&LogHandle, &Memory)) -> String {
    let memory = Memory::default();
    let writer = memory.clone();
    let config = LogConfig {
        level,
        format,
        otlp: false,
    };
    let (subscriber, handle) = subscriber(config, &telemetry(), move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || log(&handle, &memory));
    memory.take()
}

#[test]
fn json_lines_have_fields_and_trace_ids_at_the_top() {
    let text = written(LogFormat::Json, LogLevel::Info, |_, _| {
        tracing::warn!(trace_id = "abcd", gid_index = 3, "no routable gid");
    });
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["trace_id"], "abcd");
    assert_eq!(line["gid_index"], 3);
    assert_eq!(line["message"], "no routable gid");
    assert_eq!(line["level"], "WARN");
}

#[test]
fn text_lines_have_trace_ids_where_there_is_a_trace() {
    let text = written(LogFormat::Text, LogLevel::Info, |_, _| {
        tracing::warn!(trace_id = Some("abcd".to_owned()), "failed");
        tracing::warn!(trace_id = None::<String>, "alone");
    });
    let (failed, alone) = text.trim().split_once('\n').unwrap();
    assert!(failed.contains("failed trace_id=\"abcd\""), "{failed}");
    assert!(
        alone.contains("alone") && !alone.contains("trace_id"),
        "{alone}"
    );
}

#[test]
fn text_lines_have_no_escape_codes() {
    let text = written(LogFormat::Text, LogLevel::Info, |_, _| {
        tracing::info!(port = 9900, "listening")
    });
    assert!(text.contains("listening port=9900"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn the_level_changes_while_running() {
    let text = written(LogFormat::Text, LogLevel::Warn, |handle, memory| {
        tracing::info!("hidden");
        assert_eq!(memory.take(), "");
        handle.set_level(LogLevel::Debug);
        tracing::debug!("shown");
    });
    assert!(text.contains("shown"), "{text}");
}

#[test]
fn libraries_below_are_heard_only_from_warn_on() {
    let text = written(LogFormat::Text, LogLevel::Trace, |_, _| {
        tracing::info!(target: "h2::codec", "frame");
        tracing::warn!(target: "h2::codec", "broken");
    });
    assert!(!text.contains("frame") && text.contains("broken"), "{text}");
}

#[test]
fn lines_are_counted_by_level() {
    let telemetry = telemetry();
    let config = LogConfig {
        level: LogLevel::Info,
        format: LogFormat::Json,
        otlp: false,
    };
    let (subscriber, _handle) = subscriber(config, &telemetry, io::sink).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::error!("one");
        tracing::error!("two");
        tracing::debug!("filtered");
    });
    assert_eq!(telemetry.log_events(LogLevel::Error), 2);
    assert_eq!(telemetry.log_events(LogLevel::Debug), 0);
}

#[test]
fn export_without_a_collector_is_refused() {
    let config = LogConfig {
        level: LogLevel::Info,
        format: LogFormat::Json,
        otlp: true,
    };
    assert!(matches!(
        subscriber(config, &telemetry(), io::sink),
        Err(LogError::NoEndpoint)
    ));
}

#[test]
fn an_error_is_shown_with_all_of_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("open the drive")]
    struct Outer(#[source] std::num::ParseIntError);
    let outer = Outer("x".parse::<u8>().unwrap_err());
    let shown = Chain(&outer).to_string();
    assert_eq!(shown, "open the drive: invalid digit found in string");
}
