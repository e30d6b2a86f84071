//! One pass over tables and stream, for one part of the events.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
};

use async_nats::jetstream::{self, message::StreamMessage, stream::Stream};
use outbox_event::{DataRef, Position, header};
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Finding, Kind, Progress, Request, StreamReport, VerifyError,
    compare::{Differences, Entries, Half, MessageEntry, Part, RowEntry},
    content::{BodyDigest, Content, HeadDigest, body_of_object, halves},
    report::LISTED_MAX,
};
use crate::{
    audit::{CLOCKS_DIFFER_MICROS, STALE_PATIENCE, is_after},
    backfill::held::{header_of, key, key_of, key_of_row, read_stream},
    checkpoint::{Checkpoint, Checkpoints as _, KvCheckpoints},
    cleanup::ROUNDING_MICROS,
    config::Config,
    exit::report,
    publish::{Letters, WireError, describe_object},
    run::{log_options, route_maker, routes_parking},
    source::{
        LogSource, Source as _,
        connection::Connection,
        table::{OutboxTable, Range, prepare_session},
    },
};

/// Progress is told after so many messages.
const TOLD_MESSAGES: u64 = 10_000;
/// So many places where the order breaks are kept, so that copies can be told from them.
const BREAKS_MAX: usize = 100_000;

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) config: &'a Config,
    pub(super) request: &'a Request,
    pub(super) context: &'a jetstream::Context,
    pub(super) letters: Option<&'a Letters>,
    pub(super) streams: &'a [String],
    /// The stream's index.
    pub(super) stream: usize,
    /// Whether several tables go to it.
    pub(super) several: bool,
    /// Whether messages may go from its midst.
    pub(super) gone_one_by_one: bool,
}

impl Scope<'_> {
    pub(super) fn name(&self) -> &str {
        self.streams.get(self.stream).map_or("", String::as_str)
    }

    /// Whether a table was asked for.
    pub(super) fn has_table(&self, table: &str) -> bool {
        self.request.tables.is_empty() || self.request.tables.iter().any(|name| name == table)
    }
}

/// Where the order of a stream breaks; over all passes, since a copy breaks it and is told as a double.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    breaks: Vec<u64>,
    uncounted: u64,
    copies: HashSet<u64>,
}

/// What was seen of the stream.
#[derive(Debug, Default)]
struct Seen {
    /// The sequence to go on from.
    next: u64,
    /// The first message's sequence, and the first time of a commit, in microseconds since the epoch.
    first: Option<u64>,
    first_micros: Option<u64>,
    /// Where the last event stood.
    last: Option<Position>,
    /// How many the stream ever had.
    ever: u64,
    /// Messages whose payloads lie elsewhere.
    offloaded: Vec<(DataRef, HeadDigest, MessageEntry)>,
}

