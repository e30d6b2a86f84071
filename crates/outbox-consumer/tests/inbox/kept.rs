//! Connections that the MySQL inbox keeps from one message to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_consumer::inbox::Inbox as _;
use testbed::eventually;
use tokio_util::sync::CancellationToken;

use crate::bed::{Bed, MySqlBed};
use crate::{begin, for_each_mysql, is_duplicate, key};

const LIMIT: Duration = Duration::from_secs(20);

for_each_mysql!(
    nothing_is_rolled_back_between_messages,
    connections_go_back_when_no_message_comes,
    a_kept_connection_that_died_is_no_error,
    others_get_the_last_connection,
    a_kept_transaction_sees_what_was_committed_before_it,
    an_inbox_may_end_outside_of_its_runtime,
);

type TheInbox<B> = <B as Bed>::Inbox;

async fn handle<B: Bed>(inbox: &TheInbox<B>, id: &str) -> Result<()> {
    let mut transaction = begin(inbox, &key(id)).await?;
    B::effect(&mut transaction, id).await?;
    Ok(inbox.commit(&key(id), transaction).await?)
}

async fn connection_of<const M: bool>(
    transaction: &mut sqlx::Transaction<'static, sqlx::MySql>,
) -> Result<u64> {
    let id = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS UNSIGNED)");
    Ok(id.fetch_one(&mut **transaction).await?)
}

async fn nothing_is_rolled_back_between_messages<const M: bool>() -> Result<()> {
    let bed = MySqlBed::<M>::start().await?;
    let inbox = bed.inbox().await?;
    let rollbacks = async || -> Result<i64> {
        let counted: (String, String) =
            sqlx::query_as("SHOW GLOBAL STATUS LIKE 'Com_rollback'").fetch_one(&inbox.pool).await?;
        Ok(counted.1.parse()?)
    };
    let before = rollbacks().await?;
    for number in 0..200 {
        handle::<MySqlBed<M>>(&inbox, &number.to_string()).await?;
    }
    let after = rollbacks().await?;
    // One in a hundred goes back, and one that waited for long on a busy machine.
    ensure!(after - before < 60, "{} of 200", after - before);
    assert_eq!(bed.effects().await?.len(), 200);
    assert!(is_duplicate(&inbox, &key("7")).await?);
    Ok(())
}

async fn connections_go_back_when_no_message_comes<const M: bool>() -> Result<()> {
    let bed = MySqlBed::<M>::start().await?;
    let inbox = bed.inbox().await?;
    // So many at once, so that one kept is hardly the one in a hundred that goes back.
    for round in 0..3 {
        let mut transactions = Vec::new();
        for number in 0..10 {
            let key = key(&format!("{round} {number}"));
            transactions.push((begin(&inbox, &key).await?, key));
        }
        for (transaction, key) in transactions {
            inbox.commit(&key, transaction).await?;
        }
        let kept = inbox.pool.size() as usize - inbox.pool.num_idle();
        ensure!(kept > 5, "only {kept} were kept");
        let all_back = async || Ok((inbox.pool.num_idle() == inbox.pool.size() as usize).then_some(()));
        eventually("all connections to be back", LIMIT, all_back).await?;
    }
    handle::<MySqlBed<M>>(&inbox, "last").await?;
    tokio::time::timeout(LIMIT, inbox.pool.close()).await?;
    Ok(())
}

async fn a_kept_connection_that_died_is_no_error<const M: bool>() -> Result<()> {
    let bed = MySqlBed::<M>::start().await?;
    let inbox = bed.inbox().await?;
    let mut reused = 0;
    for number in 0..20 {
        let (first, second) = (key(&format!("{number} first")), key(&format!("{number} second")));
        let mut transaction = begin(&inbox, &first).await?;
        let connection = connection_of::<M>(&mut transaction).await?;
        inbox.commit(&first, transaction).await?;
        // Every other time it may live, which shows that it would have been taken again.
        if number % 2 == 0 {
            sqlx::query(&format!("KILL {connection}")).execute(&inbox.pool).await?;
        }
        let mut transaction = begin(&inbox, &second).await?;
        let later = connection_of::<M>(&mut transaction).await?;
        ensure!(number % 2 == 1 || later != connection, "killed, and used again");
        reused += u32::from(later == connection);
        inbox.commit(&second, transaction).await?;
        assert!(is_duplicate(&inbox, &first).await? && is_duplicate(&inbox, &second).await?);
    }
    ensure!(reused > 3, "only {reused} connections were used again");
    Ok(())
}

/// A pool with a single connection, messages without a pause, and somebody who asks the pool for it.
async fn others_get_the_last_connection<const M: bool>() -> Result<()> {
    let bed = MySqlBed::<M>::start().await?;
    bed.inbox().await?;
    let inbox = bed.inbox_at("root", bed.port(), 1)?;
    let (handled, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let messages = tokio::spawn({
        let (inbox, handled, stop) = (inbox.clone(), handled.clone(), stop.clone());
        async move {
            while !stop.is_cancelled() {
                let id = handled.fetch_add(1, Ordering::Relaxed).to_string();
                handle::<MySqlBed<M>>(&inbox, &id).await?;
            }
            anyhow::Ok(())
        }
    });
    for _ in 0..20 {
        let before = handled.load(Ordering::Relaxed);
        let connection = inbox.pool.acquire().await?;
        let meanwhile = handled.load(Ordering::Relaxed) - before;
        drop(connection);
        ensure!(meanwhile < 10, "{meanwhile} messages came before");
        let seen = handled.load(Ordering::Relaxed);
        let more = async || Ok((handled.load(Ordering::Relaxed) > seen + 2).then_some(()));
        eventually("messages to flow again", LIMIT, more).await?;
    }
    stop.cancel();
    messages.await?
}

/// Its snapshot is not that of the moment in which the message before it was committed.
async fn a_kept_transaction_sees_what_was_committed_before_it<const M: bool>() -> Result<()> {
    let bed = MySqlBed::<M>::start().await?;
    let inbox = bed.inbox().await?;
    for number in 0..20 {
        handle::<MySqlBed<M>>(&inbox, &format!("message {number}")).await?;
        bed.run_in_pool(&inbox, "INSERT INTO effects (name) VALUES ('other')").await?;
        let looking = key(&format!("look {number}"));
        let mut transaction = begin(&inbox, &looking).await?;
        let others: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM effects WHERE name = 'other'")
            .fetch_one(&mut *transaction)
            .await?;
        assert_eq!(others, number + 1);
        inbox.commit(&looking, transaction).await?;
    }
    Ok(())
}

async fn an_inbox_may_end_outside_of_its_runtime<const M: bool>() -> Result<()> {
    let bed = MySqlBed::<M>::start().await?;
    let port = bed.port();
    bed.inbox().await?;
    let inbox = bed.inbox_at("root", port, 10)?;
    let ended = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Several, so that one is kept.
        runtime.block_on(async {
            for number in 0..3 {
                handle::<MySqlBed<M>>(&inbox, &number.to_string()).await?;
            }
            anyhow::Ok(())
        })?;
        drop(runtime);
        drop(inbox);
        Ok(())
    });
    let ended = tokio::task::spawn_blocking(move || ended.join()).await?;
    ended.map_err(|_| anyhow::anyhow!("the inbox panicked"))??;
    Ok(())
}
