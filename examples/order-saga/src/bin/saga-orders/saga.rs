//! The saga, from top to bottom.

use std::time::Duration;

use outbox_producer::{Error, NewEvent};
use outbox_saga::saga::{DefinitionError, Retry, Saga};
use serde::{Deserialize, Serialize};

/// What the saga knows: here just the order, which no reply adds to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: String,
    pub(crate) customer: String,
    pub(crate) sku: String,
    pub(crate) quantity: i64,
    pub(crate) cents: i64,
}

impl Order {
    /// Each command carries the whole order, and each participant reads what it needs.
    fn command(&self, event_type: &str) -> Result<NewEvent, Error> {
        NewEvent::json("order", &self.order, event_type, self)
    }
}

pub(crate) fn place_order() -> Result<Saga<Order>, DefinitionError> {
    let retry = Retry::default().delays(Duration::from_secs(1), Duration::from_secs(10));
    let timeout = Duration::from_secs(10);
    Saga::<Order>::named("place-order")
        .version(1)
        .timeout(Duration::from_secs(300))
        .step("reserve-stock", |step| {
            step.command(|order| order.command("ReserveStock"))
                .compensation(|order| order.command("ReleaseStock"))
                .timeout(timeout)
                .retry(retry)
        })
        .step("create-order", |step| {
            step.command(|order| order.command("CreateOrder"))
                .compensation(|order| order.command("CancelOrder"))
                .timeout(timeout)
                .retry(retry)
        })
        .pivot("take-payment", |step| {
            step.command(|order| order.command("TakePayment")).timeout(timeout).retry(retry)
        })
        .step("confirm-order", |step| {
            step.command(|order| order.command("ConfirmOrder")).timeout(timeout).retry(retry)
        })
        .build()
}
