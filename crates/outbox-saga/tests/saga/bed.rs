//! Servers, a relay, and consumers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, HeaderMap};
use futures_util::StreamExt as _;
use outbox_consumer::inbox::NoInbox;
use outbox_consumer::{Consumer, RetryPolicy, Routes};
use outbox_producer::{Outbox, Uuid};
use outbox_saga::saga::{Orchestrator, Replier, SAGA_ACTION, SAGA_ID, SAGA_STEP, Saga, Started};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode};
use sqlx::{MySqlPool, Row as _};
use testbed::{Flavour, MySql, Nats, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::shop::{self, Order};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const STREAM: &str = "SHOP";
/// Where those reply who have no database.
pub(crate) const REPLIES: &str = "shop.replies";
const ORCHESTRATOR: &str = "orchestrator";
const OUTBOX: &str = "CREATE TABLE outbox (
    seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, id BINARY(16) NOT NULL UNIQUE,
    aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL,
    payload JSON NOT NULL, headers JSON NULL, created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))";

pub(crate) struct Bed {
    pub(crate) pool: MySqlPool,
    /// Whether every message comes twice, under another id.
    pub(crate) doubled: Arc<AtomicBool>,
    /// The type of event that is held up in the outbox.
    held: Arc<Mutex<&'static str>>,
    client: Client,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<()>>>,
    _servers: (MySql, Nats),
}

/// An instance of the service that orchestrates.
pub(crate) struct Instance {
    pub(crate) orchestrator: Orchestrator,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Instance {
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        ended(self.tasks).await
    }
}

async fn ended(tasks: Vec<JoinHandle<Result<()>>>) -> Result<()> {
    for task in tasks {
        task.await.context("a task has panicked")??;
    }
    Ok(())
}

