//! One attempt at one message: inbox, handler, inbox. It knows nothing of NATS, so the test kit runs it too.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::{FutureExt, future::poll_immediate};
use tokio::time::{Instant, error::Elapsed, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    delivery::{Delivery, Inner, Slot},
    envelope::Envelope,
    handler::{
        error::{HandlerError, report},
        router::{Routes, Unhandled},
    },
    inbox::{Begun, Inbox, InboxError, InboxErrorKind, InboxKey},
};

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Attempted {
    /// The handler's writes and the record are committed.
    Handled,
    /// The message was handled before.
    Duplicate,
    /// No handler; what to do is a setting.
    Unhandled(Unhandled),
    /// The handler failed, panicked or took too long: a failed attempt.
    Failed(HandlerError),
    /// The inbox cannot be reached: not an attempt. Also if the outcome of the commit is unknown.
    Unavailable(String),
    /// The transaction lost before the handler ran: not an attempt.
    Conflict(String),
    /// The inbox is not as it should be: the consumer cannot go on.
    Unusable(InboxError),
}

/// The parts of a message that an attempt needs.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) envelope: &'a Arc<Envelope>,
    pub(crate) headers: &'a Arc<HeaderMap>,
    pub(crate) payload: &'a Bytes,
    pub(crate) attempt: u32,
}

/// What handles messages.
#[derive(Debug)]
pub(crate) struct Engine<I: Inbox> {
    pub(crate) consumer: String,
    pub(crate) routes: Routes<I>,
    pub(crate) inbox: Arc<I>,
    pub(crate) handler_timeout: Duration,
    pub(crate) inbox_timeout: Duration,
    pub(crate) shutdown: CancellationToken,
}

impl<I: Inbox> Engine<I> {
    /// Makes one attempt.
    pub(crate) async fn attempt(&self, work: Work<'_>) -> Attempted {
        match self.attempt_until_commit(work).await {
            Ok((key, transaction)) => self.commit(&key, transaction).await,
            Err(attempted) => attempted,
        }
    }

    /// Makes an attempt and leaves out the commit. The test kit drops what it gets, as a crash would.
    pub(crate) async fn attempt_until_commit(
        &self,
        work: Work<'_>,
    ) -> Result<(InboxKey, I::Transaction), Attempted> {
        let call = match self.routes.find(&work.envelope.event_type) {
            Ok(call) => call,
            Err(unhandled) => return Err(Attempted::Unhandled(unhandled)),
        };
        let key = InboxKey { consumer: self.consumer.clone(), message_id: work.envelope.id.clone() };
        let slot = match self.within("begin", self.inbox.begin(&key)).await {
            Ok(Begun::New(transaction)) => Slot::<I>::new(transaction),
            Ok(Begun::Duplicate) => return Err(Attempted::Duplicate),
            Err(error) => return Err(inbox_failed(error, Stage::Begin)),
        };
        let delivery = Delivery::new(
            Inner {
                envelope: Arc::clone(work.envelope),
                headers: Arc::clone(work.headers),
                payload: work.payload.clone(),
                attempt: work.attempt,
                deadline: Instant::now() + self.handler_timeout,
                cancellation: self.shutdown.clone(),
            },
            slot.clone(),
        );
        // The call itself runs the extractors, which may panic as well.
        let handling = AssertUnwindSafe(async move { call(delivery).await }).catch_unwind();
        let outcome = match within(self.handler_timeout, handling).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                Err(HandlerError::transient(format!("the handler panicked: {}", panic_text(panic.as_ref()))))
            }
            Err(_) => Err(HandlerError::transient(format!(
                "the handler took longer than {:?}",
                self.handler_timeout
            ))),
        };
        // Whatever is in the slot now and not committed is rolled back when it is dropped.
        let transaction = slot.take();
        if let Err(error) = outcome {
            drop(transaction);
            return Err(self.failed(error).await);
        }
        let kept = "the handler kept its transaction: drop `Tx` before returning";
        transaction
            .map(|transaction| (key, transaction))
            .ok_or(Attempted::Failed(HandlerError::permanent(kept)))
    }

    async fn commit(&self, key: &InboxKey, transaction: I::Transaction) -> Attempted {
        match self.within("commit", self.inbox.commit(key, transaction)).await {
            Ok(()) => Attempted::Handled,
            Err(error) => inbox_failed(error, Stage::Commit),
        }
    }

    /// A handler that failed while the inbox's database is away failed because of it: that is not an attempt.
    async fn failed(&self, error: HandlerError) -> Attempted {
        if error.is_permanent() {
            return Attempted::Failed(error);
        }
        match self.probe().await {
            Err(probe) if probe.kind() == InboxErrorKind::Unavailable => {
                Attempted::Unavailable(format!("{}; and {}", error.report(), report(&probe)))
            }
            _ => Attempted::Failed(error),
        }
    }

    /// Looks whether the inbox can be reached.
    pub(crate) async fn probe(&self) -> Result<(), InboxError> {
        self.within("answer", self.inbox.probe(&self.consumer)).await
    }

    async fn within<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, InboxError>>,
    ) -> Result<T, InboxError> {
        within(self.inbox_timeout, work).await.unwrap_or_else(|_| {
            let message = format!("the inbox did not {what} within {:?}", self.inbox_timeout);
            Err(InboxError::new(InboxErrorKind::Unavailable, message, None))
        })
    }
}

/// As [`timeout`], and sets no timer for what is ready at once.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    match poll_immediate(&mut work).await {
        Some(done) => Ok(done),
        None => timeout(limit, work).await,
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Begin,
    Commit,
}

/// What an error of the inbox means for the message: the one table.
fn inbox_failed(error: InboxError, stage: Stage) -> Attempted {
    match (error.kind(), stage) {
        (InboxErrorKind::Unavailable, _) => Attempted::Unavailable(report(&error)),
        (InboxErrorKind::Conflict, Stage::Begin) => Attempted::Conflict(report(&error)),
        // The handler did run: without counting, two handlers that always collide would go on for ever.
        (InboxErrorKind::Conflict, Stage::Commit) => Attempted::Failed(HandlerError::transient(error)),
        (InboxErrorKind::Unusable, _) => Attempted::Unusable(error),
        // Another attempt would end alike, or double what a handler has committed by itself.
        (InboxErrorKind::Rejected, _) => Attempted::Failed(HandlerError::permanent(error)),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
