//! iperf3 on loopback: what the kernel's TCP moves without anybody storing it, printed as the limit beside a row.

use crate::process::{Server, free_port, require};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Duration;

/// Gigabytes per second (10^9 bytes) over `connections` parallel streams for `seconds`.
pub(crate) fn gigabytes_per_second(connections: usize, seconds: u32) -> Result<f64> {
    let program = require("iperf3", "iperf3")?;
    let port = free_port()?;
    let port_text = port.to_string();
    let _server = Server::spawn(
        "iperf3",
        Command::new(&program).args(["-s", "-B", "127.0.0.1", "-p", &port_text]),
    )?;
    let (streams, seconds) = (connections.to_string(), seconds.to_string());
    // A probing connection would count as its one client, so the first real one is tried until it is let in.
    for _ in 0..50 {
        let output = Command::new(&program)
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
        if let Some(bits) = report["end"]["sum_received"]["bits_per_second"].as_f64() {
            return Ok(bits / 8e9);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("iperf3 gave no end.sum_received.bits_per_second in 50 tries")
}
