//! Publishes from the outbox tables what the streams do not hold, and hands over to the log.
//!
//! One pass: take the lease; open a snapshot and find the place in the log where the log takes over ([`handover`]); read
//! which events the streams hold and which the log will show from there on ([`held`]); write into the checkpoint that a
//! backfill has begun; publish the tables' other rows through the writers that every message goes through; and write the
//! checkpoint at the hand-over point. Whatever interrupts it, the next run begins so again and finds more in the streams.
//!
//! It never publishes a row that the log will show, never hands over at a place before which the snapshot misses a
//! transaction, and never goes on when somebody else has written to a stream.

mod handover;
mod held;
mod lanes;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use outbox_event::header::{CE_ID, CE_SOURCE, LETTER_STREAM};
use tokio_util::sync::CancellationToken;

pub(crate) use self::handover::{SnapshotError, is_backfilled};
pub(crate) use self::held::ReadError;
use self::{
    handover::open_snapshot,
    held::{Ids, key, key_of, read_stream},
    lanes::Lanes,
};
use crate::{
    admin::Readiness,
    checkpoint::{
        BACKFILL_VERSION, Checkpoint, CheckpointError, Checkpoints, KvCheckpoints, LogPoint, StreamPoint,
        UnfinishedBackfill,
    },
    config::Config,
    lead::Leadership,
    nats,
    pipeline::{Wires as _, new_checkpoint},
    publish::{Chain, Letters, NatsWire, Stop, Tail, TransactionId, Wire as _, WireError},
    route::{Route, RouteError, finish},
    run::{
        self, NatsWires, checkpoint_replicas, connect_nats, log_options, pipeline_options, route_maker,
        stream_names,
    },
    source::{
        LogError, LogSource, ServerIdentity,
        connection::{Connection, ConnectionError},
        find::table_definition,
        table::{OutboxTable, Range, TableError, prepare_session},
    },
};

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Only say what would be done.
    pub(crate) dry_run: bool,
    /// Publish also what a stream may have held and dropped.
    pub(crate) refill: bool,
    /// Rows a statement.
    pub(crate) chunk_rows: u32,
    /// Rows a second at most.
    pub(crate) rows_per_second_max: Option<u32>,
    /// The part of the tables.
    pub(crate) range: Range,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What is being done.
    pub(crate) stage: String,
    /// Rows read, of about so many.
    pub(crate) rows: u64,
    pub(crate) rows_estimated: u64,
    /// Rows that the streams hold already.
    pub(crate) held: u64,
    /// Rows that are left to the log.
    pub(crate) left: u64,
    /// Rows published, or to be.
    pub(crate) published: u64,
    /// Of these, rows that the server did not store, since it knows their ids from messages that are gone.
    pub(crate) dropped: u64,
}

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BackfillError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("a row of table {table} cannot be published")]
    Row { table: String, source: RouteError },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the stream cannot be reached")]
    Wire(#[from] WireError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("publishing has failed")]
    Stop(#[from] Stop),
    #[error(
        "another bridge of this name leads: {holder}; stop it first, and start it again when the backfill has ended"
    )]
    Led { holder: String },
    #[error("the bridge cannot lead")]
    Lease(#[from] outbox_lease::LeaseError),
    #[error("the lease was lost; see that no bridge runs and run `outbox-bridge backfill` again")]
    LeaseLost,
    #[error("another bridge has written the checkpoint; stop it and run `outbox-bridge backfill` again")]
    TakenOver,
    #[error("the server writes no binary log, so there is nothing to hand over to: start it with --log-bin")]
    NoLog,
    #[error(
        "stream {stream} has stored {last} message(s) and holds {holds}: nothing tells which events it held. Say which rows it never held by \
         --from KEY, or let everything be published that it does not hold now by --refill; consumers with an inbox drop what they know"
    )]
    Gone { stream: String, last: u64, holds: u64 },
    #[error(
        "stream {stream} ends with the event at {position}, behind {point}, where the log would take over: if a bridge of this name was \
         killed, start it, let it catch up and stop it with SIGTERM; if the log is another server's, give the bridge a new name and a \
         new stream"
    )]
    Ahead { stream: String, position: String, point: String },
    #[error("NATS cannot be reached")]
    Nats(#[source] crate::RunError),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How far it got.
    pub(crate) progress: Progress,
    /// Whether everything was done.
    pub(crate) finished: bool,
    /// Where the log takes over.
    pub(crate) point: String,
    /// Tables that store nothing.
    pub(crate) without_rows: Vec<String>,
}

