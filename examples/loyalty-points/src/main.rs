//! Credits loyalty points for paid orders, each order once.
//!
//! The points and the record that a message was handled are in one transaction of the service's own database, so neither a
//! crash nor a message that is delivered again can credit an order twice or not at all.
//!
//!     cargo run -p loyalty-points -- --nats nats://127.0.0.1:4222 --database mysql://loyalty:secret@127.0.0.1/loyalty

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{Consumer, Event, HandlerError, Router, Tx};
use serde::Deserialize;
use sqlx::mysql::MySqlPoolOptions;
use tokio_util::sync::CancellationToken;

const TABLE: &str = "\
CREATE TABLE IF NOT EXISTS points (
  customer VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY,
  points   BIGINT NOT NULL
)";

/// Credit loyalty points for paid orders
#[derive(Debug, Parser)]
struct Arguments {
    /// Where NATS is
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// The service's own database; the account may create tables there
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database: String,
    /// The stream that the bridge writes
    #[arg(long, default_value = "ORDERS")]
    stream: String,
}

#[derive(Debug, Deserialize)]
struct OrderPaid {
    order: u64,
    customer: String,
    total: f64,
}

/// One point for each whole euro.
async fn credit(Event(paid): Event<OrderPaid>, mut tx: Tx<MySqlInbox>) -> Result<(), HandlerError> {
    let points = paid.total.floor();
    sqlx::query(
        "INSERT INTO points (customer, points) VALUES (?, ?) \
         ON DUPLICATE KEY UPDATE points = points + VALUES(points)",
    )
    .bind(&paid.customer)
    .bind(points)
    .execute(&mut **tx)
    .await?;
    println!("{points} points to {} for order {}", paid.customer, paid.order);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let pool = MySqlPoolOptions::new().max_connections(10).connect(&arguments.database).await;
    let pool = pool.context("cannot connect to the database")?;
    sqlx::query(TABLE).execute(&pool).await.context("cannot create the table of points")?;
    let client = async_nats::connect(&arguments.nats).await.context("cannot connect to NATS")?;

    let consumer = Consumer::builder(client, arguments.stream, "loyalty-points")
        .filter_subjects(["orders.order.paid"])
        .concurrency(8)
        // After a crash, what was in hand comes again after this time.
        .ack_wait(Duration::from_secs(5))
        .build(MySqlInbox::new(pool), Router::new().on("paid", credit).with_state(()))
        .await?;
    Ok(consumer.run(on_signals()?).await?)
}

/// Is cancelled by SIGINT or SIGTERM; then handlers end, and nothing new begins.
fn on_signals() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    Ok(shutdown)
}
