//! `memkv demo` against real servers: what it writes, reads, checks and shows.

use std::fs;
use std::process::{Command, Stdio};

use memkv_tests::program::{Program, Setup, binary};
use memkv_tests::tier::Tier;
use serde_json::Value;
use tempfile::TempDir;

use super::Shell;

/// A demo that is small, but larger than the pool of the server that [`small_pool`] starts.
const BYTES: &str = "80 MiB";

/// A server with a pool that holds a part of what the demo writes.
fn small_pool(home: &TempDir) -> Program {
    let mut setup = Setup::new(home.path(), "256 MiB").pool("48 MiB");
    setup.address = memkv_tests::free_pair().to_string();
    setup.start()
}

fn near(server: &Program) -> Shell {
    let admin = format!("http://{}", server.admin);
    Shell::at(server).with("ADMIN", admin)
}

/// The part of the text that is about one phase.
fn phase<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text.find(&format!("\n{name}: "));
    let start = start.unwrap_or_else(|| panic!("no {name}: {text}"));
    let rest = &text[start + 1..];
    rest.split("\n\n").next().unwrap()
}

fn lines_with<'a>(text: &'a str, words: &[&str]) -> Vec<&'a str> {
    let has = |line: &&str| words.iter().all(|words| line.contains(words));
    text.lines().filter(has).collect()
}

#[test]
fn the_demo_shows_what_it_moved_and_where_the_time_went() {
    let home = TempDir::new().unwrap();
    let server = small_pool(&home);
    let shell = near(&server);
    let done = shell.run(&["demo", "--bytes", BYTES]);
    let text = done.ends(0, &[]).text();

    for (name, ops) in [
        ("write", &["put ", "batch_write "][..]),
        ("read the newest", &["get ", "batch_read "]),
        ("read them again", &["get ", "batch_read "]),
        ("read the oldest", &["get ", "batch_read "]),
        ("ask what exists", &["exists "]),
    ] {
        let shown = phase(text, name);
        let columns = ["/s  p50 ", "  p99 ", "  p99.9 ", "  max "];
        for op in ops {
            let line = lines_with(shown, &columns);
            assert!(
                line.iter().any(|line| line.trim_start().starts_with(op)),
                "{op}: {shown}"
            );
        }
        let stages = lines_with(shown, &[" %  p50 ", "  p99 ", "  p99.9 "]);
        let drawn = |line: &&str| line.contains(['█', '▏', '▎', '▍', '▌', '▋', '▊', '▉']);
        assert!(stages.len() > 2 && stages.iter().all(drawn), "{shown}");
    }
    // A drive's name only for reads past the page cache, and nobody calls them cold.
    let past_cache = server.status()["storage"]["devices"][0]["direct_io"] == true;
    let drive = if past_cache {
        "drive"
    } else {
        "drive or page cache"
    };
    assert!(
        phase(text, "read them again").contains("answered by: ram 100 %"),
        "{text}"
    );
    assert!(
        phase(text, "read the oldest").contains(&format!("answered by: {drive} ")),
        "{text}"
    );
    assert!(!text.to_lowercase().contains("cold"), "{text}");
    let slowest = text.split("The slowest op").nth(1).expect("the slowest op");
    assert!(slowest.contains('%'), "{slowest}");

    // In a pipe: lines, a quarter each, and nothing that moves a cursor.
    let said = lines_with(&done.stderr, &["memkv demo: write: ", " % of 83.7 MiB"]);
    assert!(said.len() == 4 && said[3].contains(" 100 % "), "{said:?}");
    assert!(!done.stderr.contains(['\r', '\x1b']), "{:?}", done.stderr);
    // It leaves nothing behind.
    assert_eq!(server.status()["storage"]["entries"], 0);
    server.stop();
}

/// Every number is possible, and what the phases claim is what the server counted.
fn is_plausible(report: &Value) {
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key}: {of}"));
    for phase in report["phases"].as_array().unwrap() {
        for op in phase["ops"].as_array().unwrap() {
            let time = &op["time"];
            let quantiles = ["p50_seconds", "p99_seconds", "p999_seconds", "max_seconds"];
            let quantiles = quantiles.map(|key| number(time, key));
            assert!(quantiles.is_sorted() && quantiles[0] > 0.0, "{time}");
            let rate = match phase["bytes"].as_u64() {
                Some(0) => number(op, "entries_per_second"),
                _ => number(op, "bytes_per_second"),
            };
            assert!(rate > 0.0, "{op}");
            let stages = op["stages"].as_object().unwrap();
            let shares: f64 = stages.values().map(|stage| number(stage, "share")).sum();
            assert!(shares > 0.0 && shares < 1.001, "{op}");
            for stage in stages.values() {
                assert!(number(stage, "p999_seconds") <= quantiles[3], "{op}");
            }
        }
    }
}

