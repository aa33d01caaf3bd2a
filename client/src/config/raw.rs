//! The YAML as written: keys, defaults, variables, and the rule of each value on its own.

use std::net::IpAddr;

use memkv_settings::{AuthKey, Choice, Secret, Setting, Wrong, range, section};

/// Which data transport to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// RDMA where there is any, else TCP; which of them, and why, is visible.
    Auto,
    /// RDMA or an error.
    Rdma,
    /// TCP.
    Tcp,
}

impl Choice for Transport {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("rdma", Self::Rdma),
        ("tcp", Self::Tcp),
    ];
}

/// Whether every payload is authenticated, beyond its CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadMac {
    /// As the server requires.
    Auto,
    /// Always; a server that can't is refused.
    Required,
}

impl Choice for PayloadMac {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("required", Self::Required)];
}

const DEFAULT_SERVER: &str = "127.0.0.1:9900";
const DEFAULT_TRANSPORT: Transport = if cfg!(target_os = "linux") {
    Transport::Auto
} else {
    Transport::Tcp
};

section! {
    /// The client's configuration: the file that MEMKV_CONFIG names. Environment variables win over it.
    pub struct RawConfig {
        /// Data addresses of the servers, host:port. Each key lives on one of them, chosen by rendezvous hashing.
        servers: Setting<Vec<String>> = vec![DEFAULT_SERVER.to_owned()], env ["MEMKV_SERVERS"], check check_servers,
            example "[10.0.0.1:9900, 10.0.0.2:9900]";
        /// Identities of the servers, in the same order: what keys are placed by. Without them the server strings are.
        node_ids: Setting<Vec<String>> = Vec::new(),
            when "when a server must change its address but keep its keys", example "[kv-a, kv-b]";
        /// RDMA devices, one per server (rail).
        rdma_devices: Setting<Vec<String>> = vec!["mlx5_0".to_owned()], env ["MEMKV_RDMA_DEVICES", "MEMKV_RDMA_DEVICE"];
        /// Source address per server; `~` or an empty item means any. Setting MEMKV_SERVERS resets it.
        bind_addresses: Setting<Vec<Option<IpAddr>>> = vec![None], env ["MEMKV_BIND_ADDRESSES"];
        /// MiB of registered memory to keep cached (RDMA).
        cache_size_mb: Setting<usize> = 256, env ["MEMKV_CACHE_SIZE_MB"];
        /// Milliseconds within which a connection, its handshake included, must stand.
        connect_timeout_ms: Setting<u64> = 5000, env ["MEMKV_CONNECT_TIMEOUT_MS"], check check_connect_timeout;
        /// GID index (RDMA); 0 detects a routable RoCEv2 one.
        gid_index: Setting<u8> = 0;
        /// Traffic class, the IP ToS byte, DSCP << 2 (RDMA); 0 detects the lossless one.
        traffic_class: Setting<u8> = 0, env ["MEMKV_RDMA_TRAFFIC_CLASS"];
        /// Service level (RDMA); 0 takes the priority that was detected with the traffic class.
        service_level: Setting<u8> = 0, env ["MEMKV_RDMA_SERVICE_LEVEL"], check check_service_level;
        /// Path MTU in bytes (RDMA); must match the server's rdma.mtu.
        mtu: Setting<u32> = 4096, env ["MEMKV_RDMA_MTU"], check check_mtu;
        /// Connections per server; 0 counts as 1. Two more are opened for small requests while all of these are busy.
        num_connections: Setting<usize> = 8, env ["MEMKV_NUM_CONNECTIONS"], check check_num_connections;
        /// Read for compatibility and ignored.
        license: Setting<Option<Secret>> = None, env ["MEMKV_LICENSE", "AISTOR_LICENSE", "MINIO_LICENSE"],
            example "/etc/memkv/minio.license";
        /// The key shared with the servers, 64 hexadecimal digits. Loopback servers do without: a key under $HOME serves.
        auth_key: Setting<Option<AuthKey>> = None, env ["MEMKV_AUTH_KEY"], example "<64 hex digits>";
        /// Data transport.
        transport: Setting<Transport> = DEFAULT_TRANSPORT, env ["MEMKV_TRANSPORT"];
        /// Whether payloads carry a MAC of their own beside the CRC32C.
        payload_mac: Setting<PayloadMac> = PayloadMac::Auto, when "on networks that you don't trust";
        /// How many times a read (get, exists) that lost its connection is sent again within its deadline.
        retries: Setting<u32> = 0, check check_retries, when "to ride out server restarts without code of your own";
        /// Share of calls whose spans are exported, where the caller has no trace of its own (0 to 1).
        trace_ratio: Setting<f64> = 0.01, check check_ratio;
        /// host:port where the client serves its own metrics.
        prometheus_bind: Setting<Option<String>> = None, env ["MEMKV_PROMETHEUS_BIND"], check check_bind,
            example "127.0.0.1:9464";
        /// OTLP endpoint for the client's traces and metrics, http:// or https://; wins over prometheus_bind.
        otel_endpoint: Setting<Option<String>> = None, env ["MEMKV_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
            check check_endpoint, example "http://127.0.0.1:4317";
    }
}

section! {
    /// Advanced settings: environment only, read once per process.
    pub struct Advanced {
        /// Seconds that an op may take where the call says nothing else; then it is cancelled and fenced.
        rdma_timeout_secs: Setting<u64> = 30, env ["MEMKV_RDMA_TIMEOUT_SECS"], check check_timeout_secs;
        /// Polls of the completion queue before the poller sleeps (RDMA).
        cq_batch_spins: Setting<u32> = 64, env ["MEMKV_CQ_BATCH_SPINS"];
        /// Nanoseconds that it sleeps; 0 spins for ever (RDMA).
        cq_poll_delay_ns: Setting<u64> = 5000, env ["MEMKV_CQ_POLL_DELAY_NS"];
        /// Entries per BatchRead or BatchWrite message; 0 counts as 1.
        max_batch_size: Setting<usize> = 64, env ["MEMKV_MAX_BATCH_SIZE"];
        /// MiB of staging memory for batched writes (RDMA; TCP sends from the caller's memory).
        staging_size_mb: Setting<usize> = 256, env ["MEMKV_STAGING_SIZE_MB"];
        /// MiB of one staging slot (RDMA).
        staging_slot_mb: Setting<usize> = 16, env ["MEMKV_STAGING_SLOT_MB"];
    }
}

#[expect(
    clippy::ptr_arg,
    reason = "a rule takes a reference to the field's own type"
)]
fn check_servers(servers: &Vec<String>) -> Result<(), Wrong> {
    if servers.is_empty() {
        return Err(Wrong::new(
            "at least one host:port",
            format!("the default is {DEFAULT_SERVER}"),
        ));
    }
    for (idx, server) in servers.iter().enumerate() {
        if let Err((must_be, remedy)) = check_server(server, &servers[..idx]) {
            let item = Some((idx, None, Some(server.clone())));
            return Err(Wrong {
                item,
                ..Wrong::new(must_be, remedy)
            });
        }
    }
    Ok(())
}

