//! What happens to streams beside being written to, and what the bridge does then: each row of the table in
//! `deploy/README.md` is one of these.

mod cluster;
mod deleted;
mod limits;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Expected, Order, STREAM, TABLE, World};
use testbed::eventually;

/// How long a bridge may take to notice something: it retries, and the machine is busy.
const NOTICE_LIMIT: Duration = Duration::from_secs(60);

/// Inserts so many rows of this event type in one transaction.
async fn insert_transaction(world: &World, count: u64, event_type: &str) -> Result<()> {
    let event = |number| Event { event_type: event_type.to_owned(), ..Event::new(number) };
    let events: Vec<Event> = (0..count).map(event).collect();
    let mut conn = world.conn().await?;
    conn.query_drop(Event::insert_sql(TABLE, &events)).await?;
    Ok(conn.disconnect().await?)
}

/// Changes the stream's configuration.
/// Waits until the bridge is not ready and says why.
async fn await_complaint(bridge: &mut Bridge, words: &str) -> Result<()> {
    let waiting = format!("/readyz to say {words:?}");
    let said = eventually(&waiting, NOTICE_LIMIT, async || {
        bridge.check_running()?;
        let answer = bridge.get("/readyz").await.unwrap_or_default();
        Ok((answer.starts_with("HTTP/1.1 503") && answer.contains(words)).then_some(()))
    })
    .await;
    said.map_err(|error| bridge.explain(error))
}

/// Waits until the checkpoint covers all that the stream holds.
async fn await_checkpoint(world: &World, bridge: &mut Bridge) -> Result<()> {
    let last = world.last_sequence(STREAM).await;
    eventually("the checkpoint to cover the stream", NOTICE_LIMIT, async || {
        bridge.check_running()?;
        let entry = world.jetstream.get_key_value("OUTBOX_BRIDGE").await?.get("outbox-bridge").await?;
        let checkpoint: serde_json::Value = serde_json::from_slice(&entry.unwrap_or_default())?;
        let covered = checkpoint.pointer("/streams/ORDERS/sequence").and_then(serde_json::Value::as_u64);
        Ok((covered == Some(last)).then_some(()))
    })
    .await
}

/// Expects that the stream holds all rows in order but those that were deleted from it.
async fn verify_without(world: &World, bridge: &mut Bridge, deleted: &HashSet<String>) -> Result<()> {
    world.settle(bridge).await?;
    let mut expected = Expected::rows(&world.database, TABLE, "seq").await?;
    let rows = expected.len();
    expected.retain(|row| !deleted.contains(&row.id));
    ensure!(rows - expected.len() == deleted.len(), "{} of {rows} rows were deleted", deleted.len());
    world.verify_rows(bridge, &expected, Order::Total).await?;
    let last = world.last_sequence(STREAM).await;
    ensure!(last == u64::try_from(rows)?, "each row has one sequence: {last} for {rows} rows");
    Ok(())
}
