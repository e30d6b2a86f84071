//! Replies that come together.

use anyhow::{Result, ensure};
use outbox_saga::saga::{Orchestrator, Saga, StepBuilder};
use testbed::{Flavour, eventually};

use crate::bed::{Bed, PATIENCE};
use crate::for_each_database;
use crate::shop::{Order, PATIENT, StockReserved, paying, reserving};

const ORDERS: i64 = 40;
/// As many as nobody can be asked for.
const UNLUCKY: i64 = 13;

/// Its reply panics for an unlucky order.
fn superstitious() -> Result<Saga<Order>> {
    let reserve = |step: StepBuilder<Order>| {
        step.command(|order| order.event("ReserveStock"))
            .success::<StockReserved>(|order, _| assert!(order.quantity != UNLUCKY, "on purpose"))
            .compensation(|order| order.event("ReleaseStock"))
            .timeout(PATIENT)
    };
    Ok(Saga::named("superstitious").step("reserve", reserve).pivot("pay", paying).build()?)
}

/// Starts the sagas of these orders, and waits until their stock is reserved and the replies wait in the stream.
async fn replies_wait(
    bed: &mut Bed,
    saga: &Saga<Order>,
    orders: impl IntoIterator<Item = Order>,
) -> Result<()> {
    let sagas = Orchestrator::new(bed.pool.clone(), outbox_producer::Outbox::default()).with(saga);
    sagas.prepare().await?;
    bed.participate().await?;
    for order in orders {
        bed.start_saga(&sagas, saga, &order, &order.id).await?;
    }
    eventually("all replies to be in the stream", PATIENCE, async || {
        let undone = "SELECT COUNT(*) FROM saga_instances i LEFT JOIN saga_barrier b ON b.transaction_id = i.id WHERE b.branch IS NULL";
        let unsent = "SELECT COUNT(*) FROM outbox";
        Ok((bed.count(undone).await? == 0 && bed.count(unsent).await? == 0).then_some(()))
    })
    .await
}

fn orders(count: i64) -> impl Iterator<Item = Order> {
    (0..count).map(|number| Order::new(&format!("order-{number}"), 1, 1))
}

async fn await_completed(bed: &Bed, count: i64) -> Result<()> {
    eventually(&format!("{count} sagas to be completed"), PATIENCE, async || {
        let completed = bed.count("SELECT COUNT(*) FROM saga_instances WHERE status = 'completed'").await?;
        ensure!(completed <= count, "{completed} completed, not {count}");
        Ok((completed == count).then_some(()))
    })
    .await
}

async fn they_share_a_transaction(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let saga = Saga::named("together").step("reserve", reserving).pivot("pay", paying).build()?;
    replies_wait(&mut bed, &saga, orders(ORDERS)).await?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    await_completed(&bed, ORDERS).await?;
    // The lines of one statement have one time.
    let statements = bed
        .count("SELECT COUNT(DISTINCT at) FROM saga_history WHERE step = 'reserve' AND to_status = 'done'")
        .await?;
    ensure!(statements <= ORDERS / 2, "{statements} statements for {ORDERS} replies");
    instance.stop().await?;
    bed.stop().await
}

async fn a_locked_saga_holds_nobody_up(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let saga = Saga::named("locked").step("reserve", reserving).pivot("pay", paying).build()?;
    replies_wait(&mut bed, &saga, orders(ORDERS)).await?;
    let mut holder = bed.pool.begin().await?;
    let held = "SELECT CAST(id AS CHAR) FROM saga_instances WHERE id = 'order-3' FOR UPDATE";
    let held: String = sqlx::query_scalar(held).fetch_one(&mut *holder).await?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    await_completed(&bed, ORDERS - 1).await?;
    ensure!(bed.status(&held).await? == "running", "it is locked");
    holder.rollback().await?;
    await_completed(&bed, ORDERS).await?;
    instance.stop().await?;
    bed.stop().await
}

async fn a_definition_that_panics_meets_only_its_own_saga(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let saga = superstitious()?;
    let unlucky = Order::new("unlucky", UNLUCKY, 1);
    replies_wait(&mut bed, &saga, orders(5).chain([unlucky]).chain(orders(9).skip(5))).await?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    await_completed(&bed, 9).await?;
    ensure!(bed.status("unlucky").await? == "running");
    instance.stop().await?;
    bed.stop().await
}

/// Replies whose payload the definition cannot read are dead letters; the one to the same saga that came right before them is not.
async fn unreadable_replies_are_given_up_alone(flavour: Flavour) -> Result<()> {
    const UNREADABLE: u64 = 3;
    let mut bed = Bed::start(flavour).await?;
    let saga = Saga::named("unreadable").step("reserve", reserving).pivot("pay", paying).build()?;
    replies_wait(&mut bed, &saga, orders(12)).await?;
    for _ in 0..UNREADABLE {
        bed.publish_reply("StockReserved", "order-11", "reserve", "{}").await?;
    }
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    await_completed(&bed, 12).await?;
    eventually("their dead letters", PATIENCE, async || {
        Ok((bed.dead_letters().await? == UNREADABLE).then_some(()))
    })
    .await?;
    instance.stop().await?;
    bed.stop().await
}

for_each_database!(
    they_share_a_transaction,
    a_locked_saga_holds_nobody_up,
    a_definition_that_panics_meets_only_its_own_saga,
    unreadable_replies_are_given_up_alone,
);
