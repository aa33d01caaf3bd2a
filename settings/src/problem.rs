//! What is wrong with a configuration, in words that say what to change.

use std::fmt;

use crate::source::Source;
use crate::yaml::Position;

/// Why a value doesn't fit its field, before it is known which field of which file it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The bound, to follow "must be": `0 to 7`, `a size such as 4 MiB`.
    pub must_be: String,
    /// What to do about it; empty when the bound says it all.
    pub remedy: String,
    /// For one item of a list: its index, where it stands and what it says.
    pub item: Option<(usize, Option<Position>, Option<String>)>,
}

impl Wrong {
    /// A value outside its bound, and what to do.
    pub fn new(must_be: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            must_be: must_be.into(),
            remedy: remedy.into(),
            item: None,
        }
    }
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A field's value breaks its rule.
    #[error("{source_}: {field} is {value}, but must be {must_be}{}", after(.remedy))]
    Invalid {
        /// Dotted path of the field.
        field: String,
        /// The value as written; `not shown` for a secret.
        value: String,
        /// The bound.
        must_be: String,
        /// What to do.
        remedy: String,
        /// Where the value came from.
        source_: Source,
    },
    /// A key that no field has.
    #[error("{source_}: unknown key {key}{}{}", within(.section), meant(.nearest, *.likely, .known))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The section it stands in; empty at the top.
        section: String,
        /// The nearest known key.
        nearest: String,
        /// Whether it is near enough to be what was meant.
        likely: bool,
        /// All keys of that section.
        known: Vec<&'static str>,
        /// Where it stands.
        source_: Source,
    },
    /// One field under two of its spellings.
    #[error("{source_}: {field} is set twice, as {first} and as {second}; keep one of them")]
    Twice {
        /// Dotted path of the field.
        field: String,
        /// The first spelling.
        first: String,
        /// The second spelling.
        second: String,
        /// Where the second stands.
        source_: Source,
    },
    /// The text isn't usable YAML.
    #[error("{file}:{error}")]
    Yaml {
        /// The file as it was named.
        file: String,
        /// What is wrong, and where.
        error: crate::yaml::YamlError,
    },
    /// Fields that don't go together, or a refusal to start; the text names fields, values and
    /// remedy.
    #[error("{0}")]
    Refused(String),
}

impl Problem {
    /// The field whose value is unusable, where the problem is about one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid { field, .. } | Self::Twice { field, .. } => Some(field),
            Self::UnknownKey { .. } | Self::Yaml { .. } | Self::Refused(_) => None,
        }
    }
}

fn after(remedy: &str) -> String {
    if remedy.is_empty() {
        String::new()
    } else {
        format!("; {remedy}")
    }
}

fn within(section: &str) -> String {
    if section.is_empty() {
        String::new()
    } else {
        format!(" in {section}")
    }
}

fn meant(nearest: &str, likely: bool, known: &[&str]) -> String {
    if likely {
        return format!("; did you mean {nearest}?");
    }
    let known = known.join(", ");
    format!("; the nearest known one is {nearest}, all of them here: {known}")
}

/// Everything that is wrong with a configuration, in the order of the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, problem) in self.0.iter().enumerate() {
            if idx > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}
