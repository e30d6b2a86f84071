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

    /// Looks for the server that `point` belongs to, and reads that one from now on. `false` if it is not to be found, and
    /// another one is there that [`relocate`](Self::relocate) may take.
    ///
    /// # Errors
    ///
    /// If no server can be reached.
    fn locate(&mut self, point: &LogPoint) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Takes another server than `point`'s, one that has everything in the point's executed set and the transactions in `stored`
    /// as well, and gives the place there from which all others follow.
    ///
    /// # Errors
    ///
    /// If there is none, or not yet.
    fn relocate(
        &mut self,
        point: &LogPoint,
        stored: &[String],
    ) -> impl Future<Output = Result<LogPoint, Self::Error>> + Send;

    /// The server that is read, for people.
    fn server(&self) -> String;

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

    /// Whether the server that was read is gone or has become another, so that it must be looked for.
    fn is_moved(&self) -> bool {
        false
    }
}
