//! The ledger of a bank: a service that credits transfers, as a process that a test can kill.
//!
//! Its handler fails at random, before and after its writes, and panics now and then. `BANK_NATS` and `BANK_DATABASE` say
//! where its servers are.

use std::time::Duration;

use anyhow::{Context as _, Result};
use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{Consumer, Context, Event, HandlerError, RetryPolicy, Router, Tx};
use serde::Deserialize;
use sqlx::mysql::MySqlPoolOptions;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Deserialize)]
struct Transfer {
    account: u32,
    number: u64,
    cents: i64,
}

async fn credit(
    Event(transfer): Event<Transfer>,
    mut transaction: Tx<MySqlInbox>,
    context: Context,
) -> Result<(), HandlerError> {
    stumble()?;
    sqlx::query("UPDATE ledger.accounts SET cents = cents + ? WHERE account = ?")
        .bind(transfer.cents)
        .bind(transfer.account)
        .execute(&mut **transaction)
        .await?;
    stumble()?;
    sqlx::query("INSERT INTO ledger.effects (message_id, account, number) VALUES (?, ?, ?)")
        .bind(context.message_id())
        .bind(transfer.account)
        .bind(transfer.number)
        .execute(&mut **transaction)
        .await?;
    stumble()
}

/// Fails in one of thirty cases, now and then by a panic.
fn stumble() -> Result<(), HandlerError> {
    match rand::random_range(0..90) {
        0 | 1 => Err(HandlerError::transient("stumbled")),
        2 => panic!("fell"),
        _ => Ok(()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let client = async_nats::ConnectOptions::new()
        .retry_on_initial_connect()
        .ping_interval(Duration::from_secs(2))
        .connect(variable("BANK_NATS")?)
        .await?;
    let pool = MySqlPoolOptions::new().max_connections(16).connect(&variable("BANK_DATABASE")?).await?;
    let retry = RetryPolicy {
        initial: Duration::from_millis(50),
        max: Duration::from_millis(500),
        attempts_max: 1_000,
        ..RetryPolicy::default()
    };
    let consumer = Consumer::builder(client, "ORDERS", "ledger")
        .concurrency(8)
        .ordered()
        .ack_wait(Duration::from_secs(2))
        .retry(retry)
        .build(MySqlInbox::new(pool), Router::new().on("transferred", credit).with_state(()))
        .await?;
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
