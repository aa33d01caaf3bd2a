//! Whole configurations; rules by subject in the modules below.

mod pool;
mod refusals;
mod sources;

use std::time::Duration;

use expect_test::{Expect, expect};
use memkv_settings::ByteSize;

use super::*;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_KEY: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn plenty() -> Facts {
    Facts {
        cores: 8,
        hugepages_free_bytes: Some(1 << 40),
        hugepage_bytes: 2 << 20,
        memlock_bytes: None,
        ram_available_bytes: Some(1 << 40),
    }
}

fn load(yaml: &str, environment: &Environment) -> Result<Config, Problems> {
    Config::from_yaml(
        "c.yaml",
        yaml.as_bytes(),
        environment,
        &plenty(),
        &LoadOptions::default(),
    )
}

/// The problems of a configuration, one per line.
fn check(yaml: &str, expected: Expect) {
    check_env(yaml, &Environment::default(), expected);
}

fn check_env(yaml: &str, environment: &Environment, expected: Expect) {
    let shown = match load(yaml, environment) {
        Ok(config) => format!("accepted\n{}", config.warnings().join("\n")),
        Err(problems) => problems.to_string(),
    };
    assert!(
        !shown.contains(KEY) && !shown.contains(&KEY[..16]),
        "a key leaked: {shown}"
    );
    expected.assert_eq(&shown);
}

/// A file server on loopback, which needs nothing else, plus `more`.
fn small(more: &str) -> String {
    format!(
        "network: {{ address: 127.0.0.1:9900 }}\nrdma: {{ enabled: false }}\nstorage:\n  mode: file\n  drives:\n    \
         - media: /tmp/d0\n{more}"
    )
}

#[test]
fn the_reference_minimal_config_starts_unchanged() {
    let yaml = "network:\n  address: 0.0.0.0:9900 # data plane\n\nmemory:\n  block_size: 2 MiB\n  max_size: 247 GiB\n\n\
        rdma:\n  device: mlx5_0\n\nstorage:\n  mode: direct\n  block_size: 4 MiB\n  drives:\n    \
        - { media: /dev/nvme0n1 }\n    - { media: /dev/nvme1n1 }\n    - { media: /dev/nvme2n1 }\n";
    let environment = Environment::default().with("MEMKV_AUTH_KEY", KEY);
    let config = load(yaml, &environment).unwrap();
    assert_eq!(config.network.address.to_string(), "0.0.0.0:9900");
    assert_eq!(config.network.admin_address.to_string(), "0.0.0.0:9901");
    assert_eq!(config.memory.pool_bytes, 247 << 30);
    assert_eq!(config.memory.block_bytes, 2 << 20);
    assert!(config.memory.huge_pages);
    assert_eq!(config.storage.extent_bytes, 4 << 20);
    let drive = |n| Drive {
        media: format!("/dev/nvme{n}n1").into(),
        capacity_bytes: None,
    };
    assert_eq!(
        config.storage.backend,
        Backend::Direct(vec![drive(0), drive(1), drive(2)])
    );
    assert_eq!(
        config.auth_keys(None).unwrap().current,
        AuthKey::from_hex(KEY).unwrap()
    );
}

#[test]
fn the_development_config_needs_nothing() {
    let facts = Facts {
        cores: 2,
        hugepages_free_bytes: Some(0),
        hugepage_bytes: 2 << 20,
        memlock_bytes: Some(8 << 20),
        ram_available_bytes: Some(1 << 30),
    };
    let dev = |port| {
        Config::dev(
            port,
            &Environment::default(),
            &facts,
            &LoadOptions::default(),
        )
    };
    let other = dev(9910).unwrap().network.address;
    assert_eq!(other.to_string(), "127.0.0.1:9910");
    let config = dev(DEV_PORT).unwrap();
    assert_eq!(config.network.address.to_string(), "127.0.0.1:9900");
    assert_eq!(config.memory.pool_bytes, 256 << 20);
    assert!(config.network.auth_key.is_none() && !config.memory.huge_pages);
    let Backend::File(drives) = &config.storage.backend else {
        panic!("dev uses files")
    };
    assert!(drives.iter().all(|drive| drive.media.starts_with("data")));
    expect![[r#"
        memory.max_size is 256 MiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=128; using plain pages
        memory.max_size is 256 MiB, which each drive locks with its own buffers (268 MiB for 1), but this process may lock only 8 MiB; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK; using unregistered buffers"#]].assert_eq(&config.warnings().join("\n"));
}

#[test]
fn what_is_odd_without_being_wrong_warns() {
    let environment = Environment::default().with("MEMKV_AUTHKEY", KEY);
    let yaml = small("telemetry: { logs_otlp: true }\n")
        .replace("mode: file", "mode: file\n  max_size: 1 GiB")
        .replace("enabled: false", "enabled: auto");
    check_env(
        &yaml,
        &environment,
        expect![[r#"
        accepted
        env MEMKV_AUTHKEY means nothing to memkv; did you mean MEMKV_AUTH_KEY?
        this build has no RDMA; serving TCP (rdma.enabled: false silences this)
        c.yaml:5: storage.max_size counts in memory mode only; use storage.drives[].max_size
        c.yaml:8: telemetry.logs_otlp is true, but telemetry.otlp_endpoint is not set; logs go to stderr only"#]],
    );
    check(
        "network: { address: 127.0.0.1:9900 }\nrdma: { enabled: false }\nstorage: { mode: memory, max_size: 1 GiB, \
         drives: [{ media: /dev/x }] }\n",
        expect![[r#"
            accepted
            storage.drives is ignored in memory mode; remove it"#]],
    );
}

#[test]
fn values_without_a_mac_on_a_public_address_are_a_finding() {
    let warns = |address: &str, mac: &str| {
        let yaml = small("").replace("127.0.0.1:9900", &format!("{address}, payload_mac: {mac}"));
        let environment = Environment::default().with("MEMKV_AUTH_KEY", KEY);
        load(&yaml, &environment)
            .unwrap()
            .warnings()
            .iter()
            .any(|w| w.contains("payload_mac"))
    };
    assert!(warns("8.8.8.8:9900", "off"));
    assert!(warns("\"[2600::1]:9900\"", "off"));
    assert!(!warns("8.8.8.8:9900", "required"));
    for address in [
        "127.0.0.1:1",
        "10.1.2.3:1",
        "0.0.0.0:1",
        "\"[fd00::1]:1\"",
        "\"[::]:1\"",
    ] {
        assert!(!warns(address, "off"), "{address}");
    }
}
