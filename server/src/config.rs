//! The configuration that the server runs on: checked, in typed units, with where each value came
//! from.
//!
//! [`raw::RawConfig`] is the YAML as written; [`Config`] is built from it by destructuring it
//! exhaustively. Values come, weakest first, from the defaults, the file, the environment and
//! flags. What only the machine knows comes in as [`Facts`], so that every rule and refusal is a
//! pure function.
//!
//! `MEMKV_CONFIG` names the *client's* file, and is often set for a whole host; the server
//! therefore doesn't read it.

mod check;
mod derived;
mod facts;
pub mod raw;
mod rules;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memkv_settings::{
    AuthKey, Document, Effective, Environment, LoadOptions, Problems, Secret, dev_key,
};

pub use facts::Facts;
pub use memkv_telemetry::OtlpProtocol;
pub use raw::{HugepageMode, LogFormat, LogLevel, PayloadMac, RdmaMode, SyncMode, VerifyMode};

/// Where a server's configuration is when no flag names one.
pub const DEFAULT_PATH: &str = "/etc/memkv/config.yaml";

/// The embedded configuration of `--dev`.
const DEV_YAML: &str = include_str!("config/dev.yaml");

/// The data port of the embedded configuration, unless another one is asked for.
pub const DEV_PORT: u16 = 9900;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listeners and authentication.
    pub network: Network,
    /// The pool.
    pub memory: Memory,
    /// RDMA, for the part that will use it.
    pub rdma: Rdma,
    /// The store.
    pub storage: Storage,
    /// Bounds on clients.
    pub limits: Limits,
    /// Traces and slow operations.
    pub telemetry: Telemetry,
    /// The log.
    pub logging: Logging,
    effective: Vec<Effective>,
    warnings: Vec<String>,
    unknown_keys: usize,
}

/// Listeners and authentication.
#[derive(Debug, Clone)]
pub struct Network {
    /// The data listener.
    pub address: SocketAddr,
    /// The admin listener: same address, port + 1; both ports are 0 where the kernel chooses.
    pub admin_address: SocketAddr,
    /// HTTPS on the admin listener.
    pub tls: Option<Tls>,
    /// The shared key; `None` stands for the development key, and then the address is loopback.
    pub auth_key: Option<AuthKey>,
    /// The key before it, still let in.
    pub auth_key_previous: Option<AuthKey>,
    /// Whether values must carry a MAC.
    pub payload_mac: PayloadMac,
    /// The admin endpoint's unix socket.
    pub admin_socket: Option<PathBuf>,
    /// Lets remote callers use admin verbs that change something.
    pub admin_token: Option<Secret>,
    /// This server's name; `None` where nobody gave one.
    pub node_id: Option<String>,
    /// Threads that serve connections, at least one.
    pub threads: usize,
}

/// HTTPS on the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// The pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of a slab: a power of two.
    pub block_bytes: u64,
    /// Bytes of the pool: whole slabs, at least four.
    pub pool_bytes: u64,
    /// Whether it may or must be mapped in huge pages.
    pub hugepages: HugepageMode,
    /// Whether it is mapped in huge pages; there were enough when this was decided.
    pub huge_pages: bool,
    /// Whether slabs freed twice leave a backtrace in the log.
    pub double_free_trace: bool,
}

/// RDMA settings, checked; 0 stands for "detect" where the documentation says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rdma {
    /// Whether to use it. Never `True` in this build.
    pub enabled: RdmaMode,
    /// Device name.
    pub device: String,
    /// Port of the device.
    pub port: u8,
    /// Index into the GID table, 0 = detect.
    pub gid_index: u8,
    /// ToS byte, 0 = detect.
    pub traffic_class: u8,
    /// Service level, 0 = as detected with the traffic class.
    pub service_level: u8,
    /// Path MTU.
    pub mtu: u32,
    /// Completion queue entries.
    pub cq_depth: u32,
    /// Exponent of the ACK timeout.
    pub timeout: u8,
    /// Retransmissions.
    pub retry_count: u8,
    /// DC initiators.
    pub num_dcis: u32,
    /// DC key, 24 bits, 0 = open.
    pub dc_key: u32,
    /// Request threads.
    pub num_worker_threads: u32,
    /// Response threads.
    pub num_responder_threads: u32,
}

/// The store.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Where values are kept.
    pub backend: Backend,
    /// Bytes of an extent: a power of two.
    pub extent_bytes: u64,
    /// Media errors that take a drive out of service.
    pub flap_threshold: u32,
    /// What a power loss may take.
    pub sync: SyncMode,
    /// Whether old values make room for new ones.
    pub eviction: bool,
    /// Which reads check the CRC on the server.
    pub verify: VerifyMode,
}

/// Where values are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Raw block devices, at least one.
    Direct(Vec<Drive>),
    /// Regular files, at least one; each has a capacity.
    File(Vec<Drive>),
    /// RAM.
    Memory {
        /// Bytes for values.
        capacity_bytes: u64,
    },
}

/// One drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Device or file.
    pub media: PathBuf,
    /// The most it may use; `None` is the whole device.
    pub capacity_bytes: Option<u64>,
}

/// Bounds on clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: u32,
    /// Bytes in flight over all connections.
    pub max_in_flight_bytes: u64,
    /// How long a graceful stop waits.
    pub drain: Duration,
}

