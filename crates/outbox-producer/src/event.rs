//! What an event is to the application: a type with a name, about an aggregate.

use std::fmt::Display;

use serde::Serialize;

use crate::{Error, NewEvent};

/// A type whose values are events: its fields are the JSON payload, and these three tell the rest of the row.
///
/// ```
/// use std::fmt::Display;
///
/// use outbox_producer::Event;
///
/// #[derive(serde::Serialize)]
/// struct OrderPlaced {
///     order: u64,
///     total_cents: i64,
/// }
///
/// impl Event for OrderPlaced {
///     const TYPE: &'static str = "placed";
///     const AGGREGATE_TYPE: &'static str = "order";
///
///     fn aggregate_id(&self) -> impl Display {
///         self.order
///     }
/// }
/// ```
///
/// An enum whose variants are events of different types implements [`IntoEvent`] instead.
pub trait Event: Serialize {
    /// What happened: the event type, `ce-type` of the message.
    const TYPE: &'static str;
    /// The kind of thing that it happened to, such as `order`.
    const AGGREGATE_TYPE: &'static str;

    /// Which one it happened to: `ce-subject` of the message, and by default the key whose events keep their order.
    fn aggregate_id(&self) -> impl Display;
}

/// What can be written: a reference to an [`Event`], or a [`NewEvent`].
///
/// Implement it for an enum of events:
///
/// ```
/// use outbox_producer::{Error, IntoEvent, NewEvent};
///
/// #[derive(serde::Serialize)]
/// #[serde(untagged)]
/// enum OrderEvent {
///     Placed { order: u64, total_cents: i64 },
///     Cancelled { order: u64 },
/// }
///
/// impl IntoEvent for &OrderEvent {
///     fn into_event(self) -> Result<NewEvent, Error> {
///         match self {
///             OrderEvent::Placed { order, .. } => NewEvent::json("order", order, "placed", self),
///             OrderEvent::Cancelled { order } => NewEvent::json("order", order, "cancelled", self),
///         }
///     }
/// }
///
/// let event = (&OrderEvent::Cancelled { order: 7 }).into_event()?;
/// assert_eq!(event.event_type(), "cancelled");
/// # Ok::<(), Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as an event",
    note = "implement `outbox_producer::Event` for the type and pass a reference, or pass a `NewEvent`"
)]
pub trait IntoEvent {
    /// Makes the event.
    ///
    /// # Errors
    ///
    /// When the payload cannot be serialised.
    fn into_event(self) -> Result<NewEvent, Error>;
}

impl<E: Event> IntoEvent for &E {
    fn into_event(self) -> Result<NewEvent, Error> {
        NewEvent::of(self)
    }
}

impl IntoEvent for NewEvent {
    fn into_event(self) -> Result<NewEvent, Error> {
        Ok(self)
    }
}

impl IntoEvent for &NewEvent {
    fn into_event(self) -> Result<NewEvent, Error> {
        Ok(self.clone())
    }
}

/// So that an iterator whose events may fail to be made can be written as it is.
impl IntoEvent for Result<NewEvent, Error> {
    fn into_event(self) -> Result<NewEvent, Error> {
        self
    }
}
