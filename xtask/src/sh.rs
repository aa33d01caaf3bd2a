//! Running programs from the workspace's root, and where things lie.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    // The manifest's folder is xtask/; the path is of the machine that built this, and cargo
    // builds xtask anew in every clone.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace's root")
}

/// Where downloads and built tools are kept between runs and clones.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(cache) = std::env::var_os("MEMKV_CACHE") {
        return Ok(PathBuf::from(cache));
    }
    let home = std::env::var_os("HOME").context("HOME is not set; set it or MEMKV_CACHE")?;
    Ok(PathBuf::from(home).join(".cache/memkv"))
}

/// Where cargo puts what it builds; the default is the Makefile's.
pub(crate) fn target() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => Ok(root().join(target)),
        None => Ok(cache()?.join("target")),
    }
}

/// A program to be run in the workspace's root, with unpacked tools on its `PATH`.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let program = program.as_ref();
    // A relative path with a slash means the workspace's, wherever xtask was called from.
    let in_root = root().join(program);
    let is_ours = Path::new(program).components().count() > 1 && in_root.exists();
    let mut command = Command::new(if is_ours {
        in_root.as_os_str()
    } else {
        program
    });
    command.current_dir(root());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = cache().map(|cache| cache.join("tools/usr/bin"));
    let paths = std::env::split_paths(&path).chain(tools.ok());
    if let Ok(path) = std::env::join_paths(paths) {
        command.env("PATH", path);
    }
    command
}

/// cargo, as the one that runs us, building where the Makefile would.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env("CARGO_TARGET_DIR", target()?);
    // What the cargo that runs us says of our own package. Build scripts watch it (ring's does), so a
    // cargo that inherited it would compile them anew, and everything that stands on them.
    for (name, _) in std::env::vars_os() {
        let is_ours = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if is_ours
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// The binary: `built` where there is one already, else the release, which is built.
///
/// # Errors
/// If it doesn't build.
pub(crate) fn memkv(built: Option<&Path>) -> Result<PathBuf> {
    if let Some(built) = built {
        return std::path::absolute(built).context("find the binary");
    }
    run(cargo()?.args(["build", "--locked", "--release", "--package", "memkv-cli"]))?;
    Ok(target()?.join("release/memkv"))
}

/// Runs to the end with our own standard streams.
///
/// # Errors
/// If it can't be started or doesn't succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", show(command));
    let status = command
        .status()
        .with_context(|| format!("start {}", show(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", show(command));
    }
    Ok(())
}

/// Runs to the end and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", show(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", show(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote UTF-8", show(command)))
}

/// Runs to the end; whether it succeeded, and what it wrote to standard error.
pub(crate) fn logged(command: &mut Command) -> Result<(bool, String)> {
    eprintln!("+ {}", show(command));
    let output = command
        .output()
        .with_context(|| format!("start {}", show(command)))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), log))
}

/// Whether a program of this name can be found.
pub(crate) fn have(program: &str) -> bool {
    let mut probe = command("sh");
    probe.arg("-c").arg("command -v \"$0\"").arg(program);
    probe
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Every file of the tree that is, or is about to be, under version control.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let listing =
        output(command("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    Ok(listing
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cargo_of_ours_inherits_nothing_about_our_package() {
        let cargo = cargo().unwrap();
        let removed: Vec<_> = cargo
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name)
            .collect();
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(removed.contains(&OsStr::new(name)), "{name}: {removed:?}");
        }
        assert!(!removed.contains(&OsStr::new("CARGO_HOME")), "{removed:?}");
    }
}
