//! scripts/deps.sh on made-up machines: what it installs, what it asks for, what it leaves alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use memkv_tests::tier::find_program;
use tempfile::TempDir;

const INSTALL: &str = "apt-get install -y -qq --no-install-recommends";
const COMPILER: &str = "gcc libc6-dev";

/// A machine whose every program is a fake that notes how it was called, but for some of the shell's own.
struct Machine {
    home: TempDir,
}

impl Machine {
    /// One that lacks a C compiler, of a user with this id.
    fn of(user: u32) -> Self {
        let home = TempDir::new().unwrap();
        let machine = Self { home };
        fs::create_dir(machine.bin()).unwrap();
        for tool in ["bash", "env", "sed", "chmod", "mkdir", "mktemp", "rm"] {
            symlink(find_program(tool).unwrap(), machine.bin().join(tool)).unwrap();
        }
        for present in ["cargo", "make", "git"] {
            machine.fake(present, "");
        }
        machine.fake("id", &format!("echo {user}"));
        fs::write(machine.certificates(), "").unwrap();
        machine
    }

    /// What apt-get installs appears, as empty programs.
    fn with_apt(self) -> Self {
        self.fake(
            "apt-get",
            r#"echo "apt-get $*" >>"$HOME/calls"
            if [ "$1" = download ]; then : >"$3.deb"; exit; fi
            [ "$1" = install ] || exit 0
            for package; do
              case $package in gcc) program=cc ;; redis-server | memcached | iperf3) program=$package ;; *) continue ;; esac
              : >"$HOME/bin/$program"; chmod +x "$HOME/bin/$program"
            done"#,
        );
        self.fake(
            "dpkg",
            r#"echo "dpkg $1" >>"$HOME/calls"
            mkdir -p "$3/usr/bin"
            for program in prometheus promtool; do
              : >"$3/usr/bin/$program"; chmod +x "$3/usr/bin/$program"
            done"#,
        );
        self
    }

    /// It lets its user in without asking.
    fn with_sudo(self) -> Self {
        self.fake(
            "sudo",
            r#"echo "sudo $*" >>"$HOME/calls"; [ "$1" != -n ] || shift; exec "$@""#,
        );
        self.fake("true", "");
        self
    }

    fn bin(&self) -> PathBuf {
        self.home.path().join("bin")
    }

    fn certificates(&self) -> PathBuf {
        self.home.path().join("certificates")
    }

    fn fake(&self, name: &str, script: &str) {
        let path = self.bin().join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs it; whether it succeeded, what it said, and which of apt-get, dpkg and sudo it called.
    fn deps(&self, group: &str) -> (bool, String, Vec<String>) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/deps.sh");
        let log = self.home.path().join("calls");
        let _none_yet = fs::remove_file(&log);
        let output = Command::new("/bin/bash")
            .arg(script)
            .arg(group)
            .env_clear()
            .env("PATH", self.bin())
            .env("HOME", self.home.path())
            .env("SSL_CERT_FILE", self.certificates())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.stdout, b"", "{said}");
        let calls = fs::read_to_string(log).unwrap_or_default();
        let calls = calls.lines().map(str::to_owned).collect();
        (output.status.success(), said, calls)
    }

    /// It succeeds, and calls nothing.
    #[track_caller]
    fn is_left_alone(&self, group: &str) {
        let (done, said, calls) = self.deps(group);
        assert!(done && calls.is_empty(), "{calls:?}\n{said}");
    }

    /// It fails, installs nothing, and says what to do.
    #[track_caller]
    fn is_told(&self, group: &str, words: &str) {
        let (done, said, calls) = self.deps(group);
        assert!(!done, "{said}");
        assert!(said.contains(words), "{said}");
        assert!(
            !calls.iter().any(|call| call.contains("apt-get")),
            "{calls:?}"
        );
    }
}

#[test]
fn a_machine_that_has_everything_is_left_alone() {
    for user in [0, 1000] {
        let machine = Machine::of(user).with_apt().with_sudo();
        for program in [
            "cc",
            "prometheus",
            "promtool",
            "redis-server",
            "memcached",
            "iperf3",
            "python3",
        ] {
            machine.fake(program, "");
        }
        for group in ["build", "test", "bench"] {
            machine.is_left_alone(group);
        }
    }
}

