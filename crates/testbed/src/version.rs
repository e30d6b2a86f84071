//! Versions as servers print them: the first `x.y.z` in a text.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};

/// The three numbers of a server's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub patch: u32,
}

impl Version {
    /// A version from its numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Finds the first `x.y.z` in a text such as the output of `--version`.
    pub(crate) fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| word.parse().ok())
    }

    /// Whether this is a patch release of `minor`, which is written `x.y`.
    pub(crate) fn is_of(self, minor: &str) -> bool {
        format!("{}.{}", self.major, self.minor) == minor
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: Option<&str>| -> Result<u32> {
            part.with_context(|| format!("`{text}` is not of the form x.y.z"))?
                .parse()
                .with_context(|| format!("`{text}` is not of the form x.y.z"))
        };
        let mut parts = text.splitn(3, '.');
        Ok(Self::new(number(parts.next())?, number(parts.next())?, number(parts.next())?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_what_servers_print() {
        let cases = [
            ("nats-server: v2.15.1", Version::new(2, 15, 1)),
            ("mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", Version::new(9, 7, 4)),
            ("mariadbd  Ver 10.11.18-MariaDB-0+deb12u1 for debian-linux-gnu", Version::new(10, 11, 18)),
        ];
        for (text, version) in cases {
            assert_eq!(Version::find(text), Some(version), "{text}");
        }
        assert_eq!(Version::find("no version, 9.7 neither"), None);
    }

    #[test]
    fn a_minor_is_not_a_prefix() {
        assert!(Version::new(2, 10, 3).is_of("2.10"));
        assert!(!Version::new(2, 10, 3).is_of("2.1"));
    }
}
