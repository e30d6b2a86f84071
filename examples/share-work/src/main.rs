//! Instances of one service share its work: start it as often as you like. Each has some of the partitions, and when one
//! comes, stops or dies, they are divided anew. The messages of one key are handled one after another, in their order,
//! whichever instance has them.
//!
//! The bridge writes the partition of each message's key into its subject: `subject = "orders.{partition:8}.{type}"`.
//!
//!     cargo run -p share-work -- --database mysql://work:secret@127.0.0.1/work

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{Consumer, Context, HandlerError, Router, Tx};
use sqlx::mysql::MySqlPoolOptions;
use tokio_util::sync::CancellationToken;

/// As many as the bridge's subject says.
const PARTITIONS: u16 = 8;
const TABLE: &str = "\
CREATE TABLE IF NOT EXISTS work (
  seq      BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  order_id VARCHAR(64) NOT NULL,
  sequence BIGINT UNSIGNED NOT NULL,
  instance INT UNSIGNED NOT NULL
)";

/// Write down who handled which message
#[derive(Debug, Parser)]
struct Arguments {
    /// Where NATS is
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
    /// The service's own database, which all instances share; the account may create tables there
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database: String,
    /// The stream that the bridge writes
    #[arg(long, default_value = "ORDERS")]
    stream: String,
}

async fn work(context: Context, mut tx: Tx<MySqlInbox>) -> Result<(), HandlerError> {
    sqlx::query("INSERT INTO work (order_id, sequence, instance) VALUES (?, ?, ?)")
        .bind(context.partition_key())
        .bind(context.sequence())
        .bind(std::process::id())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { nats, database, stream } = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let pool = MySqlPoolOptions::new().connect(&database).await.context("cannot connect to the database")?;
    sqlx::query(TABLE).execute(&pool).await.context("cannot create the table of work")?;
    let client = async_nats::connect(&nats).await.context("cannot connect to NATS")?;
    let consumer = Consumer::builder(client, stream, "share-work")
        .ordered()
        .partitions(PARTITIONS, ["orders.{partition}.>"])
        // What an instance that died had goes to others after the lease, and what was in its hands after the ack wait.
        .lease(Duration::from_secs(3))
        .ack_wait(Duration::from_secs(3))
        .build(MySqlInbox::new(pool), Router::new().on("placed", work).with_state(()))
        .await?;
    let shutdown = CancellationToken::new();
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        drop(tokio::signal::ctrl_c().await);
        stopping.cancel();
    });
    Ok(consumer.run(shutdown).await?)
}
