//! How the process ends: exit codes after sysexits, and one line that says why.

use std::error::Error;
use std::process::ExitCode;

use crate::diagnosis::code_of;

/// Exit codes, those of BSD's `sysexits.h` where one fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Success = 0,
    /// The command line is wrong.
    Usage = 64,
    /// What was compared is not the same.
    Findings = 65,
    /// MySQL or NATS cannot be reached or refuses.
    Unavailable = 69,
    /// A defect in the bridge itself.
    Internal = 70,
    /// The configuration, or what it names, is wrong: starting again will not help.
    Configuration = 78,
    /// A second SIGINT.
    Interrupted = 130,
    /// A second SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// The code as the operating system sees it.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error and its causes on one line: `cannot connect: connection refused`.
///
/// Behind it stands its code, if it has one ([`code_of`]). Causes that the line already holds are left out, since `async-nats` and others repeat theirs in their own text.
#[must_use]
pub fn report(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.is_empty() && !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
        next = cause.source();
    }
    // Unless a part of it is such a line already.
    if let Some(code) = code_of(error).filter(|_| !line.contains("[OB-")) {
        line += &format!(" [{code}]");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn chain(texts: &[&'static str]) -> Layer {
        let (text, rest) = texts.split_first().expect("a text");
        Layer { text, source: (!rest.is_empty()).then(|| Box::new(chain(rest))) }
    }

    #[test]
    fn a_report_is_one_line_without_repeats() {
        for (texts, expected) in [
            (&["cannot connect"][..], "cannot connect"),
            (&["cannot connect", "connection refused"], "cannot connect: connection refused"),
            (&["cannot connect: refused", "refused"], "cannot connect: refused"),
            (&["a", "a", "b\n  c"], "a: b c"),
            (&["", "b"], "b"),
        ] {
            assert_eq!(report(&chain(texts)), expected);
        }
    }

    #[test]
    fn codes() {
        assert_eq!([Exit::Success, Exit::Usage, Exit::Configuration].map(Exit::code), [0, 64, 78]);
    }
}
