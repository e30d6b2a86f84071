//! One call after the other: answers, the table, and what a service is told.

use std::time::Duration;

use anyhow::Result;
use outbox_saga::barrier::{Barrier, BarrierErrorKind, BarrierKey, Entered, Operation};
use serde_json::json;

use crate::bed::{Bed, Isolation};
use crate::for_each_database;

for_each_database!(
    answers_are_given_again,
    a_refusal_is_given_again_and_leaves_nothing_to_undo,
    what_was_rolled_back_has_not_happened,
    a_transaction_that_was_ended_is_noticed,
    keys_differ_by_every_character,
    old_rows_go,
    a_service_without_rights_is_told_what_it_needs,
);

fn key(transaction: &str) -> BarrierKey {
    BarrierKey { transaction: transaction.to_owned(), branch: "stock".to_owned() }
}

async fn answers_are_given_again<B: Bed>() -> Result<()> {
    let (_bed, pool, barrier) = B::ready(Isolation::RepeatableRead).await?;
    let answer = json!({"reserved": 3, "note": "größer"});
    for (operation, again) in [
        (Operation::Do, Some(answer.clone())),
        // Confirmed or not, a try is answered as it was.
        (Operation::Confirm, Some(answer.clone())),
    ] {
        let mut tx = pool.begin().await?;
        assert_eq!(barrier.enter(&mut tx, &key("a"), operation).await?, Entered::First);
        if operation == Operation::Do {
            barrier.record_answer(&mut tx, &key("a"), &answer).await?;
        }
        tx.commit().await?;
        let mut tx = pool.begin().await?;
        let entered = barrier.enter(&mut tx, &key("a"), Operation::Do).await?;
        assert_eq!(entered, Entered::Again(again), "{operation}");
        tx.commit().await?;
    }
    let mut tx = pool.begin().await?;
    barrier.enter(&mut tx, &key("without"), Operation::Do).await?;
    assert_eq!(barrier.enter(&mut tx, &key("without"), Operation::Do).await?, Entered::Again(None));
    Ok(())
}

async fn a_refusal_is_given_again_and_leaves_nothing_to_undo<B: Bed>() -> Result<()> {
    let (_bed, pool, barrier) = B::ready(Isolation::RepeatableRead).await?;
    let answer = json!("sold out");
    let mut tx = pool.begin().await?;
    barrier.enter(&mut tx, &key("a"), Operation::Do).await?;
    barrier.record_refusal(&mut tx, &key("a"), &answer).await?;
    tx.commit().await?;

    let mut tx = pool.begin().await?;
    let entered = barrier.enter(&mut tx, &key("a"), Operation::Do).await?;
    assert_eq!(entered, Entered::Refused(Some(answer)));
    assert_eq!(barrier.enter(&mut tx, &key("a"), Operation::Undo).await?, Entered::Nothing);
    let err = barrier.enter(&mut tx, &key("a"), Operation::Confirm).await.expect_err("it was refused");
    assert_eq!(err.kind(), BarrierErrorKind::Violation);
    assert!(err.to_string().contains("it is refused"), "{err}");
    Ok(())
}

async fn what_was_rolled_back_has_not_happened<B: Bed>() -> Result<()> {
    let (_bed, pool, barrier) = B::ready(Isolation::RepeatableRead).await?;
    for _ in 0..2 {
        let mut tx = pool.begin().await?;
        assert_eq!(barrier.enter(&mut tx, &key("a"), Operation::Do).await?, Entered::First);
        B::effect(&mut tx, &key("a"), Operation::Do).await?;
        tx.rollback().await?;
    }
    assert!(B::effects(&pool, &key("a")).await?.is_empty());
    assert_eq!(B::state(&pool, &key("a")).await?, None);
    Ok(())
}

