//! A service without a database. Its inbox is a JetStream bucket, so a mail and the record that it was sent are *not* one
//! transaction: if the service dies between the two, the mail is sent again. The effect must bear that, as it does here:
//! whoever sends mails is given the message's id, and drops what it has had under that id.
//!
//!     cargo run -p send-mails -- --nats nats://127.0.0.1:4222

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use outbox_consumer::inbox::KvInbox;
use outbox_consumer::{Consumer, Context, Event, HandlerError, Router};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// How long a message is remembered: as long as the stream keeps it, or longer.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Send a mail for each placed order
#[derive(Debug, Parser)]
struct Arguments {
    /// Where NATS is
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// The stream that the bridge writes
    #[arg(long, default_value = "ORDERS")]
    stream: String,
}

#[derive(Debug, Deserialize)]
struct OrderPlaced {
    order: u64,
    customer: String,
}

async fn confirm(Event(placed): Event<OrderPlaced>, context: Context) -> Result<(), HandlerError> {
    let OrderPlaced { order, customer } = placed;
    // In place of a call that takes an idempotency key.
    println!("mail {} to {customer}: we have your order {order}", context.message_id());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { nats, stream } = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let client = async_nats::connect(&nats).await.context("cannot connect to NATS")?;
    let jetstream = async_nats::jetstream::new(client.clone());
    let inbox = KvInbox::new(jetstream, "send-mails", RETENTION);
    let consumer = Consumer::builder(client, stream, "send-mails")
        .inbox_retention(RETENTION)
        .build(inbox, Router::new().on("placed", confirm).with_state(()))
        .await?;
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        drop(tokio::signal::ctrl_c().await);
        stopping.cancel();
    });
    Ok(consumer.run(shutdown).await?)
}
