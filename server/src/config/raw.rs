//! The server's YAML as written: every key, its default, its rule and its documentation.
//!
//! This is the one declaration. `config/server.yaml` and `docs/configuration.md` are generated from
//! it, and [`super::Config`] is built by destructuring it exhaustively, so that a new field doesn't
//! compile until it is handled.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use memkv_settings::{AuthKey, ByteSize, Choice, Secret, Setting, Wrong, range, section};

use super::rules;

/// `storage.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageMode {
    /// Raw block devices.
    Direct,
    /// Regular files.
    File,
    /// RAM only.
    Memory,
}

impl Choice for StorageMode {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("direct", Self::Direct),
        ("file", Self::File),
        ("memory", Self::Memory),
    ];
}

/// `storage.sync`: what a power loss may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Nothing that was acknowledged.
    Always,
    /// At most one second.
    EverySecond,
    /// Whatever the drive had not written.
    No,
}

impl Choice for SyncMode {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("always", Self::Always),
        ("everysec", Self::EverySecond),
        ("no", Self::No),
        ("false", Self::No),
    ];
}

/// `storage.verify`: which reads from a drive are compared with their CRC32C on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyMode {
    /// Every one.
    Always,
    /// Values that were written before the last unclean stop; clients check the others.
    Unclean,
}

impl Choice for VerifyMode {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("always", Self::Always), ("unclean", Self::Unclean)];
}

/// A switch that is written `on` or `off`. `true` and `false` mean the same, here and for every
/// other `off` and `no`: YAML 1.1 tools such as Helm turn these words into booleans on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Enabled.
    On,
    /// Disabled.
    Off,
}

impl Choice for Switch {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("on", Self::On),
        ("off", Self::Off),
        ("true", Self::On),
        ("false", Self::Off),
    ];
}

/// `memory.hugepages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugepageMode {
    /// Required in direct mode, used elsewhere where there are enough.
    Auto,
    /// Refuse to start without them, in every mode.
    Required,
    /// Never.
    Off,
}

impl Choice for HugepageMode {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("required", Self::Required),
        ("off", Self::Off),
        ("false", Self::Off),
    ];
}

/// `rdma.enabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RdmaMode {
    /// Use it where there is a device.
    Auto,
    /// Refuse to start without it.
    True,
    /// Never.
    False,
}

impl Choice for RdmaMode {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("true", Self::True),
        ("false", Self::False),
    ];
}

/// `network.payload_mac`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadMac {
    /// Values are covered by their CRC32C in the signed part.
    Off,
    /// Values carry a keyed BLAKE3 as well; clients without it are refused.
    Required,
}

impl Choice for PayloadMac {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("required", Self::Required),
        ("false", Self::Off),
    ];
}

/// `telemetry.otlp_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocolChoice {
    /// As the endpoint looks: HTTP for port 4318 or a path `/v1/…`, else gRPC.
    Auto,
    /// OTLP over gRPC, usually port 4317.
    Grpc,
    /// OTLP as protobuf over HTTP, usually port 4318.
    Http,
}

impl Choice for OtlpProtocolChoice {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("grpc", Self::Grpc),
        ("http", Self::Http),
    ];
}

/// `logging.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For developers.
    Debug,
    /// Changes of state.
    Info,
    /// Unexpected but handled.
    Warn,
    /// Needs a human.
    Error,
}

impl Choice for LogLevel {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("trace", Self::Trace),
        ("debug", Self::Debug),
        ("info", Self::Info),
        ("warn", Self::Warn),
        ("error", Self::Error),
    ];
}

/// `logging.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For reading.
    Text,
}

impl Choice for LogFormat {
    const CHOICES: &'static [(&'static str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}

section! {
    /// The server's configuration.
    pub struct RawConfig {
        /// Where the server listens, and who may talk to it.
        network: RawNetwork = ();
        /// Pinned memory: where every value passes and hot values stay.
        memory: RawMemory = ();
        /// RDMA. This build has no RDMA: the keys are read, checked and shown, and the server
        /// serves TCP.
        rdma: RawRdma = ();
        /// Where values are kept.
        storage: RawStorage = ();
        /// Bounds on what clients can make the server hold.
        limits: RawLimits = ();
        /// Traces, and what counts as slow.
        telemetry: RawTelemetry = ();
        /// The server's own log, on stderr.
        logging: RawLogging = ();
        /// Read for compatibility and ignored: memkv needs no licence.
        license: Setting<Option<Secret>> = None,
            env ["MEMKV_LICENSE", "AISTOR_LICENSE", "MINIO_LICENSE"],
            when "Never.", example "/etc/memkv/minio.license";
    }
}

