//! `memkv completions`: scripts that let a shell complete memkv's verbs and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::exit::{Exit, Outcome};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  memkv completions bash > /etc/bash_completion.d/memkv
  memkv completions zsh  > \"${fpath[1]}/_memkv\"
  memkv completions fish > ~/.config/fish/completions/memkv.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "memkv", &mut script);
        crate::out::print_bytes(&script)?;
        Ok(Exit::Done)
    }
}
