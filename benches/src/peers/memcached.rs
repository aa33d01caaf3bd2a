//! memcached with room for large items, spoken to in its text protocol.

use super::LineReader;
use crate::process::{Server, free_port, loopback, require};
use anyhow::{Result, ensure};
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

pub(crate) struct Memcached {
    pub(crate) server: Server,
    port: u16,
}

impl Memcached {
    pub(crate) fn start() -> Result<Self> {
        let program = require("memcached", "memcached")?;
        let port = free_port()?;
        let port_text = port.to_string();
        let mut command = Command::new(program);
        // As root it insists on a user to become; 2 GiB of items of up to 16 MiB; two worker threads for two cores.
        command.args(["-u", "nobody", "-l", "127.0.0.1", "-p", &port_text]);
        command.args(["-U", "0", "-m", "2048", "-I", "16m", "-t", "2"]);
        let mut server = Server::spawn("memcached", &mut command)?;
        server.wait_for(loopback(port))?;
        Ok(Self { server, port })
    }

    pub(crate) fn connect(&self) -> Result<MemcachedConnection> {
        let stream = TcpStream::connect(loopback(self.port))?;
        stream.set_nodelay(true)?;
        Ok(MemcachedConnection {
            reader: LineReader::new(stream),
        })
    }
}

pub(crate) struct MemcachedConnection {
    reader: LineReader,
}

impl MemcachedConnection {
    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let head = format!("set {key} 0 0 {}\r\n", value.len());
        super::write_all_vectored(self.reader.stream(), &[head.as_bytes(), value, b"\r\n"])?;
        let reply = self.reader.line()?;
        ensure!(reply == "STORED", "memcached set answered {reply}");
        Ok(())
    }

    pub(crate) fn get(&mut self, key: &str, value: &mut [u8]) -> Result<()> {
        self.reader
            .stream()
            .write_all(format!("get {key}\r\n").as_bytes())?;
        let head = self.reader.line()?;
        let expected = format!("VALUE {key} 0 {}", value.len());
        ensure!(head == expected, "memcached get answered {head}");
        self.reader.exact(value)?;
        ensure!(self.reader.line()?.is_empty() && self.reader.line()? == "END");
        Ok(())
    }
}
