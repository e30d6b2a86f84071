//! The participant that has the orders: commands come to it as to any other, though its service also sends them.

use outbox_consumer::{Event, HandlerError, State};
use outbox_saga::saga::{Participant, SagaCommand};

use crate::saga::Order;

pub(crate) async fn create(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(participant): State<Participant>,
) -> Result<(), HandlerError> {
    participant
        .handle(&command, async |mut work| {
            sqlx::query(
                "INSERT INTO orders (id, customer, sku, quantity, total_cents, status) VALUES (?, ?, ?, ?, ?, 'pending')",
            )
            .bind(&order.order)
            .bind(&order.customer)
            .bind(&order.sku)
            .bind(order.quantity)
            .bind(order.cents)
            .execute(&mut **work)
            .await?;
            Ok(work.done())
        })
        .await
}

pub(crate) async fn cancel(
    order: Event<Order>,
    command: SagaCommand,
    participant: State<Participant>,
) -> Result<(), HandlerError> {
    set_status(order, command, participant, "cancelled").await
}

pub(crate) async fn confirm(
    order: Event<Order>,
    command: SagaCommand,
    participant: State<Participant>,
) -> Result<(), HandlerError> {
    set_status(order, command, participant, "confirmed").await
}

/// `pending` is the semantic lock: whoever reads the order sees that it may still be cancelled.
async fn set_status(
    Event(order): Event<Order>,
    command: SagaCommand,
    State(participant): State<Participant>,
    status: &str,
) -> Result<(), HandlerError> {
    participant
        .handle(&command, async |mut work| {
            let changed = sqlx::query("UPDATE orders SET status = ? WHERE id = ? AND status = 'pending'")
                .bind(status)
                .bind(&order.order)
                .execute(&mut **work)
                .await?;
            if changed.rows_affected() != 1 {
                let problem = format!("order {} cannot be {status}: it is not pending", order.order);
                return Err(HandlerError::permanent(problem));
            }
            Ok(work.done())
        })
        .await
}
