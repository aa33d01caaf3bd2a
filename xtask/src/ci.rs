//! What decides whether a change lands: tidiness, then all tests, then which tiers ran.

use std::time::Instant;

use anyhow::Result;

use crate::tiers::Reports;
use crate::{collector, sh, tidy};

pub(crate) fn ci() -> Result<()> {
    let start = Instant::now();
    tidy::sources()?;
    tidy::lints()?;
    tests(false)?;
    println!("\nall passed in {} s", start.elapsed().as_secs());
    Ok(())
}

/// All tests, and which tiers ran; `slow` ones are a tier that is left out otherwise.
pub(crate) fn tests(slow: bool) -> Result<()> {
    let reports = Reports::new()?;
    let mut test = sh::cargo()?;
    test.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    test.env("MEMKV_TIERS_DIR", reports.dir());
    if slow {
        test.env("MEMKV_SLOW", "1");
    }
    match collector::build() {
        Ok(path) => {
            test.env("MEMKV_OTELCOL", path);
        }
        // Loud here and again at the end, where the tests' own report decides.
        Err(error) => eprintln!("collector: {error:#}"),
    }
    let tested = sh::run(&mut test);
    let concluded = reports.conclude();
    tested.and(concluded)
}
