//! All access of the server to its environment: captured once, then handed around as data.

use std::path::PathBuf;

use memkv_settings::Environment;
pub use memkv_settings::{VARIABLES, misspelt_variables};

const OTHERS: &[&str] = &[
    "AISTOR_LICENSE",
    "HOME",
    "MINIO_LICENSE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Captures what the server reads of this process's environment.
///
/// A value that isn't UTF-8 keeps its readable part, so that its field refuses it by name rather
/// than overlooking it.
pub fn capture() -> Environment {
    let ours = |name: &str| name.starts_with("MEMKV_") || OTHERS.contains(&name);
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

/// The home directory, where the development key lives.
pub fn home(environment: &Environment) -> Option<PathBuf> {
    environment.get("HOME").map(PathBuf::from)
}

/// Whether `MEMKV_SLAB_DOUBLE_FREE_TRACE` asks for backtraces of slabs freed twice.
pub fn slab_double_free_trace(environment: &Environment) -> bool {
    let value = environment.get("MEMKV_SLAB_DOUBLE_FREE_TRACE");
    matches!(value, Some("1" | "true" | "TRUE" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_free_tracing_takes_exactly_the_documented_words() {
        for (value, expected) in [
            ("1", true),
            ("true", true),
            ("TRUE", true),
            ("yes", true),
            ("0", false),
            ("on", false),
        ] {
            let environment = Environment::default().with("MEMKV_SLAB_DOUBLE_FREE_TRACE", value);
            assert_eq!(slab_double_free_trace(&environment), expected, "{value}");
        }
        assert!(!slab_double_free_trace(&Environment::default()));
    }
}
