use std::time::Duration;

use expect_test::{Expect, expect};
use memkv_settings::{ByteSize, Source, effective_table};

use super::check::{PoolRequest, judge_pool};
use super::raw::{HugepageMode, StorageMode};
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
fn the_effective_table_names_every_source() {
    let yaml = small("    - media: /tmp/d1\n      maxSize: 1 GiB\nlogging:\n  level: warn\n");
    let environment = Environment::default()
        .with("MEMKV_AUTH_KEY", KEY)
        .with("MEMKV_RDMA_TRAFFIC_CLASS", "104")
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
        .with("MINIO_LICENSE", "eyJ.secret");
    let config = load(&yaml, &environment).unwrap();
    expect![[r#"
        KEY                          VALUE                  FROM
        network.address              127.0.0.1:9900         c.yaml:1
        network.tls_cert             -                      default
        network.tls_key              -                      default
        network.auth_key             (set, not shown)       env MEMKV_AUTH_KEY
        network.auth_key_previous    -                      default
        network.payload_mac          off                    default
        network.admin_socket         -                      default
        network.admin_token          -                      default
        network.node_id              -                      default
        network.threads              8                      detected (one per core)
        memory.block_size            2 MiB                  default
        memory.max_size              1 GiB                  default
        memory.hugepages             auto: huge             detected (/proc/meminfo)
        rdma.enabled                 false                  c.yaml:2
        rdma.device                  mlx5_0                 default
        rdma.port                    1                      default
        rdma.gid_index               0                      default
        rdma.traffic_class           104                    env MEMKV_RDMA_TRAFFIC_CLASS
        rdma.service_level           0                      default
        rdma.mtu                     4096                   default
        rdma.cq_depth                4096                   default
        rdma.timeout                 14                     default
        rdma.retry_count             7                      default
        rdma.num_dcis                256                    default
        rdma.dc_key                  0                      default
        rdma.num_worker_threads      64                     default
        rdma.num_responder_threads   16                     default
        storage.mode                 file                   c.yaml:4
        storage.block_size           4 MiB                  default
        storage.flap_threshold       5                      default
        storage.max_size             -                      default
        storage.sync                 everysec               default
        storage.eviction             on                     default
        storage.verify               always                 default
        storage.drives[0].media      /tmp/d0                c.yaml:6
        storage.drives[0].max_size   4 GiB                  default
        storage.drives[1].media      /tmp/d1                c.yaml:7
        storage.drives[1].max_size   1 GiB                  c.yaml:8
        limits.max_connections       65536                  default
        limits.max_in_flight         512 MiB                detected (half of memory.max_size)
        limits.drain_seconds         10                     default
        telemetry.otlp_endpoint      http://collector:4317  env OTEL_EXPORTER_OTLP_ENDPOINT
        telemetry.otlp_protocol      auto: grpc             detected (telemetry.otlp_endpoint)
        telemetry.sample_ratio       0.01                   default
        telemetry.spans_per_second   1000                   default
        telemetry.logs_otlp          false                  default
        telemetry.slow.base_ms       10                     default
        telemetry.slow.per_mib_ms    1                      default
        telemetry.slow.times_median  8                      default
        logging.level                warn                   c.yaml:10
        logging.format               json                   default
        license                      (set, ignored)         env MINIO_LICENSE
    "#]]
    .assert_eq(&effective_table(config.effective()));
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
    let config = Config::dev(&Environment::default(), &facts, &LoadOptions::default()).unwrap();
    assert_eq!(config.network.address.to_string(), "127.0.0.1:9900");
    assert_eq!(config.memory.pool_bytes, 256 << 20);
    assert!(config.network.auth_key.is_none() && !config.memory.huge_pages);
    let Backend::File(drives) = &config.storage.backend else {
        panic!("dev uses files")
    };
    assert!(drives.iter().all(|drive| drive.media.starts_with("data")));
    expect![[r#"
        memory.max_size is 256 MiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=128; using plain pages
        memory.max_size is 256 MiB, but this process may lock only 8 MiB; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK; using unregistered buffers"#]].assert_eq(&config.warnings().join("\n"));
}

#[test]
fn every_startup_refusal_names_field_value_bound_and_remedy() {
    check(
        "",
        expect![[r#"
        network.auth_key is not set, but network.address 0.0.0.0:9900 can be reached from other hosts; set it or MEMKV_AUTH_KEY to 64 hexadecimal digits (make one with: openssl rand -hex 32), or listen on 127.0.0.1
        storage.mode is direct, but storage.drives is empty; add a drive with media: and the path of a block device such as /dev/nvme0n1, or let memkv setup write them"#]],
    );
    check(
        "network: { address: 10.0.0.1:9900 }\nstorage: { mode: memory, max_size: 1 GiB }\n",
        expect![
            "network.auth_key is not set, but network.address 10.0.0.1:9900 can be reached from other hosts; set it or MEMKV_AUTH_KEY to 64 hexadecimal digits (make one with: openssl rand -hex 32), or listen on 127.0.0.1"
        ],
    );
    check(
        &small("").replace("9900 }", "9900, tls_cert: /c.pem }"),
        expect![
            "c.yaml:1: network.tls_cert is set, but network.tls_key is not; set both for HTTPS on the admin endpoint, or neither"
        ],
    );
    check(
        &small("").replace("9900 }", "9900, tls_key: /k.pem }"),
        expect![
            "c.yaml:1: network.tls_key is set, but network.tls_cert is not; set both for HTTPS on the admin endpoint, or neither"
        ],
    );
    check(
        &small("").replace("enabled: false", "enabled: true"),
        expect![
            "c.yaml:2: rdma.enabled is true, but this build has no RDMA; set it to auto to serve TCP"
        ],
    );
    check(
        "network: { address: 127.0.0.1:9900 }\nstorage: { mode: memory }\n",
        expect![
            "storage.mode is memory, but storage.max_size is not set; set it to the bytes for values, such as 16 GiB"
        ],
    );
    check(
        "network: { address: 127.0.0.1:9900 }\nstorage: { mode: file }\n",
        expect![
            "storage.mode is file, but storage.drives is empty; add a drive with media: and the path of a file, or let memkv setup write them"
        ],
    );
    check(
        &small("    - media: /tmp/d0\n"),
        expect![
            "c.yaml:7: storage.drives[1].media is /tmp/d0, the same as storage.drives[0]; a drive may be listed once"
        ],
    );
    check(
        &small("    - max_size: 1 GiB\n"),
        expect!["storage.drives[1].media is not set; give the path of the drive"],
    );
    check(
        &small("memory: { max_size: 7 MiB }\n"),
        expect![
            "c.yaml:7: memory.max_size is 7 MiB, but must be at least four blocks of 2 MiB (memory.block_size); raise it to 8 MiB"
        ],
    );
    let previous = |key| {
        let keys = format!("9900, {key} auth_key_previous: {KEY} }}");
        small("").replace("9900 }", &keys)
    };
    check(
        &previous(String::new()),
        expect![
            "network.auth_key_previous is set, but network.auth_key is not; set auth_key to the new key"
        ],
    );
    check(
        &previous(format!("auth_key: {KEY},")),
        expect![
            "network.auth_key_previous is the same key as network.auth_key; remove it, or set auth_key to the new key"
        ],
    );
}

#[test]
fn a_wrong_key_is_refused_and_never_printed() {
    let with_key =
        |key: &str| small("").replace("9900 }", &format!("9900, auth_key: \"{key}\" }}"));
    check(
        &with_key(&KEY[..63]),
        expect![
            "c.yaml:1: network.auth_key is (not shown), but must be 64 hexadecimal digits (32 bytes); it has 63 characters; make one with: openssl rand -hex 32"
        ],
    );
    check(
        &with_key(&KEY.replace("00", "zz")),
        expect![
            "c.yaml:1: network.auth_key is (not shown), but must be 64 hexadecimal digits (32 bytes); it has a character that is no hexadecimal digit; make one with: openssl rand -hex 32"
        ],
    );
    check(
        &with_key(&format!("0x{}", &KEY[..62])),
        expect![
            "c.yaml:1: network.auth_key is (not shown), but must be 64 hexadecimal digits (32 bytes); it has a character that is no hexadecimal digit; make one with: openssl rand -hex 32"
        ],
    );
    let environment = Environment::default().with("MEMKV_AUTH_KEY", &KEY[1..]);
    check_env(
        &with_key(KEY),
        &environment,
        expect![
            "env MEMKV_AUTH_KEY: network.auth_key is (not shown), but must be 64 hexadecimal digits (32 bytes); it has 63 characters; make one with: openssl rand -hex 32"
        ],
    );
    check(
        &small("").replace("9900 }", "9900, auth_key: [1, 2] }"),
        expect![
            "c.yaml:1: network.auth_key is (not shown), but must be a single value (64 hex digits)"
        ],
    );
}

#[test]
fn every_value_outside_its_bound_is_told_at_once() {
    let yaml = "network:\n  address: localhost:9900\n  threads: 2000\n  payload_mac: on\n  admin_socket: run/admin.sock\n  admin_token: short\n  \
        node_id: \"a b\"\nmemory:\n  block_size: 1 KiB\n  max_size: 1 XB\n  hugepages: yes\nrdma:\n  enabled: maybe\n  \
        port: 0\n  gid_index: 256\n  traffic_class: -1\n  service_level: 9\n  mtu: 1500\n  cq_depth: 1\n  timeout: 32\n  \
        retry_count: 8\n  num_dcis: 0\n  dc_key: 0x1000000\n  num_worker_threads: 0\n  num_responder_threads: many\n\
        storage:\n  mode: disk\n  block_size: 1 GiB\n  flap_threshold: 0\n  max_size: 1 B\n  sync: sometimes\n  \
        eviction: lru\n  verify: never\n  drives:\n    - { media: [], max_size: 1 MiB }\nlimits:\n  max_connections: 0\n  \
        max_in_flight: big\n  drain_seconds: 1d\ntelemetry:\n  otlp_endpoint: collector:4317\n  otlp_protocol: gprc\n  \
        sample_ratio: 2\n  spans_per_second: -5\n  logs_otlp: 1\n  slow: { base_ms: -1, per_mib_ms: x, times_median: .inf }\n\
        logging:\n  level: verbose\n  format: xml\n";
    check(
        yaml,
        expect![[r#"
            c.yaml:2: network.address is localhost:9900, but must be ip:port; write for example 0.0.0.0:9900, 127.0.0.1:9900 or [::]:9900
            c.yaml:4: network.payload_mac is on, but must be off | required
            c.yaml:5: network.admin_socket is run/admin.sock, but must be an absolute path of at most 107 bytes; write for example /run/memkv/admin.sock
            c.yaml:6: network.admin_token is (not shown), but must be 16 characters or more; make one with: openssl rand -hex 32
            c.yaml:7: network.node_id is a b, but must be at most 64 letters, digits and . _ : - [ ]; a host name will do
            c.yaml:3: network.threads is 2000, but must be 0 to 1024; 0 takes one per core
            c.yaml:9: memory.block_size is 1 KiB, but must be 64 KiB to 64 MiB; 2 MiB suits most
            c.yaml:10: memory.max_size is 1 XB, but must be a size; write bytes or a number with B, KiB, KB, MiB, MB, GiB, GB, TiB, TB
            c.yaml:11: memory.hugepages is yes, but must be auto | required | off
            c.yaml:13: rdma.enabled is maybe, but must be auto | true | false
            c.yaml:14: rdma.port is 0, but must be 1 to 255; ports count from 1
            c.yaml:15: rdma.gid_index is 256, but must be a whole number from 0 to 255
            c.yaml:16: rdma.traffic_class is -1, but must be a whole number from 0 to 255
            c.yaml:17: rdma.service_level is 9, but must be 0 to 7; it is the lossless PFC priority; 0 takes the detected one
            c.yaml:18: rdma.mtu is 1500, but must be 256, 512, 1024, 2048 or 4096; take the largest that the fabric carries
            c.yaml:19: rdma.cq_depth is 1, but must be 16 to 4194304; 4096 suits most
            c.yaml:20: rdma.timeout is 32, but must be 0 to 31; it is an exponent: 14 is 67 ms
            c.yaml:21: rdma.retry_count is 8, but must be 0 to 7; 7 is the most that InfiniBand allows
            c.yaml:22: rdma.num_dcis is 0, but must be 1 to 65536; 256 saturates most NICs
            c.yaml:23: rdma.dc_key is 0x1000000, but must be 0 to 16777215; it has 24 bits (0xFFFFFF)
            c.yaml:24: rdma.num_worker_threads is 0, but must be 1 to 4096; 64 suits most
            c.yaml:25: rdma.num_responder_threads is many, but must be a whole number from 0 to 4294967295
            c.yaml:27: storage.mode is disk, but must be direct | file | memory
            c.yaml:28: storage.block_size is 1 GiB, but must be 64 KiB to 16 MiB; 4 MiB suits most
            c.yaml:29: storage.flap_threshold is 0, but must be 1 to 1000000; 5 suits most
            c.yaml:30: storage.max_size is 1 B, but must be 1 MiB to 64 TiB; lower it to free RAM
            c.yaml:31: storage.sync is sometimes, but must be always | everysec | no
            c.yaml:32: storage.eviction is lru, but must be on | off
            c.yaml:33: storage.verify is never, but must be always | unclean
            c.yaml:35: storage.drives[0].media is a list, but must be a single value (path)
            c.yaml:35: storage.drives[0].max_size is 1 MiB, but must be 16 MiB to 64 TiB; remove the line to use the whole drive
            c.yaml:37: limits.max_connections is 0, but must be 1 to 4194304; each needs a file descriptor
            c.yaml:38: limits.max_in_flight is big, but must be a size; write bytes or a number with B, KiB, KB, MiB, MB, GiB, GB, TiB, TB
            c.yaml:39: limits.drain_seconds is 1d, but must be a whole number from 0 to 4294967295
            c.yaml:41: telemetry.otlp_endpoint is collector:4317, but must be a URL; write for example http://127.0.0.1:4317
            c.yaml:42: telemetry.otlp_protocol is gprc, but must be auto | grpc | http; did you mean grpc?
            c.yaml:43: telemetry.sample_ratio is 2, but must be 0 to 1; 0.01 traces one in a hundred
            c.yaml:44: telemetry.spans_per_second is -5, but must be a whole number from 0 to 4294967295
            c.yaml:45: telemetry.logs_otlp is 1, but must be true | false
            c.yaml:46: telemetry.slow.base_ms is -1, but must be 0 to 3600000; 10 suits most
            c.yaml:46: telemetry.slow.per_mib_ms is x, but must be a number such as 0.01
            c.yaml:46: telemetry.slow.times_median is .inf, but must be a number such as 0.01
            c.yaml:48: logging.level is verbose, but must be trace | debug | info | warn | error
            c.yaml:49: logging.format is xml, but must be json | text"#]],
    );
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known() {
    let yaml = small(
        "    - medai: /tmp/x\n      media: /tmp/y\nrmda: {}\nmemory: { maxsize: 1 GiB, pool: 3 }\ntelemetry:\n  slow: \
         { base: 10 }\n",
    );
    let yaml = yaml.replace("enabled: false", "enabled: false, trafic_class: 104");
    check(
        &yaml,
        expect![[r#"
        c.yaml:10: unknown key maxsize in memory; did you mean max_size?
        c.yaml:10: unknown key pool in memory; the nearest known one is max_size, all of them here: block_size, max_size, hugepages
        c.yaml:2: unknown key trafic_class in rdma; did you mean traffic_class?
        c.yaml:7: unknown key medai in storage.drives[1]; did you mean media?
        c.yaml:12: unknown key base in telemetry.slow; did you mean base_ms?
        c.yaml:9: unknown key rmda; did you mean rdma?"#]],
    );
    let options = LoadOptions {
        allow_unknown_keys: true,
        ..LoadOptions::default()
    };
    let environment = Environment::default();
    let config = Config::from_yaml("c.yaml", yaml.as_bytes(), &environment, &plenty(), &options);
    expect![[r#"
        c.yaml:10: unknown key maxsize in memory; did you mean max_size? (ignored)
        c.yaml:10: unknown key pool in memory; the nearest known one is max_size, all of them here: block_size, max_size, hugepages (ignored)
        c.yaml:2: unknown key trafic_class in rdma; did you mean traffic_class? (ignored)
        c.yaml:7: unknown key medai in storage.drives[1]; did you mean media? (ignored)
        c.yaml:12: unknown key base in telemetry.slow; did you mean base_ms? (ignored)
        c.yaml:9: unknown key rmda; did you mean rdma? (ignored)"#]]
    .assert_eq(&config.unwrap().warnings().join("\n"));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    check(
        "- a\n",
        expect![[r#"
        c.yaml:1: the file is a list, but must be a section with the keys network, memory, rdma, storage, limits, telemetry, logging, license
        network.auth_key is not set, but network.address 0.0.0.0:9900 can be reached from other hosts; set it or MEMKV_AUTH_KEY to 64 hexadecimal digits (make one with: openssl rand -hex 32), or listen on 127.0.0.1
        storage.mode is direct, but storage.drives is empty; add a drive with media: and the path of a block device such as /dev/nvme0n1, or let memkv setup write them"#]],
    );
    check(
        "just words\n",
        expect![[r#"
            c.yaml:1: the file is a single value, but must be a section with the keys network, memory, rdma, storage, limits, telemetry, logging, license
            network.auth_key is not set, but network.address 0.0.0.0:9900 can be reached from other hosts; set it or MEMKV_AUTH_KEY to 64 hexadecimal digits (make one with: openssl rand -hex 32), or listen on 127.0.0.1
            storage.mode is direct, but storage.drives is empty; add a drive with media: and the path of a block device such as /dev/nvme0n1, or let memkv setup write them"#]],
    );
    check(
        &small("memory: 1 GiB\n"),
        expect![
            "c.yaml:7: memory is a single value, but must be a section with the keys block_size, max_size, hugepages"
        ],
    );
    check(
        &small("logging: [info]\n"),
        expect!["c.yaml:7: logging is a list, but must be a section with the keys level, format"],
    );
    check(
        &small("memory: { max_size: , maxSize: 1 GiB }\n"),
        expect![[r#"
        c.yaml:7: memory.max_size is set twice, as max_size and as maxSize; keep one of them
        c.yaml:7: memory.max_size is empty, but must be set (size); give it a value or remove the line"#]],
    );
    check(
        &small("memory: { max_size: ~ }\n"),
        expect![
            "c.yaml:7: memory.max_size is empty, but must be set (size); give it a value or remove the line"
        ],
    );
    check(
        &small("memory: { max_size: { a: 1 } }\n"),
        expect!["c.yaml:7: memory.max_size is a mapping, but must be a single value (size)"],
    );
    check(
        "network: { address: 127.0.0.1:1 }\nstorage: { mode: file, drives: { media: /x } }\n",
        expect![
            "c.yaml:2: storage.drives is a mapping, but must be a list; write `- media: …` per item"
        ],
    );
    check(
        "network: { address: 127.0.0.1:1 }\nstorage: { mode: file, drives: [/x] }\n",
        expect![[r#"
            c.yaml:2: storage.drives[0] is a single value, but must be a section with the keys media, max_size
            storage.drives[0].media is not set; give the path of the drive"#]],
    );
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
fn variables_beat_the_file_and_flags_beat_both() {
    let yaml = small("").replace("enabled: false", "enabled: false, service_level: 1");
    let environment = Environment::default()
        .with("MEMKV_RDMA_SERVICE_LEVEL", "2\n")
        .with("MEMKV_RDMA_TRAFFIC_CLASS", "");
    let config = load(&yaml, &environment).unwrap();
    assert_eq!(
        (config.rdma.service_level, config.rdma.traffic_class),
        (2, 0)
    );

    let flag = memkv_settings::Override {
        path: "rdma.service_level".to_owned(),
        text: "3".to_owned(),
        source: Source::Flag("--service-level"),
    };
    let options = LoadOptions {
        overrides: vec![flag],
        ..LoadOptions::default()
    };
    let config =
        Config::from_yaml("c.yaml", yaml.as_bytes(), &environment, &plenty(), &options).unwrap();
    assert_eq!(config.rdma.service_level, 3);
    let shown = config
        .effective()
        .iter()
        .find(|v| v.path == "rdma.service_level")
        .unwrap();
    assert_eq!(shown.source.to_string(), "flag --service-level");
}

#[test]
fn otel_variable_counts_only_where_nothing_of_ours_names_a_collector() {
    let otel = Environment::default().with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317");
    let both = otel.clone().with("MEMKV_OTEL_ENDPOINT", "http://ours:4317");
    let file = small("telemetry: { otlp_endpoint: http://file:4317 }\n");
    for (yaml, environment, expected) in [
        (small(""), &otel, Some("http://otel:4317")),
        (small(""), &both, Some("http://ours:4317")),
        (file.clone(), &otel, Some("http://file:4317")),
        (file, &both, Some("http://ours:4317")),
        (
            small(""),
            &Environment::default().with("OTEL_EXPORTER_OTLP_ENDPOINT", "x:1"),
            None,
        ),
    ] {
        let config = load(&yaml, environment).unwrap();
        assert_eq!(config.telemetry.otlp_endpoint.as_deref(), expected);
    }
}

#[test]
fn blocks_become_powers_of_two_and_the_pool_whole_slabs() {
    let yaml = small("memory: { block_size: 2 MB, max_size: 101 MB }\n")
        .replace("mode: file", "mode: file\n  block_size: 4 MB");
    let config = load(&yaml, &Environment::default()).unwrap();
    assert_eq!(config.storage.extent_bytes, 4 << 20);
    assert_eq!(config.memory.block_bytes, 2 << 20);
    assert_eq!(config.memory.pool_bytes, 48 * (2 << 20));
    let shown = config
        .effective()
        .iter()
        .find(|v| v.path == "storage.block_size")
        .unwrap();
    assert_eq!(shown.value, "4 MiB (rounded up from 4 MB)");
    assert_eq!(config.limits.max_in_flight_bytes, 24 * (2 << 20));
    assert_eq!(config.telemetry.slow.base, Duration::from_millis(10));
}

#[test]
fn more_drives_than_a_store_can_have_are_refused() {
    let drives: String = (1..65)
        .map(|n| format!("    - media: /tmp/d{n}\n"))
        .collect();
    check(
        &small(&drives),
        expect![
            "storage.drives has 65 entries, but must have at most 64; run a second server for the others"
        ],
    );
}

#[test]
fn direct_mode_refuses_to_start_without_huge_pages_or_memlock() {
    let verdict = |mode, hugepages, free: u64, memlock| {
        let request = PoolRequest {
            pool_bytes: 8 << 30,
            mode,
            hugepages,
        };
        let facts = Facts {
            hugepages_free_bytes: Some(free),
            memlock_bytes: memlock,
            ..plenty()
        };
        match judge_pool(request, &facts) {
            Ok(verdict) => {
                let pages = if verdict.huge_pages { "huge" } else { "plain" };
                format!("{pages}\n{}", verdict.findings.join("\n"))
            }
            Err(refusals) => format!("refused\n{}", refusals.join("\n")),
        }
    };
    use HugepageMode::{Auto, Off, Required};
    use StorageMode::{Direct, File, Memory};
    let enough = ByteSize::gib(8).bytes();
    let cases = [
        ("direct auto, enough", verdict(Direct, Auto, enough, None)),
        (
            "direct auto, short",
            verdict(Direct, Auto, enough - (2 << 20), None),
        ),
        (
            "direct auto, short of both",
            verdict(Direct, Auto, 0, Some(8 << 20)),
        ),
        ("direct off", verdict(Direct, Off, enough, None)),
        (
            "file auto, short of both",
            verdict(File, Auto, 0, Some(8 << 20)),
        ),
        ("file required, short", verdict(File, Required, 0, None)),
        (
            "memory auto, enough",
            verdict(Memory, Auto, enough, Some(enough)),
        ),
    ];
    let shown: String = cases
        .iter()
        .map(|(name, text)| format!("{name}: {text}\n"))
        .collect();
    expect![[r#"
        direct auto, enough: huge

        direct auto, short: refused
        memory.max_size is 8 GiB, but only 8190 MiB are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096, lower memory.max_size, or set memory.hugepages to off
        direct auto, short of both: refused
        memory.max_size is 8 GiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096, lower memory.max_size, or set memory.hugepages to off
        memory.max_size is 8 GiB, but this process may lock only 8 MiB; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK
        direct off: plain

        file auto, short of both: plain
        memory.max_size is 8 GiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096; using plain pages
        memory.max_size is 8 GiB, but this process may lock only 8 MiB; raise it with LimitMEMLOCK=infinity (systemd), ulimit -l unlimited, or CAP_IPC_LOCK; using unregistered buffers
        file required, short: refused
        memory.max_size is 8 GiB, but only 0 B are free in huge pages; reserve them with: sysctl vm.nr_hugepages=4096, or set memory.hugepages to auto
        memory auto, enough: huge

    "#]].assert_eq(&shown);
}

#[test]
fn a_missing_file_says_how_to_get_one() {
    let environment = Environment::default();
    let load = |origin: Origin| {
        origin
            .load(&environment, &plenty(), &LoadOptions::default())
            .unwrap_err()
    };
    let error = load(Origin::File("/nonexistent/c.yaml".into()));
    assert_eq!(
        error.to_string(),
        "read the configuration /nonexistent/c.yaml; write one with memkv setup, name another one with --config, or try memkv \
         start --dev"
    );
    assert!(std::error::Error::source(&error).is_some());
    let absent = ConfigError::Absent {
        path: DEFAULT_PATH.into(),
    };
    expect!["there is no configuration: /etc/memkv/config.yaml doesn't exist; write one with memkv setup, name one with --config, or try memkv start --dev"].assert_eq(&absent.to_string());
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

#[test]
fn the_otlp_protocol_follows_from_the_endpoint_unless_set() {
    for (telemetry, expected) in [
        ("otlp_endpoint: http://c:4317", OtlpProtocol::Grpc),
        ("otlp_endpoint: http://c:4318", OtlpProtocol::Http),
        (
            "otlp_endpoint: http://c:4318, otlp_protocol: grpc",
            OtlpProtocol::Grpc,
        ),
        (
            "otlp_endpoint: http://c:4317, otlp_protocol: http",
            OtlpProtocol::Http,
        ),
    ] {
        let yaml = small(&format!("telemetry: {{ {telemetry} }}\n"));
        let config = load(&yaml, &Environment::default()).unwrap();
        assert_eq!(config.telemetry.otlp_protocol, expected, "{telemetry}");
    }
}

#[test]
fn rotation_takes_two_different_keys() {
    let keys = format!("9900, auth_key: {KEY}, auth_key_previous: {OTHER_KEY} }}");
    let config = load(&small("").replace("9900 }", &keys), &Environment::default()).unwrap();
    let keys = config.auth_keys(None).unwrap();
    assert_eq!(keys.previous, AuthKey::from_hex(OTHER_KEY));
    assert!(keys.dev.is_none());
}
