//! Compares outbox tables with what their streams hold: every row, every message, once.
//!
//! Rows and messages are hashed by the event's id and brought together in memory ([`compare`]). What does not fit into the
//! memory allowed is done in parts: each pass reads everything and keeps the events whose hash falls into its part, so
//! that doubles are found at any distance. A pass reads the tables in one snapshot, then the checkpoint, then the stream to its
//! end. A row without a message is looked for in the log from the
//! checkpoint on: what stands there behind the stream's last message is not missing but late. What still seems to be missing is looked for
//! once more in what the stream has got since.
//!
//! It writes nothing and takes no lease, so the bridge may run meanwhile.

mod compare;
mod content;
mod pass;
mod report;

use async_nats::jetstream::{self, stream};

use self::compare::{Entries, Full, Part};
use self::pass::{Pass, Scope};
pub(crate) use self::report::{Finding, Kind, StreamReport};
use crate::{
    audit::may_lose_single_messages,
    backfill::held::ReadError,
    checkpoint::CheckpointError,
    config::Config,
    exit::report,
    nats::{self, NatsError},
    run::stream_names,
    source::{
        LogError,
        connection::ConnectionError,
        table::{Range, TableError},
    },
};

/// More parts than this are of no use: then all of it has one id.
const PARTS_MAX: u64 = 1 << 32;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Only these tables, as `schema.table`; all if there are none.
    pub(crate) tables: Vec<String>,
    /// The part of the tables.
    pub(crate) range: Range,
    /// Rows a statement.
    pub(crate) chunk_rows: u32,
    /// How much memory rows and messages may take together.
    pub(crate) memory_bytes_max: usize,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What is being done.
    pub(crate) stage: String,
    /// Rows or messages read, of about so many.
    pub(crate) done: u64,
    pub(crate) of: u64,
}

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum VerifyError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("what is still to be published cannot be read from the log")]
    Log(#[from] LogError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Nats(#[from] NatsError),
    #[error("stream {stream} cannot be read ({reason})")]
    Stream { stream: String, reason: String },
    #[error(
        "there is no checkpoint of a bridge named {name}, so nothing tells what must be in the streams: start the bridge first, or set name \
         as the bridge has it"
    )]
    NoCheckpoint { name: String },
    #[error("a backfill has not ended: run `outbox-bridge backfill` again, then verify")]
    Backfilling,
    #[error("no [[outbox]] has the table {table}")]
    NoOutbox { table: String },
    /// The caller makes two parts of one.
    #[error("one event has more rows or messages than the memory allowed holds: raise --memory-max")]
    Full,
}

impl From<Full> for VerifyError {
    fn from(Full: Full) -> Self {
        Self::Full
    }
}

/// Does it; `tell` is called now and then.
pub(crate) async fn run(
    config: &Config,
    request: &Request,
    mut tell: impl FnMut(&Progress),
) -> Result<Vec<StreamReport>, VerifyError> {
    for table in &request.tables {
        if config.outboxes.iter().all(|outbox| outbox.table.to_string() != *table) {
            return Err(VerifyError::NoOutbox { table: table.clone() });
        }
    }
    let client = nats::connect(&config.nats, &format!("{}-verify", config.name)).await?;
    let context = nats::jetstream(&config.nats, client);
    let streams = stream_names(config);
    let mut reports = Vec::new();
    for (index, name) in streams.iter().enumerate() {
        let of_stream = config.outboxes.iter().filter(|outbox| outbox.stream == *name);
        let mut scope = Scope {
            config,
            request,
            context: &context,
            streams: &streams,
            stream: index,
            several: of_stream.clone().count() > 1,
            gone_one_by_one: false,
        };
        if of_stream.map(|outbox| outbox.table.to_string()).any(|table| scope.has_table(&table)) {
            reports.push(verify(&mut scope, name, &mut tell).await?);
        }
    }
    Ok(reports)
}

async fn verify(
    scope: &mut Scope<'_>,
    name: &str,
    tell: &mut impl FnMut(&Progress),
) -> Result<StreamReport, VerifyError> {
    let handle = scope.context.get_stream(name).await;
    let handle = handle.map_err(|error| scope.unreadable(&error))?;
    let info = handle.cached_info();
    if info.config.retention != stream::RetentionPolicy::Limits {
        let unchecked = "its retention is not `limits`: messages go as they are consumed, and none can be read beside the consumers";
        return Ok(StreamReport { unchecked: Some(unchecked.to_owned()), ..StreamReport::new(name) });
    }
    scope.gone_one_by_one = may_lose_single_messages(&info.config);
    let memory = u64::try_from(scope.request.memory_bytes_max).unwrap_or(u64::MAX).max(1);
    let messages = info.state.messages;
    // Estimates of rows are rough, and both may grow meanwhile.
    let rows = Pass::rows_estimated(scope).await?.saturating_mul(2).max(messages);
    let bytes = Entries::bytes_of(rows, messages).saturating_mul(5) / 4;
    in_parts(scope, &handle, bytes.div_ceil(memory).max(1), tell).await
}

async fn in_parts(
    scope: &Scope<'_>,
    handle: &jetstream::stream::Stream,
    parts: u64,
    tell: &mut impl FnMut(&Progress),
) -> Result<StreamReport, VerifyError> {
    let mut found = StreamReport::new(scope.name());
    let mut order = pass::Order::default();
    let mut left: Vec<Part> = (0..parts).rev().map(|number| Part { number, of: parts }).collect();
    while let Some(part) = left.pop() {
        let before = (found.clone(), order.clone());
        let pass = Pass::new(scope, handle, part, &mut found, &mut order);
        match Box::pin(pass.run(tell)).await {
            Ok(()) => found.passes += 1,
            Err(VerifyError::Full) if part.of < PARTS_MAX => {
                (found, order) = before;
                left.extend(part.halves());
            }
            Err(error) => return Err(error),
        }
    }
    order.finish(handle, &mut found).await;
    Ok(found)
}

impl Scope<'_> {
    fn unreadable(&self, error: &(dyn std::error::Error + 'static)) -> VerifyError {
        VerifyError::Stream { stream: self.name().to_owned(), reason: report(error) }
    }
}
