//! Compares table and stream while everything goes on, and once more at the end.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use outbox_bridge_tests::{Expected, Order, STREAM, Stored, TABLE, oracle, read_after};
use outbox_event::{Position, header};
use serde_json::Value;
use testbed::eventually;
use uuid::Uuid;

use crate::place::{LETTERS, PAYLOADS, Place};

/// How long reading may take, until it is tried again.
const READ_LIMIT: Duration = Duration::from_secs(15);
/// And how long all of it together in the end.
const COMPARE_LIMIT: Duration = Duration::from_secs(60);

/// What was read of the stream so far.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    sequence: u64,
    ids: HashSet<Uuid>,
    position: Option<Position>,
    descents: usize,
    ticket: u64,
    numbers: HashMap<String, u64>,
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Events in the table.
    pub(crate) committed: usize,
    /// Messages in the stream.
    pub(crate) stored: usize,
    /// Events that are in the table and not in the stream.
    pub(crate) missing: usize,
    /// Messages more than there are ids among them.
    pub(crate) doubled: usize,
    /// Rows that can be no message, each of which is a dead letter.
    pub(crate) letters: usize,
    /// Messages whose payloads lie in the object store.
    pub(crate) large: usize,
}

impl Oracle {
    /// How many messages were read.
    pub(crate) fn stored(&self) -> usize {
        self.ids.len()
    }

    /// Reads what is new in the stream, if it can be read just now: each message follows the one before it, and no id comes
    /// twice.
    pub(crate) async fn follow(&mut self, place: &Place) -> Result<()> {
        let reading = read_after(&place.jetstream, STREAM, self.sequence);
        let Ok(Ok(messages)) = tokio::time::timeout(READ_LIMIT, reading).await else { return Ok(()) };
        for mut message in messages {
            let at = message.sequence;
            // An object store that is away is no fault.
            let fetching = message.fetch_body(&place.jetstream);
            if !matches!(tokio::time::timeout(READ_LIMIT, fetching).await, Ok(Ok(()))) {
                return Ok(());
            }
            self.take(&message).with_context(|| format!("message {at} of {STREAM}"))?;
        }
        Ok(())
    }

    fn take(&mut self, message: &Stored) -> Result<()> {
        ensure!(message.sequence == self.sequence + 1, "it follows message {}", self.sequence);
        self.sequence = message.sequence;
        let id: Uuid = message.header(header::CE_ID).parse()?;
        ensure!(self.ids.insert(id), "id {id} is there already");
        let position = message.position()?;
        // Those of another server cannot be compared.
        self.descents +=
            usize::from(self.position.as_ref().is_some_and(|before| before.order() >= position.order()));
        self.position = Some(position);
        let body: Value = serde_json::from_slice(&message.body)?;
        let number = body.get("n").and_then(Value::as_u64).context("no number")?;
        let aggregate = message.header(header::CE_SUBJECT);
        let last = self.numbers.entry(aggregate.to_owned()).or_default();
        ensure!(*last < number, "number {number} of {aggregate} comes after {last}");
        *last = number;
        if let Some(ticket) = body.get("ticket").and_then(Value::as_u64) {
            ensure!(self.ticket <= ticket, "ticket {ticket} comes after {}", self.ticket);
            self.ticket = ticket;
        }
        Ok(())
    }

    /// How often a position did not lie behind the one before it, as may happen when the source's server changes.
    pub(crate) fn descents(&self) -> usize {
        self.descents
    }

    /// The ids that are committed now, of rows that can be messages.
    pub(crate) async fn committed(place: &Place) -> Result<Vec<Uuid>> {
        Self::ids(place, "headers IS NULL").await
    }

    async fn ids(place: &Place, condition: &str) -> Result<Vec<Uuid>> {
        let sql = format!("SELECT id FROM {TABLE} WHERE {condition}");
        let rows: Vec<Vec<u8>> = place.source.query(&sql).await?;
        rows.into_iter().map(|id| Ok(Uuid::from_slice(&id)?)).collect()
    }

    /// How many of these ids were not read from the stream yet.
    pub(crate) fn missing(&self, committed: &[Uuid]) -> usize {
        committed.iter().filter(|id| !self.ids.contains(id)).count()
    }

    /// When nobody writes any more: the stream holds exactly the table's rows, in order, with the same bodies.
    pub(crate) async fn compare(place: &Place) -> Result<Counts> {
        let order = "aggregate_id, CAST(JSON_VALUE(payload, '$.n') AS UNSIGNED)";
        let mut expected = Expected::rows(&place.source, TABLE, order).await?;
        let poison = Self::ids(place, "headers IS NOT NULL").await?;
        let poison: BTreeSet<String> = poison.iter().map(Uuid::to_string).collect();
        expected.retain(|row| !poison.contains(&row.id));
        // On a busy machine the cluster may be between two leaders without anybody's doing.
        let stored = eventually("the stream to be read", COMPARE_LIMIT, async || {
            Ok(read_after(&place.jetstream, STREAM, 0).await.ok())
        });
        let mut stored = stored.await?;
        let mut large = 0;
        for message in &mut stored {
            large += usize::from(message.data_ref()?.is_some());
            message.fetch_body(&place.jetstream).await?;
        }
        let letters = read_after(&place.jetstream, LETTERS, 0).await?;
        let mut parked: Vec<&str> = letters.iter().map(|letter| letter.header(header::CE_ID)).collect();
        parked.sort_unstable();
        ensure!(
            parked.iter().copied().eq(poison.iter().map(String::as_str)),
            "{} rows can be no message, and there are {} letters",
            poison.len(),
            parked.len()
        );
        Self::no_payload_is_left_over(place, large).await?;
        oracle::compare(&expected, &stored, Order::AcrossServers)?;
        let ids: HashSet<&str> = stored.iter().map(|message| message.header(header::CE_ID)).collect();
        Ok(Counts {
            committed: expected.len(),
            stored: stored.len(),
            missing: expected.iter().filter(|row| !ids.contains(row.id.as_str())).count(),
            doubled: stored.len() - ids.len(),
            letters: letters.len(),
            large,
        })
    }

    /// What was stored for a message that got another sequence, and what a crash broke off, is removed.
    async fn no_payload_is_left_over(place: &Place, large: usize) -> Result<()> {
        let objects = place.jetstream.get_stream(format!("OBJ_{PAYLOADS}")).await?;
        eventually(&format!("{large} payloads and nothing else"), COMPARE_LIMIT, async || {
            for kind in ["M", "C"] {
                let subjects = objects.info_with_subjects(format!("$O.{PAYLOADS}.{kind}.>")).await?;
                if subjects.count().await != large {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }
}
