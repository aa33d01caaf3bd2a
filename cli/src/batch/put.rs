//! `memkv batch put`: stores the files of a directory, or the rows of JSON Lines.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use memkv_client::{Client, OpError};
use memkv_proto::limits::VALUE_BYTES_MAX;
use serde::Deserialize;
use serde_json::json;

use super::{CALL_BYTES, CALL_ENTRIES, Progress};
use crate::connection::{Connection, explain_too_large, in_one_line};
use crate::exit::{Exit, Failure, Outcome};
use crate::files::{self, Lines};
use crate::{base64, out};

/// Store the files of a directory, or JSON Lines
#[derive(Debug, Args)]
#[command(
    after_help = "A directory's files are stored under their paths in it; links in it are counted and skipped. A line of JSON names a key and one of
  {\"key\": \"a\", \"value\": \"text\"}      {\"key\": \"b\", \"base64\": \"AAEC\"}      {\"key\": \"c\", \"file\": \"c.bin\"}

Examples:
  memkv batch put blocks/ --prefix model/
  jq -c '{key: .id, value: .text}' rows.json | memkv batch put -

Exit codes: 0 all were stored, 4 no server, 6 some failed, 8 not in time; 2 or 1 when all
failed."
)]
pub(crate) struct Put {
    /// A directory, or a file of JSON Lines; - is stdin
    source: PathBuf,
    /// Put this in front of every key
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Print one JSON object per entry, instead of only those that failed as text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// A row of JSON Lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    key: String,
    value: Option<String>,
    base64: Option<String>,
    file: Option<PathBuf>,
}

impl Row {
    fn bytes(self) -> Result<Vec<u8>, Failure> {
        match (self.value, self.base64, self.file) {
            (Some(text), None, None) => Ok(text.into_bytes()),
            (None, Some(text), None) => {
                Ok(base64::decode(&text).context("base64 isn't valid base64")?)
            }
            (None, None, Some(file)) => files::read(&file),
            _ => Err(anyhow!("give exactly one of value, base64 and file").into()),
        }
    }
}

/// An entry that is to be stored, or why it can't be.
type Item = (String, Result<Vec<u8>, Failure>);

/// A line holds the longest value as base64, and a key.
const LINE_BYTES_MAX: u64 = VALUE_BYTES_MAX / 3 * 4 + (64 << 10);

impl Put {
    pub(crate) fn run(self) -> Outcome {
        let client = self.connection.client()?;
        if self.source.is_dir() {
            let mut found = Found::default();
            walk(&self.source, &mut found)?;
            let total = found.files.len() as u64;
            let items = found.files.iter().map(|file| self.file(file));
            let outcome = self.store(&client, items, Some(total));
            if let Some(skipped) = found.skipped() {
                out::tell(format_args!("memkv: {skipped}"));
            }
            return outcome;
        }
        let lines: Box<dyn BufRead> = if self.source == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            let file = fs::File::open(&self.source);
            Box::new(BufReader::new(
                file.with_context(|| format!("open {}", self.source.display()))?,
            ))
        };
        let rows = Lines::new(lines, &self.source, LINE_BYTES_MAX).enumerate();
        let rows = rows.filter(|(_, line)| !line.as_ref().is_ok_and(|line| line.trim().is_empty()));
        self.store(
            &client,
            rows.map(|(idx, line)| self.row(idx + 1, line)),
            None,
        )
    }

    fn file(&self, file: &Path) -> Result<Item, Failure> {
        let name = file.strip_prefix(&self.source).unwrap_or(file);
        let Some(name) = name.to_str() else {
            let text = format!(
                "{} isn't a name in UTF-8, so it can't be a key here; rename it",
                file.display()
            );
            return Err(Failure::new(Exit::Usage, anyhow!(text)));
        };
        Ok((format!("{}{name}", self.prefix), files::read(file)))
    }

    fn row(&self, number: usize, line: Result<String, Failure>) -> Result<Item, Failure> {
        let line = line?;
        let row: Row = serde_json::from_str(&line).map_err(|error| {
            let place = format!("{}:{number}", self.source.display());
            Failure::new(Exit::Usage, anyhow::Error::new(error).context(place))
        })?;
        Ok((format!("{}{}", self.prefix, row.key), row.bytes()))
    }

    fn store(
        &self,
        client: &Client,
        items: impl Iterator<Item = Result<Item, Failure>>,
        total: Option<u64>,
    ) -> Outcome {
        let mut progress = Progress::new(total);
        let mut call: Vec<(String, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        for item in items {
            let (key, value) = item?;
            match value {
                Ok(value) => {
                    bytes += value.len() as u64;
                    call.push((key, value));
                }
                Err(failure) => {
                    progress.tally.add_failed(failure.exit);
                    let error = failure.error.map(|error| format!("{error:#}"));
                    self.tell(&mut progress, &key, "error", error, None)?;
                }
            }
            if call.len() >= CALL_ENTRIES || bytes >= CALL_BYTES {
                self.flush(client, &mut call, &mut progress)?;
                bytes = 0;
            }
        }
        self.flush(client, &mut call, &mut progress)?;
        progress.finish("stored")
    }

    fn flush(
        &self,
        client: &Client,
        call: &mut Vec<(String, Vec<u8>)>,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let options = self.connection.options();
        let results: Vec<Result<u64, OpError>> = client.with(&options).batch_put(call);
        let mut bytes = 0;
        for ((key, value), result) in call.iter().zip(&results) {
            let result = result.clone().map(Some);
            progress.tally.add(&result);
            let name = memkv_client::outcome_of(&result).name();
            match result {
                Ok(version) => {
                    bytes += value.len() as u64;
                    self.tell(progress, key, name, None, version)?;
                }
                Err(error) => {
                    let entry = (key.as_bytes(), value.len());
                    let why = explain_too_large(client, &options, entry, &error);
                    let told = in_one_line(&error);
                    let told = why.map_or(told.clone(), |why| format!("{why}: {told}"));
                    self.tell(progress, key, name, Some(told), None)?;
                }
            }
        }
        progress.advance(call.len() as u64, bytes);
        call.clear();
        Ok(())
    }

    fn tell(
        &self,
        progress: &mut Progress,
        key: &str,
        outcome: &str,
        error: Option<String>,
        version: Option<u64>,
    ) -> Result<(), Failure> {
        if self.json {
            let mut row = json!({"key": key, "outcome": outcome});
            if let Some(version) = version {
                row["version"] = version.into();
            }
            if let Some(error) = error {
                row["error"] = error.into();
            }
            return Ok(progress.bar.suspend(|| out::print(&format!("{row}\n")))?);
        }
        if let Some(error) = error {
            progress
                .bar
                .suspend(|| out::tell(format_args!("memkv: {key}: {error}")));
        }
        Ok(())
    }
}

