use super::*;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn env(pairs: &[(&str, &str)]) -> Environment {
    let with_key = Environment::default().with("MEMKV_AUTH_KEY", KEY);
    pairs
        .iter()
        .fold(with_key, |env, (name, value)| env.with(*name, *value))
}

fn resolve(yaml: &str, pairs: &[(&str, &str)]) -> Result<ClientConfig, ConfigError> {
    let document = Document::parse("client.yaml", yaml.as_bytes()).expect("the test's own YAML");
    ClientConfig::resolve(Some(&document), &env(pairs), &LoadOptions::default())
}

fn refused(yaml: &str, pairs: &[(&str, &str)], wants: &[&str]) {
    let message = resolve(yaml, pairs)
        .expect_err("must be refused")
        .to_string();
    for want in wants {
        assert!(message.contains(want), "{want:?} is missing in: {message}");
    }
    assert!(
        !message.contains("00112233"),
        "a key must not be shown: {message}"
    );
}

fn effective(config: &ClientConfig, path: &str) -> (String, String) {
    let found = config.effective.iter().find(|value| value.path == path);
    let found = found.unwrap_or_else(|| panic!("no effective value {path}"));
    (found.value.clone(), found.source.to_string())
}

/// Every documented key: default, a YAML value, and (where there is one) each variable with a value that wins over YAML.
#[test]
fn every_documented_key_has_its_default_its_yaml_and_its_variables() {
    /// Key, default, a value in YAML, how it is shown, variables, a value for them.
    type Row = (
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static [&'static str],
        &'static str,
    );
    let table: &[Row] = &[
        (
            "servers",
            "127.0.0.1:9900",
            "[a:1]",
            "a:1",
            &["MEMKV_SERVERS"],
            "b:2",
        ),
        (
            "rdma_devices",
            "mlx5_0",
            "[m1]",
            "m1",
            &["MEMKV_RDMA_DEVICES", "MEMKV_RDMA_DEVICE"],
            "m2",
        ),
        (
            "bind_addresses",
            "-",
            "[10.0.0.9]",
            "10.0.0.9",
            &["MEMKV_BIND_ADDRESSES"],
            "10.0.0.8",
        ),
        (
            "cache_size_mb",
            "256",
            "12",
            "12",
            &["MEMKV_CACHE_SIZE_MB"],
            "13",
        ),
        (
            "connect_timeout_ms",
            "5000",
            "12",
            "12",
            &["MEMKV_CONNECT_TIMEOUT_MS"],
            "13",
        ),
        ("gid_index", "0", "3", "3", &[], ""),
        (
            "traffic_class",
            "0",
            "104",
            "104",
            &["MEMKV_RDMA_TRAFFIC_CLASS"],
            "96",
        ),
        (
            "service_level",
            "0",
            "3",
            "3",
            &["MEMKV_RDMA_SERVICE_LEVEL"],
            "4",
        ),
        ("mtu", "4096", "1024", "1024", &["MEMKV_RDMA_MTU"], "2048"),
        (
            "num_connections",
            "8",
            "2",
            "2",
            &["MEMKV_NUM_CONNECTIONS"],
            "3",
        ),
        (
            "transport",
            "auto",
            "tcp",
            "tcp",
            &["MEMKV_TRANSPORT"],
            "auto",
        ),
        ("node_ids", "", "[n1]", "n1", &[], ""),
        ("payload_mac", "auto", "required", "required", &[], ""),
        ("retries", "0", "2", "2", &[], ""),
        ("trace_ratio", "0.01", "0.5", "0.5", &[], ""),
        (
            "prometheus_bind",
            "-",
            "127.0.0.1:1",
            "127.0.0.1:1",
            &["MEMKV_PROMETHEUS_BIND"],
            "127.0.0.1:2",
        ),
        (
            "otel_endpoint",
            "-",
            "http://a:1",
            "http://a:1",
            &["MEMKV_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
            "http://b:2",
        ),
    ];
    for (field, default, yaml, shown, variables, value) in table {
        let config = resolve("{}", &[]).unwrap();
        assert_eq!(
            effective(&config, field),
            ((*default).into(), "default".into()),
            "{field}"
        );
        let text = format!("{field}: {yaml}\n");
        let config = resolve(&text, &[]).unwrap_or_else(|error| panic!("{field}: {error}"));
        assert_eq!(
            effective(&config, field),
            ((*shown).into(), "client.yaml:1".into()),
            "{field}"
        );
        for variable in *variables {
            let config = resolve(&text, &[(variable, value)]).unwrap();
            assert_eq!(
                effective(&config, field),
                ((*value).into(), format!("env {variable}")),
                "{field}"
            );
        }
    }
    let documented = memkv_settings::field_docs::<RawConfig>();
    for doc in documented
        .iter()
        .filter(|doc| !["auth_key", "license"].contains(&doc.path.as_str()))
    {
        assert!(
            table.iter().any(|row| row.0 == doc.path),
            "{} has no row here",
            doc.path
        );
    }
}

#[test]
fn every_advanced_variable_has_its_default_and_is_no_yaml_key() {
    let table = [
        ("rdma_timeout_secs", "30", "MEMKV_RDMA_TIMEOUT_SECS"),
        ("cq_batch_spins", "64", "MEMKV_CQ_BATCH_SPINS"),
        ("cq_poll_delay_ns", "5000", "MEMKV_CQ_POLL_DELAY_NS"),
        ("max_batch_size", "64", "MEMKV_MAX_BATCH_SIZE"),
        ("staging_size_mb", "256", "MEMKV_STAGING_SIZE_MB"),
        ("staging_slot_mb", "16", "MEMKV_STAGING_SLOT_MB"),
    ];
    for (field, default, variable) in table {
        assert_eq!(effective(&resolve("{}", &[]).unwrap(), field).0, default);
        let config = resolve("{}", &[(variable, "7")]).unwrap();
        assert_eq!(
            effective(&config, field),
            ("7".into(), format!("env {variable}"))
        );
        refused(&format!("{field}: 7\n"), &[], &["unknown key", field]);
    }
}

#[test]
fn counts_below_one_are_clamped() {
    let config = resolve("num_connections: 0", &[("MEMKV_MAX_BATCH_SIZE", "0")]).unwrap();
    assert_eq!((config.num_connections, config.max_batch_size), (1, 1));
}

#[test]
fn servers_variable_resets_bind_addresses_of_the_file() {
    let yaml = "servers: [a:1]\nbind_addresses: [10.0.0.1]\n";
    assert_eq!(
        resolve(yaml, &[]).unwrap().servers[0].bind,
        Some("10.0.0.1".parse().unwrap())
    );
    let config = resolve(yaml, &[("MEMKV_SERVERS", "b:2,c:3")]).unwrap();
    assert!(config.servers.iter().all(|server| server.bind.is_none()));
    assert_eq!(effective(&config, "bind_addresses").1, "env MEMKV_SERVERS");
    let both = [
        ("MEMKV_SERVERS", "b:2,c:3"),
        ("MEMKV_BIND_ADDRESSES", ",10.0.0.7"),
    ];
    let binds: Vec<_> = resolve(yaml, &both)
        .unwrap()
        .servers
        .iter()
        .map(|server| server.bind)
        .collect();
    assert_eq!(binds, [None, Some("10.0.0.7".parse().unwrap())]);
}

#[test]
fn an_admin_endpoint_in_servers_is_explained() {
    refused(
        "{}",
        &[("MEMKV_SERVERS", "http://10.0.0.1:9901")],
        &["MEMKV_SERVERS", "admin endpoint", "10.0.0.1:9900"],
    );
}

#[test]
fn wrong_values_name_field_value_bound_and_remedy() {
    refused(
        "mtu: 1500",
        &[],
        &["client.yaml:1", "mtu", "1500", "4096", "rdma.mtu"],
    );
    refused("service_level: 8", &[], &["service_level", "8", "0 to 7"]);
    refused(
        "connect_timeout_ms: 0",
        &[],
        &["connect_timeout_ms", "1 to 3600000"],
    );
    refused("servers: []", &[], &["servers", "at least one"]);
    refused("servers: [here]", &[], &["servers[0]", "here", "host:port"]);
    refused(
        "servers: ['a:1', 'a:1']",
        &[],
        &["servers[1]", "a:1", "num_connections"],
    );
    refused(
        "servers: ['::1:9900']",
        &[],
        &["servers[0]", "[address]:port"],
    );
    refused(
        "bind_addresses: [~, ~]",
        &[],
        &["bind_addresses has 2 items", "must have 1"],
    );
    refused(
        "servers: ['a:1', 'b:1']\nnode_ids: [x, x]",
        &[],
        &["node_ids[1]", "x"],
    );
    refused(
        "conect_timeout_ms: 1",
        &[],
        &["conect_timeout_ms", "did you mean connect_timeout_ms?"],
    );
    refused(
        "transport: udp",
        &[],
        &["transport", "udp", "auto | rdma | tcp"],
    );
    refused(
        "{}",
        &[("MEMKV_AUTH_KEY", "0011223344556677")],
        &["auth_key", "64"],
    );
}

#[test]
fn telemetry_that_could_go_nowhere_is_refused() {
    for wrong in [
        "garbage",
        "ftp://x",
        "http://",
        "http://x:99999",
        "localhost:4317",
    ] {
        let wants = [
            "MEMKV_OTEL_ENDPOINT",
            "otel_endpoint",
            wrong,
            "http://127.0.0.1:4317",
        ];
        refused("{}", &[("MEMKV_OTEL_ENDPOINT", wrong)], &wants);
    }
    for wrong in ["garbage", "x:99999", "http://x:1"] {
        let wants = [
            "MEMKV_PROMETHEUS_BIND",
            "prometheus_bind",
            wrong,
            "127.0.0.1:9464",
        ];
        refused("{}", &[("MEMKV_PROMETHEUS_BIND", wrong)], &wants);
    }
    // Other programs' variable is ignored where it isn't for us.
    let config = resolve("{}", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "garbage")]).unwrap();
    assert_eq!(config.otel_endpoint, None);
}

