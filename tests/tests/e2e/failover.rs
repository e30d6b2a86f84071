//! The source's server dies, is replaced, moves and comes back: nothing is missing, nothing is there twice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mysql_async::{Row, prelude::Queryable as _};
use outbox_bridge_tests::{Bridge, Event, Load, LoadOptions, Order, STREAM, Settings, TABLE, World};
use outbox_event::header;
use testbed::{FaultyProxy, Flavour, MySql, MySqlBuilder};

/// A world whose database has a replica.
struct Pair {
    world: World,
    replica: MySql,
}

impl Pair {
    async fn start(flavour: Flavour) -> Result<Self> {
        Self::start_with(flavour, |replica| replica).await
    }

    async fn start_with(flavour: Flavour, options: impl Fn(MySqlBuilder) -> MySqlBuilder) -> Result<Self> {
        // What is published survives the death of its server.
        let world = World::of(flavour).durable();
        let world = match flavour {
            Flavour::MySql => world,
            Flavour::MariaDb => world.option("--log-slave-updates=ON"),
        };
        let world = world.start().await?;
        let replica = options(MySql::replica_of(&world.database))
            .option("--sync-binlog=1")
            .option("--innodb-flush-log-at-trx-commit=1");
        let replica = replica.start().await?;
        replica.await_caught_up(&world.database).await?;
        Ok(Self { world, replica })
    }

    fn settings(&self) -> Settings {
        let urls = [self.world.database.port(), self.replica.port()];
        let urls: Vec<String> = urls.into_iter().map(|port| self.world.database_url_at(port)).collect();
        self.world.settings().unset("source.url").set("source.urls", urls)
    }

    /// The replica, which has everything, takes over from its primary, which dies.
    async fn fail_over(&mut self) -> Result<()> {
        self.replica.await_caught_up(&self.world.database).await?;
        self.world.database.kill().await?;
        self.replica.promote().await?;
        std::mem::swap(&mut self.world.database, &mut self.replica);
        Ok(())
    }

    /// The old primary comes back as the replica of the new one.
    async fn rejoin(&mut self) -> Result<()> {
        self.replica.start().await?;
        self.replica.follow(&self.world.database).await
    }

    /// How often the next message stood before its predecessor in the log: only a change of server does that.
    async fn descents(&self) -> Result<usize> {
        let stored = self.world.stored(STREAM).await?;
        let orders =
            stored.iter().map(|message| Ok(message.position()?.order())).collect::<Result<Vec<_>>>()?;
        Ok(orders.iter().zip(orders.iter().skip(1)).filter(|(before, after)| after < before).count())
    }
}

fn load(seed: u64) -> LoadOptions {
    LoadOptions { producers: 4, seed, ..LoadOptions::default() }
}

async fn there_and_back(flavour: Flavour) -> Result<()> {
    let mut pair = Pair::start(flavour).await?;
    let mut bridge = Bridge::start(&pair.settings()).await?;
    for round in 0..3 {
        let load = Load::start(&pair.world, &load(round)).await?;
        load.await_more(100).await?;
        load.stop().await?;
        pair.fail_over().await?;
        // The switch is met before it, in the midst of it and after it.
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..700))).await;
            bridge.kill()?;
            bridge.launch()?;
        }
        if round == 0 {
            bridge.await_ready().await?;
        }
        pair.rejoin().await?;
    }
    bridge.await_ready().await?;
    pair.world.verify(&mut bridge, Order::AcrossServers).await?;
    ensure!(pair.descents().await? <= 3, "on each server the order is that of its log");
    bridge.stop().await
}

#[tokio::test]
async fn the_source_fails_over_and_back_with_mysql() -> Result<()> {
    there_and_back(Flavour::MySql).await
}

#[tokio::test]
async fn the_source_fails_over_and_back_with_mariadb() -> Result<()> {
    there_and_back(Flavour::MariaDb).await
}

