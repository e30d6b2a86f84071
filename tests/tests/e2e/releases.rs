//! Another release of a server: what differs from release to release stands in the log, so a bit of everything is tried.

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Event, Order, TABLE, World};

/// Rows of `count` new events as one statement.
fn insert(from: u64, count: u64) -> String {
    Event::insert_sql(TABLE, &(from..from + count).map(Event::new).collect::<Vec<_>>())
}

async fn a_bit_of_everything(metadata: &str, compress: &str) -> Result<()> {
    let world = World::mariadb_11()
        .option(&format!("--binlog-row-metadata={metadata}"))
        .option(&format!("--log-bin-compress={compress}"))
        .start()
        .await?;
    let version: Vec<String> = world.database.query("SELECT VERSION()").await?;
    ensure!(version.concat().starts_with("11."), "{version:?}");
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    for round in 0..3 {
        let number = round * 1000;
        conn.query_drop(insert(number, 50)).await?;
        conn.query_drop(format!(
            "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; {}; COMMIT",
            insert(number + 50, 5),
            insert(number + 60, 5),
            insert(number + 70, 5)
        ))
        .await?;
        conn.query_drop(format!("BEGIN; {}; ROLLBACK", insert(number + 80, 5))).await?;
        conn.query_drop(format!("XA START 'a'; {}; XA END 'a'; XA PREPARE 'a'", insert(number + 90, 5)))
            .await?;
        conn.query_drop("XA COMMIT 'a'").await?;
        conn.query_drop(format!("XA START 'b'; {}; XA END 'b'; XA PREPARE 'b'", insert(number + 100, 5)))
            .await?;
        conn.query_drop("XA ROLLBACK 'b'").await?;
        conn.query_drop(format!("ALTER TABLE {TABLE} ADD COLUMN extra{round} VARCHAR(20) NULL FIRST"))
            .await?;
        conn.query_drop(insert(number + 110, 200)).await?;
        conn.query_drop("FLUSH BINARY LOGS").await?;
        world.settle(&mut bridge).await?;
        bridge.kill()?;
        bridge.relaunch().await?;
    }
    // An XA transaction has its place in the order by its commit, not by its row number.
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

#[tokio::test]
async fn mariadb_11() -> Result<()> {
    a_bit_of_everything("FULL", "OFF").await
}

#[tokio::test]
async fn mariadb_11_with_minimal_metadata_and_compression() -> Result<()> {
    a_bit_of_everything("MINIMAL", "ON").await
}
