//! The functions that every event goes through, each by itself: for micro benchmarks, and for the count of their instructions.
//!
//! What they work on was recorded from a real server's log ([`recorded`]), so nothing has to be started.

pub mod recorded;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use outbox_bridge::checkpoint::{At, LogPoint};
use outbox_bridge::decode::{DecodeLimits, RowDecoder, RowsEvent, TableMap, event_type, resolve_columns};
use outbox_bridge::publish::{Envelope, Message, MessageHeaders, Operation, ReplyTo, TransactionId};
use outbox_bridge::route::{Route, SubjectTemplate, SubjectValues};
use outbox_bridge::source::RawEvent;
use outbox_bridge::source::connection::{DumpRequest, DumpStream, Flavour};
use outbox_bridge::source::event::code;
use outbox_bridge::source::gtid::{Gtid, GtidSet};
use outbox_bridge::transaction::{Assembler, OutboxRows};

use crate::field::outbox;

/// How many transactions, of one row each, are in the recorded log.
pub const EVENTS: u64 = 8;

/// A function with what it works on.
pub struct Hot {
    /// What it is called in tables and in the baseline.
    pub name: &'static str,
    /// How many rows, messages or transactions one call is about.
    pub items: u64,
    call: Box<dyn FnMut()>,
}

impl std::fmt::Debug for Hot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hot").field("name", &self.name).field("items", &self.items).finish_non_exhaustive()
    }
}

impl Hot {
    fn new(name: &'static str, items: u64, call: impl FnMut() + 'static) -> Self {
        Self { name, items, call: Box::new(call) }
    }

    /// Calls it once.
    pub fn call(&mut self) {
        (self.call)();
    }
}

/// The names of all functions.
pub const NAMES: [&str; 9] = [
    "event framing",
    "row decoding without payload",
    "row decoding, JSON only",
    "row decoding, all columns",
    "subject template",
    "row to message",
    "header building",
    "GTID set insertion",
    "events to messages",
];

/// The function with this name, and all that it needs.
///
/// # Errors
///
/// If there is none of this name, or the recorded log is not as expected.
pub fn prepare(name: &str) -> Result<Hot> {
    let name = NAMES
        .into_iter()
        .find(|known| *known == name)
        .with_context(|| format!("there is no function {name:?}; there are {}", NAMES.join(", ")))?;
    let log = recorded::log()?;
    match name {
        "event framing" => Ok(framing(name, &log)),
        "row decoding without payload" => decoding(name, &log, &[1, 2, 3, 4]),
        "row decoding, JSON only" => decoding(name, &log, &[5]),
        "row decoding, all columns" => decoding(name, &log, &[0, 1, 2, 3, 4, 5, 6, 7]),
        "subject template" => template(name),
        "row to message" => routing(name, &log),
        "header building" => headers(name, &log),
        "GTID set insertion" => Ok(insertion(name)),
        "events to messages" => assembling(name, &log),
        _ => bail!("{name} is not prepared"),
    }
}

fn framing(name: &'static str, log: &[RawEvent]) -> Hot {
    let packets = recorded::packets(log);
    let request = request();
    Hot::new(name, log.len() as u64, move || {
        // All bytes are there, so that the future never waits.
        let mut stream = DumpStream::over(&*packets, &request);
        let mut next = Box::pin(async move {
            while let Ok(Some(event)) = stream.next().await {
                black_box(event);
            }
        });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(next.as_mut().poll(&mut context).is_ready(), "bytes in memory are waited for");
    })
}

fn request() -> DumpRequest {
    DumpRequest {
        server_id: 1,
        file: "binlog.000001".to_owned(),
        offset: 4,
        heartbeat: Duration::from_secs(10),
        non_blocking: true,
    }
}

/// The rows of the log's first rows event, with these columns.
fn decoding(name: &'static str, log: &[RawEvent], columns: &[usize]) -> Result<Hot> {
    let map = TableMap::parse(&first(log, event_type::TABLE_MAP)?.body)?;
    let limits = DecodeLimits::default();
    let mut decoder = RowDecoder::new(&map, resolve_columns(&map, None)?, columns, limits)?;
    let rows = first(log, event_type::WRITE_ROWS)?;
    let event = RowsEvent::parse(rows.header.event_type, &rows.body, limits)?;
    ensure!(decoder.rows(&event)?.count() == 1, "not one row");
    Ok(Hot::new(name, 1, move || {
        for row in decoder.rows(&event).into_iter().flatten() {
            black_box(row).expect("a row that could be decoded before");
        }
    }))
}

fn first(log: &[RawEvent], event_type: u8) -> Result<&RawEvent> {
    log.iter()
        .find(|event| event.header.event_type == event_type)
        .with_context(|| format!("the recorded log has no event of type {event_type}"))
}

