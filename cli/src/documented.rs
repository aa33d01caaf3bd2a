//! Every documented key of a server, written down by hand: default, a value that differs from it, and
//! the variable that overrides it. (A client's are in `client/src/config/tests/documented.rs`.)
//!
//! The table is the documentation's, not the code's: a key that the code lacks, renames or gives
//! another default fails here.

use std::fs;
use std::path::PathBuf;

use memkv_client::config::{Advanced, ClientConfig, RawConfig};
use memkv_server::config::{Config, Facts};
use memkv_settings::{AuthKey, Document, Effective, Environment, LoadOptions, field_docs};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// (key, default as shown, another value, how that is shown, variable)
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const HIDDEN: &str = "(set, not shown)";

#[rustfmt::skip]
const SERVER: &[Row] = &[
    ("network.address", "0.0.0.0:9900", "127.0.0.1:9950", "127.0.0.1:9950", ""),
    ("network.tls_cert", "-", "/etc/memkv/tls/fullchain.pem", "/etc/memkv/tls/fullchain.pem", ""),
    ("network.tls_key", "-", "/etc/memkv/tls/privkey.pem", "/etc/memkv/tls/privkey.pem", ""),
    ("network.auth_key", "-", KEY, HIDDEN, "MEMKV_AUTH_KEY"),
    ("memory.block_size", "2 MiB", "4MiB", "4 MiB", ""),
    ("memory.max_size", "1 GiB", "247 GiB", "247 GiB", ""),
    ("rdma.device", "mlx5_0", "mlx5_1", "mlx5_1", ""),
    ("rdma.port", "1", "2", "2", ""),
    ("rdma.gid_index", "0", "3", "3", ""),
    ("rdma.traffic_class", "0", "104", "104", "MEMKV_RDMA_TRAFFIC_CLASS"),
    ("rdma.service_level", "0", "3", "3", "MEMKV_RDMA_SERVICE_LEVEL"),
    ("rdma.mtu", "4096", "1024", "1024", ""),
    ("rdma.cq_depth", "4096", "8192", "8192", ""),
    ("rdma.timeout", "14", "12", "12", ""),
    ("rdma.retry_count", "7", "3", "3", ""),
    ("rdma.num_dcis", "256", "512", "512", ""),
    ("rdma.dc_key", "0", "0xABCDEF", "11259375", ""),
    ("rdma.num_worker_threads", "64", "32", "32", ""),
    ("rdma.num_responder_threads", "16", "8", "8", ""),
    ("storage.mode", "direct", "file", "file", ""),
    ("storage.block_size", "4 MiB", "16 MiB", "16 MiB", ""),
    ("storage.flap_threshold", "5", "2", "2", ""),
    ("storage.max_size", "-", "16 GiB", "16 GiB", ""),
    ("storage.eviction", "on", "off", "off", ""),
    ("storage.drives[0].media", "", "/dev/nvme9n1", "/dev/nvme9n1", ""),
    ("storage.drives[0].max_size", "-", "2 TiB", "2 TiB", ""),
    ("logging.level", "info", "trace", "trace", ""),
    ("logging.format", "json", "text", "text", ""),
    ("license", "-", "eyJhbGciOi", "(set, ignored)", "MEMKV_LICENSE"),
    ("license", "-", "/etc/memkv/minio.license", "(set, ignored)", "AISTOR_LICENSE"),
    ("license", "-", "/etc/memkv/minio.license", "(set, ignored)", "MINIO_LICENSE"),
    // Ours.
    ("network.auth_key_previous", "-", KEY, HIDDEN, "MEMKV_AUTH_KEY_PREVIOUS"),
    ("network.payload_mac", "off", "required", "required", ""),
    ("network.admin_socket", "-", "/run/memkv/admin.sock", "/run/memkv/admin.sock", ""),
    ("network.admin_token", "-", "0123456789abcdef", HIDDEN, "MEMKV_ADMIN_TOKEN"),
    ("network.node_id", "-", "kv-1", "kv-1", ""),
    ("network.threads", "8", "3", "3", ""),
    ("memory.hugepages", "auto: huge", "required", "required", ""),
    ("rdma.enabled", "auto: false", "false", "false", ""),
    ("storage.sync", "everysec", "always", "always", ""),
    ("storage.verify", "always", "unclean", "unclean", ""),
    ("limits.max_connections", "65536", "100", "100", ""),
    ("limits.max_in_flight", "512 MiB", "1 GiB", "1 GiB", ""),
    ("limits.drain_seconds", "10", "3", "3", ""),
    ("telemetry.otlp_endpoint", "-", "http://c:4317", "http://c:4317", "MEMKV_OTEL_ENDPOINT"),
    ("telemetry.otlp_endpoint", "-", "http://c:4317", "http://c:4317", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("telemetry.otlp_protocol", "auto", "http", "http", ""),
    ("telemetry.sample_ratio", "0.01", "0.5", "0.5", ""),
    ("telemetry.spans_per_second", "1000", "10", "10", ""),
    ("telemetry.logs_otlp", "false", "true", "true", ""),
    ("telemetry.slow.base_ms", "10", "2.5", "2.5", ""),
    ("telemetry.slow.per_mib_ms", "1", "4", "4", ""),
    ("telemetry.slow.times_median", "8", "20", "20", ""),
];

/// Documented variables that are no setting of a server or client object.
const ELSEWHERE: &[&str] = &[
    "MEMKV_CONFIG",
    "MEMKV_CACHE_DIR_PREFIX",
    "MEMKV_SLAB_DOUBLE_FREE_TRACE",
];

fn facts() -> Facts {
    Facts {
        cores: 8,
        hugepages_free_bytes: Some(1 << 40),
        hugepage_bytes: 2 << 20,
        memlock_bytes: None,
        ram_available_bytes: None,
    }
}

/// YAML that sets one dotted key on a line of its own, beside what every server needs.
fn server_yaml(key: &str, value: &str, camel: bool) -> String {
    let media = if key.ends_with(".media") {
        ""
    } else {
        "      media: /dev/nvme0n1\n"
    };
    let leaf = |name: &str| {
        if camel {
            to_camel(name)
        } else {
            name.to_owned()
        }
    };
    match key.split('.').collect::<Vec<_>>()[..] {
        ["storage", "drives[0]", name] => {
            format!(
                "storage:\n  drives:\n    - \n{media}      {}: {value}\n",
                leaf(name)
            )
        }
        [section, name] => {
            let drives = "storage:\n  drives:\n    - media: /dev/nvme0n1\n";
            // The other half of what only goes together.
            let pair = match name {
                "tls_cert" => "  tls_key: /other\n",
                "tls_key" => "  tls_cert: /other\n",
                _ => "",
            };
            if section == "storage" {
                format!("{drives}  {}: {value}\n", leaf(name))
            } else {
                format!("{drives}{section}:\n{pair}  {}: {value}\n", leaf(name))
            }
        }
        [top, section, name] => {
            let drives = "storage:\n  drives:\n    - media: /dev/nvme0n1\n";
            format!(
                "{drives}{top}:\n  {section}:\n    {}: {value}\n",
                leaf(name)
            )
        }
        _ => format!(
            "storage:\n  drives:\n    - media: /dev/nvme0n1\n{}: {value}\n",
            leaf(key)
        ),
    }
}

fn to_camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or("").to_owned();
    words.fold(first, |camel, word| {
        camel + &word[..1].to_uppercase() + &word[1..]
    })
}

