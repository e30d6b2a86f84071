//! Why a log cannot be followed any further.

use crate::{decode::DecodeError, route::RouteError, source::event::EventError};

/// Why the log cannot be followed any further. None of these goes away by trying again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// An event cannot be read.
    #[error("the log has an event at {at} that cannot be read")]
    Event {
        /// The file and offset of its group.
        at: String,
        /// What is wrong with it.
        source: EventError,
    },
    /// A row cannot be decoded.
    #[error("a row in the transaction at {at} cannot be decoded")]
    Decode {
        /// The transaction.
        at: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A row cannot become a message.
    #[error("a row in the transaction at {at} cannot be published")]
    Route {
        /// The transaction.
        at: String,
        /// Why.
        source: RouteError,
    },
    /// A statement about an XA transaction that cannot be read.
    #[error("the log has a statement about an XA transaction at {at} whose name cannot be read")]
    #[expect(missing_docs, reason = "the field is what the message says")]
    Unreadable { at: String },
    /// A group that has no end.
    #[error(
        "the transaction at {at} has no end in the log; a part of the log is missing or could not be read"
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    Unfinished { at: String },
    /// Events outside of any transaction.
    #[error("the log has rows outside of a transaction at {at}")]
    #[expect(missing_docs, reason = "the field is what the message says")]
    Stray { at: String },
    /// The server says that events are missing.
    #[error("the server has written into its log at {at} that events are missing (an incident): {text}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Incident { at: String, text: String },
    /// An insert that the log shows as a statement only.
    #[error(
        "the transaction at {at} writes to {table} in statement format, so the log does not show its rows; the session that \
         did so must use SET SESSION binlog_format=ROW (and the server binlog_format=ROW). The rows of this transaction were \
         not published: publish them by hand or insert them again, then continue behind it by setting source.start to a GTID \
         set that contains it and deleting the checkpoint"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Statement { at: String, table: String },
    /// A statement that may have fired a trigger.
    #[error(
        "the transaction at {at} writes to another table in statement format; if a trigger on that table inserts outbox rows, \
         the log does not show them. The session that did so must use SET SESSION binlog_format=ROW; if no trigger inserts \
         outbox rows, set source.foreign_statements = \"ignore\""
    )]
    #[expect(missing_docs, reason = "the field is what the message says")]
    ForeignStatement { at: String },
    /// Another transaction than expected.
    #[error(
        "the log has another transaction at {at} than the checkpoint or the stream says ({found} in place of {expected}): this is \
         another server, or its logs were reset. Point source.url to the server that was read before; or, if its log is gone \
         for good, give this bridge a new `name` and a new stream, or delete the checkpoint and set source.start"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    OtherLog { at: String, expected: String, found: String },
}
