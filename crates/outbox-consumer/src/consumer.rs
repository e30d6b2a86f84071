//! A consumer that is ready to run.

use std::{fmt, sync::Arc, time::Duration};

use async_nats::{
    Client,
    jetstream::{self, stream::RawMessageErrorKind},
};
use time::OffsetDateTime;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    builder::{FailingKeys, Settings},
    dead_letter::{DeadLetters, Place},
    dispatch::{Dispatcher, Limits, parked::Parked, task::Shared},
    durable::{self, StartAt, Wanted},
    engine::Engine,
    error::{ConsumerError, ConsumerErrorKind},
    fetch::Fetcher,
    handler::{error::report, router::Routes},
    inbox::{Inbox, InboxError},
    metrics::Metrics,
    ordered,
    partition::{Partition, Partitions},
    retry::Backoff,
    shared_state::SharedState,
};

/// How far the clocks of NATS, of the inbox's database, and of this machine may be apart.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(3600);

/// A durable consumer of one stream with its handlers. Made by [`Consumer::builder`].
pub struct Consumer<I: Inbox>(Arc<Inner<I>>);

/// What the tasks of a consumer share.
pub(crate) struct Inner<I: Inbox> {
    client: Client,
    pub(crate) settings: Settings,
    routes: Routes<I>,
    inbox: Arc<I>,
    stream: jetstream::stream::Stream,
    letters: DeadLetters,
    pub(crate) state: SharedState,
}

/// Which part of a consumer's messages is consumed, and on what terms.
pub(crate) struct Part {
    pub(crate) partition: Partition,
    /// Until when an ordered consumer may begin handlers.
    pub(crate) valid_until: Option<watch::Receiver<Instant>>,
    /// What the parts of an instance share.
    pub(crate) permits: Option<Arc<Semaphore>>,
}

impl<I: Inbox> Consumer<I> {
    /// Opens or creates what the consumer needs on the server, and makes the inbox ready.
    pub(crate) async fn open(
        client: Client,
        settings: Settings,
        routes: Routes<I>,
        inbox: I,
    ) -> Result<Self, ConsumerError> {
        let context = jetstream::new(client.clone());
        inbox.prepare().await.map_err(|error| {
            ConsumerError::because(ConsumerErrorKind::Inbox, "the inbox cannot be made ready", error)
        })?;
        let stream = context.get_stream(&settings.stream).await.map_err(|error| {
            let message = format!("the stream {} cannot be opened", settings.stream);
            ConsumerError::because(ConsumerErrorKind::Stream, message, error)
        })?;
        let place = Place {
            dead_letters: settings.dead_letters.clone(),
            stream: settings.stream.clone(),
            durable: settings.durable.clone(),
        };
        let letters = DeadLetters::open_place(context.clone(), place).await?;
        let state = SharedState::open(&context, &settings.durable, settings.dead_letters.replicas).await?;
        let inner = Inner { client, settings, routes, inbox: Arc::new(inbox), stream, letters, state };
        for partition in Partitions::list(inner.settings.partitions.as_ref()) {
            inner.ensure(partition).await?;
        }
        inner.check_partitions().await?;
        Ok(Self(Arc::new(inner)))
    }

    /// The consumer's dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        self.0.letters.clone()
    }

    /// Handles messages until `shutdown` is cancelled or something fails that waiting does not mend.
    ///
    /// At the end it drains: nothing more is fetched, what has not begun is given back, handlers may finish until the
    /// drain deadline and are cut off then. Outages of NATS and of the inbox are waited for, with growing pauses.
    /// The future must not be dropped for a shutdown: what is in hand would come again only after the ack wait.
    ///
    /// # Errors
    ///
    /// If the durable consumer differs or is deleted, if the inbox becomes unusable, if a message has no handler and
    /// [`Unhandled::Fail`](crate::Unhandled::Fail) is set, or if the stream has more partitions than the consumer.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), ConsumerError> {
        let inner = &self.0;
        let cleaning = AbortOnDrop(tokio::spawn(Arc::clone(inner).clean_up(shutdown.clone())));
        let settings = &inner.settings;
        tracing::info!(stream = settings.stream, consumer = settings.durable, "consuming");
        // Boxed, so that services' own futures stay small.
        let ended = if settings.ordered {
            Box::pin(ordered::run(inner, shutdown)).await
        } else {
            let part = Part { partition: Partition::All, valid_until: None, permits: None };
            Box::pin(inner.consume(part, shutdown)).await
        };
        drop(cleaning);
        tracing::info!(stream = settings.stream, consumer = settings.durable, "stopped");
        ended
    }
}

