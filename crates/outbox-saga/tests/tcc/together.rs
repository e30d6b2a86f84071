//! Transactions that come together, and share the store's transactions.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use outbox_saga::tcc::Outcome;
use testbed::{Flavour, eventually};

use crate::bed::{AMOUNT, Bed, LIMIT, transaction};

const COUNT: usize = 40;
/// What a confirmed transaction leaves.
const HISTORY: [&str; 7] = [
    "- trying",
    "stock registered tried",
    "money registered tried",
    "trying confirming",
    "stock tried confirmed",
    "money tried confirmed",
    "confirming confirmed",
];

async fn ensure_confirmed_once(bed: &Bed, id: &str) -> Result<()> {
    let mut history = bed.history(id).await?;
    // Of two branches that have answered the one or the other is first.
    history.sort();
    let mut expected = HISTORY.map(str::to_owned);
    expected.sort();
    ensure!(history == expected, "{id}: {history:?}");
    Ok(())
}

/// One is refused.
async fn each_ends_as_if_it_were_alone(flavour: Flavour) -> Result<()> {
    let bed = Bed::start_with(flavour).await?;
    let coordinator = bed.coordinator().await?;
    let new = (0..COUNT).map(|number| transaction(&format!("t{number:02}"), 1, 2).try_limit(LIMIT));
    let greedy = transaction("greedy", AMOUNT + 1, 1).try_limit(LIMIT);
    let all: Vec<_> = new.chain([greedy]).collect();
    let outcomes = try_join_all(all.into_iter().map(|new| coordinator.execute(new))).await?;
    for (place, outcome) in outcomes.iter().enumerate() {
        ensure!(outcome.is_confirmed() == (place != COUNT), "{place}: {outcome:?}");
    }
    let refused = outcomes.get(COUNT).context("no outcome")?;
    ensure!(matches!(refused, Outcome::Cancelled { complete: true, .. }), "{refused:?}");
    let count = i64::try_from(COUNT)?;
    assert_eq!(bed.amounts().await?, [(AMOUNT - count, 0, count), (AMOUNT - 2 * count, 0, 2 * count)]);
    for number in 0..COUNT {
        let id = format!("t{number:02}");
        ensure_confirmed_once(&bed, &id).await?;
        ensure!(bed.status(&id).await? == "confirmed", "{id}");
        ensure!(
            bed.branches(&id).await?.iter().all(|branch| *branch == ("confirmed".to_owned(), None)),
            "{id}"
        );
    }
    let due = "SELECT CAST(COUNT(*) AS SIGNED) FROM tcc_transactions WHERE next_attempt_at IS NOT NULL";
    let due: i64 = sqlx::query_scalar(due).fetch_one(&bed.pool).await?;
    assert_eq!(due, 0, "what has ended is never due");
    // The lines of one statement have one time.
    let statements = "SELECT CAST(COUNT(DISTINCT at) AS SIGNED) FROM tcc_history WHERE cause = 'begun'";
    let statements: i64 = sqlx::query_scalar(statements).fetch_one(&bed.pool).await?;
    ensure!(statements <= count / 2, "{statements} statements for {COUNT} transactions");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_ends_as_if_it_were_alone_in_mysql() -> Result<()> {
    each_ends_as_if_it_were_alone(Flavour::MySql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_ends_as_if_it_were_alone_in_mariadb() -> Result<()> {
    each_ends_as_if_it_were_alone(Flavour::MariaDb).await
}

/// On one thread, so that all of them are asked for before the first is written.
#[tokio::test]
async fn what_is_begun_twice_fails_nobody_else() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    let ids = ["t0", "twice", "t1", "twice", "t2"];
    let all = ids.map(|id| coordinator.execute(transaction(id, 1, 2).try_limit(LIMIT)));
    for outcome in try_join_all(all).await? {
        ensure!(outcome.is_confirmed(), "{outcome:?}");
    }
    assert_eq!(bed.amounts().await?, [(AMOUNT - 4, 0, 4), (AMOUNT - 8, 0, 8)]);
    ensure_confirmed_once(&bed, "twice").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_transaction_holds_nobody_up() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    // Its try waits at the barrier, which leaves time to lock it.
    let mut before = bed.pool.begin().await?;
    sqlx::query(
        "INSERT INTO saga_barrier (transaction_id, branch, state, calls, created_at, updated_at) \
         VALUES ('held', 'stock', 'done', 1, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))",
    )
    .execute(&mut *before)
    .await?;
    let held = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.execute(transaction("held", 1, 1).try_limit(LIMIT)).await }
    });
    eventually("its try", LIMIT, async || {
        Ok((bed.stock_switch.tries.load(Ordering::SeqCst) > 0).then_some(()))
    })
    .await?;
    let mut holder = bed.pool.begin().await?;
    sqlx::query("SELECT id FROM tcc_transactions WHERE id = 'held' FOR UPDATE").execute(&mut *holder).await?;
    before.rollback().await?;
    eventually("its try to be done", LIMIT, async || {
        let tried = "SELECT CAST(COUNT(*) AS SIGNED) FROM saga_barrier WHERE transaction_id = 'held'";
        let tried: i64 = sqlx::query_scalar(tried).fetch_one(&bed.pool).await?;
        Ok((tried > 0).then_some(()))
    })
    .await?;
    let others = (0..COUNT).map(|number| coordinator.execute(transaction(&format!("t{number}"), 1, 1)));
    for outcome in try_join_all(others).await? {
        ensure!(outcome.is_confirmed(), "{outcome:?}");
    }
    ensure!(bed.status("held").await? == "trying", "it is locked");
    holder.rollback().await?;
    let outcome = held.await??;
    ensure!(outcome.is_confirmed(), "{outcome:?}");
    Ok(())
}
