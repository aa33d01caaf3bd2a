//! `memkv exists`: looks for keys.

use clap::Args;

use crate::exit::Outcome;
use crate::keys::{EachKey, Words};

/// Say which keys are there
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv exists model/layer-0 && echo cached
  memkv exists a b c --json

Exit codes: 0 all are there, 2 no key is in bounds, 4 no server, 5 some aren't, 6 some failed,
8 not in time.")]
pub(crate) struct Exists {
    #[command(flatten)]
    keys: EachKey,
}

impl Exists {
    pub(crate) fn run(self) -> Outcome {
        let words = Words {
            yes: "exists",
            no: "missing",
        };
        self.keys.run(|calls, keys| calls.batch_exists(keys), words)
    }
}
