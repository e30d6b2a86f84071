//! Where measuring takes place: the servers, a log with a known backlog, and fresh streams.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::Client;
use async_nats::jetstream::stream::State;
use mysql_async::prelude::Queryable as _;
use outbox_bridge::config::{Columns, HeadersColumn, Outbox, StartPosition, TableName};
use outbox_bridge::publish::Message;
use outbox_bridge::route::{Route, SubjectTemplate};
use outbox_bridge::source::connection::{ConnectOptions, EVENT_BYTES_MAX};
use outbox_bridge::source::{LogOptions, LogSource, Source as _};
use outbox_bridge_tests::{Bridge, STREAM, Settings, TABLE, World};
use tokio::time::Instant;

/// How many connections fill the log.
const WRITERS: u64 = 3;
/// How long nothing may be stored before a run counts as stuck.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// As the bridge's default.
const BUFFER_BYTES_MAX: usize = 16 << 20;

/// The ballast of other tables.
const FOREIGN: &str = "CREATE TABLE shop.other (seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, \
                       id BINARY(16) NOT NULL, kind VARCHAR(64) NOT NULL, body JSON NOT NULL)";
/// Writes events as applications do, without the network between. What is foreign is spread evenly.
const FILL: &str = "CREATE PROCEDURE shop.fill(first BIGINT, count BIGINT, rows_each BIGINT, filler INT, foreign_percent INT) \
BEGIN
  DECLARE i BIGINT DEFAULT first;
  DECLARE open_rows BIGINT DEFAULT 0;
  DECLARE note TEXT DEFAULT REPEAT('lorem ipsum ', filler DIV 12 + 1);
  START TRANSACTION;
  WHILE i < first + count DO
    IF open_rows = rows_each THEN COMMIT; START TRANSACTION; SET open_rows = 0; END IF;
    IF (i * 37) % 100 < foreign_percent THEN
      INSERT INTO shop.other (id, kind, body) VALUES (UUID_TO_BIN(UUID(), 1), 'order', shop.body(i, note, filler));
    ELSE
      INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, type, payload)
        VALUES (UUID_TO_BIN(UUID(), 1), 'order', i % 10000, 'placed', shop.body(i, note, filler));
    END IF;
    SET i = i + 1, open_rows = open_rows + 1;
  END WHILE;
  COMMIT;
END";
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
    bridges: AtomicU64,
}

impl Field {
    pub(crate) async fn start() -> Result<Self> {
        let world = World::mysql()
            .option("--max-binlog-size=1G")
            .option("--innodb-buffer-pool-size=512M")
            .option("--innodb-redo-log-capacity=1G")
            .start()
            .await?;
        for statement in [FOREIGN, BODY, FILL] {
            world.database.exec(statement).await?;
        }
        let client = world.nats.client().await?;
        Ok(Self { world, client, bridges: AtomicU64::new(0) })
    }

    /// Makes the log hold this backlog and nothing else.
    pub(crate) async fn fill(&self, backlog: Backlog) -> Result<()> {
        let Backlog { rows, rows_each, payload_bytes, foreign_percent } = backlog;
        let filler = payload_bytes.saturating_sub(BODY_BYTES_MIN);
        let empty = "TRUNCATE shop.outbox; TRUNCATE shop.other; RESET BINARY LOGS AND GTIDS";
        self.world.database.exec(empty).await?;
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

    /// Replaces the stream by an empty one.
    pub(crate) async fn fresh_stream(&self) -> Result<()> {
        self.world.jetstream.delete_stream(STREAM).await?;
        self.world.create_stream(STREAM).await
    }

    /// The configuration of a bridge that has never run, and reads the log from its beginning.
    pub(crate) fn settings(&self) -> Settings {
        let number = self.bridges.fetch_add(1, Ordering::Relaxed);
        self.world.settings().set("name", format!("bench-{number}")).set("source.start", "earliest")
    }

    pub(crate) async fn state(&self) -> Result<State> {
        let stream = self.world.jetstream.get_stream(STREAM).await.context("cannot look at the stream")?;
        Ok(stream.cached_info().state.clone())
    }

    /// Waits until the stream's last sequence is `count`, and says what it is like then.
    pub(crate) async fn await_stored(&self, count: u64, bridge: Option<&mut Bridge>) -> Result<State> {
        let mut progress = (0, Instant::now());
        let mut bridge = bridge;
        loop {
            // A busy server may answer late.
            if let Ok(state) = self.state().await {
                if state.last_sequence >= count {
                    ensure!(state.last_sequence == count, "{} messages of {count}", state.last_sequence);
                    return Ok(state);
                }
                if state.last_sequence > progress.0 {
                    progress = (state.last_sequence, Instant::now());
                }
            }
            if let Some(bridge) = &mut bridge {
                bridge.check_running()?;
            }
            if progress.1.elapsed() > PATIENCE {
                bail!("the stream stands at {} of {count} for {} s", progress.0, PATIENCE.as_secs());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The bridge's own source, over the whole log.
    pub(crate) fn source(&self) -> LogSource {
        let options = LogOptions {
            connect: ConnectOptions::new("127.0.0.1", self.world.database.port(), "root"),
            server_id: 4_000_001,
            heartbeat: Duration::from_secs(10),
            start: StartPosition::Earliest,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            refuse_foreign_statements: false,
            event_bytes_max: EVENT_BYTES_MAX,
        };
        LogSource::new(
            options,
            Box::new(|server| outbox().map(|outbox| Route::new(outbox, 0, server)).into_iter().collect()),
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
fn outbox() -> Option<Outbox> {
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
