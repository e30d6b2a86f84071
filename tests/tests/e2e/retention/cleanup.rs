//! Published rows are deleted, and never one that is not stored.

use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{
    Bridge, Event, Expected, Load, LoadOptions, Order, Outbox, STREAM, Settings, TABLE, World, WorldBuilder,
};
use testbed::{Flavour, eventually};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// An outbox whose rows are deleted as soon as may be.
pub(super) fn cleaned() -> Outbox {
    Outbox::standard().set("retention", "0s")
}

pub(super) fn settings(world: &World) -> Settings {
    world
        .settings()
        .set("cleanup.interval", "200ms")
        .set("cleanup.pause", "1ms")
        .set("checkpoint.interval", "100ms")
}

pub(super) async fn start(builder: WorldBuilder) -> Result<World> {
    let world = builder.start().await?;
    world.database.exec(&format!("GRANT DELETE ON {TABLE} TO 'bridge'@'%'")).await?;
    Ok(world)
}

pub(super) async fn count(world: &World, condition: &str) -> Result<u64> {
    let counts: Vec<u64> = world.database.query(&format!("SELECT COUNT(*) FROM {TABLE} {condition}")).await?;
    Ok(counts.into_iter().sum())
}

pub(super) async fn await_count(
    world: &World,
    bridge: &mut Bridge,
    condition: &str,
    expected: u64,
) -> Result<()> {
    let what = format!("{expected} rows {condition}");
    let deleted = eventually(&what, LIMIT, async || {
        bridge.check_running()?;
        Ok((count(world, condition).await? == expected).then_some(()))
    });
    let deleted = deleted.await;
    deleted.map_err(|error| bridge.explain(error))
}

/// Rows are deleted although the server is quiet afterwards; older ones, which the bridge never read, stay; deletes in the log
/// change nothing; all that a restart finds is as it should be.
async fn published_rows_go_and_earlier_ones_stay(flavour: Flavour) -> Result<()> {
    let world = start(World::of(flavour).outbox(cleaned())).await?;
    let earlier = world.insert(0..5).await?.len() as u64;
    let settings =
        settings(&world).set("cleanup.batch_rows", 7).set("source.transaction_buffer_bytes_max", "64KiB");
    let mut bridge = Bridge::start(&settings).await?;
    world.pass_the_start().await?;
    let mut events = world.insert(5..30).await?;
    // An XA transaction that is prepared is not seen, and is not deleted before its commit is stored.
    let mut conn = world.conn().await?;
    let prepared = Event::new(100);
    for sql in ["XA START 'a'", &Event::insert_sql(TABLE, [&prepared]), "XA END 'a'", "XA PREPARE 'a'"] {
        conn.query_drop(sql).await?;
    }
    await_count(&world, &mut bridge, "", earlier).await?;
    conn.query_drop("XA COMMIT 'a'").await?;
    events.push(prepared);
    await_count(&world, &mut bridge, "", earlier).await?;
    bridge.await_metric("outbox_cleanup_deleted_rows_total", 26.0).await?;
    ensure!(bridge.metric("outbox_cleanup_deleted_rows_total").await? == 26.0, "{}", bridge.metrics().await?);
    ensure!(bridge.metric("outbox_cleanup_errors_total").await? == 0.0, "{}", bridge.log());

    bridge.kill()?;
    events.extend(world.insert(30..40).await?);
    bridge.relaunch().await?;
    await_count(&world, &mut bridge, "", earlier).await?;
    // One that is larger than the buffer, and read twice.
    let body = format!("{{\"text\": \"{}\"}}", "x".repeat(1_000));
    let large: Vec<_> = (40..240).map(|number| Event::new(number).payload(body.clone())).collect();
    conn.query_drop(Event::insert_sql(TABLE, &large)).await?;
    await_count(&world, &mut bridge, "", earlier).await?;
    events.extend(large);
    let expected: Vec<_> = events.iter().map(|event| Expected::of(TABLE, event)).collect();
    world.verify_rows(&bridge, &expected, Order::Total).await?;
    // A backfill publishes the earlier ones, and then they go too.
    bridge.stop().await?;
    let (code, text) = Bridge::once(&settings, &["backfill", "--refill"])?;
    ensure!(code == 0, "{code}:\n{text}");
    bridge.relaunch().await?;
    await_count(&world, &mut bridge, "", 0).await?;
    ensure!(
        world.stored(STREAM).await?.len() as u64 == events.len() as u64 + earlier,
        "not everything is stored"
    );
    bridge.stop().await
}

