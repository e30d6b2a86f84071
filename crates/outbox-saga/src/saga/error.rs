//! What can go wrong with a saga's orchestrator.

use std::error::Error as StdError;
use std::time::Duration;

use outbox_consumer::HandlerError;

use super::engine::Refusal;

/// How long a reply waits for an instance that has its saga's definition.
const UNKNOWN_DELAY: Duration = Duration::from_secs(5);

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SagaErrorKind {
    /// There is no saga with this id.
    NotFound,
    /// The saga cannot be cancelled, or the operator's request not be followed.
    Refused(Refusal),
    /// This process has no definition of the saga's name and version.
    UnknownDefinition,
    /// The definition does not fit: data or a reply of another type, or a command that cannot be made.
    Definition,
    /// An id that the tables cannot hold.
    Id,
    /// The database failed, or cannot be reached.
    Database,
}

/// The orchestrator could not do what it was asked for. Says nothing of what is in the data.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SagaError {
    kind: SagaErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl SagaError {
    pub(super) fn new(kind: SagaErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(super) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(super) fn refused(id: &str, refusal: Refusal) -> Self {
        Self::new(SagaErrorKind::Refused(refusal), format!("saga {id}: {refusal}"))
    }

    pub(super) fn not_found(id: &str) -> Self {
        Self::new(SagaErrorKind::NotFound, format!("there is no saga {id}"))
    }

    pub(super) fn database(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| Self::new(SagaErrorKind::Database, what).with_source(error)
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> SagaErrorKind {
        self.kind
    }

    /// As the failure of the handler of a reply: one that another attempt will not meet either is permanent.
    pub(super) fn of_handler(self) -> HandlerError {
        match self.kind {
            SagaErrorKind::Definition => HandlerError::permanent(self),
            SagaErrorKind::UnknownDefinition => HandlerError::transient(self).retry_after(UNKNOWN_DELAY),
            _ => HandlerError::transient(self),
        }
    }
}
