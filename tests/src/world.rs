//! Real servers with outbox tables and streams.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, stream};
use mysql_async::Conn;
use serde_json::Value;
use testbed::{Flavour, MySql, MySqlBuilder, Nats, NatsBuilder, eventually};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::stream::{Stored, last_id, read_after, visit};
use crate::{Bridge, Event, Expected, Order, Settings, oracle};

/// The outbox table of a world that names no other.
pub const TABLE: &str = "shop.outbox";
/// Its stream.
pub const STREAM: &str = "ORDERS";

const SUBJECT: &str = "orders.{aggregate_type}.{type}";
const USER: &str = "bridge";
const PASSWORD: &str = "s3cret # \"password\"";
/// How long events may take to arrive on a busy machine.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);
/// A single question to JetStream, so that a server that is gone costs little time.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// How many worlds of a test executable are alive at once: each has two servers and a bridge.
const WORLDS_MAX: usize = 4;
static WORLDS: Semaphore = Semaphore::const_new(WORLDS_MAX);

/// The standard layout, without table options.
const LAYOUT: &str = "seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, \
    id BINARY(16) NOT NULL UNIQUE, \
    aggregate_type VARCHAR(64) NOT NULL, \
    aggregate_id VARCHAR(255) NOT NULL, \
    type VARCHAR(128) NOT NULL, \
    payload JSON NOT NULL, \
    headers JSON NULL, \
    created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)";

/// An outbox table and its stream.
#[derive(Debug, Clone)]
pub struct Outbox {
    table: String,
    stream: String,
    subject: String,
    layout: Option<String>,
    options: String,
    keys: BTreeMap<String, Value>,
}

impl Outbox {
    /// An outbox of the standard layout; `subject` must begin with a literal token.
    #[must_use]
    pub fn new(table: &str, stream: &str, subject: &str) -> Self {
        Self {
            table: table.to_owned(),
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            layout: None,
            options: String::new(),
            keys: BTreeMap::new(),
        }
    }

    /// The outbox of a world that names no other.
    #[must_use]
    pub fn standard() -> Self {
        Self::new(TABLE, STREAM, SUBJECT)
    }

    /// Gives the table these columns and keys instead of the standard ones.
    #[must_use]
    pub fn layout(mut self, layout: &str) -> Self {
        self.layout = Some(layout.to_owned());
        self
    }

    /// Adds table options such as `ENGINE=BLACKHOLE`.
    #[must_use]
    pub fn options(mut self, options: &str) -> Self {
        self.options = options.to_owned();
        self
    }

    /// Sets a further key of the configuration's `[[outbox]]`, such as `columns.id`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    fn keys(&self) -> BTreeMap<String, Value> {
        let mut keys = self.keys.clone();
        for (key, value) in [("table", &self.table), ("stream", &self.stream), ("subject", &self.subject)] {
            keys.insert(key.to_owned(), value.as_str().into());
        }
        keys
    }

    async fn create(&self, database: &MySql) -> Result<()> {
        let (schema, _) = self.table.split_once('.').context("a table without schema")?;
        let layout = self.layout.as_deref().unwrap_or(LAYOUT);
        database
            .exec(&format!(
                "CREATE DATABASE IF NOT EXISTS {schema}; CREATE TABLE {} ({layout}) {}",
                self.table, self.options
            ))
            .await
    }
}

/// How a world shall be.
#[derive(Debug, Clone)]
pub struct WorldBuilder {
    database: MySqlBuilder,
    nats: NatsBuilder,
    outboxes: Vec<Outbox>,
    batches: bool,
}

impl WorldBuilder {
    fn new(database: MySqlBuilder) -> Self {
        // What the servers do when they lose power is not what most tests are about.
        let database = database.relaxed_durability();
        Self { database, nats: Nats::builder(), outboxes: Vec::new(), batches: true }
    }

