//! From the YAML as written to the configuration that runs: rules over several fields, refusals to
//! start, and what was detected.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use memkv_engine::DRIVES_MAX;
use memkv_settings::{
    ByteSize, Document, Effective, Environment, LoadOptions, Problem, Problems, Setting, Source,
    Value, dev_key, effective_of, load_all,
};

use super::raw::{
    HugepageMode, OtlpProtocolChoice, PayloadMac, RawConfig, RawDrive, RawLimits, RawLogging,
    RawMemory, RawNetwork, RawRdma, RawSlow, RawStorage, RawTelemetry, RdmaMode, StorageMode,
    Switch,
};
use super::{
    Backend, Config, Drive, Facts, Limits, Logging, Memory, Network, Rdma, Slow, Storage,
    Telemetry, Tls, rules,
};
use crate::env;
use memkv_telemetry::OtlpProtocol;

/// The capacity of a file drive that doesn't say.
const FILE_CAPACITY: ByteSize = ByteSize(memkv_engine::FILE_DRIVE_BYTES);

pub(super) fn check(
    document: &Document,
    environment: &Environment,
    facts: &Facts,
    options: &LoadOptions,
) -> Result<Config, Problems> {
    let (loaded, problems) = load_all::<RawConfig>(Some(document), environment, options);
    let mut raw = loaded.value;
    let mut checker = Checker {
        effective: Vec::new(),
        warnings: Vec::new(),
        problems,
        facts,
    };
    checker.warnings.extend(
        loaded
            .warnings
            .iter()
            .map(|warning| format!("{warning} (ignored)")),
    );
    for (name, meant) in env::misspelt_variables(environment) {
        checker.warn(format!(
            "env {name} means nothing to memkv; did you mean {meant}?"
        ));
    }
    fall_back_to_otel(&mut raw, environment);
    checker.effective = effective_of(&raw);

    let RawConfig {
        network,
        memory,
        rdma,
        storage,
        limits,
        telemetry,
        logging,
        license,
    } = raw;
    if license.value.is_some() {
        checker.show("license", "(set, ignored)".to_owned(), license.source);
    }
    let storage_mode = storage.mode.value;
    let trace = env::slab_double_free_trace(environment);
    let network = checker.network(network);
    let memory = checker.memory(memory, storage_mode, trace);
    let rdma = checker.rdma(rdma);
    let storage = checker.storage(storage);
    let limits = checker.limits(limits, memory.pool_bytes);
    let telemetry = checker.telemetry(telemetry);
    let RawLogging { level, format } = logging;
    let logging = Logging {
        level: level.value,
        format: format.value,
    };
    match storage {
        Some(storage) if checker.problems.is_empty() => Ok(Config {
            network,
            memory,
            rdma,
            storage,
            limits,
            telemetry,
            logging,
            effective: checker.effective,
            warnings: checker.warnings,
            unknown_keys: loaded.warnings.len(),
        }),
        _ => Err(Problems(checker.problems)),
    }
}

/// `OTEL_EXPORTER_OTLP_ENDPOINT` counts only where nothing of ours names a collector.
fn fall_back_to_otel(raw: &mut RawConfig, environment: &Environment) {
    const NAME: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let endpoint = &mut raw.telemetry.otlp_endpoint;
    if let (None, Some(url)) = (&endpoint.value, environment.get(NAME)) {
        let url = Some(url.to_owned());
        // Other programs' variable: a value that isn't for us is no reason to refuse.
        if rules::otlp_endpoint(&url).is_ok() {
            *endpoint = Setting {
                value: url,
                source: Source::Env(NAME),
            };
        }
    }
}

/// Whether an address is routed on the internet; an unspecified one is taken for inside.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64;
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_unspecified()
                || shared)
        }
        IpAddr::V6(ip) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local())
        }
    }
}

struct Checker<'a> {
    effective: Vec<Effective>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
    facts: &'a Facts,
}

