//! How the process ends: exit codes of BSD's `sysexits.h`, and one line that says why.

use std::error::Error;
use std::fmt;

use outbox_saga::inspect::{InspectError, InspectErrorKind};

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Usage = 64,
    /// Not found, or not as things stand.
    Data = 65,
    Unavailable = 69,
    Internal = 70,
    Configuration = 78,
}

/// Why nothing was done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    line: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, line: impl Into<String>) -> Self {
        Self { exit, line: line.into() }
    }

    pub(crate) fn with(exit: Exit, what: &str, cause: &dyn Error) -> Self {
        Self::new(exit, format!("{what}: {}", report(cause)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        let exit = match error.kind() {
            InspectErrorKind::NotFound | InspectErrorKind::Ambiguous | InspectErrorKind::Refused => {
                Exit::Data
            }
            InspectErrorKind::NoTables | InspectErrorKind::Denied => Exit::Configuration,
            InspectErrorKind::Unavailable => Exit::Unavailable,
            _ => Exit::Internal,
        };
        let remedy = if error.kind() == InspectErrorKind::Ambiguous { " with --kind" } else { "" };
        Self::new(exit, format!("{}{remedy}", report(&error)))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::with(Exit::Internal, "cannot write", &error)
    }
}

/// An error and its causes on one line.
fn report(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = cause.source();
    }
    line
}
