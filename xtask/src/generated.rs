//! Committed files that tests compare with what the code would write.
//!
//! The tests are the generators: run with `MEMKV_BLESS=1` they write the file they otherwise
//! compare. By convention such a test's name ends in `_is_current` or `_are_current`.

use anyhow::Result;

use crate::sh;

pub(crate) fn dashboards() -> Result<()> {
    bless(&["--package", "memkv-dashboards"])
}

pub(crate) fn docs() -> Result<()> {
    bless(&["--workspace"])
}

fn bless(packages: &[&str]) -> Result<()> {
    let mut test = sh::cargo()?;
    test.arg("test").args(packages).args(["--", "_current"]);
    sh::run(test.env("MEMKV_BLESS", "1"))
}

/// Compares without writing.
pub(crate) fn check() -> Result<()> {
    let mut test = sh::cargo()?;
    test.args(["test", "--workspace", "--", "_current"]);
    sh::run(&mut test)
}
