//! Sagas of two steps, from their start to their end: an orchestrator and two participants, all with MySQL, over the bridge.
//!
//! A saga that completes takes four messages: a command and a reply for each step, one step after the other. With business the participants
//! have a database, and reply through its outbox; without, they have none. Orchestrator, participants and callers share this process's one thread;
//! the bridge has its own process.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::stream;
use hdrhistogram::Histogram;
use outbox_bridge_tests::Bridge;
use outbox_consumer::inbox::NoInbox;
use outbox_consumer::mysql::Transactions;
use outbox_consumer::{Consumer, HandlerError, Router, Routes, State};
use outbox_producer::{NewEvent, Outbox};
use outbox_saga::barrier::Barrier;
use outbox_saga::saga::{Orchestrator, Participant, Replier, Saga, SagaCommand};
use serde::{Deserialize, Serialize};
use sqlx::MySqlPool;
use sqlx::mysql::MySqlPoolOptions;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::field::Field;
use crate::latency::{self, milliseconds};
use crate::report::{Measurement, Target, Unit};
use crate::{Scale, load, progress};

pub(crate) const GROUP: &str = "sagas";

/// Callers, and handlers of each participant, at a time.
const CONCURRENCY: u32 = 16;
/// Replies in hand at a time, for each stream: they hold no connection, and share transactions.
const REPLIES_AT_A_TIME: u32 = 64;
/// Connections of all services together.
const CONNECTIONS: u32 = 5 * CONCURRENCY + 4;
/// Long enough that nothing is ever sent twice.
const LIMIT: Duration = Duration::from_secs(300);
/// The stream of those who reply without a database, and its subject.
const REPLIES: &str = "REPLIES";
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Rows that the branches' business is spread over.
pub(crate) const ROWS: u64 = 1_000;
/// The two services that take part: the type of its command, and its business.
const SERVICES: [(&str, &str); 2] = [
    ("TakeStock", "UPDATE shop.stock SET free = free - 1, taken = taken + 1 WHERE id = ?"),
    ("TakePayment", "UPDATE shop.accounts SET cents = cents - 100 WHERE id = ?"),
];

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    id: String,
    cents: i64,
}

/// A participant with business: an update behind the barrier, and the reply through the outbox.
#[derive(Debug, Clone)]
struct Service {
    participant: Participant,
    business: &'static str,
}

async fn serve(command: SagaCommand, State(service): State<Service>) -> Result<(), HandlerError> {
    let row = row_of(&command.saga);
    let work = async |mut work: outbox_saga::saga::Work| {
        sqlx::query(service.business).bind(row).execute(&mut **work).await?;
        Ok(work.done())
    };
    service.participant.handle(&command, work).await
}

/// A participant without business has no database.
async fn answer(command: SagaCommand, State(replier): State<Replier>) -> Result<(), HandlerError> {
    replier.done(&command).await
}

/// The row that a transaction works on, by the number at the end of its id.
pub(crate) fn row_of(id: &str) -> u64 {
    let number = id.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
    number.unwrap_or_default() % ROWS
}

/// The tables of the branches' business, made anew.
pub(crate) async fn fill(field: &Field) -> Result<()> {
    let rows = (0..ROWS).map(|id| format!("({id}, 1000000, 0)")).collect::<Vec<_>>().join(", ");
    let accounts = (0..ROWS).map(|id| format!("({id}, 100000000, 0)")).collect::<Vec<_>>().join(", ");
    let statements = format!(
        "DROP TABLE IF EXISTS shop.stock, shop.accounts; \
         CREATE TABLE shop.stock (id INT NOT NULL PRIMARY KEY, free BIGINT NOT NULL, taken BIGINT NOT NULL); \
         CREATE TABLE shop.accounts (id INT NOT NULL PRIMARY KEY, cents BIGINT NOT NULL, held BIGINT NOT NULL); \
         INSERT INTO shop.stock VALUES {rows}; INSERT INTO shop.accounts VALUES {accounts}"
    );
    field.world.database.exec(&statements).await
}

/// A pool of the services' connections.
pub(crate) async fn pool(field: &Field, connections: u32) -> Result<MySqlPool> {
    let url = format!("{}/shop?ssl-mode=DISABLED", field.world.database.url("root"));
    Ok(MySqlPoolOptions::new().max_connections(connections).connect(&url).await?)
}

