//! Fuzzing with cargo-fuzz, on stable Rust.
//!
//! Targets live in tests/fuzz, a workspace of its own; their corpora in tests/fuzz/corpus are
//! replayed by the ordinary tests, so whatever a run finds and keeps stays covered.

use anyhow::{Result, bail};

use crate::sh;

const FUZZ_DIR: &str = "tests/fuzz";

pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Result<()> {
    if !sh::have("cargo-fuzz") {
        bail!("cargo-fuzz is missing; run: cargo install cargo-fuzz --locked");
    }
    let targets = match target {
        Some(target) => vec![target.to_owned()],
        None => targets()?,
    };
    for target in targets {
        let mut fuzz = sh::cargo()?;
        fuzz.current_dir(sh::root());
        fuzz.args(["fuzz", "run", "--fuzz-dir", FUZZ_DIR, &target, "--"]);
        fuzz.arg(format!("-max_total_time={seconds}"));
        // The fuzzer wants sanitizer flags, which stable accepts when told to.
        sh::run(fuzz.env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let mut list = sh::cargo()?;
    let listing = sh::output(list.args(["fuzz", "list", "--fuzz-dir", FUZZ_DIR]))?;
    Ok(listing.lines().map(|line| line.trim().to_owned()).collect())
}
