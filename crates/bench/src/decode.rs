//! From the log to routed messages, in this process, beside readers that do less.

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::StreamExt as _;
use mysql_async::binlog::EventType;
use mysql_async::binlog::events::EventData;
use mysql_async::prelude::Queryable as _;
use mysql_async::{BinlogStreamRequest, Conn};
use mysql_cdc::binlog_client::BinlogClient;
use mysql_cdc::binlog_options::BinlogOptions;
use mysql_cdc::events::binlog_event::BinlogEvent;
use mysql_cdc::replica_options::ReplicaOptions;
use outbox_bridge::source::{LogSource, Source as _};
use tokio::time::Instant;

use crate::field::{Backlog, Field};
use crate::report::{Measurement, Target, Unit};
use crate::{Scale, progress};

pub(crate) const GROUP: &str = "decode";

/// A replica of our own; the bridge has another number.
const SERVER_ID: u32 = 4_000_002;
/// `mysql_cdc`'s user, and the user's password.
const PEER: &str = "mysql_cdc";

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    let backlog = Backlog::plain(scale.events);
    let rows = backlog.events();
    progress(&format!("decode: filling the log with {rows} rows"));
    field.fill(backlog).await?;
    let mut routed = Measurement::new(GROUP, format!("log to routed messages, {rows} rows"), Unit::PerSecond)
        .beside("raw events by mysql_async")
        .target(Target::AtLeast(200_000.0));
    let mut decoded = Measurement::new(GROUP, "rows decoded by mysql_async, for comparison", Unit::PerSecond)
        .beside("raw events by mysql_async");
    for round in 0..scale.rounds {
        progress(&format!("decode, round {}", round + 1));
        let raw = by_library(field, rows, false).await?;
        let ours = by_source(field.source(), rows).await?;
        let theirs = by_library(field, rows, true).await?;
        routed.add(ours);
        routed.add_limit(raw);
        decoded.add(theirs);
        decoded.add_limit(raw);
    }
    let mut all = vec![routed, decoded];
    all.extend(readers(field, scale).await?);
    Ok(all)
}

/// Ours beside `mysql_cdc`'s client, on a log that both can read: that one ends at the first binary id.
async fn readers(field: &Field, scale: &Scale) -> Result<[Measurement; 2]> {
    let rows = scale.shape_events;
    // It cannot log in without a password.
    field.world.database.create_user(PEER, PEER, "REPLICATION SLAVE, REPLICATION CLIENT ON *.*").await?;
    progress(&format!("decode: filling the log with {rows} rows with text ids"));
    field.fill(Backlog { foreign_percent: 100, ..Backlog::plain(rows) }).await?;
    let new = |name| Measurement::new(GROUP, name, Unit::PerSecond).beside("raw events by mysql_async");
    let mut ours = new("text ids: log to routed messages");
    let mut theirs = new("text ids: mysql_cdc's client, values not rendered");
    for round in 0..scale.rounds {
        progress(&format!("decode, text ids, round {}", round + 1));
        let raw = by_library(field, rows, false).await?;
        ours.add(by_source(field.source_of_other(), rows).await?);
        theirs.add(by_mysql_cdc(field, rows).await?);
        ours.add_limit(raw);
        theirs.add_limit(raw);
    }
    Ok([ours, theirs])
}

/// The bridge's source up to where it hands on messages.
async fn by_source(mut source: LogSource, rows: u64) -> Result<f64> {
    let point = source.first_point().await?;
    source.open(&point).await?;
    let began = Instant::now();
    let mut seen = 0;
    while seen < rows {
        seen += source.next().await?.messages.len() as u64;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

/// The events as `mysql_async` yields them; with `decode`, each row's values too, though not as text.
async fn by_library(field: &Field, rows: u64, decode: bool) -> Result<f64> {
    let mut conn = field.world.conn().await?;
    let file = first_file(&mut conn).await?;
    let request = BinlogStreamRequest::new(SERVER_ID).with_filename(file.as_bytes()).with_pos(4);
    let mut events = conn.get_binlog_stream(request).await?;
    let began = Instant::now();
    let mut seen = 0;
    while seen < rows {
        let event = events.next().await.context("the log has ended")??;
        if event.header().event_type() != Ok(EventType::WRITE_ROWS_EVENT) {
            continue;
        }
        if !decode {
            seen += 1;
            continue;
        }
        let Some(EventData::RowsEvent(data)) = event.read_data()? else { continue };
        let table = events.get_tme(data.table_id()).context("rows of an unknown table")?;
        for row in data.rows(table) {
            ensure!(row?.1.is_some(), "a row without values");
            seen += 1;
        }
    }
    let rate = rows as f64 / began.elapsed().as_secs_f64();
    events.close().await?;
    Ok(rate)
}

/// The rows as `mysql_cdc`'s client yields them. It blocks its thread.
async fn by_mysql_cdc(field: &Field, rows: u64) -> Result<f64> {
    let options = ReplicaOptions {
        hostname: "127.0.0.1".to_owned(),
        port: field.world.database.port(),
        username: PEER.to_owned(),
        password: PEER.to_owned(),
        server_id: SERVER_ID + 1,
        binlog: BinlogOptions::from_start(),
        ..ReplicaOptions::default()
    };
    let read = move || -> Result<f64> {
        let failed = |error| anyhow!("mysql_cdc: {error:?}");
        let mut client = BinlogClient::new(options);
        let began = Instant::now();
        let mut seen = 0;
        for event in client.replicate().map_err(failed)? {
            if let (_, BinlogEvent::WriteRowsEvent(event)) = event.map_err(failed)? {
                seen += event.rows.len() as u64;
            }
            if seen >= rows {
                break;
            }
        }
        ensure!(seen == rows, "mysql_cdc has seen {seen} rows of {rows}");
        Ok(rows as f64 / began.elapsed().as_secs_f64())
    };
    tokio::task::spawn_blocking(read).await?
}

async fn first_file(conn: &mut Conn) -> Result<String> {
    let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
    files.first().and_then(|row| row.get(0)).context("the server has no log")
}