fn server(yaml: &str, environment: &Environment) -> Vec<Effective> {
    let options = LoadOptions::default();
    match Config::from_yaml("s.yaml", yaml.as_bytes(), environment, &facts(), &options) {
        Ok(config) => config.effective().to_vec(),
        Err(problems) => panic!("{yaml}\n{problems}"),
    }
}

fn client(yaml: &str, environment: &Environment) -> Vec<Effective> {
    let document = Document::parse("c.yaml", yaml.as_bytes()).unwrap();
    match ClientConfig::resolve(Some(&document), environment, &LoadOptions::default()) {
        Ok(config) => config.effective,
        Err(error) => panic!("{yaml}\n{error}"),
    }
}

#[track_caller]
fn shown<'a>(values: &'a [Effective], key: &str) -> &'a Effective {
    values
        .iter()
        .find(|value| value.path == key)
        .unwrap_or_else(|| panic!("{key} isn't a setting"))
}

/// The key that lets a server listen anywhere, from another variable's row's point of view.
fn keyed(key: &str) -> Environment {
    match key {
        "network.auth_key" => Environment::default(),
        "network.auth_key_previous" => {
            Environment::default().with("MEMKV_AUTH_KEY", KEY.replace("00", "ff"))
        }
        _ => Environment::default().with("MEMKV_AUTH_KEY", KEY),
    }
}

