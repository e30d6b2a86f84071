//! Takes orders. An order is one TCC transaction, whose id is the order's.

use std::time::Duration;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use axum::{Json, Router};
use outbox_saga::tcc::http::HttpEndpoint;
use outbox_saga::tcc::nats::NatsEndpoint;
use outbox_saga::tcc::{Coordinator, Limits, NewTransaction, Outcome, TccError, TccErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::MySqlPool;

#[derive(Debug, Deserialize)]
struct Order {
    customer: String,
    sku: String,
    quantity: u32,
    cents: u32,
    coupon: Option<String>,
}

pub(crate) async fn coordinator(
    pool: MySqlPool,
    nats: async_nats::Client,
    inventory: &str,
    coupon: &str,
) -> Result<Coordinator> {
    let limits = Limits {
        try_limit: Duration::from_secs(5),
        call_limit: Duration::from_secs(2),
        lease: Duration::from_secs(5),
        retry_max: Duration::from_secs(2),
        attempts_max: 100,
        ..Limits::default()
    };
    let builder = Coordinator::builder(pool)
        .limits(limits)
        .endpoint("inventory", HttpEndpoint::new(inventory)?)
        .endpoint("payment", NatsEndpoint::new(nats, crate::PAYMENT_SUBJECT))
        .endpoint("coupon", HttpEndpoint::new(coupon)?);
    Ok(builder.build().await?)
}

pub(crate) fn routes(coordinator: Coordinator) -> Router {
    Router::new().route("/orders/{id}", put(place).get(show)).with_state(coordinator)
}

/// Places an order. It may be placed again under the same id by who has got no answer.
async fn place(
    State(coordinator): State<Coordinator>,
    Path(id): Path<String>,
    Json(order): Json<Order>,
) -> (StatusCode, Json<Value>) {
    let mut transaction = NewTransaction::new(id, "place-order")
        .branch("stock", "inventory", json!({"sku": order.sku, "quantity": order.quantity}))
        .branch("money", "payment", json!({"customer": order.customer, "cents": order.cents}));
    if let Some(code) = order.coupon {
        transaction = transaction.branch("coupon", "coupon", json!({"code": code}));
    }
    answer(coordinator.execute(transaction).await.map(Some))
}

async fn show(State(coordinator): State<Coordinator>, Path(id): Path<String>) -> (StatusCode, Json<Value>) {
    answer(coordinator.outcome(&id).await)
}

fn answer(outcome: Result<Option<Outcome>, TccError>) -> (StatusCode, Json<Value>) {
    let (status, body) = match outcome {
        Ok(Some(Outcome::Confirmed { .. })) => (StatusCode::OK, json!({"status": "confirmed"})),
        Ok(Some(Outcome::Cancelled { reason, .. })) => {
            (StatusCode::CONFLICT, json!({"status": "cancelled", "reason": reason}))
        }
        Ok(None) => (StatusCode::ACCEPTED, json!({"status": "trying"})),
        Err(err) => {
            let status = match err.kind() {
                TccErrorKind::NoSuchTransaction => StatusCode::NOT_FOUND,
                TccErrorKind::Settings => StatusCode::BAD_REQUEST,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, json!({"error": err.to_string()}))
        }
    };
    (status, Json(body))
}
