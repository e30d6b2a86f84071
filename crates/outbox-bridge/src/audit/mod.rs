//! The continuous audit: compares the newest rows of the outbox tables with what the stream itself says that it holds.
//!
//! It believes nothing that the writers know. Rows are read first; then it waits until a checkpoint covers all that the server
//! has shown (see [`crate::cleanup`]), so that nothing is called missing that is only late; then it walks from the
//! stream's last message towards the first until every row is found or its message would have been passed. What a stream has
//! dropped at its beginning is not judged, nor is a stream whose messages go away one by one, by being consumed or otherwise.
//! Whatever seems to be missing is looked for again some seconds later, since a deposed leader may have answered.

mod judge;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::{
    self, message::StreamMessage, stream::RawMessageErrorKind, stream::RetentionPolicy,
};
use futures_util::{StreamExt as _, stream};
use outbox_event::header;
use tokio::sync::watch;

pub(crate) use self::judge::{CLOCKS_DIFFER_MICROS, is_after};
use self::judge::{Counted, Window};
use crate::{
    cleanup::{CleanupError, Gate, Keyed, ROUNDING_MICROS, connect},
    config::{Config, Outbox},
    exit::report,
    metrics::AuditMetrics,
    pipeline::Covered,
    publish::Letters,
    source::connection::{ConnectOptions, Connection},
};

/// Messages that are asked for at a time.
const REQUESTS: usize = 16;
/// A walk ends after so many messages for each row that is looked for.
const MESSAGES_A_ROW_MAX: usize = 20;
/// A deposed leader was seen to answer for half a second.
pub(crate) const STALE_PATIENCE: Duration = Duration::from_secs(5);

/// Why an audit could not be made.
/// Why a table cannot be compared now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    #[error(transparent)]
    Rows(#[from] CleanupError),
    #[error("stream {stream} cannot be read ({reason})")]
    Stream { stream: String, reason: String },
}

/// A stream and the tables that go to it.
#[derive(Debug)]
struct Audited {
    stream: String,
    outboxes: Vec<Outbox>,
    counted: Counted,
    metrics: AuditMetrics,
}

/// What compares.
#[derive(Debug)]
pub(crate) struct Auditor {
    /// The server that is read.
    server: watch::Receiver<ConnectOptions>,
    letters: Option<Letters>,
    context: jetstream::Context,
    gate: Gate,
    interval: Duration,
    rows: usize,
    streams: Vec<Audited>,
}

impl Auditor {
    /// What audits the configured streams; `None` if it is off.
    pub(crate) fn new(
        config: &Config,
        server: watch::Receiver<ConnectOptions>,
        letters: Option<Letters>,
        context: jetstream::Context,
        covered: watch::Receiver<Option<Covered>>,
    ) -> Option<Self> {
        let interval = config.audit.interval?;
        let mut streams: Vec<Audited> = Vec::new();
        for outbox in &config.outboxes {
            match streams.iter_mut().find(|audited| audited.stream == outbox.stream) {
                Some(audited) => audited.outboxes.push(outbox.clone()),
                None => streams.push(Audited {
                    stream: outbox.stream.clone(),
                    outboxes: vec![outbox.clone()],
                    counted: Counted::default(),
                    metrics: AuditMetrics::new(&outbox.stream),
                }),
            }
        }
        let rows = usize::try_from(config.audit.rows).unwrap_or(1);
        Some(Self { server, letters, context, gate: Gate::new(covered), interval, rows, streams })
    }

    /// Audits, for ever.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(self.interval).await;
            for audited in &mut self.streams {
                let server = self.server.borrow_and_update().clone();
                let letters = self.letters.as_ref();
                let auditing = audited.audit(&server, letters, &self.context, &mut self.gate, self.rows);
                if let Err(error) = auditing.await {
                    let stream = &audited.stream;
                    tracing::warn!(stream, error = report(&error), "this audit could not be made");
                    audited.metrics.errors.increment(1);
                }
            }
        }
    }
}