fn check_server(server: &str, before: &[String]) -> Result<(), (&'static str, String)> {
    if let Some((scheme, rest)) = server.split_once("://") {
        let authority = rest.split('/').next().unwrap_or(rest);
        let data = match split_host_port(authority) {
            Some((host, port)) if port > 1 => format!("{host}:{}", port - 1),
            _ => DEFAULT_SERVER.to_owned(),
        };
        let remedy = format!(
            "{scheme}:// is how an admin endpoint is written; here the data address is meant, which is one port below it: \
             try {data}"
        );
        return Err(("host:port without a scheme", remedy));
    }
    match split_host_port(server) {
        None => Err((
            "host:port, or [address]:port for IPv6, with a port of 1 to 65535",
            "such as 10.0.0.1:9900".into(),
        )),
        Some(_) if before.iter().any(|other| other == server) => Err((
            "listed once",
            "remove the repetition; num_connections sets how many connections a server gets".into(),
        )),
        Some(_) => Ok(()),
    }
}

/// Splits `host:port` and `[v6]:port`; the host keeps its brackets.
pub(super) fn split_host_port(server: &str) -> Option<(&str, u16)> {
    let (host, port) = server.rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|&port| port > 0 && !server.contains(char::is_whitespace))?;
    if host.is_empty() || host == "[]" || (host.contains(':') && !bracketed) {
        return None;
    }
    Some((host, port))
}

fn check_connect_timeout(ms: &u64) -> Result<(), Wrong> {
    range(ms, 1, 3_600_000, "5000 suits most networks")
}

fn check_service_level(level: &u8) -> Result<(), Wrong> {
    range(
        level,
        0,
        7,
        "it is a priority of the switch; 0 takes the detected one",
    )
}

fn check_mtu(mtu: &u32) -> Result<(), Wrong> {
    match mtu {
        256 | 512 | 1024 | 2048 | 4096 => Ok(()),
        _ => Err(Wrong::new(
            "256, 512, 1024, 2048 or 4096",
            "it must match the server's rdma.mtu",
        )),
    }
}

fn check_num_connections(count: &usize) -> Result<(), Wrong> {
    range(count, 0, 1024, "8 suits most; each is a socket per server")
}

fn check_retries(count: &u32) -> Result<(), Wrong> {
    range(count, 0, 16, "0 leaves retrying to the caller")
}

fn check_ratio(ratio: &f64) -> Result<(), Wrong> {
    range(ratio, 0.0, 1.0, "0.01 exports one call in a hundred")
}

fn check_timeout_secs(secs: &u64) -> Result<(), Wrong> {
    range(
        secs,
        1,
        4000,
        "30 suits most; a call may set its own deadline",
    )
}

fn check_bind(address: &Option<String>) -> Result<(), Wrong> {
    let address = address.as_deref();
    address.map_or(Ok(()), memkv_settings::check_bind)
}

fn check_endpoint(url: &Option<String>) -> Result<(), Wrong> {
    let url = url.as_deref();
    url.map_or(Ok(()), memkv_settings::check_otlp_endpoint)
}