/// So often it begins anew when somebody's last messages have come in between.
const ATTEMPTS_MAX: u32 = 3;

/// Does it; `tell` is called now and then.
pub(crate) async fn run(
    config: &Config,
    request: &Request,
    shutdown: &CancellationToken,
    mut tell: impl FnMut(&Progress),
) -> Result<Outcome, BackfillError> {
    let readiness = Readiness::of_bridge();
    let (client, disconnects, complaints) =
        connect_nats(config, &readiness).await.map_err(BackfillError::Nats)?;
    let context = nats::jetstream(&config.nats, client.clone());
    let streams = stream_names(config);
    let replicas = checkpoint_replicas(config, &context, &streams).await;
    let instance = run::instance();
    let lease = if request.dry_run {
        None
    } else {
        let mut leadership = Leadership::new(config, context.clone(), replicas, &instance, readiness.clone());
        // As long as a dead predecessor's takes to run out.
        let patience = config.lease.ttl * 2 + Duration::from_secs(5);
        match tokio::time::timeout(patience, leadership.acquire()).await {
            Ok(lease) => Some(lease?),
            Err(_) => {
                let holder = match readiness.report().role {
                    crate::admin::Role::Standby { leader } => leader,
                    _ => "the lease cannot be taken".to_owned(),
                };
                return Err(BackfillError::Led { holder });
            }
        }
    };
    let checkpoints =
        KvCheckpoints::new(context.clone(), config.checkpoint.bucket.clone(), config.name.clone(), replicas);
    let letters = run::letters(config, &client, &context);
    let wires = NatsWires {
        // A row that cannot be published ends the backfill: as a letter it would be met again by the next one.
        letters: None,
        complaints,
        client,
        context,
        disconnects,
        mode: config.publish.mode,
        message_id: config.publish.message_id,
    };
    let mut backfill = Backfill { config, request, streams, instance, wires, letters, checkpoints, shutdown };
    let lost = async {
        match &lease {
            Some(lease) => lease.lost().await,
            None => std::future::pending().await,
        }
    };
    let outcome = {
        let attempts = backfill.attempts(&mut tell);
        tokio::select! {
            biased;
            () = lost => Err(BackfillError::LeaseLost),
            outcome = Box::pin(attempts) => outcome,
        }
    };
    if let Some(lease) = lease {
        lease.release().await;
    }
    outcome
}

struct Backfill<'a> {
    config: &'a Config,
    request: &'a Request,
    streams: Vec<String>,
    instance: String,
    wires: NatsWires,
    letters: Option<Letters>,
    checkpoints: KvCheckpoints,
    shutdown: &'a CancellationToken,
}

/// One stream at the beginning.
struct StreamEnd {
    tail: Tail,
    last_sequence: u64,
}

