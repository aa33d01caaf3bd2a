//! A real server in this process, on ports that the kernel chooses.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use memkv_proto::session::AuthKey;
use memkv_server::config::{Config, Facts};
use memkv_server::{Limits, RunningServer, Server, StartError, StartOptions, Stopped};
use tempfile::TempDir;

use crate::log::Log;

/// The shared key of servers under test.
pub const KEY: [u8; 32] = [0x5a; 32];

/// The bearer token of their admin endpoints.
pub const TOKEN: &str = "a-token-for-tests-only";

/// The shared key as the protocol takes it.
pub fn key() -> AuthKey {
    AuthKey::new(KEY)
}

/// A key as the configuration takes it.
pub fn key_hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a server under test is started with.
pub struct Builder {
    storage: String,
    network: String,
    limits_yaml: String,
    telemetry: String,
    pool: String,
    limits: Limits,
    allowed: Vec<String>,
    dir: Option<TempDir>,
}

impl Builder {
    /// Memory mode with `capacity` (such as `64 MiB`) for values.
    pub fn memory(capacity: &str) -> Self {
        Self::with_storage(format!("  mode: memory\n  max_size: {capacity}\n"), None)
    }

    /// File mode on one drive of `capacity` in a directory of its own.
    pub fn file(capacity: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let media = dir.path().join("drive-0");
        let storage = format!(
            "  mode: file\n  drives:\n    - media: {}\n      max_size: {capacity}\n",
            media.display()
        );
        Self::with_storage(storage, Some(dir))
    }

    fn with_storage(storage: String, dir: Option<TempDir>) -> Self {
        Self {
            storage,
            network: String::new(),
            limits_yaml: String::new(),
            telemetry: String::new(),
            pool: "64 MiB".into(),
            limits: Limits::default(),
            // The tests' servers are small on purpose.
            allowed: vec!["finding".into(), "huge page".into()],
            dir,
        }
    }

    /// The pool's size, such as `64 MiB`.
    #[must_use]
    pub fn pool(mut self, size: &str) -> Self {
        self.pool = size.into();
        self
    }

    /// A line of the `network` section, such as `threads: 1`.
    #[must_use]
    pub fn network(mut self, line: &str) -> Self {
        self.network.push_str(&format!("  {line}\n"));
        self
    }

    /// A line of the `storage` section.
    #[must_use]
    pub fn storage(mut self, line: &str) -> Self {
        self.storage.push_str(&format!("  {line}\n"));
        self
    }

    /// A line of the `limits` section.
    #[must_use]
    pub fn limit(mut self, line: &str) -> Self {
        self.limits_yaml.push_str(&format!("  {line}\n"));
        self
    }

    /// A line of the `telemetry` section.
    #[must_use]
    pub fn telemetry(mut self, line: &str) -> Self {
        self.telemetry.push_str(&format!("  {line}\n"));
        self
    }

    /// Changes the bounds on clients.
    #[must_use]
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Lets the server log warnings and errors that contain `text`.
    #[must_use]
    pub fn allow(mut self, text: &str) -> Self {
        self.allowed.push(text.into());
        self
    }

    /// The configuration as YAML, on `address`.
    pub fn yaml(&self, address: &str) -> String {
        let section = |name: &str, lines: &str| match lines {
            "" => String::new(),
            lines => format!("{name}:\n{lines}"),
        };
        format!(
            "network:\n  address: {address}\n  auth_key: {}\n  admin_token: {TOKEN}\n{}memory:\n  max_size: {}\n\
             storage:\n{}{}{}",
            key_hex(&KEY),
            self.network,
            self.pool,
            self.storage,
            section("limits", &self.limits_yaml),
            section("telemetry", &self.telemetry),
        )
    }

    /// The checked configuration, on `address`.
    ///
    /// # Panics
    /// If it isn't valid.
    pub fn config(&self, address: &str) -> Config {
        let yaml = self.yaml(address);
        Config::from_yaml(
            "test.yaml",
            yaml.as_bytes(),
            &Default::default(),
            &Facts::read(),
            &Default::default(),
        )
        .unwrap_or_else(|problems| panic!("{problems}\n{yaml}"))
    }

    /// Starts it on ports that the kernel chooses.
    ///
    /// # Panics
    /// If it doesn't start.
    pub fn start(self) -> TestServer {
        self.try_start("127.0.0.1:0")
            .unwrap_or_else(|error| panic!("start: {error:?}"))
    }

    /// Starts it on `address`.
    ///
    /// # Errors
    /// What the server says.
    pub fn try_start(self, address: &str) -> Result<TestServer, StartError> {
        let log = Log::default();
        let dispatch = log.dispatch();
        let _default = tracing::dispatcher::set_default(&dispatch);
        let options = StartOptions {
            limits: self.limits.clone(),
            ..StartOptions::default()
        };
        let running = Server::<memkv_proto::HmacSha256>::start(self.config(address), options)?;
        Ok(TestServer {
            running: Some(running),
            log,
            builder: self,
        })
    }
}

/// A server that is stopped, and its log checked, when it is dropped.
pub struct TestServer {
    running: Option<RunningServer>,
    log: Log,
    builder: Builder,
}

impl TestServer {
    /// A server in memory mode with 256 MiB for values.
    pub fn memory() -> Self {
        Builder::memory("256 MiB").start()
    }

    /// The server.
    pub fn running(&self) -> &RunningServer {
        self.running.as_ref().expect("it runs until it is stopped")
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.running().data_address()
    }

    /// The URL of an admin path.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.running().admin_is_https() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{path}", self.running().admin_address())
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The directory of its drives.
    pub fn dir(&self) -> Option<&Path> {
        self.builder.dir.as_ref().map(TempDir::path)
    }

    /// What it was built with.
    pub fn builder(&self) -> &Builder {
        &self.builder
    }

    /// Drains and stops it, and checks that it logged nothing worse than `info`.
    ///
    /// # Panics
    /// If it doesn't stop well, or complained.
    pub fn stop(self) -> Stopped {
        self.stop_within(Duration::from_secs(10))
    }

    /// The same, with a deadline for what is in flight.
    pub fn stop_within(mut self, deadline: Duration) -> Stopped {
        self.end(deadline)
    }

    /// Stops it and starts it again on the same drives.
    pub fn restart(mut self) -> TestServer {
        self.end(Duration::from_secs(10));
        let empty = Builder::memory("64 MiB");
        std::mem::replace(&mut self.builder, empty).start()
    }

    fn end(&mut self, deadline: Duration) -> Stopped {
        let running = self.running.take().expect("it is stopped once");
        let dispatch = self.log.dispatch();
        let _default = tracing::dispatcher::set_default(&dispatch);
        let stopped = running.drain_and_stop(deadline).expect("a clean stop");
        let complaints = self.log.complaints(&self.builder.allowed);
        assert!(
            complaints.is_empty(),
            "the server complained: {complaints:#?}"
        );
        stopped
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.running.is_some() && !std::thread::panicking() {
            self.end(Duration::from_secs(10));
        }
    }
}
