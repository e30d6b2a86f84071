//! What is wrong with a configuration: every problem with its key, where the value came from, and the remedy.

use std::fmt;
use std::path::PathBuf;

use crate::diagnosis::Code;

/// Where a configuration value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// Nothing set the key.
    Absent,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Environment(variable) => write!(f, "from {variable}"),
            Self::Absent => f.write_str("not set"),
        }
    }
}

/// One thing that is wrong. It never holds a secret: causes quote values only of keys that cannot be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, for instance `source.url` or `outbox[0].subject`; empty for the file as a whole.
    pub key: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What is wrong with it.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
    /// What problems of this kind are called.
    pub code: Code,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, origin, cause, remedy, code } = self;
        if key.is_empty() {
            write!(f, "{origin}: ")?
        } else {
            write!(f, "{key} ({origin}): ")?
        }
        write!(f, "{cause}; {remedy} [{code}]")
    }
}

/// The configuration cannot be used. `Display` lists every problem on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// Every problem that was found, in the order of the file's sections.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("the configuration has 1 problem:")?,
            count => write!(f, "the configuration has {count} problems:")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// What a parser of one value finds wrong; the reader adds key and origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) cause: String,
    pub(super) remedy: String,
    pub(super) code: Code,
}

impl Fault {
    pub(super) fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { cause: cause.into(), remedy: remedy.into(), code: Code::CONFIG_VALUE }
    }

    /// A fault of another kind than that the value is not accepted.
    pub(super) fn of(code: Code, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, ..Self::new(cause, remedy) }
    }
}
