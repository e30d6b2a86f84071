//! What the log says of a table, and of its changes: row metadata full and minimal, row images full and minimal.

use anyhow::{Context as _, Result};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Order, TABLE, World};
use testbed::Flavour;

/// Changes to the standard table, each with what it is called. None changes what a row says.
const CHANGES: [&str; 12] = [
    "ADD COLUMN note VARCHAR(50) NULL FIRST",
    "ADD COLUMN flags BIT(5) NULL AFTER id",
    "ADD COLUMN state ENUM('new', 'old') NOT NULL DEFAULT 'new'",
    "MODIFY type VARCHAR(300) NOT NULL",
    "MODIFY aggregate_id VARCHAR(255) CHARACTER SET utf16 NOT NULL AFTER payload",
    "CHANGE note remark TEXT NULL",
    "DROP COLUMN flags",
    "MODIFY headers JSON NULL FIRST",
    "ADD COLUMN total DECIMAL(20, 3) NOT NULL DEFAULT 1.5 AFTER headers, ADD INDEX (aggregate_id)",
    "RENAME COLUMN remark TO comment",
    "ADD COLUMN twice VARCHAR(300) GENERATED ALWAYS AS (CONCAT(type, type)) STORED AFTER id",
    "MODIFY seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT AFTER type",
];

fn world(flavour: Flavour, metadata: &str) -> outbox_bridge_tests::WorldBuilder {
    World::of(flavour).option(&format!("--binlog-row-metadata={metadata}"))
}

/// The table changes while the bridge is up with the log.
async fn changes_in_mid_stream(flavour: Flavour, metadata: &str) -> Result<()> {
    let world = world(flavour, metadata).start().await?;
    let mut bridge = world.bridge().await?;
    let mut number = 0;
    for change in CHANGES {
        world.insert(number..number + 3).await?;
        world.settle(&mut bridge).await?;
        world.database.exec(&format!("ALTER TABLE {TABLE} {change}")).await?;
        world.insert(number + 3..number + 5).await?;
        let verified = world.verify(&mut bridge, Order::Total).await;
        verified.with_context(|| format!("after {change}"))?;
        number += 5;
        if number % 20 == 0 {
            bridge.kill()?;
            bridge.relaunch().await?;
        }
    }
    bridge.stop().await
}

#[tokio::test]
async fn changes_in_mid_stream_with_mysql_and_full_metadata() -> Result<()> {
    changes_in_mid_stream(Flavour::MySql, "FULL").await
}

#[tokio::test]
async fn changes_in_mid_stream_with_mysql_and_minimal_metadata() -> Result<()> {
    changes_in_mid_stream(Flavour::MySql, "MINIMAL").await
}

#[tokio::test]
async fn changes_in_mid_stream_with_mariadb_and_full_metadata() -> Result<()> {
    changes_in_mid_stream(Flavour::MariaDb, "FULL").await
}

#[tokio::test]
async fn changes_in_mid_stream_with_mariadb_and_minimal_metadata() -> Result<()> {
    changes_in_mid_stream(Flavour::MariaDb, "MINIMAL").await
}

/// The table changes while the bridge is down, so that the log is older than the definition: names in the log suffice.
async fn changes_behind_the_bridges_back(flavour: Flavour) -> Result<()> {
    let world = world(flavour, "FULL").start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..3).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await?;
    for (number, change) in (0..).zip(CHANGES) {
        world.insert(number * 5..number * 5 + 3).await?;
        world.database.exec(&format!("ALTER TABLE {TABLE} {change}")).await?;
        world.insert(number * 5 + 3..number * 5 + 5).await?;
    }
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

#[tokio::test]
async fn changes_behind_the_bridges_back_with_mysql() -> Result<()> {
    changes_behind_the_bridges_back(Flavour::MySql).await
}

#[tokio::test]
async fn changes_behind_the_bridges_back_with_mariadb() -> Result<()> {
    changes_behind_the_bridges_back(Flavour::MariaDb).await
}