#[tokio::test]
async fn published_rows_go_and_earlier_ones_stay_in_mysql() -> Result<()> {
    published_rows_go_and_earlier_ones_stay(Flavour::MySql).await
}

#[tokio::test]
async fn published_rows_go_and_earlier_ones_stay_in_mariadb() -> Result<()> {
    published_rows_go_and_earlier_ones_stay(Flavour::MariaDb).await
}

/// As long as NATS does not answer nothing is deleted, however old it is, and afterwards all of it is.
#[tokio::test]
async fn nothing_goes_before_it_is_stored() -> Result<()> {
    let world = start(World::mysql().outbox(cleaned())).await?;
    let mut bridge = Bridge::start(&settings(&world).set("lease.ttl", "2m")).await?;
    world.pass_the_start().await?;
    world.insert(0..5).await?;
    await_count(&world, &mut bridge, "", 0).await?;

    world.nats.pause()?;
    let events = world.insert(5..25).await?;
    world.pass_the_start().await?;
    // Clean-up has found them: it says so, and waits.
    let found = eventually("rows to be found", LIMIT, async || {
        Ok((bridge.metric("outbox_cleanup_overdue_seconds").await? > 0.0).then_some(()))
    });
    let found = found.await;
    found.map_err(|error| bridge.explain(error))?;
    for _ in 0..3 {
        world.pass_the_start().await?;
        ensure!(count(&world, "").await? == events.len() as u64, "a row is deleted that is not stored");
    }
    world.nats.resume()?;
    await_count(&world, &mut bridge, "", 0).await?;
    ensure!(world.stored(STREAM).await?.len() == 25, "not everything is stored");
    bridge.stop().await
}

/// Rows that are not yet old stay.
#[tokio::test]
async fn young_rows_stay() -> Result<()> {
    let world = start(World::mysql().outbox(Outbox::standard().set("retention", "1h"))).await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    world.pass_the_start().await?;
    world.insert(0..10).await?;
    // Nothing that the bridge has read is an hour old; a row that says so is taken for one from before its start.
    world
        .database
        .exec(&format!("UPDATE {TABLE} SET created_at = NOW() - INTERVAL 2 HOUR WHERE seq <= 3"))
        .await?;
    world.settle(&mut bridge).await?;
    for _ in 0..2 {
        world.pass_the_start().await?;
    }
    ensure!(count(&world, "").await? == 11, "{} rows are left", count(&world, "").await?);
    bridge.stop().await
}

/// A producer in mid-transaction is not waited for long and not held up, and a lock that a producer holds on a row only keeps
/// that row's batch.
#[tokio::test]
async fn producers_are_not_held_up() -> Result<()> {
    let world = start(World::mysql().outbox(cleaned()).option("--innodb-lock-wait-timeout=2")).await?;
    let mut bridge = Bridge::start(&settings(&world).set("cleanup.batch_rows", 1)).await?;
    world.pass_the_start().await?;
    // An insert that is not committed, and a lock on a row that is old enough three seconds later.
    let mut inserting = world.conn().await?;
    inserting.query_drop("BEGIN").await?;
    Event::new(1).insert(&mut inserting, TABLE).await?;
    let mut locking = world.conn().await?;
    // It locks rows, and not the places where others insert.
    locking.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    locking.query_drop("BEGIN").await?;
    Event::new(2).insert(&mut locking, TABLE).await?;
    let later =
        format!("UPDATE {TABLE} SET created_at = NOW() + INTERVAL 3 SECOND WHERE seq = LAST_INSERT_ID()");
    locking.query_drop(later).await?;
    locking.query_drop("COMMIT").await?;
    locking.query_drop("BEGIN").await?;
    let locked: Vec<u64> = locking.query(format!("SELECT seq FROM {TABLE} FOR UPDATE SKIP LOCKED")).await?;
    ensure!(locked.len() == 1, "{locked:?} are locked");
    let options = LoadOptions { pause: Duration::from_millis(1), ..LoadOptions::default() };
    let load = Load::start(&world, &options).await?;
    load.await_more(300).await?;
    // The load fails when one of its statements has to wait for longer than two seconds, or for ever.
    load.stop().await?;
    await_count(&world, &mut bridge, "", 1).await?;
    inserting.query_drop("COMMIT").await?;
    await_count(&world, &mut bridge, "", 1).await?;
    ensure!(count(&world, "FOR SHARE SKIP LOCKED").await? == 0, "the row that is left is another one");
    locking.query_drop("COMMIT").await?;
    await_count(&world, &mut bridge, "", 0).await?;
    bridge.stop().await
}

