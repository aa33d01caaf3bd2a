//! redis-server with persistence off, spoken to in RESP2.

use super::LineReader;
use crate::process::{Server, free_port, loopback, require};
use anyhow::{Result, ensure};
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;

pub(crate) struct Redis {
    pub(crate) server: Server,
    port: u16,
}

impl Redis {
    pub(crate) fn start() -> Result<Self> {
        let program = require("redis-server", "redis-server")?;
        let port = free_port()?;
        let mut server = Server::spawn(
            "redis-server",
            Command::new(program).args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
            ]),
        )?;
        server.wait_for(loopback(port))?;
        Ok(Self { server, port })
    }

    pub(crate) fn connect(&self) -> Result<RedisConnection> {
        let stream = TcpStream::connect(loopback(self.port))?;
        stream.set_nodelay(true)?;
        Ok(RedisConnection {
            reader: LineReader::new(stream),
        })
    }
}

pub(crate) struct RedisConnection {
    reader: LineReader,
}

impl RedisConnection {
    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let head = format!(
            "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n",
            key.len(),
            value.len()
        );
        super::write_all_vectored(self.reader.stream(), &[head.as_bytes(), value, b"\r\n"])?;
        let reply = self.reader.line()?;
        ensure!(reply == "+OK", "redis SET answered {reply}");
        Ok(())
    }

    pub(crate) fn get(&mut self, key: &str, value: &mut [u8]) -> Result<()> {
        let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        self.reader.stream().write_all(request.as_bytes())?;
        let head = self.reader.line()?;
        ensure!(
            head == format!("${}", value.len()),
            "redis GET answered {head}"
        );
        self.reader.exact(value)?;
        let mut end = [0u8; 2];
        self.reader.exact(&mut end)?;
        Ok(())
    }
}
