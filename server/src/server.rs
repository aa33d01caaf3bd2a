//! Starting and stopping a server: the one place that knows all of its parts.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use memkv_engine::{Engine, OpenError, ShutdownError};
use memkv_proto::{FrameMac, HmacSha256};
use memkv_settings::dev_key::DevKeyError;
use memkv_telemetry::log::Chain;
use memkv_telemetry::{OtlpError, Telemetry};
use tracing::{info, warn};

use crate::admin::serve::{TlsError, load_tls};
use crate::admin::socket::{AdminSocket, SocketError};
use crate::admin::{self, Via};
use crate::config::{AuthKeys, Config, RdmaMode};
use crate::limits::Limits;
use crate::listen::{ListenError, Listeners};
use crate::observe::telemetry_of;
use crate::shared::{Life, Shared};
use crate::threads::DataThreads;

/// Starts servers whose sessions sign with `M`. The product uses [`HmacSha256`] only; benchmarks measure its price.
#[derive(Debug)]
pub struct Server<M: FrameMac = HmacSha256> {
    mac: PhantomData<fn() -> M>,
}

/// What a start takes beside the configuration.
pub struct StartOptions {
    /// What this build calls itself, such as `1.2.3 (commit abc)`.
    pub version: String,
    /// The home directory, for the development key; see [`crate::env::home`].
    pub home: Option<PathBuf>,
    /// Bounds on clients; tests shorten their times.
    pub limits: Limits,
    /// Telemetry that the caller has built; by default it is built from the configuration.
    pub telemetry: Option<Telemetry>,
    /// Changes the log's level, for `POST /v1/admin/log-level`.
    pub log_level: Option<LogLevelSetter>,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            home: None,
            limits: Limits::default(),
            telemetry: None,
            log_level: None,
        }
    }
}

/// Changes the level of the log that the caller installed; answers whether it knew the level.
pub struct LogLevelSetter(Box<dyn Fn(&str) -> bool + Send + Sync>);

impl LogLevelSetter {
    /// Calls `set` with `trace`, `debug`, `info`, `warn` or `error`.
    pub fn new(set: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(set))
    }

    pub(crate) fn set(&self, level: &str) -> bool {
        (self.0)(level)
    }
}

impl std::fmt::Debug for LogLevelSetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogLevelSetter")
    }
}