/// Under a load, with everything being killed, each event is stored once and in order though its row is deleted behind it.
#[tokio::test]
async fn everything_is_stored_though_rows_go_and_servers_die() -> Result<()> {
    let layout_of_copies = "CREATE TABLE shop.copies LIKE shop.outbox; \
        CREATE TRIGGER shop.copy AFTER INSERT ON shop.outbox FOR EACH ROW INSERT INTO shop.copies VALUES \
        (NEW.seq, NEW.id, NEW.aggregate_type, NEW.aggregate_id, NEW.type, NEW.payload, NEW.headers, NEW.created_at)";
    let mut world =
        start(World::mysql().durable().option("--binlog-transaction-compression=ON").outbox(cleaned()))
            .await?;
    world.database.exec(layout_of_copies).await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    world.pass_the_start().await?;
    let load = Load::start(&world, &LoadOptions::default()).await?;
    for round in 0..3 {
        load.await_more(60).await?;
        match round {
            0 => bridge.kill()?,
            1 => world.nats.kill().await?,
            _ => world.database.kill().await?,
        }
        match round {
            0 => bridge.relaunch().await?,
            1 => world.nats.start().await?,
            _ => world.database.start().await?,
        }
    }
    load.await_more(60).await?;
    load.stop().await?;
    await_count(&world, &mut bridge, "", 0).await?;
    world.settle(&mut bridge).await?;
    let mut expected = Expected::rows(&world.database, "shop.copies", "seq").await?;
    for row in &mut expected {
        TABLE.clone_into(&mut row.table);
    }
    world.verify_rows(&bridge, &expected, Order::PerAggregate).await?;
    ensure!(bridge.metric("outbox_cleanup_errors_total").await? < 20.0, "{}", bridge.log());
    bridge.stop().await
}

/// Keys of several columns and of other types.
#[tokio::test]
async fn other_keys_serve_as_well() -> Result<()> {
    let columns = "aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL, \
        payload JSON NOT NULL, created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP";
    for (flavour, key) in [
        (Flavour::MySql, format!("id BINARY(16) NOT NULL PRIMARY KEY, {columns}")),
        (Flavour::MariaDb, format!("id UUID NOT NULL PRIMARY KEY, {columns}")),
        (
            Flavour::MariaDb,
            format!("id VARCHAR(40) NOT NULL, {columns}, PRIMARY KEY (aggregate_id, created_at, id)"),
        ),
        (
            Flavour::MySql,
            format!("id VARCHAR(40) NOT NULL, {columns}, PRIMARY KEY (aggregate_id, created_at, id)"),
        ),
    ] {
        let world = start(World::of(flavour).outbox(cleaned().layout(&key))).await?;
        let mut bridge = Bridge::start(&settings(&world).set("cleanup.batch_rows", 8)).await?;
        world.pass_the_start().await?;
        let mut conn = world.conn().await?;
        for number in 0..30 {
            let id = uuid::Uuid::from_u128(number);
            let id = if key.contains("BINARY") { format!("X'{}'", id.simple()) } else { format!("'{id}'") };
            // Values that have to be quoted, in two languages.
            let aggregate = ["it''s", "\\\\", "größe", "a\\0b", "%_"][usize::try_from(number)? % 5];
            let sql = format!(
                "INSERT INTO {TABLE} (id, aggregate_type, aggregate_id, type, payload) VALUES ({id}, 'order', '{aggregate}', \
                 'placed', '{{}}')"
            );
            conn.query_drop(sql).await?;
        }
        await_count(&world, &mut bridge, "", 0).await?;
        ensure!(world.stored(STREAM).await?.len() == 30, "not everything is stored of {key}");
        bridge.stop().await?;
    }
    Ok(())
}

