//! The row decoder against two oracles: the server, and `mysql_cdc`, which decodes the same log independently.
//!
//! A server writes tables of every column type with edge values and random ones; the log is then read from its files.
//! What `mysql_cdc` cannot do is left to the server alone, and each time it is checked that it cannot: values that are no
//! UTF-8, negative times, compressed transactions and rows, `JSON` of MySQL, which it hands out undecoded, and the column
//! types that it does not know (`VECTOR`, `COMPRESSED`). Fractions of a second it cuts to milliseconds.
//!
//! `OUTBOX_DECODER_SEED=n` runs with the seed of a failure.

mod peer;
mod tables;
mod values;

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use mysql_async::{Conn, Row, prelude::Queryable as _};
use mysql_cdc::events::{
    binlog_event::BinlogEvent,
    event_header::EventHeader as CdcHeader,
    event_parser::EventParser,
    row_events::{mysql_value::MySqlValue, row_data::RowData},
};
use outbox_bridge::{
    decode::{
        ColumnDefinition, DecodeLimits, RowDecoder, RowsEvent, RowsKind, TableMap, Value, event_type,
        resolve_columns,
    },
    source::{
        EventHeader, HEADER_SIZE, RawEvent,
        connection::Flavour as Dialect,
        event::{Event, PayloadReader},
    },
};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use testbed::{Flavour, MySql};

use self::{
    peer::{normalised, theirs},
    tables::{Kind, Peer, Table, UNICODE, tables},
    values::{hex, literal},
};

const ROWS: usize = 400;
const ROWS_A_STATEMENT: usize = 25;
const CHECKSUM_SIZE: usize = 4;

/// What the server is asked for, to get what [`shown`] makes of our value.
fn question(column: &str, kind: Kind) -> String {
    match kind {
        // MySQL's casts cut them to 22 characters and 6 digits; as they are sent they are exact.
        Kind::Float | Kind::Double => column.to_owned(),
        Kind::Bit { bits } => format!("LPAD(HEX({column}), {}, '0')", bits.div_ceil(8) * 2),
        Kind::Binary { .. } | Kind::Point | Kind::Vector => format!("HEX({column})"),
        Kind::Text { .. } | Kind::Latin1 { .. } | Kind::Enum(_) | Kind::Set(_) => {
            format!("CONVERT({column} USING utf8mb4)")
        }
        _ => format!("CAST({column} AS CHAR)"),
    }
}

/// Our value as text; bytes as hexadecimal digits.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Absent => Some("ABSENT".into()),
        Value::Text(text) | Value::Json(text) => Some(text.as_str().to_owned()),
        Value::Bytes(bytes) => Some(hex(bytes)),
    }
}

/// The rows of each table, as one decoder made them.
type Rows<T> = BTreeMap<String, Vec<T>>;

/// The log's events, as they stand in its files, the header included.
fn log_events(server: &MySql) -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(server.data_dir())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix("binlog.").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            files.push(path);
        }
    }
    files.sort();
    // The last one is still being written.
    files.pop();
    let mut events = Vec::new();
    for file in files {
        let bytes = fs::read(&file)?;
        let mut rest = bytes.strip_prefix(b"\xfebin").context("a log file")?;
        while let Some(header) = EventHeader::parse(rest) {
            let (event, more) =
                rest.split_at_checked(header.event_size.try_into()?).context("an event that is cut")?;
            events.push(event.to_vec());
            rest = more;
        }
    }
    Ok(events)
}

/// Our decoder.
struct Ours {
    dialect: Dialect,
    definitions: BTreeMap<String, Vec<ColumnDefinition>>,
    decoders: BTreeMap<u64, (String, RowDecoder)>,
    rows: Rows<Vec<Value>>,
}

