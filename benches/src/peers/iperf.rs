//! iperf3 on loopback: what the kernel's TCP moves without anybody storing it, printed as the limit beside a row.

use crate::process::{Server, free_port, loopback, require};
use anyhow::{Context, Result};
use std::process::Command;

/// Gigabytes per second (10^9 bytes) over `connections` parallel streams for `seconds`.
pub(crate) fn gigabytes_per_second(connections: usize, seconds: u32) -> Result<f64> {
    let program = require("iperf3", "iperf3")?;
    let port = free_port()?;
    let port_text = port.to_string();
    let mut server = Server::spawn(
        "iperf3",
        Command::new(&program).args(["-s", "-B", "127.0.0.1", "-p", &port_text]),
    )?;
    server.wait_for(loopback(port))?;
    let (streams, seconds) = (connections.to_string(), seconds.to_string());
    let output = Command::new(program)
        .args([
            "-c",
            "127.0.0.1",
            "-p",
            &port_text,
            "-P",
            &streams,
            "-t",
            &seconds,
        ])
        .args(["-l", "1M", "-J"])
        .output()
        .context("run iperf3")?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let bits = report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .context("iperf3 gave no end.sum_received.bits_per_second")?;
    Ok(bits / 8e9)
}
