//! What every inbox in a database promises, without faults.

use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_consumer::inbox::{Begun, Inbox as _, InboxErrorKind};
use testbed::eventually;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::{begin, for_each_database, is_duplicate, key, key_of, refusal};

const LIMIT: Duration = Duration::from_secs(20);

for_each_database!(
    effect_and_record_commit_together,
    a_dropped_transaction_leaves_nothing,
    a_waiting_duplicate_is_dropped_after_the_commit,
    waiting_duplicates_take_over_after_a_rollback,
    every_isolation_level_will_do,
    ids_are_compared_byte_by_byte_and_by_consumer,
    clean_up_removes_old_records_of_one_consumer,
    clean_up_reads_what_it_removes_and_waits_for_nobody,
);

async fn effect_and_record_commit_together<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    let mut transaction = begin(&inbox, &key("1")).await?;
    B::effect(&mut transaction, "one").await?;
    assert!(bed.effects().await?.is_empty(), "not before the commit");
    inbox.commit(&key("1"), transaction).await?;
    assert_eq!(bed.effects().await?, ["one"]);
    assert!(is_duplicate(&inbox, &key("1")).await?);
    // A duplicate leaves the connection clean.
    begin(&inbox, &key("2")).await?;
    // Another service, which finds the table made.
    assert!(is_duplicate(&bed.inbox().await?, &key("1")).await?);
    Ok(())
}

async fn a_dropped_transaction_leaves_nothing<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    for name in ["first", "second"] {
        let mut transaction = begin(&inbox, &key("1")).await?;
        B::effect(&mut transaction, name).await?;
        drop(transaction);
    }
    let mut transaction = begin(&inbox, &key("1")).await?;
    B::effect(&mut transaction, "third").await?;
    inbox.commit(&key("1"), transaction).await?;
    assert_eq!(bed.effects().await?, ["third"]);
    Ok(())
}

/// Begins the same message in another task and sees that it waits.
async fn waiter<B: Bed>(inbox: &B::Inbox, message_id: &str) -> JoinHandle<Result<bool>>
where
    B::Inbox: 'static,
{
    let (inbox, key) = (inbox.clone(), key(message_id));
    let mut task = tokio::spawn(async move {
        match inbox.begin(&key).await? {
            Begun::Duplicate => Ok(false),
            Begun::New(mut transaction) => {
                B::effect(&mut transaction, "the waiter's").await?;
                inbox.commit(&key, transaction).await?;
                Ok(true)
            }
        }
    });
    assert!(timeout(Duration::from_millis(200), &mut task).await.is_err(), "it waits");
    task
}

async fn a_waiting_duplicate_is_dropped_after_the_commit<B: Bed + 'static>() -> Result<()> {
    let bed = B::start().await?;
    waits_for_a_commit(&bed, &bed.inbox().await?).await
}

async fn waits_for_a_commit<B: Bed + 'static>(bed: &B, inbox: &B::Inbox) -> Result<()> {
    let mut transaction = begin(inbox, &key("1")).await?;
    let waiting = waiter::<B>(inbox, "1").await;
    B::effect(&mut transaction, "the first's").await?;
    inbox.commit(&key("1"), transaction).await?;
    assert!(!timeout(LIMIT, waiting).await???, "a duplicate");
    assert_eq!(bed.effects().await?, ["the first's"]);
    Ok(())
}

async fn waiting_duplicates_take_over_after_a_rollback<B: Bed + 'static>() -> Result<()> {
    let bed = B::start().await?;
    waits_for_a_rollback::<B>(&bed.inbox().await?).await?;
    assert_eq!(bed.effects().await?, ["the waiter's"; 3]);
    Ok(())
}

async fn waits_for_a_rollback<B: Bed + 'static>(inbox: &B::Inbox) -> Result<()> {
    for (message_id, waiters) in [("one", 1), ("two", 2), ("six", 6)] {
        let mut transaction = begin(inbox, &key(message_id)).await?;
        B::effect(&mut transaction, "lost").await?;
        let mut waiting = Vec::new();
        for _ in 0..waiters {
            waiting.push(waiter::<B>(inbox, message_id).await);
        }
        drop(transaction);
        let mut took_over = 0;
        for task in waiting {
            took_over += u32::from(timeout(LIMIT, task).await???);
        }
        assert_eq!(took_over, 1, "of {waiters}");
    }
    Ok(())
}

async fn every_isolation_level_will_do<B: Bed + 'static>() -> Result<()> {
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let bed = B::start().await?;
        let set = match B::POSTGRES {
            true => format!("ALTER DATABASE postgres SET default_transaction_isolation = '{level}'"),
            false => format!("SET GLOBAL TRANSACTION ISOLATION LEVEL {level}"),
        };
        bed.exec(&set).await?;
        let inbox = bed.inbox().await?;
        waits_for_a_commit(&bed, &inbox).await.context(level)?;
        waits_for_a_rollback::<B>(&inbox).await.context(level)?;
        assert_eq!(inbox.clean_up("stock", Duration::ZERO, 10).await?, 4);
    }
    Ok(())
}

