//! How many bytes must wait in a socket before its poller is woken (`SO_RCVLOWAT`).
//!
//! A large value arrives in hundreds of packets. Woken for each, a reader spends more on waking up than on copying; woken
//! for a chunk, it copies a chunk.
//!
//! Aliasing: the kernel reads one `c_int` of this function's own frame and keeps nothing.

use std::os::fd::{AsFd, AsRawFd};

/// Asks for a wake-up only once `bytes` are there, or the peer ended the stream. Lowered below what is already there, the
/// poller is woken at once.
///
/// The kernel lets the receive buffer grow with it, up to `net.ipv4.tcp_rmem`, and wakes earlier rather than stall a peer
/// whose window is full. One that refuses the option wakes earlier too, which costs time and nothing else.
///
/// Whoever sets more than 1 knows that as many bytes will come, or the connection end.
pub fn set_receive_low_water(socket: impl AsFd, bytes: usize) {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the pointer and length describe `value`,
    // which outlives the call.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::io::{Result, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        client.set_nodelay(true)?;
        Ok((client, listener.accept()?.0))
    }

    fn is_readable(socket: &TcpStream, within_ms: i64) -> Result<bool> {
        let mut polled = [PollFd::new(socket, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: within_ms / 1000,
            tv_nsec: within_ms % 1000 * 1_000_000,
        };
        Ok(poll(&mut polled, Some(&timeout))? > 0)
    }

    #[test]
    fn a_reader_sleeps_until_the_mark_is_reached() -> Result<()> {
        let (mut sender, receiver) = pair()?;
        set_receive_low_water(&receiver, 1000);
        sender.write_all(&[1; 999])?;
        assert!(!is_readable(&receiver, 100)?);
        sender.write_all(&[1])?;
        assert!(is_readable(&receiver, 10_000)?);
        Ok(())
    }

    #[test]
    fn a_lowered_mark_shows_what_is_there() -> Result<()> {
        let (mut sender, receiver) = pair()?;
        set_receive_low_water(&receiver, 1000);
        sender.write_all(&[1; 10])?;
        assert!(!is_readable(&receiver, 100)?);
        set_receive_low_water(&receiver, 1);
        assert!(is_readable(&receiver, 10_000)?);
        Ok(())
    }

    #[test]
    fn an_end_wakes_whatever_the_mark() -> Result<()> {
        let (sender, receiver) = pair()?;
        set_receive_low_water(&receiver, 1 << 20);
        drop(sender);
        assert!(is_readable(&receiver, 10_000)?);
        Ok(())
    }
}
