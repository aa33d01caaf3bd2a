//! The client against a scripted peer: a thread that speaks the server's side of the protocol, or breaks it as told.

mod faults;
mod fences;
mod peer;
mod rules;
mod verbs;

use std::net::SocketAddr;
use std::time::Duration;

use memkv_settings::AuthKey;

use crate::{Client, ClientConfig};

const KEY: [u8; 32] = [0x5a; 32];

fn config(addresses: &[SocketAddr]) -> ClientConfig {
    let mut config = ClientConfig::new(
        addresses.iter().map(SocketAddr::to_string),
        AuthKey::new(KEY),
    );
    config.num_connections = 1;
    config.connect_timeout = Duration::from_secs(5);
    config.op_timeout = Duration::from_secs(10);
    config.fence_timeout = Duration::from_millis(200);
    config
}

fn client(addresses: &[SocketAddr]) -> Client {
    Client::new(config(addresses)).expect("a client needs only file descriptors")
}
