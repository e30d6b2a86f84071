//! How transactions end when nothing is killed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use outbox_saga::tcc::http::HttpEndpoint;
use outbox_saga::tcc::{Answer, Call, Endpoint as _, NewTransaction, Operation, Outcome, TccErrorKind};
use serde_json::json;
use testbed::Flavour;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::bed::{AMOUNT, Bed, LIMIT, limits, transaction};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_tried_is_confirmed() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    let outcome = coordinator.execute(transaction("a", 2, 300)).await?;
    let Outcome::Confirmed { complete: true, answers } = outcome else { panic!("{outcome:?}") };
    assert_eq!(answers.get("stock"), Some(&json!({"locked": 2})));
    assert_eq!(answers.get("money"), Some(&json!({"held": 300})));
    assert_eq!(bed.amounts().await?, [(AMOUNT - 2, 0, 2), (AMOUNT - 300, 0, 300)]);
    assert_eq!(bed.status("a").await?, "confirmed");
    let history = bed.history("a").await?;
    assert_eq!(
        history,
        [
            "- trying",
            "stock registered tried",
            "money registered tried",
            "trying confirming",
            "stock tried confirmed",
            "money tried confirmed",
            "confirming confirmed"
        ]
    );
    // Asked again, it is not done again.
    assert!(coordinator.execute(transaction("a", 2, 300)).await?.is_confirmed());
    assert_eq!(bed.amounts().await?, [(AMOUNT - 2, 0, 2), (AMOUNT - 300, 0, 300)]);
    let other = NewTransaction::new("a", "order").branch("stock", "inventory", 1);
    let err = coordinator.execute(other).await.expect_err("other branches");
    assert_eq!(err.kind(), TccErrorKind::NoSuchTransaction);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_refuses_all_cancel() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    for (id, count, cents, why) in [
        ("stock", AMOUNT + 1, 1, "`stock` refused: sold out"),
        ("money", 1, AMOUNT + 1, "`money` refused: no money"),
    ] {
        let outcome = coordinator.execute(transaction(id, count, cents)).await?;
        let Outcome::Cancelled { complete: true, reason } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(reason, why);
        let tries =
            [&bed.stock_switch, &bed.money_switch].map(|switch| switch.tries.swap(0, Ordering::SeqCst));
        assert_eq!(tries, [1, 1], "a refusal is never asked for again");
        assert_eq!(bed.amounts().await?, [(AMOUNT, 0, 0), (AMOUNT, 0, 0)]);
        // Also who asks later is told why.
        assert_eq!(coordinator.outcome(id).await?, Some(outcome));
        assert!(bed.branches(id).await?.iter().all(|(status, _)| status == "cancelled"));
    }
    let refused: String = sqlx::query_scalar("SELECT state FROM saga_barrier WHERE transaction_id = 'stock'")
        .fetch_one(&bed.pool)
        .await?;
    assert_eq!(refused, "refused");
    Ok(())
}

/// What every repetition would meet too is not repeated, and its cancel has nothing to undo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_cannot_be_read_is_cancelled_at_once() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    for (endpoint, switch) in [("inventory", &bed.stock_switch), ("payment", &bed.money_switch)] {
        let new = NewTransaction::new(endpoint, "order").branch("one", endpoint, "no number");
        let outcome = coordinator.execute(new.try_limit(LIMIT)).await?;
        let Outcome::Cancelled { complete: true, reason } = &outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("cannot read the payload"), "{reason}");
        assert_eq!(switch.tries.load(Ordering::SeqCst), 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_takes_too_long_is_cancelled() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    bed.money_switch.hang_at(Operation::Try);
    let new = transaction("slow", 1, 1).try_limit(Duration::from_millis(300));
    let outcome = coordinator.execute(new).await?;
    let Outcome::Cancelled { complete: true, reason } = &outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("the try of `money` failed: there was no answer within"), "{reason}");
    // It had reserved, though nobody was told.
    assert_eq!(bed.amounts().await?, [(AMOUNT, 0, 0), (AMOUNT, 0, 0)]);
    Ok(())
}

/// The answers are there, but they came after the deadline of the store's clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_confirmed_after_the_deadline() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    let trigger = "USE shop; CREATE TRIGGER late BEFORE INSERT ON tcc_transactions \
         FOR EACH ROW SET NEW.deadline = UTC_TIMESTAMP(6)";
    bed.mysql.exec(trigger).await?;
    let outcome = coordinator.execute(transaction("late", 1, 1)).await?;
    let Outcome::Cancelled { complete: true, reason } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(reason, "its tries took longer than its limit");
    assert_eq!(bed.amounts().await?, [(AMOUNT, 0, 0), (AMOUNT, 0, 0)]);
    Ok(())
}