/// What is in a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    files: Vec<PathBuf>,
    links: u64,
    others: u64,
}

impl Found {
    /// What wasn't stored, and what to do about it.
    fn skipped(&self) -> Option<String> {
        let mut kinds = Vec::new();
        for (count, one, many) in [
            (self.links, "symbolic link", "symbolic links"),
            (
                self.others,
                "device, FIFO or socket",
                "devices, FIFOs or sockets",
            ),
        ] {
            if count > 0 {
                kinds.push(format!("{count} {}", if count == 1 { one } else { many }));
            }
        }
        let remedy = "only regular files are stored; name others in JSON Lines as \"file\"";
        (!kinds.is_empty()).then(|| format!("skipped {}: {remedy}", kinds.join(" and ")))
    }
}

/// The regular files under `directory`, sorted. Links aren't followed, so that none leads in a circle or outside.
fn walk(directory: &Path, found: &mut Found) -> Result<(), Failure> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.with_context(|| format!("read {}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry
            .file_type()
            .with_context(|| format!("look at {}", entry.path().display()))?;
        if kind.is_dir() {
            walk(&entry.path(), found)?;
        } else if kind.is_file() {
            found.files.push(entry.path());
        } else if kind.is_symlink() {
            found.links += 1;
        } else {
            found.others += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_exactly_one_value() {
        let bytes = |text: &str| {
            serde_json::from_str::<Row>(text)
                .ok()
                .and_then(|row| row.bytes().ok())
        };
        assert_eq!(
            bytes(r#"{"key":"k","value":"text"}"#).as_deref(),
            Some(b"text".as_slice())
        );
        assert_eq!(
            bytes(r#"{"key":"k","base64":"AAEC"}"#).as_deref(),
            Some([0, 1, 2].as_slice())
        );
        let wrong = [
            r#"{"key":"k"}"#,
            r#"{"key":"k","value":"a","base64":"AAEC"}"#,
            r#"{"value":"a"}"#,
            r#"{"key":"k","val":1}"#,
        ];
        for text in wrong {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn links_in_a_directory_are_skipped_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        fs::write(path("file"), "value").unwrap();
        let mut found = Found::default();
        walk(directory.path(), &mut found).unwrap();
        assert_eq!(found.skipped(), None);
        for name in ["link", "dangling", "circle"] {
            std::os::unix::fs::symlink(name.replace("link", "file"), path(name)).unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let mut found = Found::default();
        walk(directory.path(), &mut found).unwrap();
        assert_eq!(found.files, [path("file")]);
        let said = found.skipped().unwrap();
        assert!(said.contains("3 symbolic links and 1 device"), "{said}");
    }
}
