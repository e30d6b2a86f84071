//! Reserves stock for orders, and releases it when they cannot be paid.
//!
//! ```text
//! OrderPlaced   ─▶ StockReserved, or StockRejected if there is not enough
//! PaymentTaken  ─▶ (the reserved stock is sold)
//! PaymentFailed ─▶ StockReleased: the compensation
//! ```
//!
//! A handler's changes, the event that it writes, and the record that its message was handled are one transaction. So each
//! message has its effect and its answer once, whatever is delivered again and whenever the service dies.
//!
//! ```text
//! DATABASE_URL=mysql://inventory_service:secret@127.0.0.1/inventory_service LISTEN=127.0.0.1:8082 cargo run -p inventory-service
//! curl -X PUT -H 'content-type: application/json' -d '{"on_hand": 10}' 127.0.0.1:8082/stock/lamp
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
    "CREATE TABLE IF NOT EXISTS stock (
       sku      VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY,
       on_hand  BIGINT NOT NULL,
       reserved BIGINT NOT NULL DEFAULT 0
     )",
    // One row an order: also a message with another id could not reserve for it again.
    "CREATE TABLE IF NOT EXISTS reservations (
       order_id CHAR(36) CHARACTER SET ascii NOT NULL PRIMARY KEY,
       sku      VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
       quantity BIGINT NOT NULL,
       status   VARCHAR(16) NOT NULL
     )",
];

#[derive(Debug, Deserialize)]
struct Counted {
    on_hand: i64,
}

#[derive(Debug, Serialize)]
struct Stock {
    on_hand: i64,
    reserved: i64,
}

/// Somebody has counted what is there.
async fn count(
    State(database): State<MySqlPool>,
    Path(sku): Path<String>,
    Json(counted): Json<Counted>,
) -> Result<StatusCode, Failure> {
    sqlx::query(
        "INSERT INTO stock (sku, on_hand) VALUES (?, ?) ON DUPLICATE KEY UPDATE on_hand = VALUES(on_hand)",
    )
    .bind(sku)
    .bind(counted.on_hand)
    .execute(&database)
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn show(State(database): State<MySqlPool>, Path(sku): Path<String>) -> Result<Json<Stock>, Failure> {
    let stock: Option<(i64, i64)> = sqlx::query_as("SELECT on_hand, reserved FROM stock WHERE sku = ?")
        .bind(sku)
        .fetch_optional(&database)
        .await?;
    let stock = stock.map(|(on_hand, reserved)| Json(Stock { on_hand, reserved }));
    stock.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such article"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::open("inventory-service", &TABLES).await?;
    // The table `outbox` in the service's own schema.
    let outbox = Outbox::default();
    let orders = Router::new().on("OrderPlaced", events::reserve).with_state(outbox.clone());
    let orders = service.consumer("ORDER_SERVICE", "inventory-service-orders", orders).await?;
    let payments = Router::new()
        .on("PaymentTaken", events::sell)
        .on("PaymentFailed", events::release)
        .with_state(outbox);
    let payments = service.consumer("PAYMENT_SERVICE", "inventory-service-payments", payments).await?;
    let routes =
        axum::Router::new().route("/stock/{sku}", get(show).put(count)).with_state(service.database.clone());
    service.run(routes, vec![orders, payments]).await
}
