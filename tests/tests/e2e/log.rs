//! The binary log's files: rotated, purged, reset, another server's, without GTIDs.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Expected, Load, LoadOptions, Order, STREAM, TABLE, World};
use testbed::{Flavour, eventually};

/// Files of a few transactions each, and of a single one.
async fn rotations(flavour: Flavour) -> Result<()> {
    let mut world = World::of(flavour).option("--max-binlog-size=16384").start().await?;
    let mut bridge = world.bridge().await?;
    let load = Load::start(&world, &LoadOptions { rows_max: 40, ..Default::default() }).await?;
    for round in 0..6 {
        load.await_more(60).await?;
        world.database.exec("FLUSH BINARY LOGS").await?;
        match round {
            1 => {
                bridge.kill()?;
                bridge.relaunch().await?;
            }
            3 => {
                bridge.stop().await?;
                load.await_more(60).await?;
                world.database.exec("FLUSH BINARY LOGS").await?;
                bridge.relaunch().await?;
            }
            4 => world.database.restart().await?,
            _ => {}
        }
    }
    load.stop().await?;
    world.verify(&mut bridge, Order::PerAggregate).await?;
    // Idle rotations, after which the log may be purged: the bridge stands in the last file.
    world.settle(&mut bridge).await?;
    world.database.exec("FLUSH BINARY LOGS").await?;
    let last = binary_logs(&world).await?.pop().context("no log")?;
    let number = outbox_event::log_file_number(&last).context("no number")? as f64;
    eventually("the bridge to follow an idle rotation", Duration::from_secs(20), async || {
        Ok((bridge.metric("outbox_position_file_number").await? >= number).then_some(()))
    })
    .await?;
    bridge.stop().await?;
    purge(&world, &last).await?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::PerAggregate).await?;
    bridge.stop().await
}

/// Purges all files before this one. MariaDB spares those that a connection reads which it does not know to be gone.
async fn purge(world: &World, first: &str) -> Result<()> {
    eventually("the logs to be purged", Duration::from_secs(30), async || {
        world.database.exec(&format!("PURGE BINARY LOGS TO '{first}'")).await?;
        Ok((binary_logs(world).await?.first().map(String::as_str) == Some(first)).then_some(()))
    })
    .await
}

async fn binary_logs(world: &World) -> Result<Vec<String>> {
    let mut conn = world.conn().await?;
    let rows: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
    conn.disconnect().await?;
    rows.iter().map(|row| row.get::<String, _>(0).context("no name")).collect()
}

#[tokio::test]
async fn rotations_of_mysql() -> Result<()> {
    rotations(Flavour::MySql).await
}

#[tokio::test]
async fn rotations_of_mariadb() -> Result<()> {
    rotations(Flavour::MariaDb).await
}

/// What the bridge still has to read is gone.
async fn purged(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..3).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await?;
    world.insert(3..6).await?;
    world.database.exec("FLUSH BINARY LOGS").await?;
    world.insert(6..9).await?;
    let last = binary_logs(&world).await?.pop().context("no log")?;
    purge(&world, &last).await?;
    bridge.launch()?;
    bridge.refuses(&["purged", "source.start", "checkpoint"]).await?;
    ensure!(world.stored(STREAM).await?.len() == 4, "nothing is published after the gap");

    // `earliest` means what is left.
    world.jetstream.delete_stream(STREAM).await?;
    world.create_stream(STREAM).await?;
    let settings = world.settings().set("name", "other").set("source.start", "earliest");
    let mut bridge = Bridge::start(&settings).await?;
    world.settle(&mut bridge).await?;
    let rows = Expected::rows(&world.database, TABLE, "seq").await?;
    let rows: Vec<_> = rows.into_iter().skip(7).collect();
    world.verify_rows(&bridge, &rows, Order::Total).await?;
    bridge.stop().await
}

#[tokio::test]
async fn purged_by_mysql() -> Result<()> {
    purged(Flavour::MySql).await
}

#[tokio::test]
async fn purged_by_mariadb() -> Result<()> {
    purged(Flavour::MariaDb).await
}

/// The log begins anew, and then is as long as it was.
async fn reset(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..20).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await?;
    let reset = match flavour {
        Flavour::MySql => "RESET BINARY LOGS AND GTIDS",
        Flavour::MariaDb => "RESET MASTER",
    };
    world.database.exec(reset).await?;
    for count in [0, 60] {
        world.insert(0..count).await?;
        bridge.launch()?;
        bridge.refuses(&["its logs were reset"]).await?;
    }
    ensure!(world.stored(STREAM).await?.len() == 21, "nothing of the new log is published");
    Ok(())
}

#[tokio::test]
async fn reset_by_mysql() -> Result<()> {
    reset(Flavour::MySql).await
}

#[tokio::test]
async fn reset_by_mariadb() -> Result<()> {
    reset(Flavour::MariaDb).await
}

/// The configuration names another server by mistake, with the same user, tables, and as long a log.
async fn another_server(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let other = World::of(flavour).option("--server-id=2").start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..10).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await?;
    other.insert(0..30).await?;
    bridge.configure(&world.settings().set("source.url", other.settings().get("source.url")))?;
    bridge.launch()?;
    bridge.refuses(&["source.url"]).await?;
    ensure!(world.stored(STREAM).await?.len() == 11, "nothing of the other server is published");
    bridge.configure(&world.settings())?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

#[tokio::test]
async fn another_mysql() -> Result<()> {
    another_server(Flavour::MySql).await
}

#[tokio::test]
async fn another_mariadb() -> Result<()> {
    another_server(Flavour::MariaDb).await
}