/// A task that ends with what it belongs to.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<I: Inbox> Inner<I> {
    /// As [`ensure`](Self::ensure), and waits while NATS is away.
    async fn ensured(
        &self,
        partition: Partition,
    ) -> Result<[jetstream::consumer::PullConsumer; 2], ConsumerError> {
        let mut backoff = Backoff::default();
        loop {
            match self.ensure(partition).await {
                Err(error) if error.kind() == ConsumerErrorKind::Nats => {
                    tracing::warn!(
                        error = report(&error),
                        "the durable consumers cannot be looked at: again"
                    );
                    sleep(backoff.next()).await;
                }
                ensured => return ensured,
            }
        }
    }

    /// The durable consumers of the stream and of the replayed dead letters.
    async fn ensure(
        &self,
        partition: Partition,
    ) -> Result<[jetstream::consumer::PullConsumer; 2], ConsumerError> {
        let settings = &self.settings;
        let stream = Wanted {
            name: partition.of(&settings.durable),
            filter_subjects: settings.subjects_of(partition),
            start: settings.start,
            ack_wait: settings.ack_wait,
            max_ack_pending: settings.ack_pending_max(),
        };
        let replay = Wanted {
            name: self.letters.place().replay_durable(partition),
            filter_subjects: vec![self.letters.place().replays(partition)],
            start: StartAt::Earliest,
            ..stream.clone()
        };
        Ok([
            durable::ensure(&self.stream, &stream).await?,
            durable::ensure(self.letters.stream(), &replay).await?,
        ])
    }

    /// Fails if the producer uses more partitions than this consumer: messages would be left lying.
    pub(crate) async fn check_partitions(&self) -> Result<(), ConsumerError> {
        let Some(partitions) = &self.settings.partitions else { return Ok(()) };
        for subject in partitions.subjects_beyond() {
            match self.stream.raw_message_builder().sequence(1).next_by_subject(&subject).send().await {
                Ok(_) => {
                    let message = format!(
                        "the stream {} has messages at {subject}, and this consumer only {} partitions: give the \
                         consumer as many as the subject of the outbox has",
                        self.settings.stream, partitions.count
                    );
                    return Err(ConsumerError::new(ConsumerErrorKind::Settings, message));
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => {
                    let message = "whether the stream has more partitions cannot be looked up";
                    return Err(ConsumerError::because(ConsumerErrorKind::Nats, message, error));
                }
            }
        }
        Ok(())
    }

    /// Which keys are parked, where keys are parked at all. Waits while NATS is away.
    async fn parked(&self, partition: Partition) -> Option<Parked> {
        if self.settings.failing_keys != FailingKeys::Park {
            return None;
        }
        let mut backoff = Backoff::default();
        loop {
            match Parked::load(self.letters.clone(), partition).await {
                Ok(parked) => return Some(parked),
                Err(error) => {
                    tracing::warn!(error = report(&error), "the parked keys cannot be looked up: again");
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Handles the messages of a part until the shutdown, and drains.
    pub(crate) async fn consume(&self, part: Part, shutdown: CancellationToken) -> Result<(), ConsumerError> {
        let settings = &self.settings;
        let Part { partition, valid_until, permits } = part;
        let prepared = async { Ok((self.ensured(partition).await?, self.parked(partition).await)) };
        let prepared = Box::pin(shutdown.run_until_cancelled(prepared));
        let Some(prepared) = prepared.await else { return Ok(()) };
        let ([stream, replay], parked) = prepared?;
        let stopping = shutdown.child_token();
        let shared = Shared {
            engine: Engine {
                consumer: settings.durable.clone(),
                routes: self.routes.clone(),
                inbox: Arc::clone(&self.inbox),
                handler_timeout: settings.handler_timeout,
                inbox_timeout: settings.inbox_timeout,
                shutdown: stopping.clone(),
            },
            client: self.client.clone(),
            context: jetstream::new(self.client.clone()),
            letters: self.letters.clone(),
            state: self.state.clone(),
            policy: settings.retry,
            metrics: Metrics::new(&settings.stream, &settings.durable, partition),
            ordered: settings.ordered,
            partition,
            parked,
            permits,
        };
        let limits = Limits {
            concurrency: settings.concurrency,
            in_hand_max: settings.in_hand_max(),
            ack_wait: settings.ack_wait,
            drain: settings.drain_deadline,
        };
        let stream = Fetcher::new(self.client.clone(), stream);
        let replay = Fetcher::new(self.client.clone(), replay);
        let dispatcher = Dispatcher::new(Arc::new(shared), limits, stream, replay, valid_until);
        let ended = Box::pin(dispatcher.run()).await;
        stopping.cancel();
        ended
    }

    /// Removes old records of the inbox from time to time, in small batches.
    async fn clean_up(self: Arc<Self>, shutdown: CancellationToken) {
        const EVERY: Duration = Duration::from_secs(600);
        const BATCH: u32 = 1000;
        const BETWEEN: Duration = Duration::from_millis(100);
        loop {
            // Instances that start together do not clean up together.
            let pause = EVERY.mul_f64(rand::random_range(0.5..1.5));
            if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            let age = match self.age_to_remove().await {
                Ok(age) => age,
                Err(error) => {
                    tracing::debug!(error = report(&error), "how old a record may be cannot be looked up");
                    continue;
                }
            };
            let removing = async {
                let mut removed = 0;
                loop {
                    let batch = self.inbox.clean_up(&self.settings.durable, age, BATCH).await?;
                    removed += batch;
                    if batch < u64::from(BATCH) {
                        return Ok::<_, InboxError>(removed);
                    }
                    sleep(BETWEEN).await;
                }
            };
            match shutdown.run_until_cancelled(removing).await {
                None => return,
                Some(Ok(removed)) => tracing::debug!(removed, "old records of the inbox removed"),
                Some(Err(error)) => tracing::debug!(%error, "the inbox cannot be cleaned up now"),
            }
        }
    }

    /// From what age on records may go: the setting, but never younger than a message that can still be delivered again.
    async fn age_to_remove(&self) -> Result<Duration, ConsumerError> {
        let failed = |error: async_nats::Error| {
            ConsumerError::because(ConsumerErrorKind::Nats, "the stream cannot be read", error)
        };
        let mut age = self.settings.inbox_retention;
        for partition in Partitions::list(self.settings.partitions.as_ref()) {
            let name = partition.of(&self.settings.durable);
            let info = self.stream.consumer_info(&name).await.map_err(|error| failed(error.into()))?;
            let oldest = info.ack_floor.stream_sequence + 1;
            match self.stream.raw_message_builder().sequence(oldest).next_by_subject(">").send().await {
                Ok(message) => {
                    let stored: Duration =
                        (OffsetDateTime::now_utc() - message.time).try_into().unwrap_or_default();
                    age = age.max(stored + CLOCKS_APART_MAX);
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(age)
    }
}

impl<I: Inbox> fmt::Debug for Consumer<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::consumer::PullConsumer;
    use futures_util::StreamExt;

    use super::*;
    use crate::{handler::router::Router, inbox::MemoryInbox};

    #[tokio::test]
    async fn a_record_stays_while_an_older_message_may_come_again() -> anyhow::Result<()> {
        let server = testbed::Nats::builder().start().await?;
        let client = server.client().await?;
        let context = jetstream::new(client.clone());
        let config = jetstream::stream::Config {
            name: "ORDERS".to_owned(),
            subjects: vec!["orders.>".to_owned()],
            ..jetstream::stream::Config::default()
        };
        let stream = context.create_stream(config).await?;
        let retention = Duration::from_millis(1);
        let consumer = Consumer::builder(client, "ORDERS", "stock")
            .inbox_retention(retention)
            .build(MemoryInbox::new(), Router::new().on("placed", async || {}))
            .await?;
        assert_eq!(consumer.0.age_to_remove().await?, retention, "nothing waits");

        for _ in 0..3 {
            context.publish("orders.a", "".into()).await?.await?;
        }
        let durable: PullConsumer = stream.get_consumer("stock").await.map_err(anyhow::Error::from_boxed)?;
        let mut messages = durable.messages().await?;
        for waits in [true, true, false] {
            let age = consumer.0.age_to_remove().await?;
            assert!(age > CLOCKS_APART_MAX, "the older ones wait to be acknowledged: {age:?}");
            let message = messages.next().await.transpose()?;
            message.expect("a message").double_ack().await.map_err(anyhow::Error::from_boxed)?;
            let age = consumer.0.age_to_remove().await?;
            assert_eq!(age > CLOCKS_APART_MAX, waits, "{age:?}");
        }
        Ok(())
    }
}
