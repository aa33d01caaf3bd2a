//! The names of memkv's environment variables, to tell a misspelt one from another program's.

use crate::{Environment, nearest};

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

/// Variables that look like a misspelt one of ours, each with the one that was probably meant.
///
/// Others that begin with `MEMKV_` are left alone: a Kubernetes service named memkv puts a dozen of
/// them in every pod.
pub fn misspelt_variables(environment: &Environment) -> Vec<(String, &'static str)> {
    let unknown = environment
        .names()
        .filter(|name| name.starts_with("MEMKV_") && !VARIABLES.contains(name));
    let meant = |name: &str| nearest(&name[6..], VARIABLES.iter().map(|v| &v[6..]));
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
}