section! {
    /// Where the server listens, and who may talk to it.
    pub struct RawNetwork {
        /// Address and port of the data listener. The admin endpoint (HTTP) binds the same address
        /// at port + 1. Port 0 lets the kernel choose both.
        address: Setting<SocketAddr> = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9900)),
            check rules::admin_port_exists,
            when "To serve on one NIC only, or when 9900 or 9901 is taken.";
        /// Certificate chain (PEM) for HTTPS on the admin endpoint; needs `tls_key` too.
        tls_cert: Setting<Option<PathBuf>> = None,
            when "When the admin port is reachable beyond a trust boundary.",
            example "/etc/memkv/tls/fullchain.pem";
        /// Private key (PEM) for HTTPS on the admin endpoint; needs `tls_cert` too.
        tls_key: Setting<Option<PathBuf>> = None,
            when "Together with tls_cert.", example "/etc/memkv/tls/privkey.pem";
        /// Shared key of servers and clients: 64 hexadecimal digits (32 bytes), from `openssl rand
        /// -hex 32`. Required unless the server listens on loopback only; there, without one, the
        /// development key in $HOME/.memkv/dev-key serves. Clocks must agree within 60 seconds.
        auth_key: Setting<Option<AuthKey>> = None, env ["MEMKV_AUTH_KEY"],
            when "Always, off loopback. Prefer the variable, so that the file holds no secret.",
            example "<64 hex digits>";
        /// The key that `auth_key` replaced: still let in, and counted, until you remove it, which
        /// closes its sessions.
        auth_key_previous: Setting<Option<AuthKey>> = None, env ["MEMKV_AUTH_KEY_PREVIOUS"],
            when "While rotating keys; reload with SIGHUP.", example "<64 hex digits>";
        /// Whether values carry a keyed BLAKE3 beside the signed CRC32C.
        payload_mac: Setting<PayloadMac> = PayloadMac::Off,
            when "`required` on networks where others can alter packets.";
        /// Unix socket on which the admin endpoint answers too, for this server's user alone: admin
        /// verbs that change something need no token there.
        admin_socket: Setting<Option<PathBuf>> = None, check rules::admin_socket,
            when "To drain a server or change its log's level from its own host.",
            example "/run/memkv/admin.sock";
        /// Bearer token for admin verbs that change something, over HTTPS or from the same host;
        /// without one they work over `admin_socket` only.
        admin_token: Setting<Option<Secret>> = None, env ["MEMKV_ADMIN_TOKEN"],
            check rules::admin_token,
            when "To drain or change a server from another host.", example "<token>";
        /// The name by which clients place keys on this server and by which it signs what it shows.
        node_id: Setting<Option<String>> = None, check rules::node_id,
            when "When clients reach this server by different addresses: they must agree on its name.",
            example "kv-node-1";
        /// Threads that serve connections; 0 takes one per core.
        threads: Setting<usize> = 0, check |v| range(v, 0, 1024, "0 takes one per core"),
            when "To leave cores to other programs on this host.";
    }
}

section! {
    /// Pinned memory: where every value passes and hot values stay.
    pub struct RawMemory {
        /// One slab of the pool, and one transfer: 64 KiB to 64 MiB. Rounded up to a power of two.
        block_size: Setting<ByteSize> = ByteSize::mib(2), check rules::slab_size,
            when "Never, unless measurements say so.";
        /// The pool. All client I/O passes through it and hot values stay in it. 1 GiB is for
        /// development: give it 75 to 85 % of the RAM that is free. At least four blocks. In memory
        /// mode it doesn't count: there the pool has `storage.max_size`.
        max_size: Setting<ByteSize> = ByteSize::gib(1), check rules::pool_size,
            when "Always: it is the most important setting.";
        /// Huge pages for the pool: `auto` requires them in direct mode and uses them elsewhere if
        /// there are enough; `required` refuses to start without, in every mode; `off` never uses
        /// them.
        hugepages: Setting<HugepageMode> = HugepageMode::Auto,
            when "`off` to try direct mode on a machine where none can be reserved; it costs throughput.";
    }
}

