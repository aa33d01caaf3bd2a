//! The programs that tests run, built beside them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary: `MEMKV_BIN` where that is set, else built beside the test that runs.
///
/// # Panics
/// If it doesn't build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("MEMKV_BIN") {
        Some(path) => path.into(),
        None => build("memkv-cli", "memkv"),
    })
}

/// The program behind `cargo xtask`, built beside the test that runs.
///
/// # Panics
/// If it doesn't build.
pub fn xtask() -> PathBuf {
    build("memkv-xtask", "memkv-xtask")
}

fn build(package: &str, bin: &str) -> PathBuf {
    // …/PROFILE/deps/it-HASH
    let test = std::env::current_exe().expect("the path of the running test");
    let profile = test.ancestors().nth(2).expect("a profile's folder");
    let target = profile.parent().expect("a target folder");
    let mut cargo = cargo();
    cargo
        .args(["build", "--quiet", "--locked", "--package", package])
        .args(["--bin", bin, "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.output().expect("cargo runs");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    profile.join(bin)
}

/// The cargo that runs us, without what it says of our own package: build scripts watch that (ring's does), and would
/// compile anew with everything that stands on them, here and then again in the cargo that runs the tests.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let is_ours = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if is_ours
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            cargo.env_remove(name);
        }
    }
    cargo
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_build_within_a_test_inherits_nothing_about_the_tests_package() {
        let cargo = cargo();
        let removed = |name: &str| {
            cargo
                .get_envs()
                .any(|entry| entry == (OsStr::new(name), None))
        };
        assert!(removed("CARGO_PKG_NAME") && removed("CARGO_MANIFEST_DIR"));
    }
}
