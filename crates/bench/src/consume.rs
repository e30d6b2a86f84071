//! Consumers: handlers that do nothing, and handlers that write, beside what the servers allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::StreamExt as _;
use outbox_bridge::publish::Message;
use outbox_bridge_tests::STREAM;
use outbox_consumer::inbox::{Inbox, MemoryInbox, MySqlInbox};
use outbox_consumer::{Consumer, Context, HandlerError, Router, Routes, State, Tx};
use outbox_event::header;
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::field::{Backlog, Field};
use crate::report::{Measurement, Target, Unit};
use crate::{Scale, limits, progress};

pub(crate) const GROUP: &str = "consumers";

/// As the consumer's defaults.
const BATCH: usize = 200;
const ACK_PENDING: i64 = 10_000;
const CONCURRENCY: u32 = 16;
/// How long all messages may take.
const LIMIT: Duration = Duration::from_secs(300);

const EFFECTS: &str = "CREATE TABLE IF NOT EXISTS shop.effect (seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, \
                       message VARBINARY(64) NOT NULL)";
const INSERT_EFFECT: &str = "INSERT INTO shop.effect (message) VALUES (?)";
const BARE_INBOX: &str = "CREATE TABLE IF NOT EXISTS shop.bare_inbox (consumer VARBINARY(255) NOT NULL, \
                          message_id VARBINARY(255) NOT NULL, handled_at DATETIME(6) NOT NULL, \
                          PRIMARY KEY (consumer, message_id), KEY age (consumer, handled_at))";
const INSERT_BARE: &str =
    "INSERT INTO shop.bare_inbox (consumer, message_id, handled_at) VALUES (?, ?, UTC_TIMESTAMP(6))";

/// How many were handled, and who waits for that.
#[derive(Debug, Default)]
struct Count {
    handled: AtomicU64,
    wanted: u64,
    complete: Notify,
}

impl Count {
    fn add(&self) {
        if self.handled.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted {
            self.complete.notify_one();
        }
    }
}

async fn nothing(State(count): State<Arc<Count>>) {
    count.add();
}

async fn effect(
    State(count): State<Arc<Count>>,
    mut tx: Tx<MySqlInbox>,
    context: Context,
) -> Result<(), HandlerError> {
    sqlx::query(INSERT_EFFECT)
        .bind(context.message_id().as_bytes())
        .execute(&mut **tx)
        .await
        .map_err(HandlerError::transient)?;
    count.add();
    Ok(())
}

pub(crate) async fn measure(field: &Field, scale: &Scale) -> Result<Vec<Measurement>> {
    let backlog = Backlog::plain((scale.events / 2).min(scale.limit_messages));
    progress("consumers: filling the log");
    field.fill(backlog).await?;
    let messages = field.messages(backlog.events()).await?;
    let mut all = with_memory(field, scale, &messages).await?;
    let few = messages.get(..messages.len() / 5).unwrap_or_default();
    all.push(with_mysql(field, scale, few).await?);
    Ok(all)
}

async fn with_memory(field: &Field, scale: &Scale, messages: &[Message]) -> Result<Vec<Measurement>> {
    let count = messages.len() as u64;
    let new = |name: &str| {
        Measurement::new(GROUP, format!("{name}, {count} messages"), Unit::PerSecond)
            .beside("bare pull, explicit acks")
    };
    let mut unordered = new("no-op, memory inbox").target(Target::OfLimit(0.8));
    let mut ordered = new("the same, ordered by 10,000 keys");
    let mut hot = new("the same, ordered, one hot key");
    let hot_messages: Vec<Message> = messages.iter().map(with_hot_key).collect();
    for round in 0..scale.rounds {
        progress(&format!("consumers with a memory inbox, round {}", round + 1));
        store(field, messages).await?;
        let limit = bare(field, count).await?;
        unordered.add(handled(field, count, false).await?);
        ordered.add(handled(field, count, true).await?);
        store(field, &hot_messages).await?;
        hot.add(handled(field, count, true).await?);
        [&mut unordered, &mut ordered, &mut hot]
            .into_iter()
            .for_each(|measurement| measurement.add_limit(limit));
    }
    Ok(vec![unordered, ordered, hot])
}

fn with_hot_key(message: &Message) -> Message {
    let mut message = message.clone();
    for (name, value) in &mut message.headers {
        if name == header::CE_PARTITION_KEY {
            *value = "hot".into();
        }
    }
    message
}

async fn store(field: &Field, messages: &[Message]) -> Result<()> {
    field.fresh_streams().await?;
    limits::fast_ingest(&field.client, messages).await
}