    /// Adds an option of the database server.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.database = self.database.option(option);
        self
    }

    /// Syncs the binary log and the redo log at each commit, as a server does whose death matters.
    #[must_use]
    pub fn durable(self) -> Self {
        self.option("--sync-binlog=1").option("--innodb-flush-log-at-trx-commit=1")
    }

    /// Takes this NATS server.
    #[must_use]
    pub fn nats(mut self, nats: NatsBuilder) -> Self {
        self.nats = nats;
        self
    }

    /// Creates streams without `allow_batch_publish`, as servers before 2.14 need it.
    #[must_use]
    pub fn without_batches(mut self) -> Self {
        self.batches = false;
        self
    }

    /// Adds an outbox; without any, the world has [`Outbox::standard`].
    #[must_use]
    pub fn outbox(mut self, outbox: Outbox) -> Self {
        self.outboxes.push(outbox);
        self
    }

    /// Starts the servers, and creates tables, user and streams.
    ///
    /// # Errors
    ///
    /// When a server cannot be got or started.
    pub async fn start(mut self) -> Result<World> {
        let turn = WORLDS.acquire().await?;
        if self.outboxes.is_empty() {
            self.outboxes.push(Outbox::standard());
        }
        let (database, nats) = tokio::try_join!(self.database.start(), self.nats.start())?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("password"), format!("{PASSWORD}\n"))?;
        let mut jetstream = jetstream::new(nats.client().await?);
        jetstream.set_timeout(ASK_LIMIT);
        let (outboxes, batches) = (self.outboxes, self.batches);
        let world = World { database, nats, jetstream, outboxes, batches, folder, _turn: turn };
        world.prepare().await?;
        Ok(world)
    }
}

/// A database server, a NATS server, outbox tables and streams.
#[derive(Debug)]
pub struct World {
    /// The database server.
    pub database: MySql,
    /// The NATS server.
    pub nats: Nats,
    /// A JetStream client of it.
    pub jetstream: jetstream::Context,
    outboxes: Vec<Outbox>,
    batches: bool,
    folder: tempfile::TempDir,
    _turn: SemaphorePermit<'static>,
}

impl World {
    /// A world with MySQL.
    #[must_use]
    pub fn mysql() -> WorldBuilder {
        WorldBuilder::new(MySql::builder())
    }

    /// A world with MariaDB.
    #[must_use]
    pub fn mariadb() -> WorldBuilder {
        WorldBuilder::new(MySql::mariadb())
    }

    /// A world with MariaDB 11.
    #[must_use]
    pub fn mariadb_11() -> WorldBuilder {
        WorldBuilder::new(MySql::mariadb().next_release())
    }

    /// A world with a server of this flavour.
    #[must_use]
    pub fn of(flavour: Flavour) -> WorldBuilder {
        WorldBuilder::new(MySql::builder_of(flavour))
    }

    async fn prepare(&self) -> Result<()> {
        let status = match self.database.flavour() {
            Flavour::MySql => "REPLICATION CLIENT",
            Flavour::MariaDb => "BINLOG MONITOR",
        };
        self.database.create_user(USER, PASSWORD, &format!("REPLICATION SLAVE, {status} ON *.*")).await?;
        for outbox in &self.outboxes {
            outbox.create(&self.database).await?;
            let grant = format!("GRANT SELECT ON {} TO '{USER}'@'%'", outbox.table);
            self.database.exec(&grant).await?;
        }
        for stream in self.streams() {
            self.create_stream(stream).await?;
        }
        Ok(())
    }

    /// Creates a stream for the outboxes that name it.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn create_stream(&self, name: &str) -> Result<()> {
        let mut subjects: Vec<String> = Vec::new();
        for outbox in self.outboxes.iter().filter(|outbox| outbox.stream == name) {
            let (first, _) = outbox.subject.split_once('.').context("a subject of one token")?;
            let subject = format!("{first}.>");
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        let name = name.to_owned();
        let config = stream::Config {
            name,
            subjects,
            allow_batch_publish: self.batches,
            allow_atomic_publish: self.batches,
            ..Default::default()
        };
        self.jetstream.create_stream(config).await?;
        Ok(())
    }