#[test]
fn a_misspelt_variable_is_warned_about_with_the_nearest_known() {
    let config = resolve("{}", &[("MEMKV_SERVRES", "a:1")]).unwrap();
    let wants = ["MEMKV_SERVRES", "did you mean MEMKV_SERVERS?"];
    let told = |warning: &String| wants.iter().all(|want| warning.contains(want));
    assert!(config.warnings.iter().any(told), "{:?}", config.warnings);
}

#[test]
fn rdma_transport_is_refused_by_name() {
    refused(
        "transport: rdma",
        &[],
        &[
            "transport is rdma",
            "client.yaml:1",
            "no RDMA transport",
            "tcp",
        ],
    );
}

#[test]
fn licence_is_read_and_ignored() {
    for variable in ["MEMKV_LICENSE", "AISTOR_LICENSE", "MINIO_LICENSE"] {
        resolve("license: /etc/memkv/minio.license", &[(variable, "eyJ")])
            .expect("no licence gate");
    }
}

#[test]
fn without_a_key_loopback_gets_the_development_key_and_nothing_else_does() {
    let home = tempfile::tempdir().unwrap();
    let bare = Environment::default().with("HOME", home.path().to_str().unwrap());
    let options = LoadOptions::default();
    let config = ClientConfig::resolve(None, &bare, &options).unwrap();
    assert!(
        config.dev_key
            && config
                .warnings
                .iter()
                .any(|warning| warning.contains("development key"))
    );
    let again = ClientConfig::resolve(None, &bare, &options).unwrap();
    assert_eq!(again.auth_key, config.auth_key);
    for local in ["localhost:9900", "[::1]:9900", "127.8.8.8:9900"] {
        let env = bare.clone().with("MEMKV_SERVERS", local);
        assert!(ClientConfig::resolve(None, &env, &options).unwrap().dev_key);
    }
    let remote = bare.with("MEMKV_SERVERS", "127.0.0.1:9900,10.0.0.1:9900");
    let message = ClientConfig::resolve(None, &remote, &options)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("10.0.0.1:9900") && message.contains("MEMKV_AUTH_KEY"),
        "{message}"
    );
}