async fn a_replica_behind(flavour: Flavour) -> Result<()> {
    let mut pair = Pair::start(flavour).await?;
    if flavour == Flavour::MariaDb {
        pair.world.database.exec("GRANT SLAVE MONITOR ON *.* TO 'bridge'@'%'").await?;
        pair.replica.await_caught_up(&pair.world.database).await?;
    }
    let settings = pair.settings();
    let mut bridge = Bridge::start(&settings).await?;
    pair.replica.stop_applying().await?;
    pair.world.insert(0..30).await?;
    pair.world.await_messages(&mut bridge, STREAM, 30).await?;
    // The replica fetches what it does not apply.
    pair.replica.await_fetched(&pair.world.database).await?;
    pair.world.database.kill().await?;
    bridge.await_log("is behind what is published and is waited for").await?;
    ensure!(!bridge.is_ready().await);
    bridge.configure(&settings.set("source.behind", "refuse"))?;
    bridge.kill()?;
    bridge.launch()?;
    bridge.refuses(&["source.behind", "does not have"]).await?;
    let settings = pair.settings();
    bridge.configure(&settings)?;
    bridge.launch()?;
    bridge.await_log("is behind what is published and is waited for").await?;
    pair.replica.start_replication().await?;
    bridge.await_ready().await?;
    std::mem::swap(&mut pair.world.database, &mut pair.replica);
    pair.world.database.promote().await?;
    pair.world.insert(30..40).await?;
    pair.world.verify(&mut bridge, Order::Any).await?;
    ensure!((bridge.metric("outbox_source_switches_total").await? - 1.0).abs() < 0.1);
    bridge.stop().await
}

#[tokio::test]
async fn a_replica_of_mysql_that_is_behind_is_waited_for_or_refused() -> Result<()> {
    a_replica_behind(Flavour::MySql).await
}

#[tokio::test]
async fn a_replica_of_mariadb_that_is_behind_is_waited_for_or_refused() -> Result<()> {
    a_replica_behind(Flavour::MariaDb).await
}

async fn lost_transactions(flavour: Flavour) -> Result<()> {
    let mut pair = Pair::start(flavour).await?;
    let mut bridge = Bridge::start(&pair.settings()).await?;
    pair.world.insert(0..3).await?;
    pair.replica.await_caught_up(&pair.world.database).await?;
    pair.replica.stop_replication().await?;
    pair.world.insert(3..6).await?;
    pair.world.await_messages(&mut bridge, STREAM, 6).await?;
    let position = pair.world.stored(STREAM).await?.last().context("a message")?.position()?;
    pair.replica.promote().await?;
    // On MariaDB, others get the numbers of those that are lost.
    std::mem::swap(&mut pair.world.database, &mut pair.replica);
    pair.world.insert(10..20).await?;
    pair.replica.kill().await?;
    let number = position.gtid.rsplit([':', '-']).next().context("a number")?;
    bridge.refuses(&["has lost transactions that are published", number]).await?;
    ensure!(pair.world.last_sequence(STREAM).await == 6, "nothing is published after the gap");
    // With the old primary back, they are found again.
    pair.replica.start().await?;
    bridge.launch()?;
    bridge.await_ready().await
}

#[tokio::test]
async fn a_successor_of_mysql_that_lost_transactions_is_refused() -> Result<()> {
    lost_transactions(Flavour::MySql).await
}

#[tokio::test]
async fn a_successor_of_mariadb_that_lost_transactions_is_refused() -> Result<()> {
    lost_transactions(Flavour::MariaDb).await
}

