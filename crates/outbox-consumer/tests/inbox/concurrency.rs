//! Many deliveries at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_consumer::inbox::{Begun, Inbox as _, InboxErrorKind};
use testbed::eventually;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bed::Bed;
use crate::{begin, for_each_database, is_duplicate, key, key_of, refusal};

const PATIENCE: Duration = Duration::from_secs(20);
const TASKS: usize = 32;
const DELIVERIES_PER_TASK: usize = 200;

for_each_database!(
    doubled_deliveries_take_effect_once,
    a_waiting_duplicate_holds_up_no_other_message,
    a_cancelled_begin_leaves_no_open_transaction,
    a_lock_that_does_not_come_is_a_conflict,
);

/// Each message comes twice, at about the same time, and every seventh is rolled back by its first handler; meanwhile
/// old records are cleaned up. Each effect is there once, and nobody meets an error.
async fn doubled_deliveries_take_effect_once<B: Bed + 'static>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let inbox = inbox.clone();
        tasks.spawn(async move {
            for turn in 0..DELIVERIES_PER_TASK {
                // Tasks 2n and 2n + 1 get the same messages in the same order.
                let message = task / 2 * DELIVERIES_PER_TASK + turn;
                let key = key(&format!("{message:05}"));
                let mut rollback = task.is_multiple_of(2) && message.is_multiple_of(7);
                loop {
                    let Begun::New(mut transaction) = inbox.begin(&key).await? else { break };
                    B::effect(&mut transaction, &key.message_id).await?;
                    if !std::mem::take(&mut rollback) {
                        inbox.commit(&key, transaction).await?;
                        break;
                    }
                }
            }
            anyhow::Ok(())
        });
    }
    let cleaner = tokio::spawn({
        let inbox = inbox.clone();
        async move {
            for id in 0_u64.. {
                let old = key_of("old", &id.to_string());
                if let Begun::New(transaction) = inbox.begin(&old).await? {
                    inbox.commit(&old, transaction).await?;
                }
                inbox.clean_up("old", Duration::ZERO, 10).await?;
                inbox.clean_up("stock", Duration::from_secs(3600), 10).await?;
            }
            anyhow::Ok(())
        }
    });
    let start = tokio::time::Instant::now();
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    eprintln!("{} deliveries in {:?}", TASKS * DELIVERIES_PER_TASK, start.elapsed());
    assert!(!cleaner.is_finished(), "the clean-up meets no error");
    cleaner.abort();
    let effects = bed.effects().await?;
    assert_eq!(effects.len(), TASKS / 2 * DELIVERIES_PER_TASK);
    assert_eq!(effects.iter().collect::<BTreeSet<_>>().len(), effects.len(), "none twice");
    Ok(())
}

/// A service that shuts down, or a deadline, may drop `begin` at any point. The pool's connections must come back
/// without a transaction, or the next writes of somebody else would wait in it for a commit that never comes.
async fn a_cancelled_begin_leaves_no_open_transaction<B: Bed + 'static>() -> Result<()> {
    let bed = B::start().await?;
    bed.inbox().await?;
    let inbox = bed.inbox_at("root", bed.port(), 1)?;
    for turn in 0..300_u64 {
        let name = format!("{turn:03}");
        drop(timeout(Duration::from_micros(turn * 10), inbox.begin(&key(&name))).await);
        bed.run_in_pool(&inbox, &format!("INSERT INTO effects (name) VALUES ('{name}')"))
            .await
            .with_context(|| format!("turn {turn}"))?;
    }
    let effects = bed.effects().await?;
    assert_eq!(effects.len(), 300, "each was committed by itself");
    // Cancelled while it waits for another one.
    let other = bed.inbox().await?;
    let transaction = begin(&other, &key("held")).await?;
    assert!(timeout(Duration::from_millis(100), inbox.begin(&key("held"))).await.is_err());
    other.commit(&key("held"), transaction).await?;
    assert!(is_duplicate(&inbox, &key("held")).await?);
    Ok(())
}

/// A gap lock on the record for which a duplicate waits would stop the messages whose ids sort before it.
async fn a_waiting_duplicate_holds_up_no_other_message<B: Bed + 'static>() -> Result<()> {
    let bed = B::start().await?;
    let inbox = bed.inbox().await?;
    let transaction = begin(&inbox, &key("m")).await?;
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move { is_duplicate(&inbox, &key("m")).await }
    });
    eventually("it to wait", PATIENCE, async || Ok((B::waiting(&inbox).await? > 0).then_some(()))).await?;
    assert!(!waiting.is_finished(), "it waits");
    for other in ["a", "l", "m ", "z"] {
        let other = key(other);
        let transaction = timeout(Duration::from_secs(5), begin(&inbox, &other)).await??;
        inbox.commit(&other, transaction).await?;
    }
    inbox.commit(&key("m"), transaction).await?;
    assert!(waiting.await??);
    Ok(())
}

async fn a_lock_that_does_not_come_is_a_conflict<B: Bed>() -> Result<()> {
    let bed = B::start().await?;
    bed.inbox().await?;
    bed.exec(B::SHORT_LOCK_WAIT).await?;
    let (one, two) = (bed.inbox().await?, bed.inbox().await?);
    let transaction = begin(&one, &key("1")).await?;
    let err = refusal(&two, &key("1")).await;
    assert_eq!(err.kind(), InboxErrorKind::Conflict, "{err:?}");
    one.commit(&key("1"), transaction).await?;
    assert!(is_duplicate(&two, &key("1")).await?, "everything is as before");
    Ok(())
}
