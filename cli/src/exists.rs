//! `memkv exists`: looks for keys.

use clap::Args;

use crate::connection::Connection;
use crate::exit::Outcome;
use crate::keys::{Words, report};

/// Say which keys are there
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv exists model/layer-0 && echo cached
  memkv exists a b c --json

Exit codes: 0 all are there, 4 no server, 5 some aren't, 6 some failed.")]
pub(crate) struct Exists {
    /// The keys
    #[arg(required = true)]
    keys: Vec<String>,
    /// Print one JSON object per key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Exists {
    pub(crate) fn run(self) -> Outcome {
        let options = self.connection.options();
        let results = self
            .connection
            .client()?
            .with(&options)
            .batch_exists(&self.keys);
        report(
            &self.keys,
            results,
            self.json,
            Words {
                yes: "exists",
                no: "missing",
            },
        )
    }
}
