//! The migration guides: their tables, statements and configurations are taken out of the guides themselves and run, and each event
//! is published once, by the old relay or by the bridge.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Program, Stored, read_after};
use outbox_event::header;
use testbed::{Flavour, MySql, Nats, eventually};
use tokio::task::JoinHandle;
use uuid::Uuid;

const PASSWORD: &str = "secret";
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);
/// What the old relay writes.
const OLD: &str = "OLD";

/// A guide of `deploy/migrate`.
struct Guide(String);

impl Guide {
    fn read(name: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/migrate").join(name);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self(text))
    }

    /// Its blocks of this language, in their order.
    fn blocks(&self, language: &str) -> Vec<&str> {
        let fence = format!("```{language}\n");
        self.0.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
    }
}

/// Servers, and the bridge as a guide configures it.
struct Place {
    database: MySql,
    nats: Nats,
    jetstream: jetstream::Context,
    folder: tempfile::TempDir,
}

impl Place {
    /// `configuration` is what the guide says; only where the servers are is told by the environment.
    async fn start(flavour: Flavour, table: &str, configuration: &str) -> Result<Self> {
        let database = MySql::builder_of(flavour).relaxed_durability();
        let (database, nats) = tokio::try_join!(database.start(), Nats::builder().start())?;
        let jetstream = jetstream::new(nats.client().await?);
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("bridge.toml"), configuration)?;
        std::fs::write(folder.path().join("mysql-password"), PASSWORD)?;
        database.exec("CREATE DATABASE shop CHARACTER SET utf8mb4").await?;
        database.exec(table).await?;
        Ok(Self { database, nats, jetstream, folder })
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("bridge.toml")
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OUTBOX_BRIDGE__SOURCE__URL", self.database.url("bridge")),
            ("OUTBOX_BRIDGE__NATS__URL", self.nats.url()),
            ("OUTBOX_BRIDGE__HTTP__LISTEN", "off".to_owned()),
        ]
    }

    /// Runs a command of the bridge as the guide has it.
    async fn command(&self, arguments: &[&str]) -> Result<String> {
        let configuration = self.configuration().display().to_string();
        let arguments: Vec<String> =
            arguments.iter().copied().chain(["--config", &configuration]).map(str::to_owned).collect();
        let variables = self.variables();
        let run = move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            Program::output("outbox-bridge", &arguments, variables)
        };
        // Not on this thread, where writers and relay go on.
        tokio::task::spawn_blocking(run).await?
    }

    /// The first step of each guide.
    async fn prepare(&self) -> Result<()> {
        let dialect = match self.database.flavour() {
            Flavour::MySql => "mysql",
            Flavour::MariaDb => "mariadb",
        };
        let grants = self.command(&["init", "--print", "grants", "--dialect", dialect]).await?;
        self.database.exec(&grants.replace("<password>", PASSWORD)).await?;
        self.command(&["init", "--apply", "--dialect", dialect]).await?;
        self.command(&["check"]).await?;
        Ok(())
    }

    fn run(&self) -> Result<Program> {
        let configuration = self.configuration().display().to_string();
        Program::start("outbox-bridge", &["run", "--config", &configuration], self.variables())
    }

    async fn stored(&self, stream: &str) -> Result<Vec<Stored>> {
        read_after(&self.jetstream, stream, 0).await
    }

    async fn await_messages(&self, bridge: &mut Program, stream: &str, count: usize) -> Result<Vec<Stored>> {
        let arrived = eventually("all events", ARRIVAL_LIMIT, async || {
            bridge.check_running()?;
            let info = self.jetstream.get_stream(stream).await?;
            Ok((info.cached_info().state.messages >= count as u64).then_some(()))
        });
        let arrived = arrived.await;
        arrived.with_context(|| bridge.log())?;
        self.stored(stream).await
    }
}

fn ids(messages: &[Stored]) -> Vec<String> {
    messages.iter().map(|message| message.header(header::CE_ID).to_owned()).collect()
}