fn template(name: &'static str) -> Result<Hot> {
    let template = SubjectTemplate::parse("orders.{aggregate_type}.{type}.{aggregate_id}")?;
    let values = SubjectValues {
        aggregate_type: "order",
        aggregate_id: "order 4711/a.b",
        event_type: "placed",
        ..SubjectValues::default()
    };
    let mut subject = String::new();
    Ok(Hot::new(name, 1, move || {
        subject.clear();
        template.render(black_box(&values), &mut subject);
        black_box(&subject);
    }))
}

fn route() -> Result<Route> {
    Ok(Route::new(outbox().context("the standard outbox")?, 0, "server"))
}

fn routing(name: &'static str, log: &[RawEvent]) -> Result<Hot> {
    let map = TableMap::parse(&first(log, event_type::TABLE_MAP)?.body)?;
    let columns = resolve_columns(&map, None)?;
    let route = route()?;
    let mapping = route.map(columns.iter().map(|column| column.name()))?;
    let limits = DecodeLimits::default();
    let mut decoder = RowDecoder::new(&map, columns, &mapping.projection, limits)?;
    let rows = first(log, event_type::WRITE_ROWS)?;
    let event = RowsEvent::parse(rows.header.event_type, &rows.body, limits)?;
    let row = decoder.rows(&event)?.next().context("no row")??;
    let transaction = transaction();
    Ok(Hot::new(name, 1, move || {
        let message = route.message(&mapping, black_box(&row), &transaction);
        black_box(message).expect("a row that becomes a message");
    }))
}

fn transaction() -> Arc<TransactionId> {
    Arc::new(TransactionId {
        gtid: "3e11fa47-71ca-11e1-9e33-c80aa9429562:4711".to_owned(),
        file: "binlog.000001".into(),
        file_number: 1,
        offset: 4711,
        committed_micros: 1_790_000_000_000_000,
    })
}

/// As for a message in the midst of a fast-ingest batch.
fn headers(name: &'static str, log: &[RawEvent]) -> Result<Hot> {
    let message = assembled(log)?.into_iter().next().context("no message")?;
    let headers =
        MessageHeaders { stream: "ORDERS".to_owned(), message_id: true, unique: "AbCdEfGhIjKl".to_owned() };
    let mut number = 0;
    Ok(Hot::new(name, 1, move || {
        number += 1;
        let reply_to = ReplyTo::Batch { batch: 1, number, flow: 500, operation: Operation::Append };
        let envelope =
            Envelope { message: black_box(&message), expected_last_sequence: number, after: None, reply_to };
        black_box(headers.of(&envelope)).expect("headers that can be sent");
    }))
}

fn insertion(name: &'static str) -> Hot {
    let mut set = GtidSet::empty(Flavour::MySql);
    let mut sequence = 0;
    Hot::new(name, 1, move || {
        sequence += 1;
        set.add(black_box(&Gtid::MySql { uuid: [7; 16], tag: String::new(), sequence }));
    })
}

/// All that is pure between socket and writer: events to transactions, rows to messages.
fn assembling(name: &'static str, log: &[RawEvent]) -> Result<Hot> {
    ensure!(assembled(log)?.len() as u64 == EVENTS, "not {EVENTS} messages");
    let log = log.to_vec();
    // One for all calls: what it learns of the table is learnt once, as in a long run.
    let mut assembler = assembler()?;
    let mut messages = Vec::new();
    let mut number = 0;
    Ok(Hot::new(name, EVENTS, move || {
        for event in &log {
            number += u64::from(event.header.event_type == code::GTID);
            let event = recorded::with_another_gtid(event, number);
            assembler.take(&event, &mut messages).expect("a log that could be read before");
        }
        assert_eq!(messages.len() as u64, EVENTS, "some were passed over");
        messages.clear();
    }))
}

fn assembled(log: &[RawEvent]) -> Result<Vec<Message>> {
    let mut assembler = assembler()?;
    let mut messages = Vec::new();
    for event in log {
        assembler.take(event, &mut messages)?;
    }
    Ok(messages.into_iter().map(|(_, message)| message).collect())
}

fn assembler() -> Result<Assembler> {
    let point = LogPoint {
        server: String::new(),
        file: "binlog.000001".to_owned(),
        offset: 4,
        at: At::Boundary,
        executed: Some(String::new()),
        prepared: Vec::new(),
        definitions: Default::default(),
    };
    let rows = OutboxRows::new(vec![route()?], Flavour::MySql, HashMap::new());
    let executed = GtidSet::empty(Flavour::MySql);
    Ok(Assembler::new(&point, Some(executed), Flavour::MySql, rows, 1 << 20))
}
