//! What clients ask: to place an order, and to see how it is.

use std::fmt::Display;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use order_flow::Failure;
use outbox_producer::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Shop;

/// What the shop sells, and for how much.
const PRICES_CENTS: [(&str, i64); 3] = [("lamp", 4_200), ("chair", 9_900), ("desk", 24_900)];

#[derive(Debug, Deserialize)]
pub(crate) struct PlaceOrder {
    customer: String,
    sku: String,
    quantity: u32,
}

#[derive(Debug, Serialize)]
struct OrderPlaced<'a> {
    order: &'a str,
    customer: &'a str,
    sku: &'a str,
    quantity: u32,
    total_cents: i64,
}

impl Event for OrderPlaced<'_> {
    const TYPE: &'static str = "OrderPlaced";
    const AGGREGATE_TYPE: &'static str = "order";

    fn aggregate_id(&self) -> impl Display {
        self.order
    }
}

/// An order as clients see it.
#[derive(Debug, Serialize)]
pub(crate) struct Order {
    order: String,
    customer: String,
    sku: String,
    quantity: u32,
    total_cents: i64,
    status: String,
    history: Vec<Step>,
}

/// What happened to it, in the order in which this service learned of it.
#[derive(Debug, Serialize)]
struct Step {
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Places an order: 201, or 200 if it is there already.
///
/// A client that got no answer cannot know whether its order was placed. With the header `Idempotency-Key`, a UUID, it may
/// ask again: the key is the order's id, and the primary key of the table refuses a second one.
pub(crate) async fn place(
    State(shop): State<Shop>,
    headers: HeaderMap,
    Json(wanted): Json<PlaceOrder>,
) -> Result<(StatusCode, Json<Order>), Failure> {
    let order = match headers.get("idempotency-key") {
        Some(key) => key.to_str().ok().and_then(|key| Uuid::parse_str(key).ok()).ok_or_else(|| {
            Failure::new(StatusCode::BAD_REQUEST, "the header Idempotency-Key must be a UUID")
        })?,
        None => Uuid::now_v7(),
    };
    let order = order.to_string();
    let PlaceOrder { customer, sku, quantity } = &wanted;
    let price = PRICES_CENTS.iter().find(|(known, _)| known == sku).map(|(_, price)| price);
    let price = price
        .filter(|_| *quantity > 0)
        .ok_or_else(|| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "the shop does not sell that"))?;
    let total_cents = price * i64::from(*quantity);

    let mut transaction = shop.database.begin().await?;
    let inserted = sqlx::query(
        "INSERT INTO orders (id, customer, sku, quantity, total_cents, status) VALUES (?, ?, ?, ?, ?, 'placed')",
    )
    .bind(&order)
    .bind(customer)
    .bind(sku)
    .bind(quantity)
    .bind(total_cents)
    .execute(&mut *transaction)
    .await;
    match inserted {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            transaction.rollback().await?;
            return Ok((StatusCode::OK, find(&shop, &order).await?));
        }
        inserted => inserted?,
    };
    crate::events::record(&mut transaction, &order, "OrderPlaced", None).await?;
    let placed = OrderPlaced { order: &order, customer, sku, quantity: *quantity, total_cents };
    shop.outbox.write(&mut transaction, &placed).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, find(&shop, &order).await?))
}

/// Shows an order and what happened to it.
pub(crate) async fn show(
    State(shop): State<Shop>,
    Path(order): Path<String>,
) -> Result<Json<Order>, Failure> {
    find(&shop, &order).await
}

async fn find(shop: &Shop, order: &str) -> Result<Json<Order>, Failure> {
    let found: Option<(String, String, u32, i64, String)> =
        sqlx::query_as("SELECT customer, sku, quantity, total_cents, status FROM orders WHERE id = ?")
            .bind(order)
            .fetch_optional(&shop.database)
            .await?;
    let found = found.ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such order"))?;
    let (customer, sku, quantity, total_cents, status) = found;
    let history: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT event, reason FROM history WHERE order_id = ? ORDER BY seq")
            .bind(order)
            .fetch_all(&shop.database)
            .await?;
    let history = history.into_iter().map(|(event, reason)| Step { event, reason }).collect();
    Ok(Json(Order { order: order.to_owned(), customer, sku, quantity, total_cents, status, history }))
}
