//! The service that credits: its database, and its processes.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use futures_util::TryStreamExt;
use outbox_bridge_tests::{STREAM, World};
use rand::seq::IndexedRandom;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::Connection as _;
use testbed::{Postgres, freeze};

/// What the tables of the ledger are in both databases; a place is a number that grows.
fn schema(place: &str) -> String {
    format!(
        "CREATE TABLE ledger.accounts (account INT PRIMARY KEY, cents BIGINT NOT NULL); \
         CREATE TABLE ledger.effects (place {place} PRIMARY KEY, message_id VARCHAR(64) NOT NULL, \
           account INT NOT NULL, number BIGINT NOT NULL)"
    )
}

/// Where the ledger and its inbox are.
pub(crate) enum Database {
    /// On the server of the outbox.
    MySql,
    /// On a server of its own.
    Postgres(Box<Postgres>),
}

impl Database {
    pub(crate) async fn create(&self, world: &World) -> Result<()> {
        match self {
            Self::MySql => {
                let schema = schema("BIGINT AUTO_INCREMENT");
                world.database.exec(&format!("CREATE DATABASE ledger; {schema}")).await
            }
            Self::Postgres(server) => {
                server.exec(&format!("CREATE SCHEMA ledger; {}", schema("BIGSERIAL"))).await
            }
        }
    }

    pub(crate) async fn exec(&self, world: &World, sql: &str) -> Result<()> {
        match self {
            Self::MySql => world.database.exec(sql).await,
            Self::Postgres(server) => server.exec(sql).await,
        }
    }

    pub(crate) async fn count(&self, world: &World, sql: &str) -> Result<i64> {
        match self {
            Self::MySql => world.database.query::<i64>(sql).await?.first().copied().context("no row"),
            Self::Postgres(server) => {
                let mut conn = server.conn().await?;
                let count = sqlx::query_scalar(sql).fetch_one(&mut conn).await?;
                conn.close().await?;
                Ok(count)
            }
        }
    }

    /// The balances, by account.
    pub(crate) async fn balances(&self, world: &World) -> Result<Vec<(i32, i64)>> {
        let sql = "SELECT account, cents FROM ledger.accounts ORDER BY account";
        match self {
            Self::MySql => world.database.query(sql).await,
            Self::Postgres(server) => {
                let mut conn = server.conn().await?;
                let rows = sqlx::query_as(sql).fetch_all(&mut conn).await?;
                conn.close().await?;
                Ok(rows)
            }
        }
    }

    fn url(&self, world: &World) -> String {
        match self {
            Self::MySql => super::database_url(world, "ledger"),
            Self::Postgres(server) => server.url("postgres"),
        }
    }
}

/// A process of the service; killed on drop.
struct Instance(Child);

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The processes of the service.
pub(crate) struct Ledger {
    environment: Vec<(&'static str, String)>,
    instances: Vec<Instance>,
}

impl Ledger {
    pub(crate) fn start(world: &World, database: &Database, instances: usize) -> Result<Self> {
        let environment = vec![
            ("BANK_NATS", world.nats.url()),
            ("BANK_DATABASE", database.url(world)),
            ("BANK_PARTITIONS", if instances > 1 { super::PARTITIONS.to_string() } else { String::new() }),
            ("RUST_BACKTRACE", "0".to_owned()),
        ];
        let mut ledger = Self { environment, instances: Vec::new() };
        ledger.spawn(instances)?;
        Ok(ledger)
    }

    fn spawn(&mut self, instances: usize) -> Result<()> {
        for _ in 0..instances {
            let instance = self.spawn_one()?;
            self.instances.push(instance);
        }
        Ok(())
    }

    fn spawn_one(&self) -> Result<Instance> {
        let child = Command::new(env!("CARGO_BIN_EXE_bank_consumer"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Ok(Instance(child.context("the ledger does not start")?))
    }

    /// Kills one instance and starts another.
    pub(crate) fn replace_one(&mut self) -> Result<()> {
        drop(self.instances.swap_remove(rand::random_range(0..self.instances.len())));
        self.spawn(1)
    }

    /// Freezes one instance, and lets it go on after `time`.
    pub(crate) async fn freeze_one(&self, time: std::time::Duration) -> Result<()> {
        let instance = self.instances.choose(&mut rand::rng()).context("there are no instances")?;
        freeze(&instance.0)?;
        tokio::time::sleep(time).await;
        Ok(kill_process(Pid::from_child(&instance.0), Signal::CONT)?)
    }

    /// Kills all, makes JetStream forget what they have acknowledged, so that every message is delivered again, and starts
    /// as many anew.
    pub(crate) async fn repeat_all(&mut self, world: &World) -> Result<()> {
        let instances = self.instances.len();
        self.instances.clear();
        let stream = async_nats::jetstream::new(world.nats.client().await?).get_stream(STREAM).await?;
        let mut names: Vec<String> = stream.consumer_names().try_collect().await?;
        names.retain(|name| name.starts_with("ledger"));
        ensure!(!names.is_empty(), "the ledger has no durable consumer");
        for name in names {
            stream.delete_consumer(&name).await?;
        }
        self.spawn(instances)
    }
}