/// What is missing is said by `check` and in the log, and the events go on.
#[tokio::test]
async fn what_clean_up_lacks_is_said() -> Result<()> {
    let world = World::mysql().outbox(cleaned()).start().await?;
    let settings = settings(&world);
    let (code, text) = Bridge::once(&settings, &["check"])?;
    ensure!(code == 78 && text.contains("GRANT SELECT, DELETE ON `shop`.`outbox`"), "{code}:\n{text}");
    let mut bridge = Bridge::start(&settings).await?;
    world.pass_the_start().await?;
    world.insert(0..3).await?;
    bridge.await_log("cannot delete published rows").await?;
    world.database.exec("GRANT DELETE ON shop.outbox TO 'bridge'@'%'").await?;
    let (code, text) = Bridge::once(&settings, &["check"])?;
    ensure!(code == 0, "{code}:\n{text}");
    await_count(&world, &mut bridge, "", 0).await?;

    world.database.exec("SET GLOBAL read_only = 1").await?;
    let (code, text) = Bridge::once(&settings, &["check"])?;
    ensure!(code == 0 && text.contains("the server is read-only"), "{code}:\n{text}");
    world.insert(3..6).await?;
    bridge.await_log("the source is read-only").await?;
    world.database.exec("SET GLOBAL read_only = 0").await?;
    await_count(&world, &mut bridge, "", 0).await?;

    let changes = "ALTER TABLE shop.outbox MODIFY seq BIGINT UNSIGNED NOT NULL, DROP PRIMARY KEY";
    world.database.exec(changes).await?;
    let (code, text) = Bridge::once(&settings, &["check"])?;
    ensure!(code == 78 && text.contains("has no primary key"), "{code}:\n{text}");
    bridge.await_log("has no primary key").await?;
    world.database.exec("ALTER TABLE shop.outbox ADD PRIMARY KEY (seq), MODIFY created_at DATETIME").await?;
    let (code, text) = Bridge::once(&settings, &["check"])?;
    ensure!(code == 78 && text.contains("has no TIMESTAMP column created_at"), "{code}:\n{text}");
    bridge.stop().await
}

/// Rows of a partitioned table go like any others, and an operator may empty, drop and add partitions meanwhile.
#[tokio::test]
async fn rows_of_partitions_go_and_partitions_come_and_go() -> Result<()> {
    let layout = "seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, id BINARY(16) NOT NULL, \
        aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL, \
        payload JSON NOT NULL, headers JSON NULL, created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)";
    let partitions = "PARTITION BY RANGE (seq) (PARTITION p0 VALUES LESS THAN (10), \
        PARTITION p1 VALUES LESS THAN (40), PARTITION p2 VALUES LESS THAN MAXVALUE)";
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let outbox = cleaned().layout(layout).options(partitions);
        let world = start(World::of(flavour).outbox(outbox)).await?;
        let mut bridge = Bridge::start(&settings(&world)).await?;
        world.pass_the_start().await?;
        world.insert(0..30).await?;
        await_count(&world, &mut bridge, "", 0).await?;
        for change in [
            "TRUNCATE PARTITION p0",
            "DROP PARTITION p0",
            "REORGANIZE PARTITION p2 INTO (PARTITION p2 VALUES LESS THAN (80), PARTITION p3 VALUES LESS THAN MAXVALUE)",
        ] {
            world.database.exec(&format!("ALTER TABLE {TABLE} {change}")).await?;
            world.insert(0..20).await?;
            await_count(&world, &mut bridge, "", 0).await?;
        }
        ensure!(world.stored(STREAM).await?.len() == 90, "not everything is stored");
        ensure!(bridge.metric("outbox_cleanup_errors_total").await? < 5.0, "{}", bridge.log());
        bridge.stop().await?;
    }
    Ok(())
}
