//! What the other services tell about orders.
//!
//! Stock and payments come from two streams, and between streams there is no order: that an order is paid may be known here
//! before that its stock was reserved. So no step builds on the one before it; a later one just is not undone by an earlier.

use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{Context, Event, HandlerError, Router, Tx};
use serde::Deserialize;
use sqlx::{MySql, Transaction};

/// As much of the events as this service cares for.
#[derive(Debug, Deserialize)]
struct OfOrder {
    order: String,
    reason: Option<String>,
}

pub(crate) fn of_stock() -> Router<MySqlInbox> {
    Router::new().on("StockReserved", reserved).on("StockRejected", rejected).on("StockReleased", released)
}

pub(crate) fn of_payments() -> Router<MySqlInbox> {
    Router::new().on("PaymentTaken", confirmed).on("PaymentFailed", cancelled)
}

type Message = Event<OfOrder>;
type Transacted = Tx<MySqlInbox>;

async fn reserved(Event(of): Message, context: Context, mut tx: Transacted) -> Result<(), HandlerError> {
    sqlx::query("UPDATE orders SET status = 'reserved' WHERE id = ? AND status = 'placed'")
        .bind(&of.order)
        .execute(&mut **tx)
        .await?;
    Ok(record(&mut tx, &of.order, context.event_type(), None).await?)
}

async fn rejected(of: Message, context: Context, tx: Transacted) -> Result<(), HandlerError> {
    end(of, context, tx, "rejected").await
}

async fn confirmed(of: Message, context: Context, tx: Transacted) -> Result<(), HandlerError> {
    end(of, context, tx, "confirmed").await
}

async fn cancelled(of: Message, context: Context, tx: Transacted) -> Result<(), HandlerError> {
    end(of, context, tx, "cancelled").await
}

/// The compensation is done. The order was cancelled by the payment's failure already.
async fn released(Event(of): Message, context: Context, mut tx: Transacted) -> Result<(), HandlerError> {
    Ok(record(&mut tx, &of.order, context.event_type(), None).await?)
}

/// An order ends once. That it would end in two ways is a fault somewhere, and becomes a dead letter for somebody to look at.
async fn end(
    Event(of): Message,
    context: Context,
    mut tx: Transacted,
    status: &str,
) -> Result<(), HandlerError> {
    let ended = sqlx::query("UPDATE orders SET status = ? WHERE id = ? AND status IN ('placed', 'reserved')")
        .bind(status)
        .bind(&of.order)
        .execute(&mut **tx)
        .await?;
    if ended.rows_affected() != 1 {
        let problem = format!("order {} cannot be {status}: it is not open", of.order);
        return Err(HandlerError::permanent(problem));
    }
    Ok(record(&mut tx, &of.order, context.event_type(), of.reason.as_deref()).await?)
}

/// Adds to an order's history.
pub(crate) async fn record(
    transaction: &mut Transaction<'_, MySql>,
    order: &str,
    event: &str,
    reason: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO history (order_id, event, reason) VALUES (?, ?, ?)")
        .bind(order)
        .bind(event)
        .bind(reason)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
