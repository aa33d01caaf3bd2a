//! `memkv get`: reads one value.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use crate::chart;
use crate::connection::{Connection, failed};
use crate::exit::{Exit, Failure, Outcome};
use crate::{files, out};

/// Read the value of a key
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv get model/layer-0 -o layer0.bin         into a file, which appears whole or not at all
  memkv get backup | tar t                      through a pipe
  memkv get session --json -o s.bin             with version and attributes as JSON on stdout

Exit codes: 0 read, 1 failed on the server, damaged, or --output can't be written, 2 a key out of
bounds, 4 no server, 5 the key isn't there, 8 not in time.")]
pub(crate) struct Get {
    /// The key
    key: String,
    /// Write the value to this file instead of stdout, which - is too; devices and FIFOs are written into
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print version and attributes as JSON on stdout; the value goes to --output
    #[arg(long, requires = "output")]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Get {
    pub(crate) fn run(self) -> Outcome {
        // Both on stdout could not be told apart.
        let output = self
            .output
            .as_deref()
            .filter(|path| *path != Path::new("-"));
        if self.json && output.is_none() {
            let text = "--json prints on stdout, where --output - puts the value too; give --output a file";
            return Err(Failure::new(Exit::Usage, anyhow!(text)));
        }
        let client = self.connection.client()?;
        let options = self.connection.options();
        let found = client.with(&options).get_value(self.key.as_bytes());
        let found = found.map_err(|error| failed(&format!("get {}", self.key), error))?;
        let Some(value) = found else {
            return Err(Failure::new(
                Exit::Missing,
                anyhow!("get {}: the key isn't there", self.key),
            ));
        };
        match output {
            Some(path) => files::write(path, &value.bytes)?,
            None => print(&value.bytes)?,
        }
        if self.json {
            let attrs = &value.attrs;
            let row = json!({
                "key": self.key, "bytes": value.bytes.len(), "version": value.version, "namespace": attrs.namespace,
                "type_tag": attrs.type_tag, "flags": attrs.flags, "expiry_ms": attrs.expiry_ms,
                "class": attrs.class.name(),
            });
            out::print(&format!("{row}\n"))?;
        } else if let Some(path) = output {
            let (shown, version) = (chart::bytes(value.bytes.len() as u64), value.version);
            out::tell(format_args!(
                "read {}: {shown}, version {version}, into {}",
                self.key,
                path.display()
            ));
        }
        Ok(Exit::Done)
    }
}

/// Writes a value to stdout, unless that is a terminal and the value would garble it.
fn print(value: &[u8]) -> Result<(), Failure> {
    let garbles = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\r' | b'\t');
    if io::stdout().is_terminal()
        && (std::str::from_utf8(value).is_err() || value.iter().any(garbles))
    {
        let text = "the value isn't text, which a terminal can't show; use --output FILE or a pipe";
        return Err(Failure::new(Exit::Usage, anyhow!(text)));
    }
    Ok(out::print_bytes(value)?)
}
