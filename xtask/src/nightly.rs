//! What takes too long for every change.

use anyhow::Result;

use crate::tiers::Reports;
use crate::{collector, fuzz, sh};

/// Only this triple has the sanitizers' run-time libraries in rustup's stable toolchain.
const SANITIZED: &str = "x86_64-unknown-linux-gnu";

pub(crate) fn nightly(seconds: u32) -> Result<()> {
    slow_tests()?;
    address_sanitizer()?;
    fuzz::fuzz(None, seconds)
}

fn slow_tests() -> Result<()> {
    let reports = Reports::new()?;
    let mut test = sh::cargo()?;
    test.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    test.env("MEMKV_SLOW", "1")
        .env("MEMKV_TIERS_DIR", reports.dir());
    test.env("MEMKV_OTELCOL", collector::build()?);
    sh::run(&mut test)?;
    reports.conclude()
}

/// The crates with fenced unsafe code, under AddressSanitizer.
fn address_sanitizer() -> Result<()> {
    let mut test = sh::cargo()?;
    test.args(["test", "--locked", "--target", SANITIZED]);
    test.args(["--package", "memkv-engine", "--package", "memkv-telemetry"]);
    test.args(["--package", "memkv-client", "--lib"]);
    test.env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address");
    // Instrumented code shares nothing with other builds.
    test.env("CARGO_TARGET_DIR", sh::target()?.join("asan"));
    sh::run(&mut test)
}
