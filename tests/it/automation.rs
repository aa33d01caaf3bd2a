//! What make's targets do: run and install on the binary under test instead of a release, the others up to cargo.

mod deps;
mod tasks;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memkv_tests::program::{binary, command, xtask};
use memkv_tests::tier::Tier;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// `cargo xtask` with a home of its own.
fn task(home: &Path, arguments: &[&str]) -> Command {
    let mut task = Command::new(xtask());
    task.env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(home)
        .args(arguments)
        .arg("--memkv")
        .arg(binary())
        .stdin(Stdio::null());
    task
}

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn make_run_starts_shows_and_drains() {
    Tier::Run.ran();
    let home = TempDir::new().unwrap();
    let dir = home.path().to_str().unwrap();
    let data = memkv_tests::free_pair();
    let admin = SocketAddr::new(data.ip(), data.port() + 1);
    let port = data.port().to_string();
    let mut child = task(
        home.path(),
        &["run", "--port", &port, "--bytes", "24 MiB", "--dir", dir],
    )
    // It runs the demo against its own server whatever this says.
    .env("MEMKV_SERVERS", "127.0.0.1:1")
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let stderr = child.stderr.take().unwrap();
    let log = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut child = Killed(child);
    let mut shown = String::new();
    while !shown.contains("/v1/ready") {
        let Some(line) = lines.next() else {
            panic!("it ended:\n{shown}\n{}", log.join().unwrap());
        };
        shown = shown + &line.unwrap() + "\n";
    }
    let address = format!("memkv://{data}");
    for words in ["p99", "get", "put", "device", "Ctrl-C", &address] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    // What it prints is true.
    for page in ["ready", "status", "slow", "metrics", "health"] {
        let url = format!("http://{admin}/v1/{page}");
        assert!(shown.contains(&url), "{shown}");
        assert_eq!(ureq::get(&url).call().unwrap().status(), 200, "{url}");
    }
    assert!(home.path().join("data/drive0").exists());
    assert!(home.path().join(".memkv/dev-key").exists());
    for arguments in [&["put", "greeting", "data/note"][..], &["get", "greeting"]] {
        fs::write(home.path().join("data/note"), "hello").unwrap();
        let mut verb = command(home.path(), arguments);
        let output = verb
            .env("MEMKV_SERVERS", data.to_string())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }

    let asked = Instant::now();
    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    let status = child.0.wait().unwrap();
    let log = log.join().unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{log}");
    assert!(log.contains("draining"), "{log}");
    let is_gone = |address| TcpListener::bind(address).is_ok();
    assert!(is_gone(data) && is_gone(admin));
}

#[test]
fn make_install_gives_a_binary_completions_and_configurations_that_work() {
    let home = TempDir::new().unwrap();
    let prefix = home.path().join("prefix");
    // Twice: over an earlier one.
    for _ in 0..2 {
        let output = task(home.path(), &["install", "--prefix", "prefix"])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let listed = String::from_utf8(output.stdout).unwrap();
        assert!(
            listed.lines().all(|path| Path::new(path).is_file()),
            "{listed}"
        );
    }
    let memkv = prefix.join("bin/memkv");
    let version = Command::new(&memkv).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"memkv "), "{version:?}");
    for script in [
        "bash-completion/completions/memkv",
        "zsh/site-functions/_memkv",
        "fish/vendor_completions.d/memkv.fish",
    ] {
        let text = fs::read_to_string(prefix.join("share").join(script)).unwrap();
        assert!(text.contains("allow-unknown-keys"), "{script}");
    }
    let folder = prefix.join("share/memkv/config");
    let mut seen = Vec::new();
    for entry in fs::read_dir(&folder)
        .unwrap()
        .chain(fs::read_dir(folder.join("examples")).unwrap())
    {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("client") {
            is_a_client_configuration(home.path(), &path);
        } else {
            is_a_server_configuration(home.path(), &path, &name);
        }
        seen.push(name);
    }
    for name in [
        "server.yaml",
        "client.yaml",
        "minimal.yaml",
        "co-located.yaml",
    ] {
        assert!(seen.iter().any(|seen| seen == name), "{seen:?}");
    }
}

/// It passes `start --check`; only that this machine has too few huge pages may be said against it.
fn is_a_server_configuration(home: &Path, path: &Path, name: &str) {
    let mut check = command(
        home,
        &["start", "--check", "--config", path.to_str().unwrap()],
    );
    let output = check
        .env("MEMKV_AUTH_KEY", "0f".repeat(32))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => {}
        Some(3) => {
            let problems = stderr.lines().filter(|line| line.starts_with("  "));
            let others: Vec<&str> = problems
                .filter(|line| !line.contains("huge pages") && !line.contains("may lock only"))
                .collect();
            assert!(others.is_empty(), "{name}: {others:?}");
        }
        other => panic!("{name}: {other:?}\n{stderr}"),
    }
}

/// A client takes it, and then finds no server.
fn is_a_client_configuration(home: &Path, path: &Path) {
    let mut get = command(home, &["get", "k", "--timeout", "0.2"]);
    get.env("MEMKV_CONFIG", path)
        .env("MEMKV_AUTH_KEY", "0f".repeat(32))
        .env("MEMKV_CONNECT_TIMEOUT_MS", "200");
    let output = get.output().unwrap();
    // Nobody there, or nobody in time.
    assert!(
        matches!(output.status.code(), Some(4 | 8)),
        "{}: {output:?}",
        path.display()
    );
}