impl Checker<'_> {
    fn refuse(&mut self, text: String) {
        self.problems.push(Problem::Refused(text));
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    /// Whether these fields could be read, so that a rule over them makes sense.
    fn sound(&self, fields: &[&str]) -> bool {
        let broken: Vec<_> = self.problems.iter().filter_map(Problem::field).collect();
        !fields.iter().any(|field| broken.contains(field))
    }

    /// Replaces what is shown of a field by what was made of it.
    fn show(&mut self, path: &str, value: String, source: Source) {
        let json = value.clone().into();
        let entry = Effective {
            path: path.to_owned(),
            value,
            json,
            source,
        };
        match self.effective.iter_mut().find(|shown| shown.path == path) {
            Some(shown) => *shown = entry,
            None => self.effective.push(entry),
        }
    }

    fn detected<T: Value>(&mut self, path: &str, value: &T, from: &str) {
        self.show(path, value.show(), Source::Detected(from.into()));
        if let Some(shown) = self.effective.iter_mut().find(|shown| shown.path == path) {
            shown.json = value.to_json();
        }
    }

    /// The power of two that slabs and extents need, so `4 MB` becomes 4 MiB; says so where that
    /// changed the value.
    fn power_of_two(&mut self, path: &str, size: &Setting<ByteSize>) -> u64 {
        let power = size.value.bytes().next_power_of_two();
        if power != size.value.bytes() {
            let note = format!("{} (rounded up from {})", ByteSize(power), size.value);
            self.show(path, note, size.source.clone());
        }
        power
    }

    fn network(&mut self, raw: RawNetwork) -> Network {
        let RawNetwork {
            address,
            tls_cert,
            tls_key,
            auth_key,
            auth_key_previous,
            payload_mac,
            admin_socket,
            admin_token,
            node_id,
            threads,
        } = raw;
        let tls = self.tls(tls_cert, tls_key);
        let address = address.value;
        self.keys(address, &auth_key.value, &auth_key_previous.value);
        if payload_mac.value == PayloadMac::Off && is_public(address.ip()) {
            self.warn(format!(
                "network.payload_mac is off, but network.address {address} is public: others on the way could alter values \
                 unnoticed by the signature; set it to required"
            ));
        }
        let threads = match threads.value {
            0 => {
                let cores = self.facts.cores.max(1);
                self.detected("network.threads", &cores, "one per core");
                cores
            }
            threads => threads,
        };
        let admin_port = if address.port() == 0 {
            0
        } else {
            address.port().saturating_add(1)
        };
        Network {
            address,
            admin_address: SocketAddr::new(address.ip(), admin_port),
            tls,
            auth_key: auth_key.value,
            auth_key_previous: auth_key_previous.value,
            payload_mac: payload_mac.value,
            admin_socket: admin_socket.value,
            admin_token: admin_token.value,
            node_id: node_id.value,
            threads,
        }
    }

    fn tls(
        &mut self,
        cert: Setting<Option<PathBuf>>,
        key: Setting<Option<PathBuf>>,
    ) -> Option<Tls> {
        if !self.sound(&["network.tls_cert", "network.tls_key"]) {
            return None;
        }
        let (set, missing, source) = match (cert.value, key.value) {
            (Some(cert), Some(key)) => return Some(Tls { cert, key }),
            (None, None) => return None,
            (Some(_), None) => ("tls_cert", "tls_key", cert.source),
            (None, Some(_)) => ("tls_key", "tls_cert", key.source),
        };
        self.refuse(format!(
            "{source}: network.{set} is set, but network.{missing} is not; set both for HTTPS on the admin endpoint, or \
             neither"
        ));
        None
    }

    fn keys<K: PartialEq>(&mut self, address: SocketAddr, key: &Option<K>, old: &Option<K>) {
        if !self.sound(&[
            "network.address",
            "network.auth_key",
            "network.auth_key_previous",
        ]) {
            return;
        }
        if key.is_none() && !dev_key::allowed_for(address.ip()) {
            self.refuse(format!(
                "network.auth_key is not set, but network.address {address} can be reached from other hosts; set it or \
                 MEMKV_AUTH_KEY to 64 hexadecimal digits (make one with: openssl rand -hex 32), or listen on 127.0.0.1"
            ));
        } else if key.is_none() {
            let from = Source::Detected(format!("$HOME/{}, loopback only", dev_key::PATH).into());
            self.show("network.auth_key", "(development key)".to_owned(), from);
        }
        match (key, old) {
            (None, Some(_)) => self.refuse(
                "network.auth_key_previous is set, but network.auth_key is not; set auth_key to the new key".to_owned(),
            ),
            (Some(key), Some(old)) if key == old => self.refuse(
                "network.auth_key_previous is the same key as network.auth_key; remove it, or set auth_key to the new key"
                    .to_owned(),
            ),
            _ => {}
        }
    }

    fn memory(&mut self, raw: RawMemory, mode: StorageMode, double_free_trace: bool) -> Memory {
        let RawMemory {
            block_size,
            max_size,
            hugepages,
        } = raw;
        let block_bytes = self.power_of_two("memory.block_size", &block_size);
        let blocks = max_size.value.bytes() / block_bytes.max(1);
        let pool_bytes = blocks.saturating_mul(block_bytes);
        let fields = [
            "memory.block_size",
            "memory.max_size",
            "memory.hugepages",
            "storage.mode",
        ];
        let mut huge_pages = false;
        if self.sound(&fields) {
            if blocks < 4 {
                self.refuse(format!(
                    "{}: memory.max_size is {}, but must be at least four blocks of {} (memory.block_size); raise it to {}",
                    max_size.source,
                    max_size.value,
                    ByteSize(block_bytes),
                    ByteSize(block_bytes.saturating_mul(4)),
                ));
            } else {
                huge_pages = self.pages(pool_bytes, mode, hugepages.value);
            }
        }
        if double_free_trace {
            let source = Source::Env("MEMKV_SLAB_DOUBLE_FREE_TRACE");
            self.show("memory.double_free_trace", "true".to_owned(), source);
        }
        Memory {
            block_bytes,
            pool_bytes,
            hugepages: hugepages.value,
            huge_pages,
            double_free_trace,
        }
    }

    fn pages(&mut self, pool_bytes: u64, mode: StorageMode, wanted: HugepageMode) -> bool {
        let request = PoolRequest {
            pool_bytes,
            mode,
            hugepages: wanted,
        };
        match judge_pool(request, self.facts) {
            Ok(verdict) => {
                self.warnings.extend(verdict.findings);
                if wanted == HugepageMode::Auto {
                    let pages = if verdict.huge_pages {
                        "auto: huge"
                    } else {
                        "auto: plain"
                    };
                    self.show(
                        "memory.hugepages",
                        pages.to_owned(),
                        Source::Detected("/proc/meminfo".into()),
                    );
                }
                verdict.huge_pages
            }
            Err(refusals) => {
                for refusal in refusals {
                    self.refuse(refusal);
                }
                false
            }
        }
    }

    fn rdma(&mut self, raw: RawRdma) -> Rdma {
        let RawRdma {
            enabled,
            device,
            port,
            gid_index,
            traffic_class,
            service_level,
            mtu,
            cq_depth,
            timeout,
            retry_count,
            num_dcis,
            dc_key,
            num_worker_threads,
            num_responder_threads,
        } = raw;
        match enabled.value {
            RdmaMode::True => self.refuse(format!(
                "{}: rdma.enabled is true, but this build has no RDMA; set it to auto to serve TCP",
                enabled.source
            )),
            RdmaMode::Auto => {
                let from = Source::Detected("this build has no RDMA".into());
                self.show("rdma.enabled", "auto: false".to_owned(), from);
                self.warn(
                    "this build has no RDMA; serving TCP (rdma.enabled: false silences this)"
                        .into(),
                );
            }
            RdmaMode::False => {}
        }
        Rdma {
            enabled: enabled.value,
            device: device.value,
            port: port.value,
            gid_index: gid_index.value,
            traffic_class: traffic_class.value,
            service_level: service_level.value,
            mtu: mtu.value,
            cq_depth: cq_depth.value,
            timeout: timeout.value,
            retry_count: retry_count.value,
            num_dcis: num_dcis.value,
            dc_key: dc_key.value,
            num_worker_threads: num_worker_threads.value,
            num_responder_threads: num_responder_threads.value,
        }
    }

    fn storage(&mut self, raw: RawStorage) -> Option<Storage> {
        let RawStorage {
            mode,
            block_size,
            flap_threshold,
            max_size,
            sync,
            eviction,
            verify,
            drives,
        } = raw;
        let extent_bytes = self.power_of_two("storage.block_size", &block_size);
        let backend = self.backend(mode.value, max_size, drives)?;
        Some(Storage {
            backend,
            extent_bytes,
            flap_threshold: flap_threshold.value,
            sync: sync.value,
            eviction: eviction.value == Switch::On,
            verify: verify.value,
        })
    }

    fn backend(
        &mut self,
        mode: StorageMode,
        max_size: Setting<Option<ByteSize>>,
        drives: Vec<RawDrive>,
    ) -> Option<Backend> {
        if !self.sound(&["storage.mode", "storage.drives"]) {
            return None;
        }
        if mode == StorageMode::Memory {
            if !drives.is_empty() {
                self.warn("storage.drives is ignored in memory mode; remove it".to_owned());
            }
            let Some(capacity) = max_size.value else {
                if self.sound(&["storage.max_size"]) {
                    self.refuse(
                        "storage.mode is memory, but storage.max_size is not set; set it to the bytes for values, \
                         such as 16 GiB"
                            .to_owned(),
                    );
                }
                return None;
            };
            return Some(Backend::Memory {
                capacity_bytes: capacity.bytes(),
            });
        }
        if max_size.value.is_some() {
            let source = &max_size.source;
            self.warn(format!(
                "{source}: storage.max_size counts in memory mode only; use storage.drives[].max_size"
            ));
        }
        if drives.is_empty() {
            let (word, what) = match mode {
                StorageMode::File => ("file", "file"),
                _ => ("direct", "block device such as /dev/nvme0n1"),
            };
            self.refuse(format!(
                "storage.mode is {word}, but storage.drives is empty; add a drive with media: and the path of a {what}, or \
                 let memkv setup write them"
            ));
            return None;
        }
        if drives.len() > DRIVES_MAX {
            self.refuse(format!(
                "storage.drives has {} entries, but must have at most {DRIVES_MAX}; run a second server for the others",
                drives.len()
            ));
            return None;
        }
        let drives = self.drives(mode, drives);
        Some(match mode {
            StorageMode::File => Backend::File(drives),
            _ => Backend::Direct(drives),
        })
    }

    fn drives(&mut self, mode: StorageMode, raw: Vec<RawDrive>) -> Vec<Drive> {
        let mut seen: HashMap<PathBuf, usize> = HashMap::new();
        let mut drives = Vec::with_capacity(raw.len());
        for (idx, RawDrive { media, max_size }) in raw.into_iter().enumerate() {
            let field = format!("storage.drives[{idx}].media");
            let Some(path) = media.value else {
                if self.sound(&[&field]) {
                    self.refuse(format!("{field} is not set; give the path of the drive"));
                }
                continue;
            };
            if let Some(first) = seen.insert(path.clone(), idx) {
                self.refuse(format!(
                    "{}: {field} is {}, the same as storage.drives[{first}]; a drive may be listed once",
                    media.source,
                    path.display()
                ));
            }
            let capacity = match (mode, max_size.value) {
                (StorageMode::File, None) => {
                    let field = format!("storage.drives[{idx}].max_size");
                    self.show(&field, FILE_CAPACITY.to_string(), Source::Default);
                    Some(FILE_CAPACITY)
                }
                (_, size) => size,
            };
            drives.push(Drive {
                media: path,
                capacity_bytes: capacity.map(ByteSize::bytes),
            });
        }
        drives
    }

    fn limits(&mut self, raw: RawLimits, pool_bytes: u64) -> Limits {
        let RawLimits {
            max_connections,
            max_in_flight,
            drain_seconds,
        } = raw;
        let max_in_flight_bytes = match max_in_flight.value.bytes() {
            0 => {
                let half = ByteSize(pool_bytes / 2);
                self.detected("limits.max_in_flight", &half, "half of memory.max_size");
                half.bytes()
            }
            bytes => bytes,
        };
        Limits {
            max_connections: max_connections.value,
            max_in_flight_bytes,
            drain: Duration::from_secs(drain_seconds.value.into()),
        }
    }

    fn telemetry(&mut self, raw: RawTelemetry) -> Telemetry {
        let RawTelemetry {
            otlp_endpoint,
            otlp_protocol,
            sample_ratio,
            spans_per_second,
            logs_otlp,
            slow,
        } = raw;
        let RawSlow {
            base_ms,
            per_mib_ms,
            times_median,
        } = slow;
        if logs_otlp.value && otlp_endpoint.value.is_none() {
            self.warn(format!(
                "{}: telemetry.logs_otlp is true, but telemetry.otlp_endpoint is not set; logs go to stderr only",
                logs_otlp.source
            ));
        }
        let protocol = match otlp_protocol.value {
            OtlpProtocolChoice::Grpc => OtlpProtocol::Grpc,
            OtlpProtocolChoice::Http => OtlpProtocol::Http,
            OtlpProtocolChoice::Auto => {
                let endpoint = otlp_endpoint.value.as_deref();
                let found = endpoint.map(|endpoint| OtlpProtocol::detect(endpoint, None));
                let word = match found {
                    Some(OtlpProtocol::Http) => "auto: http",
                    Some(OtlpProtocol::Grpc) => "auto: grpc",
                    None => "auto",
                };
                if found.is_some() {
                    let from = Source::Detected("telemetry.otlp_endpoint".into());
                    self.show("telemetry.otlp_protocol", word.to_owned(), from);
                }
                found.unwrap_or(OtlpProtocol::Grpc)
            }
        };
        let milliseconds = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
        Telemetry {
            otlp_endpoint: otlp_endpoint.value,
            otlp_protocol: protocol,
            sample_ratio: sample_ratio.value,
            spans_per_second: spans_per_second.value,
            logs_otlp: logs_otlp.value,
            slow: Slow {
                base: milliseconds(base_ms.value),
                per_mib: milliseconds(per_mib_ms.value),
                times_median: Some(times_median.value).filter(|times| *times > 0.0),
            },
        }
    }
}

