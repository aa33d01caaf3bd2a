//! The floor: a bare TCP exchange on loopback. A request of 16 bytes says how many bytes follow it and how many come back.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// The most bytes one exchange may ask for in one direction.
const BYTES_MAX: u64 = 1 << 30;

/// A listener on loopback with a thread per connection; it ends with the process.
#[derive(Debug)]
pub(super) struct Floor {
    address: SocketAddr,
}

impl Floor {
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        std::thread::Builder::new()
            .name("bench-floor".to_owned())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        // The peer hanging up is how an exchange ends.
                        let _ = answer(stream);
                    });
                }
            })?;
        Ok(Self { address })
    }

    pub(super) fn connect(&self) -> io::Result<Exchange> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        Ok(Exchange { stream })
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let mut request = [0u8; 16];
        stream.read_exact(&mut request)?;
        let (up, down) = request.split_at(8);
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let (up, down) = (
            number(up).min(BYTES_MAX) as usize,
            number(down).min(BYTES_MAX) as usize,
        );
        // At least the one byte that ends an exchange of nothing.
        buffer.resize(up.max(down).max(buffer.len()).max(1), 0x5a);
        stream.read_exact(&mut buffer[..up])?;
        stream.write_all(&buffer[..down.max(1)])?;
    }
}

/// One connection to the floor.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: TcpStream,
}

impl Exchange {
    /// Sends `up`, then receives into `down` (at least one byte comes back, so that an exchange has an end).
    pub(super) fn run(&mut self, up: &[u8], down: &mut [u8]) -> io::Result<()> {
        let mut request = [0u8; 16];
        request[..8].copy_from_slice(&(up.len() as u64).to_le_bytes());
        request[8..].copy_from_slice(&(down.len() as u64).to_le_bytes());
        self.stream.write_all(&request)?;
        self.stream.write_all(up)?;
        if down.is_empty() {
            return self.stream.read_exact(&mut [0u8; 1]);
        }
        self.stream.read_exact(down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_both_ways() {
        let floor = Floor::start().unwrap();
        let mut exchange = floor.connect().unwrap();
        exchange.run(&[], &mut []).unwrap();
        let mut down = vec![0; 100_000];
        exchange.run(&[1; 70_000], &mut down).unwrap();
        exchange.run(&[1; 10], &mut []).unwrap();
        exchange.run(&[], &mut down).unwrap();
        assert_eq!(down.len(), 100_000);
    }
}
