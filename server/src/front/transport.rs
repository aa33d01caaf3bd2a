//! What a byte stream must be for the TCP front to serve it.

use std::time::Duration;

use memkv_socket::{set_receive_low_water, unacknowledged};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A byte stream, so that TLS, or a test's pipe, can come under the front.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Be readable only once `bytes` are there, or the peer has ended the stream. One that can't is readable earlier.
    fn wake_at(&self, bytes: usize) {
        let _ = bytes;
    }

    /// From now on, closing it throws away what was written and not sent.
    fn forget_unsent(&self) {}

    /// Bytes that were written and that the peer has not confirmed; `None` where nobody knows.
    fn unacknowledged(&self) -> Option<usize> {
        None
    }
}

impl Transport for TcpStream {
    fn wake_at(&self, bytes: usize) {
        set_receive_low_water(self, bytes);
    }

    fn forget_unsent(&self) {
        // A socket that refuses it is closed in the usual way.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn unacknowledged(&self) -> Option<usize> {
        unacknowledged(self)
    }
}
