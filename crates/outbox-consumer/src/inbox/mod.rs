//! The inbox: the record of the messages that a consumer has handled.
//!
//! | inbox | the record and the handler's effect | a second delivery meanwhile |
//! |---|---|---|
//! | `MySqlInbox`, feature `mysql` | commit together | waits |
//! | `PostgresInbox`, feature `postgres` | commit together | waits |
//! | [`KvInbox`] | one after the other | is handled too |
//! | [`MemoryInbox`], for tests | – | waits |
//! | [`NoInbox`], for handlers that know repetitions themselves | there is no record | is handled too |

mod kv;
mod memory;
#[cfg(feature = "mysql")]
mod mysql;
mod none;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod sql;

use std::{fmt, future::Future, time::Duration};

pub use self::kv::{KvInbox, KvTransaction};
pub use self::memory::{MemoryInbox, MemoryTransaction};
#[cfg(feature = "mysql")]
pub use self::mysql::MySqlInbox;
pub use self::none::NoInbox;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresInbox;

/// How long a consumer's name and a message's id may be, in bytes.
const ID_BYTES_MAX: usize = 255;

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
    /// If the store cannot be reached, or the message cannot be recorded; then nothing has been done.
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

    /// Looks whether the store can be reached, for `consumer`: after a failed handler, and until it can be reached again. By default by
    /// a record that is never committed.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn probe(&self, consumer: &str) -> impl Future<Output = Result<(), InboxError>> + Send {
        let message_id = format!("probe-{:032x}", rand::random::<u128>());
        let key = InboxKey { consumer: consumer.to_owned(), message_id };
        async move { self.begin(&key).await.map(drop) }
    }

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
    /// The store is not as it should be: a table or a right is missing. An error that is not known is of this kind too,
    /// so that nothing unknown is tried again for ever.
    Unusable,
    /// This message cannot be recorded, whatever the state of the store: its id is longer than 255 bytes, or its handler
    /// broke the transaction (went on after an error, ended it, left it idle for too long, violated a deferred
    /// constraint). It is a failed attempt of the message.
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

/// Refuses what does not fit into a table, which some databases would cut off without a word.
fn check_key(key: &InboxKey) -> Result<(), InboxError> {
    for (what, value) in [("consumer's name", &key.consumer), ("message's id", &key.message_id)] {
        if value.len() > ID_BYTES_MAX {
            let length = value.len();
            let message =
                format!("the {what} has {length} bytes; the inbox holds {ID_BYTES_MAX}: use shorter ones");
            return Err(InboxError::new(InboxErrorKind::Rejected, message, None));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ids_are_refused() {
        let key = |length| InboxKey { consumer: "c".to_owned(), message_id: "é".repeat(length) };
        assert!(check_key(&key(127)).is_ok());
        let err = check_key(&key(128)).expect_err("256 bytes");
        assert_eq!(err.kind(), InboxErrorKind::Rejected);
        assert!(err.to_string().contains("256 bytes"), "{err}");
    }
}
