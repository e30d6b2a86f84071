//! What a consumer fails with.

use std::fmt;

use crate::handler::error::BoxError;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerErrorKind {
    /// A setting makes no sense. The message names it.
    Settings,
    /// The stream, or the stream of the dead letters, is not there or not as it should be.
    Stream,
    /// The durable consumer on the server differs from the settings, or was deleted.
    Durable,
    /// NATS could not be reached, or refused a request.
    Nats,
    /// The inbox is not as it should be.
    Inbox,
    /// A message has a type without a handler, and [`Unhandled::Fail`](crate::Unhandled::Fail) is set.
    Unhandled,
    /// There is no such dead letter.
    NoSuchLetter,
}

/// A consumer could not be built, or had to stop.
#[derive(Debug)]
pub struct ConsumerError {
    kind: ConsumerErrorKind,
    message: String,
    source: Option<BoxError>,
}

impl ConsumerError {
    pub(crate) fn new(kind: ConsumerErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn because(
        kind: ConsumerErrorKind,
        message: impl Into<String>,
        source: impl Into<BoxError>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ConsumerErrorKind {
        self.kind
    }
}

impl fmt::Display for ConsumerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConsumerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
