//! All access of the server to its environment: captured once, then handed around as data.

use memkv_settings::Environment;
use std::path::PathBuf;

/// Every variable that a memkv server, client or tool reads.
pub const VARIABLES: &[&str] = &[
    "MEMKV_ADMIN_TOKEN",
    "MEMKV_AUTH_KEY",
    "MEMKV_AUTH_KEY_PREVIOUS",
    "MEMKV_BIND_ADDRESSES",
    "MEMKV_CACHE_DIR_PREFIX",
    "MEMKV_CACHE_SIZE_MB",
    "MEMKV_CONFIG",
    "MEMKV_CONNECT_TIMEOUT_MS",
    "MEMKV_CQ_BATCH_SPINS",
    "MEMKV_CQ_POLL_DELAY_NS",
    "MEMKV_DEBUG_CHECKSUM",
    "MEMKV_DEBUG_CHECKSUM_STRIDE",
    "MEMKV_LICENSE",
    "MEMKV_MAX_BATCH_SIZE",
    "MEMKV_NUM_CONNECTIONS",
    "MEMKV_OTEL_ENDPOINT",
    "MEMKV_PLUGIN_PUT_CHUNK",
    "MEMKV_PROMETHEUS_BIND",
    "MEMKV_RDMA_DEVICE",
    "MEMKV_RDMA_DEVICES",
    "MEMKV_RDMA_MTU",
    "MEMKV_RDMA_SERVICE_LEVEL",
    "MEMKV_RDMA_TIMEOUT_SECS",
    "MEMKV_RDMA_TRAFFIC_CLASS",
    "MEMKV_RETRIEVE_LANE_GB",
    "MEMKV_SERVERS",
    "MEMKV_SLAB_DOUBLE_FREE_TRACE",
    "MEMKV_STAGING_SIZE_MB",
    "MEMKV_STAGING_SLOT_MB",
    "MEMKV_TRANSPORT",
];

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

/// Variables that look like a misspelt one of ours, each with the one that was probably meant.
///
/// Others that begin with `MEMKV_` are left alone: a Kubernetes service named memkv puts a dozen of
/// them in every pod.
pub fn misspelt_variables(environment: &Environment) -> Vec<(String, &'static str)> {
    let unknown = environment
        .names()
        .filter(|name| name.starts_with("MEMKV_") && !VARIABLES.contains(name));
    let meant = |name: &str| memkv_settings::nearest(&name[6..], VARIABLES.iter().map(|v| &v[6..]));
    unknown
        .filter_map(|name| {
            let meant = meant(name)?;
            let variable = VARIABLES.iter().find(|variable| &variable[6..] == meant)?;
            Some((name.to_owned(), *variable))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_named_with_the_nearest_known() {
        let environment = Environment::default()
            .with("MEMKV_AUTHKEY", "x")
            .with("MEMKV_SERVERS", "a:1")
            .with("MEMKV_PORT_9900_TCP", "tcp://10.0.0.1:9900")
            .with("MEMKV_SERVICE_HOST", "10.0.0.1");
        let expected = [("MEMKV_AUTHKEY".to_owned(), "MEMKV_AUTH_KEY")];
        assert_eq!(misspelt_variables(&environment), expected);
    }

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