/// Traces and slow operations.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// The collector.
    pub otlp_endpoint: Option<String>,
    /// How to speak to it.
    pub otlp_protocol: OtlpProtocol,
    /// Share of operations traced from here, 0 to 1.
    pub sample_ratio: f64,
    /// The most spans per second.
    pub spans_per_second: u32,
    /// Whether the log goes to the collector too.
    pub logs_otlp: bool,
    /// From when on an operation is slow.
    pub slow: Slow,
}

/// From when on an operation is slow.
#[derive(Debug, Clone, PartialEq)]
pub struct Slow {
    /// What any operation may take.
    pub base: Duration,
    /// What each MiB adds.
    pub per_mib: Duration,
    /// Slow is also this many times the rolling median; `None` turns that off.
    pub times_median: Option<f64>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// The least severe level written.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
}

/// Why there is no configuration to run on.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no file where one is expected and none was named.
    #[error(
        "there is no configuration: {path} doesn't exist; write one with memkv setup, name one with --config, or try \
         memkv start --dev"
    )]
    Absent {
        /// The default path.
        path: PathBuf,
    },
    /// The file can't be read.
    #[error(
        "read the configuration {path}; write one with memkv setup, name another one with --config, or try memkv start --dev"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It can be read, and is wrong.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Where a configuration is read from; kept for SIGHUP, which reads it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The embedded configuration of `--dev`, on this data port of loopback.
    Dev {
        /// The admin endpoint takes the one above it.
        port: u16,
    },
    /// A file.
    File(PathBuf),
}

impl Origin {
    /// Reads and checks the configuration. Blocks on the file; at most 1 MiB is read.
    ///
    /// # Errors
    /// When there is no file, or anything in it is wrong; then all of it is told.
    pub fn load(
        &self,
        environment: &Environment,
        facts: &Facts,
        options: &LoadOptions,
    ) -> Result<Config, ConfigError> {
        match self {
            Self::Dev { port } => Ok(Config::dev(*port, environment, facts, options)?),
            Self::File(path) => {
                let bytes = read_bounded(path).map_err(|source| match source.kind() {
                    io::ErrorKind::NotFound if path == Path::new(DEFAULT_PATH) => {
                        ConfigError::Absent { path: path.clone() }
                    }
                    _ => ConfigError::Read {
                        path: path.clone(),
                        source,
                    },
                })?;
                let name = path.display().to_string();
                Ok(Config::from_yaml(
                    &name,
                    &bytes,
                    environment,
                    facts,
                    options,
                )?)
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    let limit = memkv_settings::yaml::BYTES_MAX as u64 + 1;
    std::fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The keys to authenticate with.
#[derive(Debug, Clone)]
pub struct AuthKeys {
    /// The key that new sessions use.
    pub current: AuthKey,
    /// The key before it.
    pub previous: Option<AuthKey>,
    /// Set where the development key stands in; somebody should be warned.
    pub dev: Option<dev_key::DevKey>,
}

impl Config {
    /// The embedded configuration for trying memkv out: loopback, file mode under `./data`, a 256
    /// MiB pool, the development key. Clients look for it on [`DEV_PORT`].
    ///
    /// # Errors
    /// When variables or options make it invalid.
    pub fn dev(
        port: u16,
        environment: &Environment,
        facts: &Facts,
        options: &LoadOptions,
    ) -> Result<Self, Problems> {
        let yaml = DEV_YAML.replace(&format!(":{DEV_PORT}"), &format!(":{port}"));
        Self::from_yaml("--dev", yaml.as_bytes(), environment, facts, options)
    }

    /// Checks a configuration given as text, which messages will call `name`.
    ///
    /// # Errors
    /// Every problem there is, in the order of the keys' declaration.
    pub fn from_yaml(
        name: &str,
        yaml: &[u8],
        environment: &Environment,
        facts: &Facts,
        options: &LoadOptions,
    ) -> Result<Self, Problems> {
        let document = Document::parse(name, yaml)?;
        check::check(&document, environment, facts, options)
    }

    /// Every effective value and where it came from, in the order of the declaration.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }

    /// What is odd without being wrong, in sentences, for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How many keys of the file mean nothing and were let through on request.
    pub fn unknown_keys(&self) -> usize {
        self.unknown_keys
    }

    /// Says what [`Config::auth_keys`] would refuse, and makes nothing.
    ///
    /// # Errors
    /// When the development key is needed and can't be had.
    pub fn check_auth_keys(&self, home: Option<&Path>) -> Result<(), dev_key::DevKeyError> {
        match &self.network.auth_key {
            Some(_) => Ok(()),
            None => dev_key::check(home),
        }
    }

    /// The keys to authenticate with; makes the development key under `home` where it is needed and
    /// isn't there.
    ///
    /// # Errors
    /// When the development key is needed and can't be had.
    pub fn auth_keys(&self, home: Option<&Path>) -> Result<AuthKeys, dev_key::DevKeyError> {
        let previous = self.network.auth_key_previous.clone();
        if let Some(current) = self.network.auth_key.clone() {
            return Ok(AuthKeys {
                current,
                previous,
                dev: None,
            });
        }
        let dev = dev_key::load_or_create(home)?;
        Ok(AuthKeys {
            current: dev.key.clone(),
            previous,
            dev: Some(dev),
        })
    }
}

#[cfg(test)]
mod tests;
