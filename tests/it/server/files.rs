//! Servers that keep values in files.

use memkv_proto::op::Outcome;
use memkv_tests::http::get;
use memkv_tests::server::{Builder, TOKEN};
use memkv_tests::wire::{WireClient, value};

#[test]
fn a_value_of_256_mib_passes_through_a_pool_of_64() {
    let server = Builder::file("1 GiB").pool("64 MiB").start();
    let mut client = WireClient::connect(server.address());
    let huge = value(9, 256 << 20);
    assert_eq!(client.put(b"huge", &huge), Outcome::Ok);
    let found = client.get(b"huge");
    assert!(
        found.as_ref() == Ok(&Some(huge)),
        "{:?}",
        found.map(|value| value.map(|value| value.len()))
    );
}

#[test]
fn values_are_there_after_a_restart() {
    let server = Builder::file("256 MiB").start();
    let mut client = WireClient::connect(server.address());
    let values: Vec<_> = [0, 1, 4096, 100_000, 5 << 20]
        .into_iter()
        .map(|len| (format!("key-{len}"), value(len as u64, len)))
        .collect();
    for (key, value) in &values {
        assert_eq!(client.put(key.as_bytes(), value), Outcome::Ok);
    }
    let server = server.restart();
    let mut client = WireClient::connect(server.address());
    for (key, value) in &values {
        assert!(
            client.get(key.as_bytes()) == Ok(Some(value.clone())),
            "{key}"
        );
    }
}

#[test]
fn status_has_the_sections_and_totals_that_others_read() {
    let server = Builder::file("64 MiB").start();
    let mut client = WireClient::connect(server.address());
    assert_eq!(
        client.put(b"key", &memkv_tests::wire::value(1, 1 << 20)),
        Outcome::Ok
    );
    let status = get(&server, "/v1/status", &[]).json();
    let storage = &status["storage"];
    for total in ["raw_bytes_total", "usable_bytes_total", "used_bytes_total"] {
        assert!(storage[total].as_u64().unwrap() > 0, "{total}: {storage}");
    }
    assert!(storage["used_bytes_total"].as_u64() < storage["usable_bytes_total"].as_u64());
    assert_eq!(storage["devices"].as_array().unwrap().len(), 1);
    assert_eq!(storage["devices"][0]["online"], true);
    assert!(status["memory"]["pool_bytes"].as_u64().unwrap() > 0);
    assert_eq!(status["rdma"]["active"], false);
    assert_eq!(status["connections"]["tcp"], 1);
    assert_eq!(status["keys"]["current"]["uses"], 1);
    assert!(status["telemetry"]["timelines_lost"].is_u64());
    let findings = status["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .any(|finding| finding["id"] == "transport.tcp"),
        "{findings:?}"
    );
    let whole = status.to_string();
    assert!(
        !whole.contains("5a5a5a5a") && !whole.contains(TOKEN),
        "secrets are never shown"
    );
}
