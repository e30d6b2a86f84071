//! Sagas that have ended are removed, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_saga::saga::{Orchestrator, Started};
use testbed::{Flavour, eventually};

use crate::bed::{Bed, PATIENCE};
use crate::for_each_database;
use crate::shop::{Order, hasty};

const HOUR: Duration = Duration::from_secs(3600);
const ORDERS: u64 = 60;

/// The ids that are left, in their order.
async fn left(bed: &Bed) -> Result<Vec<String>> {
    let ids = "SELECT CAST(id AS CHAR) FROM saga_instances ORDER BY id";
    let ids: Vec<String> = sqlx::query_scalar(ids).fetch_all(&bed.pool).await?;
    for part in ["saga_steps", "saga_history"] {
        let of = format!("SELECT COUNT(DISTINCT saga_id) FROM {part}");
        ensure!(bed.count(&of).await? == i64::try_from(ids.len())?, "{part} is not of {ids:?}");
        let strays =
            format!("SELECT COUNT(*) FROM {part} WHERE saga_id NOT IN (SELECT id FROM saga_instances)");
        ensure!(bed.count(&strays).await? == 0, "{part} of sagas that are gone");
    }
    Ok(ids)
}

async fn only_what_ended_long_ago_is_removed(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    let orchestrator = bed.orchestrator();
    orchestrator.prepare().await?;
    let statuses = ["running", "compensating", "stuck", "completed", "compensated", "aborted"];
    for status in statuses.iter().chain(&["fresh", "more-1", "more-2", "more-3"]) {
        bed.place(&orchestrator, status, &Order::new(status, 1, 400)).await?;
        let known = statuses.iter().find(|known| *known == status).unwrap_or(&"completed");
        let update =
            "UPDATE saga_instances SET status = ?, updated_at = updated_at - INTERVAL ? MINUTE WHERE id = ?";
        let minutes = if *status == "fresh" { 30 } else { 90 };
        sqlx::query(update).bind(known).bind(minutes).bind(status).execute(&bed.pool).await?;
    }
    ensure!(orchestrator.clean_up(2 * HOUR, 10).await? == 0);
    // One of each end at a time.
    let mut removed = Vec::new();
    while let count @ 1.. = orchestrator.clean_up(HOUR, 1).await? {
        removed.push(count);
        left(&bed).await?;
    }
    ensure!(removed == [3, 1, 1, 1], "{removed:?}");
    ensure!(left(&bed).await? == ["compensating", "fresh", "running", "stuck"], "{:?}", left(&bed).await?);
    // However old.
    sqlx::query("UPDATE saga_instances SET updated_at = '2000-01-01'").execute(&bed.pool).await?;
    ensure!(orchestrator.clean_up(Duration::ZERO, 10).await? == 1);
    ensure!(left(&bed).await? == ["compensating", "running", "stuck"]);
    bed.stop().await
}

/// A reply for a saga that is gone is acknowledged, once, and changes nothing.
async fn a_reply_to_what_is_gone_is_acknowledged(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let saga = hasty()?;
    let instance = bed.orchestrate_these(std::slice::from_ref(&saga)).await?;
    bed.participate().await?;
    bed.hold_up("StockReserved");
    bed.start_saga(&instance.orchestrator, &saga, &Order::new("1", 3, 400), "1").await?;
    bed.await_status("1", "compensated").await?;
    ensure!(instance.orchestrator.clean_up(Duration::ZERO, 10).await? == 1);
    ensure!(left(&bed).await?.is_empty());
    let replies = bed.count("SELECT COUNT(*) FROM outbox WHERE type = 'StockReserved'").await?;
    ensure!(replies > 0);
    bed.hold_up("");
    eventually("the replies to be handled", PATIENCE, async || {
        let sent = bed.count("SELECT COUNT(*) FROM outbox").await? == 0;
        Ok((sent && bed.unhandled().await? == 0).then_some(()))
    })
    .await?;
    ensure!(left(&bed).await?.is_empty() && bed.count("SELECT COUNT(*) FROM outbox").await? == 0);
    // Its id is free.
    let mut tx = bed.pool.begin().await?;
    let again = instance.orchestrator.start(&mut tx, &saga, "1", &Order::new("1", 3, 400)).await?;
    ensure!(again == Started::Now);
    tx.rollback().await?;
    instance.stop().await?;
    bed.stop().await
}

/// Removes what has ended at once, until told to stop. How many.
async fn remove_all(orchestrator: Orchestrator, stop: &AtomicBool) -> Result<u64> {
    let mut removed = 0;
    while !stop.load(Ordering::Relaxed) {
        match orchestrator.clean_up(Duration::ZERO, 3).await? {
            0 => tokio::time::sleep(Duration::from_millis(5)).await,
            count => removed += count,
        }
    }
    Ok(removed)
}

/// Two instances clean up as soon as anything has ended, while sagas run and every message comes twice.
async fn sagas_run_while_others_are_removed(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    bed.doubled.store(true, Ordering::Relaxed);
    let orchestrator = bed.orchestrate().await?;
    bed.orchestrate().await?;
    bed.participate().await?;
    let stop = AtomicBool::new(false);
    let work = async {
        for number in 0..ORDERS {
            let (id, quantity) = (format!("order-{number}"), if number % 10 == 9 { 5_000 } else { 1 });
            bed.place(&orchestrator, &id, &Order::new(&id, quantity, 400)).await?;
        }
        let ended = eventually("all sagas to end and be removed", PATIENCE, async || {
            Ok((bed.count("SELECT COUNT(*) FROM saga_instances").await? == 0).then_some(()))
        });
        let ended = ended.await;
        stop.store(true, Ordering::Relaxed);
        ended
    };
    let removing = [0, 1].map(|_| remove_all(orchestrator.clone(), &stop));
    let [first, second] = removing;
    let ((), first, second) = tokio::try_join!(work, first, second)?;
    ensure!(first + second == ORDERS, "{first} and {second} of {ORDERS}");
    ensure!(left(&bed).await?.is_empty());
    // As if nothing had been removed: 10,000 cents are enough for 25 orders of 400.
    ensure!(bed.count("SELECT cents FROM money").await? == 0);
    ensure!(bed.count("SELECT reserved FROM stock").await? == 25);
    ensure!(bed.count("SELECT COUNT(*) FROM effects WHERE effect = 'shipped'").await? == 25);
    eventually("every reply to be handled", PATIENCE, async || {
        Ok((bed.unhandled().await? == 0).then_some(()))
    })
    .await?;
    ensure!(left(&bed).await?.is_empty(), "late replies begin nothing");
    bed.stop().await
}

for_each_database!(
    only_what_ended_long_ago_is_removed,
    a_reply_to_what_is_gone_is_acknowledged,
    sagas_run_while_others_are_removed,
);
