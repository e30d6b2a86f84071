//! Where a row stood in the binary log.

use std::{fmt, str::FromStr};

/// Where a row stood: the transaction, by its GTID and by the place where it begins in the log, and the row within it.
///
/// The text form is `<gtid>@<file>:<offset>/<row>`, for instance
/// `3e11fa47-71ca-11e1-9e33-c80aa9429562:23@binlog.000002:1374/0`. The GTID is in the server's own notation and is
/// missing for a server that assigns none: `@binlog.000002:1374/0`. Every row of a source has its own position, and
/// positions of one server's log are ordered as the rows were committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The transaction's GTID in the server's notation; empty if it has none.
    pub gtid: String,
    /// The log file, as `SHOW BINARY LOGS` names it.
    pub file: String,
    /// Where the transaction begins in the file, in bytes.
    pub offset: u64,
    /// The row's number among those that the transaction puts into the same stream, from 0.
    pub row: u64,
}

impl Position {
    /// What orders the positions of one server's log: the file's number, the offset, and the row.
    ///
    /// `None` if the file's name has no number, so that it is not a log file's.
    #[must_use]
    pub fn order(&self) -> Option<(u64, u64, u64)> {
        Some((log_file_number(&self.file)?, self.offset, self.row))
    }
}

/// The number at the end of a log file's name: 12 for `binlog.000012`.
///
/// Names are compared by it, since the text `binlog.1000000` would sort before `binlog.999999`.
#[must_use]
pub fn log_file_number(file: &str) -> Option<u64> {
    let (_, number) = file.rsplit_once('.')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten()
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.gtid, self.file, self.offset, self.row)
    }
}

/// A text that is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a position of the form <gtid>@<file>:<offset>/<row>: {0:?}")]
pub struct PositionError(String);

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (gtid, rest) = text.split_once('@')?;
            let (rest, row) = rest.rsplit_once('/')?;
            let (file, offset) = rest.rsplit_once(':')?;
            let number = |text: &str| {
                text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
            };
            log_file_number(file)?;
            Some(Self { gtid: gtid.into(), file: file.into(), offset: number(offset)?, row: number(row)? })
        };
        parse().ok_or_else(|| PositionError(text.chars().take(200).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts() {
        for text in [
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:23@binlog.000002:1374/0",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag:23@binlog.000002:1374/7",
            "0-1-270@mariadb-bin.000001:4/0",
            "@binlog.000002:1374/0",
        ] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        for text in
            ["", "@", "a@b:1/2", "@binlog.000001:1", "@binlog.000001:-1/0", "@binlog.000001:+1/0", "x:1/0"]
        {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn files_are_ordered_by_number() {
        let at = |file: &str| Position { gtid: String::new(), file: file.into(), offset: 4, row: 0 };
        assert!(at("binlog.999999").order() < at("binlog.1000000").order());
    }

    proptest! {
        #[test]
        fn round_trip(gtid in "[0-9a-f:-]{0,40}", file in "[a-zA-Z0-9_.:/-]{0,20}\\.[0-9]{6,9}", offset: u64, row: u64) {
            let position = Position { gtid, file, offset, row };
            prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            drop(text.parse::<Position>());
        }
    }
}
