//! What the three services of the order saga have in common: how a participant is made. Commands are not shared: each
//! service says in its own words what it sends and what it reads.
//!
//! | program | is | commands |
//! |---|---|---|
//! | `saga-orders` | the orchestrator, and the participant that has the orders | `CreateOrder`, `CancelOrder`, `ConfirmOrder` |
//! | `saga-inventory` | a participant | `ReserveStock`, `ReleaseStock` |
//! | `saga-payments` | a participant | `TakePayment` |
//!
//! The same flow without an orchestrator is in `order-service`, `inventory-service` and `payment-service`.

use anyhow::{Context as _, Result};
use outbox_producer::Outbox;
use outbox_saga::barrier::Barrier;
use outbox_saga::saga::Participant;
use sqlx::MySqlPool;

/// A participant with its barrier and its outbox in the service's own schema.
///
/// # Errors
///
/// When the barrier's table cannot be created.
pub async fn participant(database: &MySqlPool) -> Result<Participant> {
    let barrier = Barrier::new("saga_barrier");
    barrier.prepare(database).await.context("cannot prepare the barrier")?;
    // The table `outbox` in the service's own schema.
    Ok(Participant::new(database.clone(), barrier, Outbox::default()))
}