impl Backfill<'_> {
    async fn attempts(&mut self, tell: &mut impl FnMut(&Progress)) -> Result<Outcome, BackfillError> {
        let mut attempt = 1;
        loop {
            match self.attempt(tell).await {
                Err(BackfillError::Stop(stop @ (Stop::Inconsistent { .. } | Stop::Behind { .. })))
                    if attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                    tracing::warn!(
                        error = crate::exit::report(&stop),
                        "beginning anew with what the stream holds"
                    );
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&mut self, tell: &mut impl FnMut(&Progress)) -> Result<Outcome, BackfillError> {
        let mut progress = Progress { stage: "looking at servers".to_owned(), ..Progress::default() };
        tell(&progress);
        let loaded = self.checkpoints.load().await?;
        let mut connection = Connection::connect(&run::connect_options(&self.config.source)).await?;
        let identity = ServerIdentity::read(&mut connection).await?;
        prepare_session(&mut connection).await?;
        let routes = route_maker(self.config, &self.streams)(&identity.name);
        let several = several_tables(&routes, self.streams.len());
        let (tables, without_rows) = self.describe(&mut connection, &routes).await?;
        progress.rows_estimated = tables.iter().map(|table| table.rows_estimated).sum();
        let definitions = definitions(&mut connection, &routes).await?;
        let Some(mut fresh) = open_snapshot(&mut connection, &identity.uuid).await? else {
            return Err(BackfillError::NoLog);
        };
        fresh.definitions = definitions;

        progress.stage = "reading what the log shows by itself".to_owned();
        tell(&progress);
        let (point, logged) =
            self.logged(loaded.as_ref().map(|(checkpoint, _)| checkpoint), fresh, &several).await?;
        progress.stage = "reading what the streams hold".to_owned();
        tell(&progress);
        let ends = self.ends(&point).await?;
        let held = self.held(&ends, &several).await?;
        let run = format!("{:08x}", rand::random::<u32>());
        let revision = if self.request.dry_run {
            None
        } else {
            Some(self.claim(&point, &ends, &run, loaded.map(|(_, revision)| revision)).await?)
        };

        progress.stage = "publishing".to_owned();
        let mut lanes = match revision {
            Some(_) => self.lanes(&point, &ends, &run).await?,
            None => Lanes::default(),
        };
        let known = Known { several: &several, held: &held, logged: &logged };
        let whole = self.publish(&mut connection, &tables, &known, &mut lanes, &mut progress, tell).await?;
        let stored = lanes.finish().await?;
        if revision.is_some() {
            let stored_now = stored
                .iter()
                .zip(&ends)
                .map(|(stored, end)| stored.sequence.saturating_sub(end.last_sequence));
            progress.dropped = progress.published.saturating_sub(stored_now.sum());
        }
        let finished = whole && progress.dropped == 0 && !self.request.dry_run;
        if let Some(revision) = revision.filter(|_| finished) {
            let streams = self.streams.iter().cloned().zip(stored.into_iter().map(|stored| StreamPoint {
                sequence: stored.sequence,
                position: stored.position.as_ref().map(ToString::to_string),
            }));
            let checkpoint = new_checkpoint(&self.instance, point.clone(), streams.collect());
            self.save(&checkpoint, Some(revision)).await?;
        }
        tell(&progress);
        Ok(Outcome { progress, finished, point: point.to_string(), without_rows })
    }

    async fn describe(
        &self,
        connection: &mut Connection,
        routes: &[Route],
    ) -> Result<(Vec<OutboxTable>, Vec<String>), BackfillError> {
        let mut tables = Vec::new();
        let mut without_rows = Vec::new();
        let row_bytes_max = self.config.source.event_bytes_max.as_usize();
        for route in routes {
            let name = route.table.to_string();
            match OutboxTable::describe(connection, route.clone(), &self.request.range, row_bytes_max).await?
            {
                Some(table) => tables.push(table),
                None => without_rows.push(name),
            }
        }
        Ok((tables, without_rows))
    }

    /// Where the log takes over, and what it shows from there on: at the checkpoint if the log reaches back so far, so that
    /// rows are not lost that were deleted from the table since; else at `fresh`.
    async fn logged(
        &self,
        checkpoint: Option<&Checkpoint>,
        fresh: LogPoint,
        several: &[bool],
    ) -> Result<(LogPoint, Vec<Ids>), BackfillError> {
        let mut options = log_options(self.config);
        // Neither the identity of the main dump nor of the one that looks for prepared transactions.
        options.server_id = (options.server_id ^ 0x2000_0000).max(1);
        let source = LogSource::new(options, route_maker(self.config, &self.streams));
        if let Some(checkpoint) = checkpoint {
            match self.logged_from(&source, &checkpoint.point, several).await {
                Ok(logged) => return Ok((checkpoint.point.clone(), logged)),
                Err(LogError::Purged { at, .. }) => tracing::warn!(
                    at,
                    "the log is purged from the checkpoint on: rows that were deleted from the table since then cannot be published"
                ),
                Err(error) => return Err(error.into()),
            }
        }
        let logged = self.logged_from(&source, &fresh, several).await?;
        Ok((fresh, logged))
    }

    async fn logged_from(
        &self,
        source: &LogSource,
        point: &LogPoint,
        several: &[bool],
    ) -> Result<Vec<Ids>, LogError> {
        let mut logged: Vec<Ids> = self.streams.iter().map(|_| Ids::default()).collect();
        source
            .read_to_end(point, |stream, message| {
                if let Some(ids) = logged.get_mut(stream) {
                    ids.add(key_of_row(message, several.get(stream) == Some(&true)));
                }
            })
            .await?;
        logged.iter_mut().for_each(Ids::seal);
        Ok(logged)
    }

    /// Where each stream ends; refuses what nothing can be said about.
    async fn ends(&mut self, point: &LogPoint) -> Result<Vec<StreamEnd>, BackfillError> {
        let mut ends = Vec::new();
        for stream in &self.streams {
            let info = NatsWire::stream_info(&self.wires.context, stream).await?;
            let (mut wire, _) = self.wires.wire(stream).await?;
            let tail = wire.read_tail().await?;
            let last_sequence = wire.read_last_sequence().await?.max(tail.sequence());
            let holds = info.state.messages;
            if holds < info.state.last_sequence && !self.request.refill && self.request.range.from.is_none() {
                return Err(BackfillError::Gone {
                    stream: stream.clone(),
                    last: info.state.last_sequence,
                    holds,
                });
            }
            if !self.request.dry_run && handover::first_row(point, &tail).is_none() {
                let position = match &tail {
                    Tail::Message(tail) => tail.position.to_string(),
                    Tail::Empty { .. } => String::new(),
                };
                return Err(BackfillError::Ahead {
                    stream: stream.clone(),
                    position,
                    point: point.to_string(),
                });
            }
            ends.push(StreamEnd { tail, last_sequence });
        }
        Ok(ends)
    }

    async fn held(&self, ends: &[StreamEnd], several: &[bool]) -> Result<Vec<Ids>, BackfillError> {
        let mut held = Vec::new();
        for (index, (stream, end)) in self.streams.iter().zip(ends).enumerate() {
            let mut ids = Ids::default();
            if let Tail::Message(tail) = &end.tail {
                let several = several.get(index) == Some(&true);
                let visit = |_, message: &async_nats::Message| {
                    if let Some(key) = key_of(message, several) {
                        ids.add(key);
                    }
                };
                read_stream(&self.wires.context, stream, tail.sequence, true, visit).await?;
            }
            if let Some(letters) = &self.letters {
                let several = several.get(index) == Some(&true);
                let parked = letters.each(|letter| {
                    let header = |name| letter.header(name).unwrap_or_default();
                    let (of, id) = (header(LETTER_STREAM), header(CE_ID));
                    if of == stream && !id.is_empty() {
                        ids.add(key(id, several.then(|| header(CE_SOURCE))));
                    }
                });
                parked.await?;
            }
            ids.seal();
            tracing::info!(stream, events = ids.len(), "read what the stream holds");
            held.push(ids);
        }
        Ok(held)
    }

    /// Writes that a backfill has begun: from here on an older instance steps down, and `run` refuses until it has ended.
    async fn claim(
        &mut self,
        point: &LogPoint,
        ends: &[StreamEnd],
        run: &str,
        revision: Option<u64>,
    ) -> Result<u64, BackfillError> {
        let streams = self.streams.iter().cloned().zip(ends.iter().map(|end| StreamPoint {
            sequence: end.last_sequence,
            position: match &end.tail {
                Tail::Message(tail) => Some(tail.position.to_string()),
                Tail::Empty { .. } => None,
            },
        }));
        let mut checkpoint = new_checkpoint(&self.instance, point.clone(), streams.collect());
        checkpoint.version = BACKFILL_VERSION;
        checkpoint.backfill = Some(UnfinishedBackfill { run: run.to_owned() });
        self.save(&checkpoint, revision).await
    }

    async fn save(&mut self, checkpoint: &Checkpoint, revision: Option<u64>) -> Result<u64, BackfillError> {
        match self.checkpoints.save(checkpoint, revision).await {
            Err(CheckpointError::Conflict) => Err(BackfillError::TakenOver),
            // It may have been written or not: the next run finds out.
            saved => Ok(saved?),
        }
    }

    async fn lanes(
        &mut self,
        point: &LogPoint,
        ends: &[StreamEnd],
        run: &str,
    ) -> Result<Lanes, BackfillError> {
        let options = pipeline_options(self.config, self.instance.clone(), self.streams.clone());
        let mut lanes = Lanes::default();
        for (stream, end) in self.streams.iter().zip(ends) {
            let (wire, traits) = self.wires.wire(stream).await?;
            let position = match &end.tail {
                Tail::Message(tail) => Some(tail.position.clone()),
                Tail::Empty { .. } => None,
            };
            let chain = Chain::new(end.last_sequence, position, false, 0).exclusive();
            let (offset, row) = handover::first_row(point, &end.tail).unwrap_or_default();
            let transaction = TransactionId {
                gtid: handover::mark(run),
                file: point.file.as_str().into(),
                file_number: outbox_event::log_file_number(&point.file).unwrap_or_default(),
                offset,
                committed_micros: now_micros(),
            };
            lanes.add(stream.clone(), wire, traits, chain, &options, transaction, row);
        }
        Ok(lanes)
    }

    /// Publishes what is neither held nor logged; `false` if it was stopped before the end.
    async fn publish(
        &self,
        connection: &mut Connection,
        tables: &[OutboxTable],
        known: &Known<'_>,
        lanes: &mut Lanes,
        progress: &mut Progress,
        tell: &mut impl FnMut(&Progress),
    ) -> Result<bool, BackfillError> {
        let mut throttle = Throttle::new(self.request.rows_per_second_max);
        let placeholder = Arc::new(TransactionId {
            gtid: String::new(),
            file: "".into(),
            file_number: 0,
            offset: 0,
            committed_micros: 0,
        });
        for table in tables {
            let failed = |source| BackfillError::Row { table: table.name().to_string(), source };
            let stream = table.stream();
            let mut cursor = None;
            loop {
                let mut rows = table.chunk(connection, cursor.as_ref(), self.request.chunk_rows).await?;
                let mut count = 0;
                while let Some(row) = rows.next().await? {
                    if self.shutdown.is_cancelled() {
                        return Ok(false);
                    }
                    count += 1;
                    progress.rows += 1;
                    let mut row = table.row(&row, &placeholder).map_err(failed)?;
                    cursor = Some(std::mem::take(&mut row.cursor));
                    match known.of(stream, &row.message) {
                        Where::Stream => progress.held += 1,
                        Where::Log => progress.left += 1,
                        Where::Nowhere => {
                            progress.published += 1;
                            if !self.request.dry_run {
                                throttle.wait().await;
                                let (transaction, number) = lanes.next(stream, row.created_micros)?;
                                finish(&mut row.message, &transaction, number);
                                lanes.push(stream, row.message).await?;
                            }
                        }
                    }
                }
                tell(progress);
                if count < self.request.chunk_rows {
                    break;
                }
            }
        }
        Ok(true)
    }
}

/// What is known of events.
struct Known<'a> {
    several: &'a [bool],
    held: &'a [Ids],
    logged: &'a [Ids],
}

