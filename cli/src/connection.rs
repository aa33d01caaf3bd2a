//! What all verbs that speak to servers as a client share: flags, the client, and how its errors end the program.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use memkv_client::{
    BuildError, CallOptions, Client, ClientConfig, ConfigError, ErrorCode, OpError, StatKey,
    TransportCause,
};
use memkv_settings::{LoadOptions, Override, Source};

use crate::exit::{Exit, Failure};

/// Where the servers are, and how long to wait for them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Data addresses of the servers; wins over MEMKV_SERVERS and the configuration file
    #[arg(long, value_name = "HOST:PORT,…")]
    servers: Option<String>,
    /// The client's configuration file; wins over MEMKV_CONFIG
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Seconds that one request may take
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// The name space of the keys
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) namespace: u32,
}

/// A hundred years of 365 days: what waits longer is meant to wait for ever, and times of the wire don't overflow.
const SECONDS_MAX: f64 = 3_153_600_000.0;

/// Reads a positive number of seconds, such as `0.5`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| *seconds <= SECONDS_MAX);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.filter(|duration| !duration.is_zero()).ok_or_else(|| {
        format!(
            "give a number of seconds above 0 and at most {SECONDS_MAX} (100 years), such as 30 or 0.5"
        )
    })
}

impl Connection {
    /// A client on the process's configuration, as the flags change it. Opens no connection yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let environment = memkv_client::env::environment();
        let mut options = LoadOptions::default();
        if let Some(servers) = &self.servers {
            options.overrides.push(Override {
                path: "servers".to_owned(),
                text: servers.clone(),
                source: Source::Flag("--servers"),
            });
        }
        let path = self.config.clone();
        let path = path.or_else(|| environment.get("MEMKV_CONFIG").map(PathBuf::from));
        let config = match path {
            Some(path) => ClientConfig::from_file(&path, &environment, &options),
            None => ClientConfig::resolve(None, &environment, &options),
        };
        let config = config.map_err(config_failure)?;
        warn(&config);
        Client::new(config).map_err(|error| match error {
            BuildError::Config(error) => config_failure(error),
            BuildError::NoRdma | BuildError::Telemetry { .. } => Failure::new(Exit::Config, error),
            BuildError::Poll(_) | BuildError::Thread(_) => Failure::new(Exit::Failed, error),
        })
    }

    /// The options of every call.
    pub(crate) fn options(&self) -> CallOptions {
        CallOptions {
            timeout: self.timeout,
            namespace: self.namespace,
            ..CallOptions::default()
        }
    }
}

/// Says what is odd about a configuration.
pub(crate) fn warn(config: &ClientConfig) {
    for warning in &config.warnings {
        crate::out::tell(format_args!("memkv: warning: {warning}"));
    }
}

fn config_failure(error: ConfigError) -> Failure {
    Failure::new(Exit::Config, error)
}

/// How a verb ends for an entry that failed.
pub(crate) fn exit_of(error: &OpError) -> Exit {
    match error {
        OpError::BadKey { .. } | OpError::TooLarge { .. } => Exit::Usage,
        OpError::Transport { cause, .. } => match cause {
            TransportCause::DeadlineUnsent
            | TransportCause::DeadlineFenced
            | TransportCause::DeadlineClosed
            | TransportCause::ClosedForFence => Exit::Late,
            _ => Exit::Unreachable,
        },
        OpError::NoLane { .. } => Exit::Late,
        OpError::Server { code, .. } => match code {
            ErrorCode::TooLarge | ErrorCode::BadKey => Exit::Usage,
            ErrorCode::DeadlineExceeded => Exit::Late,
            _ => Exit::Failed,
        },
        OpError::BufferTooSmall { .. } | OpError::Corrupt { .. } | OpError::Closed => Exit::Failed,
    }
}

/// A failed entry as the failure of the verb.
pub(crate) fn failed(what: &str, error: OpError) -> Failure {
    let exit = exit_of(&error);
    Failure::new(exit, anyhow::Error::new(error).context(what.to_owned()))
}

/// What a value is told that a server finds too long, with the server's bound where it says one.
pub(crate) fn explain_too_large(
    client: &Client,
    options: &CallOptions,
    (key, len): (&[u8], usize),
    error: &OpError,
) -> Option<String> {
    let OpError::Server { server, code, .. } = error else {
        return None;
    };
    if *code != ErrorCode::TooLarge {
        return None;
    }
    let stat = client.with(options).stat(client.server_of(key)).ok();
    let max = stat.and_then(|stat| stat.get(StatKey::ValueBytesMax));
    Some(too_large(server, len as u64, max))
}

fn too_large(server: &str, len: u64, max: Option<u64>) -> String {
    // One that would have let the value in isn't what refused it.
    let bound = max.filter(|max| *max < len);
    let bound = bound.map_or_else(String::new, |max| format!(", at most {max}"));
    format!(
        "the value has {len} bytes, more than server {server} has room for{bound}; split it over several keys, or give \
         the server a larger storage.max_size or more drives"
    )
}

/// An error and its causes in one line, for a row of JSON.
pub(crate) fn in_one_line(error: &OpError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_positive_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(
            seconds("3153600000"),
            Ok(Duration::from_secs(3_153_600_000))
        );
        let wrong = [
            "0",
            "-1",
            "x",
            "",
            "inf",
            "NaN",
            "1e300",
            "1e-300",
            "3153600001",
            "1e19",
            "1e20",
        ];
        for wrong in wrong {
            let text = seconds(wrong).unwrap_err();
            assert!(text.contains("above 0 and at most 3153600000 "), "{text}");
        }
    }

    fn lost(cause: TransportCause) -> OpError {
        OpError::Transport {
            server: "s".into(),
            cause,
        }
    }

    fn answered(code: ErrorCode) -> OpError {
        OpError::Server {
            server: "s".into(),
            code,
            retry_after: None,
            detail: "".into(),
        }
    }

    #[test]
    fn time_that_is_over_is_no_server_that_cannot_be_reached() {
        assert_eq!(
            exit_of(&lost(TransportCause::ClosedByPeer)),
            Exit::Unreachable
        );
        let late = [
            lost(TransportCause::DeadlineUnsent),
            lost(TransportCause::DeadlineFenced),
            lost(TransportCause::DeadlineClosed),
            OpError::NoLane { lanes: 1 },
            answered(ErrorCode::DeadlineExceeded),
        ];
        for error in late {
            assert_eq!(exit_of(&error), Exit::Late, "{error}");
        }
    }

    #[test]
    fn a_value_too_long_for_a_server_ends_like_one_too_long_for_all() {
        assert_eq!(exit_of(&answered(ErrorCode::TooLarge)), Exit::Usage);
        assert_eq!(exit_of(&answered(ErrorCode::NoSpace)), Exit::Failed);
        let text = too_large("s:1", 200, Some(100));
        for part in [
            "200 bytes",
            "server s:1",
            "at most 100;",
            "split it",
            "storage.max_size",
        ] {
            assert!(text.contains(part), "{text}");
        }
        for unhelpful in [None, Some(1 << 30)] {
            assert!(!too_large("s:1", 200, unhelpful).contains("at most"));
        }
    }
}