    /// Changes the standard stream's configuration.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn change_stream(&self, change: impl FnOnce(&mut stream::Config)) -> Result<()> {
        let mut config = self.jetstream.get_stream(STREAM).await?.cached_info().config.clone();
        change(&mut config);
        self.jetstream.update_stream(config).await?;
        Ok(())
    }

    /// Makes the standard stream anew with another retention.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn retain(&self, retention: stream::RetentionPolicy) -> Result<stream::Stream> {
        self.jetstream.delete_stream(STREAM).await?;
        let subjects = vec!["orders.>".to_owned()];
        let config = stream::Config { name: STREAM.to_owned(), subjects, retention, ..Default::default() };
        Ok(self.jetstream.create_stream(config).await?)
    }

    fn streams(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for outbox in &self.outboxes {
            if !names.contains(&outbox.stream.as_str()) {
                names.push(&outbox.stream);
            }
        }
        names
    }

    /// A configuration for this world, with little patience where it only costs a test's time.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let password_file = self.folder.path().join("password").display().to_string();
        let settings = Settings::default()
            .set("source.url", self.database.url(USER))
            .set("source.password_file", password_file)
            .set("source.heartbeat", "1s")
            .set("nats.url", self.nats.url())
            .set("nats.ping_interval", "1s")
            .set("publish.ack_timeout", "2s")
            .set("retry.max", "1s");
        self.outboxes.iter().fold(settings, |settings, outbox| settings.outbox(outbox.keys()))
    }

    /// The source's URL by way of a proxy.
    #[must_use]
    pub fn database_url_at(&self, port: u16) -> String {
        format!("mysql://{USER}@127.0.0.1:{port}")
    }

    /// A bridge with [`settings`](Self::settings), ready.
    ///
    /// # Errors
    ///
    /// As [`Bridge::start`].
    pub async fn bridge(&self) -> Result<Bridge> {
        Bridge::start(&self.settings()).await
    }

    /// A connection that may do everything.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached.
    pub async fn conn(&self) -> Result<Conn> {
        self.database.conn().await
    }

    /// Inserts plain events with these numbers into the standard table, each in a transaction of its own.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn insert(&self, numbers: std::ops::Range<u64>) -> Result<Vec<Event>> {
        let mut conn = self.conn().await?;
        let mut events = Vec::new();
        for number in numbers {
            let event = Event::new(number);
            event.insert(&mut conn, TABLE).await?;
            events.push(event);
        }
        conn.disconnect().await?;
        Ok(events)
    }

    /// Everything that a stream holds.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn stored(&self, stream: &str) -> Result<Vec<Stored>> {
        read_after(&self.jetstream, stream, 0).await
    }

    /// Shows everything that a stream holds, one message after the other, without keeping it.
    ///
    /// # Errors
    ///
    /// What the server says, and what `see` does.
    pub async fn visit(&self, stream: &str, see: impl FnMut(Stored) -> Result<()>) -> Result<()> {
        visit(&self.jetstream, stream, 0, see).await
    }

    /// Waits until the rows that come from now on are certainly later than what happened until now, by the database's clock: neither
    /// clean-up nor audit judges rows of the second in which a bridge first started.
    ///
    /// # Errors
    ///
    /// What the database says.
    pub async fn pass_the_start(&self) -> Result<()> {
        let start: Vec<u64> = self.database.query("SELECT UNIX_TIMESTAMP()").await?;
        eventually("the clock to pass the start", Duration::from_secs(60), async || {
            let now: Vec<u64> = self.database.query("SELECT UNIX_TIMESTAMP() - 2").await?;
            Ok((now >= start).then_some(()))
        })
        .await
    }

    /// Waits until a stream has had so many messages.
    ///
    /// # Errors
    ///
    /// When they do not come, or the bridge ends; then with the end of its log.
    pub async fn await_messages(&self, bridge: &mut Bridge, stream: &str, count: u64) -> Result<()> {
        let what = format!("{count} messages in {stream}");
        let arrived = eventually(&what, ARRIVAL_LIMIT, async || {
            bridge.check_running()?;
            Ok((self.last_sequence(stream).await >= count).then_some(()))
        });
        let arrived = arrived.await;
        match arrived {
            Ok(()) => Ok(()),
            Err(error) => {
                let has = self.last_sequence(stream).await;
                Err(bridge.explain(error.context(format!("it has {has}"))))
            }
        }
    }

    /// The last sequence that a stream gave out; 0 while it cannot be asked.
    pub async fn last_sequence(&self, stream: &str) -> u64 {
        match self.jetstream.get_stream(stream).await {
            Ok(stream) => stream.cached_info().state.last_sequence,
            Err(_) => 0,
        }
    }

    /// Waits until the event with this id is a stream's last.
    ///
    /// # Errors
    ///
    /// When it does not come, or the bridge ends; then with the end of its log.
    pub async fn await_last(&self, bridge: &mut Bridge, stream: &str, id: &str) -> Result<()> {
        let what = format!("the event {id} to be the last of {stream}");
        let arrived = eventually(&what, ARRIVAL_LIMIT, async || {
            bridge.check_running()?;
            Ok(last_id(&self.jetstream, stream).await.is_ok_and(|last| last == id).then_some(()))
        });
        let arrived = arrived.await;
        arrived.map_err(|error| bridge.explain(error))
    }

    /// Inserts a last event into each table of the standard layout and waits until it is the last of its stream, so
    /// that everything before has come or will never come.
    ///
    /// # Errors
    ///
    /// When it does not come, or the bridge ends; then with the end of its log.
    pub async fn settle(&self, bridge: &mut Bridge) -> Result<Vec<(String, Event)>> {
        let mut last = Vec::new();
        let mut conn = self.conn().await?;
        for outbox in self.outboxes.iter().filter(|outbox| outbox.layout.is_none()) {
            let mut event = Event::new(0);
            event.aggregate_id = "the end".to_owned();
            event.insert(&mut conn, &outbox.table).await?;
            last.push((outbox.table.clone(), outbox.stream.clone(), event));
        }
        conn.disconnect().await?;
        for stream in self.streams() {
            if let Some((_, _, event)) = last.iter().rfind(|(_, of, _)| of == stream) {
                self.await_last(bridge, stream, &event.id.to_string()).await?;
            }
        }
        Ok(last.into_iter().map(|(table, _, event)| (table, event)).collect())
    }

    /// [`settle`](Self::settle)s and expects that the standard stream holds exactly the standard table's rows, in the
    /// order of their `seq` as the given order says.
    ///
    /// # Errors
    ///
    /// What is wrong; then with the end of the bridge's log.
    pub async fn verify(&self, bridge: &mut Bridge, order: Order) -> Result<()> {
        self.settle(bridge).await?;
        let expected = Expected::rows(&self.database, TABLE, "seq").await?;
        self.verify_rows(bridge, &expected, order).await
    }

    /// As [`verify`](Self::verify), in the order of the commits that a load's tickets tell.
    ///
    /// # Errors
    ///
    /// What is wrong; then with the end of the bridge's log.
    pub async fn verify_tickets(&self, bridge: &mut Bridge) -> Result<()> {
        self.settle(bridge).await?;
        let expected = Expected::rows(&self.database, TABLE, oracle::TICKET_ORDER).await?;
        self.verify_rows(bridge, &expected, Order::Total).await
    }

    /// Expects that the standard stream holds exactly these rows.
    ///
    /// # Errors
    ///
    /// What is wrong; then with the end of the bridge's log.
    pub async fn verify_rows(&self, bridge: &Bridge, expected: &[Expected], order: Order) -> Result<()> {
        let mut stored = self.stored(STREAM).await?;
        for message in &mut stored {
            message.fetch_body(&self.jetstream).await?;
        }
        oracle::compare(expected, &stored, order).map_err(|error| bridge.explain(error))
    }
}
