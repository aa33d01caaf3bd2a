//! Fuzzing with cargo-fuzz, on stable Rust.
//!
//! Targets live in tests/fuzz, a workspace of its own; their corpora in tests/fuzz/corpus are
//! replayed by the ordinary tests. A run reads those, and keeps what it finds to be of interest in
//! the build directory; what made a target fail is to be copied into the corpus by hand, with the
//! fix.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::sh;

const FUZZ_DIR: &str = "tests/fuzz";
/// cargo-fuzz has no default build of its own: sanitizers need the triple named.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// How one target fared.
struct Ran {
    target: String,
    executions: u64,
    failed: bool,
}

pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Result<()> {
    if !sh::have("cargo-fuzz") {
        bail!(
            "cargo-fuzz is missing; install it with: cargo install cargo-fuzz --locked \
             (a nightly toolchain isn't needed)"
        );
    }
    let known = targets()?;
    let chosen = match target {
        Some(target) if known.iter().any(|known| known == target) => vec![target.to_owned()],
        Some(target) => bail!("no fuzz target {target}; there are: {}", known.join(", ")),
        None => known,
    };
    // The fuzzer wants sanitizer flags, which stable accepts when told to.
    let mut build = sh::cargo()?;
    build.args(["fuzz", "build", "--fuzz-dir", FUZZ_DIR, "--target", TRIPLE]);
    sh::run(build.args(target).env("RUSTC_BOOTSTRAP", "1"))?;
    let mut ran = Vec::new();
    for (idx, target) in chosen.iter().enumerate() {
        eprintln!(
            "fuzz: {target}, {} of {}, {seconds} s",
            idx + 1,
            chosen.len()
        );
        ran.push(run(target, seconds)?);
    }
    conclude(&ran, seconds)
}

/// A line per target, and one for all.
fn conclude(ran: &[Ran], seconds: u32) -> Result<()> {
    println!("\nexecutions, {seconds} s each:");
    for ran in ran {
        let failed = if ran.failed { "FAILED" } else { "" };
        println!("  {:<22} {:>12} {failed}", ran.target, ran.executions);
    }
    let executions: u64 = ran.iter().map(|ran| ran.executions).sum();
    let finds = ran.iter().filter(|ran| ran.failed).count();
    let targets = ran.len();
    println!("fuzz: targets {targets}, executions {executions}, finds {finds}");
    if finds > 0 {
        bail!(
            "the inputs that failed are in {}; fix what they show, and copy them to \
             {FUZZ_DIR}/corpus/<target>, where the tests replay them",
            work("artifacts")?.display()
        );
    }
    Ok(())
}

fn work(name: &str) -> Result<PathBuf> {
    let dir = sh::target()?.join("fuzz").join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// Runs what is built: cargo-fuzz would add what it finds to the committed corpus.
fn run(target: &str, seconds: u32) -> Result<Ran> {
    let mut fuzz = sh::command(sh::target()?.join(TRIPLE).join("release").join(target));
    fuzz.arg(format!("-max_total_time={seconds}"));
    fuzz.args(["-print_final_stats=1", "-verbosity=0", "-rss_limit_mb=2048"]);
    let artifacts = work("artifacts")?;
    fuzz.arg(format!(
        "-artifact_prefix={}/{target}-",
        artifacts.display()
    ));
    fuzz.arg(work(&format!("corpus/{target}"))?);
    fuzz.arg(sh::root().join(FUZZ_DIR).join("corpus").join(target));
    let (success, log) = sh::logged(&mut fuzz)?;
    let executions = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0);
    // A fuzzer that did nothing found nothing.
    let failed = !success || executions == 0;
    if failed {
        eprintln!("{log}");
    }
    Ok(Ran {
        target: target.to_owned(),
        executions,
        failed,
    })
}

fn targets() -> Result<Vec<String>> {
    let mut list = sh::cargo()?;
    let listing = sh::output(list.args(["fuzz", "list", "--fuzz-dir", FUZZ_DIR]))?;
    Ok(listing.lines().map(|line| line.trim().to_owned()).collect())
}
