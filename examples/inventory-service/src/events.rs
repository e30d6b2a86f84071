//! What happens to stock, and what is told about it.

use std::fmt::Display;

use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{Event, HandlerError, State, Tx};
use outbox_producer::{Error, IntoEvent, NewEvent, Outbox};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
pub(crate) struct OrderPlaced {
    order: String,
    customer: String,
    sku: String,
    quantity: i64,
    total_cents: i64,
}

/// As much of what is told of a payment as this service cares for.
#[derive(Debug, Deserialize)]
pub(crate) struct OfPayment {
    order: String,
}

/// What this service tells. It passes on who pays how much, so that the payment service need not ask the order service.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Told<'a> {
    Reserved { order: &'a str, customer: &'a str, total_cents: i64 },
    Rejected { order: &'a str, reason: &'a str },
    Released { order: &'a str },
}

impl IntoEvent for Told<'_> {
    fn into_event(self) -> Result<NewEvent, Error> {
        let (order, event_type): (&dyn Display, _) = match &self {
            Self::Reserved { order, .. } => (order, "StockReserved"),
            Self::Rejected { order, .. } => (order, "StockRejected"),
            Self::Released { order } => (order, "StockReleased"),
        };
        NewEvent::json("order", order, event_type, &self)
    }
}

pub(crate) async fn reserve(
    Event(placed): Event<OrderPlaced>,
    State(outbox): State<Outbox>,
    mut tx: Tx<MySqlInbox>,
) -> Result<(), HandlerError> {
    let OrderPlaced { order, customer, sku, quantity, total_cents } = &placed;
    let reserved =
        sqlx::query("UPDATE stock SET reserved = reserved + ? WHERE sku = ? AND on_hand - reserved >= ?")
            .bind(quantity)
            .bind(sku)
            .bind(quantity)
            .execute(&mut **tx)
            .await?;
    if reserved.rows_affected() == 0 {
        // A refusal is an answer and no error: it is told, committed, and not tried again.
        outbox.write(&mut tx, Told::Rejected { order, reason: "not enough in stock" }).await?;
        return Ok(());
    }
    sqlx::query("INSERT INTO reservations (order_id, sku, quantity, status) VALUES (?, ?, ?, 'reserved')")
        .bind(order)
        .bind(sku)
        .bind(quantity)
        .execute(&mut **tx)
        .await?;
    let told = Told::Reserved { order, customer, total_cents: *total_cents };
    outbox.write(&mut tx, told).await?;
    Ok(())
}

/// The order is paid: what was reserved for it leaves the house.
pub(crate) async fn sell(Event(paid): Event<OfPayment>, mut tx: Tx<MySqlInbox>) -> Result<(), HandlerError> {
    let (sku, quantity) = end(&mut tx, &paid.order, "sold").await?;
    sqlx::query("UPDATE stock SET on_hand = on_hand - ?, reserved = reserved - ? WHERE sku = ?")
        .bind(quantity)
        .bind(quantity)
        .bind(sku)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The payment failed: what was reserved is free again.
pub(crate) async fn release(
    Event(failed): Event<OfPayment>,
    State(outbox): State<Outbox>,
    mut tx: Tx<MySqlInbox>,
) -> Result<(), HandlerError> {
    let (sku, quantity) = end(&mut tx, &failed.order, "released").await?;
    sqlx::query("UPDATE stock SET reserved = reserved - ? WHERE sku = ?")
        .bind(quantity)
        .bind(sku)
        .execute(&mut **tx)
        .await?;
    outbox.write(&mut tx, Told::Released { order: &failed.order }).await?;
    Ok(())
}

/// Ends a reservation, and says of what it was. There is one: a payment follows from it.
async fn end(tx: &mut Tx<MySqlInbox>, order: &str, status: &str) -> Result<(String, i64), HandlerError> {
    let ended = sqlx::query("UPDATE reservations SET status = ? WHERE order_id = ? AND status = 'reserved'")
        .bind(status)
        .bind(order)
        .execute(&mut ***tx)
        .await?;
    if ended.rows_affected() != 1 {
        let problem = format!("nothing can be {status} for order {order}: nothing is reserved");
        return Err(HandlerError::permanent(problem));
    }
    let of = sqlx::query_as("SELECT sku, quantity FROM reservations WHERE order_id = ?");
    Ok(of.bind(order).fetch_one(&mut ***tx).await?)
}
