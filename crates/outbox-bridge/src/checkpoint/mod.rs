//! How far everything is known to be stored.
//!
//! The checkpoint says where to begin reading the log and what each stream must at least hold. It is a hint, not the
//! truth about a stream: that is the stream's last message. What makes it safe for two bridges is that it is only ever
//! written by compare-and-set: whoever finds that another instance has written it steps down.

mod kv;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, future::Future};

use serde::{Deserialize, Serialize};

pub use kv::KvCheckpoints;
pub(crate) use kv::open_bucket;

/// The version of the format that this bridge writes.
pub const FORMAT_VERSION: u32 = 1;

/// The version of a checkpoint with an unfinished backfill, which a bridge that knows of none must not pass over.
pub const BACKFILL_VERSION: u32 = 2;

/// The newest version that this bridge reads.
const NEWEST_VERSION: u32 = BACKFILL_VERSION;

/// How far everything is known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The format's version.
    pub version: u32,
    /// The process that wrote it.
    pub instance: String,
    /// Where the log has been read to; all rows up to here are stored.
    pub point: LogPoint,
    /// What each stream held then.
    pub streams: BTreeMap<String, StreamPoint>,
    /// Since when each configured outbox table has been read without a gap, by the server's clock in microseconds since the
    /// epoch, by `schema.table`. What was inserted earlier may never have been seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, u64>,
    /// When it was written, in seconds since the epoch.
    pub written_seconds: u64,
    /// The backfill that has begun and not ended: until it has, nothing may be read from the log. The point is the place where
    /// reading is to go on then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<UnfinishedBackfill>,
}

/// A backfill that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedBackfill {
    /// What it calls itself in the positions of its messages.
    pub run: String,
}

impl Checkpoint {
    /// Reads a checkpoint; says why if it cannot.
    fn from_json(text: &[u8]) -> Result<Self, String> {
        // Of a newer format nothing but this is known.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let reason = |error: serde_json::Error| error.to_string();
        let Version { version } = serde_json::from_slice(text).map_err(reason)?;
        if version > NEWEST_VERSION {
            return Err(format!(
                "it has format {version}, and this bridge knows formats up to {NEWEST_VERSION}: a newer bridge wrote it; \
                 run that version"
            ));
        }
        serde_json::from_slice(text).map_err(reason)
    }
}

/// What a stream held at a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPoint {
    /// Its last sequence.
    pub sequence: u64,
    /// Where the row of that message stood in the log; `None` if the bridge had stored nothing yet.
    pub position: Option<String>,
}

/// A place in the source's log at which reading can begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPoint {
    /// What tells the server from all others: MySQL's `server_uuid`; empty where the server has none.
    pub server: String,
    /// The log file.
    pub file: String,
    /// The offset in the file, at which an event begins.
    pub offset: u64,
    /// What stands at that offset.
    pub at: At,
    /// The GTIDs of all transactions before this point and of the one at it, if that is done; in the server's notation.
    /// `None` if not known.
    pub executed: Option<String>,
    /// Prepared XA transactions whose outcome is still to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared: Vec<Prepared>,
    /// The definitions of the outbox tables at this point, for logs without column names, by `schema.table`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub definitions: BTreeMap<String, serde_json::Value>,
}

/// What stands at a [`LogPoint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// The end of something, or the log's start: nothing is known of what follows.
    Boundary,
    /// A log's start, from which transactions are read that are not among the executed ones.
    Gtids,
    /// This transaction begins here, and all of it is done.
    Done(Transaction),
    /// This transaction begins here, and not all of it may be done.
    Pending(Transaction),
}

/// What identifies a transaction in the log, so that another log at the same place is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its GTID; empty if it has none.
    pub gtid: String,
    /// When it was committed, in microseconds since the epoch; 0 if unknown.
    #[serde(default)]
    pub committed_micros: u64,
}

/// A prepared XA transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Its XID in the server's notation, `X'…',X'…',1`.
    pub xid: String,
    /// The file in which its rows stand.
    pub file: String,
    /// The offset at which its group of events begins.
    pub offset: u64,
    /// Whether it has rows of an outbox table.
    pub rows: bool,
}

impl fmt::Display for LogPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// What can go wrong with the store of checkpoints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The store cannot be reached now.
    #[error("the checkpoint store cannot be reached: {0}")]
    Unavailable(String),
    /// Somebody else has written the checkpoint since it was read.
    #[error("somebody else has written the checkpoint")]
    Conflict,
    /// What is stored is no checkpoint that this bridge can read.
    #[error("the checkpoint {key} cannot be read: {reason}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Unreadable { key: String, reason: String },
}

/// A store of one checkpoint that is written by compare-and-set.
pub trait Checkpoints: Send {
    /// The checkpoint and its revision.
    ///
    /// # Errors
    ///
    /// If the store cannot be reached, or holds what cannot be read.
    fn load(&mut self) -> impl Future<Output = Result<Option<(Checkpoint, u64)>, CheckpointError>> + Send;

    /// Writes the checkpoint in place of the one with `revision` (`None`: where there is none); gives its revision.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Conflict`] if another was written since. After any other error it may have been written or not.
    fn save(
        &mut self,
        checkpoint: &Checkpoint,
        revision: Option<u64>,
    ) -> impl Future<Output = Result<u64, CheckpointError>> + Send;
}
