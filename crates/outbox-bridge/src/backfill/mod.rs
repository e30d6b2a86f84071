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
pub(crate) mod held;
mod lanes;
mod place;
mod publish;

use std::{collections::BTreeMap, time::SystemTime};

use outbox_event::header::{CE_ID, CE_SOURCE, LETTER_STREAM};
use tokio_util::sync::CancellationToken;

pub(crate) use self::handover::{SnapshotError, is_backfilled};
pub(crate) use self::held::ReadError;
use self::{
    handover::open_snapshot,
    held::{Ids, key, key_of, key_of_row, read_stream},
    lanes::Lanes,
    publish::Known,
};
use crate::{
    admin::Readiness,
    checkpoint::{
        Checkpoint, CheckpointError, Checkpoints, KvCheckpoints, LogPoint, StreamPoint, UnfinishedBackfill,
    },
    config::Config,
    lead::{Leadership, StandInError},
    nats,
    pipeline::{Wires as _, new_checkpoint},
    publish::{Chain, Letters, NatsWire, Stop, StoredRows, Tail, TransactionId, Wire as _, WireError},
    route::{Route, RouteError},
    run::{self, NatsWires, checkpoint_replicas, connect_nats, pipeline_options, route_maker, stream_names},
    source::{
        LogError,
        connection::{Connection, ConnectionError},
        find::{executed_before, table_definition},
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
    #[error(transparent)]
    StandIn(#[from] StandInError),
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
        let mut leadership = Leadership::new(config, context.clone(), replicas, &instance, readiness);
        Some(leadership.stand_in().await?)
    };
    let checkpoints =
        KvCheckpoints::new(context.clone(), config.checkpoint.bucket.clone(), config.name.clone(), replicas);
    let letters = run::letters(config, &client, &context);
    let wires = NatsWires {
        // A row that cannot be published ends the backfill: as a letter it would be met again by the next one.
        letters: None,
        claim_checks: run::claim_checks(config, &context, replicas),
        threshold: run::threshold(config),
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

/// What is written down before anything is published.
struct Claim<'a> {
    point: &'a LogPoint,
    ends: &'a [StreamEnd],
    run: &'a str,
    switched: bool,
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
        let mut source = self.source();
        let found = self.find_server(&mut source, loaded.as_ref().map(|(checkpoint, _)| checkpoint)).await?;
        let (mut connection, identity) = source.connect_first().await?;
        prepare_session(&mut connection).await?;
        let routes = route_maker(self.config, &self.streams)(&identity);
        let several = several_tables(&routes, self.streams.len());
        let (tables, without_rows) = self.describe(&mut connection, &routes).await?;
        progress.rows_estimated = tables.iter().map(|table| table.rows_estimated).sum();
        let definitions = definitions(&mut connection, &routes).await?;
        let Some(mut fresh) = open_snapshot(&mut connection, &identity).await? else {
            return Err(BackfillError::NoLog);
        };
        fresh.definitions = definitions;
        let executed = executed_before(source.options(), &fresh.file, fresh.offset).await;
        fresh.executed = Some(executed.map_err(LogError::from)?.to_string());

        progress.stage = "reading what the log shows by itself".to_owned();
        tell(&progress);
        let (point, logged) = self.logged(&mut source, found.point, fresh, &several).await?;
        let switched = found.switched;
        progress.stage = "reading what the streams hold".to_owned();
        tell(&progress);
        let ends = self.ends(&point, switched).await?;
        let held = self.held(&ends, &several).await?;
        let run = format!("{:08x}", rand::random::<u32>());
        let revision = if self.request.dry_run {
            None
        } else {
            let claim = Claim { point: &point, ends: &ends, run: &run, switched };
            Some(self.claim(&claim, loaded.map(|(_, revision)| revision)).await?)
        };

        progress.stage = "publishing".to_owned();
        let mut lanes = match revision {
            Some(_) => self.lanes(&Claim { point: &point, ends: &ends, run: &run, switched }).await?,
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
            let checkpoint =
                new_checkpoint(&self.instance, point.clone(), streams.collect(), self.since(), switched);
            self.save(&checkpoint, Some(revision)).await?;
        }
        tell(&progress);
        Ok(Outcome { progress, finished, point: point.to_string(), without_rows })
    }

    /// Since when the tables are read without a gap: all that was ever in them is published now, unless only a part was
    /// asked for.
    fn since(&self) -> BTreeMap<String, u64> {
        let tables = self.config.outboxes.iter().map(|outbox| (outbox.table.to_string(), 0));
        if self.request.range.from.is_none() { tables.collect() } else { BTreeMap::new() }
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

    /// Where each stream ends; refuses what nothing can be said about.
    async fn ends(&mut self, point: &LogPoint, switched: bool) -> Result<Vec<StreamEnd>, BackfillError> {
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
            if !self.request.dry_run && handover::first_row(point, &tail, switched).is_none() {
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
                read_stream(&self.wires.context, stream, 1..=tail.sequence, true, visit).await?;
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
    async fn claim(&mut self, claim: &Claim<'_>, revision: Option<u64>) -> Result<u64, BackfillError> {
        let Claim { point, ends, run, switched } = *claim;
        let streams = self.streams.iter().cloned().zip(ends.iter().map(|end| StreamPoint {
            sequence: end.last_sequence,
            position: match &end.tail {
                Tail::Message(tail) => Some(tail.position.to_string()),
                Tail::Empty { .. } => None,
            },
        }));
        let checkpoint = Checkpoint {
            backfill: Some(UnfinishedBackfill { run: run.to_owned() }),
            ..new_checkpoint(&self.instance, point.clone(), streams.collect(), BTreeMap::new(), switched)
        };
        self.save(&checkpoint.versioned(), revision).await
    }

    async fn save(&mut self, checkpoint: &Checkpoint, revision: Option<u64>) -> Result<u64, BackfillError> {
        match self.checkpoints.save(checkpoint, revision).await {
            Err(CheckpointError::Conflict) => Err(BackfillError::TakenOver),
            // It may have been written or not: the next run finds out.
            saved => Ok(saved?),
        }
    }

    async fn lanes(&mut self, claim: &Claim<'_>) -> Result<Lanes, BackfillError> {
        let Claim { point, ends, run, switched } = *claim;
        let options = pipeline_options(self.config, self.instance.clone(), self.streams.clone());
        let mut lanes = Lanes::default();
        for (stream, end) in self.streams.iter().zip(ends) {
            let (wire, traits) = self.wires.wire(stream).await?;
            let position = match &end.tail {
                Tail::Message(tail) => Some(tail.position.clone()),
                Tail::Empty { .. } => None,
            };
            // The place of the last message may be one in another server's log.
            let chain = if switched {
                Chain::by_identity(end.last_sequence, position, StoredRows::default())
            } else {
                Chain::new(end.last_sequence, position, false, 0)
            };
            let chain = chain.exclusive();
            let (offset, row) = handover::first_row(point, &end.tail, switched).unwrap_or_default();
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
