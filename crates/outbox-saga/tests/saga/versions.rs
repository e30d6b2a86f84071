//! A definition that changes while sagas are under way.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_saga::saga::Saga;
use testbed::{Flavour, eventually};
use tracing_subscriber::fmt::MakeWriter;

use crate::bed::{Bed, PATIENCE};
use crate::for_each_database;
use crate::shop::{Order, PATIENT, paying, place_order, quick, reserving, shipping};

/// No notice any more, and what is shipped is wrapped before.
fn second() -> Saga<Order> {
    let wrap = |step: outbox_saga::saga::StepBuilder<Order>| {
        step.command(|order| order.event("Wrap")).timeout(PATIENT)
    };
    let saga = Saga::named("place-order").version(2).step("reserve", reserving).pivot("pay", paying);
    let saga = saga.step("wrap", |step| wrap(step).retry(quick(2))).step("ship", shipping);
    saga.build().expect("a saga")
}

/// The effects of an order: what was done by steps that write it down.
async fn effects(bed: &Bed, order: &str) -> Result<Vec<String>> {
    let effects = "SELECT effect FROM effects WHERE order_id = ? ORDER BY effect";
    Ok(sqlx::query_scalar(effects).bind(order).fetch_all(&bed.pool).await?)
}

async fn version(bed: &Bed, id: &str) -> Result<u32> {
    let version = sqlx::query_scalar("SELECT version FROM saga_instances WHERE id = ?");
    Ok(version.bind(id).fetch_one(&bed.pool).await?)
}

/// What was begun under version 1 ends under it, also after a restart with both; new ones are of version 2.
async fn each_ends_under_the_version_that_it_began_with(flavour: Flavour) -> Result<()> {
    let mut bed = Bed::start(flavour).await?;
    let first = bed.orchestrate_these(&[place_order()]).await?;
    bed.start_saga(&first.orchestrator, &place_order(), &Order::new("old", 1, 400), "old").await?;
    first.stop().await?;

    let both = bed.orchestrate_these(&[place_order(), second()]).await?;
    bed.start_saga(&both.orchestrator, &second(), &Order::new("new", 1, 400), "new").await?;
    // Held up in the midst of it, so that the next process meets sagas of both versions under way.
    bed.hold_up("StockReserved");
    bed.participate().await?;
    eventually("both to reserve", PATIENCE, async || {
        Ok((bed.count("SELECT reserved FROM stock").await? == 2).then_some(()))
    })
    .await?;
    both.stop().await?;
    bed.hold_up("");
    let restarted = bed.orchestrate_these(&[second(), place_order()]).await?;
    for id in ["old", "new"] {
        bed.await_status(id, "completed").await?;
    }
    ensure!((version(&bed, "old").await?, version(&bed, "new").await?) == (1, 2));
    ensure!(effects(&bed, "old").await? == ["do notify", "shipped"], "{:?}", effects(&bed, "old").await?);
    ensure!(effects(&bed, "new").await? == ["do wrap", "shipped"], "{:?}", effects(&bed, "new").await?);
    restarted.stop().await?;
    bed.stop().await
}

for_each_database!(each_ends_under_the_version_that_it_began_with);

/// What a process logs.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        self.0.lock().map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut text) = self.0.lock() {
            text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A process without version 1 leaves its sagas alone, says so, and does its own work; one that has it ends them.
#[tokio::test]
async fn a_version_that_no_process_has_is_told_and_waited_for() -> Result<()> {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    let _default = testbed::own_subscriber(subscriber);
    let mut bed = Bed::start(Flavour::MySql).await?;
    let both = bed.orchestrate_these(&[place_order(), second()]).await?;
    bed.start_saga(&both.orchestrator, &place_order(), &Order::new("left", 1, 400), "left").await?;
    both.stop().await?;
    // As if it had been so for a while.
    let overdue = "UPDATE saga_instances SET wake_at = UTC_TIMESTAMP(6) - INTERVAL 2 MINUTE";
    sqlx::query(overdue).execute(&bed.pool).await?;
    let state = "SELECT CAST(state AS CHAR) FROM saga_instances WHERE id = 'left'";
    let before: String = sqlx::query_scalar(state).fetch_one(&bed.pool).await?;

    let later = bed.orchestrate_these(&[second()]).await?;
    bed.participate().await?;
    bed.start_saga(&later.orchestrator, &second(), &Order::new("new", 1, 400), "new").await?;
    bed.await_status("new", "completed").await?;
    for told in [
        // By the clock, and by the handler of a reply.
        "1 of place-order 1",
        "saga left is a place-order of version 1, which this process does not know",
    ] {
        eventually(told, PATIENCE, async || Ok(log.text().contains(told).then_some(()))).await?;
    }
    let after: String = sqlx::query_scalar(state).fetch_one(&bed.pool).await?;
    ensure!(before == after, "it is left alone: {after}");
    ensure!(bed.unhandled().await? > 0, "its replies are kept");
    later.stop().await?;

    let again = bed.orchestrate_these(&[place_order(), second()]).await?;
    bed.await_status("left", "completed").await?;
    ensure!(effects(&bed, "left").await? == ["do notify", "shipped"]);
    eventually("its replies to be handled", Duration::from_secs(30), async || {
        Ok((bed.unhandled().await? == 0).then_some(()))
    })
    .await?;
    again.stop().await?;
    bed.stop().await
}
