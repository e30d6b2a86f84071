//! Takes the payment of orders whose stock is reserved.
//!
//! ```text
//! StockReserved ─▶ PaymentTaken, or PaymentFailed if the customer's balance is too low
//! ```
//!
//! A payment by another company's service would not be part of the transaction: such a call gets the order's id as its
//! idempotency key, since it may be made again after a crash.
//!
//! ```text
//! DATABASE_URL=mysql://payment_service:secret@127.0.0.1/payment_service LISTEN=127.0.0.1:8083 cargo run -p payment-service
//! curl -X PUT -H 'content-type: application/json' -d '{"balance_cents": 50000}' 127.0.0.1:8083/accounts/Ada
//! ```

mod events;

use anyhow::Result;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use order_flow::{Failure, Service};
use outbox_consumer::Router;
use outbox_producer::Outbox;
use serde::{Deserialize, Serialize};
use sqlx::MySqlPool;

const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS accounts (
       customer      VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
       balance_cents BIGINT NOT NULL
     )",
    // One row an order: also a message with another id could not take its payment again.
    "CREATE TABLE IF NOT EXISTS payments (
       order_id CHAR(36) CHARACTER SET ascii NOT NULL PRIMARY KEY,
       customer VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
       cents    BIGINT NOT NULL,
       status   VARCHAR(16) NOT NULL
     )",
];

#[derive(Debug, Serialize, Deserialize)]
struct Account {
    balance_cents: i64,
}

async fn set(
    State(database): State<MySqlPool>,
    Path(customer): Path<String>,
    Json(account): Json<Account>,
) -> Result<StatusCode, Failure> {
    sqlx::query(
        "INSERT INTO accounts (customer, balance_cents) VALUES (?, ?) \
         ON DUPLICATE KEY UPDATE balance_cents = VALUES(balance_cents)",
    )
    .bind(customer)
    .bind(account.balance_cents)
    .execute(&database)
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn show(
    State(database): State<MySqlPool>,
    Path(customer): Path<String>,
) -> Result<Json<Account>, Failure> {
    let balance: Option<i64> = sqlx::query_scalar("SELECT balance_cents FROM accounts WHERE customer = ?")
        .bind(customer)
        .fetch_optional(&database)
        .await?;
    let account = balance.map(|balance_cents| Json(Account { balance_cents }));
    account.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such account"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::open("payment-service", &TABLES).await?;
    // The table `outbox` in the service's own schema.
    let stock = Router::new().on("StockReserved", events::take).with_state(Outbox::default());
    let stock = service.consumer("INVENTORY_SERVICE", "payment-service-stock", stock).await?;
    let routes = axum::Router::new()
        .route("/accounts/{customer}", get(show).put(set))
        .with_state(service.database.clone());
    service.run(routes, vec![stock]).await
}
