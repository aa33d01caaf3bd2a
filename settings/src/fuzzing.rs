//! Entry points for fuzzing: plain bytes in, a panic if a property doesn't hold.
//!
//! The properties are: reading is total, and bounded whatever the text holds; what is refused is
//! refused in words. Used by the targets in `tests/fuzz` and by the test that replays their corpora.

use crate::yaml::{DEPTH_MAX, NODES_MAX, Node, Yaml};
use crate::{ByteSize, Document};

/// A fuzz entry point.
pub type Target = fn(&[u8]);

/// All entry points, by the names of their targets and corpora.
pub const TARGETS: &[(&str, Target)] =
    &[("settings_yaml", fuzz_yaml), ("settings_size", fuzz_size)];

/// YAML.
pub fn fuzz_yaml(data: &[u8]) {
    match Document::parse("c.yaml", data) {
        Ok(document) => {
            assert_eq!(document.file(), "c.yaml");
            assert!(walk(document.root(), 0) <= NODES_MAX);
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

/// The nodes of a tree.
fn walk(node: &Node, depth: usize) -> usize {
    assert!(depth <= DEPTH_MAX);
    assert!(!node.shown().is_empty());
    1 + match &node.value {
        Yaml::Null | Yaml::Scalar(_) => 0,
        Yaml::Sequence(items) => items.iter().map(|item| walk(item, depth + 1)).sum(),
        Yaml::Mapping(entries) => {
            for (idx, entry) in entries.iter().take(100).enumerate() {
                assert!(entries[..idx].iter().all(|other| other.key != entry.key));
            }
            let values = entries.iter().map(|entry| walk(&entry.value, depth + 1));
            values.sum()
        }
    }
}

/// Sizes with units.
pub fn fuzz_size(data: &[u8]) {
    let size = std::str::from_utf8(data).ok().and_then(ByteSize::parse);
    if let Some(size) = size {
        assert_eq!(ByteSize::parse(&size.to_string()), Some(size));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_fuzz_target_exists_and_its_corpus_replays() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
        for (name, target) in TARGETS {
            let source = dir.join("fuzz_targets").join(format!("{name}.rs"));
            assert!(source.exists(), "{} is missing", source.display());
            let mut count = 0;
            for file in std::fs::read_dir(dir.join("corpus").join(name)).unwrap() {
                target(&std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has no corpus");
        }
    }
}
