//! How memkv ends: the one list of exit codes, and failures that carry one.

use std::fmt;
use std::io;

/// Every exit code of memkv.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Done = 0,
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong, or forbids to start.
    Config = 3,
    /// A server can't be reached or doesn't let us in.
    Unreachable = 4,
    /// A key isn't there.
    Missing = 5,
    /// Some entries of a batch failed, others were done.
    Partial = 6,
    /// A drive is in use or holds data, and `--force` wasn't given.
    Refused = 7,
    /// The time that `--timeout` or the configuration gives was over.
    Late = 8,
}

impl Exit {
    /// All of them with what they mean, for help and documentation.
    pub(crate) const ALL: &[(Self, &str)] = &[
        (Self::Done, "everything was done"),
        (Self::Failed, "something failed that has no code of its own"),
        (Self::Usage, "the command line is wrong"),
        (
            Self::Config,
            "the configuration is wrong, or forbids to start",
        ),
        (
            Self::Unreachable,
            "a server can't be reached, or doesn't let us in",
        ),
        (Self::Missing, "a key isn't there"),
        (
            Self::Partial,
            "some entries of a batch failed, others were done",
        ),
        (
            Self::Refused,
            "a drive is in use or holds data, and --force wasn't given",
        ),
        (
            Self::Late,
            "the time that --timeout gives was over before it was done",
        ),
    ];

    /// The list as help shows it.
    pub(crate) fn help() -> String {
        let lines: Vec<String> = Self::ALL
            .iter()
            .map(|(exit, what)| format!("  {}  {what}", *exit as u8))
            .collect();
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

/// Why a verb ended early, and how the process ends for it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// What to say; nothing for a reader that went away.
    pub(crate) error: Option<anyhow::Error>,
}

impl Failure {
    /// A failure with a code of its own.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: Some(error.into()),
        }
    }

    /// Says why on stderr: the error, then each cause on a line of its own.
    pub(crate) fn report(&self) {
        if let Some(error) = &self.error {
            crate::out::tell(format_args!("memkv: {}", Chain(error)));
        }
    }
}

struct Chain<'a>(&'a anyhow::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        for cause in self.0.chain().skip(1) {
            write!(f, "\n  because: {cause}")?;
        }
        Ok(())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            exit: Exit::Failed,
            error: Some(error),
        }
    }
}

/// Failing to write: a reader that has had enough (`memkv … | head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                exit: Exit::Done,
                error: None,
            };
        }
        Self {
            exit: Exit::Failed,
            error: Some(error.into()),
        }
    }
}

/// What a verb returns.
pub(crate) type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_listed_once_and_in_order() {
        for (idx, (exit, _)) in Exit::ALL.iter().enumerate() {
            assert_eq!(*exit as usize, idx);
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit, Exit::Done);
        assert!(failure.error.is_none());
        assert_eq!(
            Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit,
            Exit::Failed
        );
    }

    #[test]
    fn a_chain_is_told_cause_by_cause() {
        let error = anyhow::anyhow!("third").context("second").context("first");
        assert_eq!(
            Chain(&error).to_string(),
            "first\n  because: second\n  because: third"
        );
    }
}
