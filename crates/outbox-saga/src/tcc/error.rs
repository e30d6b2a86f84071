//! What a coordinator fails with.

use std::error::Error as StdError;

use crate::conflict::number;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TccErrorKind {
    /// A setting makes no sense, or a transaction cannot be: no branches, two of one name, an endpoint that nobody has told of.
    Settings,
    /// There is a transaction with this id and other branches, or none with this id.
    NoSuchTransaction,
    /// The store cannot be reached now. Whether the transaction was begun or decided is not known: recovery ends it in any case,
    /// and asking again with the same id tells how.
    Unavailable,
    /// The store is not as it should be: a table or a right is missing. An error that is not known is of this kind too.
    Unusable,
    /// Another instance has the transaction in hand and has not decided in time.
    Undecided,
}

/// A coordinator could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TccError {
    kind: TccErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl TccError {
    pub(crate) fn new(kind: TccErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn store(what: impl Into<String>, err: sqlx::Error) -> Self {
        Self { kind: kind_of(&err), message: what.into(), source: Some(Box::new(err)) }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> TccErrorKind {
        self.kind
    }
}

fn kind_of(err: &sqlx::Error) -> TccErrorKind {
    match err {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => TccErrorKind::Unavailable,
        // Conflicts that have gone on for all attempts; full, shutting down, killed, read-only until promoted.
        _ => match number(err) {
            Some(1020 | 1205 | 1213 | 1317 | 3101) => TccErrorKind::Unavailable,
            Some(
                1021 | 1040 | 1053 | 1152 | 1158..=1161 | 1203 | 1226 | 1290 | 1836 | 1927 | 3169 | 4031,
            ) => TccErrorKind::Unavailable,
            _ => TccErrorKind::Unusable,
        },
    }
}
