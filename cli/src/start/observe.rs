//! The telemetry and the log of a server, from its configuration.

use memkv_server::config::{Config, LogFormat, LogLevel};
use memkv_server::{LogLevelSetter, telemetry_of};
use memkv_telemetry::Telemetry;
use memkv_telemetry::log::{self, LogConfig, LogHandle};

use crate::exit::{Exit, Failure};
use crate::version;

/// Starts the telemetry and installs the log, in this order: the log may go to the telemetry's collector.
pub(super) fn observe(config: &Config) -> Result<(Telemetry, LogHandle), Failure> {
    let telemetry = telemetry_of(config, &version::short())
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let log = log::init(log_config(config), &telemetry)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    Ok((telemetry, log))
}

fn log_config(config: &Config) -> LogConfig {
    LogConfig {
        level: level(config.logging.level),
        format: match config.logging.format {
            LogFormat::Json => log::LogFormat::Json,
            LogFormat::Text => log::LogFormat::Text,
        },
        otlp: config.telemetry.logs_otlp && config.telemetry.otlp_endpoint.is_some(),
    }
}

fn level(level: LogLevel) -> memkv_telemetry::LogLevel {
    match level {
        LogLevel::Trace => memkv_telemetry::LogLevel::Trace,
        LogLevel::Debug => memkv_telemetry::LogLevel::Debug,
        LogLevel::Info => memkv_telemetry::LogLevel::Info,
        LogLevel::Warn => memkv_telemetry::LogLevel::Warn,
        LogLevel::Error => memkv_telemetry::LogLevel::Error,
    }
}

/// Lets the admin endpoint change the log's level.
pub(super) fn level_setter(log: &LogHandle) -> LogLevelSetter {
    let log = log.clone();
    LogLevelSetter::new(move |word| {
        let level_of = |word| <LogLevel as memkv_settings::Value>::from_text(word).ok();
        level_of(word)
            .inspect(|found| log.set_level(level(*found)))
            .is_some()
    })
}
