//! What can go wrong with an event.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong; see [`Error::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A table or column name that cannot be one, or columns that contradict each other.
    Settings,
    /// The payload could not be serialised.
    Payload,
    /// A value that must not be empty is.
    Empty,
    /// A value is longer than its [limit](crate::Limits); the database might have cut it silently.
    TooLong,
    /// A header that would not arrive as it was given: an empty or reserved name, a control character, or too many.
    Header,
    /// The event has something, such as headers, for which no [column](crate::Columns) is named.
    NoColumn,
    /// The transaction is over, though the handle is still there: the server rolled it back because of a deadlock, or
    /// a statement such as `CREATE TABLE` committed it. Nothing was written.
    NoTransaction,
    /// There is a row with this id (or another unique value) already.
    Duplicate,
    /// A deadlock or a lock that could not be had in time: roll the transaction back and do it again.
    Conflict,
    /// The server refused the insert for another reason, or could not be reached.
    Database,
}

/// Why an event was not written. Says nothing of what is in the event.
///
/// The cause is in [`source`](StdError::source), except where the server's message would quote the row.
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[cfg_attr(not(feature = "sqlx"), expect(dead_code, reason = "only the server gives one"))]
    code: Option<u16>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    #[cfg(feature = "sqlx")]
    pub(crate) fn with_code(mut self, code: u16) -> Self {
        self.code = Some(code);
        self
    }

    /// What went wrong.
    ///
    /// ```
    /// use outbox_producer::{ErrorKind, Outbox};
    ///
    /// let error = Outbox::new("shop.").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Settings);
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The number of the server's error, such as 1142 where the user may not insert into the table.
    #[must_use]
    #[cfg(feature = "sqlx")]
    pub fn server_code(&self) -> Option<u16> {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind).field("message", &self.message);
        debug.field("source", &self.source).finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&**self.source.as_ref()?)
    }
}
