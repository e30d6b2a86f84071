//! Reserves stock for orders, and gives it back when the saga fails.
//!
//! ```text
//! DATABASE_URL=mysql://saga_inventory:secret@127.0.0.1/saga_inventory LISTEN=127.0.0.1:8092 cargo run --bin saga-inventory
//! curl -X PUT -H 'content-type: application/json' -d '{"free": 10}' 127.0.0.1:8092/stock/lamp
//! ```

use anyhow::Result;
use axum::Json;
use axum::extract::{Path, State as HttpState};
use axum::http::StatusCode;
use axum::routing::put;
use order_flow::{Failure, Service};
use outbox_consumer::{Event, HandlerError, Router, State};
use outbox_saga::saga::{Participant, SagaCommand};
use serde::Deserialize;
use sqlx::MySqlPool;

const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS stock (
       sku  VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY,
       free BIGINT NOT NULL
     )",
    "CREATE TABLE IF NOT EXISTS reservations (
       order_id CHAR(36) CHARACTER SET ascii NOT NULL PRIMARY KEY,
       sku      VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL,
       quantity BIGINT NOT NULL
     )",
];

#[derive(Debug, Deserialize)]
struct Stock {
    order: String,
    sku: String,
    quantity: i64,
}

async fn reserve(
    Event(wanted): Event<Stock>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    let Stock { order, sku, quantity } = &wanted;
    participant
        .handle(&command, async |mut work| {
            let reserved = sqlx::query("UPDATE stock SET free = free - ? WHERE sku = ? AND free >= ?")
                .bind(quantity)
                .bind(sku)
                .bind(quantity)
                .execute(&mut **work)
                .await?;
            if reserved.rows_affected() == 0 {
                return Ok(work.refused("not enough in stock"));
            }
            sqlx::query("INSERT INTO reservations (order_id, sku, quantity) VALUES (?, ?, ?)")
                .bind(order)
                .bind(sku)
                .bind(quantity)
                .execute(&mut **work)
                .await?;
            Ok(work.done())
        })
        .await
}

/// The compensation. It runs only if there is something to undo: the barrier sees to that.
async fn release(
    Event(reserved): Event<Stock>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    participant
        .handle(&command, async |mut work| {
            sqlx::query("DELETE FROM reservations WHERE order_id = ?")
                .bind(&reserved.order)
                .execute(&mut **work)
                .await?;
            sqlx::query("UPDATE stock SET free = free + ? WHERE sku = ?")
                .bind(reserved.quantity)
                .bind(&reserved.sku)
                .execute(&mut **work)
                .await?;
            Ok(work.done())
        })
        .await
}

#[derive(Debug, Deserialize)]
struct Counted {
    free: i64,
}

/// Somebody has counted what is there.
async fn count(
    HttpState(database): HttpState<MySqlPool>,
    Path(sku): Path<String>,
    Json(counted): Json<Counted>,
) -> Result<StatusCode, Failure> {
    sqlx::query("INSERT INTO stock (sku, free) VALUES (?, ?) ON DUPLICATE KEY UPDATE free = VALUES(free)")
        .bind(sku)
        .bind(counted.free)
        .execute(&database)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::open("saga-inventory", &TABLES).await?;
    let participant = order_saga::participant(&service.database).await?;
    let inbox = participant.inbox();
    let commands =
        Router::new().on("ReserveStock", reserve).on("ReleaseStock", release).with_state(participant);
    let commands = service.consumer_with(inbox, "SAGA_ORDERS", "saga-inventory", commands).await?;
    let routes = axum::Router::new().route("/stock/{sku}", put(count)).with_state(service.database.clone());
    service.run(routes, vec![commands]).await
}
