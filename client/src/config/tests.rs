mod documented;

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
