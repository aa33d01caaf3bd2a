//! Configuration: defaults, then the YAML file that `MEMKV_CONFIG` names, then the environment.
//!
//! [`RawConfig`] is the YAML as written, with where each value came from. [`ClientConfig`] is what a client runs on: checked
//! and resolved. Keys, units, defaults and variables are those of MemKV's client, so an existing `client.yaml` works
//! unchanged; what only RDMA uses is read, checked and shown, and waits for that transport. Licence fields are read and
//! ignored: this implementation has no licence gate.

mod check;
mod raw;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use memkv_settings::dev_key::DevKeyError;
use memkv_settings::{
    AuthKey, Document, Effective, Environment, LoadOptions, Problem, Problems, Section,
    effective_of, load, misspelt_variables,
};

use check::{auth_key, check_lengths, resolve_bind_addresses};
pub use raw::{Advanced, PayloadMac, RawConfig, Transport};

/// Why there is no configuration to run on.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that `MEMKV_CONFIG` names can't be read.
    #[error("read {path} (named by MEMKV_CONFIG)")]
    Read {
        /// The file.
        path: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// One or more values are wrong; the text lists them all.
    #[error("{0}")]
    Invalid(Problems),
    /// No key is configured, and the development key can't be had.
    #[error("no auth_key is set and the development key can't be used")]
    DevKey(#[source] DevKeyError),
}

/// One server of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// As configured, `host:port`.
    pub server: String,
    /// What keys are placed by.
    pub identity: String,
    /// The source address for its connections.
    pub bind: Option<IpAddr>,
}

/// What a client runs on.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The servers; never empty.
    pub servers: Vec<ServerConfig>,
    /// Whether `node_ids` names the servers; only then is a server that names itself otherwise in the wrong place.
    pub explicit_node_ids: bool,
    /// The shared key.
    pub auth_key: AuthKey,
    /// Whether that is the development key under $HOME.
    pub dev_key: bool,
    /// Within this a connection must stand, handshake included.
    pub connect_timeout: Duration,
    /// What an op may take where the call says nothing else.
    pub op_timeout: Duration,
    /// How long a timed-out op's cancellation may stay unacknowledged before its connection is closed.
    pub fence_timeout: Duration,
    /// Connections per server, at least 1.
    pub num_connections: usize,
    /// Entries per BatchRead and BatchWrite frame, at least 1.
    pub max_batch_size: usize,
    /// The transport as requested; this build has TCP.
    pub transport: Transport,
    /// Whether payloads must carry a MAC of their own.
    pub payload_mac: PayloadMac,
    /// How many times a read that lost its connection is sent again within its deadline.
    pub retries: u32,
    /// Share of calls to trace where the caller brings no trace.
    pub trace_ratio: f64,
    /// Where to serve the client's metrics.
    pub prometheus_bind: Option<String>,
    /// Where to send the client's telemetry; wins over `prometheus_bind`.
    pub otel_endpoint: Option<String>,
    /// Every effective value with where it came from.
    pub effective: Vec<Effective>,
    /// Unknown keys that were let through, and what else deserves a line in a log.
    pub warnings: Vec<String>,
}

/// How long a cancellation may stay unacknowledged: a server answers one in microseconds unless it or the path is gone.
const FENCE_TIMEOUT: Duration = Duration::from_secs(1);

impl ClientConfig {
    /// The process's configuration: `MEMKV_CONFIG` and the environment.
    ///
    /// # Errors
    /// When the file can't be read or a value is wrong; all problems at once.
    pub fn from_process() -> Result<Self, ConfigError> {
        let environment = crate::env::environment();
        match environment.get("MEMKV_CONFIG") {
            Some(path) => Self::from_file(Path::new(path), &environment, &LoadOptions::default()),
            None => Self::resolve(None, &environment, &LoadOptions::default()),
        }
    }

