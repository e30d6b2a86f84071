//! Nothing is written but in a transaction that lives.

use anyhow::Result;
use outbox_producer::{ErrorKind, NewEvent};
use sqlx::{Acquire as _, Executor as _};

use crate::shop::{BOTH, Shop, placed};

#[tokio::test]
async fn a_rollback_leaves_nothing() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let mut transaction = shop.pool.begin().await?;
        transaction.execute("INSERT INTO shop.orders VALUES (1, 10)").await?;
        shop.outbox.write(&mut transaction, &placed(1)).await?;
        transaction.rollback().await?;

        let mut transaction = shop.pool.begin().await?;
        shop.outbox.write_all(&mut transaction, &[placed(1), placed(2)]).await?;
        drop(transaction);

        // One inside another, of which only the outer one commits.
        let mut transaction = shop.pool.begin().await?;
        let mut inner = transaction.begin().await?;
        shop.outbox.write(&mut inner, &placed(1)).await?;
        inner.rollback().await?;
        let kept = shop.outbox.write(&mut transaction, &placed(2)).await?;
        transaction.commit().await?;
        let rows = shop.rows().await?;
        assert_eq!(rows.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), [kept.simple().to_string()]);
        assert_eq!(shop.server.query::<u64>("SELECT COUNT(*) FROM shop.orders").await?, [0], "{flavour}");
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_was_committed_by_the_way_takes_no_event() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let mut transaction = shop.pool.begin().await?;
        shop.outbox.write(&mut transaction, &placed(1)).await?;
        transaction.execute("CREATE TABLE shop.more (id INT)").await?;
        let error = shop.outbox.write(&mut transaction, &placed(2)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoTransaction, "{flavour}");
        let error = shop.outbox.write_all(&mut transaction, &[placed(3)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoTransaction, "{flavour}");
        let events = (0..1_001).map(placed).collect::<Vec<_>>();
        let error = shop.outbox.write_all(&mut transaction, &events).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoTransaction, "{flavour}: several statements");
        assert_eq!(shop.count().await?, 1, "{flavour}: only what the server had committed by the way");

        // Who turns the question off is not asked.
        let unasked = shop.outbox.clone().with_verification(false);
        unasked.write(&mut transaction, &placed(4)).await?;
        transaction.rollback().await?;
        assert_eq!(shop.count().await?, 2, "{flavour}: the hazard is real");
    }
    Ok(())
}

/// The business rows are gone with the deadlock, so an event must not be written by a caller who overlooks it.
#[tokio::test]
async fn a_deadlock_takes_the_events_with_it() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        shop.server.exec("INSERT INTO shop.orders VALUES (1, 10), (2, 20)").await?;
        // The server gives up the transaction that has changed less: ours.
        let mut heavy = shop.pool.begin().await?;
        for id in 100..150 {
            heavy.execute(format!("INSERT INTO shop.orders VALUES ({id}, 0)").as_str()).await?;
        }
        heavy.execute("UPDATE shop.orders SET total = 0 WHERE id = 1").await?;
        let mut ours = shop.pool.begin().await?;
        ours.execute("UPDATE shop.orders SET total = 0 WHERE id = 2").await?;
        let (theirs, lost) = tokio::join!(
            heavy.execute("UPDATE shop.orders SET total = 0 WHERE id = 2"),
            ours.execute("UPDATE shop.orders SET total = 0 WHERE id = 1"),
        );
        theirs?;
        lost.expect_err("the deadlock");
        let error = shop.outbox.write(&mut ours, &placed(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoTransaction, "{flavour}");
        ours.rollback().await?;
        heavy.commit().await?;
        assert_eq!(shop.count().await?, 0, "{flavour}");
    }
    Ok(())
}

/// The deadlock is met by one of several inserts, and the connection is sound after it.
#[tokio::test]
async fn a_deadlock_amid_many_events_is_a_conflict() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        shop.server.exec("INSERT INTO shop.orders VALUES (1, 10)").await?;
        let event = || NewEvent::text("order", 1, "placed", "{}");
        let contested = event();
        let mut heavy = shop.pool.begin().await?;
        for id in 100..250 {
            heavy.execute(format!("INSERT INTO shop.orders VALUES ({id}, 0)").as_str()).await?;
        }
        shop.outbox.write(&mut heavy, &contested).await?;
        let mut ours = shop.pool.begin().await?;
        ours.execute("UPDATE shop.orders SET total = 0 WHERE id = 1").await?;
        let mut limits = outbox_producer::Limits::default();
        limits.statement_rows_max = 2;
        let outbox = shop.outbox.clone().with_limits(limits);
        let events = [event(), event(), event(), contested.clone(), event()];
        let (theirs, lost) = tokio::join!(
            heavy.execute("UPDATE shop.orders SET total = 0 WHERE id = 1"),
            outbox.write_all(&mut ours, events),
        );
        theirs?;
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::Conflict, "{flavour}");
        ours.rollback().await?;
        heavy.commit().await?;
        assert_eq!(shop.count().await?, 1, "{flavour}");
        // Every connection of the pool goes on.
        for _ in 0..4 {
            let mut transaction = shop.pool.begin().await?;
            shop.outbox.write(&mut transaction, event()).await?;
            transaction.commit().await?;
        }
        assert_eq!(shop.count().await?, 5, "{flavour}");
    }
    Ok(())
}

/// A blackhole table keeps no rows, but its events are in the log; the check of the transaction must not mind.
#[tokio::test]
async fn a_blackhole_table() -> Result<()> {
    // MariaDB has the engine as a plug-in that is not installed by default.
    let shop = Shop::open(testbed::Flavour::MySql).await?;
    shop.server.exec("ALTER TABLE shop.outbox ENGINE = BLACKHOLE").await?;
    let mut transaction = shop.pool.begin().await?;
    shop.outbox.write(&mut transaction, &placed(1)).await?;
    let events = (0..1_001).map(placed).collect::<Vec<_>>();
    shop.outbox.write_all(&mut transaction, &events).await?;
    transaction.commit().await?;
    assert_eq!(shop.count().await?, 0);
    Ok(())
}
