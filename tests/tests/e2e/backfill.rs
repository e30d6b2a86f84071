//! `outbox-bridge backfill`: what a stream does not hold comes from the table, and the log takes over without gap or double.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{
    Bridge, Event, Expected, Load, LoadOptions, Order, Outbox, STREAM, Settings, TABLE, World, binary,
};
use outbox_event::header;
use rand::Rng as _;
use testbed::Flavour;

/// Runs the command to its end without holding up the test's other tasks, of which the load is one.
async fn backfill(settings: &Settings, arguments: &[&str]) -> Result<(i32, String)> {
    let settings = settings.clone();
    let arguments: Vec<String> = [&["backfill"], arguments].concat().into_iter().map(str::to_owned).collect();
    let run = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Bridge::once(&settings, &arguments)
    };
    tokio::task::spawn_blocking(run).await?
}

async fn well(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let (code, text) = backfill(settings, arguments).await?;
    ensure!(code == 0, "backfill {arguments:?} ended with {code}:\n{text}");
    Ok(text)
}

/// Drops all of the log but the file that is written from now on.
async fn purge(world: &World) -> Result<()> {
    let mut conn = world.conn().await?;
    conn.query_drop("FLUSH BINARY LOGS").await?;
    let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
    let last: String = files.last().and_then(|row| row.get(0)).context("no log")?;
    // MariaDB keeps files that a dump which has just ended still reads.
    testbed::eventually("the log to be purged", Duration::from_secs(20), async || {
        conn.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await?;
        let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await?;
        Ok((files.len() == 1).then_some(()))
    })
    .await
}

/// Rows before the bridge's first start, while others are written, with the backfill killed at random moments.
async fn killed_at_random_under_load(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut conn = world.conn().await?;
    for chunk in (0..6_000).collect::<Vec<u64>>().chunks(500) {
        let events: Vec<Event> = chunk.iter().map(|number| Event::new(*number)).collect();
        conn.query_drop(Event::insert_sql(TABLE, &events)).await?;
    }
    // Open at the snapshot, with the lowest number of all that come now, and committed later.
    let mut slow = world.conn().await?;
    slow.query_drop("BEGIN").await?;
    Event::new(9).insert(&mut slow, TABLE).await?;
    let load =
        Load::start(&world, &LoadOptions { pause: Duration::from_millis(2), ..LoadOptions::default() })
            .await?;
    load.await_more(30).await?;

    // Short, as each killed one is waited for, and long enough for a busy machine.
    let settings = world.settings().set("lease.ttl", "5s");
    let command = Kill::new(&settings)?;
    for _ in 0..3 {
        let rows = rand::rng().random_range(1..1_200);
        command.run_until(&world, world.last_sequence(STREAM).await + rows).await?;
    }
    if (1..6_000).contains(&world.last_sequence(STREAM).await) {
        Bridge::spawn(&settings)?.refuses(&["outbox-bridge backfill"]).await?;
    }
    let text = well(&settings, &["--chunk-rows", "700"]).await?;
    ensure!(text.contains("the log takes over at"), "{text}");
    slow.query_drop("COMMIT").await?;
    load.await_more(30).await?;
    let mut bridge = Bridge::start(&settings).await?;
    load.await_more(30).await?;
    load.stop().await?;
    world.settle(&mut bridge).await?;
    let stored = world.stored(STREAM).await?;
    let expected = Expected::rows(&world.database, TABLE, "seq").await?;
    same_events(&expected, &stored).map_err(|error| bridge.explain(error))?;
    bridge.finish().await
}

/// Exactly these events, each once, each as it is in the table, at ascending positions.
fn same_events(expected: &[Expected], stored: &[outbox_bridge_tests::Stored]) -> Result<()> {
    let mut ids: Vec<&str> = stored.iter().map(|message| message.header(header::CE_ID)).collect();
    ids.sort_unstable();
    ensure!(ids.windows(2).all(|pair| pair.first() != pair.last()), "an event is stored twice");
    let rows: std::collections::HashMap<&str, &Expected> =
        expected.iter().map(|row| (row.id.as_str(), row)).collect();
    for message in stored {
        let id = message.header(header::CE_ID);
        let row = rows.get(id).with_context(|| format!("message {} is no row", message.sequence))?;
        ensure!(row.body == message.body, "message {} has another body", message.sequence);
        ensure!(message.header(header::MESSAGE_ID) == id, "message {} has another id", message.sequence);
    }
    ensure!(stored.len() == expected.len(), "{} messages of {} rows", stored.len(), expected.len());
    let mut before = None;
    for message in stored {
        let order = message.position()?.order();
        ensure!(before < order, "message {} stood at {}", message.sequence, message.position()?);
        before = order;
    }
    Ok(())
}