async fn ids_are_compared_byte_by_byte_and_by_consumer<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    let long = "é".repeat(127);
    let ids = ["a", "A", "a ", " a", "a\0", "ä", "a\u{308}", "å", "", "'\"`\\%_;--", long.as_str()];
    for consumer in ["stock", "Stock", "stock ", "mail"] {
        for id in ids {
            let key = key_of(consumer, id);
            let transaction = begin(&inbox, &key).await?;
            inbox.commit(&key, transaction).await?;
            assert!(is_duplicate(&inbox, &key).await?, "{key:?}");
        }
    }
    let err = refusal(&inbox, &key(&"x".repeat(256))).await;
    assert_eq!(err.kind(), InboxErrorKind::Rejected);
    Ok(())
}

async fn record<B: Bed>(inbox: &B::Inbox, consumer: &str, ids: std::ops::Range<u32>) -> Result<()> {
    for id in ids {
        let key = key_of(consumer, &format!("m{id:05}"));
        let transaction = begin(inbox, &key).await?;
        inbox.commit(&key, transaction).await?;
    }
    Ok(())
}

async fn clean_up_removes_old_records_of_one_consumer<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    record::<B>(&inbox, "stock", 0..30).await?;
    record::<B>(&inbox, "mail", 0..10).await?;
    let older = B::DAY_OLDER;
    bed.exec(&format!("UPDATE outbox_inbox SET {older} WHERE message_id < 'm00025'")).await?;
    let hour = Duration::from_secs(3600);
    assert_eq!(inbox.clean_up("stock", Duration::from_secs(48 * 3600), 100).await?, 0);
    assert_eq!(inbox.clean_up("nobody", hour, 100).await?, 0);
    assert_eq!(inbox.clean_up("stock", hour, 0).await?, 0);
    assert_eq!(inbox.clean_up("stock", hour, 10).await?, 10);
    assert_eq!(inbox.clean_up("stock", hour, 100).await?, 15);
    assert_eq!(inbox.clean_up("stock", hour, 100).await?, 0);
    assert!(!is_duplicate(&inbox, &key_of("stock", "m00024")).await?, "forgotten");
    assert!(is_duplicate(&inbox, &key_of("stock", "m00025")).await?, "too young");
    assert!(is_duplicate(&inbox, &key_of("mail", "m00003")).await?, "another's");
    assert_eq!(inbox.clean_up("mail", Duration::ZERO, 100).await?, 10);
    assert_eq!(inbox.clean_up("mail", Duration::MAX, 100).await?, 0, "an age beyond all dates");
    Ok(())
}

async fn clean_up_reads_what_it_removes_and_waits_for_nobody<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    record::<B>(&inbox, "stock", 0..10).await?;
    // Ten thousand more of each of two consumers.
    let digits = "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION \
         SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
    for consumer in ["stock", "mail"] {
        let id = "CONCAT(a.d, b.d, c.d, e.d)";
        let id = if B::POSTGRES { format!("convert_to({id}, 'UTF8')") } else { id.to_owned() };
        bed.exec(&format!(
            "INSERT INTO outbox_inbox (consumer, message_id, handled_at) SELECT '{consumer}', {id}, r.handled_at FROM \
             {digits} a, {digits} b, {digits} c, {digits} e, \
             (SELECT MIN(handled_at) AS handled_at FROM outbox_inbox) r"
        ))
        .await?;
    }
    bed.exec(&format!("UPDATE outbox_inbox SET {}", B::DAY_OLDER)).await?;
    if B::POSTGRES {
        // What autovacuum does within the first minute; a table that it does not know yet is read by bitmaps.
        bed.exec("ANALYZE outbox_inbox").await?;
    }
    // A handler that is at work meanwhile.
    let open = begin(&inbox, &key("open")).await?;
    let single = bed.inbox_at("root", bed.port(), 1)?;
    // Postgres counts for all sessions, and later; the statements above read this much.
    let reads_min = if B::POSTGRES { 30_030 } else { 0 };
    let before = eventually("the counts so far", LIMIT, async || {
        let read = B::rows_read(&single).await?;
        Ok((read >= reads_min).then_some(read))
    })
    .await?;
    let hour = Duration::from_secs(3600);
    assert_eq!(timeout(LIMIT, single.clean_up("stock", hour, 600)).await??, 600);
    let read = eventually("the count of reads", LIMIT, async || {
        let read = B::rows_read(&single).await? - before;
        Ok((read >= 600).then_some(read))
    })
    .await?;
    // The search, the removal, and what the server reads of its own accord.
    assert!(read < 4 * 600, "{read} reads to remove 600 of 20,000");
    inbox.commit(&key("open"), open).await?;
    assert_eq!(inbox.clean_up("stock", hour, u32::MAX).await?, 9_410);
    assert!(is_duplicate(&inbox, &key("open")).await?);
    Ok(())
}
