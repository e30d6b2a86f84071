//! One message on its way to its handler.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{envelope::Envelope, inbox::Inbox};

/// What all clones of a delivery share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) headers: Arc<HeaderMap>,
    pub(crate) payload: Bytes,
    pub(crate) attempt: u32,
    pub(crate) deadline: Instant,
    pub(crate) cancellation: CancellationToken,
}

/// One attempt to handle one message: the request type of handlers as `tower` services.
///
/// A clone is cheap and shares the transaction, so a layer that calls the handler again calls it in the same
/// transaction.
pub struct Delivery<I: Inbox> {
    inner: Arc<Inner>,
    slot: Slot<I>,
}

impl<I: Inbox> Delivery<I> {
    pub(crate) fn new(inner: Inner, slot: Slot<I>) -> Self {
        Self { inner: Arc::new(inner), slot }
    }

    /// The event type, `ce-type`.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.inner.envelope.event_type
    }

    /// The message's id, `ce-id`.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.inner.envelope.id
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// All headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.inner.headers
    }

    /// The payload as it came.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.inner.payload
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn slot(&self) -> &Slot<I> {
        &self.slot
    }
}

impl<I: Inbox> Clone for Delivery<I> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), slot: self.slot.clone() }
    }
}

impl<I: Inbox> fmt::Debug for Delivery<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("envelope", &self.inner.envelope)
            .field("attempt", &self.inner.attempt)
            .finish_non_exhaustive()
    }
}

/// Where the inbox's transaction lies while no handler holds it.
pub(crate) struct Slot<I: Inbox>(Arc<Mutex<Option<I::Transaction>>>);

impl<I: Inbox> Slot<I> {
    pub(crate) fn new(transaction: I::Transaction) -> Self {
        Self(Arc::new(Mutex::new(Some(transaction))))
    }

    pub(crate) fn take(&self) -> Option<I::Transaction> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn put(&self, transaction: I::Transaction) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(transaction);
    }
}

impl<I: Inbox> Clone for Slot<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}
