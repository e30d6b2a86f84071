//! Ships orders: each of them is placed, paid and shipped, in this order, and one step builds on the other.
//!
//! The steps of an order have its number as partition key, so an ordered consumer handles them one after another, while
//! other orders go on. The label printer knows Latin letters only. An order that it fails at becomes a dead letter, its
//! later steps are parked behind it, and when the printer is mended they are replayed:
//!
//!     cargo run -p ship-orders -- run
//!     cargo run -p ship-orders -- dead-letters
//!     cargo run -p ship-orders -- run --unicode
//!     cargo run -p ship-orders -- replay

mod letters;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{Consumer, DeadLetters, Event, FailingKeys, HandlerError, Router, State, Tx};
use serde::Deserialize;
use sqlx::mysql::MySqlPoolOptions;
use tokio_util::sync::CancellationToken;

const TABLE: &str = "\
CREATE TABLE IF NOT EXISTS shipments (
  order_id BIGINT UNSIGNED NOT NULL PRIMARY KEY,
  status   VARCHAR(16) NOT NULL,
  label    VARCHAR(64) CHARACTER SET utf8mb4 NULL
)";
/// The durable consumer, which the dead letters go by too.
const DURABLE: &str = "ship-orders";

/// Ship orders step by step
#[derive(Debug, Parser)]
struct Arguments {
    /// Where NATS is
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222", global = true)]
    nats: String,
    /// The stream that the bridge writes
    #[arg(long, default_value = "ORDERS", global = true)]
    stream: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ship orders until SIGINT or SIGTERM
    Run {
        /// The service's own database; the account may create tables there
        #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
        database: String,
        /// The label printer is mended: it knows all letters
        #[arg(long)]
        unicode: bool,
    },
    /// Show the steps that were given up or wait behind one that was
    DeadLetters,
    /// Try all of them again, each order's in their order
    Replay,
}

#[derive(Debug, Deserialize)]
struct Order {
    order: u64,
    customer: String,
}

#[derive(Debug, Clone, Copy)]
struct Printer {
    unicode: bool,
}

impl Printer {
    fn label(self, customer: &str) -> Result<String, HandlerError> {
        // Latin letters end with U+024F, but for rare ones.
        match customer.chars().find(|letter| !self.unicode && *letter > '\u{24f}') {
            // Another attempt would end alike: no retries.
            Some(letter) => {
                Err(HandlerError::permanent(format!("the label printer does not know the letter {letter}")))
            }
            None => Ok(format!("To {customer}")),
        }
    }
}

async fn placed(Event(order): Event<Order>, mut tx: Tx<MySqlInbox>) -> Result<(), HandlerError> {
    sqlx::query("INSERT INTO shipments (order_id, status) VALUES (?, 'placed')")
        .bind(order.order)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn paid(
    Event(order): Event<Order>,
    State(printer): State<Printer>,
    mut tx: Tx<MySqlInbox>,
) -> Result<(), HandlerError> {
    let label = printer.label(&order.customer)?;
    advance(&mut tx, order.order, "placed", "paid", Some(&label)).await
}

async fn shipped(Event(order): Event<Order>, mut tx: Tx<MySqlInbox>) -> Result<(), HandlerError> {
    advance(&mut tx, order.order, "paid", "shipped", None).await?;
    println!("order {} is shipped", order.order);
    Ok(())
}

/// Takes an order one step further. It would fail if messages of an order were handled out of order, or twice.
async fn advance(
    tx: &mut Tx<MySqlInbox>,
    order: u64,
    from: &str,
    to: &str,
    label: Option<&str>,
) -> Result<(), HandlerError> {
    let done = sqlx::query(
        "UPDATE shipments SET status = ?, label = COALESCE(?, label) WHERE order_id = ? AND status = ?",
    )
    .bind(to)
    .bind(label)
    .bind(order)
    .bind(from)
    .execute(&mut ***tx)
    .await?;
    if done.rows_affected() != 1 {
        return Err(HandlerError::permanent(format!("order {order} cannot become {to}: it is not {from}")));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { nats, stream, command } = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let client = async_nats::connect(&nats).await.context("cannot connect to NATS")?;
    match command {
        Command::Run { database, unicode } => ship(client, stream, &database, Printer { unicode }).await,
        Command::DeadLetters => letters::show(&DeadLetters::open(client, &stream, DURABLE).await?).await,
        Command::Replay => letters::replay(&DeadLetters::open(client, &stream, DURABLE).await?).await,
    }
}

async fn ship(client: async_nats::Client, stream: String, database: &str, printer: Printer) -> Result<()> {
    let pool = MySqlPoolOptions::new().max_connections(10).connect(database).await;
    let pool = pool.context("cannot connect to the database")?;
    sqlx::query(TABLE).execute(&pool).await.context("cannot create the table of shipments")?;
    let handlers =
        Router::new().on("placed", placed).on("paid", paid).on("shipped", shipped).with_state(printer);
    let consumer = Consumer::builder(client, stream, DURABLE)
        .ordered()
        .failing_keys(FailingKeys::Park)
        .concurrency(8)
        // After a crash another instance goes on after the lease, with what was in hand after the ack wait.
        .lease(Duration::from_secs(3))
        .ack_wait(Duration::from_secs(5))
        .build(MySqlInbox::new(pool), handlers)
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
