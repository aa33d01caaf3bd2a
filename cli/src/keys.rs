//! Results per key: lines or JSON, and the exit code that they come to.

use clap::Args;
use memkv_client::{Calls, OpError, outcome_of};
use serde_json::json;

use crate::connection::{Connection, exit_of, in_one_line};
use crate::exit::{Exit, Outcome};
use crate::out;

/// The arguments of a verb that asks something of each key.
#[derive(Debug, Args)]
pub(crate) struct EachKey {
    /// The keys
    #[arg(required = true)]
    keys: Vec<String>,
    /// Print one JSON object per key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl EachKey {
    /// Asks, and prints what came of each key.
    pub(crate) fn run(
        self,
        ask: impl FnOnce(&Calls<'_>, &[String]) -> Vec<Result<bool, OpError>>,
        words: Words,
    ) -> Outcome {
        let options = self.connection.options();
        let client = self.connection.client()?;
        let results = ask(&client.with(&options), &self.keys);
        report(&self.keys, results, self.json, words)
    }
}

/// What a line says of a key that was there, or not.
pub(crate) struct Words {
    pub(crate) yes: &'static str,
    pub(crate) no: &'static str,
}

/// How many keys fared how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) missed: u64,
    pub(crate) failed: u64,
    /// How a verb ends on whose only keys are those that failed; the first one's.
    first: Option<Exit>,
}

impl Tally {
    /// Counts one key.
    pub(crate) fn add<T>(&mut self, result: &Result<Option<T>, OpError>) {
        match result {
            Ok(Some(_)) => self.done += 1,
            Ok(None) => self.missed += 1,
            Err(error) => {
                self.failed += 1;
                self.first.get_or_insert(exit_of(error));
            }
        }
    }

    /// Counts a key that failed before it got to the client, or after.
    pub(crate) fn add_failed(&mut self, exit: Exit) {
        self.failed += 1;
        self.first.get_or_insert(exit);
    }

    /// What it comes to: a failure outweighs a miss; when everything failed, the first failure says why.
    pub(crate) fn exit(&self) -> Exit {
        match (self.failed, self.missed, self.done) {
            (0, 0, _) => Exit::Done,
            (0, ..) => Exit::Missing,
            (_, 0, 0) => self.first.unwrap_or(Exit::Failed),
            _ => Exit::Partial,
        }
    }
}

/// Prints one line per key, in order.
fn report(
    keys: &[String],
    results: Vec<Result<bool, OpError>>,
    json: bool,
    words: Words,
) -> Outcome {
    let mut tally = Tally::default();
    let mut text = String::new();
    for (key, result) in keys.iter().zip(results) {
        let result = result.map(|there| there.then_some(()));
        tally.add(&result);
        if json {
            let mut row = json!({"key": key, "outcome": outcome_of(&result).name()});
            if let Err(error) = &result {
                row["error"] = in_one_line(error).into();
            }
            text.push_str(&format!("{row}\n"));
            continue;
        }
        match &result {
            Ok(Some(())) => text.push_str(&format!("{}  {key}\n", words.yes)),
            Ok(None) => text.push_str(&format!("{}  {key}\n", words.no)),
            Err(error) => out::tell(format_args!("memkv: {key}: {}", in_one_line(error))),
        }
    }
    out::print(&text)?;
    Ok(tally.exit())
}

#[cfg(test)]
mod tests {
    use memkv_client::TransportCause;

    use super::*;

    fn exit(results: &[Result<Option<()>, OpError>]) -> Exit {
        let mut tally = Tally::default();
        results.iter().for_each(|result| tally.add(result));
        tally.exit()
    }

    #[test]
    fn exit_codes_tell_misses_from_failures_and_some_from_all() {
        let lost = || {
            Err(OpError::Transport {
                server: "s".into(),
                cause: TransportCause::ClosedByPeer,
            })
        };
        assert_eq!(exit(&[]), Exit::Done);
        assert_eq!(exit(&[Ok(Some(()))]), Exit::Done);
        assert_eq!(exit(&[Ok(Some(())), Ok(None)]), Exit::Missing);
        assert_eq!(exit(&[lost(), lost()]), Exit::Unreachable);
        assert_eq!(
            exit(&[Err(OpError::BadKey { len: 0, max: 512 }), lost()]),
            Exit::Usage
        );
        assert_eq!(exit(&[lost(), Ok(None)]), Exit::Partial);
        assert_eq!(exit(&[lost(), Ok(Some(()))]), Exit::Partial);
    }
}