impl Ours {
    fn take(&mut self, raw: &RawEvent) -> Result<()> {
        match Event::parse(raw, self.dialect)? {
            Event::TableMap(body) => {
                let map = TableMap::parse(&body)?;
                // MySQL's log says everything; MariaDB's does not tell a UUID from bytes.
                let definition =
                    self.definitions.get(&map.table).filter(|_| self.dialect == Dialect::MariaDb);
                let columns = resolve_columns(&map, definition.map(Vec::as_slice))?;
                let wanted: Vec<_> = (0..columns.len()).collect();
                let decoder = RowDecoder::new(&map, columns, &wanted, DecodeLimits::default())?;
                self.decoders.insert(map.table_id, (map.table, decoder));
            }
            Event::Rows(RowsKind::Insert) => {
                let event = RowsEvent::parse(raw.header.event_type, &raw.body, DecodeLimits::default())?;
                let (table, decoder) =
                    self.decoders.get_mut(&event.head().table_id).context("rows without a table map")?;
                let rows: Vec<_> = decoder.rows(&event)?.collect::<Result<_, _>>()?;
                self.rows.entry(table.clone()).or_default().extend(rows);
            }
            Event::TransactionPayload(payload) => {
                let mut payload = PayloadReader::new(payload, 1 << 26)?;
                while let Some(event) = payload.next_event()? {
                    self.take(&event)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

async fn fill(conn: &mut Conn, table: &Table, random: &mut SmallRng) -> Result<()> {
    let columns: Vec<_> = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, (column_type, _))| format!("c{index} {column_type}"))
        .collect();
    let name = table.name;
    conn.query_drop(format!("CREATE TABLE {name} (n INT PRIMARY KEY, {})", columns.join(", "))).await?;
    if !table.setting.is_empty() {
        conn.query_drop(table.setting).await?;
    }
    let numbers: Vec<_> = (0..ROWS).collect();
    for numbers in numbers.chunks(ROWS_A_STATEMENT) {
        let row = |number: &usize| {
            let values: Vec<_> = table.columns.iter().map(|(_, kind)| literal(*kind, random)).collect();
            format!("({number}, {})", values.join(", "))
        };
        let rows: Vec<_> = numbers.iter().map(row).collect();
        let sql = format!("INSERT INTO {name} VALUES {}", rows.join(", "));
        conn.query_drop(&sql)
            .await
            .with_context(|| format!("{}…", sql.chars().take(3000).collect::<String>()))?;
    }
    Ok(())
}

/// What the server shows of a table.
async fn expected(conn: &mut Conn, table: &Table) -> Result<Vec<Vec<Option<String>>>> {
    let columns = table.columns.iter().enumerate();
    let questions: Vec<_> = columns.map(|(index, (_, kind))| question(&format!("c{index}"), *kind)).collect();
    let rows: Vec<Row> =
        conn.query(format!("SELECT {} FROM {} ORDER BY n", questions.join(", "), table.name)).await?;
    let text = |value: mysql_async::Value| match value {
        mysql_async::Value::NULL => Ok(None),
        mysql_async::Value::Bytes(bytes) => Ok(Some(String::from_utf8(bytes)?)),
        other => bail!("not text: {other:?}"),
    };
    rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
}

async fn definition(conn: &mut Conn, table: &str) -> Result<Vec<ColumnDefinition>> {
    let sql = format!(
        "SELECT COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME FROM information_schema.COLUMNS \
         WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME = '{table}' ORDER BY ORDINAL_POSITION"
    );
    let columns: Vec<(String, String, Option<String>)> = conn.query(sql).await?;
    let column = |(name, column_type, character_set)| ColumnDefinition { name, column_type, character_set };
    Ok(columns.into_iter().map(column).collect())
}

/// Compares one table; gives how many values were compared with `mysql_cdc`'s.
fn compare(
    table: &Table,
    shown_by_server: &[Vec<Option<String>>],
    ours: &[Vec<Value>],
    theirs: &[RowData],
    failures: usize,
) -> Result<usize> {
    let name = table.name;
    assert_eq!((ours.len(), shown_by_server.len()), (ROWS, ROWS), "{name}: rows");
    for (number, (ours, server)) in ours.iter().zip(shown_by_server).enumerate() {
        // The first column is the row's number.
        for ((value, server), (column_type, _)) in ours.iter().skip(1).zip(server).zip(&table.columns) {
            assert_eq!(shown(value), *server, "{name}, row {number}, {column_type}: the server's");
        }
    }
    if table.peer == Peer::Cannot {
        assert!(failures > 0 || theirs.len() < ROWS, "{name}: mysql_cdc can do it after all");
        return Ok(0);
    }
    assert_eq!((theirs.len(), failures), (ROWS, 0), "{name}: mysql_cdc's rows");
    let (mut compared, mut differ) = (0, 0);
    for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let pairs = ours.iter().skip(1).zip(theirs.cells.iter().skip(1)).zip(&table.columns);
        for ((value, theirs), (column_type, kind)) in pairs {
            let what = format!("{name}, row {number}, {column_type}");
            let (Some(ours), Some(theirs)) = (shown(value), theirs) else {
                assert_eq!(shown(value).is_none(), theirs.is_none(), "{what}: NULL");
                continue;
            };
            if table.peer == Peer::HandsThrough {
                let MySqlValue::Blob(bytes) = theirs else { continue };
                differ += usize::from(hex(bytes) != ours && *bytes != ours.as_bytes());
                continue;
            }
            let (ours, theirs) = normalised(*kind, &ours, theirs).with_context(|| what.clone())?;
            assert_eq!(ours, theirs, "{what}: mysql_cdc's");
            compared += 1;
        }
    }
    assert!(table.peer != Peer::HandsThrough || differ > 0, "{name}: mysql_cdc can do it after all");
    Ok(compared)
}

async fn decode_all(flavour: Flavour) -> Result<()> {
    let seed = match std::env::var("OUTBOX_DECODER_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random(),
    };
    println!("{flavour}: OUTBOX_DECODER_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let server = MySql::builder_of(flavour).relaxed_durability().start().await?;
    let mut conn = server.conn().await?;
    conn.query_drop(
        "CREATE DATABASE shop; USE shop; SET SESSION time_zone='+00:00', sql_mode='ALLOW_INVALID_DATES'",
    )
    .await?;
    let tables = tables(flavour);
    let mut definitions = BTreeMap::new();
    for table in &tables {
        fill(&mut conn, table, &mut random).await.with_context(|| table.name.to_owned())?;
        definitions.insert(table.name.to_owned(), definition(&mut conn, table.name).await?);
    }
    conn.query_drop("FLUSH BINARY LOGS").await?;

    let events = log_events(&server)?;
    let dialect = if flavour == Flavour::MySql { Dialect::MySql } else { Dialect::MariaDb };
    let mut ours = Ours { dialect, definitions, decoders: BTreeMap::new(), rows: Rows::new() };
    for event in &events {
        let header = EventHeader::parse(event).context("a header")?;
        let (event, _checksum) = event.split_last_chunk::<CHECKSUM_SIZE>().context("a checksum")?;
        let body = Bytes::copy_from_slice(event.get(HEADER_SIZE..).unwrap_or_default());
        ours.take(&RawEvent { header, body })?;
    }
    let (theirs, failures) = theirs(&events)?;
    let mut compared = 0;
    for table in &tables {
        let server = expected(&mut conn, table).await.with_context(|| table.name.to_owned())?;
        let rows = (ours.rows.get(table.name), theirs.get(table.name));
        let failures = failures.get(table.name).copied().unwrap_or_default();
        compared += compare(
            table,
            &server,
            rows.0.map(Vec::as_slice).unwrap_or_default(),
            rows.1.map(Vec::as_slice).unwrap_or_default(),
            failures,
        )?;
    }
    println!("{flavour}: {compared} values are the same as mysql_cdc's");
    assert!(compared > 15_000, "{compared}");
    conn.disconnect().await?;
    Ok(())
}

#[tokio::test]
async fn mysql_rows_are_what_the_server_and_mysql_cdc_say() -> Result<()> {
    decode_all(Flavour::MySql).await
}

#[tokio::test]
async fn mariadb_rows_are_what_the_server_and_mysql_cdc_say() -> Result<()> {
    decode_all(Flavour::MariaDb).await
}
