//! What is paid, and what is told about it.

use std::fmt::Display;

use outbox_consumer::inbox::MySqlInbox;
use outbox_consumer::{Event, HandlerError, State, Tx};
use outbox_producer::{Event as Tell, Outbox};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
pub(crate) struct StockReserved {
    order: String,
    customer: String,
    total_cents: i64,
}

#[derive(Debug, Serialize)]
struct PaymentTaken<'a> {
    order: &'a str,
    cents: i64,
}

#[derive(Debug, Serialize)]
struct PaymentFailed<'a> {
    order: &'a str,
    reason: &'a str,
}

impl Tell for PaymentTaken<'_> {
    const TYPE: &'static str = "PaymentTaken";
    const AGGREGATE_TYPE: &'static str = "order";

    fn aggregate_id(&self) -> impl Display {
        self.order
    }
}

impl Tell for PaymentFailed<'_> {
    const TYPE: &'static str = "PaymentFailed";
    const AGGREGATE_TYPE: &'static str = "order";

    fn aggregate_id(&self) -> impl Display {
        self.order
    }
}

/// Takes the payment if the balance suffices. That it does not is an answer and no error: it is told, so that the others
/// undo what they did for the order.
pub(crate) async fn take(
    Event(reserved): Event<StockReserved>,
    State(outbox): State<Outbox>,
    mut tx: Tx<MySqlInbox>,
) -> Result<(), HandlerError> {
    let StockReserved { order, customer, total_cents: cents } = &reserved;
    let taken = sqlx::query(
        "UPDATE accounts SET balance_cents = balance_cents - ? WHERE customer = ? AND balance_cents >= ?",
    )
    .bind(cents)
    .bind(customer)
    .bind(cents)
    .execute(&mut **tx)
    .await?;
    let taken = taken.rows_affected() == 1;
    sqlx::query("INSERT INTO payments (order_id, customer, cents, status) VALUES (?, ?, ?, ?)")
        .bind(order)
        .bind(customer)
        .bind(cents)
        .bind(if taken { "taken" } else { "failed" })
        .execute(&mut **tx)
        .await?;
    if taken {
        outbox.write(&mut tx, &PaymentTaken { order, cents: *cents }).await?;
    } else {
        outbox.write(&mut tx, &PaymentFailed { order, reason: "the balance is too low" }).await?;
    }
    Ok(())
}
