//! `memkv start` as a supervisor meets it: signals, exit codes, its log.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{KEY, fs, memkv, text};

/// A server under test on a port of the kernel's choice; killed when dropped.
struct Server {
    child: Child,
    lines: Receiver<String>,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    fn start(home: &Path) -> Self {
        let mut child = memkv(home, &["start", "--config", "c.yaml"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Reads the log until a line has `words`.
    #[track_caller]
    fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if line.contains(words) {
                return line;
            }
            seen = seen + &line + "\n";
        }
        panic!("no line with {words:?} in\n{seen}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("still running");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn yaml(key: &str) -> String {
    format!(
        "network: {{ address: 127.0.0.1:0, auth_key: {key} }}\nmemory: {{ max_size: 64 MiB }}\nrdma: {{ enabled: false }}\n\
         storage: {{ mode: memory, max_size: 64 MiB }}\n"
    )
}

fn home(key: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("c.yaml"), yaml(key)).unwrap();
    home
}

#[test]
fn sigterm_and_sigint_drain_and_end_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = home(KEY);
        let mut server = Server::start(home.path());
        let line = server.wait_for("\"serving\"");
        assert!(
            serde_json::from_str::<serde_json::Value>(&line).is_ok(),
            "not JSON: {line}"
        );
        // Twice, as timeout(1) and shells do it: to the process, and to its group.
        server.signal(signal);
        server.signal(signal);
        assert_eq!(server.ends().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_key_is_never_logged() {
    let home = home(KEY);
    let mut server = Server::start(home.path());
    let mut log = server.wait_for("network.auth_key");
    log += &server.wait_for("\"serving\"");
    server.signal(Signal::TERM);
    server.ends();
    log.extend(server.lines.iter());
    assert!(!log.contains(&KEY[..16]), "{log}");
}

#[test]
fn sighup_takes_new_keys_and_survives_a_broken_file() {
    let home = home(KEY);
    let mut server = Server::start(home.path());
    server.wait_for("\"serving\"");
    fs::write(home.path().join("c.yaml"), "rmda: {}\n").unwrap();
    server.signal(Signal::HUP);
    let line = server.wait_for("the old settings stay in use");
    assert!(line.contains("did you mean rdma?"), "{line}");
    fs::write(home.path().join("c.yaml"), yaml(&KEY.replace("00", "ff"))).unwrap();
    server.signal(Signal::HUP);
    server.wait_for("\"reloaded\"");
    server.signal(Signal::TERM);
    assert_eq!(server.ends().code(), Some(0));
}

#[test]
fn a_port_in_use_is_told_and_ends_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = home(KEY);
    let yaml = yaml(KEY).replace("127.0.0.1:0", &address);
    fs::write(home.path().join("c.yaml"), yaml).unwrap();
    let output = memkv(home.path(), &["start", "--config", "c.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains(&address),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_development_server_makes_a_key_and_says_so() {
    let home = tempfile::tempdir().unwrap();
    let yaml = yaml(KEY).replace(&format!(", auth_key: {KEY}"), "");
    fs::write(home.path().join("c.yaml"), yaml).unwrap();
    let mut server = Server::start(home.path());
    let line = server.wait_for("development key");
    assert!(
        line.contains("dev-key") || line.contains("(development key)"),
        "{line}"
    );
    server.wait_for("\"serving\"");
    assert!(home.path().join(".memkv/dev-key").exists());
    server.signal(Signal::TERM);
    assert_eq!(server.ends().code(), Some(0));
}
