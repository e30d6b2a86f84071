//! One message, from its beginning to its acknowledgement. Runs as a task of its own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::metrics::Gauge;
use async_nats::{Client, HeaderMap, jetstream};
use bytes::Bytes;
use outbox_event::header;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout},
};
use tracing::Instrument;

use super::{
    in_hand::{InHand, Source, ack},
    parked::{Before, Parked},
};
use crate::{
    dead_letter::{Address, DeadLetters, StoreError, record},
    engine::{Attempted, Engine, Work},
    error::{ConsumerError, ConsumerErrorKind},
    handler::{error::HandlerError, router::Unhandled},
    history::History,
    inbox::Inbox,
    metrics::Metrics,
    partition::Partition,
    payload::{self, LoadError},
    retry::{Backoff, RetryPolicy},
    shared_state::SharedState,
    trace,
};

/// How long an acknowledgement that matters may take to be confirmed.
const CONFIRM: Duration = Duration::from_secs(2);
/// After trouble that is not the message's.
const SOON: Duration = Duration::from_millis(500);

/// What all tasks share.
#[derive(Debug)]
pub(crate) struct Shared<I: Inbox> {
    pub(crate) engine: Engine<I>,
    pub(crate) client: Client,
    pub(crate) context: jetstream::Context,
    pub(crate) letters: DeadLetters,
    pub(crate) state: SharedState,
    pub(crate) policy: RetryPolicy,
    pub(crate) metrics: Metrics,
    pub(crate) ordered: bool,
    pub(crate) partition: Partition,
    /// Parked keys, if failing keys are to be parked.
    pub(crate) parked: Option<Parked>,
    /// What the partitions of an instance share, so that not each handles as many as all may.
    pub(crate) permits: Option<Arc<Semaphore>>,
}

/// How a task ended.
#[derive(Debug)]
pub(crate) enum Done {
    /// Acknowledged, given back or dead: no longer ours.
    Settled,
    /// To be tried again here after a while; its key waits.
    Again(Duration),
    /// The inbox is away; to be tried again when it is back.
    Unavailable(String),
    /// The consumer cannot go on. The message stays in hand and is given back when the consumer ends.
    Fatal(ConsumerError),
}

/// Counts a message as in progress for as long as it lives, also if its task is cut off.
struct InProgress<'a>(&'a Gauge);

