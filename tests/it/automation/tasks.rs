//! `cargo xtask fuzz` and `nightly` with a cargo that builds nothing, and what make calls.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use memkv_tests::program::xtask;
use memkv_tests::tier::find_program;
use tempfile::TempDir;

/// A cargo that notes its calls, knows two fuzz targets, and whose tests end as `$HOME/tests` says.
const CARGO: &str = r#"#!/bin/bash
echo "$* SLOW=$MEMKV_SLOW FLAGS=$RUSTFLAGS" >>"$HOME/calls"
case "$1 $2" in
  "fuzz list") echo one; echo two ;;
  "test "*) exit "$(cat "$HOME/tests")" ;;
esac
"#;

struct Bench {
    home: TempDir,
}

impl Bench {
    /// The fuzz target `two` ends with this code.
    fn new(two: u8) -> Self {
        let home = TempDir::new().unwrap();
        let bench = Self { home };
        bench.program("cargo", CARGO);
        bench.program("bin/cargo-fuzz", "");
        let built = "target/x86_64-unknown-linux-gnu/release";
        let ran = |count: u32, code: u8| {
            format!(
                "#!/bin/bash\necho 'stat::number_of_executed_units: {count}' >&2\nexit {code}\n"
            )
        };
        bench.program(&format!("{built}/one"), &ran(40, 0));
        bench.program(&format!("{built}/two"), &ran(2, two));
        fs::write(bench.path("tests"), "0").unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// How it ended, stdout, stderr.
    fn task(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let shells = find_program("sh").unwrap();
        let path = [self.path("bin"), shells.parent().unwrap().into()];
        let output = Command::new(xtask())
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("CARGO", self.path("cargo"))
            .env("CARGO_TARGET_DIR", self.path("target"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap();
        calls.lines().map(str::to_owned).collect()
    }
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or("")
}

#[test]
fn fuzzing_runs_every_target_and_ends_with_the_sum() {
    let bench = Bench::new(0);
    let (code, stdout, stderr) = bench.task(&["fuzz", "--seconds", "3"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(last(&stdout), "fuzz: targets 2, executions 42, finds 0");
    for progress in ["fuzz: one, 1 of 2, 3 s", "fuzz: two, 2 of 2, 3 s"] {
        assert!(stderr.contains(progress), "{stderr}");
    }
    assert!(stderr.contains("-max_total_time=3"), "{stderr}");

    let (code, stdout, _) = bench.task(&["fuzz", "two"]);
    assert_eq!(
        (code, last(&stdout)),
        (Some(0), "fuzz: targets 1, executions 2, finds 0")
    );
    let (code, _, stderr) = bench.task(&["fuzz", "three"]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("no fuzz target three; there are: one, two"),
        "{stderr}"
    );
}

#[test]
fn a_find_fails_the_run_but_no_other_target() {
    let (code, stdout, stderr) = Bench::new(77).task(&["fuzz"]);
    assert_eq!(code, Some(1));
    assert_eq!(last(&stdout), "fuzz: targets 2, executions 42, finds 1");
    assert!(stderr.contains("target/fuzz/artifacts"), "{stderr}");
    assert!(stderr.contains("tests/fuzz/corpus"), "{stderr}");
}

#[test]
fn without_cargo_fuzz_it_says_how_to_install_that() {
    let bench = Bench::new(0);
    fs::remove_file(bench.path("bin/cargo-fuzz")).unwrap();
    let (code, _, stderr) = bench.task(&["fuzz"]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("cargo install cargo-fuzz --locked"),
        "{stderr}"
    );
}

#[test]
fn a_night_runs_slow_tests_a_sanitizer_and_fuzzing_and_times_each() {
    let bench = Bench::new(0);
    let (code, stdout, stderr) = bench.task(&["nightly", "--seconds", "4"]);
    assert_eq!(code, Some(0), "{stderr}");
    let calls = bench.calls();
    assert!(
        calls[0].starts_with("test ") && calls[0].contains("SLOW=1"),
        "{calls:?}"
    );
    assert!(
        calls[1].starts_with("test ") && calls[1].contains("-Zsanitizer=address"),
        "{calls:?}"
    );
    // What fails in one crate hides nothing of the next.
    let whole = calls[..2]
        .iter()
        .all(|call| call.contains("--no-fail-fast"));
    assert!(whole, "{calls:?}");
    for step in ["all tests, slow ones too", "AddressSanitizer", "fuzzing"] {
        let line = stdout.lines().find(|line| line.trim().starts_with(step));
        let line = line.unwrap_or_else(|| panic!("{step}: {stdout}"));
        assert!(line.contains(" s  passed"), "{line}");
    }
    assert!(stderr.contains("-max_total_time=4"), "{stderr}");
}

#[test]
fn a_night_goes_on_after_a_step_that_failed() {
    let bench = Bench::new(0);
    fs::write(bench.path("tests"), "1").unwrap();
    let (code, stdout, stderr) = bench.task(&["nightly"]);
    assert_eq!(code, Some(1));
    assert!(
        stdout.contains("fuzz: targets 2, executions 42, finds 0"),
        "{stdout}"
    );
    assert!(
        last(&stderr).contains("failed: all tests, slow ones too, AddressSanitizer"),
        "{stderr}"
    );
}

/// The text in one line.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_task_with_choices_has_examples() {
    let bench = Bench::new(0);
    for task in ["fuzz", "run", "nightly"] {
        let (code, stdout, _) = bench.task(&[task, "--help"]);
        assert_eq!(code, Some(0));
        assert!(
            stdout.contains(&format!("  cargo xtask {task}")),
            "{stdout}"
        );
    }
    let (_, stdout, _) = bench.task(&["run", "--help"]);
    assert!(
        stdout.contains("--port <PORT>") && words(&stdout).contains("[default: 9900]"),
        "{stdout}"
    );
}

/// The commands of a target, without running them.
fn recipe(target: &str) -> String {
    let mut arguments = target.split(' ').collect::<Vec<_>>();
    arguments.push("--dry-run");
    let make = Command::new("make")
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("make");
    assert!(make.status.success(), "{make:?}");
    String::from_utf8(make.stdout).unwrap()
}

#[test]
fn make_installs_what_is_missing_and_then_calls_cargo() {
    for (target, commands) in [
        ("run", &["scripts/deps.sh build", "cargo xtask run"][..]),
        ("test", &["scripts/deps.sh test", "cargo xtask ci"]),
        (
            "bench",
            &[
                "scripts/deps.sh bench",
                "--package memkv-benches -- --strict",
            ],
        ),
        (
            "bench ONLY=get-4m,hmac-1",
            &["-- --strict --only get-4m,hmac-1"],
        ),
        (
            "install",
            &[
                "scripts/deps.sh build",
                "cargo xtask install --prefix '/usr/local'",
            ],
        ),
        (
            "install PREFIX=/opt/kv",
            &["cargo xtask install --prefix '/opt/kv'"],
        ),
    ] {
        let recipe = recipe(target);
        let mut rest = recipe.as_str();
        for command in commands {
            let (_, after) = rest
                .split_once(command)
                .unwrap_or_else(|| panic!("{command}: {recipe}"));
            rest = after;
        }
    }
}

#[test]
fn what_decides_about_a_change_is_make_test() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/run");
    let run = fs::read_to_string(run).unwrap();
    assert_eq!(last(&run), "make test");
}
