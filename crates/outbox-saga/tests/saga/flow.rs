//! Sagas from start to end.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use outbox_saga::saga::Started;
use sqlx::Executor as _;
use testbed::{Flavour, eventually};

use crate::bed::{Bed, PATIENCE};
use crate::for_each_database;
use crate::shop::{self, Order};

const ORDERS: usize = 60;

/// Two instances of the orchestrator, every message twice, too little stock and money for all.
async fn everything_adds_up(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    bed.doubled.store(true, Ordering::Relaxed);
    let orchestrator = bed.orchestrate().await?;
    bed.orchestrate().await?;
    bed.participate().await?;
    for number in 0..ORDERS {
        let id = format!("order-{number}");
        let quantity = if number % 10 == 9 { 5_000 } else { 1 + i64::try_from(number)? % 3 };
        bed.place(&orchestrator, &id, &Order::new(&id, quantity, 400)).await?;
    }
    let ended = eventually("all sagas to end", PATIENCE, async || {
        let open = "SELECT COUNT(*) FROM saga_instances WHERE status NOT IN ('completed', 'compensated')";
        Ok((bed.count(open).await? == 0).then_some(()))
    });
    ended.await?;
    let completed = bed.count("SELECT COUNT(*) FROM saga_instances WHERE status = 'completed'").await?;
    let compensated = bed.count("SELECT COUNT(*) FROM saga_instances WHERE status = 'compensated'").await?;
    eprintln!("{completed} completed, {compensated} compensated");
    // 10,000 cents are enough for 25 orders of 400.
    ensure!(completed == 25 && compensated == i64::try_from(ORDERS)? - 25);
    ensure!(bed.count("SELECT cents FROM money").await? == 0);
    let sold = "SELECT SUM(CAST(JSON_UNQUOTE(JSON_EXTRACT(data, '$.quantity')) AS SIGNED)) FROM saga_instances \
                WHERE status = 'completed'";
    ensure!(bed.count("SELECT reserved FROM stock").await? == bed.count(sold).await?);
    ensure!(bed.count("SELECT free + reserved FROM stock").await? == 1_000);
    ensure!(bed.count("SELECT COUNT(*) FROM effects WHERE effect = 'shipped'").await? == 25);
    // What was done in parallel is undone exactly where the saga is compensated.
    let of = |effect: &str| format!("SELECT COUNT(DISTINCT order_id) FROM effects WHERE effect = '{effect}'");
    let undone = bed.count(&of("undo notify")).await?;
    ensure!(bed.count(&of("do notify")).await? - undone == 25, "{undone} undone");
    let doubles = "SELECT COUNT(*) FROM (SELECT 1 FROM effects GROUP BY order_id, effect HAVING COUNT(*) > 1) AS doubles";
    ensure!(bed.count(doubles).await? == 0);
    let rounds = "SELECT COUNT(*) FROM saga_barrier WHERE branch = 'ship.2' AND state = 'done'";
    ensure!(bed.count(rounds).await? > 0, "a refusal after the pivot begins another round");
    ensure!(bed.count("SELECT COUNT(*) FROM saga_history WHERE cause LIKE '%duplicate%'").await? > 0);
    let open = "SELECT COUNT(*) FROM saga_instances WHERE wake_at IS NOT NULL";
    ensure!(bed.count(open).await? == 0, "what has ended is never due");
    let differing = "SELECT COUNT(*) FROM saga_steps s JOIN saga_instances i ON i.id = s.saga_id \
                     WHERE i.status = 'completed' AND s.status <> 'done'";
    ensure!(bed.count(differing).await? == 0);
    bed.stop().await
}

async fn a_start_belongs_to_its_transaction(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    let orchestrator = bed.orchestrator();
    orchestrator.prepare().await?;
    let saga = shop::place_order();
    let order = Order::new("1", 1, 1);
    let mut tx = bed.pool.begin().await?;
    ensure!(orchestrator.start(&mut tx, &saga, "1", &order).await? == Started::Now);
    tx.rollback().await?;
    ensure!(bed.status("1").await? == "not there");
    for expected in [Started::Now, Started::Before] {
        let mut tx = bed.pool.begin().await?;
        ensure!(orchestrator.start(&mut tx, &saga, "1", &order).await? == expected);
        tx.commit().await?;
    }
    ensure!(
        bed.count("SELECT COUNT(*) FROM saga_history WHERE saga_id = '1' AND cause = 'started'").await? == 3
    );
    let mut tx = bed.pool.begin().await?;
    ensure!(orchestrator.start(&mut tx, &saga, "a b", &order).await.is_err(), "an id with a space");
    drop(tx);
    bed.stop().await
}

/// The caller's transaction has ended without the caller's knowing: then nothing is begun or cancelled outside of it.
async fn a_lost_transaction_starts_and_cancels_nothing(flavour: Flavour) -> Result<()> {
    let bed = Bed::start(flavour).await?;
    let orchestrator = bed.orchestrator();
    orchestrator.prepare().await?;
    bed.place(&orchestrator, "1", &Order::new("1", 1, 1)).await?;
    let commands = bed.count("SELECT COUNT(*) FROM outbox").await?;
    for id in ["1", "2"] {
        let mut tx = bed.pool.begin().await?;
        (&mut *tx).execute("ROLLBACK").await?;
        let lost = match id {
            "1" => orchestrator.cancel(&mut tx, id, "changed my mind").await.err(),
            _ => orchestrator.start(&mut tx, &shop::place_order(), id, &Order::new(id, 1, 1)).await.err(),
        };
        let error = lost.context("it went on without a transaction")?.to_string();
        ensure!(error.contains("the transaction is over"), "{error}");
    }
    ensure!(bed.status("1").await? == "running" && bed.status("2").await? == "not there");
    ensure!(bed.count("SELECT COUNT(*) FROM outbox").await? <= commands);
    ensure!(bed.history("2").await?.is_empty());
    bed.stop().await
}

for_each_database!(
    everything_adds_up,
    a_start_belongs_to_its_transaction,
    a_lost_transaction_starts_and_cancels_nothing,
);
