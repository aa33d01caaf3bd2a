//! Mooncake Store over its TCP transport: a master, a process that lends RAM, and a client process without any.

use crate::process::{Server, cpu_seconds_of, free_port, loopback, require};
use crate::stats::Measure;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

/// Where `make bench` puts the virtual environment with the wheel and the stub of the CUDA driver.
fn home() -> Result<PathBuf> {
    let cache = std::env::var_os("MEMKV_BENCH_PEERS")
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/memkv/peers"))
        });
    cache.context("neither MEMKV_BENCH_PEERS nor HOME is set")
}

pub(crate) struct Mooncake {
    master: Server,
    store: Server,
    client: Server,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    _store_stdin: ChildStdin,
}

impl Mooncake {
    /// Installs the wheel where it is missing, starts all three processes and waits for both ends to join.
    pub(crate) fn start(segment_bytes: u64, buffer_bytes: u64) -> Result<Self> {
        let home = home()?;
        install(&home)?;
        let site = home.join("mooncake/lib/site");
        let (rpc, metadata, metrics) = (free_port()?, free_port()?, free_port()?);
        let libraries = std::env::join_paths([home.join("stub"), site.join("cuda")])?;
        let mut master = Command::new(site.join("mooncake/mooncake_master"));
        master.env("LD_LIBRARY_PATH", &libraries).args([
            format!("-rpc_port={rpc}"),
            format!("-metrics_port={metrics}"),
            "-enable_http_metadata_server=true".to_owned(),
            "-http_metadata_server_host=127.0.0.1".to_owned(),
            format!("-http_metadata_server_port={metadata}"),
            // Its default lease of 5 s expires inside a run of slow batches and fails them.
            "-default_kv_lease_ttl=600000".to_owned(),
        ]);
        let mut master = Server::spawn("mooncake_master", &mut master)?;
        master.wait_for(loopback(rpc))?;
        master.wait_for(loopback(metadata))?;
        let role = |role: &str, bytes: u64| -> Result<_> {
            let mut child = Command::new(home.join("mooncake/bin/python"))
                .env("LD_LIBRARY_PATH", &libraries)
                .args(["-c", include_str!("../../peers/mooncake_peer.py")])
                .args([role, "--port", &free_port()?.to_string()])
                .args([
                    "--master-port",
                    &rpc.to_string(),
                    "--metadata-port",
                    &metadata.to_string(),
                ])
                .args(["--bytes", &bytes.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .context("start mooncake's python peer")?;
            let stdin = child.stdin.take().context("piped stdin")?;
            let mut stdout = BufReader::new(child.stdout.take().context("piped stdout")?);
            let server = Server::adopt(role, child);
            answer(&mut stdout).with_context(|| format!("mooncake {role} did not join"))?;
            Ok((server, stdin, stdout))
        };
        let (store, store_stdin, _) = role("store", segment_bytes)?;
        let (client, commands, answers) = role("client", buffer_bytes)?;
        Ok(Self {
            master,
            store,
            client,
            commands,
            answers,
            _store_stdin: store_stdin,
        })
    }

    /// Runs `op` ("put", "get" or "exists") over `keys` `rounds` times; work counts keys.
    pub(crate) fn run(
        &mut self,
        op: &str,
        keys: &[String],
        bytes: usize,
        rounds: usize,
    ) -> Result<Measure> {
        let before = self.cpu_seconds();
        let command = json!({"op": op, "keys": keys, "bytes": bytes, "rounds": rounds});
        writeln!(self.commands, "{command}")?;
        let reply = answer(&mut self.answers).with_context(|| format!("mooncake {op}"))?;
        Ok(Measure {
            seconds: reply["seconds"].as_f64().context("seconds")?,
            work: reply["ops"].as_f64().context("ops")?,
            cpu_seconds: self.cpu_seconds() - before,
        })
    }

    fn cpu_seconds(&self) -> f64 {
        [&self.master, &self.store, &self.client]
            .map(|p| cpu_seconds_of(p.pid()))
            .iter()
            .sum()
    }
}

/// The next JSON line; the transfer engine logs to the same stream now and then, which is passed over.
fn answer(lines: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            bail!("the process ended");
        }
        if let Ok(value) = serde_json::from_str(&line) {
            return Ok(value);
        }
    }
}

/// Makes the virtual environment, once: the wheel, the CUDA runtime it links, and a stub of the CUDA driver.
///
/// The wheel is built for GPUs and links libcuda, which only a driver installs. The stub answers every call it could
/// make with CUDA_ERROR_NO_DEVICE, which is the truth here.
fn install(home: &Path) -> Result<()> {
    let script = include_str!("../../peers/install_mooncake.sh");
    let status = Command::new(require("bash", "bash")?)
        .args(["-c", script, "install_mooncake.sh"])
        .arg(home)
        .status()?;
    if !status.success() {
        bail!("install_mooncake.sh ended with {status}");
    }
    Ok(())
}
