//! What takes too long: a step, the whole saga, and answers that come after that.

use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_saga::saga::{Saga, StepBuilder};
use testbed::Flavour;

use crate::bed::Bed;
use crate::for_each_database;
use crate::shop::{Order, PATIENT, QUICK, hasty, paying, quick, reserving, shipping};

/// What the saga as a whole may take here; the participants answer in much less.
const LIMIT: Duration = Duration::from_secs(4);

/// A command that nobody handles.
fn unheard(step: StepBuilder<Order>) -> StepBuilder<Order> {
    step.command(|order| order.event("Unheard"))
        .compensation(|order| order.event("TakeBack"))
        .timeout(PATIENT)
        .compensation_retry(quick(2))
}

async fn a_saga_that_takes_too_long_is_compensated(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let saga = Saga::named("unheard").timeout(LIMIT).step("reserve", reserving).step("hold", unheard);
    let saga = saga.pivot("pay", paying).build()?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    bed.participate().await?;
    bed.start_saga(&instance.orchestrator, &saga, &Order::new("1", 3, 400), "1").await?;
    bed.await_status("1", "compensated").await?;
    let history = bed.history("1").await?;
    let causes: Vec<_> =
        history.iter().map(|(step, _, to, cause)| (step.as_deref(), &**to, &**cause)).collect();
    ensure!(causes.contains(&(Some("reserve"), "done", "reply")), "{causes:?}");
    ensure!(causes.contains(&(None, "compensating", "saga timeout")), "{causes:?}");
    ensure!(
        causes.contains(&(Some("hold"), "undone", "reply")),
        "what may have been done is undone: {causes:?}"
    );
    ensure!(bed.count("SELECT reserved FROM stock").await? == 0);
    let took = "SELECT TIMESTAMPDIFF(MICROSECOND, created_at, updated_at) FROM saga_instances";
    ensure!(bed.count(took).await? >= i64::try_from(LIMIT.as_micros())?, "not before its limit");
    instance.stop().await?;
    bed.stop().await
}

async fn past_its_pivot_it_goes_on(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let ship = |step| shipping(step).retry(quick(1_000));
    let saga = Saga::named("patient").timeout(LIMIT).step("reserve", reserving).pivot("pay", paying);
    let saga = saga.step("ship", ship).build()?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    bed.participate().await?;
    sqlx::query("INSERT INTO closed VALUES ('ship')").execute(&bed.pool).await?;
    bed.start_saga(&instance.orchestrator, &saga, &Order::new("1", 3, 400), "1").await?;
    bed.await_cause("1", "saga timeout").await?;
    ensure!(bed.status("1").await? == "running", "{:#?}", bed.history("1").await?);
    sqlx::query("DELETE FROM closed").execute(&bed.pool).await?;
    bed.await_status("1", "completed").await?;
    ensure!(bed.count("SELECT reserved FROM stock").await? == 3);
    instance.stop().await?;
    bed.stop().await
}

/// The participant did it, but its answer comes when the step was given up and undone.
async fn a_late_answer_changes_nothing(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let saga = hasty()?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    bed.participate().await?;
    bed.hold_up("StockReserved");
    bed.start_saga(&instance.orchestrator, &saga, &Order::new("1", 3, 400), "1").await?;
    bed.await_status("1", "compensated").await?;
    ensure!(bed.count("SELECT COUNT(*) FROM outbox WHERE type = 'StockReserved'").await? > 0, "it was done");
    let data = "SELECT CAST(data AS CHAR) FROM saga_instances";
    let before: String = sqlx::query_scalar(data).fetch_one(&bed.pool).await?;
    bed.hold_up("");
    bed.await_cause("1", "late reply").await?;
    let after: String = sqlx::query_scalar(data).fetch_one(&bed.pool).await?;
    ensure!(after == before && after.contains("null"), "{after}");
    ensure!(bed.status("1").await? == "compensated");
    ensure!(
        bed.count("SELECT reserved FROM stock").await? == 0
            && bed.count("SELECT cents FROM money").await? == 10_000
    );
    instance.stop().await?;
    bed.stop().await
}

/// A pivot that cannot be undone waits, stuck, for its answer, however late; the answer to its repetition changes nothing.
async fn a_stuck_pivot_goes_on_with_its_late_answer(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let pay = |step| paying(step).timeout(QUICK).retry(quick(2));
    let saga = Saga::named("pay-first").pivot("pay", pay).step("ship", |step| shipping(step).retry(quick(2)));
    let saga = saga.build()?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    bed.participate().await?;
    bed.hold_up("SagaDone");
    let order = Order { shelf: Some("7b".to_owned()), ..Order::new("1", 3, 400) };
    bed.start_saga(&instance.orchestrator, &saga, &order, "1").await?;
    bed.await_status("1", "stuck").await?;
    bed.hold_up("");
    bed.await_status("1", "completed").await?;
    bed.await_cause("1", "duplicate reply").await?;
    ensure!(bed.count("SELECT cents FROM money").await? == 10_000 - 400, "paid once");
    instance.stop().await?;
    bed.stop().await
}

for_each_database!(
    a_saga_that_takes_too_long_is_compensated,
    past_its_pivot_it_goes_on,
    a_late_answer_changes_nothing,
    a_stuck_pivot_goes_on_with_its_late_answer,
);
