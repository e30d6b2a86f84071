//! A shop whose orders are sagas: stock is reserved and the customer notified, then the payment is taken, then the order is shipped.

use std::time::Duration;

use anyhow::Result;
use outbox_consumer::inbox::NoInbox;
use outbox_consumer::{Event, HandlerError, Router, Routes, State};
use outbox_producer::{NewEvent, Outbox};
use outbox_saga::barrier::Barrier;
use outbox_saga::saga::{Participant, Reply, Retry, Saga, SagaCommand, StepBuilder, Work};
use serde::{Deserialize, Serialize};
use sqlx::MySqlPool;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) quantity: i64,
    pub(crate) cents: i64,
    pub(crate) shelf: Option<String>,
}

impl Order {
    pub(crate) fn new(id: &str, quantity: i64, cents: i64) -> Self {
        Self { id: id.to_owned(), quantity, cents, shelf: None }
    }

    pub(crate) fn event(&self, event_type: &str) -> Result<NewEvent, outbox_producer::Error> {
        NewEvent::json("order", &self.id, event_type, self)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StockReserved {
    pub(crate) order: String,
    pub(crate) shelf: String,
}

impl Reply for StockReserved {
    const TYPE: &'static str = "StockReserved";
}

impl outbox_producer::Event for StockReserved {
    const TYPE: &'static str = "StockReserved";
    const AGGREGATE_TYPE: &'static str = "order";

    fn aggregate_id(&self) -> impl std::fmt::Display {
        &self.order
    }
}

pub(crate) const QUICK: Duration = Duration::from_millis(300);
/// Under load an answer may take its time, and must not be missed by chance.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

pub(crate) fn quick(attempts: u32) -> Retry {
    Retry::attempts(attempts).delays(QUICK, QUICK)
}

/// Reserves stock, and takes over where.
pub(crate) fn reserving(step: StepBuilder<Order>) -> StepBuilder<Order> {
    step.command(|order| order.event("ReserveStock"))
        .success::<StockReserved>(|order, reply| order.shelf = Some(reply.shelf))
        .compensation(|order| order.event("ReleaseStock"))
        .timeout(PATIENT)
        .retry(quick(2))
        .compensation_retry(quick(2))
}

pub(crate) fn paying(step: StepBuilder<Order>) -> StepBuilder<Order> {
    step.command(|order| order.event("TakePayment")).timeout(PATIENT)
}

pub(crate) fn shipping(step: StepBuilder<Order>) -> StepBuilder<Order> {
    step.command(|order| order.event("Ship")).timeout(PATIENT).retry(quick(2))
}

pub(crate) fn place_order() -> Saga<Order> {
    Saga::<Order>::named("place-order")
        .parallel(|group| {
            group.step("reserve", reserving).step("notify", |step| {
                step.command(|order| order.event("Notify"))
                    .compensation(|order| order.event("TakeBack"))
                    .timeout(QUICK)
                    .retry(quick(100))
                    .compensation_retry(quick(2))
            })
        })
        .pivot("pay", paying)
        .step("ship", shipping)
        .build()
        .expect("a saga")
}

/// Its first step is given up soon.
pub(crate) fn hasty() -> Result<Saga<Order>> {
    let saga = Saga::named("hasty").step("reserve", |step| reserving(step).timeout(QUICK));
    Ok(saga.pivot("pay", paying).build()?)
}

pub(crate) async fn open(pool: &MySqlPool) -> Result<()> {
    for statement in [
        "CREATE TABLE stock (free BIGINT NOT NULL, reserved BIGINT NOT NULL)",
        "CREATE TABLE money (cents BIGINT NOT NULL)",
        "CREATE TABLE effects (order_id VARCHAR(128) NOT NULL, effect VARCHAR(32) NOT NULL, attempt INT NOT NULL DEFAULT 0)",
        "CREATE TABLE closed (step VARCHAR(32) NOT NULL)",
        "INSERT INTO stock VALUES (1000, 0)",
        "INSERT INTO money VALUES (10000)",
    ] {
        sqlx::query(statement).execute(pool).await?;
    }
    Ok(Barrier::<sqlx::MySql>::new("saga_barrier").prepare(pool).await?)
}

pub(crate) fn participant(pool: &MySqlPool) -> Participant {
    Participant::new(pool.clone(), Barrier::new("saga_barrier"), Outbox::default())
}

pub(crate) fn participants(participant: Participant) -> Routes<NoInbox> {
    Router::new()
        .on("ReserveStock", reserve)
        .on("ReleaseStock", release)
        .on("Notify", plain)
        .on("TakeBack", plain)
        .on("TakePayment", pay)
        .on("Ship", ship)
        .on("Wrap", plain)
        .with_state(participant)
}

async fn reserve(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    let reserve = async |mut work: Work| {
        // Written before the refusal on purpose: it is taken back.
        sqlx::query("UPDATE stock SET free = free - ?, reserved = reserved + ?")
            .bind(order.quantity)
            .bind(order.quantity)
            .execute(&mut **work)
            .await?;
        let free: i64 = sqlx::query_scalar("SELECT free FROM stock").fetch_one(&mut **work).await?;
        if free < 0 {
            return Ok(work.refused("not enough in stock"));
        }
        work.done_with(&StockReserved { order: order.id.clone(), shelf: "7b".to_owned() })
    };
    participant.handle(&command, reserve).await
}

async fn release(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    participant
        .handle(&command, async |mut work| {
            sqlx::query("UPDATE stock SET free = free + ?, reserved = reserved - ?")
                .bind(order.quantity)
                .bind(order.quantity)
                .execute(&mut **work)
                .await?;
            Ok(work.done())
        })
        .await
}

/// Does nothing but to write down that it did it.
async fn plain(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    participant
        .handle(&command, async |mut work| {
            sqlx::query("INSERT INTO effects (order_id, effect) VALUES (?, ?)")
                .bind(&order.id)
                .bind(format!("{} {}", command.action, command.step))
                .execute(&mut **work)
                .await?;
            Ok(work.done())
        })
        .await
}

async fn pay(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    participant
        .handle(&command, async |mut work| {
            let taken = sqlx::query("UPDATE money SET cents = cents - ? WHERE cents >= ?")
                .bind(order.cents)
                .bind(order.cents)
                .execute(&mut **work)
                .await?;
            Ok(if taken.rows_affected() == 1 { work.done() } else { work.refused("too little money") })
        })
        .await
}

/// Refuses the first time, and as long as it is closed: after the pivot, where it is asked again in another round.
async fn ship(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    participant
        .handle(&command, async |mut work| {
            let closed: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM closed WHERE step = 'ship'")
                .fetch_one(&mut **work)
                .await?;
            if closed > 0 || command.step == "ship" && order.quantity % 2 == 0 {
                return Ok(work.refused("no van"));
            }
            assert_eq!(order.shelf.as_deref(), Some("7b"), "taken from the reply");
            sqlx::query("INSERT INTO effects (order_id, effect) VALUES (?, 'shipped')")
                .bind(&order.id)
                .execute(&mut **work)
                .await?;
            Ok(work.done())
        })
        .await
}