/// Why a server did not start. Nothing is left running or locked.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// HTTPS on the admin endpoint can't be served.
    #[error("serve HTTPS on the admin endpoint")]
    Tls(#[from] TlsError),
    /// There is no key to authenticate with.
    #[error("take the development key; or set network.auth_key")]
    DevKey(#[from] DevKeyError),
    /// The admin endpoint's unix socket can't be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The store can't be opened.
    #[error("open the store")]
    Open(#[from] OpenError),
    /// RDMA is required by the configuration and not part of this build.
    #[error(
        "rdma.enabled is true, but this build has no RDMA; set it to auto to serve TCP with a finding, or to false"
    )]
    NoRdma,
    /// Telemetry can't be set up.
    #[error("set up telemetry")]
    Telemetry(#[from] OtlpError),
    /// A thread or its event loop can't be had.
    #[error("start {what}; raise ulimit -u or ulimit -n")]
    Thread {
        /// Which one.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Why a running server kept its old settings.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new certificates don't serve.
    #[error("reload the certificates of the admin endpoint; the old ones stay in use")]
    Tls(#[from] TlsError),
    /// The development key is gone.
    #[error("reload the keys; the old ones stay in use")]
    DevKey(#[from] DevKeyError),
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Whether the set of keys changed.
    pub keys: bool,
    /// Whether certificates were read again.
    pub certificates: bool,
    /// Keys of the configuration that differ and only count after a restart.
    pub needs_restart: Vec<String>,
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Requests that were in flight when the deadline passed.
    pub abandoned: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why a stop did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The store did not shut down; the next start recovers it.
    #[error("shut the store down; the next start will recover it")]
    Engine(#[from] ShutdownError),
}

impl<M: FrameMac> Server<M> {
    /// Starts a server and returns when it serves.
    ///
    /// Listens first, so that a port in use costs nothing; then answers on the admin endpoint (not ready), opens the
    /// store, which may take as long as its recovery, and accepts connections. Blocks meanwhile; may be called from
    /// anywhere, also from within another runtime.
    ///
    /// # Errors
    /// When any part can't start; everything that had started is stopped again.
    pub fn start(config: Config, options: StartOptions) -> Result<RunningServer, StartError> {
        if config.rdma.enabled == RdmaMode::True {
            return Err(StartError::NoRdma);
        }
        let keys = config.auth_keys(options.home.as_deref())?;
        warn_of_dev_key(&keys);
        let tls = match &config.network.tls {
            Some(tls) => Some(RustlsConfig::from_config(load_tls(&tls.cert, &tls.key)?)),
            None => None,
        };
        let listeners = Listeners::bind(config.network.address)?;
        let socket = config.network.admin_socket.as_deref();
        let socket = socket.map(AdminSocket::bind).transpose()?;
        let local = |listener: &std::net::TcpListener, role| {
            let address = config.network.address;
            listener.local_addr().map_err(|source| ListenError::Other {
                role,
                address,
                source,
            })
        };
        let data_address = local(&listeners.data, "data")?;
        let admin_address = local(&listeners.admin, "admin")?;
        let telemetry = match options.telemetry {
            Some(telemetry) => telemetry,
            None => telemetry_of(&config, &options.version)?,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("memkv-main")
            .on_thread_start(log_to_current())
            .enable_all()
            .build()
            .map_err(|source| StartError::Thread {
                what: "the main runtime".into(),
                source,
            })?;
        let shared = Shared::new(
            config,
            &keys,
            options.limits,
            telemetry,
            (options.log_level, options.version),
            (data_address, admin_address),
        );
        let weak = Arc::downgrade(&shared);
        shared.telemetry().before_scrape(move || {
            if let Some(shared) = weak.upgrade() {
                shared.refresh_gauges();
            }
        });
        let mut running = RunningServer {
            shared: shared.clone(),
            admin: Handle::new(),
            socket: None,
            tls: tls.clone(),
            home: options.home,
            threads: None,
            runtime: Some(runtime),
        };
        running.serve_admin(listeners.admin, tls);
        if let Some((socket, listener)) = socket {
            running.serve_socket(socket, listener);
        }
        // From here on an early return drops `running`, which stops what runs.
        let engine = Engine::open(shared.config().engine(), shared.engine_metrics())?;
        shared.opened(engine);
        let mut threads = DataThreads::start::<M>(&shared)?;
        threads.accept(running.handle(), listeners.data, &shared)?;
        running.threads = Some(threads);
        shared.enter(Life::Serving);
        info!(%data_address, %admin_address, threads = shared.config().network.threads, "serving");
        Ok(running)
    }
}

/// Has a thread log where the thread that starts the server does, which needn't be the process's default.
fn log_to_current() -> impl Fn() + Send + Sync + 'static {
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    move || {
        // Kept for the thread's life.
        std::mem::forget(tracing::dispatcher::set_default(&dispatch));
    }
}

fn warn_of_dev_key(keys: &AuthKeys) {
    if let Some(dev) = &keys.dev {
        warn!(path = %dev.path.display(), "using the development key; set network.auth_key in production");
    }
}

/// A server that serves. Dropping it stops it without waiting for requests in flight.
#[derive(Debug)]
pub struct RunningServer {
    shared: Arc<Shared>,
    admin: Handle<SocketAddr>,
    socket: Option<(AdminSocket, Handle<UnixAddr>)>,
    tls: Option<RustlsConfig>,
    home: Option<PathBuf>,
    threads: Option<DataThreads>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl RunningServer {
    /// Where clients connect; with port 0 in the configuration, the port that the kernel chose.
    pub fn data_address(&self) -> SocketAddr {
        self.shared.data_address()
    }

    /// Where the admin endpoint answers.
    pub fn admin_address(&self) -> SocketAddr {
        self.shared.admin_address()
    }

    /// Whether the admin endpoint speaks HTTPS.
    pub fn admin_is_https(&self) -> bool {
        self.tls.is_some()
    }

    /// The telemetry it records to.
    pub fn telemetry(&self) -> &Telemetry {
        self.shared.telemetry()
    }

    /// Takes keys and certificates from `config`, as on SIGHUP; other changes are named and wait for a restart.
    ///
    /// Sessions of a key that is no longer there are closed. Blocks while files are read.
    ///
    /// # Errors
    /// When keys or certificates can't be had; then everything stays as it was.
    pub fn reload(&self, config: Config) -> Result<Reloaded, ReloadError> {
        let keys = config.auth_keys(self.home.as_deref())?;
        let tls = match (&config.network.tls, &self.tls) {
            (Some(files), Some(serving)) => Some((serving, load_tls(&files.cert, &files.key)?)),
            _ => None,
        };
        let certificates = tls.is_some();
        if let Some((serving, fresh)) = tls {
            serving.reload_from_config(fresh);
        }
        let keys_changed = self.shared.replace_keys(&keys);
        if keys_changed && let Some(threads) = &self.threads {
            threads.check_keys();
        }
        let needs_restart = self.shared.config().needs_restart(&config);
        let reloaded = Reloaded {
            keys: keys_changed,
            certificates,
            needs_restart,
        };
        info!(keys = reloaded.keys, certificates, needs_restart = ?reloaded.needs_restart, "reloaded");
        Ok(reloaded)
    }

    /// Answers `Draining` to new requests from now on, and refuses new connections. It can't be taken back.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Requests that were taken and aren't answered yet.
    pub fn requests_in_flight(&self) -> u64 {
        self.shared.requests_in_flight()
    }

    /// Drains, waits until the requests in flight are answered or `deadline` has passed, flushes and stops everything.
    ///
    /// Blocks until then. The admin endpoint answers (not ready) as long as it takes.
    ///
    /// # Errors
    /// When the store doesn't shut down; everything else has stopped then.
    pub fn drain_and_stop(mut self, deadline: Duration) -> Result<Stopped, StopError> {
        let started = Instant::now();
        self.drain();
        let in_flight = self.requests_in_flight();
        info!(
            in_flight,
            deadline_ms = deadline.as_millis() as u64,
            "draining"
        );
        while self.requests_in_flight() > 0 && started.elapsed() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let abandoned = self.requests_in_flight();
        if abandoned > 0 {
            warn!(abandoned, "drain deadline passed with requests in flight");
        }
        let stopped = self.stop(deadline.saturating_sub(started.elapsed()));
        let took = started.elapsed();
        stopped?;
        info!(took_ms = took.as_millis() as u64, "stopped");
        Ok(Stopped { abandoned, took })
    }

    fn handle(&self) -> &tokio::runtime::Handle {
        match &self.runtime {
            Some(runtime) => runtime.handle(),
            None => unreachable!("the runtime lives until stop"),
        }
    }

    fn serve_admin(&self, listener: std::net::TcpListener, tls: Option<RustlsConfig>) {
        let via = if tls.is_some() { Via::Https } else { Via::Http };
        let router = admin::router(self.shared.clone(), via);
        let limits = self.shared.limits().clone();
        let handle = self.admin.clone();
        self.handle().spawn(async move {
            if let Err(error) = admin::serve::serve(listener, tls, router, &limits, handle).await {
                tracing::error!(%error, "the admin endpoint stopped");
            }
        });
    }

    fn serve_socket(&mut self, socket: AdminSocket, listener: UnixListener) {
        let router = admin::router(self.shared.clone(), Via::Socket);
        let limits = self.shared.limits().clone();
        let handle = Handle::new();
        self.socket = Some((socket, handle.clone()));
        self.handle().spawn(async move {
            let served = admin::serve::serve_socket(listener, router, &limits, handle).await;
            if let Err(error) = served {
                tracing::error!(%error, "the admin endpoint's unix socket stopped");
            }
        });
    }

    fn stop(&mut self, left: Duration) -> Result<(), StopError> {
        let Some(runtime) = self.runtime.take() else {
            return Ok(());
        };
        self.shared.drain();
        if let Some(threads) = self.threads.take() {
            threads.stop();
        }
        let result = match self.shared.engine() {
            // Even a stop without time left flushes what was acknowledged.
            Some(engine) => engine.shutdown(left.max(Duration::from_secs(5))),
            None => Ok(()),
        };
        self.shared.enter(Life::Stopped);
        self.admin.shutdown();
        if let Some((socket, handle)) = self.socket.take() {
            handle.shutdown();
            drop(socket);
        }
        self.shared
            .telemetry()
            .shutdown(left.max(Duration::from_secs(2)));
        runtime.shutdown_background();
        Ok(result?)
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Duration::ZERO) {
            tracing::error!(error = %Chain(&error), "stop");
        }
    }
}