enum Where {
    Stream,
    Log,
    Nowhere,
}

impl Known<'_> {
    fn of(&self, stream: usize, message: &crate::publish::Message) -> Where {
        let key = key_of_row(message, self.several.get(stream) == Some(&true));
        let has = |ids: &[Ids]| ids.get(stream).is_some_and(|ids| ids.contains(key));
        match (has(self.held), has(self.logged)) {
            (true, _) => Where::Stream,
            (false, true) => Where::Log,
            (false, false) => Where::Nowhere,
        }
    }
}

/// The key of a message that is to be stored.
fn key_of_row(message: &crate::publish::Message, several_tables: bool) -> u128 {
    let source = |name: &str| {
        message.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value.as_str())
    };
    key(&message.id, several_tables.then(|| source(outbox_event::header::CE_SOURCE)))
}

/// Of each stream, whether several tables go to it.
fn several_tables(routes: &[Route], streams: usize) -> Vec<bool> {
    (0..streams).map(|stream| routes.iter().filter(|route| route.stream == stream).count() > 1).collect()
}

/// What the tables are like now, in case the log does not say and they change before it is read.
async fn definitions(
    connection: &mut Connection,
    routes: &[Route],
) -> Result<std::collections::BTreeMap<String, serde_json::Value>, ConnectionError> {
    let mut definitions = std::collections::BTreeMap::new();
    for route in routes {
        let definition = table_definition(connection, route.name()).await?;
        if !definition.is_empty()
            && let Ok(definition) = serde_json::to_value(definition)
        {
            definitions.insert(route.table.to_string(), definition);
        }
    }
    Ok(definitions)
}

fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Lets so many rows a second through.
struct Throttle {
    pause: Option<Duration>,
    due: tokio::time::Instant,
}

impl Throttle {
    fn new(rows_per_second_max: Option<u32>) -> Self {
        let pause = rows_per_second_max.map(|rate| Duration::from_secs(1) / rate.max(1));
        Self { pause, due: tokio::time::Instant::now() }
    }

    fn wait(&mut self) -> impl Future<Output = ()> {
        let due = self.due;
        if let Some(pause) = self.pause {
            self.due = due.max(tokio::time::Instant::now()) + pause;
        }
        let paused = self.pause.is_some();
        async move {
            if paused {
                tokio::time::sleep_until(due).await;
            }
        }
    }
}