impl Bed {
    pub(crate) async fn start(flavour: Flavour) -> Result<Self> {
        let database = MySql::builder_of(flavour).relaxed_durability().start().await?;
        database.exec("CREATE DATABASE shop CHARACTER SET utf8mb4").await?;
        let nats = Nats::builder().start().await?;
        let options = MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(database.port())
            .username("root")
            .database("shop")
            .ssl_mode(MySqlSslMode::Disabled);
        let pool = MySqlPoolOptions::new().max_connections(40).connect_with(options).await?;
        sqlx::query(OUTBOX).execute(&pool).await?;
        shop::open(&pool).await?;
        let client = nats.client().await?;
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["shop.>".to_owned()],
            ..Default::default()
        };
        jetstream::new(client.clone()).create_stream(config).await?;
        let mut bed = Self {
            pool,
            doubled: Arc::default(),
            held: Arc::default(),
            client,
            stop: CancellationToken::new(),
            tasks: Vec::new(),
            _servers: (database, nats),
        };
        bed.relay();
        Ok(bed)
    }

    pub(crate) fn orchestrator(&self) -> Orchestrator {
        Orchestrator::new(self.pool.clone(), Outbox::default()).with(&shop::place_order())
    }

    /// Runs an instance of the orchestrator, to the end of the test.
    pub(crate) async fn orchestrate(&mut self) -> Result<Orchestrator> {
        let instance = self.orchestrate_these(&[shop::place_order()]).await?;
        self.tasks.extend(instance.tasks);
        Ok(instance.orchestrator)
    }

    /// Runs an instance of the orchestrator that has these definitions.
    pub(crate) async fn orchestrate_these(&self, sagas: &[Saga<Order>]) -> Result<Instance> {
        let orchestrator = Orchestrator::new(self.pool.clone(), Outbox::default());
        let orchestrator = sagas.iter().fold(orchestrator, Orchestrator::with);
        orchestrator.prepare().await?;
        let stop = self.stop.child_token();
        let replies = orchestrator.replies().with_state(orchestrator.clone());
        let consumer = self.consume(ORCHESTRATOR, orchestrator.inbox(), replies, &stop).await?;
        let (running, until) = (orchestrator.clone(), stop.clone());
        let timers = tokio::spawn(async move {
            running.run(until).await;
            Ok(())
        });
        Ok(Instance { orchestrator, stop, tasks: vec![consumer, timers] })
    }

    /// Runs the participants.
    pub(crate) async fn participate(&mut self) -> Result<()> {
        let participant = shop::participant(&self.pool);
        let (inbox, routes) = (participant.inbox(), shop::participants(participant));
        self.tasks.push(self.consume("participants", inbox, routes, &self.stop).await?);
        Ok(())
    }

    async fn consume(
        &self,
        durable: &str,
        inbox: NoInbox,
        routes: Routes<NoInbox>,
        stop: &CancellationToken,
    ) -> Result<JoinHandle<Result<()>>> {
        let retry = RetryPolicy { initial: Duration::from_millis(50), ..RetryPolicy::default() };
        let consumer = Consumer::builder(self.client.clone(), STREAM, durable).concurrency(8).retry(retry);
        let consumer = consumer.build(inbox, routes).await?;
        let stop = stop.clone();
        Ok(tokio::spawn(async move { Ok(consumer.run(stop).await?) }))
    }

    /// Runs a consumer to the end of the test.
    pub(crate) async fn run(&mut self, durable: &str, inbox: NoInbox, routes: Routes<NoInbox>) -> Result<()> {
        let consumer = self.consume(durable, inbox, routes, &self.stop).await?;
        self.tasks.push(consumer);
        Ok(())
    }

    pub(crate) fn replier(&self) -> Replier {
        Replier::new(self.client.clone(), REPLIES)
    }

    /// How many messages of this subject there are.
    pub(crate) async fn replies(&self, subject: &str) -> Result<usize> {
        let stream = jetstream::new(self.client.clone()).get_stream(STREAM).await?;
        let mut subjects = stream.info_with_subjects(subject).await?;
        let mut count = 0;
        while let Some(subject) = subjects.next().await {
            count += subject?.1;
        }
        Ok(count)
    }

    /// Publishes a reply to a do as a participant might.
    pub(crate) async fn publish_reply(
        &self,
        event_type: &str,
        saga: &str,
        step: &str,
        payload: &str,
    ) -> Result<()> {
        let mut headers = HeaderMap::new();
        let id = Uuid::now_v7().to_string();
        for (name, value) in [
            ("ce-id", id.as_str()),
            ("ce-type", event_type),
            (SAGA_ID, saga),
            (SAGA_STEP, step),
            (SAGA_ACTION, "do"),
        ] {
            headers.insert(name, value);
        }
        let jetstream = jetstream::new(self.client.clone());
        jetstream.publish_with_headers(REPLIES, headers, payload.to_owned().into()).await?.await?;
        Ok(())
    }

    /// How many messages the orchestrator has given up.
    pub(crate) async fn dead_letters(&self) -> Result<u64> {
        let mut names = jetstream::new(self.client.clone()).stream_names();
        let mut count = 0;
        while let Some(name) = names.next().await {
            let name = name?;
            if name != STREAM && !name.starts_with("KV_") && !name.starts_with("OBJ_") {
                let stream = jetstream::new(self.client.clone()).get_stream(&name).await?;
                count += stream.cached_info().state.messages;
            }
        }
        Ok(count)
    }

    /// How many messages the orchestrator has not acknowledged.
    pub(crate) async fn unhandled(&self) -> Result<u64> {
        let stream = jetstream::new(self.client.clone()).get_stream(STREAM).await?;
        let info = stream.consumer_info(ORCHESTRATOR).await?;
        Ok(info.num_pending + u64::try_from(info.num_ack_pending)?)
    }

    /// Holds events of this type up, and lets go of those before.
    pub(crate) fn hold_up(&self, event_type: &'static str) {
        if let Ok(mut held) = self.held.lock() {
            *held = event_type;
        }
    }

    /// Makes messages of outbox rows, in place of the bridge.
    fn relay(&mut self) {
        let (pool, client, doubled) = (self.pool.clone(), self.client.clone(), Arc::clone(&self.doubled));
        let (stop, held) = (self.stop.clone(), Arc::clone(&self.held));
        self.tasks.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                let held = held.lock().map(|held| *held).unwrap_or_default();
                if relay_rows(&pool, &client, doubled.load(Ordering::Relaxed), held).await? == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Ok(())
        }));
    }

    /// Starts a saga in a transaction of its own.
    pub(crate) async fn place(&self, orchestrator: &Orchestrator, id: &str, order: &Order) -> Result<()> {
        self.start_saga(orchestrator, &shop::place_order(), order, id).await
    }

    pub(crate) async fn start_saga(
        &self,
        orchestrator: &Orchestrator,
        saga: &Saga<Order>,
        order: &Order,
        id: &str,
    ) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        let started = orchestrator.start(&mut tx, saga, id, order).await?;
        ensure!(started == Started::Now, "{id} was started before");
        Ok(tx.commit().await?)
    }

    /// Waits until the history of a saga has this cause.
    pub(crate) async fn await_cause(&self, id: &str, cause: &str) -> Result<()> {
        eventually(&format!("{cause} of {id}"), PATIENCE, async || {
            Ok(self.history(id).await?.iter().any(|(.., of)| of == cause).then_some(()))
        })
        .await
    }

    pub(crate) async fn await_status(&self, id: &str, status: &str) -> Result<()> {
        let what = format!("saga {id} to be {status}");
        let reached =
            eventually(&what, PATIENCE, async || Ok((self.status(id).await? == status).then_some(())));
        match reached.await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(format!("{:#?}", self.history(id).await?))),
        }
    }

    pub(crate) async fn status(&self, id: &str) -> Result<String> {
        let status = sqlx::query_scalar("SELECT status FROM saga_instances WHERE id = ?").bind(id);
        Ok(status.fetch_optional(&self.pool).await?.unwrap_or_else(|| "not there".to_owned()))
    }

    pub(crate) async fn count(&self, statement: &str) -> Result<i64> {
        let statement = format!("SELECT CAST(({statement}) AS SIGNED)");
        Ok(sqlx::query_scalar(&statement).fetch_one(&self.pool).await?)
    }

    /// A saga's history: step, from, to and cause.
    pub(crate) async fn history(&self, id: &str) -> Result<Vec<(Option<String>, String, String, String)>> {
        let history =
            "SELECT step, from_status, to_status, cause FROM saga_history WHERE saga_id = ? ORDER BY seq";
        Ok(sqlx::query_as(history).bind(id).fetch_all(&self.pool).await?)
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        ended(self.tasks).await
    }
}

