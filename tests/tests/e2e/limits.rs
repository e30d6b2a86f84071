//! Memory stays flat, whatever a transaction or a backlog weighs.

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, STREAM, TABLE, World};
use testbed::Flavour;

const ROWS: u64 = 200_000;
const ROWS_PER_STATEMENT: u64 = 2_000;
/// Resident memory.
const MEMORY_BYTES_MAX: u64 = 128 << 20;

/// One transaction of many rows goes through, at once or after a rollback of as many.
async fn a_large_transaction(flavour: Flavour, prepare: &str, end: &str) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge: Bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    conn.query_drop(prepare).await?;
    for from in (0..ROWS).step_by(usize::try_from(ROWS_PER_STATEMENT)?) {
        let events: Vec<_> = (from..from + ROWS_PER_STATEMENT)
            .map(|number| {
                Event::new(number)
                    .payload(format!("{{\"n\": {number}, \"x\": \"{}\"}}", "some text ".repeat(30)))
            })
            .collect();
        conn.query_drop(Event::insert_sql(TABLE, &events)).await?;
    }
    conn.query_drop(end).await?;
    world.await_messages(&mut bridge, STREAM, ROWS).await?;
    let memory = bridge.memory_peak_bytes()?;
    println!("{flavour}, {prepare}: {} MiB", memory >> 20);
    // All that was counted is there, and in order: number and position of a few thousand.
    let stored = world.stored(STREAM).await?;
    ensure!(stored.len() as u64 == ROWS, "{} messages", stored.len());
    for (number, message) in stored.iter().enumerate() {
        ensure!(message.position()?.row == number as u64, "message {number} is {:?}", message.position());
        ensure!(
            message.text().starts_with(&format!("{{\"n\": {number}, ")),
            "message {number} is {}",
            message.text()
        );
    }
    ensure!(memory < MEMORY_BYTES_MAX, "{} MiB were resident", memory >> 20);
    bridge.stop().await
}

#[tokio::test]
async fn a_large_transaction_of_mysql() -> Result<()> {
    a_large_transaction(Flavour::MySql, "BEGIN", "COMMIT").await
}

#[tokio::test]
async fn a_large_compressed_transaction_of_mysql() -> Result<()> {
    a_large_transaction(Flavour::MySql, "SET binlog_transaction_compression = ON; BEGIN", "COMMIT").await
}

#[tokio::test]
async fn a_large_xa_transaction_of_mysql() -> Result<()> {
    let end = "XA END 'large'; XA PREPARE 'large'; XA COMMIT 'large'";
    a_large_transaction(Flavour::MySql, "XA START 'large'", end).await
}

#[tokio::test]
async fn a_large_transaction_of_mariadb() -> Result<()> {
    a_large_transaction(Flavour::MariaDb, "BEGIN", "COMMIT").await
}

/// NATS does not take anything for a while: what is read stays bounded, and the log waits.
#[tokio::test]
async fn a_backlog_behind_a_stalled_stream() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge: Bridge = world.bridge().await?;
    world.insert(0..1).await?;
    world.await_messages(&mut bridge, STREAM, 1).await?;
    world.nats.pause()?;
    let mut conn = world.conn().await?;
    for from in 0..100 {
        let payload = |number| format!("{{\"n\": {number}, \"x\": \"{}\"}}", "some text ".repeat(100));
        let events: Vec<_> = (from * 1_000..from * 1_000 + 1_000)
            .map(|number| Event::new(number).payload(payload(number)))
            .collect();
        conn.query_drop(Event::insert_sql(TABLE, &events)).await?;
    }
    world.nats.resume()?;
    world.await_messages(&mut bridge, STREAM, 100_001).await?;
    let memory = bridge.memory_peak_bytes()?;
    println!("{} MiB", memory >> 20);
    ensure!(memory < MEMORY_BYTES_MAX, "{} MiB were resident", memory >> 20);
    bridge.stop().await
}
