//! Where measuring takes place: the servers, a log with a known backlog, and fresh streams.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::Client;
use mysql_async::prelude::Queryable as _;
use outbox_bridge::config::{Behind, Columns, HeadersColumn, Outbox, StartPosition, TableName};
use outbox_bridge::publish::Message;
use outbox_bridge::route::{Route, SubjectTemplate};
use outbox_bridge::source::connection::{ConnectOptions, EVENT_BYTES_MAX};
use outbox_bridge::source::{LogOptions, LogSource, Source as _};
use outbox_bridge_tests::{self as tests, Bridge, STREAM, Settings, TABLE, World, WorldBuilder};
use time::OffsetDateTime;
use tokio::time::Instant;

/// How many connections fill the log.
const WRITERS: u64 = 3;
/// How long nothing may be stored before a run counts as stuck.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// As the bridge's default.
const BUFFER_BYTES_MAX: usize = 16 << 20;

/// The ballast of other tables. Its ids are text, which every decoder can read.
const FOREIGN: &str = "CREATE TABLE shop.other (seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, \
                       id CHAR(36) NOT NULL, kind VARCHAR(64) NOT NULL, body JSON NOT NULL)";
/// Writes events as applications do, without the network between. What is foreign is spread evenly.
fn fill_procedure(tables: &[String]) -> String {
    let insert = |table: &String| {
        format!(
            "INSERT INTO {table} (id, aggregate_type, aggregate_id, type, payload) \
             VALUES (UUID_TO_BIN(UUID(), 1), 'order', i % 10000, 'placed', shop.body(i, note, filler));"
        )
    };
    let inserts = match tables {
        [table] => insert(table),
        tables => {
            let arm = |(number, table)| format!("WHEN {number} THEN {}", insert(table));
            let arms: String = (0..).zip(tables).map(arm).collect();
            format!("CASE i % {} {arms} END CASE;", tables.len())
        }
    };
    format!(
        "CREATE PROCEDURE shop.fill(first BIGINT, count BIGINT, rows_each BIGINT, filler INT, foreign_percent INT) \
BEGIN
  DECLARE i BIGINT DEFAULT first;
  DECLARE open_rows BIGINT DEFAULT 0;
  DECLARE note TEXT DEFAULT REPEAT('lorem ipsum ', filler DIV 12 + 1);
  START TRANSACTION;
  WHILE i < first + count DO
    IF open_rows = rows_each THEN COMMIT; START TRANSACTION; SET open_rows = 0; END IF;
    IF (i * 37) % 100 < foreign_percent THEN
      INSERT INTO shop.other (id, kind, body) VALUES (UUID(), 'order', shop.body(i, note, filler));
    ELSE
      {inserts}
    END IF;
    SET i = i + 1, open_rows = open_rows + 1;
  END WHILE;
  COMMIT;
END"
    )
}
const BODY: &str = "CREATE FUNCTION shop.body(i BIGINT, note TEXT, filler INT) RETURNS JSON NO SQL RETURN JSON_OBJECT( \
'order', i, 'status', 'placed', 'customer', 'Ada Lovelace', 'total', i / 100, 'currency', 'EUR', 'express', i % 2 = 0, \
'lines', JSON_ARRAY(JSON_OBJECT('sku', 'A-4711', 'quantity', 1 + i % 5)), 'note', LEFT(note, filler))";
/// What a body has besides its filler, in bytes.
const BODY_BYTES_MIN: usize = 150;

/// What the log holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlog {
    /// Rows, foreign ones included.
    pub(crate) rows: u64,
    /// Rows of a transaction.
    pub(crate) rows_each: u64,
    /// About how large a payload is.
    pub(crate) payload_bytes: usize,
    /// Of a hundred rows so many are another table's.
    pub(crate) foreign_percent: u64,
}

impl Backlog {
    /// One-row transactions whose rows take about 700 bytes in the log.
    pub(crate) fn plain(rows: u64) -> Self {
        Self { rows, rows_each: 1, payload_bytes: 500, foreign_percent: 0 }
    }