/// A try that comes when all is over reserves nothing, whether its transaction was cancelled or never came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_try_reserves_nothing() -> Result<()> {
    let bed = Bed::start().await?;
    let endpoint = HttpEndpoint::new(&bed.http)?;
    let call = |operation, seconds| Call {
        transaction: "a".to_owned(),
        branch: "stock".to_owned(),
        operation,
        deadline: OffsetDateTime::now_utc() + time::Duration::seconds(seconds),
        payload: json!(5),
        traceparent: None,
    };
    let refused = |reason: &str| Answer::Refused(reason.to_owned());
    assert_eq!(endpoint.call(&call(Operation::Try, -1)).await?, refused("the deadline has passed"));
    assert_eq!(endpoint.call(&call(Operation::Cancel, -1)).await?, Answer::Accepted(json!(null)));
    assert_eq!(endpoint.call(&call(Operation::Try, 60)).await?, refused("the branch was cancelled before"));
    let err = endpoint.call(&call(Operation::Confirm, 60)).await.expect_err("a violation");
    assert!(err.to_string().contains("it is barred"), "{err}");
    assert_eq!(bed.amounts().await?, [(AMOUNT, 0, 0), (AMOUNT, 0, 0)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_begin_is_refused() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinator = bed.coordinator().await?;
    let unknown = NewTransaction::new("a", "order").branch("stock", "nowhere", 1);
    let err = coordinator.execute(unknown).await.expect_err("an unknown endpoint");
    assert!(err.to_string().contains("no endpoint `nowhere`"), "{err}");
    let err = coordinator.outcome("a").await.expect_err("nothing was begun");
    assert_eq!(err.kind(), TccErrorKind::NoSuchTransaction);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_is_one_transaction() -> Result<()> {
    let bed = Bed::start().await?;
    let coordinators = [bed.coordinator().await?, bed.coordinator().await?];
    let calls = (0..12).map(|call| coordinators[call % 2].execute(transaction("same", 1, 1)));
    for outcome in try_join_all(calls).await? {
        assert!(outcome.is_confirmed());
    }
    assert_eq!(bed.amounts().await?, [(AMOUNT - 1, 0, 1), (AMOUNT - 1, 0, 1)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_add_up_although_calls_are_lost_and_repeated() -> Result<()> {
    many(Flavour::MySql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_add_up_in_mariadb_too() -> Result<()> {
    many(Flavour::MariaDb).await
}

async fn many(flavour: Flavour) -> Result<()> {
    const COUNT: usize = 400;
    let bed = Bed::start_with(flavour).await?;
    let coordinators = [bed.coordinator().await?, bed.coordinator().await?];
    let stop = CancellationToken::new();
    let running = coordinators.each_ref().map(|coordinator| {
        let (coordinator, stop) = (coordinator.clone(), stop.clone());
        tokio::spawn(async move { coordinator.run(stop).await })
    });
    for switch in [&bed.stock_switch, &bed.money_switch] {
        switch.faults.store(true, Ordering::SeqCst);
    }
    let mut confirmed = 0;
    for group in (0..COUNT).collect::<Vec<_>>().chunks(16) {
        let calls = group.iter().zip(coordinators.iter().cycle()).map(|(call, coordinator)| {
            // Now and then one is refused.
            let cents = if call % 9 == 0 { AMOUNT * 2 } else { 2 };
            coordinator.execute(transaction(&format!("{call}"), 1, cents))
        });
        let outcomes = try_join_all(calls).await?;
        confirmed += outcomes.iter().filter(|outcome| outcome.is_confirmed()).count();
    }
    testbed::eventually("all to end", LIMIT, async || {
        let query = "SELECT COUNT(*) FROM tcc_transactions WHERE status NOT IN ('confirmed', 'cancelled')";
        let open: i64 = sqlx::query_scalar(query).fetch_one(&bed.pool).await?;
        Ok((open == 0).then_some(()))
    })
    .await?;
    stop.cancel();
    for task in running {
        tokio::time::timeout(limits().lease, task).await??;
    }
    // One of nine is refused; what is lost is called again.
    ensure!(confirmed > COUNT * 3 / 4, "only {confirmed} were confirmed");
    let failed: i64 =
        sqlx::query_scalar("SELECT CAST(SUM(attempts) AS SIGNED) FROM tcc_branches WHERE error IS NULL")
            .fetch_one(&bed.pool)
            .await?;
    ensure!(failed > 0, "no fault had an effect");
    let sold = i64::try_from(confirmed)?;
    assert_eq!(bed.amounts().await?, [(AMOUNT - sold, 0, sold), (AMOUNT - 2 * sold, 0, 2 * sold)]);
    Ok(())
}
