//! What tests of the whole product share: outside programs, servers under test, waiting.
#![forbid(unsafe_code)]

pub mod block;
pub mod built;
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

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// A port on loopback that was free a moment ago, for programs that can't say which one they got.
///
/// # Panics
/// If there is none.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound")
}

/// A port on loopback that is free, like the one above it: for servers whose admin endpoint takes that.
///
/// Below the ports that the kernel gives to whoever asks for any, so that no other test gets them meanwhile.
///
/// # Panics
/// If there is none.
pub fn free_pair() -> SocketAddr {
    const PORTS: std::ops::Range<u32> = 16_384..32_768;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pairs = PORTS.len() as u32 / 2;
    let is_free = |address: &SocketAddr| {
        let bound = |port| TcpListener::bind((address.ip(), port)).is_ok();
        bound(address.port()) && bound(address.port() + 1)
    };
    // Processes start at different places, and none gives a pair twice.
    let mut candidates = (0..pairs).map(|_| {
        let pair = std::process::id()
            .wrapping_mul(7)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + 2 * (pair % pairs);
        SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16))
    });
    candidates
        .find(is_free)
        .expect("loopback has two free ports side by side")
}