/// The same without names in the log: what cannot be told is refused, and never guessed.
#[tokio::test]
async fn changes_that_the_log_does_not_tell_are_refused() -> Result<()> {
    let world = world(Flavour::MySql, "MINIMAL").start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..3).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await?;
    world.insert(3..5).await?;
    world.database.exec(&format!("ALTER TABLE {TABLE} ADD COLUMN note VARCHAR(50) NULL FIRST")).await?;
    world.insert(5..7).await?;
    world.database.exec(&format!("ALTER TABLE {TABLE} MODIFY payload JSON NOT NULL FIRST")).await?;
    world.insert(7..9).await?;
    bridge.launch()?;
    bridge.refuses(&["binlog_row_metadata=FULL"]).await
}

/// A minimal image has the columns that the insert names.
async fn minimal_row_image(flavour: Flavour, metadata: &str) -> Result<()> {
    let world = world(flavour, metadata).option("--binlog-row-image=MINIMAL").start().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    for number in 0..10 {
        let event = Event::new(number);
        let row = event.values().replace(", NULL)", ")");
        conn.query_drop(format!(
            "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, type, payload) VALUES {row}"
        ))
        .await?;
        Event::new(number).headers("{\"a\": \"b\"}").insert(&mut conn, TABLE).await?;
        conn.query_drop(format!("UPDATE {TABLE} SET type = 'placed' WHERE seq = {number}")).await?;
    }
    world.verify(&mut bridge, Order::Total).await?;

    // What the insert leaves to a default that the log does not show is refused, and never guessed.
    conn.query_drop(format!("ALTER TABLE {TABLE} ALTER COLUMN type SET DEFAULT 'placed'")).await?;
    conn.query_drop(format!(
        "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, payload) VALUES (X'00112233445566778899aabbccddeeff', 'a', 'b', '{{}}')"
    ))
    .await?;
    bridge.refuses(&[TABLE, "type", "binlog_row_image=FULL"]).await
}

#[tokio::test]
async fn minimal_row_image_of_mysql() -> Result<()> {
    minimal_row_image(Flavour::MySql, "FULL").await
}

#[tokio::test]
async fn minimal_row_image_and_metadata_of_mysql() -> Result<()> {
    minimal_row_image(Flavour::MySql, "MINIMAL").await
}

#[tokio::test]
async fn minimal_row_image_and_metadata_of_mariadb() -> Result<()> {
    minimal_row_image(Flavour::MariaDb, "MINIMAL").await
}

/// A table that is dropped, made again, renamed away and swapped in, as tools for online changes do.
#[tokio::test]
async fn tables_that_come_and_go() -> Result<()> {
    for metadata in ["FULL", "MINIMAL"] {
        let world = world(Flavour::MySql, metadata).start().await?;
        let mut bridge = world.bridge().await?;
        world.insert(0..3).await?;
        world.settle(&mut bridge).await?;
        world
            .database
            .exec(
                "CREATE TABLE shop.new LIKE shop.outbox; ALTER TABLE shop.new ADD COLUMN extra JSON NULL AFTER seq; \
                 INSERT INTO shop.new (seq, id, aggregate_type, aggregate_id, type, payload, headers, created_at) \
                   SELECT seq, id, aggregate_type, aggregate_id, type, payload, headers, created_at FROM shop.outbox; \
                 RENAME TABLE shop.outbox TO shop.old, shop.new TO shop.outbox; DROP TABLE shop.old",
            )
            .await?;
        world.insert(3..6).await?;
        world.verify(&mut bridge, Order::Total).await?;
        bridge.stop().await?;
        bridge.relaunch().await?;
        world.insert(6..9).await?;
        world.verify(&mut bridge, Order::Total).await?;
        bridge.stop().await?;
    }
    Ok(())
}

/// Without the mapped column there is nothing to publish from.
#[tokio::test]
async fn a_mapped_column_that_is_gone_stops_the_bridge() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge: Bridge = world.bridge().await?;
    world.insert(0..3).await?;
    world.verify(&mut bridge, Order::Total).await?;
    world.database.exec(&format!("ALTER TABLE {TABLE} RENAME COLUMN payload TO body")).await?;
    world
        .database
        .exec(&format!(
            "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, type, body) \
             VALUES (X'00112233445566778899aabbccddeeff', 'a', 'b', 'c', '{{}}')"
        ))
        .await?;
    bridge.refuses(&[TABLE, "payload", "outbox.columns.payload"]).await
}
