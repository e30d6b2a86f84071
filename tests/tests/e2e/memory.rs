//! A bridge that may have no more than 256 MiB on top of what it has when it is ready.

use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, STREAM, World};
use testbed::eventually;

const MORE_BYTES: u64 = 256 << 20;
const LARGE_EVENT_BYTES: u64 = 100 << 20;
/// Puts all rows of a statement into one event.
const LARGE_EVENTS: &str = "--binlog-row-event-max-size=1073741824";
const ROWS: u64 = 1_000_000;
/// On a machine that has much else to do.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(300);

/// One transaction: inserts numbered rows with so much text in each, and deletes them again.
fn transaction(rows: u64, filler_bytes: u64) -> String {
    format!(
        "SET cte_max_recursion_depth = 2000000; BEGIN; \
         INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, type, payload) \
         WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < {rows}) \
         SELECT UUID_TO_BIN(UUID()), 'order', CONCAT('order-', n % 10), 'placed', \
         JSON_OBJECT('n', n, 'x', REPEAT('x', {filler_bytes})) FROM number; \
         DELETE FROM shop.outbox WHERE seq <= 10; COMMIT"
    )
}

/// Commits the transaction under a limited bridge and expects all its rows, in order.
async fn goes_through(world: &World, sql: &str, rows: u64) -> Result<()> {
    let mut bridge: Bridge = world.bridge().await?;
    bridge.limit_memory(MORE_BYTES)?;
    let mut conn = world.conn().await?;
    conn.query_drop(sql).await?;
    eventually("the rows to arrive", ARRIVAL_LIMIT, async || {
        bridge.check_running()?;
        Ok((world.last_sequence(STREAM).await >= rows).then_some(()))
    })
    .await
    .map_err(|error| bridge.explain(error))?;
    println!("{rows} rows: {} MiB resident", bridge.memory_peak_bytes()? >> 20);
    let mut number = 0;
    world
        .visit(STREAM, |message| {
            ensure!(message.position()?.row == number, "message {number} is {:?}", message.position());
            let begin = format!("{{\"n\": {number}, ");
            ensure!(message.body.starts_with(begin.as_bytes()), "message {number} is another's");
            number += 1;
            Ok(())
        })
        .await?;
    ensure!(number == rows, "{number} messages");
    // What comes afterwards goes on as always.
    world.settle(&mut bridge).await?;
    bridge.finish().await
}

/// The sizes of the rows events of the log.
async fn largest_event(world: &World) -> Result<u64> {
    let events: Vec<(String, u64, String, u64, u64, String)> =
        world.database.query("SHOW BINLOG EVENTS IN 'binlog.000001'").await?;
    Ok(events.iter().map(|(_, begin, .., end, _)| end - begin).max().unwrap_or_default())
}

#[tokio::test]
async fn a_million_rows_in_one_event() -> Result<()> {
    let world = World::mysql().option(LARGE_EVENTS).option("--max-binlog-size=1G").start().await?;
    goes_through(&world, &transaction(ROWS, 40), ROWS).await?;
    let largest = largest_event(&world).await?;
    ensure!(largest >= LARGE_EVENT_BYTES, "the largest event had {largest} bytes");
    Ok(())
}

#[tokio::test]
async fn a_million_rows_compressed() -> Result<()> {
    let world = World::mysql().start().await?;
    let sql = format!("SET binlog_transaction_compression = ON; {}", transaction(ROWS, 0));
    goes_through(&world, &sql, ROWS).await
}

/// One event of large rows, as it is and compressed, behind a foreign row of 100 MiB.
#[tokio::test]
async fn large_rows_in_one_event() -> Result<()> {
    for prepare in ["", "SET binlog_transaction_compression = ON; "] {
        let world = World::mysql()
            .option(LARGE_EVENTS)
            .option("--max-binlog-size=1G")
            .option("--max-allowed-packet=512M")
            .start()
            .await?;
        world.database.exec("CREATE TABLE shop.files (content LONGBLOB)").await?;
        let sql = format!(
            "INSERT INTO shop.files VALUES (REPEAT('x', {LARGE_EVENT_BYTES})); {prepare}{}",
            transaction(108, 1_000_000)
        );
        goes_through(&world, &sql, 108).await?;
        if prepare.is_empty() {
            let largest = largest_event(&world).await?;
            ensure!(largest >= LARGE_EVENT_BYTES, "the largest event had {largest} bytes");
        }
    }
    Ok(())
}