section! {
    /// RDMA. This build has no RDMA: the keys are read, checked and shown, and the server serves
    /// TCP.
    pub struct RawRdma {
        /// `auto` serves TCP where there is no RDMA, `true` refuses to start there, `false` never
        /// uses it.
        enabled: Setting<RdmaMode> = RdmaMode::Auto,
            when "`true` in production, where RDMA must be the data path.";
        /// The RDMA device.
        device: Setting<String> = "mlx5_0".to_owned(),
            when "When there are several NICs.";
        /// The device's port, from 1.
        port: Setting<u8> = 1, check |v| range(v, 1, 255, "ports count from 1"),
            when "For the second port of a dual-port NIC.";
        /// Index into the port's GID table; 0 detects the routable RoCEv2 (IPv4-mapped) one.
        gid_index: Setting<u8> = 0,
            when "To pin one entry, for example with VLANs.";
        /// The IP ToS byte, DSCP × 4 (104 for DSCP 26); 0 detects the lossless one from the NIC's
        /// DCB configuration.
        traffic_class: Setting<u8> = 0, env ["MEMKV_RDMA_TRAFFIC_CLASS"],
            when "To skip the detection; then set service_level as well.";
        /// The service level; on mlx5 it picks the egress queue. 0 takes the priority detected with
        /// the traffic class.
        service_level: Setting<u8> = 0, env ["MEMKV_RDMA_SERVICE_LEVEL"],
            check |v| range(v, 0, 7, "it is the lossless PFC priority; 0 takes the detected one"),
            when "Together with traffic_class.";
        /// Path MTU: 256, 512, 1024, 2048 or 4096. Must not exceed the port's active MTU; same on
        /// clients.
        mtu: Setting<u32> = 4096, check rules::mtu,
            when "Only if the fabric can't carry 4096.";
        /// Entries of the completion queue.
        cq_depth: Setting<u32> = 4096, check |v| range(v, 16, 4_194_304, "4096 suits most"),
            when "Raise it when the log says \"CQ overflow\".";
        /// Local ACK timeout, 4.096 µs × 2^n: 14 is 67 ms.
        timeout: Setting<u8> = 14, check |v| range(v, 0, 31, "it is an exponent: 14 is 67 ms"),
            when "Lower it (12 is 17 ms) to notice failures sooner; raise it on lossy networks.";
        /// Retransmissions before a connection is dead; 7 is the most there is.
        retry_count: Setting<u8> = 7, check |v| range(v, 0, 7, "7 is the most that InfiniBand allows"),
            when "3 or 4 for faster failover.";
        /// Initiators of dynamic connections (mlx5 only).
        num_dcis: Setting<u32> = 256, check |v| range(v, 1, 65_536, "256 saturates most NICs"),
            when "Raise it when they are contended.";
        /// Key of dynamic connections, 24 bits; 0 is open.
        dc_key: Setting<u32> = 0,
            check |v| range(v, 0, 0xFF_FFFF, "it has 24 bits (0xFFFFFF)"),
            when "To keep clusters on one fabric apart.";
        /// Threads that process requests.
        num_worker_threads: Setting<u32> = 64, check |v| range(v, 1, 4096, "64 suits most"),
            when "Raise it when they are the bottleneck.";
        /// Threads that post responses.
        num_responder_threads: Setting<u32> = 16, check |v| range(v, 1, 4096, "16 suits most"),
            when "Raise it when posting is the bottleneck.";
    }
}

section! {
    /// Where values are kept.
    pub struct RawStorage {
        /// `direct`: raw NVMe devices (O_DIRECT, io_uring). `file`: regular files, for development
        /// and co-located servers. `memory`: RAM only, gone with the process.
        mode: Setting<StorageMode> = StorageMode::Direct,
            when "`file` where there is no spare drive, `memory` for caches that may vanish.";
        /// Extent: the unit on a drive. Larger values are striped over drives. 64 KiB to 16 MiB,
        /// rounded up to a power of two.
        block_size: Setting<ByteSize> = ByteSize::mib(4), check rules::extent_size,
            when "1 MiB for many small objects, 8 to 16 MiB for streaming.";
        /// Reads and writes that fail before a drive is taken out of service: in direct mode for good, in file mode until
        /// the next start. A single flush that fails takes it out too: what it was about is unknown then.
        flap_threshold: Setting<u32> = 5, check |v| range(v, 1, 1_000_000, "5 suits most"),
            when "1 or 2 to give up a drive at once; more to keep a flaky one until it is swapped.";
        /// Capacity in memory mode, where it is required, and the size of the pool: values lie in it
        /// and pass through it. Other modes ignore it.
        max_size: Setting<Option<ByteSize>> = None, check rules::memory_capacity,
            when "In memory mode.", example "16 GiB";
        /// What a power loss may take: `always` nothing acknowledged, `everysec` at most a second,
        /// `no` whatever the drive had not written. A killed process loses nothing acknowledged in
        /// any of them.
        sync: Setting<SyncMode> = SyncMode::EverySecond,
            when "`always` for values that can't be recomputed; `no` where a drive's cache is protected.";
        /// Whether old values make room for new ones. Off, a full store answers NoSpace.
        eviction: Setting<Switch> = Switch::On,
            when "`off` for a store that must not forget.";
        /// Which reads from a drive are compared with their CRC32C before they are answered:
        /// `always` all, `unclean` only values written before the last unclean stop. Clients check
        /// whatever they read.
        verify: Setting<VerifyMode> = VerifyMode::Always,
            when "`unclean` where the server's cores are the bottleneck.";
        /// One entry per drive, at most 64. Drives are formatted by `memkv setup` or on first use,
        /// and belong to memkv alone.
        drives: Vec<RawDrive> = ();
    }
}

