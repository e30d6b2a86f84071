//! The ledger of a bank: a service that credits transfers, as a process that a test can kill.
//!
//! Its handler fails at random, before and after its writes, and panics now and then. `BANK_NATS` and `BANK_DATABASE` say
//! where its servers are, and `BANK_PARTITIONS` how many partitions it has, if any.

use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_consumer::inbox::{Inbox, MySqlInbox, PostgresInbox};
use outbox_consumer::{Consumer, Context, Event, HandlerError, RetryPolicy, Router, Routes, Tx};
use serde::Deserialize;
use sqlx::{mysql::MySqlPoolOptions, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Deserialize)]
struct Transfer {
    account: i32,
    number: i64,
    cents: i64,
}

/// Credits, once for each kind of inbox: the databases differ in their placeholders.
macro_rules! credit {
    ($name:ident, $inbox:ty, $update:literal, $insert:literal) => {
        async fn $name(
            Event(transfer): Event<Transfer>,
            mut transaction: Tx<$inbox>,
            context: Context,
        ) -> Result<(), HandlerError> {
            stumble()?;
            sqlx::query($update)
                .bind(transfer.cents)
                .bind(transfer.account)
                .execute(&mut **transaction)
                .await?;
            stumble()?;
            sqlx::query($insert)
                .bind(context.message_id())
                .bind(transfer.account)
                .bind(transfer.number)
                .execute(&mut **transaction)
                .await?;
            stumble()
        }
    };
}

credit!(
    credit_in_mysql,
    MySqlInbox,
    "UPDATE ledger.accounts SET cents = cents + ? WHERE account = ?",
    "INSERT INTO ledger.effects (message_id, account, number) VALUES (?, ?, ?)"
);
credit!(
    credit_in_postgres,
    PostgresInbox,
    "UPDATE ledger.accounts SET cents = cents + $1 WHERE account = $2",
    "INSERT INTO ledger.effects (message_id, account, number) VALUES ($1, $2, $3)"
);

/// Fails in one of thirty cases, now and then by a panic.
fn stumble() -> Result<(), HandlerError> {
    match rand::random_range(0..90) {
        0 | 1 => Err(HandlerError::transient("stumbled")),
        2 => panic!("fell"),
        _ => Ok(()),
    }
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let database = variable("BANK_DATABASE")?;
    if database.starts_with("postgres") {
        let pool = PgPoolOptions::new().max_connections(16).connect(&database).await?;
        let router = Router::new().on("transferred", credit_in_postgres).with_state(());
        consume(PostgresInbox::new(pool), router).await
    } else {
        let pool = MySqlPoolOptions::new().max_connections(16).connect(&database).await?;
        let router = Router::new().on("transferred", credit_in_mysql).with_state(());
        consume(MySqlInbox::new(pool), router).await
    }
}

async fn consume<I: Inbox>(inbox: I, handlers: Routes<I>) -> Result<()> {
    let client = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .ping_interval(Duration::from_secs(2))
        .connect(variable("BANK_NATS")?)
        .await?;
    let retry = RetryPolicy {
        initial: Duration::from_millis(50),
        max: Duration::from_millis(500),
        attempts_max: 1_000,
        ..RetryPolicy::default()
    };
    let mut consumer = Consumer::builder(client, "ORDERS", "ledger")
        .concurrency(8)
        .ordered()
        .lease(Duration::from_secs(2))
        .ack_wait(Duration::from_secs(2))
        .retry(retry);
    if let Ok(partitions) = variable("BANK_PARTITIONS")?.parse() {
        consumer = consumer.partitions(partitions, ["orders.{partition}.>"]);
    }
    let consumer = consumer.build(inbox, handlers).await?;
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        terminate.recv().await;
        stopping.cancel();
        anyhow::Ok(())
    });
    consumer.run(shutdown).await?;
    Ok(())
}
