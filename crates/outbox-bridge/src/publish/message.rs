//! A message on its way to a stream.

use std::{borrow::Cow, fmt, sync::Arc};

use async_nats::Subject;
use bytes::Bytes;
use outbox_event::Position;

use super::Poison;

/// A transaction of the source: its name and the place where it begins in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionId {
    /// The GTID in the server's notation; empty if it has none.
    pub gtid: String,
    /// The log file in which it begins.
    pub file: Arc<str>,
    /// The number in the file's name, by which files are ordered.
    pub file_number: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// When it was committed, in microseconds since the epoch.
    pub committed_micros: u64,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.gtid, self.file, self.offset)
    }
}

/// Names and values. What is the same for all messages is not copied for each.
pub type Headers = Vec<(Cow<'static, str>, Cow<'static, str>)>;

/// A committed outbox row as the message that it becomes.
#[derive(Debug, Clone)]
pub struct Message {
    /// The transaction that inserted the row.
    pub transaction: Arc<TransactionId>,
    /// The row's number among those that the transaction puts into the same stream, from 0.
    pub row: u64,
    /// The table, as `schema.table`.
    pub table: Arc<str>,
    /// The subject to publish to.
    pub subject: Subject,
    /// The event id, which is sent as `Nats-Msg-Id` if the writer is set so, and always as `ce-id`.
    pub id: String,
    /// All other headers except those that the writer adds.
    pub headers: Headers,
    /// The payload.
    pub body: Bytes,
    /// Why the row cannot be published, if it cannot become a message at all; then the rest is what there is of it.
    pub poison: Option<Box<Poison>>,
}

impl Message {
    /// What orders the messages of one stream: file number, offset of the transaction, row.
    #[must_use]
    pub fn order(&self) -> (u64, u64, u64) {
        (self.transaction.file_number, self.transaction.offset, self.row)
    }

    /// The position as it stands in the header.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            gtid: self.transaction.gtid.clone(),
            file: self.transaction.file.to_string(),
            offset: self.transaction.offset,
            row: self.row,
        }
    }

    /// The same as text, without the copies that the parts would be.
    #[must_use]
    pub fn position_text(&self) -> String {
        format!("{}/{}", self.transaction, self.row)
    }

    /// Whether this message stood at `position`.
    #[must_use]
    pub fn is_at(&self, position: &Position) -> bool {
        self.row == position.row
            && self.transaction.offset == position.offset
            && *self.transaction.file == *position.file
            && self.transaction.gtid == position.gtid
    }

    /// About how many bytes the message takes in memory and on the wire.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.subject.len() + self.id.len() * 2 + headers + self.body.len() + 160
    }
}