async fn relay_rows(pool: &MySqlPool, client: &Client, doubled: bool, held: &str) -> Result<usize> {
    let rows = "SELECT id, aggregate_id, type, CAST(payload AS CHAR), CAST(headers AS CHAR) FROM outbox WHERE type <> ? \
                ORDER BY seq";
    let rows = sqlx::query(rows).bind(held).fetch_all(pool).await?;
    let jetstream = jetstream::new(client.clone());
    for row in &rows {
        let id: Vec<u8> = row.try_get(0)?;
        let (subject, event_type, payload): (String, String, String) =
            (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let further: Option<String> = row.try_get(4)?;
        let further: BTreeMap<String, String> =
            further.map(|further| serde_json::from_str(&further)).transpose()?.unwrap_or_default();
        let ids = [Some(Uuid::from_slice(&id)?), doubled.then(Uuid::now_v7)];
        for id in ids.into_iter().flatten() {
            let mut headers = HeaderMap::new();
            for (name, value) in
                [("ce-id", id.to_string().as_str()), ("ce-type", &event_type), ("ce-subject", &subject)]
            {
                headers.insert(name, value);
            }
            for (name, value) in &further {
                headers.insert(name.as_str(), value.as_str());
            }
            let subject = format!("shop.{event_type}");
            jetstream.publish_with_headers(subject, headers, payload.clone().into()).await?.await?;
        }
        sqlx::query("DELETE FROM outbox WHERE id = ?").bind(id).execute(pool).await?;
    }
    Ok(rows.len())
}