/// Inserts events as the application does, each with its number, and gives their ids.
async fn insert(place: &Place, numbers: std::ops::Range<u32>) -> Result<Vec<String>> {
    let mut conn = place.database.conn().await?;
    let mut ids = Vec::new();
    for number in numbers {
        let id = Uuid::new_v4();
        let (kind, payload) = (number % 3, format!(r#"{{"number": {number}}}"#));
        // Text into CHAR(36), bytes into BINARY(16).
        let id_value: mysql_async::Value = match place.database.flavour() {
            Flavour::MySql => id.to_string().into(),
            Flavour::MariaDb => id.as_bytes().into(),
        };
        let values = (id_value, "order", format!("order-{kind}"), "OrderCreated", payload);
        let sql = "INSERT INTO shop.outboxevent (id, aggregatetype, aggregateid, type, payload) VALUES (?, ?, ?, ?, ?)";
        conn.exec_drop(sql, values).await?;
        ids.push(id.to_string());
    }
    conn.disconnect().await?;
    Ok(ids)
}

async fn from_debezium(flavour: Flavour) -> Result<()> {
    let guide = Guide::read("debezium.md")?;
    let [configuration, start]: [&str; 2] =
        guide.blocks("toml").try_into().ok().context("two configurations")?;
    let [table]: [&str; 1] = guide.blocks("sql").try_into().ok().context("one table")?;
    let (table, noted) = match flavour {
        Flavour::MySql => (table.to_owned(), "@@global.gtid_executed"),
        Flavour::MariaDb => (table.replace("CHAR(36)", "BINARY(16)"), "@@global.gtid_binlog_pos"),
    };
    ensure!(guide.0.contains(&format!("SELECT {noted}")), "the guide says what to note");
    let place = Place::start(flavour, &table, configuration).await?;
    place.prepare().await?;

    // What Debezium has published.
    insert(&place, 0..20).await?;
    let noted: Vec<String> = place.database.query(&format!("SELECT {noted}")).await?;
    let noted = noted.first().context("no GTIDs")?.replace('\n', "");
    // What comes while nothing runs.
    let mut expected = insert(&place, 20..40).await?;
    let (before, rest) = start.split_once("start = \"").context("the set")?;
    let (_, after) = rest.split_once('"').context("the set")?;
    let start = format!("{before}start = \"{noted}\"{after}");
    let setting =
        start.lines().map(str::trim).find(|line| line.starts_with("start")).context("the setting")?;
    let started = configuration.replacen("[source]", &format!("[source]\n{setting}"), 1);
    std::fs::write(place.configuration(), started)?;
    place.command(&["check"]).await?;
    let mut bridge = place.run()?;
    place.await_messages(&mut bridge, "OUTBOX", 20).await?;

    // The setting goes again, and the next start goes on where the stream ends.
    bridge.kill()?;
    std::fs::write(place.configuration(), configuration)?;
    expected.extend(insert(&place, 40..60).await?);
    bridge.start_again()?;
    let stored = place.await_messages(&mut bridge, "OUTBOX", 40).await?;
    ensure!(ids(&stored) == expected, "{:?} instead of {expected:?}", ids(&stored));
    for (number, message) in (20..).zip(&stored) {
        ensure!(message.subject == "outbox.event.order", "{}", message.subject);
        ensure!(message.header("Nats-Msg-Id") == message.header(header::CE_ID));
        ensure!(message.header(header::CE_TYPE) == "OrderCreated");
        let key = format!("order-{}", number % 3);
        ensure!(message.header(header::CE_SUBJECT) == key && message.header(header::CE_PARTITION_KEY) == key);
        ensure!(message.text() == format!(r#"{{"number": {number}}}"#), "{}", message.text());
    }
    Ok(())
}

#[tokio::test]
async fn from_debezium_on_mysql() -> Result<()> {
    from_debezium(Flavour::MySql).await
}

#[tokio::test]
async fn from_debezium_on_mariadb() -> Result<()> {
    from_debezium(Flavour::MariaDb).await
}

/// Writers that never pause: each event in a transaction that takes a while, so that numbers are not in the order of commits.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<Vec<String>>>>,
}

impl Writers {
    async fn start(place: &Place) -> Result<Self> {
        let mut writers = Self { stop: Arc::default(), written: Arc::default(), tasks: Vec::new() };
        for _ in 0..3 {
            let (mut conn, stop, written) =
                (place.database.conn().await?, Arc::clone(&writers.stop), Arc::clone(&writers.written));
            writers.tasks.push(tokio::spawn(async move {
                let mut ids = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = Uuid::new_v4();
                    let mut transaction = conn.start_transaction(mysql_async::TxOpts::default()).await?;
                    let sql = "INSERT INTO shop.outbox (id, aggregate_type, aggregate_id, type, payload) \
                               VALUES (?, 'order', '7', 'placed', '{}')";
                    transaction.exec_drop(sql, (id.as_bytes(),)).await?;
                    tokio::time::sleep(Duration::from_millis(rand::random_range(0..10))).await;
                    transaction.commit().await?;
                    ids.push(id.to_string());
                    written.fetch_add(1, Ordering::Relaxed);
                }
                conn.disconnect().await?;
                Ok(ids)
            }));
        }
        Ok(writers)
    }

    /// Waits until so many more events are written.
    async fn await_more(&self, count: u64) -> Result<()> {
        let target = self.written.load(Ordering::Relaxed) + count;
        eventually("events to be written", ARRIVAL_LIMIT, async || {
            Ok((self.written.load(Ordering::Relaxed) >= target).then_some(()))
        })
        .await
    }

    async fn stop(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut ids = Vec::new();
        for task in self.tasks {
            ids.extend(task.await??);
        }
        Ok(ids)
    }
}

/// The relay that is to be replaced: asks for rows without the mark, publishes and marks them.
async fn poll(place: &Place, conn: &mut mysql_async::Conn) -> Result<usize> {
    let sql = "SELECT seq, id FROM shop.outbox WHERE NOT published ORDER BY seq LIMIT 20";
    let rows: Vec<(u64, Vec<u8>)> = conn.query(sql).await?;
    for (seq, id) in &rows {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(header::CE_ID, Uuid::from_slice(id)?.to_string().as_str());
        place.jetstream.publish_with_headers("old.placed", headers, "{}".into()).await?.await?;
        conn.exec_drop("UPDATE shop.outbox SET published = TRUE WHERE seq = ?", (seq,)).await?;
    }
    Ok(rows.len())
}

#[tokio::test]
async fn from_a_polling_relay_without_a_pause() -> Result<()> {
    let guide = Guide::read("polling-relay.md")?;
    let [configuration]: [&str; 1] = guide.blocks("toml").try_into().ok().context("one configuration")?;
    let [table, delete]: [&str; 2] =
        guide.blocks("sql").try_into().ok().context("a table and a statement")?;
    let place = Place::start(Flavour::MySql, table, configuration).await?;
    let old =
        stream::Config { name: OLD.to_owned(), subjects: vec!["old.>".to_owned()], ..Default::default() };
    place.jetstream.create_stream(old).await?;
    let writers = Writers::start(&place).await?;
    let mut conn = place.database.conn().await?;
    let mut published = 0;
    while published < 100 {
        published += poll(&place, &mut conn).await?;
    }
    writers.await_more(30).await?;

    place.prepare().await?;
    conn.query_drop(delete.trim()).await?;
    place.command(&["backfill"]).await?;
    writers.await_more(30).await?;
    let mut bridge = place.run()?;
    writers.await_more(30).await?;
    let written = writers.stop().await?;

    let old = ids(&place.stored(OLD).await?);
    let new = place.await_messages(&mut bridge, "EVENTS", written.len() - old.len()).await?;
    ensure!(
        old.len() == published && old.len() + new.len() == written.len(),
        "{} and {}",
        old.len(),
        new.len()
    );
    let told: HashSet<String> = old.into_iter().chain(ids(&new)).collect();
    ensure!(told == written.into_iter().collect(), "each event is in one of the two streams");
    ensure!(new.iter().all(|message| message.subject == "events.order.placed"));
    Ok(())
}
