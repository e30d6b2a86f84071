//! From what the checkpoint and the streams say, decides where to go on. Pure.

use std::str::FromStr as _;

use outbox_event::Position;

use crate::{
    checkpoint::{At, Checkpoint, LogPoint, Prepared, Transaction},
    publish::{Chain, Tail, TailMessage},
};

/// What is known of a stream at start.
#[derive(Debug, Clone)]
pub struct StreamState {
    /// Its name.
    pub name: String,
    /// Its end.
    pub tail: Tail,
    /// The last sequence that it gave out, asked for where `tail` lies before the checkpoint's.
    pub last_sequence: Option<u64>,
    /// Whether its messages go away by being consumed, so that their number alone must do.
    pub consumed: bool,
}

/// Where to go on.
#[derive(Debug)]
pub struct Plan {
    /// Where to begin reading the log.
    pub start: LogPoint,
    /// What each stream holds, in the order of the states.
    pub chains: Vec<Chain>,
    /// Streams that have lost messages which they had acknowledged, and from which sequence on they are refilled.
    pub refilled: Vec<(String, u64)>,
    /// After a change of the source's server, the transactions that the log will show and of whose rows the streams hold some.
    pub awaited: Vec<String>,
}

/// Why there is no place to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No checkpoint, and not all streams can tell.
    #[error(
        "there is no checkpoint, stream {with} holds events of this bridge and stream {without} holds none, so nothing \
         tells where to go on for {without}; publish its rows from a known place by setting source.start to \"earliest\" or a GTID set"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NoCheckpoint { with: String, without: String },
    /// A stream lost everything that it had acknowledged.
    #[error(
        "stream {stream} is empty and starts anew at sequence {last_sequence}, but had acknowledged message {acknowledged}: it was \
         deleted and made again, or its storage was lost; its events can be published again from the log by deleting the \
         checkpoint {key} and setting source.start to \"earliest\" or a GTID set, which publishes them to every stream of this bridge"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    StreamLost { stream: String, last_sequence: u64, acknowledged: u64, key: String },
    /// Messages that were stored after the checkpoint are gone.
    #[error(
        "stream {stream} stored {gone} message(s) after {after}, the last that the checkpoint knows, and they are purged or deleted: \
         nothing tells whether they were rows of the outbox or another publisher's. Compare the outbox table with what the \
         consumers received; then delete the checkpoint and set source.start to the GTID set of what is published"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    Unaccounted { stream: String, gone: u64, after: u64 },
    /// A backfill has not ended.
    #[error(
        "a backfill of the streams has begun and not ended: run `outbox-bridge backfill` again, which goes on with what the streams do not \
         hold yet"
    )]
    BackfillUnfinished,
    /// A stream ends with a message of a backfill that no checkpoint covers.
    #[error(
        "stream {stream} ends with message {sequence}, which a backfill stored, and what followed it is lost, or the checkpoint is: nothing \
         tells where to go on in the log; run `outbox-bridge backfill` again, which publishes what the stream does not hold"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    BackfillTail { stream: String, sequence: u64 },
    /// The source has changed its server, and nothing tells the place there.
    #[error(
        "the source has changed its server, and the checkpoint does not say by GTIDs what is published, so its place on another \
         server is not known: go on with the server that was read before; every server needs GTIDs (MySQL: gtid_mode = ON) before it can be replaced by another"
    )]
    NoGtids,
    /// After a change of server, a stream does not tell what it holds.
    #[error(
        "since the source changed its server, only the messages themselves tell what stream {stream} holds, and {reason}. Compare the \
         outbox table with what the consumers received; then delete the checkpoint and set source.start to the GTID set of what is published"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NotTold { stream: String, reason: String },
    /// After a change of server, the log lacks rows that the streams hold.
    #[error(
        "the server {server} has executed {transactions}, but its log does not show all of the rows that the streams hold of them: a \
         replica that filters tables cannot be read; go on with the server that was read before"
    )]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    NotShown { server: String, transactions: String },
    /// A position in a stream or checkpoint that is none.
    #[error("stream {stream} ends at a position that cannot be read: {position}")]
    #[expect(missing_docs, reason = "the fields are what the message says")]
    BadPosition { stream: String, position: String },
}