/// What a pool asks of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolRequest {
    pub(super) pool_bytes: u64,
    pub(super) mode: StorageMode,
    pub(super) hugepages: HugepageMode,
}

/// What the machine can give it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PoolVerdict {
    pub(super) huge_pages: bool,
    pub(super) findings: Vec<String>,
}

/// Decides whether the pool gets huge pages and may be locked.
///
/// Direct mode refuses where either is missing, because raw NVMe without them runs at a third of
/// its speed and nobody would notice why; the other modes carry on with a finding.
pub(super) fn judge_pool(request: PoolRequest, facts: &Facts) -> Result<PoolVerdict, Vec<String>> {
    let PoolRequest {
        pool_bytes,
        mode,
        hugepages,
    } = request;
    let pool = ByteSize(pool_bytes);
    let direct = mode == StorageMode::Direct;
    let mut refusals = Vec::new();
    let mut findings = Vec::new();

    let free = facts.hugepages_free_bytes.unwrap_or(0);
    let enough = free >= pool_bytes;
    let pages = pool_bytes.div_ceil(facts.hugepage_bytes.max(1));
    let short = format!(
        "memory.max_size is {pool}, but only {} are free in huge pages; reserve them with: sysctl vm.nr_hugepages={pages}",
        ByteSize(free)
    );
    let huge_pages = match hugepages {
        HugepageMode::Off => false,
        HugepageMode::Auto | HugepageMode::Required if enough => true,
        HugepageMode::Required => {
            refusals.push(format!("{short}, or set memory.hugepages to auto"));
            false
        }
        HugepageMode::Auto if direct => {
            refusals.push(format!(
                "{short}, lower memory.max_size, or set memory.hugepages to off"
            ));
            false
        }
        HugepageMode::Auto => {
            findings.push(format!("{short}; using plain pages"));
            false
        }
    };
    if let Some(limit) = facts.memlock_bytes.filter(|limit| *limit < pool_bytes) {
        let short = format!(
            "memory.max_size is {pool}, but this process may lock only {}; raise it with LimitMEMLOCK=infinity (systemd), \
             ulimit -l unlimited, or CAP_IPC_LOCK",
            ByteSize(limit)
        );
        if direct {
            refusals.push(short);
        } else {
            findings.push(format!("{short}; using unregistered buffers"));
        }
    }
    if refusals.is_empty() {
        Ok(PoolVerdict {
            huge_pages,
            findings,
        })
    } else {
        Err(refusals)
    }
}
