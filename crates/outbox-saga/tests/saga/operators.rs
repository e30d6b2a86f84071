//! What is cancelled, timed out, stuck, and put right by hand.

use anyhow::{Result, ensure};
use outbox_producer::Outbox;
use outbox_saga::saga::engine::Refusal;
use outbox_saga::saga::{Orchestrator, Request, SagaErrorKind};
use testbed::{Flavour, eventually};

use crate::bed::{Bed, PATIENCE};
use crate::for_each_database;
use crate::shop::Order;

async fn a_cancelled_saga_without_participants_is_stuck_until_it_is_retried(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let orchestrator = bed.orchestrate().await?;
    bed.place(&orchestrator, "1", &Order::new("1", 1, 400)).await?;
    // `notify` is sent again and again meanwhile, since nobody answers.
    eventually("a repeated command", PATIENCE, async || {
        let attempts = "SELECT MAX(attempts) FROM saga_steps WHERE saga_id = '1'";
        Ok((bed.count(attempts).await? > 1).then_some(()))
    })
    .await?;
    let mut tx = bed.pool.begin().await?;
    orchestrator.cancel(&mut tx, "1", "changed my mind").await?;
    tx.commit().await?;
    ensure!(bed.status("1").await? == "compensating");
    let mut tx = bed.pool.begin().await?;
    let again = orchestrator.cancel(&mut tx, "1", "once more").await.expect_err("twice");
    ensure!(again.kind() == SagaErrorKind::Refused(Refusal::Compensating));
    let unknown = orchestrator.cancel(&mut tx, "2", "nobody").await.expect_err("unknown");
    ensure!(unknown.kind() == SagaErrorKind::NotFound);
    drop(tx);
    // Nobody undoes `reserve` for 40 s; `notify` is stuck after two attempts.
    bed.await_status("1", "stuck").await?;
    // Not the pivot's turn yet: a request that cannot be followed is written down.
    Request::Skip { step: "pay".to_owned() }.leave(&bed.pool, "1").await?;
    bed.await_cause("1", "request refused").await?;
    Request::Retry { step: None }.leave(&bed.pool, "1").await?;
    bed.await_cause("1", "operator: retry").await?;
    bed.participate().await?;
    bed.await_status("1", "compensated").await?;
    let history = bed.history("1").await?;
    for cause in ["started", "timeout", "retry", "cancelled", "operator: retry", "reply"] {
        ensure!(history.iter().any(|(.., of)| of == cause), "{cause}: {history:#?}");
    }
    // The commands that were never answered are handled in the end, whatever their order, and nothing is left of them.
    eventually("all commands to be handled", PATIENCE, async || {
        Ok((bed.count("SELECT COUNT(*) FROM saga_barrier WHERE state IN ('undone', 'barred')").await? == 2)
            .then_some(()))
    })
    .await?;
    ensure!(bed.count("SELECT reserved FROM stock").await? == 0);
    ensure!(Request::Retry { step: None }.leave(&bed.pool, "1").await.is_err(), "it has ended");
    bed.stop().await
}

async fn a_saga_of_an_unknown_version_is_left_alone(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    let orchestrator = bed.orchestrator();
    orchestrator.prepare().await?;
    bed.place(&orchestrator, "1", &Order::new("1", 1, 400)).await?;
    sqlx::query("UPDATE saga_instances SET version = 7, wake_at = UTC_TIMESTAMP(6)")
        .execute(&bed.pool)
        .await?;
    ensure!(orchestrator.fire_due().await? == 0);
    let mut tx = bed.pool.begin().await?;
    let unknown = orchestrator.cancel(&mut tx, "1", "no").await.expect_err("an unknown version");
    ensure!(unknown.kind() == SagaErrorKind::UnknownDefinition);
    drop(tx);
    ensure!(Orchestrator::new(bed.pool.clone(), Outbox::default()).fire_due().await? == 0);
    bed.stop().await
}

