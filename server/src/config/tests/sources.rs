//! Which of several sources counts, and that it is shown.

use expect_test::expect;
use memkv_settings::{Source, effective_table};

use super::*;

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
fn the_environment_alone_asks_the_store_for_traces_of_double_frees() {
    let environment = Environment::default().with("MEMKV_SLAB_DOUBLE_FREE_TRACE", "1");
    let traced = load(&small(""), &environment).unwrap();
    assert!(traced.engine().double_free_trace);
    let shown = traced
        .effective()
        .iter()
        .find(|value| value.path.contains("double_free"));
    assert_eq!(shown.map(|value| value.value.as_str()), Some("true"));
    let plain = load(&small(""), &Environment::default()).unwrap();
    assert!(!plain.engine().double_free_trace);
}

#[test]
fn what_needs_a_restart_is_what_was_changed_and_nothing_that_follows_from_it() {
    let check = |ours: &str, theirs: &str, expected: &[&str]| {
        let load = |more: &str| load(&small(more), &Environment::default()).unwrap();
        assert_eq!(load(ours).needs_restart(&load(theirs)), expected);
    };
    check("", "", &[]);
    // Half of it is what may be under way, as long as nobody sets that.
    check("", "memory:\n  max_size: 2 GiB\n", &["memory.max_size"]);
    check(
        "",
        "limits:\n  max_in_flight: 1 MiB\n",
        &["limits.max_in_flight"],
    );
    check(
        "limits:\n  max_in_flight: 1 MiB\n",
        "",
        &["limits.max_in_flight"],
    );
    let drive = ["storage.drives[1].media", "storage.drives[1].max_size"];
    check("", "    - media: /tmp/d1\n", &drive);
    check("    - media: /tmp/d1\n", "", &drive);
}
