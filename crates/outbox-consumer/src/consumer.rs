//! A consumer that is ready to run.

use std::{fmt, sync::Arc, time::Duration};

use async_nats::{Client, jetstream};
use tokio_util::sync::CancellationToken;

use crate::{
    builder::Settings,
    dead_letter::{DeadLetters, Place},
    dispatch::{Dispatcher, Limits, task::Shared},
    durable::{self, StartAt, Wanted},
    engine::Engine,
    error::{ConsumerError, ConsumerErrorKind},
    fetch::Fetcher,
    handler::{error::report, router::Routes},
    inbox::Inbox,
    lease::Lease,
    metrics::Metrics,
    retry::Backoff,
    shared_state::SharedState,
};

/// A durable consumer of one stream with its handlers. Made by [`Consumer::builder`].
pub struct Consumer<I: Inbox> {
    client: Client,
    settings: Settings,
    routes: Routes<I>,
    inbox: Arc<I>,
    stream: jetstream::stream::Stream,
    letters: DeadLetters,
    state: SharedState,
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
        let consumer = Self { client, settings, routes, inbox: Arc::new(inbox), stream, letters, state };
        consumer.ensure().await?;
        Ok(consumer)
    }

    /// As [`ensure`](Self::ensure), and waits while NATS is away.
    async fn ensured(&self) -> Result<[jetstream::consumer::PullConsumer; 2], ConsumerError> {
        let mut backoff = Backoff::default();
        loop {
            match self.ensure().await {
                Err(error) if error.kind() == ConsumerErrorKind::Nats => {
                    tracing::warn!(
                        error = report(&error),
                        "the durable consumers cannot be looked at: again"
                    );
                    tokio::time::sleep(backoff.next()).await;
                }
                ensured => return ensured,
            }
        }
    }

    /// The durable consumers of the stream and of the replayed dead letters.
    async fn ensure(&self) -> Result<[jetstream::consumer::PullConsumer; 2], ConsumerError> {
        let settings = &self.settings;
        let stream = Wanted {
            name: settings.durable.clone(),
            filter_subjects: settings.filter_subjects.clone(),
            start: settings.start,
            ack_wait: settings.ack_wait,
            max_ack_pending: settings.ack_pending_max(),
        };
        let replay = Wanted {
            name: self.letters.place().replay_durable(),
            filter_subjects: vec![self.letters.place().replays()],
            start: StartAt::Earliest,
            ..stream.clone()
        };
        Ok([
            durable::ensure(&self.stream, &stream).await?,
            durable::ensure(self.letters.stream(), &replay).await?,
        ])
    }

    /// The consumer's dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        self.letters.clone()
    }

    /// Handles messages until `shutdown` is cancelled or something fails that waiting does not mend.
    ///
    /// At the end it drains: nothing more is fetched, what has not begun is given back, handlers may finish until the
    /// drain deadline and are cut off then. Outages of NATS and of the inbox are waited for, with growing pauses.
    /// The future must not be dropped for a shutdown: what is in hand would come again only after the ack wait.
    ///
    /// # Errors
    ///
    /// If the durable consumer differs or is deleted, if the inbox becomes unusable, or if a message has no handler and
    /// [`Unhandled::Fail`](crate::Unhandled::Fail) is set.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), ConsumerError> {
        if !self.settings.ordered {
            // Boxed, so that services' own futures stay small.
            return Box::pin(self.consume(shutdown)).await;
        }
        let lease = Lease::new(&self.state, &self.settings.stream, self.settings.lease);
        loop {
            let Some(mut held) = Box::pin(lease.acquire(&shutdown)).await else { return Ok(()) };
            // When the lease is lost everything is dropped at once: what was in hand comes again to its next holder.
            let term = shutdown.child_token();
            let guard = term.clone().drop_guard();
            tokio::select! {
                biased;
                ended = Box::pin(self.consume(term)) => {
                    held.release().await;
                    return ended;
                }
                () = Box::pin(held.keep()) => tracing::warn!("the lease is lost: handlers are cut off"),
            }
            drop(guard);
        }
    }

    async fn consume(&self, shutdown: CancellationToken) -> Result<(), ConsumerError> {
        let settings = &self.settings;
        let ensured = Box::pin(shutdown.run_until_cancelled(self.ensured()));
        let Some(durables) = ensured.await else { return Ok(()) };
        let [stream, replay] = durables?;
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
            metrics: Metrics::new(&settings.stream, &settings.durable),
            ordered: settings.ordered,
        };
        let limits = Limits {
            concurrency: settings.concurrency,
            in_hand_max: settings.in_hand_max(),
            ack_wait: settings.ack_wait,
            drain: settings.drain_deadline,
        };
        let cleaning = tokio::spawn(clean_up(
            Arc::clone(&self.inbox),
            settings.durable.clone(),
            settings.inbox_retention,
            stopping.clone(),
        ));
        let stream = Fetcher::new(self.client.clone(), stream);
        let replay = Fetcher::new(self.client.clone(), replay);
        tracing::info!(stream = settings.stream, consumer = settings.durable, "consuming");
        let ended = Dispatcher::new(Arc::new(shared), limits, stream, replay).run().await;
        stopping.cancel();
        cleaning.abort();
        tracing::info!(stream = settings.stream, consumer = settings.durable, "stopped");
        ended
    }
}

/// Removes old records of the inbox from time to time.
async fn clean_up<I: Inbox>(inbox: Arc<I>, consumer: String, age: Duration, stopping: CancellationToken) {
    const EVERY: Duration = Duration::from_secs(600);
    const AT_ONCE: u32 = 10_000;
    loop {
        // Instances that start together do not clean up together.
        let pause = EVERY.mul_f64(rand::random_range(0.5..1.5));
        if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        match inbox.clean_up(&consumer, age, AT_ONCE).await {
            Ok(removed) => tracing::debug!(removed, "old records of the inbox removed"),
            Err(error) => tracing::debug!(%error, "the inbox cannot be cleaned up now"),
        }
    }
}

impl<I: Inbox> fmt::Debug for Consumer<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("settings", &self.settings).finish_non_exhaustive()
    }
}