    /// How many rows become messages.
    pub(crate) fn events(self) -> u64 {
        (1..=self.rows).filter(|row| (row * 37) % 100 >= self.foreign_percent).count() as u64
    }
}

/// The servers and what was prepared in them.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) world: World,
    pub(crate) client: Client,
    tables: Vec<String>,
    streams: Vec<String>,
    bridges: AtomicU64,
}

/// What all streams together hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) messages: u64,
    /// When the first message was stored, and when the last.
    pub(crate) first: OffsetDateTime,
    pub(crate) last: OffsetDateTime,
}

impl Field {
    /// One outbox table and its stream.
    pub(crate) async fn start() -> Result<Self> {
        Self::of(World::mysql(), vec![TABLE.to_owned()], vec![STREAM.to_owned()]).await
    }

    /// So many outbox tables, shared out among so many streams.
    pub(crate) async fn wide(tables: usize, streams: usize) -> Result<Self> {
        Self::of_widths(World::mysql(), tables, streams).await
    }

    /// So many services, each with an outbox table and a stream, with or without a sync at each commit.
    pub(crate) async fn services(count: usize, durable: bool) -> Result<Self> {
        let world = World::mysql();
        Self::of_widths(if durable { world.durable() } else { world }, count, count).await
    }

    async fn of_widths(world: WorldBuilder, tables: usize, streams: usize) -> Result<Self> {
        let names: Vec<String> = (0..tables).map(|number| format!("shop.outbox_{number}")).collect();
        let streams: Vec<String> = (0..streams).map(|number| format!("ORDERS_{number}")).collect();
        let world = names.iter().zip(streams.iter().cycle()).fold(world, |world, (table, stream)| {
            let subject = format!("{}.{{table}}.{{type}}", stream.to_lowercase());
            world.outbox(tests::Outbox::new(table, stream, &subject))
        });
        Self::of(world, names, streams).await
    }

    async fn of(world: WorldBuilder, tables: Vec<String>, streams: Vec<String>) -> Result<Self> {
        let world = world
            .option("--max-binlog-size=1G")
            .option("--innodb-buffer-pool-size=512M")
            .option("--innodb-redo-log-capacity=1G")
            .start()
            .await?;
        for statement in [FOREIGN, BODY, &fill_procedure(&tables)] {
            world.database.exec(statement).await?;
        }
        let client = world.nats.client().await?;
        Ok(Self { world, client, tables, streams, bridges: AtomicU64::new(0) })
    }