/// The command as a process that is killed.
struct Kill {
    binary: std::path::PathBuf,
    folder: tempfile::TempDir,
}

impl Kill {
    fn new(settings: &Settings) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("bridge.toml"), settings.to_toml())?;
        Ok(Self { binary: binary()?, folder })
    }

    /// Kills it when the stream has so many messages.
    async fn run_until(&self, world: &World, sequence: u64) -> Result<()> {
        let mut child = tokio::process::Command::new(&self.binary)
            .args(["backfill", "--rows-per-second-max", "2000", "--config"])
            .arg(self.folder.path().join("bridge.toml"))
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        testbed::eventually("the backfill to publish", Duration::from_secs(60), async || {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("the backfill has ended with {status}");
            }
            Ok((world.last_sequence(STREAM).await >= sequence).then_some(()))
        })
        .await?;
        Ok(child.kill().await?)
    }
}

#[tokio::test]
async fn killed_at_random_under_load_of_mysql() -> Result<()> {
    killed_at_random_under_load(Flavour::MySql).await
}

#[tokio::test]
async fn killed_at_random_under_load_of_mariadb() -> Result<()> {
    killed_at_random_under_load(Flavour::MariaDb).await
}

/// The log is gone that the bridge still had to read, and the stream holds a part of the rows.
async fn a_purged_log(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let settings = world.settings();
    let mut bridge = Bridge::start(&settings).await?;
    world.insert(0..40).await?;
    world.await_messages(&mut bridge, STREAM, 40).await?;
    bridge.stop().await?;
    world.insert(40..90).await?;
    purge(&world).await?;
    bridge.launch()?;
    bridge.refuses(&["purged", "outbox-bridge backfill"]).await?;

    let text = well(&settings, &["--dry-run"]).await?;
    ensure!(text.contains("50 to be published, 40 in the streams"), "{text}");
    ensure!(world.last_sequence(STREAM).await == 40, "a dry run published");
    let text = well(&settings, &["--chunk-rows", "7"]).await?;
    ensure!(text.contains("50 published, 40 in the streams"), "{text}");
    let text = well(&settings, &[]).await?;
    ensure!(text.contains(" 0 published, 90 in the streams"), "{text}");
    bridge.relaunch().await?;
    world.insert(90..100).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.finish().await
}

#[tokio::test]
async fn a_purged_log_of_mysql() -> Result<()> {
    a_purged_log(Flavour::MySql).await
}

#[tokio::test]
async fn a_purged_log_of_mariadb() -> Result<()> {
    a_purged_log(Flavour::MariaDb).await
}

/// What the log still shows is left to it, also what is in the table no more; a lost stream is filled again; a bridge that
/// leads is in the way.
#[tokio::test]
async fn a_lost_stream_is_filled_again_and_the_log_goes_on() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = world.settings().set("lease.ttl", "2s");
    let mut bridge = Bridge::start(&settings).await?;
    world.insert(0..20).await?;
    world.await_messages(&mut bridge, STREAM, 20).await?;
    let (code, text) = backfill(&settings, &[]).await?;
    ensure!(code == 69 && text.contains("leads") && text.contains("stop it"), "{code}:\n{text}");
    bridge.stop().await?;
    world.jetstream.delete_stream(STREAM).await?;
    world.create_stream(STREAM).await?;
    let later = world.insert(20..30).await?;
    let first = later.first().context("an event")?;
    let expected = Expected::rows(&world.database, TABLE, "seq").await?;
    world.database.exec(&format!("DELETE FROM {TABLE} WHERE id = X'{}'", first.id.simple())).await?;
    let text = well(&settings, &[]).await?;
    ensure!(text.contains("20 published, 0 in the streams already, 9 left to the log"), "{text}");
    bridge.relaunch().await?;
    world.await_messages(&mut bridge, STREAM, 30).await?;
    world.verify_rows(&bridge, &expected, Order::Total).await?;
    bridge.stop().await?;

    // The stream does not say what it held of what is gone.
    world.jetstream.get_stream(STREAM).await?.purge().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let (code, text) = backfill(&settings, &[]).await?;
    ensure!(code == 78 && text.contains("--refill"), "{code}:\n{text}");
    let (code, text) = backfill(&settings, &["--from", "25"]).await?;
    let dropped = text.contains("6 published") && text.contains("6 of them were not stored");
    ensure!(code == 143 && dropped && text.contains("duplicate window"), "{code}:\n{text}");
    let (code, text) = backfill(&settings, &["--refill"]).await?;
    ensure!(code == 143 && text.contains("29 published") && text.contains("29 of them"), "{code}:\n{text}");
    Ok(())
}