/// Positions are files and offsets only.
#[tokio::test]
async fn without_gtids() -> Result<()> {
    let mut world =
        World::mysql().option("--gtid-mode=OFF").option("--enforce-gtid-consistency=OFF").start().await?;
    let mut bridge = world.bridge().await?;
    let load = Load::start(&world, &LoadOptions::default()).await?;
    for round in 0..4 {
        load.await_more(40).await?;
        bridge.kill()?;
        if round == 1 {
            world.database.exec("FLUSH BINARY LOGS").await?;
        }
        if round == 2 {
            world.database.restart().await?;
        }
        bridge.relaunch().await?;
    }
    load.stop().await?;
    world.verify(&mut bridge, Order::PerAggregate).await?;
    let stored = world.stored(STREAM).await?;
    for message in &stored {
        let gtid = message.position()?.gtid;
        ensure!(gtid.is_empty(), "{gtid} without GTIDs");
    }
    // Another log at the same place is noticed all the same.
    bridge.stop().await?;
    world.database.exec("RESET BINARY LOGS AND GTIDS").await?;
    world.insert(0..300).await?;
    bridge.launch()?;
    bridge.refuses(&["its logs were reset"]).await
}

/// GTIDs are switched on while the bridge runs.
#[tokio::test]
async fn gtids_switched_on_in_mid_stream() -> Result<()> {
    let world =
        World::mysql().option("--gtid-mode=OFF").option("--enforce-gtid-consistency=OFF").start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..5).await?;
    world.database.exec("SET GLOBAL enforce_gtid_consistency = ON").await?;
    for mode in ["OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"] {
        world.database.exec(&format!("SET GLOBAL gtid_mode = {mode}")).await?;
        world.insert(5..8).await?;
        let verified = world.verify(&mut bridge, Order::Total).await;
        verified.with_context(|| format!("gtid_mode={mode}"))?;
        bridge.stop().await?;
        bridge.relaunch().await?;
    }
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

/// Several domains, of which each has sequence numbers of its own.
#[tokio::test]
async fn domains_of_mariadb() -> Result<()> {
    let world = World::mariadb().start().await?;
    world.insert(0..2).await?;
    let mut bridge = world.bridge().await?;
    for round in 0..10 {
        let domain = [0, 7, 3].into_iter().cycle().nth(round).context("a domain")?;
        let mut conn = world.conn().await?;
        conn.query_drop(format!("SET gtid_domain_id = {domain}")).await?;
        Event::new(round as u64).insert(&mut conn, TABLE).await?;
        conn.disconnect().await?;
        if round % 3 == 0 {
            bridge.kill()?;
            bridge.relaunch().await?;
        }
    }
    world.settle(&mut bridge).await?;
    let rows = Expected::rows(&world.database, TABLE, "seq").await?;
    let rows: Vec<_> = rows.into_iter().skip(2).collect();
    world.verify_rows(&bridge, &rows, Order::Total).await?;
    bridge.stop().await
}

/// A set names the last transaction of each domain, and the log has them mixed: each domain is skipped up to its own.
#[tokio::test]
async fn domains_of_mariadb_after_a_start_from_gtids() -> Result<()> {
    let world = World::mariadb().start().await?;
    let insert = async |domain: u32, number: u64| -> Result<String> {
        let mut conn = world.conn().await?;
        conn.query_drop(format!("SET gtid_domain_id = {domain}")).await?;
        Event::new(number).insert(&mut conn, TABLE).await?;
        let gtid: Option<String> = conn.query_first("SELECT @@last_gtid").await?;
        conn.disconnect().await?;
        gtid.context("no GTID")
    };
    // Domain 5 has ended in an earlier file.
    let five = insert(5, 0).await?;
    world.database.exec("FLUSH BINARY LOGS").await?;
    insert(0, 1).await?;
    insert(7, 2).await?;
    let zero = insert(0, 3).await?;
    for (domain, number) in [(0, 4), (3, 5)] {
        insert(domain, number).await?;
    }
    let seven = insert(7, 6).await?;
    for (domain, number) in [(7, 7), (0, 8), (5, 9)] {
        insert(domain, number).await?;
    }
    let set = format!("{zero},{seven},{five}");
    let mut bridge = Bridge::start(&world.settings().set("source.start", set)).await?;
    for round in 0..4 {
        world.settle(&mut bridge).await?;
        let rows = Expected::rows(&world.database, TABLE, "seq").await?;
        let skipped = [0, 1, 2, 3, 6];
        let rows: Vec<_> =
            (0..).zip(rows).filter(|(at, _)| !skipped.contains(at)).map(|(_, row)| row).collect();
        world.verify_rows(&bridge, &rows, Order::Total).await?;
        bridge.kill()?;
        insert([0, 7, 5, 3][round], 20 + round as u64).await?;
        bridge.relaunch().await?;
    }
    bridge.stop().await
}

/// Checksums are switched off and on, each of which begins another file.
async fn checksums_switched(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = world.bridge().await?;
    for (number, checksum) in (0..).zip(["NONE", "CRC32", "NONE"]) {
        world.insert(number * 10..number * 10 + 5).await?;
        world.database.exec(&format!("SET GLOBAL binlog_checksum = {checksum}")).await?;
        world.insert(number * 10 + 5..number * 10 + 10).await?;
        if number == 1 {
            bridge.kill()?;
            bridge.relaunch().await?;
        }
        world.verify(&mut bridge, Order::Total).await?;
    }
    bridge.stop().await
}

#[tokio::test]
async fn checksums_switched_with_mysql() -> Result<()> {
    checksums_switched(Flavour::MySql).await
}

#[tokio::test]
async fn checksums_switched_with_mariadb() -> Result<()> {
    checksums_switched(Flavour::MariaDb).await
}
