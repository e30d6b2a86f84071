//! What can go wrong at the barrier.

use std::error::Error as StdError;

use super::state::State;
use super::table::BarrierDatabase;
use super::{BarrierKey, Operation};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BarrierErrorKind {
    /// The id or the name is none that the table can hold.
    Key,
    /// The call contradicts what has happened: a confirm without a try or after a cancel, a cancel after a confirm. Whoever
    /// decides has decided twice, or a table was set back. To try again does not help; somebody must look.
    Violation,
    /// The transaction no longer is the one that entered: it was ended, or the server has rolled it back.
    Lost,
    /// The transaction lost against another one (deadlock, lock wait, serialization). It may simply be begun again.
    Conflict,
    /// The database cannot be reached now.
    Unavailable,
    /// The database is not as it should be: a table or a right is missing. An error that is not known is of this kind too.
    Unusable,
}

/// The barrier could not be entered, or the answer not kept.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BarrierError {
    kind: BarrierErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl BarrierError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> BarrierErrorKind {
        self.kind
    }

    pub(super) fn key(message: String) -> Self {
        Self { kind: BarrierErrorKind::Key, message, source: None }
    }

    pub(super) fn violation(key: &BarrierKey, operation: Operation, state: Option<State>) -> Self {
        let BarrierKey { transaction, branch } = key;
        let state = state.map_or("unknown here", State::name);
        let message = format!(
            "cannot {operation} branch `{branch}` of transaction `{transaction}`: it is {state}; compare the coordinator's \
             tables with this database's"
        );
        Self { kind: BarrierErrorKind::Violation, message, source: None }
    }

    pub(super) fn lost(key: &BarrierKey) -> Self {
        let BarrierKey { transaction, branch } = key;
        let message = format!(
            "the database's transaction no longer holds the barrier's row for branch `{branch}` of transaction \
             `{transaction}`: it was ended, or went on after an error that had rolled it back; return such errors"
        );
        Self { kind: BarrierErrorKind::Lost, message, source: None }
    }

    pub(super) fn database<Db: BarrierDatabase>(message: String, err: sqlx::Error) -> Self {
        let kind = match &err {
            sqlx::Error::Database(err) => Db::kind(err.as_ref()),
            // A connection was lost or could not be had. A closed pool means that the service shuts down.
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => BarrierErrorKind::Unavailable,
            _ => BarrierErrorKind::Unusable,
        };
        Self { kind, message, source: Some(Box::new(err)) }
    }
}
