//! What a byte stream must be for the TCP front to serve it.

use memkv_socket::set_receive_low_water;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream, so that TLS, or a test's pipe, can come under the front.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Be readable only once `bytes` are there, or the peer has ended the stream. One that can't is readable earlier.
    fn wake_at(&self, bytes: usize) {
        let _ = bytes;
    }
}

impl Transport for TcpStream {
    fn wake_at(&self, bytes: usize) {
        set_receive_low_water(self, bytes);
    }
}
