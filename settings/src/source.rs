//! Where a value came from.

use std::fmt;
use std::sync::Arc;

/// Where an effective value came from; `Display` is what tables and errors show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A line of a configuration file.
    File {
        /// The file as it was named.
        file: Arc<str>,
        /// 1-based line.
        line: u32,
    },
    /// An environment variable, by name.
    Env(&'static str),
    /// A command-line flag, as it is written (`--transport`).
    Flag(&'static str),
    /// Found out from the machine; the text says from what.
    Detected(Arc<str>),
}

impl Source {
    /// The word for JSON: `default`, `file`, `env`, `flag` or `detected`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Env(_) => "env",
            Self::Flag(_) => "flag",
            Self::Detected(_) => "detected",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Detected(from) => write!(f, "detected ({from})"),
        }
    }
}
