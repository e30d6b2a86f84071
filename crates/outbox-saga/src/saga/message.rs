//! Commands and replies as messages: three headers, which a reply repeats.

use outbox_consumer::inbox::Inbox;
use outbox_consumer::{Delivery, FromDelivery, HandlerError};
use outbox_producer::NewEvent;
use serde::{Deserialize, Serialize};

use super::engine::Action;
use crate::barrier::BarrierKey;

/// The saga's id.
pub const SAGA_ID: &str = "Saga-Id";
/// The step, with its round behind a dot from the second one on: `ship`, `ship.2`.
pub const SAGA_STEP: &str = "Saga-Step";
/// `do` or `undo`.
pub const SAGA_ACTION: &str = "Saga-Action";

/// The type of the plain reply that a step was done.
pub const DONE: &str = "SagaDone";
/// The type of the plain reply that a step is not done; its payload is `{"reason": "…"}`.
pub const REFUSED: &str = "SagaRefused";
/// The type of the plain reply that a step was undone, or that there was nothing to undo and never will be.
pub const UNDONE: &str = "SagaUndone";

/// The payload of a plain refusal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) reason: String,
}

/// Which command a message is, or to which one it replies: an argument of a participant's handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaCommand {
    /// The saga's id.
    pub saga: String,
    /// The step, as it stands in the header.
    pub step: String,
    /// What is asked for.
    pub action: Action,
}

impl SagaCommand {
    /// Adds the headers to an event.
    #[must_use]
    pub fn mark(&self, event: NewEvent) -> NewEvent {
        event
            .with_header(SAGA_ID, &self.saga)
            .with_header(SAGA_STEP, &self.step)
            .with_header(SAGA_ACTION, self.action.as_str())
    }

    /// What the participant's barrier knows the command by.
    #[must_use]
    pub fn barrier_key(&self) -> BarrierKey {
        BarrierKey { transaction: self.saga.clone(), branch: self.step.clone() }
    }

    /// The step's name and round.
    pub(super) fn step_and_round(&self) -> Option<(&str, u32)> {
        match self.step.split_once('.') {
            None => Some((&self.step, 1)),
            Some((name, round)) => Some((name, round.parse().ok().filter(|&round| round > 1)?)),
        }
    }

    fn of<I: Inbox>(delivery: &Delivery<I>) -> Result<Option<Self>, HandlerError> {
        let header = |name: &str| delivery.headers().get_last(name).map(async_nats::HeaderValue::as_str);
        let Some(saga) = header(SAGA_ID) else { return Ok(None) };
        let missing = |name: &str| {
            HandlerError::permanent(format!("a message of a saga has no usable header `{name}`"))
        };
        let step = header(SAGA_STEP).ok_or_else(|| missing(SAGA_STEP))?;
        let action = match header(SAGA_ACTION) {
            Some("do") => Action::Do,
            Some("undo") => Action::Undo,
            _ => return Err(missing(SAGA_ACTION)),
        };
        Ok(Some(Self { saga: saga.to_owned(), step: step.to_owned(), action }))
    }
}

/// The header of a step in a round.
pub(super) fn step_header(name: &str, round: u32) -> String {
    if round > 1 { format!("{name}.{round}") } else { name.to_owned() }
}

/// A message that is no command is a permanent failure.
impl<S, I: Inbox> FromDelivery<S, I> for SagaCommand {
    fn from_delivery(delivery: &Delivery<I>, _: &S) -> Result<Self, HandlerError> {
        Self::of(delivery)?.ok_or_else(|| {
            HandlerError::permanent(format!("no command of a saga: it has no header `{SAGA_ID}`"))
        })
    }
}

/// What a message replies to, if it is the reply to a command.
pub(super) struct ReplyTo(pub(super) Option<SagaCommand>);

impl<S, I: Inbox> FromDelivery<S, I> for ReplyTo {
    fn from_delivery(delivery: &Delivery<I>, _: &S) -> Result<Self, HandlerError> {
        SagaCommand::of(delivery).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_told_from_the_second_on() {
        for (name, round, header) in [("ship", 1, "ship"), ("ship", 2, "ship.2"), ("ship", 13, "ship.13")] {
            assert_eq!(step_header(name, round), header);
            let command = SagaCommand { saga: "1".to_owned(), step: header.to_owned(), action: Action::Do };
            assert_eq!(command.step_and_round(), Some((name, round)));
        }
        for bad in ["ship.", "ship.1", "ship.x"] {
            let command = SagaCommand { saga: "1".to_owned(), step: bad.to_owned(), action: Action::Do };
            assert_eq!(command.step_and_round(), None, "{bad}");
        }
    }
}