fn of_phase<'a>(report: &'a Value, name: &str) -> &'a Value {
    let phases = report["phases"].as_array().unwrap();
    let found = phases.iter().find(|phase| phase["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn the_demos_figures_are_possible_and_what_the_server_counted() {
    let home = TempDir::new().unwrap();
    let server = small_pool(&home);
    let done = near(&server).run(&["demo", "--bytes", BYTES, "--json", "--keep"]);
    let report: Value = serde_json::from_str(done.ends(0, &[]).text()).unwrap();
    is_plausible(&report);

    let written = &of_phase(&report, "write")["bytes"].as_u64().unwrap();
    assert!((80 << 20..85 << 20).contains(written), "{written}");
    let reads = ["read the newest", "read them again", "read the oldest"];
    let read: u64 = reads
        .iter()
        .map(|name| of_phase(&report, name)["bytes"].as_u64().unwrap())
        .sum();
    let counted = |direction: &str| {
        let direction = format!("direction=\"{direction}\"");
        server.metric("memkv_bytes_total", &[&direction]).unwrap() as u64
    };
    assert_eq!((counted("in"), counted("out")), (*written, read));
    let entries = of_phase(&report, "write")["entries"].as_u64().unwrap();
    assert_eq!(server.status()["storage"]["entries"], entries, "--keep");
    // The slowest op comes with its stages.
    let slowest = report["slowest"]["stages"].as_array().expect("stages");
    assert!(!slowest.is_empty());
    server.stop();
}

#[test]
fn a_demo_that_fits_the_pool_says_that_the_drive_was_not_read() {
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "64 MiB");
    setup.address = memkv_tests::free_pair().to_string();
    let server = setup.start();
    let done = near(&server).run(&["demo", "--bytes", "12 MiB"]);
    let text = done.ends(0, &[]).text();
    assert!(text.contains("Nothing was read from the drive"), "{text}");
    assert!(!text.contains("read the oldest"), "{text}");
    server.stop();
}

#[test]
fn reads_from_a_file_system_in_memory_are_not_called_the_drives() {
    let home = TempDir::new().unwrap();
    // Nothing but a page cache, although it lets itself be opened past that.
    let memory = TempDir::new_in("/dev/shm").unwrap();
    let mut setup = Setup::new(home.path(), "32 MiB").pool("32 MiB");
    setup.address = memkv_tests::free_pair().to_string();
    setup.drives[0].0 = memory.path().join("drive").display().to_string();
    let server = setup.start();
    let done = near(&server).run(&["demo", "--bytes", "12 MiB", "--json"]);
    let report: Value = serde_json::from_str(done.ends(0, &[]).text()).unwrap();
    assert_eq!(report["drive_reads_are"], "drive or page cache");
    server.stop();
}

#[test]
fn a_store_that_is_smaller_than_the_demo_is_no_success() {
    let home = TempDir::new().unwrap();
    let mut setup = Setup::new(home.path(), "32 MiB").pool("32 MiB");
    setup.address = memkv_tests::free_pair().to_string();
    let server = setup.start();
    let done = near(&server).run(&["demo", "--bytes", "160 MiB"]);
    done.ends(1, &["is gone", "--bytes"]);
    server.stop();
}

#[test]
fn a_terminal_gets_a_bar() {
    let home = TempDir::new().unwrap();
    let server = small_pool(&home);
    let shell = near(&server);
    let demo = format!("{} demo --bytes '{BYTES}'", binary().display());
    // script(1), which every Debian has, gives it a terminal and us what appears there.
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &demo, "/dev/null"])
        .env_clear()
        .env("HOME", shell.path())
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .envs(shell.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(shell.path())
        .stdin(Stdio::null())
        .output()
        .expect("script");
    let seen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{seen}");
    let bar = lines_with(&seen, &["write", "█", "MiB of 8", "MiB/s"]);
    assert!(!bar.is_empty() && seen.contains('\r'), "{seen:?}");
    assert!(!seen.contains("% of"), "no lines beside it: {seen}");
    server.stop();
}

/// What `make run` shows, whole: a gibibyte against the development server's own settings.
#[test]
fn a_gibibyte_is_read_back_from_ram_and_from_the_drive() {
    if !Tier::slow_is_wanted() {
        return;
    }
    let home = TempDir::new().unwrap();
    let yaml = include_str!("../../../server/src/config/dev.yaml");
    let address = memkv_tests::free_pair().to_string();
    let yaml = yaml
        .replace("127.0.0.1:9900", &address)
        .replace("format: text", "format: json");
    fs::create_dir(home.path().join("data")).unwrap();
    let mut setup = Setup::of_text(home.path(), yaml);
    setup.allowed.push("development key".into());
    let server = setup.start();
    let mut shell = near(&server);
    shell
        .environment
        .retain(|(name, _)| *name != "MEMKV_AUTH_KEY");
    shell.home = home;
    let done = shell.run(&["demo", "--json"]);
    let report: Value = serde_json::from_str(done.ends(0, &[]).text()).unwrap();
    is_plausible(&report);
    let bytes = |name: &str| of_phase(&report, name)["bytes"].as_u64().unwrap();
    assert!(bytes("write") >= 1 << 30);
    assert!(bytes("read the newest") > 50 << 20 && bytes("read the oldest") > 200 << 20);
    let tiers = |name: &str| &of_phase(&report, name)["tier_shares"];
    assert_eq!(tiers("read the newest")["ram"], 1.0, "{report:#}");
    assert_eq!(tiers("read the oldest")["drive"], 1.0, "{report:#}");
    server.stop();
}

#[test]
fn a_demo_without_a_server_ends_with_4() {
    let nobody = memkv_tests::free_address().to_string();
    Shell::of(&nobody).run(&["demo"]).ends(4, &[&nobody]);
}
