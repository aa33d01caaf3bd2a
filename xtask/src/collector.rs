//! Builds the OpenTelemetry Collector that tests run against, once, into the cache.
//!
//! The collector's own builder writes the sources from otel/builder/builder.yaml; module versions
//! and checksums are those of the committed go.mod and go.sum. The binary's folder is named after
//! a digest of these three files, so a changed recipe builds anew and an unchanged one never does.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::sh;

const RECIPE: [&str; 3] = ["builder.yaml", "go.mod", "go.sum"];
const BUILDER: &str = "go.opentelemetry.io/collector/cmd/builder@v0.155.0";
/// What the modules of the recipe ask for in their own go.mod files.
const GO_MIN: (u32, u32) = (1, 25);

pub(crate) fn print_path() -> Result<()> {
    println!("{}", build()?.display());
    Ok(())
}

/// The collector's path; builds it where it isn't built yet (a few minutes).
pub(crate) fn build() -> Result<PathBuf> {
    let recipe = sh::root().join("otel/builder");
    let mut digest = DefaultHasher::new();
    for file in RECIPE {
        let text = fs::read(recipe.join(file)).with_context(|| format!("read {file}"))?;
        text.hash(&mut digest);
    }
    let home = sh::cache()?.join("otelcol");
    let built = home
        .join(format!("{:016x}", digest.finish()))
        .join("otelcol");
    if built.exists() {
        return Ok(built);
    }
    check_go()?;
    eprintln!("collector: building it for the first time; this takes a few minutes");

    let work = home.join(format!("build-{}", std::process::id()));
    let sources = work.join("src");
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let yaml = fs::read_to_string(recipe.join("builder.yaml"))?;
    let yaml = yaml.replace(
        "output_path: ./build",
        &format!("output_path: {}", sources.display()),
    );
    fs::write(work.join("builder.yaml"), yaml)?;

    let bin = home.join("bin");
    // GOTOOLCHAIN=local: never fetch another Go behind the user's back; check_go spoke first.
    sh::run(
        sh::command("go")
            .args(["install", BUILDER])
            .env("GOBIN", &bin)
            .envs(GO_ENV),
    )?;
    let mut generate = sh::command(bin.join("builder"));
    generate.arg("--config").arg(work.join("builder.yaml"));
    sh::run(
        generate
            .args(["--skip-get-modules", "--skip-compilation"])
            .envs(GO_ENV),
    )?;
    for file in ["go.mod", "go.sum"] {
        fs::copy(recipe.join(file), sources.join(file))?;
    }
    let mut compile = sh::command("go");
    compile.current_dir(&sources).envs(GO_ENV);
    compile.args([
        "build",
        "-trimpath",
        "-ldflags",
        "-s -w",
        "-o",
        "otelcol",
        ".",
    ]);
    sh::run(&mut compile)?;

    // The rename is what makes it visible: a half-built one never is.
    fs::create_dir_all(built.parent().expect("has a folder"))?;
    fs::rename(sources.join("otelcol"), &built).context("put the collector in its place")?;
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    Ok(built)
}

const GO_ENV: [(&str, &str); 3] = [
    ("GOTOOLCHAIN", "local"),
    ("CGO_ENABLED", "0"),
    ("GOFLAGS", "-mod=readonly -buildvcs=false"),
];

fn check_go() -> Result<()> {
    let remedy = format!(
        "install Go {}.{} or newer from https://go.dev/dl (unpack it and put its bin/ on PATH); \
         until then the tests against a real collector are skipped",
        GO_MIN.0, GO_MIN.1
    );
    if !sh::have("go") {
        bail!("no Go to build the OpenTelemetry Collector with; {remedy}");
    }
    let version = sh::output(sh::command("go").args(["env", "GOVERSION"]).envs(GO_ENV))?;
    match parse_go_version(version.trim()) {
        Some(found) if found >= GO_MIN => Ok(()),
        _ => bail!(
            "{} is too old to build the OpenTelemetry Collector; {remedy}",
            version.trim()
        ),
    }
}

fn parse_go_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix("go")?.split(['.', 'r', 'b', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_compared_by_number_not_by_text() {
        let check = |version, expected| assert_eq!(parse_go_version(version), expected);
        check("go1.26.8", Some((1, 26)));
        check("go1.9", Some((1, 9)));
        check("go1.25rc1", Some((1, 25)));
        check("devel", None);
        assert!(parse_go_version("go1.9").unwrap() < GO_MIN);
        assert!(parse_go_version("go1.26.8").unwrap() >= GO_MIN);
    }
}
