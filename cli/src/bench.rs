//! `memkv bench`: puts and gets of several sizes against a server, beside the floor of the path to it.
//!
//! The floor is a bare TCP exchange of the same bytes over loopback, by the same number of threads, in the same run and
//! in turn with ours, so that a machine that slows down slows both. Against a server elsewhere there is no such floor:
//! there, `--line-rate` gives the link's speed and the share of it that payload can have is computed.

mod floor;
mod measure;

use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::ProgressBar;
use memkv_client::Client;
use memkv_client::config::ClientConfig;
use memkv_settings::ByteSize;
use memkv_telemetry::slow::human_us;
use serde_json::json;

use crate::args::size;
use crate::exit::{Exit, Failure, Outcome};
use floor::Floor;
use measure::{Cell, Kind, measure_floor, measure_store};

/// Measure a server: puts and gets by size, beside what the path to it can do
#[derive(Debug, Args)]
#[command(
    after_help = "Each figure is the median of the repeats; ratios are taken repeat by repeat, with their least and greatest.
The keys bench/… are written, and deleted at the end.

Examples:
  memkv bench                                        4 KiB to 4 MiB against MEMKV_SERVERS or 127.0.0.1:9900
  memkv bench --sizes 1KiB --threads 1               latency of small ops
  memkv bench --sizes '16 MiB' --line-rate 200       percentages of a 200 Gbit/s link
  memkv bench --json > bench.json                    for programs"
)]
pub(crate) struct Bench {
    /// Value sizes, comma-separated
    #[arg(long, value_delimiter = ',', default_value = "4 KiB,64 KiB,1 MiB,4 MiB", value_parser = size)]
    sizes: Vec<ByteSize>,
    /// Threads, each with one op under way
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// How long each measurement runs
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How many times everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// Speed of the link to the server in Gbit/s, to print percentages of what its payload can be
    #[arg(long, value_name = "GBIT")]
    line_rate: Option<f64>,
    /// MTU that the percentages count with
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Bytes that Ethernet, IPv4 and TCP with time stamps add to each packet of `mtu`: preamble 8, header 14, FCS 4, gap 12
/// on the outside of the MTU; 20 + 32 inside it.
const ETHERNET_BYTES: f64 = 38.0;
const TCP_IP_BYTES: f64 = 52.0;

/// Payload gigabytes per second that TCP can have of a link of `gbit`.
fn payload_ceiling(gbit: f64, mtu: u32) -> f64 {
    let mtu = f64::from(mtu);
    gbit / 8.0 * (mtu - TCP_IP_BYTES) / (mtu + ETHERNET_BYTES)
}

impl Bench {
    pub(crate) fn run(self) -> Outcome {
        if !(self.seconds > 0.0 && self.seconds <= 3600.0) {
            let error = anyhow!(
                "--seconds is {}; it must be above 0 and at most 3600",
                self.seconds
            );
            return Err(Failure::new(Exit::Usage, error));
        }
        let mut config =
            ClientConfig::from_process().map_err(|error| Failure::new(Exit::Config, error))?;
        crate::connection::warn(&config);
        config.num_connections = config.num_connections.max(usize::from(self.threads));
        let loopback = config
            .servers
            .iter()
            .all(|server| is_loopback(&server.server));
        let client = Client::new(config).map_err(|error| Failure::new(Exit::Config, error))?;
        client.warmup().map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                anyhow::Error::new(error).context("connect to the servers"),
            )
        })?;
        let floor = loopback
            .then(Floor::start)
            .transpose()
            .context("start the loopback floor")?;
        let cells = self.measure(&client, floor.as_ref())?;
        let shown = if self.json {
            self.json(&cells)
        } else {
            self.table(&cells)
        };
        crate::out::print(&shown)?;
        Ok(Exit::Done)
    }

    fn measure(&self, client: &Client, floor: Option<&Floor>) -> Result<Vec<Cell>, Failure> {
        let steps = self.sizes.len() as u64 * u64::from(self.repeats) * 2;
        let bar = if self.json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(steps)
        };
        let (threads, span) = (
            usize::from(self.threads),
            Duration::from_secs_f64(self.seconds),
        );
        let mut cells = Vec::new();
        for size in &self.sizes {
            let bytes = usize::try_from(size.0).context("size")?;
            let mut pair = [Cell::new(Kind::Put, size.0), Cell::new(Kind::Get, size.0)];
            for _ in 0..self.repeats {
                for cell in &mut pair {
                    let run = measure_store(client, cell.kind, bytes, threads, span)?;
                    let bare = floor
                        .map(|floor| measure_floor(floor, cell.kind, bytes, threads, span))
                        .transpose()?;
                    cell.push(run, bare);
                    bar.inc(1);
                }
            }
            measure::clean(client);
            cells.extend(pair);
        }
        bar.finish_and_clear();
        Ok(cells)
    }

    fn table(&self, cells: &[Cell]) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
        let mut head = vec![
            "op",
            "size",
            "ops/s",
            "GB/s",
            "GiB/s",
            "p50",
            "p99",
            "p99.9",
            "CPU µs/op",
            "of the floor",
        ];
        if self.line_rate.is_some() {
            head.push("of the line");
        }
        table.set_header(head);
        for cell in cells {
            let gigabytes = cell.ops_per_second() * cell.bytes as f64 / 1e9;
            let mut row = vec![
                cell.kind.name().to_owned(),
                crate::chart::bytes(cell.bytes),
                format!("{:.0}", cell.ops_per_second()),
                format!("{gigabytes:.2}"),
                format!("{:.2}", gigabytes * 1e9 / f64::from(1 << 30)),
                human_us(cell.latency_us(0.5)),
                human_us(cell.latency_us(0.99)),
                human_us(cell.latency_us(0.999)),
                format!("{:.1}", cell.cpu_us_per_op()),
                cell.floor_ratio().map_or_else(
                    || "-".to_owned(),
                    |(median, least, most)| format!("{median:.2} ({least:.2}–{most:.2})"),
                ),
            ];
            if let Some(gbit) = self.line_rate {
                row.push(format!(
                    "{:.0} %",
                    gigabytes / payload_ceiling(gbit, self.mtu) * 100.0
                ));
            }
            table.add_row(row);
        }
        format!(
            "{table}\n{} threads, {} repeats of {} s; the floor is a bare TCP exchange of the same bytes on loopback; \
             CPU is this process's, without the server's.\n",
            self.threads, self.repeats, self.seconds
        )
    }

    fn json(&self, cells: &[Cell]) -> String {
        let rows: Vec<_> = cells
            .iter()
            .map(|cell| {
                let gigabytes = cell.ops_per_second() * cell.bytes as f64 / 1e9;
                json!({
                    "op": cell.kind.name(),
                    "bytes": cell.bytes,
                    "ops_per_second": cell.ops_per_second(),
                    "gigabytes_per_second": gigabytes,
                    "p50_us": cell.latency_us(0.5),
                    "p99_us": cell.latency_us(0.99),
                    "p999_us": cell.latency_us(0.999),
                    "cpu_us_per_op": cell.cpu_us_per_op(),
                    "floor_ratio": cell.floor_ratio().map(|(median, least, most)| json!({
                        "median": median, "min": least, "max": most,
                    })),
                    "line_ratio": self.line_rate.map(|gbit| gigabytes / payload_ceiling(gbit, self.mtu)),
                })
            })
            .collect();
        format!(
            "{:#}\n",
            json!({ "threads": self.threads, "repeats": self.repeats, "seconds": self.seconds, "rows": rows })
        )
    }
}

fn is_loopback(server: &str) -> bool {
    let Ok(mut addresses) = server.to_socket_addrs() else {
        return false;
    };
    addresses.all(|address| match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_is_below_the_line() {
        // 100 Gbit/s is 12.5 GB/s raw; with jumbo frames TCP's payload gets 99 % of it, with 1500 bytes 94 %.
        assert!((payload_ceiling(100.0, 9000) - 12.37).abs() < 0.02);
        assert!((payload_ceiling(100.0, 1500) - 11.77).abs() < 0.02);
    }

    #[test]
    fn loopback_is_told_from_elsewhere() {
        assert!(is_loopback("127.0.0.1:9900") && is_loopback("[::1]:9900"));
        assert!(!is_loopback("192.0.2.1:9900") && !is_loopback("not an address"));
    }
}
