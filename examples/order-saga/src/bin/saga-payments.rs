//! Takes payments: the pivot of the saga, which has no compensation.
//!
//! ```text
//! DATABASE_URL=mysql://saga_payments:secret@127.0.0.1/saga_payments LISTEN=127.0.0.1:8093 cargo run --bin saga-payments
//! curl -X PUT -H 'content-type: application/json' -d '{"balance_cents": 50000}' 127.0.0.1:8093/accounts/Ada
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
    "CREATE TABLE IF NOT EXISTS accounts (
       customer      VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
       balance_cents BIGINT NOT NULL
     )",
    "CREATE TABLE IF NOT EXISTS payments (
       order_id CHAR(36) CHARACTER SET ascii NOT NULL PRIMARY KEY,
       customer VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
       cents    BIGINT NOT NULL
     )",
];

#[derive(Debug, Deserialize)]
struct TakePayment {
    order: String,
    customer: String,
    cents: i64,
}

async fn take(
    Event(payment): Event<TakePayment>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    let TakePayment { order, customer, cents } = &payment;
    participant
        .handle(&command, async |mut work| {
            let taken = sqlx::query(
                "UPDATE accounts SET balance_cents = balance_cents - ? WHERE customer = ? AND balance_cents >= ?",
            )
            .bind(cents)
            .bind(customer)
            .bind(cents)
            .execute(&mut **work)
            .await?;
            if taken.rows_affected() == 0 {
                return Ok(work.refused("the balance is too low"));
            }
            sqlx::query("INSERT INTO payments (order_id, customer, cents) VALUES (?, ?, ?)")
                .bind(order)
                .bind(customer)
                .bind(cents)
                .execute(&mut **work)
                .await?;
            Ok(work.done())
        })
        .await
}

#[derive(Debug, Deserialize)]
struct Account {
    balance_cents: i64,
}

async fn set(
    HttpState(database): HttpState<MySqlPool>,
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

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::open("saga-payments", &TABLES).await?;
    let participant = order_saga::participant(&service.database).await?;
    let inbox = participant.inbox();
    let commands = Router::new().on("TakePayment", take).with_state(participant);
    let commands = service.consumer_with(inbox, "SAGA_ORDERS", "saga-payments", commands).await?;
    let routes =
        axum::Router::new().route("/accounts/{customer}", put(set)).with_state(service.database.clone());
    service.run(routes, vec![commands]).await
}
