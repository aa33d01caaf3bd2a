//! `memkv batch`: many keys at once.

mod get;
mod put;

use std::time::Instant;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::chart;
use crate::exit::Outcome;
use crate::keys::Tally;
use crate::out;

/// Store or read many keys at once
#[derive(Debug, Args)]
pub(crate) struct Batch {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Put(put::Put),
    Get(get::Get),
}

impl Batch {
    pub(crate) fn run(self) -> Outcome {
        match self.verb {
            Verb::Put(put) => put.run(),
            Verb::Get(get) => get.run(),
        }
    }
}

/// Entries of one call: enough to fill the pipe to every server, few enough that progress shows.
const CALL_ENTRIES: usize = 256;
/// Value bytes of one call, unless a single value is larger.
const CALL_BYTES: u64 = 64 << 20;

/// What is shown of long work: a bar on a terminal, a summary at the end.
struct Progress {
    bar: ProgressBar,
    start: Instant,
    bytes: u64,
    tally: Tally,
}

impl Progress {
    /// `total` entries, where that is known.
    fn new(total: Option<u64>) -> Self {
        // Draws on stderr, and only where that is a terminal.
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let style = match total {
            Some(_) => "{bar:30} {pos}/{len} entries  {msg}  {eta} left",
            None => "{spinner} {pos} entries  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self {
            bar,
            start: Instant::now(),
            bytes: 0,
            tally: Tally::default(),
        }
    }

    fn advance(&mut self, entries: u64, bytes: u64) {
        self.bytes += bytes;
        self.bar.inc(entries);
        self.bar.set_message(format!(
            "{}, {}/s",
            chart::bytes(self.bytes),
            chart::bytes(self.rate())
        ));
    }

    fn rate(&self) -> u64 {
        (self.bytes as f64 / self.start.elapsed().as_secs_f64().max(1e-6)) as u64
    }

    /// Says on stderr what it came to.
    fn finish(self, done: &str) -> Outcome {
        self.bar.finish_and_clear();
        let Tally {
            done: count,
            missed,
            failed,
            ..
        } = self.tally;
        let took = self.start.elapsed().as_secs_f64();
        let (bytes, rate) = (chart::bytes(self.bytes), chart::bytes(self.rate()));
        let mut rest = String::new();
        if missed > 0 {
            rest.push_str(&format!(", {missed} missing"));
        }
        if failed > 0 {
            rest.push_str(&format!(", {failed} failed"));
        }
        out::tell(format_args!(
            "{count} {done}{rest}: {bytes} in {took:.2} s, {rate}/s"
        ));
        Ok(self.tally.exit())
    }
}
