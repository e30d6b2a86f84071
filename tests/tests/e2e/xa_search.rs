//! XA transactions that were prepared before the bridge began: their rows are looked for in the log and read again.

use std::time::Duration;

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable as _;
use outbox_bridge::{
    config::{Behind, Columns, HeadersColumn, Outbox, StartPosition, TableName},
    route::{Route, SubjectTemplate},
    source::{LogError, LogOptions, LogSource, Source as _, connection::ConnectOptions},
    transaction::TransactionError,
};
use testbed::{Flavour, MySql};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

fn source(server: &MySql) -> LogSource {
    let options = LogOptions {
        connect: ConnectOptions::new("127.0.0.1", server.port(), "root"),
        servers: Vec::new(),
        expected: None,
        behind: Behind::Wait,
        server_id: 4001,
        heartbeat: Duration::from_secs(1),
        start: StartPosition::Now,
        buffer_bytes_max: 1 << 20,
        refuse_foreign_statements: false,
        event_bytes_max: 1 << 26,
    };
    let columns = Columns {
        id: "id".into(),
        aggregate_type: "aggregate_type".into(),
        aggregate_id: "aggregate_id".into(),
        event_type: "type".into(),
        payload: "payload".into(),
        headers: HeadersColumn::None,
        content_type: None,
        partition_key: None,
        created_at: "created_at".into(),
    };
    let outbox = Outbox {
        retention: None,
        table: TableName { schema: "shop".into(), table: "outbox".into() },
        stream: "S".into(),
        subject: SubjectTemplate::parse("events.{type}").expect("a template"),
        source: None,
        columns,
    };
    LogSource::new(options, Box::new(move |server| vec![Route::new(outbox.clone(), 0, server)]))
}

async fn start(flavour: Flavour) -> Result<(MySql, mysql_async::Conn)> {
    let server = MySql::builder_of(flavour).relaxed_durability().start().await?;
    let mut conn = server.conn().await?;
    let columns = "id VARCHAR(40) PRIMARY KEY, aggregate_type VARCHAR(40), aggregate_id VARCHAR(40), type VARCHAR(40), payload TEXT";
    conn.query_drop(format!("CREATE DATABASE shop; USE shop; CREATE TABLE outbox ({columns})")).await?;
    Ok((server, conn))
}

fn prepare(id: &str) -> String {
    format!(
        "XA START 'x'; INSERT INTO outbox VALUES ('{id}', 'order', '7', 'placed', REPEAT('p', 2000)); XA END 'x'; XA PREPARE 'x'"
    )
}

async fn ids(source: &mut LogSource, count: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = timeout(LIMIT, source.next()).await.context("no batch")??;
        ids.extend(batch.messages.into_iter().map(|(_, message)| message.id));
    }
    Ok(ids)
}

/// Its name is used again before the bridge comes to read of the first one's commit.
async fn found_by_its_commit(flavour: Flavour, setting: &str) -> Result<()> {
    let (server, mut conn) = start(flavour).await?;
    conn.query_drop(setting).await?;
    conn.query_drop(prepare("first")).await?;
    let mut source = source(&server);
    let point = source.first_point().await?;
    conn.query_drop("XA COMMIT 'x'").await?;
    conn.query_drop(prepare("second")).await?;
    conn.query_drop("XA COMMIT 'x'").await?;
    conn.query_drop("FLUSH BINARY LOGS").await?;
    conn.query_drop(prepare("third")).await?;
    conn.query_drop("XA COMMIT 'x'").await?;
    source.open(&point).await?;
    assert_eq!(ids(&mut source, 3).await?, ["first", "second", "third"], "{flavour}");
    conn.disconnect().await?;
    Ok(())
}

#[tokio::test]
async fn the_rows_are_those_of_the_prepare_before_the_commit() -> Result<()> {
    found_by_its_commit(Flavour::MySql, "DO 0").await?;
    found_by_its_commit(Flavour::MariaDb, "DO 0").await
}

#[tokio::test]
async fn a_compressed_prepare_is_found() -> Result<()> {
    found_by_its_commit(Flavour::MySql, "SET SESSION binlog_transaction_compression=ON").await
}

#[tokio::test]
async fn a_prepared_insert_in_statement_format_is_an_error() -> Result<()> {
    let (server, mut conn) = start(Flavour::MySql).await?;
    conn.query_drop("SET SESSION binlog_format=STATEMENT").await?;
    conn.query_drop(prepare("hidden")).await?;
    let mut source = source(&server);
    let point = source.first_point().await?;
    conn.query_drop("XA COMMIT 'x'").await?;
    source.open(&point).await?;
    // An idle server's heartbeats are empty batches.
    let failing = async {
        loop {
            match source.next().await {
                Ok(batch) => assert_eq!(batch.messages.len(), 0),
                Err(error) => return error,
            }
        }
    };
    let error = timeout(LIMIT, failing).await.context("no error")?;
    assert!(matches!(error, LogError::Transaction(TransactionError::Statement { .. })), "{error}");
    conn.disconnect().await?;
    Ok(())
}
