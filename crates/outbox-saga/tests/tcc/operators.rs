//! What is stuck, and what operators do about it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use outbox_saga::tcc::{Coordinator, Limits, Outcome, Request, TccErrorKind};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bed::{AMOUNT, Bed, limits, transaction};

/// A coordinator that gives up soon, and runs.
async fn impatient(bed: &Bed) -> Result<(Coordinator, DropGuard)> {
    let (call_limit, lease) = (Duration::from_secs(6), Duration::from_secs(12));
    let limits = Limits { attempts_max: 3, call_limit, lease, ..limits() };
    let coordinator = bed.builder().await?.limits(limits).build().await?;
    let stop = CancellationToken::new();
    tokio::spawn({
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        async move { coordinator.run(stop).await }
    });
    Ok((coordinator, stop.drop_guard()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stuck_is_done_again_when_asked_for() -> Result<()> {
    let bed = Bed::start().await?;
    let (coordinator, _running) = impatient(&bed).await?;
    bed.money_switch.away.store(true, Ordering::SeqCst);
    let outcome = coordinator.execute(transaction("a", 1, 1)).await?;
    assert!(matches!(outcome, Outcome::Confirmed { complete: false, .. }), "{outcome:?}");
    bed.until("a", "stuck").await?;
    let branches = bed.branches("a").await?;
    assert_eq!(branches[0], ("confirmed".to_owned(), None));
    assert_eq!(branches[1], ("tried".to_owned(), Some("switched off".to_owned())));
    let (error, attempts): (String, u32) =
        sqlx::query_as("SELECT error, attempts FROM tcc_transactions").fetch_one(&bed.pool).await?;
    assert_eq!((error.as_str(), attempts), ("money: switched off", 3));

    // A decision cannot be turned.
    coordinator.request("a", &Request::Abort).await?;
    testbed::eventually("the request to be answered", crate::bed::LIMIT, async || {
        let open: Option<String> = sqlx::query_scalar("SELECT CAST(request AS CHAR) FROM tcc_transactions")
            .fetch_one(&bed.pool)
            .await?;
        Ok(open.is_none().then_some(()))
    })
    .await?;
    assert_eq!(bed.status("a").await?, "stuck");

    bed.money_switch.away.store(false, Ordering::SeqCst);
    coordinator.request("a", &Request::Retry).await?;
    bed.until("a", "confirmed").await?;
    assert_eq!(bed.amounts().await?, [(AMOUNT - 1, 0, 1), (AMOUNT - 1, 0, 1)]);
    let err = coordinator.request("a", &Request::Retry).await.expect_err("it has ended");
    assert_eq!(err.kind(), TccErrorKind::NoSuchTransaction);
    assert_eq!(coordinator.clean_up(Duration::from_secs(3600), 10).await?, 0);
    assert_eq!(coordinator.clean_up(Duration::ZERO, 10).await?, 1);
    assert!(bed.branches("a").await?.is_empty() && bed.history("a").await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_can_be_skipped() -> Result<()> {
    let bed = Bed::start().await?;
    let (coordinator, _running) = impatient(&bed).await?;
    bed.money_switch.away.store(true, Ordering::SeqCst);
    coordinator.execute(transaction("a", 1, AMOUNT + 1)).await?;
    bed.until("a", "stuck").await?;
    // As a tool does it that has SQL only.
    let update = "UPDATE tcc_transactions SET request = '{\"action\": \"skip\", \"branch\": \"money\"}', \
         next_attempt_at = UTC_TIMESTAMP(6) WHERE id = 'a'";
    sqlx::query(update).execute(&bed.pool).await?;
    bed.until("a", "cancelled").await?;
    assert_eq!(bed.branches("a").await?[1].0, "skipped");
    assert_eq!(bed.amounts().await?, [(AMOUNT, 0, 0), (AMOUNT, 0, 0)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_tried_can_be_aborted() -> Result<()> {
    let bed = Bed::start().await?;
    let (coordinator, _running) = impatient(&bed).await?;
    bed.money_switch.hang_at(outbox_saga::tcc::Operation::Try);
    let trying = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.execute(transaction("a", 1, 1).try_limit(Duration::from_secs(60))).await }
    });
    testbed::eventually("the try to hang", crate::bed::LIMIT, async || {
        Ok(bed.money_switch.hanging.load(Ordering::SeqCst).then_some(()))
    })
    .await?;
    coordinator.request("a", &Request::Abort).await?;
    bed.until("a", "cancelled").await?;
    assert_eq!(bed.amounts().await?, [(AMOUNT, 0, 0), (AMOUNT, 0, 0)]);
    let outcome = trying.await??;
    let Outcome::Cancelled { complete: true, reason } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(reason, "an operator has aborted it");
    Ok(())
}
