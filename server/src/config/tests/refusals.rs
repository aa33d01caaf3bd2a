//! What is refused, and in what words.

use expect_test::expect;

use super::*;

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
        &small("    - media: /tmp/../tmp/d0\n"),
        expect![
            "c.yaml:7: storage.drives[1].media is /tmp/../tmp/d0, the same as storage.drives[0]; a drive may be listed once"
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
            c.yaml:2: network.address is localhost:9900, but must be ip:port; write for example 0.0.0.0:9900, 127.0.0.1:9900 or, with quotes, "[::]:9900"
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
            c.yaml:41: telemetry.otlp_endpoint is collector:4317, but must be a URL with http:// or https://, a host, and a port of 1 to 65535; write for example http://127.0.0.1:4317
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
fn rotation_takes_two_different_keys() {
    let keys = format!("9900, auth_key: {KEY}, auth_key_previous: {OTHER_KEY} }}");
    let config = load(&small("").replace("9900 }", &keys), &Environment::default()).unwrap();
    let keys = config.auth_keys(None).unwrap();
    assert_eq!(keys.previous, AuthKey::from_hex(OTHER_KEY));
    assert!(keys.dev.is_none());
}
