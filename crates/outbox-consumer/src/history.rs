//! The failed attempts at one message.
//!
//! A history is small whatever happens: the first attempt and the last ones are kept, each error is cut.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How many of the last attempts are kept, beside the first.
const LAST_KEPT: usize = 9;
/// How many characters of an error are kept.
const ERROR_CHARS_MAX: usize = 800;

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attempt {
    /// Which one, from 1.
    pub number: u32,
    /// When it failed, RFC 3339 in UTC.
    pub at: String,
    /// The error and its causes.
    pub error: String,
}

/// All failed attempts at one message, as far as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    /// How many attempts failed, also those that are no longer kept.
    count: u32,
    /// When the first one failed, in milliseconds since 1970.
    first_ms: u64,
    attempts: Vec<Attempt>,
}

impl History {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How long ago the first attempt failed.
    pub(crate) fn elapsed(&self, now: SystemTime) -> Duration {
        if self.count == 0 {
            return Duration::ZERO;
        }
        now.duration_since(SystemTime::UNIX_EPOCH + Duration::from_millis(self.first_ms)).unwrap_or_default()
    }

    pub(crate) fn push(&mut self, error: &str, now: SystemTime) {
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.first_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        }
        if self.attempts.len() > LAST_KEPT {
            self.attempts.remove(1);
        }
        let error = error.chars().take(ERROR_CHARS_MAX).collect();
        self.attempts.push(Attempt { number: self.count, at: rfc3339(now), error });
    }

    pub(crate) fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }
}

pub(crate) fn rfc3339(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_and_the_last_attempts_are_kept() {
        let mut history = History::default();
        for number in 1..=50 {
            history.push(&format!("{number} {}", "x".repeat(5000)), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(history.count(), 50);
        let kept: Vec<_> = history.attempts().iter().map(|attempt| attempt.number).collect();
        assert_eq!(kept, [1, 42, 43, 44, 45, 46, 47, 48, 49, 50]);
        assert!(history.attempts().iter().all(|attempt| attempt.error.chars().count() <= ERROR_CHARS_MAX));
    }

    #[test]
    fn time_counts_from_the_first_failure() {
        let mut history = History::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(history.elapsed(at(9)), Duration::ZERO);
        history.push("a", at(10));
        history.push("b", at(20));
        assert_eq!(history.elapsed(at(30)), Duration::from_secs(20));
        assert_eq!(history.attempts()[0].at, "1970-01-01T00:00:10Z");
    }

    proptest! {
        /// What stands in the bucket, whoever wrote it: read or not, and adding to it does not panic.
        #[test]
        fn no_record_panics(count: u64, first_ms: u64, tail in "\\PC{0,30}", at: prop::sample::Index) {
            let json = format!(
                r#"{{"count":{count},"first_ms":{first_ms},"attempts":[{{"number":1,"at":"x","error":"e"}}]}}{tail}"#
            );
            let mut bytes = json.into_bytes();
            if at.index(2) == 1 {
                bytes.truncate(at.index(bytes.len()));
            }
            let whole = u32::MAX - u32::try_from(count >> 32).unwrap_or_default();
            let json = format!(r#"{{"count":{whole},"first_ms":{first_ms},"attempts":[]}}"#);
            for bytes in [bytes, json.into_bytes()] {
                if let Ok(mut history) = serde_json::from_slice::<History>(&bytes) {
                    let _ = history.elapsed(SystemTime::UNIX_EPOCH);
                    let _ = history.elapsed(SystemTime::now());
                    history.push("again", SystemTime::now());
                }
            }
        }
    }
}