/// As a service does that catches the error of a deadlock and goes on.
async fn a_transaction_that_was_ended_is_noticed<B: Bed>() -> Result<()> {
    let (_bed, pool, barrier) = B::ready(Isolation::RepeatableRead).await?;
    let mut tx = pool.begin().await?;
    barrier.enter(&mut tx, &key("a"), Operation::Do).await?;
    B::run(&mut tx, "ROLLBACK").await?;
    let err = barrier.record_answer(&mut tx, &key("a"), &json!(1)).await.expect_err("it is over");
    assert_eq!(err.kind(), BarrierErrorKind::Lost);
    drop(tx);
    for operation in [Operation::Do, Operation::Confirm, Operation::Undo] {
        // Two transactions, of which one is confirmed and one undone.
        let key = key(&format!("b {operation}"));
        let mut tx = pool.begin().await?;
        assert_eq!(barrier.enter(&mut tx, &key, Operation::Do).await?, Entered::First);
        barrier.verify(&mut tx, &key, Operation::Do).await?;
        tx.commit().await?;
        if operation == Operation::Do {
            continue;
        }
        for ended in [true, false] {
            let mut tx = pool.begin().await?;
            assert_eq!(barrier.enter(&mut tx, &key, operation).await?, Entered::First);
            if ended {
                B::run(&mut tx, "ROLLBACK").await?;
                let err = barrier.verify(&mut tx, &key, operation).await.expect_err("it is over");
                assert_eq!(err.kind(), BarrierErrorKind::Lost);
            } else {
                barrier.verify(&mut tx, &key, operation).await?;
                tx.commit().await?;
            }
        }
    }
    Ok(())
}

async fn keys_differ_by_every_character<B: Bed>() -> Result<()> {
    let (_bed, pool, barrier) = B::ready(Isolation::RepeatableRead).await?;
    let longest = "ß".repeat(64);
    let mut tx = pool.begin().await?;
    for name in ["a", "A", "ä", "a b", &longest] {
        assert_eq!(barrier.enter(&mut tx, &key(name), Operation::Do).await?, Entered::First, "{name}");
        let other = BarrierKey { transaction: "other".to_owned(), branch: name.to_owned() };
        assert_eq!(barrier.enter(&mut tx, &other, Operation::Do).await?, Entered::First, "{name}");
    }
    tx.commit().await?;
    assert_eq!(B::state(&pool, &key(&longest)).await?.as_deref(), Some("done"));
    let mut tx = pool.begin().await?;
    let err = barrier.enter(&mut tx, &key("a "), Operation::Do).await.expect_err("a space at the end");
    assert_eq!(err.kind(), BarrierErrorKind::Key);
    Ok(())
}

async fn old_rows_go<B: Bed>() -> Result<()> {
    let (bed, pool, barrier) = B::ready(Isolation::RepeatableRead).await?;
    let enter = async |name: &str| {
        let mut tx = pool.begin().await?;
        barrier.enter(&mut tx, &key(name), Operation::Do).await?;
        tx.commit().await?;
        anyhow::Ok(())
    };
    for name in ["a", "b", "c"] {
        enter(name).await?;
    }
    bed.exec(B::DAY_OLDER).await?;
    enter("new").await?;
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert_eq!(barrier.clean_up(&pool, hours(25), 10).await?, 0);
    assert_eq!(barrier.clean_up(&pool, hours(23), 2).await?, 2);
    assert_eq!(barrier.clean_up(&pool, hours(23), 2).await?, 1);
    assert_eq!(barrier.clean_up(&pool, Duration::MAX, 2).await?, 0);
    assert_eq!(B::state(&pool, &key("new")).await?.as_deref(), Some("done"));
    Ok(())
}

async fn a_service_without_rights_is_told_what_it_needs<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    bed.create_user("shop").await?;
    let pool = bed.pool("shop", Isolation::RepeatableRead);
    let barrier: Barrier<B::Db> = Barrier::new("saga_barrier");
    let err = barrier.prepare(&pool).await.expect_err("no rights");
    assert_eq!(err.kind(), BarrierErrorKind::Unusable);
    assert!(err.to_string().contains("CREATE TABLE IF NOT EXISTS"), "{err}");
    assert!(err.to_string().contains("GRANT SELECT, INSERT, UPDATE, DELETE"), "{err}");

    // Who may use it need not be able to make it, and it can be made twice.
    let root = bed.pool("root", Isolation::RepeatableRead);
    barrier.prepare(&root).await?;
    barrier.prepare(&root).await?;
    bed.exec("GRANT SELECT, INSERT, UPDATE, DELETE ON saga_barrier TO shop").await?;
    barrier.prepare(&bed.pool("shop", Isolation::RepeatableRead)).await?;
    Ok(())
}
