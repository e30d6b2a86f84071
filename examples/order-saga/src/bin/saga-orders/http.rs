//! What clients ask: to place an order, and to see how it is.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use order_flow::Failure;
use outbox_saga::saga::{Orchestrator, Saga, Started};
use serde::{Deserialize, Serialize};
use sqlx::MySqlPool;
use uuid::Uuid;

use crate::saga::Order;

/// What the shop sells, and for how much.
const PRICES_CENTS: [(&str, i64); 3] = [("lamp", 4_200), ("chair", 9_900), ("desk", 24_900)];

/// What requests need.
#[derive(Debug, Clone)]
pub(crate) struct Shop {
    pub(crate) database: MySqlPool,
    pub(crate) sagas: Orchestrator,
    pub(crate) place_order: Saga<Order>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PlaceOrder {
    customer: String,
    sku: String,
    quantity: i64,
}

/// An order as clients see it: how its saga stands, and why it failed.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    order: String,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Places an order: 202, since it is only begun, or 200 if it was before. The header `Idempotency-Key`, a UUID, is the order's id
/// and its saga's.
pub(crate) async fn place(
    State(shop): State<Shop>,
    headers: HeaderMap,
    Json(wanted): Json<PlaceOrder>,
) -> Result<(StatusCode, Json<Shown>), Failure> {
    let order = match headers.get("idempotency-key") {
        Some(key) => key.to_str().ok().and_then(|key| Uuid::parse_str(key).ok()).ok_or_else(|| {
            Failure::new(StatusCode::BAD_REQUEST, "the header Idempotency-Key must be a UUID")
        })?,
        None => Uuid::now_v7(),
    };
    let PlaceOrder { customer, sku, quantity } = wanted;
    let price = PRICES_CENTS.iter().find(|(known, _)| *known == sku).map(|(_, price)| price);
    let price = price
        .filter(|_| (1..=1_000).contains(&quantity))
        .ok_or_else(|| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "the shop does not sell that"))?;
    let order = Order { order: order.to_string(), customer, sku, quantity, cents: price * quantity };
    let mut transaction = shop.database.begin().await?;
    let started = shop.sagas.start(&mut transaction, &shop.place_order, &order.order, &order).await;
    let started = started.map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "cannot start a saga");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the service failed; try again")
    })?;
    transaction.commit().await?;
    let status = match started {
        Started::Now => StatusCode::ACCEPTED,
        Started::Before => StatusCode::OK,
    };
    Ok((status, find(&shop, &order.order).await?))
}

/// Shows how an order stands.
pub(crate) async fn show(
    State(shop): State<Shop>,
    Path(order): Path<String>,
) -> Result<Json<Shown>, Failure> {
    find(&shop, &order).await
}

async fn find(shop: &Shop, order: &str) -> Result<Json<Shown>, Failure> {
    let found: Option<(String, Option<String>)> =
        sqlx::query_as("SELECT status, error FROM saga_instances WHERE id = ?")
            .bind(order)
            .fetch_optional(&shop.database)
            .await?;
    let found = found.map(|(status, reason)| Json(Shown { order: order.to_owned(), status, reason }));
    found.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such order"))
}
