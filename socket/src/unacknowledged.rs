//! How many bytes a socket has sent or will send that its peer has not confirmed (`SIOCOUTQ`).
//!
//! A socket is writable again only once a third of its buffer is free: at 1 MB/s a receiver of a large value so looks
//! asleep for a second at a time. This number falls with every segment that it takes.
//!
//! Aliasing: the kernel writes one `c_int` of this function's own frame and keeps nothing.

use std::os::fd::{AsFd, AsRawFd};

/// Bytes that were written to `socket` and that its peer's kernel has not confirmed; `None` where the socket can't tell.
pub fn unacknowledged(socket: impl AsFd) -> Option<usize> {
    let mut value: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the pointer is to one `c_int` that outlives
    // the call, which is what this request writes.
    let answer = unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            libc::TIOCOUTQ,
            std::ptr::from_mut(&mut value),
        )
    };
    (answer == 0)
        .then_some(value)
        .and_then(|value| value.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Result, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    #[test]
    fn what_the_peer_takes_is_seen_before_the_socket_is_writable() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut receiver = TcpStream::connect(listener.local_addr()?)?;
        let mut sender = listener.accept()?.0;
        sender.set_nonblocking(true)?;
        let mut written = 0;
        while let Ok(count) = sender.write(&[1; 64 << 10]) {
            written += count;
        }
        let full = unacknowledged(&sender).unwrap();
        assert!(0 < full && full <= written, "{full} of {written}");
        let taken = 512 << 10;
        receiver.read_exact(&mut vec![0; taken])?;
        // The confirmation may be a moment late.
        let deadline = Instant::now() + Duration::from_secs(10);
        while unacknowledged(&sender).unwrap() >= full {
            assert!(Instant::now() < deadline, "nothing was confirmed");
            std::thread::yield_now();
        }
        Ok(())
    }

    #[test]
    fn a_file_can_not_tell() -> Result<()> {
        assert_eq!(
            unacknowledged(std::fs::File::open("/proc/self/stat")?),
            None
        );
        Ok(())
    }
}
