//! How many bytes must wait in a socket before its poller is woken (`SO_RCVLOWAT`).
//!
//! A large value arrives in hundreds of packets. Woken for each, a reader spends more on waking up than on copying; woken
//! for a chunk, it copies a chunk. No wrapper crate offers this option, so the call is made here.
//!
//! Aliasing: the kernel reads one `c_int` of this function's own frame and keeps nothing.

use std::os::fd::AsRawFd;

use mio::net::TcpStream;

/// Asks for a wake-up only once `bytes` are there, or the peer ended the stream. A kernel that refuses wakes earlier, which
/// costs time and nothing else.
pub(crate) fn set_low_water(stream: &TcpStream, bytes: usize) {
    let value = libc::c_int::try_from(bytes).unwrap_or(1);
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the pointer and length describe `value`,
    // which outlives the call.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
