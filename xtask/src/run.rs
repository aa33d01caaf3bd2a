//! `make run`: a development server, the demo against it, and then whatever the user wants to try.
//!
//! The server is a process group of its own, so that a terminal's Ctrl-C reaches only us: we ask it
//! once, by SIGTERM, to drain, and wait. A second Ctrl-C kills it. The data directory is the
//! server's default, `./data` under the workspace's root.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::sh;

/// The data port of `memkv start --dev`, where clients look for it.
pub(crate) const PORT: u16 = 9900;
/// Recovery of the default data directory takes well under a second.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often processes, signals and readiness are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What to run.
pub(crate) struct Run {
    /// Stop after the demo.
    pub(crate) once: bool,
    /// Where clients connect; the admin endpoint is on the port above.
    pub(crate) port: u16,
    /// How much the demo writes.
    pub(crate) bytes: String,
    /// Where `./data` is made.
    pub(crate) dir: Option<PathBuf>,
    /// A binary that is already built.
    pub(crate) memkv: Option<PathBuf>,
}

impl Run {
    fn data(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    fn admin(&self) -> SocketAddr {
        // The arguments leave room for it.
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port + 1))
    }
}

pub(crate) fn run(wanted: &Run) -> Result<()> {
    let memkv = sh::memkv(wanted.memkv.as_deref())?;
    let dir = wanted.dir.as_deref().unwrap_or(sh::root());
    check_ports_are_free(wanted)?;

    let stops = Stops::listen()?;
    let mut start = sh::command(&memkv);
    start
        .args(["start", "--dev", "--port", &wanted.port.to_string()])
        .current_dir(dir)
        .stdin(Stdio::null())
        .process_group(0);
    let mut server = Server(start.spawn().context("start memkv start --dev")?);
    if !wait_until_ready(wanted.admin(), &mut server, &stops)? {
        return server.drain(&stops);
    }
    // The demo shares our group: Ctrl-C ends it too, and then the server drains.
    let mut demo = sh::command(&memkv);
    demo.args(["demo", "--bytes", &wanted.bytes])
        // Whatever the user's own variables point at: this server is meant.
        .env("MEMKV_SERVERS", wanted.data().to_string())
        .current_dir(dir);
    let demo = watch(&mut demo, &mut server, &stops)?;
    if stops.count() == 0 {
        if !demo.success() {
            server.drain(&stops)?;
            bail!("memkv demo ended with {demo}");
        }
        if !wanted.once {
            print_urls(wanted);
            while stops.count() == 0 {
                server.check_alive()?;
                thread::sleep(TICK);
            }
        }
    }
    eprintln!("\ndraining; Ctrl-C again to kill");
    server.drain(&stops)
}

fn check_ports_are_free(wanted: &Run) -> Result<()> {
    let ports = [
        (wanted.data(), "the data port"),
        (wanted.admin(), "the admin port"),
    ];
    for (address, what) in ports {
        if let Err(error) = TcpListener::bind(address) {
            bail!(
                "{address}, {what} of a development server, can't be bound ({error}); \
                 stop what listens there (`ss -ltnp 'sport = :{}'` names it), or take another \
                 one: `cargo xtask run --port PORT`",
                address.port()
            );
        }
    }
    Ok(())
}

fn print_urls(wanted: &Run) {
    let (data, admin) = (wanted.data(), wanted.admin());
    // Clients look for a server at the default port by themselves.
    let servers = match wanted.port {
        PORT => String::new(),
        _ => format!("MEMKV_SERVERS={data} "),
    };
    println!("\nmemkv is up; Ctrl-C drains and stops it\n");
    println!("  data     memkv://{data}            try: {servers}memkv put greeting README.md");
    for (path, what) in [
        ("status", "everything the server knows about itself"),
        (
            "slow",
            "the slowest and the newest slow operations, taken apart",
        ),
        (
            "metrics",
            "for Prometheus; dashboards and alerts are in dashboards/",
        ),
        ("health", "liveness"),
        ("ready", "readiness"),
    ] {
        println!("  {:<8} http://{admin}/v1/{path:<8} {what}", path);
    }
    println!();
}

/// Counts requests to stop.
struct Stops(Arc<AtomicUsize>);

impl Stops {
    fn listen() -> Result<Stops> {
        let count = Arc::new(AtomicUsize::new(0));
        // An own thread instead of a handler: counting needs more than a handler's flag. It also
        // takes SIGINT where we were started with it ignored, as shells do for background jobs.
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
            .context("listen for signals")?;
        let counter = Arc::clone(&count);
        thread::spawn(move || {
            for _ in signals.forever() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Stops(count))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The server; killed if we leave without having drained it.
struct Server(Child);

impl Server {
    fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            bail!("the server ended by itself with {status}; its last lines above say why");
        }
        Ok(())
    }

    fn drain(&mut self, stops: &Stops) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        let asked = stops.count();
        self.check_alive()?;
        kill_process(pid, Signal::TERM).context("ask the server to drain")?;
        loop {
            if let Some(status) = self.0.try_wait()? {
                if !status.success() {
                    bail!("the server ended with {status} while draining");
                }
                return Ok(());
            }
            if stops.count() > asked {
                bail!("killed the server before it had drained");
            }
            thread::sleep(TICK);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // It is our child and not yet reaped, so the pid is still its own.
            let _gone_already = self.0.kill();
            let _reaped = self.0.wait();
        }
    }
}

/// False if the user stopped us first.
fn wait_until_ready(admin: SocketAddr, server: &mut Server, stops: &Stops) -> Result<bool> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut last = "nothing answered".to_owned();
    while Instant::now() < deadline {
        server.check_alive()?;
        if stops.count() > 0 {
            return Ok(false);
        }
        match status_of(admin, "/v1/ready") {
            Ok(200) => return Ok(true),
            Ok(status) => last = format!("it answered {status}"),
            Err(error) => last = format!("{error}"),
        }
        thread::sleep(TICK);
    }
    bail!(
        "http://{admin}/v1/ready wasn't ready within {} s: {last}",
        READY_WITHIN.as_secs()
    );
}

/// The HTTP status that a GET of `path` answers with.
fn status_of(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut line = [0; 12];
    stream.read_exact(&mut line)?;
    let status = std::str::from_utf8(&line[9..])
        .ok()
        .and_then(|text| text.parse().ok());
    status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

/// Runs a program to its end unless the server dies first.
fn watch(command: &mut Command, server: &mut Server, stops: &Stops) -> Result<ExitStatus> {
    let mut child = command.spawn().context("start memkv demo")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let alive = server.check_alive();
        // A signal sent to us alone (not by a terminal) has to be passed on.
        if alive.is_err() || stops.count() > 0 {
            let _already_gone = kill_process(Pid::from_child(&child), Signal::INT);
            let status = child.wait()?;
            return alive.map(|()| status);
        }
        thread::sleep(TICK);
    }
}
