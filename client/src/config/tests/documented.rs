//! Every documented key of a client, written down by hand: the tables are the documentation's, not the code's. A key that
//! the code lacks, renames or gives another default or variable fails here.

use super::*;

/// Key, default as shown, a value in YAML, how that is shown, variables, a value that they set.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static str,
);

const HIDDEN: &str = "(set, not shown)";

#[rustfmt::skip]
const KEYS: &[Row] = &[
    ("servers", "127.0.0.1:9900", "[10.0.0.1:9900]", "10.0.0.1:9900", &["MEMKV_SERVERS"], "b:2"),
    ("rdma_devices", "mlx5_0", "[mlx5_1]", "mlx5_1", &["MEMKV_RDMA_DEVICES", "MEMKV_RDMA_DEVICE"], "mlx5_2"),
    ("bind_addresses", "-", "[192.168.1.10]", "192.168.1.10", &["MEMKV_BIND_ADDRESSES"], "10.0.0.8"),
    ("cache_size_mb", "256", "512", "512", &["MEMKV_CACHE_SIZE_MB"], "13"),
    ("connect_timeout_ms", "5000", "100", "100", &["MEMKV_CONNECT_TIMEOUT_MS"], "13"),
    ("gid_index", "0", "3", "3", &[], ""),
    ("traffic_class", "0", "104", "104", &["MEMKV_RDMA_TRAFFIC_CLASS"], "96"),
    ("service_level", "0", "3", "3", &["MEMKV_RDMA_SERVICE_LEVEL"], "4"),
    ("mtu", "4096", "1024", "1024", &["MEMKV_RDMA_MTU"], "2048"),
    ("num_connections", "8", "16", "16", &["MEMKV_NUM_CONNECTIONS"], "3"),
    ("license", "-", "eyJhbGciOi", HIDDEN, &["MEMKV_LICENSE", "AISTOR_LICENSE", "MINIO_LICENSE"], "eyJ"),
    ("auth_key", "-", KEY, HIDDEN, &["MEMKV_AUTH_KEY"], KEY),
    ("transport", "auto", "tcp", "tcp", &["MEMKV_TRANSPORT"], "auto"),
    ("prometheus_bind", "-", "127.0.0.1:9464", "127.0.0.1:9464", &["MEMKV_PROMETHEUS_BIND"], "127.0.0.1:2"),
    ("otel_endpoint", "-", "http://c:4317", "http://c:4317",
        &["MEMKV_OTEL_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"], "http://b:2"),
    // Ours.
    ("node_ids", "", "[kv-1]", "kv-1", &[], ""),
    ("payload_mac", "auto", "required", "required", &[], ""),
    ("retries", "0", "2", "2", &[], ""),
    ("trace_ratio", "0.01", "0.5", "0.5", &[], ""),
];

/// Settings that have a variable and no key: field, default, variable.
#[rustfmt::skip]
const ADVANCED: &[(&str, &str, &str)] = &[
    ("rdma_timeout_secs", "30", "MEMKV_RDMA_TIMEOUT_SECS"),
    ("cq_batch_spins", "64", "MEMKV_CQ_BATCH_SPINS"),
    ("cq_poll_delay_ns", "5000", "MEMKV_CQ_POLL_DELAY_NS"),
    ("max_batch_size", "64", "MEMKV_MAX_BATCH_SIZE"),
    ("staging_size_mb", "256", "MEMKV_STAGING_SIZE_MB"),
    ("staging_slot_mb", "16", "MEMKV_STAGING_SLOT_MB"),
];

/// What `yaml` gives under `environment`, which holds a key unless the row is about that.
fn load(field: &str, yaml: &str, pairs: &[(&str, &str)]) -> ClientConfig {
    let environment = match field {
        "auth_key" => Environment::default(),
        _ => env(&[]),
    };
    let environment = pairs
        .iter()
        .fold(environment, |env, (name, value)| env.with(*name, *value));
    let document = Document::parse("client.yaml", yaml.as_bytes()).expect("the test's own YAML");
    ClientConfig::resolve(Some(&document), &environment, &LoadOptions::default())
        .unwrap_or_else(|error| panic!("{field}: {error}"))
}

fn to_camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or("").to_owned();
    words.fold(first, |camel, word| {
        camel + &word[..1].to_uppercase() + &word[1..]
    })
}

#[test]
fn every_documented_key_has_its_default() {
    let home = tempfile::tempdir().unwrap();
    let bare = Environment::default().with("HOME", home.path().to_str().unwrap());
    let config = ClientConfig::resolve(None, &bare, &LoadOptions::default()).unwrap();
    let keys = KEYS.iter().map(|(field, default, ..)| (field, default));
    for (field, default) in keys.chain(ADVANCED.iter().map(|(field, default, _)| (field, default)))
    {
        let expected = ((*default).to_owned(), "default".to_owned());
        assert_eq!(effective(&config, field), expected, "{field}");
    }
}

#[test]
fn every_documented_key_can_be_set_in_both_spellings_and_every_variable_beats_it() {
    for (field, _, yaml, shown, variables, value) in KEYS {
        for name in [(*field).to_owned(), to_camel(field)] {
            let text = format!("{name}: {yaml}\n");
            let expected = ((*shown).to_owned(), "client.yaml:1".to_owned());
            assert_eq!(effective(&load(field, &text, &[]), field), expected);
            for variable in *variables {
                let config = load(field, &text, &[(variable, value)]);
                let shown = if *shown == HIDDEN { HIDDEN } else { value };
                let expected = (shown.to_owned(), format!("env {variable}"));
                assert_eq!(effective(&config, field), expected, "{variable}");
            }
        }
    }
}

#[test]
fn every_advanced_setting_has_a_variable_and_no_key() {
    for (field, _, variable) in ADVANCED {
        let config = resolve("{}", &[(variable, "7")]).unwrap();
        let expected = ("7".to_owned(), format!("env {variable}"));
        assert_eq!(effective(&config, field), expected);
        refused(&format!("{field}: 7\n"), &[], &["unknown key", field]);
    }
}

#[test]
fn the_tables_have_every_key_and_every_variable_that_the_code_has() {
    let documented = KEYS
        .iter()
        .map(|(field, .., variables, _)| (*field, *variables));
    let advanced = ADVANCED
        .iter()
        .map(|(field, _, variable)| (*field, std::slice::from_ref(variable)));
    let mut documented: Vec<_> = documented.chain(advanced).collect();
    let declared = [
        memkv_settings::field_docs::<RawConfig>(),
        memkv_settings::field_docs::<Advanced>(),
    ]
    .concat();
    let mut declared: Vec<_> = declared
        .iter()
        .map(|doc| (doc.path.as_str(), doc.spec.env))
        .collect();
    documented.sort_unstable();
    declared.sort_unstable();
    assert_eq!(declared, documented);
}

#[test]
fn a_configuration_in_code_has_the_defaults_of_one_without_a_file() {
    let written = ClientConfig::new(["127.0.0.1:9900"], AuthKey::from_hex(KEY).unwrap());
    let expected = ClientConfig {
        transport: Transport::Tcp,
        effective: Vec::new(),
        ..resolve("{}", &[]).unwrap()
    };
    assert_eq!(format!("{written:?}"), format!("{expected:?}"));
}
