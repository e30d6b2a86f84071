//! Compares outbox tables with streams.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use outbox_event::{Position, header};
use testbed::MySql;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Event, Stored};

/// How many differences are quoted.
const PROBLEMS_MAX: usize = 8;
/// How much of a value is quoted.
const QUOTE_CHARACTERS: usize = 120;
/// How long before its row's creation a transaction may seem committed: MariaDB tells whole seconds only.
const CLOCK_SLACK_MICROS: i128 = 1_500_000;
/// And how long after it: the longest transaction of a test.
const TRANSACTION_MICROS: i128 = 600_000_000;

/// A row that must be in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The table, as `schema.table`.
    pub table: String,
    /// The event id as text.
    pub id: String,
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// The event type.
    pub event_type: String,
    /// The body.
    pub body: Vec<u8>,
    /// When the row was made, in microseconds since the epoch; 0 if not known.
    pub created_micros: i64,
}

impl Expected {
    /// What a row of this event in `table` must become. Its payload must be as MySQL prints it.
    #[must_use]
    pub fn of(table: &str, event: &Event) -> Self {
        Self {
            table: table.to_owned(),
            id: event.id.to_string(),
            aggregate_type: event.aggregate_type.clone(),
            aggregate_id: event.aggregate_id.clone(),
            event_type: event.event_type.clone(),
            body: event.payload.clone().into_bytes(),
            created_micros: 0,
        }
    }

    /// The rows of a table of the standard layout, in the given order.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn rows(database: &MySql, table: &str, order_by: &str) -> Result<Vec<Self>> {
        type Row = (Vec<u8>, String, String, String, Vec<u8>, i64);
        let rows: Vec<Row> = database
            .query(&format!(
                "SELECT id, aggregate_type, aggregate_id, type, CAST(payload AS CHAR), \
                 CAST(UNIX_TIMESTAMP(created_at) * 1000000 AS SIGNED) FROM {table} ORDER BY {order_by}"
            ))
            .await?;
        let expected = |(id, aggregate_type, aggregate_id, event_type, body, created_micros): Row| {
            let id = uuid::Uuid::from_slice(&id)?.to_string();
            let table = table.to_owned();
            Ok(Self { table, id, aggregate_type, aggregate_id, event_type, body, created_micros })
        };
        rows.into_iter().map(expected).collect()
    }
}

/// In which order rows must be in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Exactly that of the expected rows.
    Total,
    /// That of the expected rows for each aggregate id. Positions must still ascend.
    PerAggregate,
    /// That of the expected rows for each aggregate id, read from several servers, whose positions cannot be compared.
    AcrossServers,
    /// Any: read from several servers that commit in different orders.
    Any,
}

/// Expects that a stream holds exactly the expected rows: none missing, none twice, none else, in order, with equal
/// bodies and the right envelope.
///
/// # Errors
///
/// What is wrong, with the first few places.
pub fn compare(expected: &[Expected], stored: &[Stored], order: Order) -> Result<()> {
    let mut problems = Problems::default();
    let mut index_of = HashMap::with_capacity(expected.len());
    for (index, row) in expected.iter().enumerate() {
        ensure!(
            index_of.insert(row.id.as_str(), index).is_none(),
            "two expected rows have the id {}",
            row.id
        );
    }
    let mut seen = vec![0_u32; expected.len()];
    let mut last_of_aggregate: HashMap<&str, usize> = HashMap::new();
    let mut previous = None;
    for (number, message) in stored.iter().enumerate() {
        let id = message.header(header::CE_ID);
        let at = message.sequence;
        let Some((row, index)) = index_of.get(id).and_then(|index| Some((expected.get(*index)?, *index)))
        else {
            problems
                .add("not in the table", || format!("message {at} with id {id}: {}", quote(&message.body)));
            continue;
        };
        if let Some(count) = seen.get_mut(index) {
            *count += 1;
            if *count > 1 {
                problems.add("stored twice", || format!("message {at} with id {id}"));
                continue;
            }
        }
        if row.body != message.body {
            problems.add("other body", || {
                format!("message {at}: row {}, body {}", quote(&row.body), quote(&message.body))
            });
        }
        if let Err(error) = check_envelope(row, message) {
            problems.add("wrong envelope", || format!("message {at}: {error:#}"));
        }
        match message.position() {
            Err(error) => problems.add("no position", || format!("{error:#}")),
            Ok(position) => {
                if matches!(order, Order::Total | Order::PerAggregate)
                    && let Some(previous) = &previous
                    && let Err(error) = check_successor(previous, &position)
                {
                    problems.add("position out of order", || format!("message {at}: {error:#}"));
                }
                previous = Some(position);
            }
        }
        let last = last_of_aggregate.insert(&row.aggregate_id, index);
        let in_order = match order {
            Order::Total => index == number,
            Order::Any => true,
            Order::PerAggregate | Order::AcrossServers => last.is_none_or(|last| last < index),
        };
        if !in_order {
            problems.add("out of order", || format!("message {at} is row {index} (id {id})"));
        }
    }
    for (row, count) in expected.iter().zip(&seen) {
        if *count == 0 {
            problems.add("missing", || format!("id {} of {}: {}", row.id, row.table, quote(&row.body)));
        }
    }
    problems.into_result(expected.len(), stored.len())
}

