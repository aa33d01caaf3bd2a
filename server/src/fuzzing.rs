//! Entry point for fuzzing: a configuration, with all its rules. Used by the target in `tests/fuzz`
//! and by the test that replays its corpus.

use memkv_settings::{Environment, LoadOptions};

use crate::config::{Config, Facts};

/// A server's configuration. What is refused is refused in words; what is accepted keeps to what
/// the rest of the server relies on.
pub fn fuzz_config(data: &[u8]) {
    let facts = Facts {
        cores: 4,
        hugepages_free_bytes: Some(1 << 30),
        hugepage_bytes: 2 << 20,
        memlock_bytes: Some(64 << 20),
        ram_available_bytes: Some(8 << 30),
    };
    let environment = Environment::default();
    let options = LoadOptions::default();
    match Config::from_yaml("c.yaml", data, &environment, &facts, &options) {
        Ok(config) => {
            assert!(config.network.threads > 0);
            assert!(config.memory.block_bytes.is_power_of_two());
            assert!(config.memory.pool_bytes >= 4 * config.memory.block_bytes);
            assert!(config.storage.extent_bytes.is_power_of_two());
            assert!(!config.effective().is_empty());
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_fuzz_target_exists_and_its_corpus_replays() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
        assert!(dir.join("fuzz_targets/server_config.rs").exists());
        let mut count = 0;
        for file in std::fs::read_dir(dir.join("corpus/server_config")).unwrap() {
            fuzz_config(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "the corpus is empty");
    }
}
