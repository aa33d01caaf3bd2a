//! memkv itself: the product's server library in a process of its own, driven by the product's client.

use crate::bulk::Connection;
use crate::no_mac::NoMac;
use crate::process::{Server, free_port, loopback};
use anyhow::{Context, Result, ensure};
use memkv_client::Client;
use memkv_client::config::ClientConfig;
use memkv_proto::mac::{FrameMac, HmacSha256};
use memkv_server::config::{Config, Facts};
use memkv_settings::{AuthKey, Environment, LoadOptions};
use std::fmt::Write as _;
use std::process::Command;

/// Signs the sessions of a benchmark; nobody else can reach them on loopback for the seconds they live.
const AUTH_KEY: &str = "6d656d6b762062656e63686d61726b206b65792c206e6f742061207365637265";

/// How a server under test differs from the product's defaults.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// Sign frames, as the product always does.
    pub(crate) mac: bool,
    /// Record Timelines and metrics, as the product always does.
    pub(crate) telemetry: bool,
    /// Send this share of ops as spans to a collector at this address.
    pub(crate) otlp: Option<(String, f64)>,
    /// `storage.max_size` of memory mode.
    pub(crate) store_bytes: u64,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            mac: true,
            telemetry: true,
            otlp: None,
            store_bytes: 1 << 30,
        }
    }
}

/// A running server of ours.
pub(crate) struct Ours {
    pub(crate) server: Server,
    port: u16,
}

impl Ours {
    /// Starts this program's `serve` on a free port and waits for it.
    pub(crate) fn start(variant: &Variant) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", &port.to_string(), &variant.store_bytes.to_string()]);
        if !variant.mac {
            command.arg("--no-mac");
        }
        if !variant.telemetry {
            command.arg("--no-telemetry");
        }
        if let Some((endpoint, ratio)) = &variant.otlp {
            command.args(["--otlp", endpoint, "--sample-ratio", &ratio.to_string()]);
        }
        let mut server = Server::spawn("memkv", &mut command)?;
        server.wait_for(loopback(port))?;
        Ok(Self { server, port })
    }

    /// A client with one lane per thread that will use it.
    pub(crate) fn client<M: FrameMac>(&self, lanes: usize) -> Result<Client<M>> {
        let key = AuthKey::from_hex(AUTH_KEY).context("the benchmark's own key")?;
        let mut config = ClientConfig::new([loopback(self.port).to_string()], key);
        config.num_connections = lanes;
        let client = Client::with_mac(config).context("make a client")?;
        client.warmup().context("connect to memkv")?;
        Ok(client)
    }

    pub(crate) fn connections(&self, count: usize) -> Result<Vec<Box<dyn Connection>>> {
        (0..count)
            .map(|_| Ok(Box::new(self.client::<HmacSha256>(1)?) as Box<dyn Connection>))
            .collect()
    }
}

impl<M: FrameMac> Connection for Client<M> {
    fn get(&mut self, key: &str, value: &mut [u8]) -> Result<()> {
        let found = Client::get_into(self, key.as_bytes(), value)?;
        ensure!(
            found == Some(value.len()),
            "memkv get of {key} gave {found:?}"
        );
        Ok(())
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        Client::put(self, key.as_bytes(), value)?;
        Ok(())
    }
}

/// What `serve` is asked for on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    port: u16,
    store_bytes: u64,
    #[arg(long)]
    no_mac: bool,
    #[arg(long)]
    no_telemetry: bool,
    #[arg(long)]
    otlp: Option<String>,
    #[arg(long, default_value_t = 0.0)]
    sample_ratio: f64,
}

impl Serve {
    /// Serves until it is ended.
    pub(crate) fn run(&self) -> Result<()> {
        if self.no_mac {
            self.serve::<NoMac>()
        } else {
            self.serve::<HmacSha256>()
        }
    }

    fn serve<M: FrameMac>(&self) -> Result<()> {
        let yaml = self.yaml();
        let environment = Environment::default();
        let config = Config::from_yaml(
            "bench",
            yaml.as_bytes(),
            &environment,
            &Facts::read(),
            &LoadOptions::default(),
        )?;
        let mut options = memkv_server::StartOptions::default();
        if self.no_telemetry {
            options.telemetry = Some(memkv_telemetry::Telemetry::off());
        }
        let _running = memkv_server::Server::<M>::start(config, options)?;
        loop {
            std::thread::park();
        }
    }

    fn yaml(&self) -> String {
        let mut yaml = format!(
            "network:\n  address: 127.0.0.1:{}\n  auth_key: {AUTH_KEY}\nmemory:\n  max_size: 512 MiB\n\
             storage:\n  mode: memory\n  max_size: {} B\nlogging:\n  level: error\n",
            self.port, self.store_bytes
        );
        if let Some(endpoint) = &self.otlp {
            let _ = write!(
                yaml,
                "telemetry:\n  otlp_endpoint: {endpoint}\n  sample_ratio: {}\n",
                self.sample_ratio
            );
        }
        yaml
    }
}
