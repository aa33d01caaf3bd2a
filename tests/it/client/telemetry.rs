//! The client's own telemetry, against a real server.

use memkv_client::{CallOptions, Client, TraceContext};
use memkv_telemetry::{Format, Role, Telemetry, TelemetryConfig};
use memkv_tests::server::TestServer;

use super::config;

#[test]
fn steps_entries_and_connections_are_counted() {
    let server = TestServer::memory();
    let config = config(&[&server]);
    let mut wanted = TelemetryConfig::new(Role::Client, "test");
    wanted.servers = config
        .servers
        .iter()
        .map(|server| server.server.clone())
        .collect();
    let telemetry = Telemetry::new(wanted).unwrap();
    let client = Client::with_telemetry(config, telemetry.clone()).unwrap();
    client.put(b"k", &[7; 5000]).unwrap();
    client.get(b"k").unwrap().unwrap();
    let caller = TraceContext {
        version: 0,
        trace_id: [1; 16],
        span_id: [2; 8],
        flags: 1,
    };
    let options = CallOptions {
        trace: Some(caller),
        ..CallOptions::default()
    };
    let batch = client
        .with(&options)
        .batch_get(&[b"k".as_slice(), b"nowhere"]);
    assert!(matches!(batch[1], Ok(None)));
    let text = telemetry.render(Format::Text);
    for (name, labels) in [
        ("memkv_client_op_duration_seconds_count", r#"op="put""#),
        ("memkv_client_step_seconds_count", r#"step="send""#),
        ("memkv_client_step_seconds_count", r#"step="checksum""#),
        ("memkv_client_step_seconds_count", r#"step="wait""#),
        ("memkv_client_entries_total", r#"outcome="miss""#),
        ("memkv_client_bytes_total", r#"direction="out""#),
        ("memkv_client_connections", r#"state="ready""#),
        ("memkv_client_transport_active", r#"transport="tcp""#),
    ] {
        let mut lines = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(labels));
        assert!(
            lines.any(|line| !line.ends_with(" 0")),
            "no {name} with {labels} above 0 in\n{text}"
        );
    }
}