/// What participants refuse past the pivot, as operators see to it with the tool's own functions.
#[cfg(feature = "inspect")]
async fn what_is_stuck_past_its_pivot_is_skipped_aborted_or_retried(flavour: Flavour) -> Result<()> {
    use outbox_saga::inspect::{Ask, InspectErrorKind, Inspector, Kind};
    let mut bed = Bed::start(flavour).await?;
    let orchestrator = bed.orchestrate().await?;
    bed.participate().await?;
    sqlx::query("INSERT INTO closed VALUES ('ship')").execute(&bed.pool).await?;
    for (id, quantity) in [("skipped", 1), ("aborted", 10), ("retried", 100)] {
        bed.place(&orchestrator, id, &Order::new(id, quantity, 400)).await?;
    }
    for id in ["skipped", "aborted", "retried"] {
        bed.await_status(id, "stuck").await?;
    }
    let inspector = Inspector::new(bed.pool.clone());
    let ask = async |id: &str, ask: Ask| inspector.ask(Some(Kind::Saga), id, &ask).await;

    ask("skipped", Ask::Skip { part: "ship".to_owned() }).await?;
    bed.await_status("skipped", "completed").await?;
    let reason = "the address does not exist".to_owned();
    let late = ask("aborted", Ask::Cancel { reason: reason.clone() }).await.expect_err("past the pivot");
    ensure!(late.kind() == InspectErrorKind::Refused, "{late}");
    ask("aborted", Ask::Abort { reason: reason.clone() }).await?;
    bed.await_status("aborted", "aborted").await?;
    ensure!(bed.history("aborted").await?.iter().any(|(.., cause)| cause == "operator: abort"));
    sqlx::query("DELETE FROM closed").execute(&bed.pool).await?;
    ask("retried", Ask::Retry { part: None }).await?;
    bed.await_status("retried", "completed").await?;

    // The payment, which is the pivot and has no compensation, stays taken.
    ensure!(bed.count("SELECT reserved FROM stock").await? == 101, "what was aborted is given back");
    ensure!(bed.count("SELECT cents FROM money").await? == 10_000 - 3 * 400);
    ensure!(bed.count("SELECT COUNT(*) FROM effects WHERE effect = 'shipped'").await? == 1);
    for id in ["skipped", "aborted", "retried"] {
        let ended = ask(id, Ask::Retry { part: None }).await.expect_err("it has ended");
        ensure!(ended.kind() == InspectErrorKind::Refused, "{ended}");
    }
    bed.stop().await
}

/// Cancelled from outside while it waits for an answer, which comes too late.
#[cfg(feature = "inspect")]
async fn what_is_cancelled_from_outside_is_compensated(flavour: Flavour) -> Result<()> {
    use outbox_saga::inspect::{Ask, Inspector};
    let mut bed = Bed::start(flavour).await?;
    let orchestrator = bed.orchestrate().await?;
    bed.participate().await?;
    bed.hold_up("StockReserved");
    bed.place(&orchestrator, "1", &Order::new("1", 7, 400)).await?;
    eventually("the stock to be reserved", PATIENCE, async || {
        Ok((bed.count("SELECT reserved FROM stock").await? == 7).then_some(()))
    })
    .await?;
    let asked = Ask::Cancel { reason: "changed my mind".to_owned() };
    Inspector::new(bed.pool.clone()).ask(None, "1", &asked).await?;
    bed.await_status("1", "compensated").await?;
    bed.hold_up("");
    bed.await_cause("1", "late reply").await?;
    ensure!(bed.status("1").await? == "compensated");
    ensure!(
        bed.count("SELECT reserved FROM stock").await? == 0
            && bed.count("SELECT cents FROM money").await? == 10_000
    );
    let reason: String = sqlx::query_scalar("SELECT error FROM saga_instances").fetch_one(&bed.pool).await?;
    ensure!(reason == "changed my mind", "{reason}");
    bed.stop().await
}

#[cfg(feature = "inspect")]
mod asked {
    use super::{
        what_is_cancelled_from_outside_is_compensated,
        what_is_stuck_past_its_pivot_is_skipped_aborted_or_retried,
    };
    use crate::for_each_database;

    for_each_database!(
        what_is_stuck_past_its_pivot_is_skipped_aborted_or_retried,
        what_is_cancelled_from_outside_is_compensated,
    );
}

for_each_database!(
    a_cancelled_saga_without_participants_is_stuck_until_it_is_retried,
    a_saga_of_an_unknown_version_is_left_alone,
);
