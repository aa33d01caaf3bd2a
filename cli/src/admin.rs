//! `memkv admin`: what a server's admin endpoint says, for people and for programs.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::admin_http::Endpoints;
use crate::chart;
use crate::exit::{Exit, Outcome};

/// Ask servers' admin endpoints
#[derive(Debug, Args)]
pub(crate) struct AdminVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Status(Status),
}

/// Show health, capacity, connections and findings of servers
#[derive(Debug, Args)]
#[command(
    after_help = "MEMKV_SERVERS names admin addresses here and data addresses for clients; a bare host:port is asked as an
admin address first and then at the port above it, so either works.

Ends with exit code 1 if a server is not ready.

Examples:
  memkv admin status
  memkv admin status --servers 10.0.0.1:9901,10.0.0.2:9901
  memkv admin status --servers https://kv1:9901 --ca /etc/memkv/tls/fullchain.pem
  memkv admin status --json | jq '.[].storage.used_bytes_total'"
)]
struct Status {
    #[command(flatten)]
    endpoints: Endpoints,
    /// Print JSON: the whole of /v1/status of each server
    #[arg(long)]
    json: bool,
}

impl AdminVerb {
    pub(crate) fn run(self) -> Outcome {
        match self.verb {
            Verb::Status(status) => status.run(),
        }
    }
}

impl Status {
    fn run(self) -> Outcome {
        let mut found = Vec::new();
        for admin in self.endpoints.all()? {
            let status = admin.json("/v1/status")?;
            found.push((admin.url().to_owned(), status));
        }
        let ready = found
            .iter()
            .all(|(_, status)| status["ready"] == Value::Bool(true));
        let text = if self.json {
            let all: Vec<Value> = found
                .into_iter()
                .map(|(url, status)| with_url(&url, status))
                .collect();
            format!("{:#}\n", json!(all))
        } else {
            let shown: Vec<String> = found
                .iter()
                .map(|(url, status)| describe(url, status))
                .collect();
            shown.join("\n")
        };
        crate::out::print(&text)?;
        Ok(if ready { Exit::Done } else { Exit::Failed })
    }
}

fn with_url(url: &str, mut status: Value) -> Value {
    status["admin_url"] = json!(url);
    status
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), chart::bytes)
}

/// Several lines: the server, its totals, a row a device, what isn't as it should be.
fn describe(url: &str, status: &Value) -> String {
    let (storage, memory) = (&status["storage"], &status["memory"]);
    let mut out = format!(
        "{url}: {}, {}, {}, up {:.0} s\n",
        text(&status["status"]),
        text(&status["stage"]),
        text(&status["version"]),
        status["uptime_seconds"].as_f64().unwrap_or(0.0),
    );
    for reason in status["not_ready_because"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  not ready: {}", text(reason));
    }
    let _ = writeln!(
        out,
        "  storage      {} mode, {} of {} used, {} entries",
        text(&storage["mode"]),
        size(&storage["used_bytes_total"]),
        size(&storage["usable_bytes_total"]),
        text(&storage["entries"]),
    );
    let _ = writeln!(
        out,
        "  pool         {} of {} free, {} hot in {} entries",
        size(&memory["pool_free_bytes"]),
        size(&memory["pool_bytes"]),
        size(&memory["hot_bytes"]),
        text(&memory["hot_entries"]),
    );
    let _ = writeln!(
        out,
        "  connections  {} TCP, {} RDMA, {} requests in flight",
        text(&status["connections"]["tcp"]),
        text(&status["connections"]["rdma"]),
        text(&status["requests"]["in_flight"]),
    );
    out.push_str(&devices(&storage["devices"]));
    for finding in status["findings"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "  {}: {} [{}]",
            text(&finding["severity"]),
            text(&finding["text"]),
            text(&finding["id"]),
        );
    }
    out
}

fn devices(devices: &Value) -> String {
    let rows = devices.as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "device", "state", "used", "usable", "written", "read", "errors",
    ]);
    for device in rows {
        let state = match &device["offline_because"] {
            Value::Null => "online".to_owned(),
            reason => format!("offline: {}", text(reason)),
        };
        table.add_row([
            text(&device["media"]),
            state,
            size(&device["used_bytes"]),
            size(&device["usable_bytes"]),
            size(&device["written_bytes"]),
            size(&device["read_bytes"]),
            text(&device["errors"]),
        ]);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_is_gone_and_a_finding_are_seen() {
        let status = json!({
            "status": "degraded", "stage": "serving", "version": "0.0.0", "uptime_seconds": 1.5, "ready": true,
            "storage": {"mode": "direct", "used_bytes_total": 1024, "usable_bytes_total": 2048, "entries": 3,
                "devices": [{"media": "/dev/nvme0n1", "offline_because": "no such device"}]},
            "findings": [{"id": "pool-plain-pages", "severity": "info", "text": "no huge pages"}],
        });
        let shown = describe("http://h:9901", &status);
        for wanted in [
            "degraded",
            "1.00 KiB of 2.00 KiB",
            "offline: no such device",
            "no huge pages",
        ] {
            assert!(shown.contains(wanted), "{wanted} in {shown}");
        }
    }

    #[test]
    fn an_unready_server_says_why() {
        let status = json!({"not_ready_because": ["recovery runs"]});
        assert!(describe("u", &status).contains("not ready: recovery runs"));
    }
}
