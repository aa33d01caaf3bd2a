//! What tests of the whole product share: outside programs, servers under test, waiting.
#![forbid(unsafe_code)]

pub mod block;
pub mod collector;
pub mod http;
pub mod load;
pub mod log;
pub mod poll;
pub mod program;
pub mod prometheus;
pub mod relay;
pub mod seed;
pub mod server;
pub mod tier;
pub mod wire;

/// A port on loopback that was free a moment ago, for programs that can't say which one they got.
///
/// # Panics
/// If there is none.
pub fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound")
}
