//! The plain SQL form, with another driver.

use anyhow::Result;
use mysql_async::TxOpts;
use mysql_async::prelude::Queryable as _;
use outbox_producer::{NewEvent, Statement, Value};

use crate::shop::{BOTH, Shop, placed};

fn params(values: Vec<Value>) -> Vec<mysql_async::Value> {
    let value = |value| match value {
        Value::Null => mysql_async::Value::NULL,
        Value::Text(text) => text.into(),
        Value::Bytes(bytes) => bytes.into(),
    };
    values.into_iter().map(value).collect()
}

#[tokio::test]
async fn mysql_async_writes_the_same_rows() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let events: Vec<NewEvent> = (0..3)
            .map(|order| anyhow::Ok(NewEvent::of(&placed(order))?.with_header("tenant", "nörd")))
            .collect::<Result<_>>()?;

        let mut conn = shop.server.conn().await?;
        let mut transaction = conn.start_transaction(TxOpts::default()).await?;
        for Statement { sql, values, .. } in shop.outbox.statements(&events)? {
            transaction.exec_drop(sql, params(values)).await?;
        }
        let Statement { sql, values, ids, .. } = shop.outbox.statement(&placed(9))?;
        transaction.exec_drop(sql, params(values)).await?;
        transaction.rollback().await?;
        assert_eq!(shop.count().await?, 0, "{flavour}: {ids:?}");

        let mut transaction = conn.start_transaction(TxOpts::default()).await?;
        for Statement { sql, values, .. } in shop.outbox.statements(&events)? {
            transaction.exec_drop(sql, params(values)).await?;
        }
        transaction.commit().await?;
        let by_another = shop.rows().await?;

        shop.server.exec("TRUNCATE shop.outbox").await?;
        let mut transaction = shop.pool.begin().await?;
        shop.outbox.write_all(&mut transaction, &events).await?;
        transaction.commit().await?;
        assert_eq!(by_another.len(), 3, "{flavour}");
        assert_eq!(by_another, shop.rows().await?, "{flavour}");
        conn.disconnect().await?;
    }
    Ok(())
}
