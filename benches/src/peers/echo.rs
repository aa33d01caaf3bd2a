//! A bare TCP echo of a request and a reply of given sizes: the floor of a round trip on this machine.

use crate::process::{Server, free_port, loopback};
use anyhow::Result;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// Answers each `request_bytes` with `reply_bytes` until the peer hangs up; one thread a connection.
pub(crate) fn serve(port: u16, request_bytes: usize, reply_bytes: usize) -> Result<()> {
    let listener = TcpListener::bind(loopback(port))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut request = vec![0u8; request_bytes];
            let reply = vec![0x5a; reply_bytes];
            while stream.read_exact(&mut request).is_ok() && stream.write_all(&reply).is_ok() {}
        });
    }
    Ok(())
}

/// An echo server in a process of its own, and one connection to it.
pub(crate) struct Echo {
    pub(crate) server: Server,
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Echo {
    pub(crate) fn start(request_bytes: usize, reply_bytes: usize) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["echo", &port.to_string()]);
        command.args([request_bytes.to_string(), reply_bytes.to_string()]);
        let mut server = Server::spawn("echo", &mut command)?;
        server.wait_for(loopback(port))?;
        let stream = TcpStream::connect(loopback(port))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            server,
            stream,
            request: vec![0xa5; request_bytes],
            reply: vec![0; reply_bytes],
        })
    }

    pub(crate) fn round_trip(&mut self) -> Result<()> {
        self.stream.write_all(&self.request)?;
        self.stream.read_exact(&mut self.reply)?;
        Ok(())
    }
}