impl Audited {
    async fn audit(
        &mut self,
        options: &ConnectOptions,
        letters: Option<&Letters>,
        context: &jetstream::Context,
        gate: &mut Gate,
        rows_max: usize,
    ) -> Result<(), AuditError> {
        let mut rows = HashMap::new();
        let mut connection = connect(options).await?;
        for outbox in &self.outboxes {
            rows.extend(newest(&mut connection, outbox, gate, rows_max).await?);
        }
        gate.pass(&mut connection).await?;
        drop(connection);
        if let Some(letters) = letters {
            for outbox in &self.outboxes {
                let parked = letters.ids(&self.stream, &outbox.table.to_string(), |_| true).await;
                for id in parked.map_err(CleanupError::from)? {
                    rows.remove(&id);
                }
            }
        }
        let mut window = self.walk(context, rows.clone(), rows_max).await?;
        if !window.missing().is_empty() {
            tokio::time::sleep(STALE_PATIENCE).await;
            window = self.walk(context, rows, rows_max).await?;
        }
        self.metrics.checked.increment(u64::try_from(window.checked()).unwrap_or(0));
        for id in window.missing() {
            if self.counted.is_new(format!("missing {id}")) {
                tracing::error!(
                    stream = self.stream,
                    id,
                    "the outbox table has an event that the stream lacks"
                );
                self.metrics.missing.increment(1);
            }
        }
        for id in window.doubled() {
            if self.counted.is_new(format!("doubled {id}")) {
                tracing::error!(stream = self.stream, id, "the stream holds an event more than once");
                self.metrics.doubled.increment(1);
            }
        }
        for sequence in window.reordered() {
            if self.counted.is_new(format!("reordered {sequence}")) {
                tracing::error!(
                    stream = self.stream,
                    sequence,
                    "the stream holds a message before one that was committed earlier"
                );
                self.metrics.reordered.increment(1);
            }
        }
        Ok(())
    }

    /// Walks from the stream's end until the rows are decided, over as many messages as there may be rows at least.
    async fn walk(
        &self,
        context: &jetstream::Context,
        rows: HashMap<String, u64>,
        rows_max: usize,
    ) -> Result<Window, AuditError> {
        let failed = |error: &(dyn std::error::Error + 'static)| AuditError::Stream {
            stream: self.stream.clone(),
            reason: report(error),
        };
        let handle = context.get_stream(&self.stream).await.map_err(|error| failed(&error))?;
        let info = handle.cached_info();
        let (config, state) = (&info.config, &info.state);
        let unjudged = config.retention != RetentionPolicy::Limits || may_lose_single_messages(config);
        let mut window = Window::new(if unjudged { HashMap::new() } else { rows });
        let first = state.first_sequence.max(1);
        let messages_max = rows_max.saturating_mul(MESSAGES_A_ROW_MAX);
        let sequences = (first..=state.last_sequence).rev().take(messages_max);
        let handle = &handle;
        let mut messages = stream::iter(sequences)
            .map(|sequence| async move { (sequence, handle.get_raw_message(sequence).await) })
            .buffered(REQUESTS);
        let mut walked = 0;
        while let Some((sequence, message)) = messages.next().await {
            match message {
                Ok(message) => take(&mut window, &message),
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(failed(&error)),
            }
            walked += 1;
            if sequence == first && state.first_sequence <= 1 {
                window.complete();
            }
            if walked >= rows_max && window.is_decided() {
                break;
            }
        }
        Ok(window)
    }
}

/// Whether messages go from the midst of a stream with limits.
pub(crate) fn may_lose_single_messages(config: &jetstream::stream::Config) -> bool {
    config.max_messages_per_subject > 0 || config.allow_message_ttl
}

fn take(window: &mut Window, message: &StreamMessage) {
    let header = |name: &str| message.headers.get_last(name).map_or("", |value| value.as_str());
    let stored = u64::try_from(message.time.unix_timestamp_nanos() / 1_000).unwrap_or(0);
    window.take(message.sequence, stored, header(header::CE_ID), header(header::POSITION));
}

/// Ids and times of a table's newest rows, as the stream's messages name them: of those that the bridge has read for certain.
/// Without keys that ascend none are the newest.
async fn newest(
    connection: &mut Connection,
    outbox: &Outbox,
    gate: &mut Gate,
    rows_max: usize,
) -> Result<Vec<(String, u64)>, CleanupError> {
    let Some(table) = Keyed::read(connection, outbox).await? else { return Ok(Vec::new()) };
    if !table.is_ordered() {
        return Ok(Vec::new());
    }
    let since = gate.since(&outbox.table.to_string()).await?.saturating_add(ROUNDING_MICROS);
    let rows = connection.query(&table.newest(rows_max)).await?;
    let row = |(id, created): (String, u64)| {
        (created >= since).then(|| (header::encode_value(&id).into_owned(), created))
    };
    Ok(rows.iter().filter_map(|row| table.event(row)).filter_map(row).collect())
}
