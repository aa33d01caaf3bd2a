//! Licences: SPDX expressions stand in manifests only, and what we depend on allows ours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::sh;

/// One fault per line of prose.
pub(crate) fn check(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for path in files {
        let Ok(text) = fs::read_to_string(sh::root().join(path)) else {
            continue;
        };
        if path.file_name().is_some_and(|name| name == "Cargo.toml") {
            faults.extend(manifest_fault(path, &text));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            faults.extend(header_fault(path, &text));
        }
    }
    Ok(faults)
}

fn manifest_fault(path: &Path, text: &str) -> Option<String> {
    let is_package = text.lines().any(|line| line.trim() == "[package]");
    let has_licence = text.lines().any(|line| line.starts_with("license"));
    (is_package && !has_licence).then(|| {
        format!(
            "{}: no `license`; write `license.workspace = true`",
            path.display()
        )
    })
}

fn header_fault(path: &Path, text: &str) -> Option<String> {
    let head = text.lines().take(10);
    // Written in two pieces, or this file would be its own fault.
    let marks = [concat!("SPDX-", "License"), concat!("Copy", "right ")];
    let idx = head
        .enumerate()
        .find(|(_, line)| marks.iter().any(|mark| line.contains(mark)))?
        .0;
    Some(format!(
        "{}:{}: licences stand in Cargo.toml, not in sources",
        path.display(),
        idx + 1
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_licence_is_a_fault_and_a_workspace_is_none() {
        let check = |text| manifest_fault(Path::new("Cargo.toml"), text).is_some();
        assert!(check("[package]\nname = \"a\"\n"));
        assert!(!check("[package]\nlicense.workspace = true\n"));
        assert!(!check("[workspace]\n"));
    }

    #[test]
    fn a_licence_header_in_a_source_is_a_fault() {
        let check = |text: &str| header_fault(Path::new("a.rs"), text).is_some();
        assert!(check(concat!("// SPDX-", "License-Identifier: MIT\n")));
        assert!(!check("//! A module.\n"));
    }
}