/// Keys of several columns, of bytes, and none; a table that stores nothing; several tables to a stream with the same ids.
#[tokio::test]
async fn tables_of_other_layouts() -> Result<()> {
    const COLUMNS: &str = "id INT NOT NULL, aggregate_type VARCHAR(64), aggregate_id VARCHAR(255), type VARCHAR(128), payload TEXT";
    let outbox = |table: &str, key: &str| {
        Outbox::new(table, STREAM, "orders.{table}.{type}").layout(&format!("{COLUMNS}{key}"))
    };
    let world = World::mysql()
        .outbox(outbox("shop.pairs", ", b VARBINARY(8) NOT NULL, PRIMARY KEY (b, id)"))
        .outbox(outbox("shop.nothing", ", PRIMARY KEY (id)").options("ENGINE=BLACKHOLE"))
        .outbox(outbox("shop.plain", ", PRIMARY KEY (id)"))
        .start()
        .await?;
    let mut conn = world.conn().await?;
    for number in 0..23 {
        let values = format!("{number}, 'a', 'it''s \\\\ {number}', 'placed', '{{}}'");
        conn.query_drop(format!("INSERT INTO shop.pairs VALUES ({values}, X'{:02x}27')", number / 5)).await?;
        conn.query_drop(format!("INSERT INTO shop.plain VALUES ({values})")).await?;
    }
    let settings = world.settings().set("publish.message_id", false);
    let text = well(&settings, &["--chunk-rows", "4"]).await?;
    ensure!(
        text.contains("46 rows read: 46 published") && text.contains("shop.nothing stores no rows"),
        "{text}"
    );
    let stored = world.stored(STREAM).await?;
    let ids: Vec<&str> = stored.iter().map(|message| message.header(header::CE_ID)).collect();
    let wanted: Vec<String> = (0..23).chain(0..23).map(|number| number.to_string()).collect();
    ensure!(ids == wanted, "{ids:?}");
    conn.query_drop("ALTER TABLE shop.plain DROP PRIMARY KEY").await?;
    let (code, text) = backfill(&settings, &[]).await?;
    ensure!(code == 78 && text.contains("shop.plain cannot be read in an order"), "{code}:\n{text}");
    Ok(())
}

/// A transaction that is prepared when the tables are read, and committed when the log has taken over.
async fn prepared_over_the_hand_over(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let settings = world.settings();
    world.insert(0..10).await?;
    for (name, number) in [("committed", 10), ("rolled back", 11), ("later", 12)] {
        let mut conn = world.conn().await?;
        conn.query_drop(format!("XA START '{name}'")).await?;
        Event::new(number).insert(&mut conn, TABLE).await?;
        conn.query_drop(format!("XA END '{name}'")).await?;
        conn.query_drop(format!("XA PREPARE '{name}'")).await?;
        conn.disconnect().await?;
    }
    let text = well(&settings, &[]).await?;
    ensure!(text.contains("10 published"), "{text}");
    let mut conn = world.conn().await?;
    conn.query_drop("XA COMMIT 'committed'").await?;
    conn.query_drop("XA ROLLBACK 'rolled back'").await?;
    let mut bridge = Bridge::start(&settings).await?;
    world.await_messages(&mut bridge, STREAM, 11).await?;
    conn.query_drop("XA COMMIT 'later'").await?;
    conn.disconnect().await?;
    world.verify(&mut bridge, Order::PerAggregate).await?;
    bridge.finish().await
}

#[tokio::test]
async fn prepared_over_the_hand_over_of_mysql() -> Result<()> {
    prepared_over_the_hand_over(Flavour::MySql).await
}

#[tokio::test]
async fn prepared_over_the_hand_over_of_mariadb() -> Result<()> {
    prepared_over_the_hand_over(Flavour::MariaDb).await
}

#[tokio::test]
async fn a_backfill_in_mode_durable() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = world.settings().set("publish.mode", "durable");
    world.insert(0..2_500).await?;
    let text = well(&settings, &[]).await?;
    ensure!(text.contains("2500 published"), "{text}");
    let mut bridge = Bridge::start(&settings).await?;
    world.insert(2_500..2_600).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.finish().await
}
