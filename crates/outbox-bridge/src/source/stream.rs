//! What the pipeline needs of a source: a real server's log, or the simulation's.

use std::future::Future;

use crate::{checkpoint::LogPoint, publish::Message};

/// Committed outbox rows in commit order, and how far the log has been read with them.
#[derive(Debug)]
pub struct Batch {
    /// The rows, each with the index of the stream that it goes to.
    pub messages: Vec<(usize, Message)>,
    /// Everything up to here is in this batch or was in an earlier one.
    pub point: LogPoint,
    /// Where that ends, as file and offset: `point` names the beginning of the last transaction, and on a server that has
    /// gone quiet no other follows.
    pub end: (String, u64),
}

/// Where committed outbox rows come from.
pub trait Source: Send {
    /// What can go wrong.
    type Error: SourceError;

    /// Where a bridge without a past begins, according to its configuration.
    ///
    /// # Errors
    ///
    /// If the server cannot say, or does not have that place any more.
    fn first_point(&mut self) -> impl Future<Output = Result<LogPoint, Self::Error>> + Send;

    /// The server's clock, in microseconds since the epoch.
    ///
    /// # Errors
    ///
    /// If the server cannot be asked.
    fn now(&mut self) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Begins to read at `point`, whatever was read before.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or is not the one that `point` belongs to, or does not have it any more.
    fn open(&mut self, point: &LogPoint) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Waits for the next batch.
    ///
    /// # Errors
    ///
    /// If the connection is lost, or the log has what must not be passed over.
    fn next(&mut self) -> impl Future<Output = Result<Batch, Self::Error>> + Send;
}

/// An error of a source.
pub trait SourceError: std::error::Error + Send + Sync + 'static {
    /// Whether opening again at the last point can help without anybody's doing.
    fn is_transient(&self) -> bool;
}
