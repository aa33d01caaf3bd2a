//! Running a server: its log, its signals, its end.
//!
//! SIGTERM and SIGINT drain and stop; a second one stops at once, which loses nothing acknowledged but costs the next start a
//! recovery. SIGHUP reads keys and certificates again, and changes nothing when that fails.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use memkv_engine::{DriveOpenError, OpenError};
use memkv_server::config::{Backend, Config, ConfigError, Facts, Origin};
use memkv_server::{RunningServer, Server, StartError, StartOptions, StopError, Stopped, env};
use memkv_settings::{Environment, LoadOptions};
use memkv_telemetry::log::Chain;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::observe::{level_setter, observe};
use crate::exit::{Exit, Failure, Outcome};

/// What sending the log's last lines to a collector may take.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// Within this a second signal is the first one's twin.
const TWIN: Duration = Duration::from_secs(1);

/// Where a configuration comes from, to read it again.
pub(super) struct Reading {
    pub(super) origin: Origin,
    pub(super) options: LoadOptions,
    pub(super) environment: Environment,
}

impl Reading {
    /// Reads it; at the start and on SIGHUP.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        self.origin
            .load(&self.environment, &Facts::read(), &self.options)
    }
}

/// SIGXFSZ.
const FILE_SIZE: rustix::process::Signal = rustix::process::Signal::XFSZ;

/// The signals that we answer.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// Caught so that a write beyond a file's limit fails, as one to a full file system does, and
    /// doesn't end the process.
    _file_size: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stop(&'static str),
    Reload,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(FILE_SIZE.as_raw()))?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Wish::Stop("SIGINT"),
            _ = self.hang_up.recv() => Wish::Reload,
        }
    }

    /// The next wish to stop; asks to reload are dropped.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Wish::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}

/// Makes the folders of `--dev`'s files, so that it runs anywhere; elsewhere a missing folder is a missing mount.
fn make_folders(config: &Config) -> anyhow::Result<()> {
    let Backend::File(drives) = &config.storage.backend else {
        return Ok(());
    };
    let folders = drives.iter().filter_map(|drive| drive.media.parent());
    folders
        .filter(|folder| !folder.as_os_str().is_empty())
        .try_for_each(make_folder)
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| {
        let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        format!(
            "make the folder {} of --dev's data; start in a folder that you may write to, or name drives in a \
             configuration (--config)",
            whole.display()
        )
    })
}

/// Starts the server and stays until it has stopped.
pub(super) fn run(config: Config, reading: &Reading) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(config, reading))
}

async fn serve(config: Config, reading: &Reading) -> Outcome {
    let mut signals = Signals::listen()?;
    if matches!(reading.origin, Origin::Dev { .. }) {
        make_folders(&config)?;
    }
    let (telemetry, log) = observe(&config)?;
    announce(&config);
    let drain = config.limits.drain;
    let options = StartOptions {
        version: crate::version::short(),
        home: env::home(&reading.environment),
        telemetry: Some(telemetry),
        log_level: Some(level_setter(&log)),
        ..StartOptions::default()
    };
    let outcome = until_stopped(config, options, drain, &mut signals, reading).await;
    // The log's last lines are about the stop itself.
    log.shutdown(LOG_FLUSH);
    outcome
}

