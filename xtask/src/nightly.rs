//! What takes too long for every change. Each step runs although one before it failed: a night has
//! one chance, and what the fuzzers find doesn't depend on the tests.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{ci, fuzz, sh};

/// Only this triple has the sanitizers' run-time libraries in rustup's stable toolchain.
const SANITIZED: &str = "x86_64-unknown-linux-gnu";

/// A step's name, how it ended and how long it took.
type Done = (&'static str, Result<()>, Duration);

pub(crate) fn nightly(seconds: u32) -> Result<()> {
    let fuzz = move || fuzz::fuzz(None, seconds);
    let steps: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("all tests, slow ones too", &|| ci::tests(true)),
        ("AddressSanitizer", &address_sanitizer),
        ("fuzzing", &fuzz),
    ];
    let mut done = Vec::new();
    for (idx, (name, step)) in steps.iter().enumerate() {
        eprintln!("\nnightly: {name} ({} of {})", idx + 1, steps.len());
        let start = Instant::now();
        let outcome = step();
        if let Err(error) = &outcome {
            eprintln!("nightly: {name}: {error:#}");
        }
        done.push((*name, outcome, start.elapsed()));
    }
    conclude(&done)
}

/// A line per step, and whether all passed.
fn conclude(done: &[Done]) -> Result<()> {
    println!("\nnightly:");
    for (name, outcome, took) in done {
        let outcome = if outcome.is_ok() { "passed" } else { "FAILED" };
        println!("  {name:<25} {:>6} s  {outcome}", took.as_secs());
    }
    let failed: Vec<&str> = done
        .iter()
        .filter(|(_, outcome, _)| outcome.is_err())
        .map(|(name, ..)| *name)
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The crates with fenced unsafe code, under AddressSanitizer.
fn address_sanitizer() -> Result<()> {
    let mut test = sh::cargo()?;
    test.args(["test", "--locked", "--no-fail-fast", "--target", SANITIZED]);
    test.args(["--package", "memkv-engine", "--package", "memkv-telemetry"]);
    test.args([
        "--package",
        "memkv-client",
        "--package",
        "memkv-socket",
        "--lib",
    ]);
    test.env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address");
    // Instrumented code shares nothing with other builds.
    test.env("CARGO_TARGET_DIR", sh::target()?.join("asan"));
    sh::run(&mut test)
}
