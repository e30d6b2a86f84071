//! What every error that an operator can meet is called for good: a code, its cause and its remedy.
//!
//! [`report`](crate::exit::report) puts the code behind an error's text, so logs, readiness and commands show it;
//! `outbox-bridge explain` prints what stands here. A code is never given to another error, and never taken away.

mod of;
mod table;

use std::fmt;

pub use of::code_of;
pub use table::DIAGNOSES;

/// The name of an error, shown as `OB-4003`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OB-{:04}", self.0)
    }
}

/// What there is to say of an error.
#[derive(Debug, Clone, Copy)]
pub struct Diagnosis {
    /// Its name.
    pub code: Code,
    /// What it is, in a few words.
    pub title: &'static str,
    /// What led to it.
    pub cause: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// The diagnosis that `text` names, as `OB-4003`, `ob-4003` or `4003`.
///
/// ```
/// let found = outbox_bridge::diagnosis::find("ob-4003").expect("a diagnosis");
/// assert_eq!(found.code.to_string(), "OB-4003");
/// ```
#[must_use]
pub fn find(text: &str) -> Option<&'static Diagnosis> {
    let text = text.trim();
    let number = match text.get(..3) {
        Some(prefix) if prefix.eq_ignore_ascii_case("ob-") => text.get(3..)?,
        _ => text,
    };
    let code = Code(number.parse().ok()?);
    DIAGNOSES.iter().find(|diagnosis| diagnosis.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_every_one_says_something() {
        assert!(DIAGNOSES.windows(2).all(|pair| pair[0].code < pair[1].code));
        for diagnosis in DIAGNOSES {
            for text in [diagnosis.title, diagnosis.cause, diagnosis.remedy] {
                assert!(
                    text.len() > 8 && !text.contains('\n') && !text.contains('|'),
                    "{}: {text:?}",
                    diagnosis.code
                );
            }
        }
    }

    #[test]
    fn codes_are_found_however_they_are_written() {
        for text in ["OB-4003", "ob-4003", " 4003 "] {
            assert_eq!(find(text).map(|found| found.code), Some(Code::STREAM_MISSING), "{text}");
        }
        for text in ["", "OB-", "OB-0000", "OB-99999", "ORDERS", "é"] {
            assert!(find(text).is_none(), "{text}");
        }
    }

    /// A code that nothing gives is a promise that nothing keeps.
    #[test]
    fn every_code_is_given_by_something() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut sources = String::new();
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("diagnosis/table.rs") && !path.ends_with("diagnosis/mod.rs") {
                    sources += &std::fs::read_to_string(path).expect("a source");
                }
            }
        }
        let unused: Vec<_> =
            table::NAMES.iter().filter(|name| !sources.contains(&format!("Code::{name}"))).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }
}