#[test]
fn every_documented_server_key_has_its_default() {
    let yaml = "storage: { drives: [{ media: /dev/nvme0n1 }] }";
    let values = server(yaml, &Environment::default().with("MEMKV_AUTH_KEY", KEY));
    for (key, default, ..) in SERVER {
        if !matches!(*key, "network.auth_key" | "storage.drives[0].media") {
            let value = shown(&values, key);
            assert_eq!(value.value, *default, "{key}");
            assert!(
                ["default", "detected"].contains(&value.source.kind()),
                "{key}"
            );
        }
    }
    for value in &values {
        let known = SERVER.iter().any(|(key, ..)| *key == value.path);
        assert!(known, "{} isn't in the table: document it", value.path);
    }
}

#[test]
fn every_documented_server_key_can_be_set_in_both_spellings() {
    for (key, _, value, expected, _) in SERVER {
        for camel in [false, true] {
            let yaml = server_yaml(key, value, camel);
            let values = server(&yaml, &keyed(key));
            let found = shown(&values, key);
            assert_eq!(found.value, *expected, "{key}");
            let line = 1 + yaml.lines().position(|line| line.ends_with(value)).unwrap();
            assert_eq!(
                found.source.to_string(),
                format!("s.yaml:{line}"),
                "{key}\n{yaml}"
            );
        }
    }
}

#[test]
fn every_documented_server_variable_beats_the_file() {
    for (key, default, value, expected, variable) in SERVER {
        // The endpoint of every program counts only where nothing of ours names one.
        if variable.is_empty() || *variable == "OTEL_EXPORTER_OTLP_ENDPOINT" {
            continue;
        }
        let in_file = if *default == "-" { value } else { default };
        let yaml = server_yaml(key, in_file, false);
        let from_file = server(&yaml, &keyed(key));
        assert_eq!(shown(&from_file, key).source.kind(), "file", "{yaml}");
        let values = server(&yaml, &keyed(key).with(*variable, *value));
        let found = shown(&values, key);
        assert_eq!(found.value, *expected, "{variable}");
        assert_eq!(found.source.to_string(), format!("env {variable}"));
    }
}

/// A server's numbers and words that the documentation bounds: the outermost ones that are taken, and the next ones that aren't.
#[rustfmt::skip]
const BOUNDS: &[(&str, &[&str], &[&str])] = &[
    ("network.address", &["127.0.0.1:0", "\"[::1]:65534\""], &["127.0.0.1:65535", "localhost:9900", "9900"]),
    ("network.threads", &["0", "1024"], &["1025", "-1"]),
    ("memory.block_size", &["64 KiB", "64 MiB"], &["65535", "67108865"]),
    ("memory.max_size", &["8 MiB", "1 TiB"], &["8388607", "70368744177665"]),
    ("rdma.port", &["1", "255"], &["0", "256"]),
    ("rdma.gid_index", &["0", "255"], &["-1", "256"]),
    ("rdma.traffic_class", &["0", "255"], &["-1", "256"]),
    ("rdma.service_level", &["0", "7"], &["-1", "8"]),
    ("rdma.mtu", &["256", "512", "1024", "2048", "4096"], &["0", "1500", "8192"]),
    ("rdma.cq_depth", &["16", "4194304"], &["15", "4194305"]),
    ("rdma.timeout", &["0", "31"], &["-1", "32"]),
    ("rdma.retry_count", &["0", "7"], &["-1", "8"]),
    ("rdma.num_dcis", &["1", "65536"], &["0", "65537"]),
    ("rdma.dc_key", &["0", "16777215", "0xffffff"], &["-1", "16777216"]),
    ("rdma.num_worker_threads", &["1", "4096"], &["0", "4097"]),
    ("rdma.num_responder_threads", &["1", "4096"], &["0", "4097"]),
    ("storage.mode", &["direct", "file"], &["raid", "Direct"]),
    ("storage.block_size", &["64 KiB", "16 MiB"], &["65535", "16777217"]),
    ("storage.flap_threshold", &["1", "1000000"], &["0", "1000001"]),
    ("storage.drives[0].max_size", &["16 MiB", "64 TiB"], &["16777215", "65 TiB"]),
    ("storage.eviction", &["on", "off", "true", "false"], &["1", "lru"]),
    ("limits.max_connections", &["1", "4194304"], &["0", "4194305"]),
    ("limits.drain_seconds", &["0", "3600"], &["-1", "3601"]),
    ("telemetry.sample_ratio", &["0", "1"], &["-0.01", "1.01"]),
    ("logging.level", &["trace", "debug", "info", "warn", "error"], &["fatal", "0"]),
    ("logging.format", &["json", "text"], &["logfmt"]),
];

