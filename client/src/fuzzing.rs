//! Entry point for fuzzing: a configuration, with all its rules. Used by the target in `tests/fuzz` and by the test that
//! replays its corpus.

use memkv_settings::{Document, Environment, LoadOptions};

use crate::config::ClientConfig;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A client's configuration: as a file, and as the servers that a variable names.
pub fn fuzz_config(data: &[u8]) {
    // With a key, so that none is made in anybody's home.
    let environment = Environment::default().with("MEMKV_AUTH_KEY", KEY);
    if let Ok(document) = Document::parse("c.yaml", data) {
        check(Some(&document), &environment);
    }
    if let Ok(servers) = std::str::from_utf8(data) {
        check(None, &environment.with("MEMKV_SERVERS", servers));
    }
}

fn check(document: Option<&Document>, environment: &Environment) {
    match ClientConfig::resolve(document, environment, &LoadOptions::default()) {
        Ok(config) => {
            assert!(!config.servers.is_empty());
            assert!(config.num_connections > 0);
            assert!(config.max_batch_size > 0);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_fuzz_target_exists_and_its_corpus_replays() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
        assert!(dir.join("fuzz_targets/client_config.rs").exists());
        let mut count = 0;
        for file in std::fs::read_dir(dir.join("corpus/client_config")).unwrap() {
            fuzz_config(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "the corpus is empty");
    }
}
