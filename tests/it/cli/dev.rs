//! `memkv start --dev`, and `memkv bench` against a server.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use memkv_tests::poll::until;
use memkv_tests::program::{Setup, binary};
use memkv_tests::tier::Tier;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::Shell;

/// Nobody's, on Debian and elsewhere.
const NOBODY: u32 = 65_534;

/// Killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that runs another one as somebody without privileges who may lock no memory.
fn without_privileges() -> Vec<&'static str> {
    let mut wrapper = vec!["prlimit", "--memlock=0"];
    if rustix::process::geteuid().is_root() {
        wrapper.extend([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]);
        wrapper.extend(["--inh-caps=-all", "--bounding-set=-all"]);
    }
    wrapper
}

/// The binary where anybody can run it.
fn copy_of_the_binary(home: &TempDir) -> PathBuf {
    let copy = home.path().join("memkv");
    fs::hard_link(binary(), &copy)
        .or_else(|_| fs::copy(binary(), &copy).map(|_| ()))
        .unwrap();
    copy
}

#[test]
fn the_development_server_needs_neither_root_nor_locked_memory() {
    let wrapper = without_privileges();
    let tried = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .output();
    if !tried.is_ok_and(|output| output.status.success()) {
        Tier::Faults.skipped(&format!("{wrapper:?} doesn't work on this machine"));
        return;
    }
    Tier::Faults.ran();
    let home = TempDir::new().unwrap();
    let memkv = copy_of_the_binary(&home);
    if rustix::process::geteuid().is_root() {
        chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let data = memkv_tests::free_pair();
    let log = home.path().join("log");
    let start = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(&memkv)
        .args(["start", "--dev", "--port", &data.port().to_string()])
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut server = Killed(start);
    let ready = format!("http://{}:{}/v1/ready", data.ip(), data.port() + 1);
    until("it is ready", Duration::from_secs(60), || {
        let ended = server.0.try_wait().unwrap();
        assert!(ended.is_none(), "{}", fs::read_to_string(&log).unwrap());
        ureq::get(&ready).call().ok()
    });
    let said = fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("WARN") && said.contains("development key"),
        "{said}"
    );
    let key = home.path().join(".memkv/dev-key");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    assert!(home.path().join("data/drive0").exists());

    // A client of the same user finds the key by itself.
    let mut shell = Shell::of(&data.to_string());
    shell
        .environment
        .retain(|(name, _)| *name != "MEMKV_AUTH_KEY");
    fs::create_dir(shell.path().join(".memkv")).unwrap();
    fs::copy(&key, shell.path().join(".memkv/dev-key")).unwrap();
    shell.pipe(&["put", "greeting", "-"], b"hello").ends(0, &[]);
    assert_eq!(
        shell.run(&["get", "greeting"]).ends(0, &[]).stdout,
        b"hello"
    );

    kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
    let status = until("it ends", Duration::from_secs(20), || {
        server.0.try_wait().unwrap()
    });
    assert_eq!(
        status.code(),
        Some(0),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
}

#[test]
fn bench_measures_puts_and_gets_beside_the_path_and_leaves_nothing() {
    let home = TempDir::new().unwrap();
    let server = Setup::new(home.path(), "64 MiB").start();
    let shell = Shell::at(&server);
    let quick = ["bench", "--sizes", "1 KiB,64 KiB", "--threads", "2"];
    let quick = [&quick[..], &["--seconds", "0.05", "--repeats", "2"]].concat();
    let done = shell.run(&quick);
    let text = done.ends(0, &[]).text();
    for words in ["put", "get", "1.00 KiB", "64.0 KiB", "p99"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let done = shell.run(&[&quick[..], &["--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(done.ends(0, &[]).text()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let measured: Vec<_> = rows
        .iter()
        .map(|row| (row["op"].as_str(), row["bytes"].as_u64()))
        .collect();
    let of = |op, bytes| (Some(op), Some(bytes));
    assert_eq!(
        measured,
        [
            of("put", 1024),
            of("get", 1024),
            of("put", 65_536),
            of("get", 65_536)
        ]
    );
    for row in rows {
        let times = ["p50_us", "p99_us", "p999_us"].map(|time| row[time].as_f64().unwrap());
        assert!(times.is_sorted() && times[0] > 0.0, "{row}");
        assert!(row["ops_per_second"].as_f64() > Some(0.0), "{row}");
        assert!(row["floor_ratio"]["median"].as_f64() > Some(0.0), "{row}");
    }
    assert_eq!(server.status()["storage"]["entries"], 0);
    shell
        .run(&["bench", "--seconds", "0"])
        .ends(2, &["--seconds is 0"]);
    server.stop();
}
