//! Participants by themselves: what they do with a transaction that is lost, and replies without a database.

use anyhow::{Result, ensure};
use outbox_consumer::inbox::NoInbox;
use outbox_consumer::{Event, HandlerError, Router, State};
use outbox_saga::barrier::Barrier;
use outbox_saga::saga::engine::Action;
use outbox_saga::saga::{Replier, Saga, SagaCommand};
use sqlx::Executor as _;
use testbed::Flavour;

use crate::bed::{Bed, REPLIES};
use crate::for_each_database;
use crate::shop::{self, Order, PATIENT, StockReserved, quick};

/// Work that has ended its transaction, as a deadlock does whose error is passed over: then nothing is committed, not even the reply.
async fn work_that_has_lost_its_transaction_is_not_done(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    let participant = shop::participant(&bed.pool);
    Barrier::<sqlx::MySql>::new("saga_barrier").prepare(&bed.pool).await?;
    bed.hold_up("SagaDone");
    for (action, rows) in [(Action::Do, 0), (Action::Undo, 1)] {
        let command = SagaCommand { saga: format!("saga-{action}"), step: "pay".to_owned(), action };
        if action == Action::Undo {
            let done = SagaCommand { action: Action::Do, ..command.clone() };
            participant
                .handle(&done, async |work| Ok(work.done()))
                .await
                .map_err(|err| anyhow::anyhow!("{err}"))?;
        }
        let lost = participant.handle(&command, async |mut work| {
            (&mut **work).execute("ROLLBACK").await?;
            sqlx::query("UPDATE money SET cents = cents - 1").execute(&mut **work).await?;
            Ok(work.done())
        });
        let error = lost.await.expect_err("the transaction is lost").report();
        ensure!(error.contains("transaction"), "{error}");
        let written = |table: &str| format!("SELECT COUNT(*) FROM {table}");
        ensure!(bed.count(&written("outbox")).await? == rows, "{action}: a reply for what was not done");
        ensure!(bed.count(&written("saga_barrier")).await? == rows, "{action}");
        let undone = "SELECT COUNT(*) FROM saga_barrier WHERE state = 'undone'";
        ensure!(bed.count(undone).await? == 0, "{action}");
    }
    bed.stop().await
}

/// A connection that waited for the next command and died meanwhile is not that command's failure.
async fn a_connection_that_died_fails_no_command(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    let participant = shop::participant(&bed.pool);
    for number in 0..10 {
        let command =
            SagaCommand { saga: format!("saga-{number}"), step: "pay".to_owned(), action: Action::Do };
        let mut connection: i64 = 0;
        let handled = participant.handle(&command, async |mut work| {
            connection =
                sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)").fetch_one(&mut **work).await?;
            Ok(work.done())
        });
        handled.await.map_err(|error| anyhow::anyhow!("{number}: {error}"))?;
        (&bed.pool).execute(format!("KILL {connection}").as_str()).await?;
    }
    bed.stop().await
}

async fn reserve(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(replier): State<Replier>,
) -> Result<(), HandlerError> {
    match (command.action, order.quantity) {
        (Action::Do, 99) => replier.refused(&command, "not enough in stock").await,
        (Action::Do, _) => {
            replier.done_with(&command, &StockReserved { order: order.id, shelf: "7b".to_owned() }).await
        }
        (Action::Undo, _) => replier.done(&command).await,
    }
}

async fn pay(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(replier): State<Replier>,
) -> Result<(), HandlerError> {
    if order.cents > 100 {
        replier.refused(&command, "too little money").await
    } else {
        replier.done(&command).await
    }
}

/// Every command comes twice, so there are two replies to each.
async fn some_have_no_database(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    bed.doubled.store(true, std::sync::atomic::Ordering::Relaxed);
    let saga = Saga::named("stateless").step("reserve", |step| shop::reserving(step).retry(quick(1)));
    let saga = saga
        .pivot("pay", |step| step.command(|order: &Order| order.event("TakePayment")).timeout(PATIENT))
        .build()?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    let routes = Router::new()
        .on("ReserveStock", reserve)
        .on("ReleaseStock", reserve)
        .on("TakePayment", pay)
        .with_state(bed.replier());
    bed.run("stateless", NoInbox::new(), routes).await?;
    for (id, quantity, cents, end) in
        [("a", 1, 1, "completed"), ("b", 99, 1, "compensated"), ("c", 1, 101, "compensated")]
    {
        bed.start_saga(&instance.orchestrator, &saga, &Order::new(id, quantity, cents), id).await?;
        bed.await_status(id, end).await?;
    }
    let undone = "SELECT COUNT(*) FROM saga_steps WHERE status = 'undone'";
    ensure!(bed.count(undone).await? == 1, "only what was done is undone");
    let shelf =
        "SELECT COUNT(*) FROM saga_instances WHERE JSON_UNQUOTE(JSON_EXTRACT(data, '$.shelf')) = '7b'";
    ensure!(bed.count(shelf).await? == 2, "taken from the reply");
    ensure!(bed.replies(REPLIES).await? >= 10, "each command is answered each time");
    instance.stop().await?;
    bed.stop().await
}

for_each_database!(
    work_that_has_lost_its_transaction_is_not_done,
    a_connection_that_died_fails_no_command,
    some_have_no_database,
);
