//! A stand-in for a collector that costs next to nothing: it accepts OTLP over HTTP and counts the requests.
//!
//! The row asks what exporting costs us, so the receiver must not take a core from us; that a real collector understands
//! what is sent is what the integration tests prove.

use anyhow::Result;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Sink {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Sink {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    // The exporter hanging up is how a connection ends.
                    let _ = answer(stream, &counter);
                });
            }
        });
        Ok(Self { address, requests })
    }

    /// What a server is given as `telemetry.otlp_endpoint`; the path makes it OTLP over HTTP.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/v1/traces", self.address)
    }

    /// Export requests received so far.
    pub(crate) fn spans(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn answer(stream: TcpStream, requests: &AtomicU64) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut body_bytes = 0u64;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(length) = line.strip_prefix("content-length:") {
                body_bytes = length.trim().parse()?;
            }
            if line.is_empty() {
                break;
            }
        }
        std::io::copy(&mut reader.by_ref().take(body_bytes), &mut std::io::sink())?;
        requests.fetch_add(1, Ordering::Relaxed);
        writer.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )?;
    }
}