fn place_order() -> Result<Saga<Order>> {
    let [(stock, _), (payment, _)] = SERVICES;
    Ok(Saga::<Order>::named("place-order")
        .step("stock", |step| {
            step.command(move |order| NewEvent::json("order", &order.id, stock, order))
                .compensation(|order| NewEvent::json("order", &order.id, "ReturnStock", order))
                .timeout(LIMIT)
        })
        .pivot("payment", |step| {
            step.command(move |order| NewEvent::json("order", &order.id, payment, order)).timeout(LIMIT)
        })
        .build()?)
}

fn replies() -> stream::Config {
    stream::Config {
        name: REPLIES.to_owned(),
        subjects: vec![REPLIES.to_owned()],
        ..stream::Config::default()
    }
}

pub(crate) async fn measure(scale: &Scale) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for durable in [false, true] {
        let field = Field::services(SERVICES.len() + 1, durable).await?;
        fill(&field).await?;
        let mut bridge = Bridge::start(&field.settings().set("source.start", "now")).await?;
        for business in [false, true] {
            all.extend(kind(&field, scale, durable, business).await?);
            bridge.check_running()?;
        }
        bridge.finish().await?;
    }
    Ok(all)
}

/// What DTM publishes a second for sagas of two branches, on four cores; it has no figure for TCC.
pub(crate) fn dtm(business: bool) -> f64 {
    if business { 531.0 } else { 935.0 }
}

/// How a kind of transactions is named in the report.
pub(crate) fn name(what: &str, durable: bool, business: bool) -> String {
    let business = if business { "with business SQL and barrier" } else { "without business SQL" };
    let durable = if durable { ", synced at each commit" } else { "" };
    format!("{what}, {business}{durable}")
}

async fn kind(field: &Field, scale: &Scale, durable: bool, business: bool) -> Result<Vec<Measurement>> {
    let mut rate = Measurement::new(GROUP, name("two steps", durable, business), Unit::PerSecond)
        .target(Target::AtLeast(dtm(business)));
    let new = |quantile: &str| {
        let what = format!("start to end at {}/s, {quantile}", scale.transaction_rate);
        Measurement::new(GROUP, name(&what, durable, business), Unit::Milliseconds)
    };
    let (mut p50, mut p99) = (new("p50"), new("p99"));
    let running = Running::start(field, business).await?;
    for round in 0..scale.rounds {
        progress(&format!("{}, round {}", name("sagas", durable, business), round + 1));
        rate.add(running.rate(scale.transactions).await?);
        let ends = running.latencies(scale).await?;
        p50.add(milliseconds(&ends, 0.5));
        p99.add(milliseconds(&ends, 0.99));
    }
    running.stop().await?;
    Ok(vec![rate, p50, p99])
}