/// A successor that has executed the transactions without their rows never shows what the stream holds.
#[tokio::test]
async fn a_successor_whose_log_lacks_the_rows_is_refused() -> Result<()> {
    let mut pair = Pair::start(Flavour::MySql).await?;
    let settings = pair.settings().set("checkpoint.interval", "1h");
    let mut bridge = Bridge::start(&settings).await?;
    pair.replica.await_caught_up(&pair.world.database).await?;
    pair.replica.stop_replication().await?;
    pair.world.insert(0..3).await?;
    pair.world.await_messages(&mut bridge, STREAM, 3).await?;
    // No last checkpoint is made.
    bridge.kill()?;
    let executed: Vec<String> = pair.world.database.query("SELECT @@GLOBAL.gtid_executed").await?;
    let known: Vec<String> = pair.replica.query("SELECT @@GLOBAL.gtid_executed").await?;
    let (executed, known) = (executed.concat(), known.concat());
    let missing: Vec<String> =
        pair.replica.query(&format!("SELECT GTID_SUBTRACT('{executed}', '{known}')")).await?;
    let (server, numbers) = missing.first().and_then(|set| set.rsplit_once(':')).context("a GTID")?;
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    for number in first.parse::<u64>()?..=last.parse()? {
        let empty = format!("SET gtid_next = '{server}:{number}'; BEGIN; COMMIT; SET gtid_next = AUTOMATIC");
        pair.replica.exec(&empty).await?;
    }
    pair.world.database.kill().await?;
    pair.replica.promote().await?;
    std::mem::swap(&mut pair.world.database, &mut pair.replica);
    bridge.configure(&settings.set("checkpoint.interval", "100ms"))?;
    bridge.launch()?;
    bridge.refuses(&["its log does not show all of the rows"]).await?;
    ensure!(pair.world.last_sequence(STREAM).await == 3, "nothing is published after the gap");
    Ok(())
}

#[tokio::test]
async fn another_commit_order_doubles_and_loses_nothing() -> Result<()> {
    let options = |replica: MySqlBuilder| {
        replica.option("--replica-parallel-workers=8").option("--replica-preserve-commit-order=OFF")
    };
    let mut pair = Pair::start_with(Flavour::MySql, options).await?;
    // The stream itself is not to drop what comes twice.
    pair.world.change_stream(|config| config.duplicate_window = Duration::from_millis(100)).await?;
    // The checkpoint stays far behind what is stored, so that the switch has many rows to tell.
    let settings = pair.settings().set("checkpoint.interval", "5s");
    let mut bridge = Bridge::start(&settings).await?;
    for round in 0..2 {
        let load = Load::start(&pair.world, &LoadOptions { pause: Duration::ZERO, ..load(round) }).await?;
        load.await_more(300).await?;
        // Nothing is drained and no last checkpoint made.
        bridge.kill()?;
        load.stop().await?;
        pair.fail_over().await?;
        bridge.launch()?;
        bridge.await_ready().await?;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
            bridge.kill()?;
            bridge.launch()?;
        }
        pair.rejoin().await?;
    }
    pair.world.verify(&mut bridge, Order::Any).await?;
    bridge.stop().await
}

#[tokio::test]
async fn a_name_that_leads_to_another_server_is_followed() -> Result<()> {
    let mut pair = Pair::start(Flavour::MySql).await?;
    let proxy = FaultyProxy::start(pair.world.database.port()).await?;
    let settings = pair.world.settings().set("source.url", pair.world.database_url_at(proxy.port()));
    let mut bridge = Bridge::start(&settings).await?;
    let before = Load::start(&pair.world, &load(1)).await?;
    before.await_more(50).await?;
    before.stop().await?;
    pair.replica.await_caught_up(&pair.world.database).await?;
    // The old one lives on, where nobody looks for it.
    pair.replica.promote().await?;
    proxy.set_upstream(pair.replica.port());
    proxy.cut();
    std::mem::swap(&mut pair.world.database, &mut pair.replica);
    let after = Load::start(&pair.world, &load(2)).await?;
    after.await_more(50).await?;
    after.stop().await?;
    pair.world.verify(&mut bridge, Order::AcrossServers).await?;
    bridge.stop().await
}

