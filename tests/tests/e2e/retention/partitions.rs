//! Of a table that is partitioned by its time, whole partitions go, and never one with a row that has to stay.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, STREAM, TABLE, World};
use testbed::{Flavour, eventually};

use super::cleanup::{LIMIT, await_count, cleaned, count, settings};

const COLUMNS: &str = "seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT, id BINARY(16) NOT NULL, aggregate_type VARCHAR(64) NOT \
    NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL, payload JSON NOT NULL, headers JSON NULL, \
    created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), PRIMARY KEY (seq, created_at)";

/// A table whose rows go to a partition without an end, as long as there are no others.
async fn start(flavour: Flavour) -> Result<World> {
    let options =
        "PARTITION BY RANGE (FLOOR(UNIX_TIMESTAMP(created_at))) (PARTITION later VALUES LESS THAN MAXVALUE)";
    let world = World::of(flavour).outbox(cleaned().layout(COLUMNS).options(options)).start().await?;
    for grant in [format!("SELECT, DELETE, ALTER, DROP ON {TABLE}"), "LOCK TABLES ON shop.*".to_owned()] {
        world.database.exec(&format!("GRANT {grant} TO 'bridge'@'%'")).await?;
    }
    Ok(world)
}

/// Splits off a partition that ends so many seconds from now.
async fn split(world: &World, name: &str, seconds: u64) -> Result<()> {
    let now: Vec<u64> = world.database.query("SELECT CAST(UNIX_TIMESTAMP() AS UNSIGNED)").await?;
    let end = now.first().context("a time")? + seconds;
    let sql = format!(
        "ALTER TABLE {TABLE} REORGANIZE PARTITION later INTO (PARTITION {name} VALUES LESS THAN ({end}), PARTITION later \
         VALUES LESS THAN MAXVALUE)"
    );
    world.database.exec(&sql).await
}

async fn partitions(world: &World) -> Result<String> {
    let sql = "SELECT GROUP_CONCAT(PARTITION_NAME ORDER BY PARTITION_ORDINAL_POSITION) FROM information_schema.PARTITIONS \
        WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME = 'outbox'";
    let names: Vec<String> = world.database.query(sql).await?;
    names.into_iter().next().context("partitions")
}

async fn await_partitions(world: &World, bridge: &mut Bridge, expected: &str) -> Result<()> {
    let what = format!("the partitions {expected}");
    let gone = eventually(&what, LIMIT, async || {
        bridge.check_running()?;
        Ok((partitions(world).await? == expected).then_some(()))
    });
    let gone = gone.await;
    gone.map_err(|error| bridge.explain(error))
}

async fn old_partitions_are_dropped(flavour: Flavour) -> Result<()> {
    let world = start(flavour).await?;
    // From before the bridge read the table: its partition stays.
    split(&world, "earlier", 2).await?;
    world.insert(0..5).await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    world.pass_the_start().await?;
    split(&world, "first", 6).await?;
    world.insert(5..25).await?;
    ensure!(count(&world, "PARTITION (first)").await? == 20, "they are not old yet as a whole");
    await_partitions(&world, &mut bridge, "earlier,later").await?;
    ensure!(count(&world, "").await? == 5, "the ones from before stay");
    bridge.await_metric("outbox_cleanup_dropped_partitions_total", 1.0).await?;
    ensure!(bridge.metric("outbox_cleanup_dropped_partitions_total").await? == 1.0);
    ensure!(bridge.metric("outbox_cleanup_deleted_rows_total").await? == 0.0, "{}", bridge.log());
    // Without a partition with an end rows go one by one.
    world.insert(25..30).await?;
    await_count(&world, &mut bridge, "", 5).await?;
    world.await_messages(&mut bridge, STREAM, 25).await?;
    let (code, text) = Bridge::once(&settings(&world), &["check"])?;
    ensure!(code == 0, "{text}");
    for (grant, on) in [("DROP", TABLE), ("LOCK TABLES", "shop.*")] {
        world.database.exec(&format!("REVOKE {grant} ON {on} FROM 'bridge'@'%'")).await?;
        let (code, text) = Bridge::once(&settings(&world), &["check"])?;
        ensure!(code == 78 && text.contains("partitions may not be dropped"), "{code}: {text}");
        world.database.exec(&format!("GRANT {grant} ON {on} TO 'bridge'@'%'")).await?;
    }
    bridge.stop().await
}

#[tokio::test]
async fn old_partitions_are_dropped_in_mysql() -> Result<()> {
    old_partitions_are_dropped(Flavour::MySql).await
}

#[tokio::test]
async fn old_partitions_are_dropped_in_mariadb() -> Result<()> {
    old_partitions_are_dropped(Flavour::MariaDb).await
}

/// What is committed late is in an old partition, which waits for it; producers hardly do.
#[tokio::test]
async fn a_transaction_that_stays_open_keeps_its_partition() -> Result<()> {
    let world = start(Flavour::MySql).await?;
    let mut bridge = Bridge::start(&settings(&world).set("cleanup.interval", "1s")).await?;
    world.pass_the_start().await?;
    split(&world, "first", 4).await?;
    let mut open = world.conn().await?;
    open.query_drop("BEGIN").await?;
    Event::new(0).insert(&mut open, TABLE).await?;
    bridge.await_log("producers are in the way").await?;
    let began = std::time::Instant::now();
    world.insert(1..2).await?;
    ensure!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    ensure!(partitions(&world).await? == "first,later");
    open.query_drop("COMMIT").await?;
    open.disconnect().await?;
    await_partitions(&world, &mut bridge, "later").await?;
    world.await_messages(&mut bridge, STREAM, 2).await?;
    bridge.stop().await
}

#[tokio::test]
async fn a_dead_letter_keeps_its_partition() -> Result<()> {
    let world = start(Flavour::MySql).await?;
    let settings = settings(&world).set("poison.action", "dead_letter").set("poison.stream", "DEAD");
    let (code, text) = Bridge::once(&settings, &["init", "--apply"])?;
    ensure!(code == 0, "{text}");
    let mut bridge = Bridge::start(&settings).await?;
    world.pass_the_start().await?;
    split(&world, "first", 5).await?;
    world.insert(0..10).await?;
    let mut conn = world.conn().await?;
    Event::new(10).headers("[]").insert(&mut conn, TABLE).await?;
    conn.disconnect().await?;
    // The others of its partition go one by one.
    await_count(&world, &mut bridge, "", 1).await?;
    ensure!(partitions(&world).await? == "first,later");
    let (code, text) = Bridge::once(&settings, &["dead-letters", "drop", "--all", "--yes"])?;
    ensure!(code == 0, "{text}");
    await_partitions(&world, &mut bridge, "later").await?;
    bridge.stop().await
}
