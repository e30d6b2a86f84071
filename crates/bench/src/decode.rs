//! From the log to routed messages, in this process, beside readers that do less.

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use mysql_async::BinlogStreamRequest;
use mysql_async::binlog::EventType;
use mysql_async::binlog::events::EventData;
use mysql_async::prelude::Queryable as _;
use outbox_bridge::source::Source as _;
use tokio::time::Instant;

use crate::field::{Backlog, Field};
use crate::report::{Measurement, Target, Unit};
use crate::{Scale, progress};

pub(crate) const GROUP: &str = "decode";

/// A replica of our own; the bridge has another number.
const SERVER_ID: u32 = 4_000_002;

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
        let ours = by_bridge(field, rows).await?;
        let theirs = by_library(field, rows, true).await?;
        routed.add(ours);
        routed.add_limit(raw);
        decoded.add(theirs);
        decoded.add_limit(raw);
    }
    Ok(vec![routed, decoded])
}

/// The bridge's source up to where it hands on messages.
async fn by_bridge(field: &Field, rows: u64) -> Result<f64> {
    let mut source = field.source();
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

async fn first_file(conn: &mut mysql_async::Conn) -> Result<String> {
    let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
    files.first().and_then(|row| row.get(0)).context("the server has no log")
}