/// What was found in one part, with the reasons why rows have no message.
#[derive(Debug)]
struct Sorted {
    differences: Differences,
    parked: u64,
    before_start: u64,
    unpublished: u64,
    gone: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    scope: &'a Scope<'a>,
    handle: &'a Stream,
    part: Part,
    /// Whether no pass came before, so that what is the same for all is counted.
    first: bool,
    entries: Entries,
    found: &'a mut StreamReport,
    order: &'a mut Order,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        scope: &'a Scope<'a>,
        handle: &'a Stream,
        part: Part,
        found: &'a mut StreamReport,
        order: &'a mut Order,
    ) -> Self {
        let (first, entries) = (found.passes == 0, Entries::new(scope.request.memory_bytes_max));
        Self { scope, handle, part, first, entries, found, order }
    }

    /// About how many rows the tables have.
    pub(super) async fn rows_estimated(scope: &Scope<'_>) -> Result<u64, VerifyError> {
        let (_, tables, _) = open(scope).await?;
        Ok(tables.iter().map(|table| table.rows_estimated).sum())
    }

    pub(super) async fn run(mut self, tell: &mut impl FnMut(&Progress)) -> Result<(), VerifyError> {
        let (mut connection, tables, without_rows) = open(self.scope).await?;
        self.found.without_rows = without_rows;
        self.read_rows(&mut connection, &tables, tell).await?;
        // After the rows and before the messages: what it covers is in the stream by now.
        let checkpoint = self.checkpoint().await?;
        let mut seen = Seen { next: 1, ..Seen::default() };
        self.read_messages(&mut seen, tell).await?;
        let since: Vec<Option<u64>> =
            tables.iter().map(|table| checkpoint.since.get(&**table.name()).copied()).collect();
        let mut sorted = self.sort(&checkpoint, &since, &seen).await?;
        if !sorted.differences.missing.is_empty() {
            // A deposed leader may have answered, and more may have come.
            tokio::time::sleep(STALE_PATIENCE).await;
            self.read_messages(&mut seen, tell).await?;
            sorted = self.sort(&checkpoint, &since, &seen).await?;
        }
        self.conclude(&mut connection, &tables, &sorted).await
    }

    /// Compares, and tells rows that are missing from those that have no message for another reason.
    async fn sort(
        &mut self,
        checkpoint: &Checkpoint,
        since: &[Option<u64>],
        seen: &Seen,
    ) -> Result<Sorted, VerifyError> {
        let mut differences = self.entries.compare();
        let before = |row: &RowEntry| {
            let since = usize::try_from(row.table).ok().and_then(|table| *since.get(table)?);
            row.created > 0 && since.is_some_and(|since| row.created < since.saturating_add(ROUNDING_MICROS))
        };
        let (earlier, lacking): (Vec<RowEntry>, Vec<RowEntry>) =
            differences.missing.iter().partition(|row| before(row));
        let letters = if lacking.is_empty() { HashSet::new() } else { self.letters().await? };
        let (parked, lacking): (Vec<RowEntry>, Vec<RowEntry>) =
            lacking.iter().partition(|row| letters.contains(&row.key));
        let late = self.late(checkpoint, seen, &lacking).await?;
        let (late, lacking): (Vec<RowEntry>, Vec<RowEntry>) =
            lacking.iter().partition(|row| late.contains(&row.key));
        let (gone, missing): (Vec<RowEntry>, Vec<RowEntry>) =
            lacking.iter().partition(|row| self.may_be_gone(row, seen));
        differences.missing = missing;
        let (before_start, unpublished, gone) = (count(earlier.len()), count(late.len()), count(gone.len()));
        Ok(Sorted { differences, parked: count(parked.len()), before_start, unpublished, gone })
    }

    /// The events that are or were dead letters.
    async fn letters(&self) -> Result<HashSet<Half>, WireError> {
        let mut keys = HashSet::new();
        let Some(letters) = self.scope.letters else { return Ok(keys) };
        letters
            .each(|letter| {
                let of = |name| letter.header(name).unwrap_or_default();
                if of(header::LETTER_STREAM) == self.scope.name() {
                    let source = self.scope.several.then(|| of(header::CE_SOURCE));
                    keys.insert(halves(key(of(header::CE_ID), source)));
                }
            })
            .await?;
        Ok(keys)
    }

    /// Whether the stream may have held a row's message and dropped it: it has dropped its beginning, and the row was
    /// not certainly committed after what is now its first message.
    fn may_be_gone(&self, row: &RowEntry, seen: &Seen) -> bool {
        let dropped = seen.first.map_or(seen.ever > 0, |first| first > 1);
        let after = |first: u64| row.created > first.saturating_add(CLOCKS_DIFFER_MICROS);
        self.scope.gone_one_by_one || (dropped && !seen.first_micros.is_some_and(after))
    }

    async fn read_rows(
        &mut self,
        connection: &mut Connection,
        tables: &[OutboxTable],
        tell: &mut impl FnMut(&Progress),
    ) -> Result<(), VerifyError> {
        let mut progress = self.progress("rows");
        progress.of = tables.iter().map(|table| table.rows_estimated).sum();
        for (index, table) in tables.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let mut cursor = None;
            loop {
                let chunk_rows = self.scope.request.chunk_rows;
                let mut rows = table.chunk(connection, cursor.as_ref(), chunk_rows).await?;
                let mut taken = 0;
                while let Some(row) = rows.next().await? {
                    taken += 1;
                    cursor = Some(table.cursor(&row));
                    match table.row(&row) {
                        Ok(row) if row.message.poison.is_some() && row.message.id.is_empty() => {
                            // Nothing names its letter.
                            self.found.parked += u64::from(self.first);
                        }
                        Ok(row) => {
                            let key = halves(key_of_row(&row.message, self.scope.several));
                            if self.part.has(key) {
                                let content = Content::of_row(&row.message).digest();
                                let created = row.created_micros.unwrap_or(0);
                                self.entries.add_row(RowEntry { key, content, created, table: index })?;
                            }
                        }
                        Err(error) if self.first => {
                            self.found.unsendable += 1;
                            let mut finding = Finding::of(Kind::Unsendable);
                            finding.table = Some(table.name().to_string());
                            finding.detail = Some(report(&error));
                            self.found.list(finding);
                        }
                        Err(_) => {}
                    }
                }
                progress.done += u64::from(taken);
                tell(&progress);
                if taken < chunk_rows {
                    break;
                }
            }
        }
        if self.first {
            self.found.rows = progress.done;
        }
        Ok(())
    }

    fn progress(&self, what: &str) -> Progress {
        let Part { number, of } = self.part;
        let part = if of > 1 { format!(", part {} of {of}", number + 1) } else { String::new() };
        Progress { stage: format!("{}: reading {what}{part}", self.scope.name()), ..Progress::default() }
    }

    async fn checkpoint(&self) -> Result<Checkpoint, VerifyError> {
        let config = self.scope.config;
        let missing = || VerifyError::NoCheckpoint { name: config.name.clone() };
        let bucket = &config.checkpoint.bucket;
        // Asked first, since a store that is not there is made.
        match self.scope.context.get_stream(format!("KV_{bucket}")).await {
            Ok(_) => {}
            Err(error) if crate::nats::is_missing(&error) => return Err(missing()),
            Err(error) => return Err(self.scope.unreadable(&error)),
        }
        let mut checkpoints =
            KvCheckpoints::new(self.scope.context.clone(), bucket.clone(), config.name.clone(), 1);
        let (checkpoint, _) = checkpoints.load().await?.ok_or_else(missing)?;
        if checkpoint.backfill.is_some() { Err(VerifyError::Backfilling) } else { Ok(checkpoint) }
    }

    /// Reads on in the stream to its end.
    async fn read_messages(
        &mut self,
        seen: &mut Seen,
        tell: &mut impl FnMut(&Progress),
    ) -> Result<(), VerifyError> {
        let state = self.handle.get_info().await.map_err(|error| self.scope.unreadable(&error))?.state;
        seen.ever = seen.ever.max(state.last_sequence);
        if state.messages == 0 || state.last_sequence < seen.next {
            return Ok(());
        }
        let mut progress = self.progress("messages");
        progress.of = state.messages;
        let span = seen.next..=state.last_sequence;
        let (context, stream) = (self.scope.context, self.scope.name());
        let mut full = Ok(());
        read_stream(context, stream, span, false, |sequence, message| {
            if full.is_ok() {
                full = self.take(seen, sequence, message);
            }
            progress.done += 1;
            if progress.done.is_multiple_of(TOLD_MESSAGES) {
                tell(&progress);
            }
        })
        .await?;
        for (reference, head, entry) in std::mem::take(&mut seen.offloaded) {
            // A payload that is gone is none that a row has.
            let body = self.body_of(&reference).await?.unwrap_or_default();
            self.entries.add_message(MessageEntry { content: head.with(body), ..entry })?;
        }
        // Also where the last of them are deleted.
        seen.next = seen.next.max(state.last_sequence + 1);
        full
    }

    /// What the object store says of a payload that is not in its message.
    async fn body_of(&self, reference: &DataRef) -> Result<Option<BodyDigest>, VerifyError> {
        let object = describe_object(self.scope.context, reference).await?;
        Ok(object.and_then(|object| body_of_object(&object.digest?)))
    }

    fn take(
        &mut self,
        seen: &mut Seen,
        sequence: u64,
        message: &async_nats::Message,
    ) -> Result<(), VerifyError> {
        seen.next = sequence + 1;
        seen.first.get_or_insert(sequence);
        self.found.messages += u64::from(self.first);
        let Some(key) = key_of(message, self.scope.several).map(halves) else {
            self.found.foreign += u64::from(self.first);
            return Ok(());
        };
        if seen.first_micros.is_none() {
            seen.first_micros = micros(header_of(message, header::CE_TIME));
        }
        let text = header_of(message, header::POSITION);
        if let Ok(position) = text.parse::<Position>() {
            if self.first && seen.last.as_ref().is_some_and(|last| is_after(last, &position)) {
                self.order.add(sequence);
            }
            seen.last = Some(position);
        }
        if self.part.has(key) {
            let none = async_nats::HeaderMap::new();
            let headers = message.headers.as_ref().unwrap_or(&none);
            let content = Content::of_stored(
                message.subject.as_str(),
                headers,
                Sha256::digest(&message.payload).into(),
            );
            let mut position = DefaultHasher::new();
            text.hash(&mut position);
            let position = position.finish();
            let entry = |content| MessageEntry { key, content, position, sequence };
            match header_of(message, header::DATA_REF).parse::<DataRef>() {
                Ok(reference) => seen.offloaded.push((reference, content.without_body(), entry([0, 0]))),
                Err(_) => self.entries.add_message(entry(content.digest()))?,
            }
        }
        Ok(())
    }

    /// Which of these rows the bridge has still to publish: they stand in the log from the checkpoint on, and neither the
    /// stream nor the checkpoint has anything from behind them.
    async fn late(
        &self,
        checkpoint: &Checkpoint,
        seen: &Seen,
        lacking: &[RowEntry],
    ) -> Result<HashSet<Half>, VerifyError> {
        let lacking: HashSet<Half> = lacking.iter().map(|row| row.key).collect();
        let mut late = HashSet::new();
        if lacking.is_empty() {
            return Ok(late);
        }
        let known = checkpoint.streams.get(self.scope.name()).and_then(|point| point.position.as_ref());
        let known = known.and_then(|position| position.parse::<Position>().ok());
        let stored: Vec<&Position> = [&known, &seen.last].into_iter().flatten().collect();
        let mut options = log_options(self.scope.config);
        // Neither the identity of the bridge's dumps nor of a backfill's.
        options.server_id = (options.server_id ^ 0x1000_0000).max(1);
        // A row that can be no message stops the bridge, and those behind it are late.
        let routes = routes_parking(self.scope.config, self.scope.streams, true);
        let mut source = LogSource::new(options, routes);
        source.locate(&checkpoint.point).await?;
        source
            .read_to_end(&checkpoint.point, |stream, message| {
                let key = halves(key_of_row(message, self.scope.several));
                if stream != self.scope.stream || !lacking.contains(&key) {
                    return;
                }
                let position = message.position();
                let due = stored.iter().any(|stored| **stored == position || is_after(stored, &position));
                if !due {
                    late.insert(key);
                }
            })
            .await?;
        Ok(late)
    }

    /// Counts what was found, and lists the first of it with names.
    async fn conclude(
        &mut self,
        connection: &mut Connection,
        tables: &[OutboxTable],
        sorted: &Sorted,
    ) -> Result<(), VerifyError> {
        let Sorted { differences, .. } = sorted;
        let found = &mut *self.found;
        found.parked += sorted.parked;
        found.before_start += sorted.before_start;
        found.unpublished += sorted.unpublished;
        found.gone += sorted.gone;
        found.matched += differences.matched;
        found.repeated += differences.repeated;
        found.without_row += differences.without_row;
        found.missing += count(differences.missing.len());
        found.doubled += count(differences.doubled.len());
        found.altered += count(differences.altered.len());
        self.order.copies.extend(differences.copies.iter().take(BREAKS_MAX));
        for message in &differences.doubled {
            if !found.lists(Kind::Doubled) {
                break;
            }
            found.list(of_message(self.handle, Kind::Doubled, message.sequence).await);
        }
        let mut wanted: HashMap<Half, Option<u64>> = HashMap::new();
        let altered = differences.altered.iter().take(LISTED_MAX);
        wanted.extend(altered.map(|message| (message.key, Some(message.sequence))));
        wanted.extend(differences.missing.iter().take(LISTED_MAX).map(|row| (row.key, None)));
        self.name_rows(connection, tables, wanted).await
    }

    /// Looks the rows up once more, for their names: without a message those that lack theirs, else those that differ from it.
    async fn name_rows(
        &mut self,
        connection: &mut Connection,
        tables: &[OutboxTable],
        mut wanted: HashMap<Half, Option<u64>>,
    ) -> Result<(), VerifyError> {
        for table in tables {
            let mut cursor = None;
            loop {
                if wanted.is_empty() {
                    return Ok(());
                }
                let chunk_rows = self.scope.request.chunk_rows;
                let mut rows = table.chunk(connection, cursor.as_ref(), chunk_rows).await?;
                let mut taken = 0;
                while let Some(row) = rows.next().await? {
                    taken += 1;
                    cursor = Some(table.cursor(&row));
                    let Ok(row) = table.row(&row) else { continue };
                    let key = halves(key_of_row(&row.message, self.scope.several));
                    let Some(sequence) = wanted.remove(&key) else { continue };
                    let mut finding = Finding::of(Kind::Missing);
                    finding.id = Some(row.message.id.clone());
                    finding.table = Some(table.name().to_string());
                    if let Some(sequence) = sequence {
                        finding.kind = Kind::Altered;
                        finding.sequence = Some(sequence);
                        if let Ok(stored) = self.handle.get_raw_message(sequence).await {
                            let expected = Content::of_row(&row.message);
                            finding.detail = Some(self.differences(&expected, &stored).await?);
                        }
                    }
                    self.found.list(finding);
                }
                if taken < chunk_rows {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Pass<'_> {
    /// In what a stored message differs from what it should be.
    async fn differences(
        &self,
        expected: &Content<'_>,
        stored: &StreamMessage,
    ) -> Result<String, VerifyError> {
        let reference = stored.headers.get_last(header::DATA_REF).map(|value| value.as_str().parse());
        let body = match reference {
            Some(Ok(reference)) => match self.body_of(&reference).await? {
                Some(body) => body,
                None => return Ok(format!("its payload, {reference}, is gone")),
            },
            _ => Sha256::digest(&stored.payload).into(),
        };
        let stored = Content::of_stored(stored.subject.as_str(), &stored.headers, body);
        Ok(expected.differences(&stored).join(", "))
    }
}

impl Order {
    fn add(&mut self, sequence: u64) {
        if self.breaks.len() < BREAKS_MAX {
            self.breaks.push(sequence);
        } else {
            self.uncounted += 1;
        }
    }

    /// Tells what breaks the order and is no copy.
    pub(super) async fn finish(&self, handle: &Stream, found: &mut StreamReport) {
        let breaks: Vec<u64> =
            self.breaks.iter().filter(|sequence| !self.copies.contains(sequence)).copied().collect();
        found.reordered = count(breaks.len()) + self.uncounted;
        for sequence in breaks.into_iter().take(LISTED_MAX) {
            found.list(of_message(handle, Kind::Reordered, sequence).await);
        }
    }
}

/// A finding of a message, with its id if that can be had.
async fn of_message(handle: &Stream, kind: Kind, sequence: u64) -> Finding {
    let mut finding = Finding { sequence: Some(sequence), ..Finding::of(kind) };
    if let Ok(message) = handle.get_raw_message(sequence).await {
        finding.id = message.headers.get_last(header::CE_ID).map(|id| id.as_str().to_owned());
    }
    finding
}

/// A connection with a snapshot, the tables that go to the stream, and the names of those that store nothing.
///
/// The snapshot holds what was committed before; whatever it shows has been written to the log by then.
async fn open(scope: &Scope<'_>) -> Result<(Connection, Vec<OutboxTable>, Vec<String>), VerifyError> {
    let config = scope.config;
    let mut source = LogSource::new(log_options(config), route_maker(config, scope.streams));
    let (mut connection, identity) = source.connect_first().await?;
    prepare_session(&mut connection).await?;
    connection.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let row_bytes_max = config.source.event_bytes_max.as_usize();
    let (mut tables, mut without_rows) = (Vec::new(), Vec::new());
    for route in route_maker(config, scope.streams)(&identity) {
        if route.stream != scope.stream || !scope.has_table(&route.table) {
            continue;
        }
        let name = route.table.to_string();
        let range: &Range = &scope.request.range;
        match OutboxTable::describe(&mut connection, route, range, row_bytes_max).await? {
            Some(table) => tables.push(table),
            None => without_rows.push(name),
        }
    }
    Ok((connection, tables, without_rows))
}

/// A time in RFC 3339 in microseconds since the epoch.
fn micros(time: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000).ok()
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
