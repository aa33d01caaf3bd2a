//! The systems we are compared with, each driven by a client of our own that is as thin as its protocol allows.
//!
//! A thin client is the fair choice: it spends nothing on parsing or copying that our own client would then be
//! compared with. Values are read into one reusable buffer and are not checked.

pub(crate) mod echo;
pub(crate) mod iperf;
pub(crate) mod memcached;
pub(crate) mod mooncake;
pub(crate) mod redis;

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;

/// Reads one line that ends in CR LF, without reading past it; for short protocol headers only.
pub(crate) struct LineReader {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

impl LineReader {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(64 << 10),
            start: 0,
        }
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The next line without its CR LF.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        loop {
            let unread = &self.buffer[self.start..];
            if let Some(end) = unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..end]).into_owned();
                self.start += end + 2;
                return Ok(line);
            }
            self.fill()?;
        }
    }

    /// Fills `target`: first from what was buffered, then straight from the socket.
    pub(crate) fn exact(&mut self, target: &mut [u8]) -> io::Result<()> {
        let buffered = (self.buffer.len() - self.start).min(target.len());
        target[..buffered].copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        self.start += buffered;
        self.stream.read_exact(&mut target[buffered..])
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let mut chunk = [0u8; 4096];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(())
            }
        }
    }
}

/// Writes all `parts` in order with as few system calls as the socket allows.
pub(crate) fn write_all_vectored(stream: &mut TcpStream, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let written = stream.write_vectored(rest)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}
