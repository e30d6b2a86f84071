//! Many events at once.

use anyhow::Result;
use outbox_producer::{ErrorKind, Limits, NewEvent, Outbox, Uuid};

use crate::shop::{BOTH, Shop, placed};

fn event(number: usize) -> NewEvent {
    NewEvent::text("order", number, "placed", format!("{{\"number\": {number}}}"))
}

fn small_statements(outbox: &Outbox) -> Outbox {
    let mut limits = Limits::default();
    limits.statement_rows_max = 3;
    outbox.clone().with_limits(limits)
}

#[tokio::test]
async fn the_order_is_kept() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let mut transaction = shop.pool.begin().await?;
        let mut ids = shop.outbox.write_all(&mut transaction, (0..2_500).map(event)).await?;
        ids.extend(shop.outbox.write_all(&mut transaction, &[placed(1), placed(2)]).await?);
        assert!(shop.outbox.write_all(&mut transaction, Vec::<NewEvent>::new()).await?.is_empty());
        transaction.commit().await?;

        let written: Vec<String> = shop.rows().await?.into_iter().map(|row| row.0).collect();
        let expected: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
        assert_eq!(written, expected, "{flavour}");
        assert_eq!(ids.len(), 2_502);
    }
    Ok(())
}

/// Services write in spawned tasks, so what `write` returns must be able to move between threads.
#[tokio::test]
async fn from_spawned_tasks() -> Result<()> {
    let shop = Shop::open(testbed::Flavour::MySql).await?;
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (pool, outbox) = (shop.pool.clone(), shop.outbox.clone());
            tokio::spawn(async move {
                let mut transaction = pool.begin().await?;
                outbox.write(&mut transaction, &placed(task)).await?;
                outbox.write_all(&mut transaction, &[placed(task), placed(task)]).await?;
                transaction.commit().await?;
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let ids: std::collections::BTreeSet<_> = shop.rows().await?.into_iter().map(|row| row.0).collect();
    assert_eq!(ids.len(), 24);
    Ok(())
}

#[tokio::test]
async fn large_payloads_are_spread_over_statements() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        // The smallest packet that the events alone fit into.
        shop.server.exec("SET GLOBAL max_allowed_packet = 1200 * 1024").await?;
        let pool = sqlx::MySqlPool::connect(&shop.server.url("root")).await?;
        let payload = format!("\"{}\"", "x".repeat(400_000));
        let mut transaction = pool.begin().await?;
        let events = (0..10).map(|number| NewEvent::text("order", number, "placed", payload.clone()));
        shop.outbox.write_all(&mut transaction, events).await?;
        transaction.commit().await?;
        assert_eq!(shop.count().await?, 10, "{flavour}");
    }
    Ok(())
}

#[tokio::test]
async fn all_or_none_even_if_the_transaction_goes_on() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let outbox = small_statements(&shop.outbox);
        let mut transaction = shop.pool.begin().await?;
        let first = outbox.write(&mut transaction, event(0)).await?;
        // The fourth statement meets the id that is there.
        let events = (1..=11).map(|n| if n == 11 { event(n).with_id(first) } else { event(n) });
        let error = outbox.write_all(&mut transaction, events).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Duplicate, "{flavour}");

        // One that cannot be written lets none be written.
        let events = (20..=30).map(|n| if n == 30 { NewEvent::text("order", n, "", "{}") } else { event(n) });
        let error = outbox.write_all(&mut transaction, events).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Empty, "{flavour}");

        let ids: Vec<Uuid> = outbox.write_all(&mut transaction, (40..50).map(event)).await?;
        transaction.commit().await?;
        let expected: Vec<String> =
            std::iter::once(first).chain(ids).map(|id| id.simple().to_string()).collect();
        let written: Vec<String> = shop.rows().await?.into_iter().map(|row| row.0).collect();
        assert_eq!(written, expected, "{flavour}");
    }
    Ok(())
}

#[tokio::test]
async fn none_if_the_future_is_dropped() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let outbox = small_statements(&shop.outbox);
        let mut transaction = shop.pool.begin().await?;
        {
            let mut writing = std::pin::pin!(outbox.write_all(&mut transaction, (0..3_000).map(event)));
            // Until some statements of the thousand are done, which the server's status counts.
            let dropped = tokio::select! {
                biased;
                written = &mut writing => { written?; false }
                seen = inserts_seen(&shop) => { seen?; true }
            };
            assert!(dropped, "{flavour}: it was done too soon for this test");
        }
        outbox.write(&mut transaction, event(7)).await?;
        transaction.commit().await?;
        assert_eq!(shop.count().await?, 1, "{flavour}: only what was written after");
    }
    Ok(())
}

/// Waits until the server has run some inserts of the transaction that is under way.
async fn inserts_seen(shop: &Shop) -> Result<()> {
    testbed::eventually("some inserts", std::time::Duration::from_secs(20), async || {
        let count: Vec<(String, u64)> = shop.server.query("SHOW GLOBAL STATUS LIKE 'Com_insert'").await?;
        Ok(count.iter().any(|(_, count)| *count > 5).then_some(()))
    })
    .await
}