/// The headers that say what the row is.
fn check_envelope(row: &Expected, message: &Stored) -> Result<()> {
    let value = |text: &str| header::encode_value(text).into_owned();
    for (name, wanted) in [
        (header::CE_SPECVERSION, "1.0".to_owned()),
        (header::CE_ID, value(&row.id)),
        (header::CE_TYPE, value(&row.event_type)),
        (header::CE_SUBJECT, value(&row.aggregate_id)),
        (header::CE_PARTITION_KEY, value(&row.aggregate_id)),
        (header::CONTENT_TYPE, header::CONTENT_TYPE_JSON.to_owned()),
    ] {
        let found = message.header(name);
        ensure!(found == wanted, "{name} is {found:?} instead of {wanted:?}");
        ensure!(message.headers.get_all(name).count() == 1, "{name} is there twice");
    }
    let message_id = message.header(header::MESSAGE_ID);
    // Without `publish.message_id` single messages have their position as id.
    let ids = ["", &row.id, message.header(header::POSITION)];
    ensure!(ids.contains(&message_id), "the message id is {message_id}");
    let source = message.header(header::CE_SOURCE);
    ensure!(
        source.starts_with("//") && source.ends_with(&format!("/{}", row.table)),
        "{} is {source}",
        header::CE_SOURCE
    );
    let time = message.header(header::CE_TIME);
    let committed = commit_micros(time).with_context(|| format!("{} is {time}", header::CE_TIME))?;
    if row.created_micros != 0 {
        let after = committed - i128::from(row.created_micros);
        ensure!(
            (-CLOCK_SLACK_MICROS..TRANSACTION_MICROS).contains(&after),
            "committed {after} microseconds after it was made"
        );
    }
    Ok(())
}

/// The commit time, which always has microseconds and UTC's `Z`.
fn commit_micros(text: &str) -> Result<i128> {
    ensure!(text.len() == "2026-01-01T00:00:00.000000Z".len() && text.ends_with('Z'), "not in microseconds");
    Ok(OffsetDateTime::parse(text, &Rfc3339)?.unix_timestamp_nanos() / 1_000)
}

/// Positions ascend; rows of a transaction are numbered from 0 without gaps.
fn check_successor(previous: &Position, position: &Position) -> Result<()> {
    ensure!(previous.order() < position.order(), "{position} after {previous}");
    let same = (&previous.file, previous.offset) == (&position.file, position.offset);
    let wanted = if same { previous.row + 1 } else { 0 };
    ensure!(position.row == wanted, "{position} after {previous}");
    ensure!(!same || previous.gtid == position.gtid, "{position} after {previous}");
    Ok(())
}

/// A value for an error, shortened.
fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let short: String = text.chars().take(QUOTE_CHARACTERS).collect();
    if short.len() < text.len() {
        format!("{short:?}… ({} bytes)", bytes.len())
    } else {
        format!("{short:?}")
    }
}

/// What was found, by kind.
#[derive(Default)]
struct Problems {
    counts: Vec<(&'static str, usize)>,
    quoted: Vec<String>,
}

impl Problems {
    fn add(&mut self, kind: &'static str, text: impl FnOnce() -> String) {
        match self.counts.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((kind, 1)),
        }
        if self.quoted.len() < PROBLEMS_MAX {
            self.quoted.push(format!("{kind}: {}", text()));
        }
    }

    fn into_result(self, rows: usize, messages: usize) -> Result<()> {
        if self.counts.is_empty() {
            return Ok(());
        }
        let counts: Vec<_> = self.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        bail!("{rows} rows, {messages} messages: {}\n  {}", counts.join(", "), self.quoted.join("\n  "))
    }
}

/// The commit order that concurrent writers record in their payloads as `ticket`, for [`Expected::rows`]. What is inserted after them has none.
pub const TICKET_ORDER: &str =
    "JSON_VALUE(payload, '$.ticket') IS NULL, CAST(JSON_VALUE(payload, '$.ticket') AS UNSIGNED), seq";
