//! `memkv put`: stores one value.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use memkv_client::{Attrs, Class, Condition};
use serde_json::json;

use crate::chart;
use crate::connection::{Connection, explain_too_large, failed, seconds};
use crate::exit::{Exit, Outcome};
use crate::{files, out};

/// Store a file, or stdin, under a key
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv put model/layer-0 layer0.bin            store a file
  tar c dir | memkv put backup -                store what comes through a pipe
  memkv put lock - --if-absent < /dev/null      only if nobody has it yet
  memkv put session s.bin --ttl 3600 --json     let it expire in an hour; print the version as JSON

Exit codes: 0 stored, 1 refused by the server (a condition that doesn't hold, a full store), 2 a key or
value out of bounds, 4 no server, 8 not in time.")]
pub(crate) struct Put {
    /// The key, 1 to 512 bytes
    key: String,
    /// The file; - is stdin
    file: PathBuf,
    /// Only if the key isn't there
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Only if the key is there with exactly this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Never evict it: a full store refuses it instead
    #[arg(long)]
    durable: bool,
    /// Seconds until it expires
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ttl: Option<std::time::Duration>,
    /// Print what was stored as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Put {
    pub(crate) fn run(self) -> Outcome {
        let value = if self.file == Path::new("-") {
            files::read_stdin()?
        } else {
            files::read(&self.file)?
        };
        let client = self.connection.client()?;
        let condition = match (self.if_absent, self.if_version) {
            (true, _) => Condition::IfAbsent,
            (false, Some(version)) => Condition::IfVersion(version),
            (false, None) => Condition::None,
        };
        let options = self.connection.options();
        let put =
            client
                .with(&options)
                .put_with(self.key.as_bytes(), &value, self.attrs(), condition);
        let version = put.map_err(|error| {
            let entry = (self.key.as_bytes(), value.len());
            let why = explain_too_large(&client, &options, entry, &error);
            let what = format!("put {}", self.key);
            failed(
                &why.map_or(what.clone(), |why| format!("{what}: {why}")),
                error,
            )
        })?;
        let bytes = value.len() as u64;
        if self.json {
            out::print(&format!(
                "{}\n",
                json!({"key": self.key, "bytes": bytes, "version": version})
            ))?;
        } else {
            out::tell(format_args!(
                "stored {}: {}, version {version}",
                self.key,
                chart::bytes(bytes)
            ));
        }
        Ok(Exit::Done)
    }

    fn attrs(&self) -> Attrs {
        let class = if self.durable {
            Class::Durable
        } else {
            Class::Evictable
        };
        let expires = self.ttl.and_then(|ttl| SystemTime::now().checked_add(ttl));
        let expires = expires.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let expiry_ms = expires.map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX));
        Attrs {
            namespace: self.connection.namespace,
            class,
            expiry_ms,
            ..Attrs::default()
        }
    }
}
