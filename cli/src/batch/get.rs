//! `memkv batch get`: reads many values, into a directory or as JSON Lines.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use memkv_client::{Client, OpError, Value, outcome_of};
use serde_json::json;

use super::{CALL_ENTRIES, Progress};
use crate::connection::{Connection, in_one_line};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Lines};
use crate::{base64, out};

/// Read many keys, into a directory or as JSON Lines
#[derive(Debug, Args)]
#[command(
    after_help = "Without --directory it prints one line of JSON per key: outcome (ok, miss, error or transport),
version, bytes, and the value as \"value\" where it is text, else as \"base64\".

Examples:
  memkv batch get a b c -d out/                 files out/a, out/b and out/c
  memkv batch get --keys-from keys.txt | jq -r 'select(.outcome == \"miss\").key'

Exit codes: 0 all were read, 4 no server, 5 some weren't there, 6 some failed, 8 not in
time; 2 or 1 when all failed."
)]
pub(crate) struct Get {
    /// The keys
    keys: Vec<String>,
    /// Read keys from this file, one per line; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    keys_from: Option<PathBuf>,
    /// Write each value to a file named by its key in this directory
    #[arg(short, long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

impl Get {
    pub(crate) fn run(mut self) -> Outcome {
        let keys = match &self.keys_from {
            Some(file) => lines(file)?,
            None => std::mem::take(&mut self.keys),
        };
        if keys.is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                anyhow!("no keys; name some, or give --keys-from FILE"),
            ));
        }
        let client = self.connection.client()?;
        let mut progress = Progress::new(Some(keys.len() as u64));
        // Nobody knows how long a value is before it comes, so calls start small and follow what came.
        let mut entries = 16;
        let mut left = keys.as_slice();
        while !left.is_empty() {
            let (call, rest) = left.split_at(entries.min(left.len()));
            left = rest;
            let bytes = self.call(&client, call, &mut progress)?;
            progress.advance(call.len() as u64, bytes);
            let mean = (bytes / call.len() as u64).max(1);
            entries = usize::try_from(super::CALL_BYTES / mean)
                .unwrap_or(usize::MAX)
                .clamp(1, CALL_ENTRIES);
        }
        progress.finish("read")
    }

    fn call(
        &self,
        client: &Client,
        keys: &[String],
        progress: &mut Progress,
    ) -> Result<u64, Failure> {
        let options = self.connection.options();
        let mut bytes = 0;
        for (key, result) in keys
            .iter()
            .zip(client.with(&options).batch_get_values(keys))
        {
            bytes += result
                .as_ref()
                .ok()
                .and_then(Option::as_ref)
                .map_or(0, |value| value.bytes.len() as u64);
            match &self.directory {
                Some(directory) => save(directory, key, result, progress),
                None => {
                    progress.tally.add(&result);
                    let row = row(key, &result);
                    progress.bar.suspend(|| out::print(&format!("{row}\n")))?;
                }
            }
        }
        Ok(bytes)
    }
}

/// Far longer than a key can be, so that a long one is refused by its bound like any other.
const KEY_LINE_BYTES_MAX: u64 = 1 << 20;

fn lines(file: &Path) -> Result<Vec<String>, Failure> {
    let from: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let opened = File::open(file).with_context(|| format!("read {}", file.display()))?;
        Box::new(BufReader::new(opened))
    };
    let mut lines = Lines::new(from, file, KEY_LINE_BYTES_MAX).collect::<Result<Vec<_>, _>>()?;
    lines.retain(|line| !line.is_empty());
    Ok(lines)
}

fn row(key: &str, result: &Result<Option<Value>, OpError>) -> serde_json::Value {
    let mut row = json!({"key": key, "outcome": outcome_of(result).name()});
    match result {
        Ok(Some(value)) => {
            row["version"] = value.version.into();
            row["bytes"] = value.bytes.len().into();
            match std::str::from_utf8(&value.bytes) {
                Ok(text) => row["value"] = text.into(),
                Err(_) => row["base64"] = base64::encode(&value.bytes).into(),
            }
        }
        Ok(None) => {}
        Err(error) => row["error"] = in_one_line(error).into(),
    }
    row
}

fn save(
    directory: &Path,
    key: &str,
    result: Result<Option<Value>, OpError>,
    progress: &mut Progress,
) {
    let Some(path) = place(directory, key) else {
        progress.tally.add_failed(Exit::Failed);
        let text = "isn't a path inside a directory; read it with memkv get -o";
        progress
            .bar
            .suspend(|| out::tell(format_args!("memkv: {key}: the key {text}")));
        return;
    };
    let why = match &result {
        Ok(Some(value)) => match write_below(directory, &path, &value.bytes) {
            Ok(()) => None,
            // One name that can't be written is no reason to give up on the others.
            Err(error) => {
                progress.tally.add_failed(Exit::Failed);
                let tell = || out::tell(format_args!("memkv: {key}: {error:#}"));
                return progress.bar.suspend(tell);
            }
        },
        Ok(None) => Some("not there".to_owned()),
        Err(error) => Some(in_one_line(error)),
    };
    progress.tally.add(&result);
    if let Some(why) = why {
        progress
            .bar
            .suspend(|| out::tell(format_args!("memkv: {key}: {why}")));
    }
}

fn write_below(directory: &Path, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let parent = path.parent().unwrap_or(directory);
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    files::write(path, bytes)
}

/// Where a key's file goes; `None` where it would leave the directory.
fn place(directory: &Path, key: &str) -> Option<PathBuf> {
    let path = Path::new(key);
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (inside && !key.is_empty() && !key.ends_with('/') && !key.contains('\0'))
        .then(|| directory.join(path))
}

#[cfg(test)]
mod tests {
    use memkv_client::Attrs;

    use super::*;

    #[test]
    fn no_key_names_a_file_outside_of_the_directory() {
        let directory = Path::new("/out");
        assert_eq!(
            place(directory, "a/b.bin"),
            Some(PathBuf::from("/out/a/b.bin"))
        );
        for key in [
            "",
            "..",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a/",
            ".",
            "a\0b",
        ] {
            assert_eq!(place(directory, key), None, "{key:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_fails_its_entry_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(None);
        for key in ["p/a", "p/a/deeper", "p/b"] {
            let value = Value {
                bytes: key.as_bytes().to_vec(),
                version: 1,
                attrs: Attrs::default(),
            };
            save(directory.path(), key, Ok(Some(value)), &mut progress);
        }
        let tally = progress.tally;
        assert_eq!((tally.done, tally.failed), (2, 1));
        assert_eq!(tally.exit(), Exit::Partial);
        assert_eq!(fs::read(directory.path().join("p/b")).unwrap(), b"p/b");
    }
}
