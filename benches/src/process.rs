//! Child processes of a benchmark: started on loopback, measured from outside, ended by pid when dropped.

use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A server under test; killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    child: Child,
}

impl Server {
    /// Starts `command` with its output thrown away.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {name} ({:?})", command.get_program()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
        })
    }

    /// Takes over a child that was started elsewhere (one whose pipes the caller keeps).
    pub(crate) fn adopt(name: &str, child: Child) -> Self {
        Self {
            name: name.to_owned(),
            child,
        }
    }

    /// Waits until something accepts on `address`, or the process has ended, or ten seconds have passed.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let start = Instant::now();
        loop {
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at start with {status}", self.name);
            }
            if start.elapsed() > Duration::from_secs(10) {
                bail!("{} does not accept on {address} after 10 s", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// CPU seconds of all its threads so far, from the scheduler's own nanosecond accounting.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds_of(self.child.id())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU seconds of process `pid`: the sum over its living threads, 0 when it is gone.
///
/// `schedstat` counts nanoseconds, where `stat` counts ticks of 10 ms. Threads that ended are missing from it, so
/// workloads keep their threads for a whole run.
pub(crate) fn cpu_seconds_of(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0.0;
    };
    let nanoseconds: u64 = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum();
    nanoseconds as f64 / 1e9
}

/// CPU seconds of this process, ended threads included.
pub(crate) fn cpu_seconds_self() -> f64 {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9
}

/// A loopback port that was free a moment ago, and so was the one above it.
///
/// It lies below the range that the kernel takes the ports of outgoing connections from: one of those on the port above
/// would keep an admin endpoint from starting.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 4000) as u16;
    for _ in 0..4000 {
        let port = 20_000 + (start + NEXT.fetch_add(2, Ordering::Relaxed)) % 8000;
        if [port, port + 1]
            .iter()
            .all(|port| TcpListener::bind(loopback(*port)).is_ok())
        {
            return Ok(port);
        }
    }
    bail!("no two neighbouring ports between 20000 and 28000 are free on loopback")
}

/// `127.0.0.1:port`.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The path of `program`, or an error that names the Debian package to install.
pub(crate) fn require(program: &str, package: &str) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/bin"])
        .map(|folder| format!("{folder}/{program}"))
        .find(|candidate| fs::metadata(candidate).is_ok())
        .with_context(|| format!("{program} is missing: apt-get install {package}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_a_busy_process_grows() {
        let before = cpu_seconds_of(std::process::id());
        let mut x = 1u64;
        for i in 0..20_000_000u64 {
            x = std::hint::black_box(x.wrapping_mul(i | 1));
        }
        assert!(cpu_seconds_of(std::process::id()) > before);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = require("no-such-program", "some-package").unwrap_err();
        assert!(error.to_string().contains("apt-get install some-package"));
    }
}