    /// Makes the log hold this backlog and nothing else.
    pub(crate) async fn fill(&self, backlog: Backlog) -> Result<()> {
        let Backlog { rows, rows_each, payload_bytes, foreign_percent } = backlog;
        let filler = payload_bytes.saturating_sub(BODY_BYTES_MIN);
        let empty: String = self.tables.iter().map(|table| format!("TRUNCATE {table}; ")).collect();
        let empty = format!("{empty}TRUNCATE shop.other; RESET BINARY LOGS AND GTIDS");
        self.world.database.exec(&empty).await?;
        let writers = if rows_each == 1 { WRITERS } else { 1 };
        let share = rows / writers;
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let first = 1 + writer * share;
            let count = if writer + 1 == writers { rows - writer * share } else { share };
            let mut conn = self.world.conn().await?;
            let call = format!("CALL shop.fill({first}, {count}, {rows_each}, {filler}, {foreign_percent})");
            tasks.spawn(async move {
                conn.query_drop(call).await?;
                conn.disconnect().await
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Replaces the streams by empty ones.
    pub(crate) async fn fresh_streams(&self) -> Result<()> {
        for stream in &self.streams {
            self.world.jetstream.delete_stream(stream).await?;
            self.world.create_stream(stream).await?;
        }
        Ok(())
    }

    /// The configuration of a bridge that has never run, and reads the log from its beginning.
    pub(crate) fn settings(&self) -> Settings {
        let number = self.bridges.fetch_add(1, Ordering::Relaxed);
        self.world.settings().set("name", format!("bench-{number}")).set("source.start", "earliest")
    }

    pub(crate) async fn stored(&self) -> Result<Stored> {
        let mut stored =
            Stored { messages: 0, first: OffsetDateTime::now_utc(), last: OffsetDateTime::UNIX_EPOCH };
        for name in &self.streams {
            let stream = self.world.jetstream.get_stream(name).await.context("cannot look at the stream")?;
            let state = &stream.cached_info().state;
            stored.messages += state.last_sequence;
            if state.last_sequence > 0 {
                stored.first = stored.first.min(state.first_timestamp);
                stored.last = stored.last.max(state.last_timestamp);
            }
        }
        Ok(stored)
    }

    /// Waits until the streams hold `count` messages, and says what they are like then.
    pub(crate) async fn await_stored(&self, count: u64, bridge: Option<&mut Bridge>) -> Result<Stored> {
        let mut progress = (0, Instant::now());
        let mut bridge = bridge;
        loop {
            // A busy server may answer late.
            if let Ok(stored) = self.stored().await {
                if stored.messages >= count {
                    ensure!(stored.messages == count, "{} messages of {count}", stored.messages);
                    return Ok(stored);
                }
                if stored.messages > progress.0 {
                    progress = (stored.messages, Instant::now());
                }
            }
            if let Some(bridge) = &mut bridge {
                bridge.check_running()?;
            }
            if progress.1.elapsed() > PATIENCE {
                bail!("the streams hold {} of {count} for {} s", progress.0, PATIENCE.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The bridge's own source, over the whole log.
    pub(crate) fn source(&self) -> LogSource {
        self.source_of(outbox())
    }

    /// The same for the ballast, as if that were an outbox.
    pub(crate) fn source_of_other(&self) -> LogSource {
        let (id, kind, body) = ("id".to_owned(), "kind".to_owned(), "body".to_owned());
        self.source_of(outbox().map(|standard| Outbox {
            table: TableName { schema: "shop".to_owned(), table: "other".to_owned() },
            columns: Columns {
                id,
                aggregate_type: kind.clone(),
                aggregate_id: kind.clone(),
                event_type: kind,
                payload: body,
                ..standard.columns
            },
            ..standard
        }))
    }

    fn source_of(&self, outbox: Option<Outbox>) -> LogSource {
        let options = LogOptions {
            connect: ConnectOptions::new("127.0.0.1", self.world.database.port(), "root"),
            servers: Vec::new(),
            expected: None,
            behind: Behind::Wait,
            server_id: 4_000_001,
            heartbeat: Duration::from_secs(10),
            start: StartPosition::Earliest,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            refuse_foreign_statements: false,
            event_bytes_max: EVENT_BYTES_MAX,
        };
        LogSource::new(
            options,
            Box::new(move |server| {
                outbox.iter().map(|outbox| Route::new(outbox.clone(), 0, server)).collect()
            }),
        )
    }

    /// The log's first messages, as the bridge routes them.
    pub(crate) async fn messages(&self, count: u64) -> Result<Vec<Message>> {
        let count = usize::try_from(count)?;
        let mut source = self.source();
        let point = source.first_point().await?;
        source.open(&point).await?;
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            let batch = source.next().await?;
            messages.extend(batch.messages.into_iter().map(|(_, message)| message));
        }
        messages.truncate(count);
        Ok(messages)
    }
}

/// The standard table, as [`World`] configures it.
pub(crate) fn outbox() -> Option<Outbox> {
    let (schema, table) = TABLE.split_once('.')?;
    Some(Outbox {
        retention: None,
        table: TableName { schema: schema.to_owned(), table: table.to_owned() },
        stream: STREAM.to_owned(),
        subject: SubjectTemplate::parse("orders.{aggregate_type}.{type}").ok()?,
        source: None,
        columns: Columns {
            id: "id".to_owned(),
            aggregate_type: "aggregate_type".to_owned(),
            aggregate_id: "aggregate_id".to_owned(),
            event_type: "type".to_owned(),
            payload: "payload".to_owned(),
            headers: HeadersColumn::IfPresent("headers".to_owned()),
            content_type: None,
            partition_key: None,
            created_at: "created_at".to_owned(),
        },
    })
}
