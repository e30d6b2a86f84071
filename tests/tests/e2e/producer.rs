//! What a service writes with `outbox-producer` arrives as it was meant.

use std::fmt::Display;

use anyhow::{Context as _, Result, ensure};
use outbox_bridge_tests::{Outbox as Table, STREAM, TABLE, World};
use outbox_event::header;
use outbox_producer::{Event, NewEvent, Outbox};
use serde::Serialize;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use testbed::Flavour;

#[derive(Debug, Serialize)]
struct OrderPlaced {
    order: u64,
    note: String,
}

impl Event for OrderPlaced {
    const TYPE: &'static str = "placed";
    const AGGREGATE_TYPE: &'static str = "order";

    fn aggregate_id(&self) -> impl Display {
        self.order
    }
}

async fn what_is_written_arrives(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).outbox(Table::standard()).start().await?;
    let mut bridge = world.bridge().await?;
    let options = MySqlConnectOptions::new().host("127.0.0.1").port(world.database.port()).username("root");
    let pool = MySqlPoolOptions::new().max_connections(2).connect_with(options).await?;
    let outbox = Outbox::new(TABLE)?;

    let placed = |order: u64| OrderPlaced { order, note: format!("\u{1F980} \"{order}\"") };
    let mut transaction = pool.begin().await?;
    let rolled_back = outbox.write(&mut transaction, &placed(1)).await?;
    transaction.rollback().await?;
    let mut transaction = pool.begin().await?;
    let first = outbox.write(&mut transaction, &placed(2)).await?;
    let several: Vec<_> = (3..103).map(placed).collect();
    let ids = outbox.write_all(&mut transaction, &several).await?;
    let last = NewEvent::of(&placed(103))?.with_header("traceparent", "00-aa-bb-01");
    let last = outbox.write(&mut transaction, last).await?;
    transaction.commit().await?;
    pool.close().await;

    world.await_last(&mut bridge, STREAM, &last.to_string()).await?;
    let stored = world.stored(STREAM).await?;
    let expected: Vec<String> =
        [first].into_iter().chain(ids).chain([last]).map(|id| id.to_string()).collect();
    let found: Vec<&str> = stored.iter().map(|message| message.header(header::CE_ID)).collect();
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    ensure!(!expected.contains(&rolled_back.to_string()));
    for (number, message) in (2_u64..).zip(&stored) {
        ensure!(message.subject == "orders.order.placed", "{}", message.subject);
        ensure!(message.header(header::CE_SUBJECT) == number.to_string());
        let body: serde_json::Value = serde_json::from_str(&message.text())?;
        ensure!(body == serde_json::to_value(placed(number))?, "{body}");
    }
    let trace = stored.last().context("a message")?.header("traceparent");
    ensure!(trace == "00-aa-bb-01", "{trace}");
    bridge.stop().await
}

#[tokio::test]
async fn what_is_written_to_mysql_arrives() -> Result<()> {
    what_is_written_arrives(Flavour::MySql).await
}

#[tokio::test]
async fn what_is_written_to_mariadb_arrives() -> Result<()> {
    what_is_written_arrives(Flavour::MariaDb).await
}