async fn until_stopped(
    config: Config,
    options: StartOptions,
    drain: Duration,
    signals: &mut Signals,
    reading: &Reading,
) -> Outcome {
    // Opening a store may take long; a signal must not have to wait for it.
    let starting = on_a_thread(move || Server::<memkv_proto::HmacSha256>::start(config, options))?;
    tokio::pin!(starting);
    let mut reload_due = false;
    let mut stop_due = None;
    let server = loop {
        tokio::select! {
            started = &mut starting => break started.map_err(lost)?.map_err(refused)?,
            wish = signals.next() => match wish {
                Wish::Stop(signal) => {
                    stop_due = Some(signal);
                    // A start that is nearly done gets the chance to end in a clean stop.
                    match tokio::time::timeout(TWIN, &mut starting).await {
                        Ok(started) => break started.map_err(lost)?.map_err(refused)?,
                        Err(_) => {
                            info!(signal, "stopped before the start was done");
                            return Ok(Exit::Done);
                        }
                    }
                }
                // The file may have changed since it was read; nothing can be taken over yet.
                Wish::Reload => reload_due = true,
            },
        }
    };
    if reload_due {
        reload(&server, reading);
    }
    let signal = loop {
        if let Some(signal) = stop_due {
            break signal;
        }
        match signals.next().await {
            Wish::Stop(signal) => stop_due = Some(signal),
            Wish::Reload => reload(&server, reading),
        }
    };
    info!(signal, "stopping; a second signal stops at once");
    let asked = Instant::now();
    let stopping = on_a_thread(move || server.drain_and_stop(drain))?;
    tokio::select! {
        stopped = stopping => end(stopped.map_err(lost)?),
        signal = again(signals, asked) => {
            warn!(signal, "stopped at once; the next start recovers the store");
            Ok(Exit::Failed)
        }
    }
}

/// Waits for a second wish to stop. One that comes at once is the first one's twin: shells, make and timeout(1) signal both a
/// process and its group.
async fn again(signals: &mut Signals, asked: Instant) -> &'static str {
    loop {
        let signal = signals.stop().await;
        if asked.elapsed() >= TWIN {
            return signal;
        }
    }
}

/// Says what the server runs on: every value that somebody or something set, and what is odd.
fn announce(config: &Config) {
    for value in config
        .effective()
        .iter()
        .filter(|value| value.source.kind() != "default")
    {
        info!(key = %value.path, value = %value.value, from = %value.source, "configured");
    }
    for warning in config.warnings() {
        warn!("{warning}");
    }
}

fn reload(server: &RunningServer, reading: &Reading) {
    match reading.load() {
        Ok(config) => {
            if let Err(error) = server.reload(config) {
                error!(error = %Chain(&error), "reload");
            }
        }
        Err(problems) => {
            error!(
                error = %Chain(&problems),
                "reload; the old settings stay in use"
            );
        }
    }
}

fn end(stopped: Result<Stopped, StopError>) -> Outcome {
    match stopped {
        Ok(_) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}

fn refused(error: StartError) -> Failure {
    let exit = match &error {
        StartError::Tls(_) | StartError::DevKey(_) | StartError::NoRdma => Exit::Config,
        StartError::Open(error) => unopened(error),
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

/// How a start ends on a store that can't be opened: what to change is the configuration, the drive, or neither.
fn unopened(error: &OpenError) -> Exit {
    use DriveOpenError as Drive;
    match error {
        OpenError::Config(_) | OpenError::Memlock { .. } => Exit::Config,
        OpenError::Drive { source, .. } => match source {
            Drive::Capped { .. } => Exit::Config,
            Drive::InUse { .. } | Drive::Foreign { .. } | Drive::OtherStore { .. } => Exit::Refused,
            _ => Exit::Failed,
        },
        _ => Exit::Failed,
    }
}

/// Runs what blocks beside us; the answer comes when it is done.
fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<oneshot::Receiver<T>> {
    let (done, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name("memkv-start".to_owned())
        .spawn(move || {
            // Nobody listens any more when a signal came first.
            let _ = done.send(work());
        })?;
    Ok(answer)
}

fn lost(_: oneshot::error::RecvError) -> Failure {
    Failure::new(
        Exit::Failed,
        anyhow::anyhow!("the server's thread panicked; see above"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_that_the_rings_cant_register_are_the_configurations_fault() {
        let error = OpenError::Memlock {
            bytes: 2,
            drives: 1,
            limit: 1,
            source: std::io::ErrorKind::OutOfMemory.into(),
        };
        assert_eq!(refused(error.into()).exit, Exit::Config);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let error = make_folder(&file.join("data")).unwrap_err().to_string();
        for want in [file.join("data").to_str().unwrap(), "may write", "--config"] {
            assert!(error.contains(want), "{want}: {error}");
        }
    }
}
