//! The inbox: the record of the messages that a consumer has handled.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "mysql")]
mod sql;

#[cfg(feature = "mysql")]
pub use mysql::MySqlInbox;

use std::{fmt, future::Future, time::Duration};

/// One message of one consumer, as the inbox knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InboxKey {
    /// The consumer's name.
    pub consumer: String,
    /// The message's id, `ce-id`.
    pub message_id: String,
}

/// What [`Inbox::begin`] found.
#[derive(Debug)]
pub enum Begun<T> {
    /// The message is new: the handler works in this transaction.
    New(T),
    /// The message was handled before.
    Duplicate,
}

/// A record of handled messages.
pub trait Inbox: fmt::Debug + Send + Sync + 'static {
    /// What the handler gets for its own writes. Dropped without [`Inbox::commit`], it leaves nothing behind.
    type Transaction: Send + 'static;

    /// Makes ready at start: creates what is missing, or says what an administrator must create.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached or is not as it should be.
    fn prepare(&self) -> impl Future<Output = Result<(), InboxError>> + Send;

    /// Begins the handling of a message. Waits while another transaction with the same key is open.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached.
    fn begin(
        &self,
        key: &InboxKey,
    ) -> impl Future<Output = Result<Begun<Self::Transaction>, InboxError>> + Send;

    /// Commits the handler's writes and the record together.
    ///
    /// # Errors
    ///
    /// After an error the transaction may be committed or not; the next [`Inbox::begin`] tells.
    fn commit(
        &self,
        key: &InboxKey,
        transaction: Self::Transaction,
    ) -> impl Future<Output = Result<(), InboxError>> + Send;

    /// Removes at most `limit` records of `consumer` that are older than `age`; gives how many.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached.
    fn clean_up(
        &self,
        consumer: &str,
        age: Duration,
        limit: u32,
    ) -> impl Future<Output = Result<u64, InboxError>> + Send;
}

/// What went wrong with an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboxErrorKind {
    /// The store cannot be reached now. No attempt of the message is used up; fetching pauses.
    Unavailable,
    /// The transaction lost against another one (deadlock, lock wait, serialization). It may simply be tried again.
    Conflict,
    /// The store is not as it should be: a table or a right is missing.
    Unusable,
    /// The inbox cannot record this message, now or later: its id is too long, or the handler left the transaction
    /// without the record.
    Rejected,
}

/// An inbox failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct InboxError {
    kind: InboxErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl InboxError {
    /// An error with what it says and what caused it.
    #[must_use]
    pub fn new(
        kind: InboxErrorKind,
        message: impl Into<String>,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> InboxErrorKind {
        self.kind
    }
}
