//! What a handler takes as arguments.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::HandlerError;
use crate::{
    delivery::{Delivery, Inner, Slot},
    inbox::Inbox,
};

/// An argument of a handler, made from the delivered message, for handlers with the state `S` and the inbox `I`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler with the state `{S}` and the inbox `{I}`",
    label = "not an argument of a handler",
    note = "arguments are `Event<T>` where `T: DeserializeOwned`, `State<T>` where `T: FromRef<{S}>`, `Tx<{I}>`, `Context`, `Body`, and whatever implements `FromDelivery`"
)]
pub trait FromDelivery<S, I: Inbox>: Sized {
    /// Makes the argument.
    ///
    /// # Errors
    ///
    /// If the message does not have what the argument needs; the handler is then not called, and the attempt failed.
    fn from_delivery(delivery: &Delivery<I>, state: &S) -> Result<Self, HandlerError>;
}

/// The payload, decoded from JSON. What cannot be decoded is a permanent failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<T>(pub T);

impl<S, I: Inbox, T: DeserializeOwned> FromDelivery<S, I> for Event<T> {
    fn from_delivery(delivery: &Delivery<I>, _: &S) -> Result<Self, HandlerError> {
        // The text of a `serde_json` error may quote the value, so only its place and category are told.
        serde_json::from_slice(delivery.payload()).map(Self).map_err(|error| {
            HandlerError::permanent(format!(
                "the payload is not a {}: {:?} error in line {}, column {}",
                std::any::type_name::<T>(),
                error.classify(),
                error.line(),
                error.column()
            ))
        })
    }
}

/// The payload as it came, for formats other than JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body(pub Bytes);

impl<S, I: Inbox> FromDelivery<S, I> for Body {
    fn from_delivery(delivery: &Delivery<I>, _: &S) -> Result<Self, HandlerError> {
        Ok(Self(delivery.payload().clone()))
    }
}

/// Makes a part of the state out of the whole, so that a handler asks only for what it needs.
#[diagnostic::on_unimplemented(
    message = "the state `{T}` has no part `{Self}`",
    note = "the handlers' state is what `Router::with_state` gets; implement `FromRef<{T}> for {Self}` to take a part of it"
)]
pub trait FromRef<T> {
    /// The part of `whole`.
    fn from_ref(whole: &T) -> Self;
}

impl<T: Clone> FromRef<T> for T {
    fn from_ref(whole: &T) -> Self {
        whole.clone()
    }
}

/// What the service gave by [`Router::with_state`](crate::Router::with_state), or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<T>(pub T);

impl<S, I: Inbox, T: FromRef<S>> FromDelivery<S, I> for State<T> {
    fn from_delivery(_: &Delivery<I>, state: &S) -> Result<Self, HandlerError> {
        Ok(Self(T::from_ref(state)))
    }
}

/// The transaction of the inbox, for the handler's own writes.
///
/// It derefs to [`Inbox::Transaction`]. The consumer commits it, together with the record that the message was handled,
/// after the handler returned `Ok`, and rolls it back otherwise: a handler neither can nor need do either.
pub struct Tx<I: Inbox> {
    // Always there, until `drop` gives it back.
    transaction: Option<I::Transaction>,
    slot: Slot<I>,
}

impl<I: Inbox> fmt::Debug for Tx<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl<S, I: Inbox> FromDelivery<S, I> for Tx<I> {
    fn from_delivery(delivery: &Delivery<I>, _: &S) -> Result<Self, HandlerError> {
        let slot = delivery.slot().clone();
        match slot.take() {
            Some(transaction) => Ok(Self { transaction: Some(transaction), slot }),
            None => Err(HandlerError::permanent("the transaction is taken already: ask for one `Tx` only")),
        }
    }
}

impl<I: Inbox> Deref for Tx<I> {
    type Target = I::Transaction;

    fn deref(&self) -> &Self::Target {
        self.transaction.as_ref().expect("held until dropped")
    }
}

impl<I: Inbox> DerefMut for Tx<I> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.transaction.as_mut().expect("held until dropped")
    }
}

impl<I: Inbox> Drop for Tx<I> {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.slot.put(transaction);
        }
    }
}

/// What is known about the message and this attempt at it.
#[derive(Debug, Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

impl<S, I: Inbox> FromDelivery<S, I> for Context {
    fn from_delivery(delivery: &Delivery<I>, _: &S) -> Result<Self, HandlerError> {
        Ok(Self { inner: delivery.inner().clone() })
    }
}

impl Context {
    /// The message's id, `ce-id`: the same for ever, also when the message is replayed.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.inner.envelope.id
    }

    /// The event type, `ce-type`.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.inner.envelope.event_type
    }

    /// What the event is about, `ce-subject`: the aggregate id.
    #[must_use]
    pub fn aggregate_id(&self) -> Option<&str> {
        self.inner.envelope.aggregate_id.as_deref()
    }

    /// What messages are ordered by, `ce-partitionkey`.
    #[must_use]
    pub fn partition_key(&self) -> Option<&str> {
        self.inner.envelope.partition_key.as_deref()
    }

    /// Which attempt this is, from 1. Deliveries that were not attempts do not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// The stream that the message was stored in first; that of the service's events, also for a replayed message.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.inner.envelope.origin.stream
    }

    /// The message's sequence in [`stream`](Self::stream).
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.inner.envelope.origin.sequence
    }

    /// The subject that the message was published to.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.inner.envelope.origin.subject
    }

    /// Where the row stood in the log, if the bridge published the message.
    #[must_use]
    pub fn position(&self) -> Option<outbox_event::Position> {
        self.header(outbox_event::header::POSITION)?.parse().ok()
    }

    /// All headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.inner.headers
    }

    /// The last value of one header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers.get_last(name).map(async_nats::HeaderValue::as_str)
    }

    /// When the attempt is cancelled if it has not ended.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.inner.deadline
    }

    /// Cancelled when the service shuts down: a long handler can then end early. It may as well go on; then it is cut
    /// off at the drain deadline and the message is handled again later, without an attempt being counted.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        &self.inner.cancellation
    }
}
