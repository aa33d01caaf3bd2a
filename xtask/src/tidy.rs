//! What is checked without running our code: formatting, lints, and the text of the tree.

mod licences;
mod links;
mod words;

use anyhow::{Result, bail};

use crate::{generated, sh};

/// Everything, for a developer's `cargo xtask tidy`.
pub(crate) fn tidy() -> Result<()> {
    sources()?;
    lints()?;
    generated::check()
}

/// Checks of the tree's text; a second or so.
pub(crate) fn sources() -> Result<()> {
    let files = sh::files()?;
    let mut faults = links::check(&files)?;
    faults.extend(words::check(&files)?);
    faults.extend(licences::check(&files)?);
    if !faults.is_empty() {
        bail!("the tree isn't tidy:\n  {}", faults.join("\n  "));
    }
    eprintln!("tidy: {} files: links, words, licences", files.len());
    sh::run(sh::cargo()?.args(["fmt", "--all", "--check"]))
}

pub(crate) fn lints() -> Result<()> {
    let mut clippy = sh::cargo()?;
    clippy.args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    sh::run(&mut clippy)
}