/// Decides where to go on with a checkpoint.
///
/// # Errors
///
/// See [`PlanError`].
pub fn with_checkpoint(
    checkpoint: &Checkpoint,
    streams: &[StreamState],
    key: &str,
) -> Result<Plan, PlanError> {
    if checkpoint.backfill.is_some() {
        return Err(PlanError::BackfillUnfinished);
    }
    let mut start = checkpoint.point.clone();
    let covered = point_order(&start);
    let mut refilled = Vec::new();
    let mut chains = Vec::with_capacity(streams.len());
    for stream in streams {
        let recorded = checkpoint.streams.get(&stream.name);
        let recorded_sequence = recorded.map(|recorded| recorded.sequence);
        let last = stream.last_sequence.unwrap_or(0).max(stream.tail.sequence());
        let chain = match (&stream.tail, recorded) {
            // The usual case: at the checkpoint or past it.
            (Tail::Message(tail), Some(recorded)) if tail.sequence >= recorded.sequence => {
                let must_see = tail.position.order() > covered;
                Chain::new(tail.sequence, Some(tail.position.clone()), must_see, 0)
            }
            // Somebody's messages are gone, and nothing says whose they were.
            (_, Some(recorded)) if last > recorded.sequence && !stream.consumed => {
                return Err(PlanError::Unaccounted {
                    stream: stream.name.clone(),
                    gone: last - recorded.sequence,
                    after: recorded.sequence,
                });
            }
            // Purged, deleted or consumed: what was stored after the checkpoint is known by number.
            (_, Some(recorded)) if last >= recorded.sequence => {
                let position =
                    recorded.position.as_deref().map(|text| parse(&stream.name, text)).transpose()?;
                Chain::new(last, position, false, last - recorded.sequence)
            }
            // It lost what it had acknowledged, or it came back into the configuration: read from where it ends.
            (Tail::Message(tail), _) => {
                if recorded.is_some() {
                    refilled.push((stream.name.clone(), tail.sequence));
                }
                not_backfilled(&stream.name, tail)?;
                start = earlier(start, &tail.position, &stream.name)?;
                let must_see = recorded.is_some();
                Chain::new(tail.sequence, Some(tail.position.clone()), must_see, 0)
            }
            (Tail::Empty { last_sequence }, Some(recorded)) => {
                return Err(PlanError::StreamLost {
                    stream: stream.name.clone(),
                    last_sequence: *last_sequence,
                    acknowledged: recorded_sequence.unwrap_or(recorded.sequence),
                    key: key.to_owned(),
                });
            }
            // New in the configuration.
            (Tail::Empty { last_sequence }, None) => Chain::new(*last_sequence, None, false, 0),
        };
        chains.push(chain);
    }
    Ok(Plan { start, chains, refilled, awaited: Vec::new() })
}

/// Decides where to go on without a checkpoint, from the streams alone. `Ok(None)` if no stream holds anything: then the
/// configuration says where to begin.
///
/// # Errors
///
/// See [`PlanError`].
pub fn without_checkpoint(streams: &[StreamState]) -> Result<Option<Plan>, PlanError> {
    let mut start: Option<LogPoint> = None;
    let mut empty = None;
    let mut with = None;
    for stream in streams {
        match &stream.tail {
            Tail::Empty { .. } => empty = Some(&stream.name),
            Tail::Message(tail) => {
                not_backfilled(&stream.name, tail)?;
                with = Some(&stream.name);
                start = Some(match start {
                    None => point_of(&tail.position),
                    Some(start) => earlier(start, &tail.position, &stream.name)?,
                });
            }
        }
    }
    let Some(start) = start else { return Ok(None) };
    if let (Some(with), Some(without)) = (with, empty) {
        return Err(PlanError::NoCheckpoint { with: with.clone(), without: without.clone() });
    }
    Ok(Some(Plan { start, chains: from_tails(streams, true), refilled: Vec::new(), awaited: Vec::new() }))
}

/// The chains of streams that begin where the configuration says.
#[must_use]
pub fn from_tails(streams: &[StreamState], must_see: bool) -> Vec<Chain> {
    streams
        .iter()
        .map(|stream| match &stream.tail {
            Tail::Empty { last_sequence } => Chain::new(*last_sequence, None, false, 0),
            Tail::Message(tail) => Chain::new(tail.sequence, Some(tail.position.clone()), must_see, 0),
        })
        .collect()
}

/// From a message of a backfill nothing can be read on: it stood in no log.
fn not_backfilled(stream: &str, tail: &TailMessage) -> Result<(), PlanError> {
    if crate::backfill::is_backfilled(&tail.position) {
        return Err(PlanError::BackfillTail { stream: stream.to_owned(), sequence: tail.sequence });
    }
    Ok(())
}

fn parse(stream: &str, text: &str) -> Result<Position, PlanError> {
    Position::from_str(text)
        .map_err(|_| PlanError::BadPosition { stream: stream.to_owned(), position: text.to_owned() })
}

/// What orders points among the positions of rows: all rows of a transaction that is done lie before its point.
fn point_order(point: &LogPoint) -> Option<(u64, u64, u64)> {
    let file = outbox_event::log_file_number(&point.file)?;
    Some(match point.at {
        At::Done(_) => (file, point.offset, u64::MAX),
        At::Boundary | At::Gtids | At::Pending(_) => (file, point.offset, 0),
    })
}

fn point_of(position: &Position) -> LogPoint {
    LogPoint {
        server: String::new(),
        file: position.file.clone(),
        offset: position.offset,
        at: At::Pending(Transaction { gtid: position.gtid.clone(), committed_micros: 0 }),
        executed: None,
        prepared: Vec::new(),
        definitions: Default::default(),
    }
}

/// The earlier of a point and the transaction at `position`.
fn earlier(point: LogPoint, position: &Position, stream: &str) -> Result<LogPoint, PlanError> {
    let bad = || PlanError::BadPosition { stream: stream.to_owned(), position: position.to_string() };
    let order = position.order().ok_or_else(bad)?;
    if point_order(&point).is_some_and(|point| order < point) {
        // The executed set of the later point does not hold for the earlier one, nor what was prepared in between: another
        // transaction of the same name may be committed before that.
        let before = |prepared: &Prepared| {
            outbox_event::log_file_number(&prepared.file)
                .is_some_and(|file| (file, prepared.offset, 0) < order)
        };
        let mut prepared = point.prepared;
        prepared.retain(before);
        Ok(LogPoint { server: point.server, prepared, definitions: point.definitions, ..point_of(position) })
    } else {
        Ok(point)
    }
}

#[cfg(test)]
mod tests;