fn durable() -> String {
    format!("bench-{}", Uuid::new_v4().simple())
}

/// Messages a second by a loop that acknowledges each and does nothing else.
async fn bare(field: &Field, count: u64) -> Result<f64> {
    let config = pull::Config {
        durable_name: Some(durable()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: ACK_PENDING,
        ..Default::default()
    };
    let consumer = field.world.jetstream.get_stream(STREAM).await?.create_consumer(config).await?;
    let began = Instant::now();
    let mut messages = consumer.stream().max_messages_per_batch(BATCH).messages().await?;
    for _ in 0..count {
        let message = messages.next().await.context("the subscription has ended")??;
        message.ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// Messages a second that a handler without work is called for.
async fn handled(field: &Field, count: u64, ordered: bool) -> Result<f64> {
    let state = Arc::new(Count { wanted: count, ..Count::default() });
    let routes = Router::new().on("placed", nothing).with_state(state.clone());
    run(field, MemoryInbox::new(), routes, ordered, &state).await
}

async fn run<I: Inbox>(
    field: &Field,
    inbox: I,
    routes: Routes<I>,
    ordered: bool,
    count: &Count,
) -> Result<f64> {
    let builder =
        Consumer::builder(field.client.clone(), STREAM, durable()).concurrency(CONCURRENCY as usize);
    let builder = if ordered { builder.ordered() } else { builder };
    let consumer = builder.build(inbox, routes).await?;
    let stop = CancellationToken::new();
    let began = Instant::now();
    let running = consumer.run(stop.clone());
    let mut running = std::pin::pin!(running);
    let elapsed = tokio::select! {
        biased;
        ended = &mut running => return ended.map_err(Into::into).and(Err(anyhow::anyhow!("the consumer has ended"))),
        () = count.complete.notified() => began.elapsed(),
        () = tokio::time::sleep(LIMIT) => anyhow::bail!("handled {:?} of {}", count.handled, count.wanted),
    };
    stop.cancel();
    running.await?;
    Ok(count.wanted as f64 / elapsed.as_secs_f64())
}

async fn with_mysql(field: &Field, scale: &Scale, messages: &[Message]) -> Result<Measurement> {
    let count = messages.len() as u64;
    let mut measurement =
        Measurement::new(GROUP, format!("one insert, MySQL inbox, {count} messages"), Unit::PerSecond)
            .beside("bare sqlx transactions")
            .target(Target::OfLimit(0.9));
    let url = format!("{}/shop?ssl-mode=DISABLED", field.world.database.url("root"));
    let pool = MySqlPoolOptions::new()
        .min_connections(CONCURRENCY)
        .max_connections(CONCURRENCY + 1)
        .connect(&url)
        .await?;
    field.world.database.exec(EFFECTS).await?;
    field.world.database.exec(BARE_INBOX).await?;
    store(field, messages).await?;
    for round in 0..scale.rounds {
        progress(&format!("consumer with a MySQL inbox, round {}", round + 1));
        field
            .world
            .database
            .exec("TRUNCATE shop.effect; TRUNCATE shop.bare_inbox; DROP TABLE IF EXISTS shop.outbox_inbox")
            .await?;
        let first = if round.is_multiple_of(2) { Some(transactions(&pool, messages).await?) } else { None };
        let state = Arc::new(Count { wanted: count, ..Count::default() });
        let routes = Router::new().on("placed", effect).with_state(state.clone());
        measurement.add(run(field, MySqlInbox::new(pool.clone()), routes, false, &state).await?);
        measurement.add_limit(match first {
            Some(rate) => rate,
            None => transactions(&pool, messages).await?,
        });
    }
    pool.close().await;
    Ok(measurement)
}

/// Transactions a second of the same shape, as many at a time.
async fn transactions(pool: &MySqlPool, messages: &[Message]) -> Result<f64> {
    let ids: Arc<Vec<String>> = Arc::new(messages.iter().map(|message| message.id.clone()).collect());
    let next = Arc::new(AtomicU64::new(0));
    let consumer = durable();
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (pool, ids, next, consumer) = (pool.clone(), ids.clone(), next.clone(), consumer.clone());
        tasks.spawn(async move {
            while let Some(id) = ids.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed))?) {
                let mut transaction = pool.begin().await?;
                let record = sqlx::query(INSERT_BARE).bind(consumer.as_bytes()).bind(id.as_bytes());
                record.execute(&mut *transaction).await?;
                sqlx::query(INSERT_EFFECT).bind(id.as_bytes()).execute(&mut *transaction).await?;
                transaction.commit().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(messages.len() as f64 / began.elapsed().as_secs_f64())
}