impl<'a> InProgress<'a> {
    fn of(gauge: &'a Gauge) -> Self {
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl<I: Inbox> Shared<I> {
    /// Handles one message.
    pub(crate) async fn handle(&self, message: &InHand) -> Done {
        let Some(_permit) = self.permit().await else { return Done::Again(Duration::ZERO) };
        let span = trace::span(message, &self.engine.consumer);
        let begun = Instant::now();
        let in_progress = InProgress::of(&self.metrics.in_progress);
        let done = self.work(message).instrument(span).await;
        drop(in_progress);
        self.metrics.handling.record(begun.elapsed());
        done
    }

    /// Waits until it may begin; `None` if the shutdown comes first.
    async fn permit(&self) -> Option<Option<SemaphorePermit<'_>>> {
        let Some(permits) = &self.permits else { return Some(None) };
        // The semaphore is never closed.
        let permit = self.engine.shutdown.run_until_cancelled(permits.acquire()).await?;
        Some(permit.ok())
    }

    fn address<'a>(&self, message: &'a InHand) -> Address<'a> {
        Address {
            partition: self.partition,
            key: message.partition_key().map(AsRef::as_ref),
            sequence: message.origin.sequence,
        }
    }

    async fn work(&self, message: &InHand) -> Done {
        let history = match message.history() {
            Some(history) => history,
            None => match self.look_up(message).await {
                Ok(Some(history)) => history,
                Ok(None) => {
                    tracing::info!("delivered again though it is a dead letter: terminated");
                    return self.terminate(message, "a dead letter already").await;
                }
                Err(error) => {
                    tracing::warn!(%error, "earlier attempts cannot be looked up: later");
                    return self.later(message, SOON).await;
                }
            },
        };
        if let Some(parked) = &self.parked {
            match parked.before(message).await {
                Ok(Before::Nothing) => {}
                Ok(Before::Letter(sequence)) => {
                    let reason = format!("its key is parked: message {sequence} is a dead letter");
                    if let Err(later) = self.store_letter(message, &history, &reason).await {
                        return later;
                    }
                    tracing::warn!(reason, "a dead letter without an attempt");
                    self.metrics.parked.increment(1);
                    return self.terminate(message, &reason).await;
                }
                Ok(Before::Replay) => return self.later(message, SOON).await,
                Err(error) => {
                    tracing::warn!(%error, "whether the key is parked cannot be looked up: later");
                    return self.later(message, SOON).await;
                }
            }
        }
        let futile = message.delivery.delivered.saturating_sub(1).saturating_sub(history.count().into());
        if futile >= self.policy.deliveries_max.into() {
            let reason = format!("delivered {} times without coming to an end", message.delivery.delivered);
            return self.bury(message, history, &reason).await;
        }
        let envelope = match &message.envelope {
            Ok(envelope) => envelope,
            Err(error) => return self.bury(message, history, &error.to_string()).await,
        };
        let payload = match self.payload(message).await {
            Ok(payload) => payload,
            Err(LoadError::Gone(text)) => {
                return self.failed(message, history, HandlerError::transient(text)).await;
            }
            Err(LoadError::Away(error)) => {
                tracing::warn!(error, "the payload is not in the message and cannot be had now: later");
                return self.later(message, SOON).await;
            }
        };
        let attempt = history.count().saturating_add(1);
        let work = Work { envelope, headers: &message.headers, payload: &payload, attempt };
        let attempted = self.engine.attempt(work).await;
        self.settle(message, history, attempted).await
    }

    /// The payload, wherever it lies.
    async fn payload(&self, message: &InHand) -> Result<Bytes, LoadError> {
        match payload::reference(&message.headers) {
            None => Ok(message.payload.clone()),
            Some(Ok(reference)) => self.letters.payloads().load(&reference).await,
            Some(Err(text)) => Err(LoadError::Gone(text)),
        }
    }

    /// Gives a letter a payload of its own where the message's may go before the letter does. One that is gone already is
    /// no reason not to store the letter.
    async fn keep_payload(&self, message: &InHand, headers: &mut HeaderMap) -> Result<(), LoadError> {
        let Some(Ok(reference)) = payload::reference(&message.headers) else { return Ok(()) };
        let subject = self.letters.place().letter(self.address(message));
        match self.letters.payloads().keep(&reference, &subject).await {
            Ok(copy) => headers.insert(header::DATA_REF, copy.to_string()),
            Err(LoadError::Gone(error)) => tracing::warn!(error, "the dead letter has no payload"),
            Err(away) => return Err(away),
        }
        Ok(())
    }

    /// What an earlier delivery left: failed attempts, or, as `None`, a dead letter.
    async fn look_up(&self, message: &InHand) -> Result<Option<History>, async_nats::Error> {
        let letter = self.letters.position_of(self.address(message)).await?;
        if letter.is_some() && letter != message.replay_of {
            return Ok(None);
        }
        let history = self.state.load(&message.stream, message.delivery.sequence).await?;
        message.set_history(history.clone());
        Ok(Some(history))
    }

    /// The table from what came of an attempt to what happens next.
    async fn settle(&self, message: &InHand, history: History, attempted: Attempted) -> Done {
        match attempted {
            Attempted::Handled => {
                self.metrics.handled.increment(1);
                self.acknowledge(message, &history).await
            }
            Attempted::Duplicate => {
                tracing::debug!("handled before: dropped");
                self.metrics.duplicates.increment(1);
                self.acknowledge(message, &history).await
            }
            Attempted::Unhandled(Unhandled::Ignore) => {
                self.metrics.ignored.increment(1);
                self.acknowledge(message, &history).await
            }
            Attempted::Unhandled(Unhandled::DeadLetter) => {
                self.bury(message, history, "no handler for its event type").await
            }
            Attempted::Unhandled(Unhandled::Fail) => {
                let event_type =
                    message.envelope.as_ref().map_or("", |envelope| envelope.event_type.as_str());
                let text = format!(
                    "no handler for the event type {event_type:?} of message {}",
                    message.delivery.sequence
                );
                Done::Fatal(ConsumerError::new(ConsumerErrorKind::Unhandled, text))
            }
            Attempted::Failed(error) => self.failed(message, history, error).await,
            Attempted::Unavailable(text) => Done::Unavailable(text),
            Attempted::Conflict(error) => {
                tracing::debug!(error, "another transaction was in the way: later");
                self.later(message, SOON.mul_f64(rand::random_range(0.1..1.0))).await
            }
            Attempted::Unusable(error) => Done::Fatal(ConsumerError::because(
                ConsumerErrorKind::Inbox,
                "the inbox cannot be used",
                error,
            )),
        }
    }

    async fn failed(&self, message: &InHand, mut history: History, error: HandlerError) -> Done {
        let text = error.report();
        if !error.is_permanent() && self.engine.shutdown.is_cancelled() {
            tracing::info!(error = text, "failed while shutting down: not counted");
            return self.later(message, Duration::ZERO).await;
        }
        let now = SystemTime::now();
        let elapsed = history.elapsed(now);
        history.push(&text, now);
        message.set_history(history.clone());
        if error.is_permanent() {
            return self.bury(message, history, &text).await;
        }
        let Some(delay) = self.policy.next(history.count(), elapsed, error.delay(), rand::random()) else {
            let reason = format!("given up after {} attempts: {text}", history.count());
            return self.bury(message, history, &reason).await;
        };
        tracing::warn!(error = text, attempt = history.count(), ?delay, "failed: another attempt follows");
        self.metrics.retried.increment(1);
        if let Err(error) = self.state.save(&message.stream, message.delivery.sequence, &history).await {
            tracing::warn!(%error, "the failed attempt cannot be recorded: another instance will not count it");
        }
        self.later(message, delay).await
    }

    /// Stores the dead letter, and only then terminates the message.
    async fn bury(&self, message: &InHand, history: History, reason: &str) -> Done {
        if let Err(later) = self.store_letter(message, &history, reason).await {
            return later;
        }
        tracing::error!(reason, attempts = history.count(), "given up: it is a dead letter now");
        self.terminate(message, reason).await
    }

    /// Stores the dead letter; what to do with the message if that cannot be.
    async fn store_letter(&self, message: &InHand, history: &History, reason: &str) -> Result<(), Done> {
        let origin = record::Origin {
            subject: &message.origin.subject,
            stream: &message.origin.stream,
            sequence: message.origin.sequence,
            consumer: &self.letters.place().durable,
        };
        let mut headers = record::headers(&message.headers, origin, reason, history, SystemTime::now());
        let mut backoff = Backoff::default();
        while let Err(error) = self.keep_payload(message, &mut headers).await {
            tracing::warn!(%error, "the dead letter cannot be stored: again");
            sleep(backoff.next()).await;
        }
        loop {
            let stored = self
                .letters
                .store(
                    self.address(message),
                    message.replay_of,
                    headers.clone(),
                    message.payload.clone(),
                    history,
                )
                .await;
            match stored {
                Ok(()) => break,
                Err(StoreError::Again(error)) => {
                    tracing::warn!(error, "the dead letter cannot be stored: again");
                    sleep(backoff.next()).await;
                }
                Err(StoreError::TooLarge) => {
                    tracing::error!(reason, "too large for a dead letter: raise max_payload of the server");
                    return Err(self.later(message, self.policy.max).await);
                }
            }
        }
        if let (Some(parked), Some(key)) = (&self.parked, message.partition_key()) {
            parked.park(key);
        }
        self.metrics.dead_lettered.increment(1);
        if history.count() > 0 {
            self.state.forget(&message.stream, message.delivery.sequence).await;
        }
        Ok(())
    }

    async fn acknowledge(&self, message: &InHand, history: &History) -> Done {
        match message.source {
            // A lost acknowledgement costs a duplicate that the inbox drops.
            Source::Stream => self.send(message, ack::ACK).await,
            Source::Replay => {
                self.confirm(message, ack::ACK).await;
                self.forget_replayed(message).await;
                self.letters.payloads().forget(&message.headers).await;
            }
        }
        if history.count() > 0 {
            self.state.forget(&message.stream, message.delivery.sequence).await;
        }
        Done::Settled
    }

    async fn terminate(&self, message: &InHand, reason: &str) -> Done {
        self.confirm(message, ack::term(reason)).await;
        if message.source == Source::Replay {
            self.forget_replayed(message).await;
        }
        Done::Settled
    }

    async fn forget_replayed(&self, message: &InHand) {
        if let Err(error) = self.letters.remove(message.delivery.sequence).await {
            tracing::warn!(%error, "a replayed message stays in the stream of the dead letters, acknowledged");
        }
    }

    /// Another attempt after `delay`: here if order matters, else wherever JetStream delivers it.
    async fn later(&self, message: &InHand, delay: Duration) -> Done {
        if self.ordered {
            return Done::Again(delay);
        }
        self.send(message, ack::nak(delay)).await;
        Done::Settled
    }

    /// Sends an acknowledgement that may be lost.
    pub(crate) async fn send(&self, message: &InHand, payload: Bytes) {
        if let Err(error) = self.client.publish(message.reply(), payload).await {
            tracing::debug!(%error, "an acknowledgement cannot be sent: the message comes again");
        }
    }

    /// Sends an acknowledgement and waits until the server has it. Given up after some attempts: the next delivery
    /// finds what was done.
    async fn confirm(&self, message: &InHand, payload: Bytes) {
        for _ in 0..3 {
            match timeout(CONFIRM, self.client.request(message.reply(), payload.clone())).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => tracing::debug!(%error, "an acknowledgement is not confirmed"),
                Err(_) => tracing::debug!("an acknowledgement is not confirmed in time"),
            }
            sleep(SOON).await;
        }
    }
}
