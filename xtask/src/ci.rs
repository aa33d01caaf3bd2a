//! What decides whether a change lands: tidiness, then all tests, then which tiers ran.

use std::time::Instant;

use anyhow::Result;

use crate::tiers::Reports;
use crate::{collector, sh, tidy};

pub(crate) fn ci() -> Result<()> {
    let start = Instant::now();
    let reports = Reports::new()?;
    tidy::sources()?;
    tidy::lints()?;

    let mut test = sh::cargo()?;
    test.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    test.env("MEMKV_TIERS_DIR", reports.dir());
    match collector::build() {
        Ok(path) => {
            test.env("MEMKV_OTELCOL", path);
        }
        // Loud here and again at the end, where the tests' own report decides.
        Err(error) => eprintln!("collector: {error:#}"),
    }
    let tested = sh::run(&mut test);
    let concluded = reports.conclude();
    tested.and(concluded)?;
    println!("\nall passed in {} s", start.elapsed().as_secs());
    Ok(())
}