/// Orchestrator and participants at work.
struct Running {
    pool: MySqlPool,
    /// The callers', on the same pool.
    transactions: Transactions,
    sagas: Orchestrator,
    definition: Saga<Order>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Running {
    async fn start(field: &Field, business: bool) -> Result<Self> {
        let pool = pool(field, CONNECTIONS).await?;
        let definition = place_order()?;
        let sagas = Orchestrator::new(pool.clone(), Outbox::new("shop.outbox_0")?).with(&definition);
        sagas.prepare().await?;
        let barrier = Barrier::new("saga_barrier");
        barrier.prepare(&pool).await?;
        let mut running = Self {
            transactions: Transactions::new(pool.clone()),
            pool,
            sagas: sagas.clone(),
            definition,
            stop: CancellationToken::new(),
            tasks: Vec::new(),
        };
        for (number, (command, update)) in (1..).zip(SERVICES) {
            let subject = Some(format!("orders_0.*.{command}"));
            if business {
                let outbox = Outbox::new(&format!("shop.outbox_{number}"))?;
                let participant = Participant::new(running.pool.clone(), barrier.clone(), outbox);
                let inbox = participant.inbox();
                let routes =
                    Router::new().on(command, serve).with_state(Service { participant, business: update });
                running.consume(field, "ORDERS_0", subject, inbox, routes, CONCURRENCY).await?;
                running.take_replies(field, &format!("ORDERS_{number}")).await?;
            } else {
                let replier = Replier::new(field.client.clone(), REPLIES);
                let routes = Router::new().on(command, answer).with_state(replier);
                running.consume(field, "ORDERS_0", subject, NoInbox::new(), routes, CONCURRENCY).await?;
            }
        }
        if !business {
            field.world.jetstream.create_stream(replies()).await?;
            running.take_replies(field, REPLIES).await?;
        }
        let (timers, stop) = (sagas, running.stop.clone());
        running.tasks.push(tokio::spawn(async move {
            timers.run(stop).await;
            Ok(())
        }));
        Ok(running)
    }

    /// The orchestrator's side.
    async fn take_replies(&mut self, field: &Field, stream: &str) -> Result<()> {
        let replies = self.sagas.replies().with_state(self.sagas.clone());
        self.consume(field, stream, None, self.sagas.inbox(), replies, REPLIES_AT_A_TIME).await
    }

    async fn consume(
        &mut self,
        field: &Field,
        stream: &str,
        subject: Option<String>,
        inbox: NoInbox,
        routes: Routes<NoInbox>,
        concurrency: u32,
    ) -> Result<()> {
        let durable = format!("bench-{}", Uuid::new_v4().simple());
        let consumer = Consumer::builder(field.client.clone(), stream, durable)
            .filter_subjects(subject)
            .start_at(outbox_consumer::StartAt::New)
            .concurrency(concurrency as usize);
        let consumer = consumer.build(inbox, routes).await?;
        let stop = self.stop.clone();
        self.tasks.push(tokio::spawn(async move { Ok(consumer.run(stop).await?) }));
        Ok(())
    }

    /// What starts the saga of each number.
    fn starter(
        &self,
        run: &str,
    ) -> impl Fn(u64) -> futures_util::future::BoxFuture<'static, Result<()>> + Clone + use<> {
        let (transactions, sagas, definition) =
            (self.transactions.clone(), self.sagas.clone(), self.definition.clone());
        let run = run.to_owned();
        move |number| {
            let (transactions, sagas, definition) = (transactions.clone(), sagas.clone(), definition.clone());
            let order = Order { id: format!("{run}-{number}"), cents: 100 };
            Box::pin(async move {
                let mut tx = transactions.begin().await?;
                sagas.start(&mut tx, &definition, &order.id, &order).await?;
                Ok(transactions.commit(tx).await?)
            })
        }
    }

    /// Sagas completed a second, from the first start to the last end.
    async fn rate(&self, count: u64) -> Result<f64> {
        let began = Instant::now();
        load::closed(count, u64::from(CONCURRENCY), self.starter(&run())).await?;
        self.completed().await?;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }

    /// The times from start to end, as they stand in the table.
    async fn latencies(&self, scale: &Scale) -> Result<Histogram<u64>> {
        let run = run();
        let rate = scale.transaction_rate;
        load::open(rate, rate * scale.seconds, self.starter(&run)).await?;
        self.completed().await?;
        let lives =
            "SELECT TIMESTAMPDIFF(MICROSECOND, created_at, updated_at) FROM saga_instances WHERE id LIKE ?";
        let lives: Vec<i64> =
            sqlx::query_scalar(lives).bind(format!("{run}-%")).fetch_all(&self.pool).await?;
        let mut histogram = latency::histogram()?;
        for life in lives {
            latency::record(&mut histogram, Duration::from_micros(u64::try_from(life)?));
        }
        Ok(histogram)
    }

    /// Waits until every saga is completed.
    async fn completed(&self) -> Result<()> {
        let open = "SELECT COUNT(*) FROM saga_instances WHERE status IN ('running', 'compensating', 'stuck')";
        let until = Instant::now() + LIMIT;
        loop {
            let open: i64 = sqlx::query_scalar(open).fetch_one(&self.pool).await?;
            if open == 0 {
                break;
            }
            anyhow::ensure!(Instant::now() < until, "{open} sagas have not ended");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let other = "SELECT COUNT(*) FROM saga_instances WHERE status <> 'completed'";
        let other: i64 = sqlx::query_scalar(other).fetch_one(&self.pool).await?;
        anyhow::ensure!(other == 0, "{other} sagas were not completed");
        Ok(())
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        for task in self.tasks {
            task.await.context("a task has panicked")??;
        }
        self.pool.close().await;
        Ok(())
    }
}

/// What the ids of one run begin with.
pub(crate) fn run() -> String {
    Uuid::new_v4().simple().to_string()
}
