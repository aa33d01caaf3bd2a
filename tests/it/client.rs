//! The client library against a real server: what a user of it does, end to end.

mod faults;
mod integrity;
mod servers;
mod telemetry;
mod verbs;

use memkv_client::{Client, ClientConfig};
use memkv_settings::AuthKey;
use memkv_tests::server::{KEY, TestServer};

/// A configuration for these servers, with the harness's key.
fn config(servers: &[&TestServer]) -> ClientConfig {
    let addresses = servers.iter().map(|server| server.address().to_string());
    ClientConfig::new(addresses, AuthKey::new(KEY))
}

fn client(servers: &[&TestServer]) -> Client {
    Client::new(config(servers)).expect("a client needs only file descriptors")
}
