//! A server with an outbox table.

use std::fmt::Display;

use anyhow::Result;
use outbox_producer::{Event, Outbox};
use sqlx::MySqlPool;
use testbed::{Flavour, MySql};

pub(crate) const BOTH: [Flavour; 2] = [Flavour::MySql, Flavour::MariaDb];

/// As `outbox-bridge init` creates it.
const TABLES: &str = "
    CREATE DATABASE shop CHARACTER SET utf8mb4;
    CREATE TABLE shop.outbox (
      seq            BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
      id             BINARY(16)   NOT NULL UNIQUE,
      aggregate_type VARCHAR(64)  NOT NULL,
      aggregate_id   VARCHAR(255) NOT NULL,
      type           VARCHAR(128) NOT NULL,
      payload        JSON         NOT NULL,
      headers        JSON         NULL,
      created_at     TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
    ) ENGINE = InnoDB;
    CREATE TABLE shop.orders (id INT PRIMARY KEY, total INT NOT NULL) ENGINE = InnoDB";

pub(crate) struct Shop {
    pub(crate) server: MySql,
    pub(crate) pool: MySqlPool,
    pub(crate) outbox: Outbox,
}

/// A row as the server holds it: hexadecimal id, aggregate type, aggregate id, type, payload, headers.
pub(crate) type Row = (String, String, String, String, String, Option<String>);

impl Shop {
    pub(crate) async fn open(flavour: Flavour) -> Result<Self> {
        let server = MySql::builder_of(flavour).relaxed_durability().start().await?;
        server.exec(TABLES).await?;
        let pool = MySqlPool::connect(&server.url("root")).await?;
        Ok(Self { server, pool, outbox: Outbox::new("shop.outbox")? })
    }

    /// What is committed, in the order of the inserts, and read by another driver than wrote it.
    pub(crate) async fn rows(&self) -> Result<Vec<Row>> {
        self.server
            .query(
                "SELECT LOWER(HEX(id)), aggregate_type, aggregate_id, type, CAST(payload AS CHAR), CAST(headers AS CHAR) \
                 FROM shop.outbox ORDER BY seq",
            )
            .await
    }

    pub(crate) async fn count(&self) -> Result<u64> {
        Ok(self.server.query::<u64>("SELECT COUNT(*) FROM shop.outbox").await?.into_iter().sum())
    }
}

#[derive(serde::Serialize)]
pub(crate) struct OrderPlaced {
    pub(crate) order: u64,
    pub(crate) note: String,
}

impl Event for OrderPlaced {
    const TYPE: &'static str = "placed";
    const AGGREGATE_TYPE: &'static str = "order";

    fn aggregate_id(&self) -> impl Display {
        self.order
    }
}

pub(crate) fn placed(order: u64) -> OrderPlaced {
    OrderPlaced { order, note: "naïve – 🦀 \"quoted\" \\ \n".into() }
}