#[test]
fn root_installs_what_is_missing_once() {
    let machine = Machine::of(0).with_apt();
    let (done, said, calls) = machine.deps("build");
    assert!(done, "{said}");
    assert_eq!(calls, [format!("{INSTALL} {COMPILER}")]);
    machine.is_left_alone("build");

    fs::remove_file(machine.certificates()).unwrap();
    let (_, _, calls) = machine.deps("build");
    assert_eq!(calls, [format!("{INSTALL} ca-certificates")]);
}

#[test]
fn others_install_with_sudo() {
    let machine = Machine::of(1000).with_apt().with_sudo();
    let (done, said, calls) = machine.deps("build");
    assert!(done, "{said}");
    let install = format!("{INSTALL} {COMPILER}");
    let by_sudo = format!("sudo env DEBIAN_FRONTEND=noninteractive {install}");
    assert_eq!(calls, ["sudo -n true", &by_sudo, &install]);
    machine.is_left_alone("build");
}

#[test]
fn without_sudo_the_command_is_printed_and_nothing_installed() {
    let command = format!(
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends {COMPILER}"
    );
    Machine::of(1000).with_apt().is_told("build", &command);
    // One that asks for a password, where nobody is there to give it.
    let machine = Machine::of(1000).with_apt();
    machine.fake("sudo", "exit 1");
    machine.is_told("build", &command);
}

#[test]
fn package_lists_that_are_missing_are_fetched() {
    let machine = Machine::of(0).with_apt();
    let apt = machine.bin().join("apt-get");
    fs::rename(&apt, machine.bin().join("real-apt-get")).unwrap();
    machine.fake(
        "apt-get",
        r#"[ "$1" != install ] || [ -e "$HOME/lists" ] || exit 100
        [ "$1" != update ] || : >"$HOME/lists"
        exec "$HOME/bin/real-apt-get" "$@""#,
    );
    let (done, said, calls) = machine.deps("build");
    assert!(done, "{said}");
    assert_eq!(
        calls,
        ["apt-get update -qq", &format!("{INSTALL} {COMPILER}")]
    );
}

#[test]
fn what_it_cant_install_is_named() {
    // Another distribution, or one without Rust.
    Machine::of(0).is_told(
        "build",
        &format!("no apt-get; install the equivalents of these Debian packages: {COMPILER}"),
    );
    let machine = Machine::of(0).with_apt();
    fs::remove_file(machine.bin().join("cargo")).unwrap();
    machine.is_told("build", "https://rustup.rs");
    let cargo = machine.home.path().join(".cargo/bin");
    fs::create_dir_all(&cargo).unwrap();
    symlink("/bin/bash", cargo.join("cargo")).unwrap();
    machine.is_told("build", ". \"$HOME/.cargo/env\"");
}

#[test]
fn prometheus_is_unpacked_beside_and_its_absence_said_but_not_fatal() {
    let machine = Machine::of(1000).with_apt();
    machine.fake("cc", "");
    let (done, said, calls) = machine.deps("test");
    assert!(done, "{said}");
    assert_eq!(calls, ["apt-get download -qq prometheus", "dpkg -x"]);
    assert!(
        machine
            .home
            .path()
            .join(".cache/memkv/tools/usr/bin/promtool")
            .exists()
    );
    machine.is_left_alone("test");

    let machine = Machine::of(1000);
    machine.fake("cc", "");
    let (done, said, _) = machine.deps("test");
    assert!(done, "{said}");
    assert!(said.contains("will be skipped"), "{said}");
    assert!(
        said.contains("--no-install-recommends prometheus"),
        "{said}"
    );
}

#[test]
fn benchmarks_get_the_peers_that_are_missing() {
    let machine = Machine::of(0).with_apt();
    for present in ["cc", "python3", "iperf3"] {
        machine.fake(present, "");
    }
    let (done, said, calls) = machine.deps("bench");
    assert!(done, "{said}");
    assert_eq!(calls, [format!("{INSTALL} redis-server memcached")]);
    machine.is_left_alone("bench");
}

#[test]
fn a_group_that_there_is_not_shows_those_that_there_are() {
    let (done, said, calls) = Machine::of(0).with_apt().deps("everything");
    assert!(!done && calls.is_empty(), "{calls:?}");
    for group in ["deps.sh build", "deps.sh test", "deps.sh bench"] {
        assert!(said.contains(group), "{said}");
    }
}
