//! `memkv del`: removes keys.

use clap::Args;

use crate::exit::Outcome;
use crate::keys::{EachKey, Words};

/// Remove keys
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv del model/layer-0 model/layer-1
  memkv del $(cat keys) --json | jq -r 'select(.outcome == \"miss\").key'

Exit codes: 0 all were removed, 2 no key is in bounds, 4 no server, 5 some weren't there, 6 some
failed, 8 not in time.")]
pub(crate) struct Del {
    #[command(flatten)]
    keys: EachKey,
}

impl Del {
    pub(crate) fn run(self) -> Outcome {
        let words = Words {
            yes: "deleted",
            no: "missing",
        };
        self.keys.run(|calls, keys| calls.batch_delete(keys), words)
    }
}
