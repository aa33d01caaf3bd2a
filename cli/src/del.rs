//! `memkv del`: removes keys.

use clap::Args;

use crate::connection::Connection;
use crate::exit::Outcome;
use crate::keys::{Words, report};

/// Remove keys
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv del model/layer-0 model/layer-1
  memkv del $(cat keys) --json | jq -r 'select(.outcome == \"miss\").key'

Exit codes: 0 all were removed, 4 no server, 5 some weren't there, 6 some failed.")]
pub(crate) struct Del {
    /// The keys
    #[arg(required = true)]
    keys: Vec<String>,
    /// Print one JSON object per key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Del {
    pub(crate) fn run(self) -> Outcome {
        let options = self.connection.options();
        let results = self
            .connection
            .client()?
            .with(&options)
            .batch_delete(&self.keys);
        report(
            &self.keys,
            results,
            self.json,
            Words {
                yes: "deleted",
                no: "missing",
            },
        )
    }
}