section! {
    /// One drive.
    pub struct RawDrive {
        /// Path of the block device (direct) or file (file mode; created at max_size).
        media: Setting<Option<PathBuf>> = None, example "/dev/nvme0n1";
        /// The most it may use; the whole device if absent, 4 GiB for a file.
        max_size: Setting<Option<ByteSize>> = None, check rules::drive_capacity,
            when "To use a part of a large drive.", example "2 TiB";
    }
}

section! {
    /// Bounds on what clients can make the server hold.
    pub struct RawLimits {
        /// Connections at once; more are refused by a closed socket, counted.
        max_connections: Setting<u32> = 65_536,
            check |v| range(v, 1, 4_194_304, "each needs a file descriptor"),
            when "Lower it to fit ulimit -n.";
        /// Bytes of values being received, and of those read for replies until clients take them,
        /// over all connections. Each may exceed its share by one value, or a block of
        /// storage.block_size that a drive is still to bring. Beyond, requests wait for what their
        /// own client takes, and for what others hold until they are answered Busy. 0 takes half the
        /// pool.
        max_in_flight: Setting<ByteSize> = ByteSize(0),
            when "Never, unless the pool is mostly used by bulk transfers.";
        /// Seconds that a graceful stop waits for requests in flight.
        drain_seconds: Setting<u32> = 10, check |v| range(v, 0, 3600, "10 suits most"),
            when "Keep it below the supervisor's own timeout.";
    }
}

section! {
    /// Traces, and what counts as slow.
    pub struct RawTelemetry {
        /// OpenTelemetry collector, as http:// or https://; the certificate of the latter must be one that this machine, or
        /// SSL_CERT_FILE, trusts. Without one no spans leave the server.
        otlp_endpoint: Setting<Option<String>> = None, env ["MEMKV_OTEL_ENDPOINT"],
            check rules::otlp_endpoint,
            when "Wherever there is a collector.", example "http://127.0.0.1:4317";
        /// How to speak to it: `grpc`, `http` (protobuf), or `auto`, which takes HTTP for port 4318
        /// or a path and gRPC otherwise.
        otlp_protocol: Setting<OtlpProtocolChoice> = OtlpProtocolChoice::Auto,
            when "When a collector speaks HTTP on another port than 4318.";
        /// Share of operations traced from here; slow and failed ones always are, and a client's
        /// decision is followed.
        sample_ratio: Setting<f64> = 0.01, check |v| range(v, 0.0, 1.0, "0.01 traces one in a hundred"),
            when "1 while looking for something on a quiet server.";
        /// The most spans sent per second; what exceeds it is counted.
        spans_per_second: Setting<u32> = 1000,
            when "Lower it for a small collector.";
        /// Whether the log goes to the collector too.
        logs_otlp: Setting<bool> = false,
            when "When logs and traces should meet in one place.";
        /// From when on an operation is slow, and explains itself at /v1/slow.
        slow: RawSlow = ();
    }
}

section! {
    /// From when on an operation is slow, and explains itself at /v1/slow.
    pub struct RawSlow {
        /// Milliseconds that any operation may take.
        base_ms: Setting<f64> = 10.0, check |v| range(v, 0.0, 3_600_000.0, "10 suits most"),
            when "Lower it to your service's goal.";
        /// Milliseconds more for each MiB that it moves.
        per_mib_ms: Setting<f64> = 1.0, check |v| range(v, 0.0, 3_600_000.0, "1 suits most"),
            when "Raise it on slow networks.";
        /// Slow is also what takes this many times the rolling median of its kind and size; 0 turns
        /// that off.
        times_median: Setting<f64> = 8.0, check |v| range(v, 0.0, 1_000_000.0, "8 suits most"),
            when "Lower it to see smaller outliers.";
    }
}

section! {
    /// The server's own log, on stderr.
    pub struct RawLogging {
        /// The least severe level that is written.
        level: Setting<LogLevel> = LogLevel::Info,
            when "`debug` while looking for something; `warn` if the volume hurts.";
        /// `json` for log shippers, `text` for people.
        format: Setting<LogFormat> = LogFormat::Json,
            when "`text` while developing.";
    }
}

/// So that `rules` can name the type it answers with.
pub(super) type Rule = Result<(), Wrong>;