    /// The configuration in the file at `path`, overridden by `environment` and then by `options`.
    ///
    /// # Errors
    /// As [`ClientConfig::from_process`].
    pub fn from_file(
        path: &Path,
        environment: &Environment,
        options: &LoadOptions,
    ) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: name.clone(),
            source,
        })?;
        let document = Document::parse(&name, &bytes).map_err(ConfigError::Invalid)?;
        Self::resolve(Some(&document), environment, options)
    }

    /// Resolves a parsed document (or none), an environment and overrides.
    ///
    /// # Errors
    /// As [`ClientConfig::from_process`].
    pub fn resolve(
        document: Option<&Document>,
        environment: &Environment,
        options: &LoadOptions,
    ) -> Result<Self, ConfigError> {
        let own = without_foreign_endpoint(environment);
        let loaded = load::<RawConfig>(document, &own, options).map_err(ConfigError::Invalid)?;
        let advanced = advanced(environment)?;
        let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        for (name, meant) in misspelt_variables(environment) {
            warnings.push(format!(
                "env {name} means nothing to memkv; did you mean {meant}?"
            ));
        }
        let mut raw = loaded.value;
        resolve_bind_addresses(&mut raw);
        let mut problems = Vec::new();
        check_lengths(&raw, &mut problems);
        if raw.transport.value == Transport::Rdma {
            problems.push(Problem::Refused(format!(
                "transport is rdma ({}), but this build has no RDMA transport; set transport to tcp, or to auto, which \
                 takes TCP and says so",
                raw.transport.source
            )));
        }
        let key = auth_key(&raw, environment, &mut problems, &mut warnings)?;
        match key {
            Some((key, dev)) if problems.is_empty() => {
                Ok(Self::from_raw(&raw, &advanced, key, dev, warnings))
            }
            _ => Err(ConfigError::Invalid(Problems(problems))),
        }
    }

    fn from_raw(
        raw: &RawConfig,
        advanced: &Advanced,
        auth_key: AuthKey,
        dev_key: bool,
        warnings: Vec<String>,
    ) -> Self {
        let mut effective = effective_of(raw);
        effective.extend(effective_of(advanced));
        // Every field is named, so that a new one doesn't compile until it is used, or said not to be.
        let RawConfig {
            servers,
            node_ids,
            bind_addresses,
            connect_timeout_ms,
            num_connections,
            transport,
            payload_mac,
            retries,
            trace_ratio,
            prometheus_bind,
            otel_endpoint,
            auth_key: _, // The key in use may be the development key instead.
            license: _,
            // They wait for RDMA.
            rdma_devices: _,
            cache_size_mb: _,
            gid_index: _,
            traffic_class: _,
            service_level: _,
            mtu: _,
        } = raw;
        let Advanced {
            rdma_timeout_secs,
            max_batch_size,
            // They wait for RDMA.
            cq_batch_spins: _,
            cq_poll_delay_ns: _,
            staging_size_mb: _,
            staging_slot_mb: _,
        } = advanced;
        Self {
            servers: placed(&servers.value, &node_ids.value, &bind_addresses.value),
            explicit_node_ids: !node_ids.value.is_empty(),
            auth_key,
            dev_key,
            connect_timeout: Duration::from_millis(connect_timeout_ms.value),
            op_timeout: Duration::from_secs(rdma_timeout_secs.value),
            fence_timeout: FENCE_TIMEOUT,
            num_connections: num_connections.value.max(1),
            max_batch_size: max_batch_size.value.max(1),
            transport: transport.value,
            payload_mac: payload_mac.value,
            retries: retries.value,
            trace_ratio: trace_ratio.value,
            prometheus_bind: prometheus_bind.value.clone(),
            otel_endpoint: otel_endpoint.value.clone(),
            effective,
            warnings,
        }
    }

    /// A configuration in code: these servers, this key, TCP, every other value at its default and no telemetry.
    ///
    /// # Panics
    /// If `servers` is empty.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>, auth_key: AuthKey) -> Self {
        let servers: Vec<String> = servers.into_iter().map(Into::into).collect();
        assert!(!servers.is_empty(), "a client needs at least one server");
        let (raw, advanced) = (defaults::<RawConfig>(), defaults::<Advanced>());
        Self {
            servers: placed(&servers, &[], &vec![None; servers.len()]),
            transport: Transport::Tcp,
            // They would say where a file or a variable has what this configuration has from its caller.
            effective: Vec::new(),
            ..Self::from_raw(&raw, &advanced, auth_key, false, Vec::new())
        }
    }
}

/// A section without file and environment.
fn defaults<S: Section>() -> S {
    let loaded = load::<S>(None, &Environment::default(), &LoadOptions::default());
    loaded.expect("defaults keep their own rules").value
}

/// The servers with their identities, which are the server strings where none are given, and source addresses.
fn placed(servers: &[String], node_ids: &[String], binds: &[Option<IpAddr>]) -> Vec<ServerConfig> {
    let identities = if node_ids.is_empty() {
        servers
    } else {
        node_ids
    };
    let rows = servers.iter().zip(identities).zip(binds);
    rows.map(|((server, identity), bind)| ServerConfig {
        server: server.clone(),
        identity: identity.clone(),
        bind: *bind,
    })
    .collect()
}

/// The environment without an `OTEL_EXPORTER_OTLP_ENDPOINT` that we can't use: other programs' variable is no reason to
/// refuse.
fn without_foreign_endpoint(environment: &Environment) -> Environment {
    const NAME: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let usable = |url| memkv_settings::check_otlp_endpoint(url).is_ok();
    match environment.get(NAME) {
        Some(url) if !usable(url) => environment.clone().with(NAME, ""),
        _ => environment.clone(),
    }
}

/// The advanced settings: those of the process at its start, unless the caller's environment isn't the process's.
fn advanced(environment: &Environment) -> Result<Advanced, ConfigError> {
    let own = *environment == crate::env::environment();
    let environment = if own {
        crate::env::environment_at_start()
    } else {
        environment
    };
    let loaded = load::<Advanced>(None, environment, &LoadOptions::default())
        .map_err(ConfigError::Invalid)?;
    Ok(loaded.value)
}

#[cfg(test)]
mod tests;