#[tokio::test]
async fn a_prepared_transaction_is_found_on_the_other_server() -> Result<()> {
    let mut pair = Pair::start(Flavour::MySql).await?;
    let mut bridge = Bridge::start(&pair.settings()).await?;
    let mut conn = pair.world.conn().await?;
    conn.query_drop("XA START 'a'").await?;
    Event::new(1).insert(&mut conn, TABLE).await?;
    conn.query_drop("XA END 'a'").await?;
    conn.query_drop("XA PREPARE 'a'").await?;
    conn.disconnect().await?;
    pair.world.insert(2..4).await?;
    pair.world.await_messages(&mut bridge, STREAM, 2).await?;
    pair.fail_over().await?;
    pair.world.insert(4..6).await?;
    pair.world.await_messages(&mut bridge, STREAM, 4).await?;
    pair.world.database.exec("XA COMMIT 'a'").await?;
    pair.world.verify(&mut bridge, Order::Any).await?;
    bridge.stop().await
}

#[tokio::test]
async fn without_gtids_no_other_server_is_taken() -> Result<()> {
    let mut world =
        World::mysql().option("--gtid-mode=OFF").option("--enforce-gtid-consistency=OFF").start().await?;
    let other = MySql::builder().option("--server-id=2").start().await?;
    other.exec("CREATE USER 'bridge'@'%' IDENTIFIED BY 's3cret # \"password\"'; GRANT ALL ON *.* TO 'bridge'@'%'").await?;
    let urls = [&world.database, &other].map(|server| world.database_url_at(server.port()));
    let settings = world.settings().unset("source.url").set("source.urls", urls.to_vec());
    let mut bridge = Bridge::start(&settings).await?;
    world.insert(0..3).await?;
    world.await_messages(&mut bridge, STREAM, 3).await?;
    world.database.kill().await?;
    bridge.refuses(&["does not say by GTIDs", "gtid_mode = ON"]).await
}

#[tokio::test]
async fn what_the_successor_has_purged_is_published_from_its_table() -> Result<()> {
    let mut pair = Pair::start(Flavour::MySql).await?;
    let mut bridge = Bridge::start(&pair.settings()).await?;
    pair.world.insert(0..3).await?;
    pair.world.await_messages(&mut bridge, STREAM, 3).await?;
    bridge.stop().await?;
    pair.world.insert(3..6).await?;
    pair.replica.await_caught_up(&pair.world.database).await?;
    pair.replica.exec("FLUSH BINARY LOGS").await?;
    let logs: Vec<Row> = pair.replica.query("SHOW BINARY LOGS").await?;
    let newest: String = logs.last().and_then(|row| row.get(0)).context("a log file")?;
    pair.replica.exec(&format!("PURGE BINARY LOGS TO '{newest}'")).await?;
    pair.fail_over().await?;
    bridge.launch()?;
    bridge.refuses(&["has purged transactions", "not published yet"]).await?;
    let (code, said) = bridge.command(&["backfill"])?;
    ensure!(code == 0, "backfill ended with {code}: {said}");
    pair.world.insert(6..8).await?;
    bridge.launch()?;
    bridge.await_ready().await?;
    // After a backfill and a change of server, a start in the midst of it all finds its place too.
    bridge.kill()?;
    bridge.launch()?;
    pair.world.verify(&mut bridge, Order::AcrossServers).await?;
    bridge.stop().await
}

#[tokio::test]
async fn a_first_start_reads_whichever_server_answers() -> Result<()> {
    let mut pair = Pair::start(Flavour::MySql).await?;
    let settings = pair.settings();
    pair.fail_over().await?;
    let mut bridge = Bridge::start(&settings).await?;
    pair.world.insert(0..3).await?;
    pair.world.verify(&mut bridge, Order::Total).await?;
    let reading = format!("127.0.0.1:{} (", pair.world.database.port());
    let answer = bridge.get("/readyz").await?;
    ensure!(answer.contains(&reading), "{answer}");
    let (_, status) = bridge.command(&["status"])?;
    ensure!(status.contains("is read"), "{status}");
    for message in pair.world.stored(STREAM).await? {
        let source = message.header(header::CE_SOURCE);
        ensure!(source == format!("//outbox-bridge/{TABLE}"), "it comes from {source}");
    }
    bridge.stop().await
}