#[test]
fn each_of_these_bounds_is_taken_and_what_is_beyond_is_refused_by_name() {
    let options = LoadOptions::default();
    for (key, taken, refused) in BOUNDS {
        for value in *taken {
            server(&server_yaml(key, value, false), &keyed(key));
        }
        for value in *refused {
            let yaml = server_yaml(key, value, false);
            let read = Config::from_yaml("s", yaml.as_bytes(), &keyed(key), &facts(), &options);
            let message = read.err().map(|problems| problems.to_string());
            let message = message.unwrap_or_else(|| panic!("{key} may not be {value}"));
            assert!(message.contains(key), "{key}: {value}: {message}");
        }
    }
}

/// A key with its second letter gone, as a typing error leaves it.
fn misspelt(name: &str) -> String {
    name.char_indices()
        .filter(|(idx, _)| *idx != 1)
        .map(|(_, c)| c)
        .collect()
}

#[test]
fn every_misspelt_key_is_refused_with_the_one_that_was_meant() {
    let options = LoadOptions::default();
    let meant = |leaf: &str| format!("unknown key {}", misspelt(leaf));
    for (key, _, value, ..) in SERVER {
        let leaf = key.rsplit('.').next().unwrap();
        // Where it stands, only the last part is misspelt; the others have rows of their own.
        let yaml = server_yaml(key, value, false);
        let (before, after) = yaml.rsplit_once(&format!("{leaf}: {value}")).unwrap();
        let yaml = format!("{before}{}: {value}{after}", misspelt(leaf));
        let read = Config::from_yaml("s", yaml.as_bytes(), &keyed(""), &facts(), &options);
        let message = read.expect_err(&yaml).to_string();
        let named = format!("did you mean {leaf}?");
        assert!(
            message.contains(&meant(leaf)) && message.contains(&named),
            "{key}: {message}"
        );
    }
    for field in field_docs::<RawConfig>() {
        let yaml = format!("{}: 1\n", misspelt(&field.path));
        let document = Document::parse("c.yaml", yaml.as_bytes()).unwrap();
        let read = ClientConfig::resolve(Some(&document), &keyed(""), &options);
        let message = read.expect_err(&yaml).to_string();
        let named = format!("did you mean {}?", field.path);
        assert!(
            message.contains(&meant(&field.path)) && message.contains(&named),
            "{}: {message}",
            field.path
        );
    }
}

#[test]
fn every_documented_variable_is_known_to_the_spelling_check() {
    let server = SERVER.iter().map(|(.., variable)| *variable);
    let client = [field_docs::<RawConfig>(), field_docs::<Advanced>()].concat();
    let client = client
        .iter()
        .flat_map(|field| field.spec.env.iter().copied());
    for variable in server.chain(client).chain(ELSEWHERE.iter().copied()) {
        if variable.starts_with("MEMKV_") {
            let known = memkv_server::env::VARIABLES.contains(&variable);
            assert!(known, "{variable} would be taken for a misspelt one");
        }
    }
}

#[test]
fn every_shipped_file_is_accepted() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config");
    let environment = Environment::default()
        .with("MEMKV_AUTH_KEY", KEY)
        .with("MEMKV_ADMIN_TOKEN", "0123456789abcdef");
    let mut count = 0;
    for folder in [root.clone(), root.join("examples")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            count += 1;
            let yaml = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("client") {
                client(&yaml, &environment);
            } else {
                server(&yaml, &environment);
            }
        }
    }
    assert!(count >= 7, "{count} files");
}

#[test]
fn the_full_client_file_of_the_reference_is_accepted() {
    let yaml = format!(
        "servers:\n  - 10.0.0.1:9900\n  - 10.0.0.2:9900\nrdma_devices:\n  - mlx5_0\n  - mlx5_1\nbind_addresses:\n  \
         - 192.168.1.10\n  - 192.168.1.11\ncache_size_mb: 256\nconnect_timeout_ms: 5000\ngid_index: 0\n\
         num_connections: 8\nlicense: /etc/memkv/minio.license\nauth_key: {KEY}\n# transport: auto\n"
    );
    let document = Document::parse("client.yaml", yaml.as_bytes()).unwrap();
    let config = ClientConfig::resolve(
        Some(&document),
        &Environment::default(),
        &LoadOptions::default(),
    )
    .unwrap();
    assert_eq!(config.servers.len(), 2);
    assert_eq!(config.auth_key, AuthKey::from_hex(KEY).unwrap());
}
