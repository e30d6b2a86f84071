//! Writes an event in the transaction that writes the business row: both are committed, or neither is.
//!
//! The outbox table is the one that `outbox-bridge init` creates, in the schema that the connection names.
//!
//!     cargo run -p write-events -- --database mysql://shop:secret@127.0.0.1/shop --orders 3

use std::fmt::Display;

use anyhow::{Context as _, Result};
use clap::Parser;
use outbox_producer::{Event, Outbox};
use serde::Serialize;
use sqlx::mysql::MySqlPoolOptions;

const TABLE: &str = "\
CREATE TABLE IF NOT EXISTS placed_orders (
  id       BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL
)";

/// Place orders, and write an event of each
#[derive(Debug, Parser)]
struct Arguments {
    /// The schema with the outbox table; the account may create tables there
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database: String,
    /// How many orders to place
    #[arg(long, default_value_t = 1)]
    orders: u32,
}

/// What the message's body says.
#[derive(Debug, Serialize)]
struct OrderPlaced<'a> {
    order: u64,
    customer: &'a str,
}

impl Event for OrderPlaced<'_> {
    const TYPE: &'static str = "placed";
    const AGGREGATE_TYPE: &'static str = "order";

    fn aggregate_id(&self) -> impl Display {
        self.order
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { database, orders } = Arguments::parse();
    let pool = MySqlPoolOptions::new().connect(&database).await.context("cannot connect to the database")?;
    sqlx::query(TABLE).execute(&pool).await.context("cannot create the table of orders")?;
    let outbox = Outbox::default();
    for customer in ["Ada", "Björn", "Chiara"].into_iter().cycle().take(usize::try_from(orders)?) {
        let mut transaction = pool.begin().await?;
        let insert = sqlx::query("INSERT INTO placed_orders (customer) VALUES (?)").bind(customer);
        let order = insert.execute(&mut *transaction).await?.last_insert_id();
        // Takes a transaction and nothing else, so an event cannot be committed by itself.
        let id = outbox.write(&mut transaction, &OrderPlaced { order, customer }).await?;
        transaction.commit().await?;
        println!("{id} order {order} of {customer}");
    }
    Ok(())
}
