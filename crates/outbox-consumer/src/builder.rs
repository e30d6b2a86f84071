//! The settings of a consumer, checked before anything is opened.

use std::{fmt, marker::PhantomData, time::Duration};

use async_nats::Client;

use crate::{
    consumer::Consumer,
    dead_letter::DeadLetterStream,
    durable::StartAt,
    error::{ConsumerError, ConsumerErrorKind},
    handler::router::Routes,
    inbox::Inbox,
    partition::{Partition, Partitions},
    retry::RetryPolicy,
};

/// How many messages an ordered consumer has in hand at most, by default.
const ORDERED_IN_HAND: usize = 1024;
/// How many messages of an unordered consumer wait for an acknowledgement or a retry at most, by default.
const ACK_PENDING: usize = 10_000;

/// How many messages an unordered consumer fetches ahead at least, by default.
const PREFETCH: usize = 200;

/// What becomes of the later messages of a partition key when one of its messages fails; for ordered consumers.
///
/// In both cases they wait while the message waits for its next attempt, and other keys go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailingKeys {
    /// They wait until the message is a dead letter; then they are handled, without it.
    #[default]
    Wait,
    /// When the message is a dead letter its key is parked: later messages of the key become dead letters too, without an
    /// attempt, for as long as an older one of the key is there. So none is ever handled before one that it may build on.
    /// [`DeadLetters::replay_key`](crate::DeadLetters::replay_key) brings them back in their order; discarding a letter
    /// passes over it.
    Park,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) stream: String,
    pub(crate) durable: String,
    pub(crate) filter_subjects: Vec<String>,
    pub(crate) start: StartAt,
    pub(crate) concurrency: usize,
    pub(crate) ordered: bool,
    pub(crate) partitions: Option<Partitions>,
    pub(crate) failing_keys: FailingKeys,
    pub(crate) lease: Duration,
    pub(crate) prefetch: Option<usize>,
    pub(crate) max_ack_pending: Option<usize>,
    pub(crate) ack_wait: Duration,
    pub(crate) handler_timeout: Duration,
    pub(crate) inbox_timeout: Duration,
    pub(crate) inbox_retention: Duration,
    pub(crate) drain_deadline: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) dead_letters: DeadLetterStream,
}

impl Settings {
    pub(crate) fn ack_pending_max(&self) -> usize {
        self.max_ack_pending.unwrap_or(if self.ordered { ORDERED_IN_HAND } else { ACK_PENDING })
    }

    /// An ordered consumer must have room for all that it may ever be sent, or one that it waits for would not fit.
    pub(crate) fn in_hand_max(&self) -> usize {
        if self.ordered {
            self.ack_pending_max()
        } else {
            self.concurrency.saturating_add(self.prefetch.unwrap_or(PREFETCH.max(self.concurrency)))
        }
    }

    /// The subjects of a partition; all of the stream if there are none.
    pub(crate) fn subjects_of(&self, partition: Partition) -> Vec<String> {
        match (&self.partitions, partition) {
            (Some(partitions), Partition::Number(number)) => partitions.subjects_of(number),
            _ => self.filter_subjects.clone(),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.partitions.as_ref().map(Partitions::problems).unwrap_or_default();
        let mut check = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.contains(|c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c))
        };
        check(
            is_name(&self.stream),
            "the stream's name must not be empty or have dots, wildcards, slashes or spaces",
        );
        check(
            is_name(&self.durable),
            "the durable's name must not be empty or have dots, wildcards, slashes or spaces",
        );
        check(self.concurrency > 0, "concurrency must be at least 1");
        check(self.ack_pending_max() >= self.concurrency, "max_ack_pending must be at least concurrency");
        check(self.ack_wait >= Duration::from_secs(1), "ack_wait must be at least 1 s");
        check(self.lease >= Duration::from_secs(1), "lease must be at least 1 s");
        check(self.handler_timeout > Duration::ZERO, "handler_timeout must not be 0");
        check(self.inbox_timeout > Duration::ZERO, "inbox_timeout must not be 0");
        check(self.retry.attempts_max > 0, "retry.attempts_max must be at least 1");
        check(self.retry.deliveries_max > 0, "retry.deliveries_max must be at least 1");
        check(self.retry.factor.is_finite() && self.retry.factor >= 1.0, "retry.factor must be at least 1");
        check((0.0..=1.0).contains(&self.retry.jitter), "retry.jitter must be from 0 to 1");
        check(
            self.ordered || self.partitions.is_none(),
            "partitions are for ordered consumers: call ordered",
        );
        check(
            self.ordered || self.failing_keys == FailingKeys::Wait,
            "only an ordered consumer can park keys: call ordered",
        );
        check(
            self.partitions.is_none() || self.filter_subjects.is_empty(),
            "with partitions, their subjects say what is consumed: leave out filter_subjects",
        );
        check(self.dead_letters.name != self.stream, "the dead letters need a stream of their own");
        problems
    }
}

/// Settings on the way to a [`Consumer`].
#[must_use = "nothing happens before `build`"]
pub struct ConsumerBuilder<I> {
    client: Client,
    settings: Settings,
    inbox: PhantomData<fn(I)>,
}

impl<I> fmt::Debug for ConsumerBuilder<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<I: Inbox> Consumer<I> {
    /// A consumer of `stream` that goes by the durable name `durable`: instances with the same name share the messages,
    /// and the name is what the inbox records.
    ///
    /// ```no_run
    /// # use outbox_consumer::inbox::{Inbox};
    /// # async fn example<I: Inbox>(inbox: I) -> Result<(), Box<dyn std::error::Error>> {
    /// use outbox_consumer::{Consumer, Context, HandlerError, Router};
    /// use tokio_util::sync::CancellationToken;
    ///
    /// async fn reserve(context: Context) -> Result<(), HandlerError> {
    ///     println!("{}", context.message_id());
    ///     Ok(())
    /// }
    ///
    /// let client = async_nats::connect("nats://127.0.0.1:4222").await?;
    /// let consumer = Consumer::builder(client, "ORDERS", "stock")
    ///     .concurrency(32)
    ///     .build(inbox, Router::new().on("order.placed", reserve))
    ///     .await?;
    /// consumer.run(CancellationToken::new()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(
        client: Client,
        stream: impl Into<String>,
        durable: impl Into<String>,
    ) -> ConsumerBuilder<I> {
        let settings = Settings {
            stream: stream.into(),
            durable: durable.into(),
            filter_subjects: Vec::new(),
            start: StartAt::default(),
            concurrency: 16,
            ordered: false,
            partitions: None,
            failing_keys: FailingKeys::default(),
            lease: Duration::from_secs(10),
            prefetch: None,
            max_ack_pending: None,
            ack_wait: Duration::from_secs(30),
            handler_timeout: Duration::from_secs(60),
            inbox_timeout: Duration::from_secs(30),
            inbox_retention: Duration::from_secs(30 * 24 * 3600),
            drain_deadline: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            dead_letters: DeadLetterStream::default(),
        };
        ConsumerBuilder { client, settings, inbox: PhantomData }
    }
}

impl<I: Inbox> ConsumerBuilder<I> {
    /// Only messages with one of these subjects; all of the stream by default.
    pub fn filter_subjects<T: Into<String>>(mut self, subjects: impl IntoIterator<Item = T>) -> Self {
        self.settings.filter_subjects = subjects.into_iter().map(Into::into).collect();
        self
    }

    /// Where the durable consumer begins when it is created; [`StartAt::Earliest`] by default.
    pub fn start_at(mut self, start: StartAt) -> Self {
        self.settings.start = start;
        self
    }

    /// How many messages are handled at the same time; 16 by default.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.settings.concurrency = concurrency;
        self
    }

    /// Messages of one partition key are handled one after another in the order of the stream, also across retries:
    /// while one waits for its next attempt, later ones of its key wait, and other keys go on. Messages without a key
    /// are handled in any order. Off by default.
    ///
    /// Waiting messages stay in this instance's memory, at most [`max_ack_pending`](Self::max_ack_pending) in all;
    /// then a key that keeps failing holds up the others, until it succeeds or becomes a dead letter.
    ///
    /// Of several instances one works at a time, or each on its [partitions](Self::partitions). When one stops or dies the
    /// others take over, each beginning only when all that was delivered before is in its hands. What a dead instance had
    /// in hand comes again after the [ack wait](Self::ack_wait).
    pub fn ordered(mut self) -> Self {
        self.settings.ordered = true;
        self
    }

    /// For ordered consumers: divides the work among the instances, by partitions that the subjects name. `subjects` hold
    /// the token `{partition}` where the number stands, from 0 to `count` − 1; the bridge writes it if the outbox's
    /// subject has `{partition:16}`, and nats-server if a subject transform has `{{partition(16,…)}}`.
    ///
    /// ```no_run
    /// # use outbox_consumer::{Consumer, inbox::MemoryInbox};
    /// # fn example(client: async_nats::Client) {
    /// // In the bridge's configuration: subject = "orders.{partition:16}.{type}"
    /// let builder = Consumer::<MemoryInbox>::builder(client, "ORDERS", "stock")
    ///     .ordered()
    ///     .partitions(16, ["orders.{partition}.>"]);
    /// # }
    /// ```
    ///
    /// Every partition has a durable consumer `<durable>-p<number>`. The instances divide them evenly among themselves,
    /// and move them when an instance comes, stops or dies. [`concurrency`](Self::concurrency) counts over all partitions
    /// of an instance, [`max_ack_pending`](Self::max_ack_pending) for each.
    ///
    /// To change the number: stop the service when everything is handled and no dead letters are left, change the subject
    /// in the bridge, delete the durable consumers, and start at what is new. A key's order across the change is not kept
    /// otherwise.
    pub fn partitions<T: Into<String>>(mut self, count: u16, subjects: impl IntoIterator<Item = T>) -> Self {
        let subjects = subjects.into_iter().map(Into::into).collect();
        self.settings.partitions = Some(Partitions { count, subjects });
        self
    }

    /// For ordered consumers: what becomes of a key's later messages when one fails; they wait by default.
    pub fn failing_keys(mut self, failing_keys: FailingKeys) -> Self {
        self.settings.failing_keys = failing_keys;
        self
    }

    /// For ordered consumers: how long after its last sign of life an instance's partitions go to others; 10 s by
    /// default. An instance that cannot give a sign of life stops its handlers before that time, by its own clock. In a
    /// cluster of NATS servers one can take some seconds while a leader is elected.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How many messages are fetched beyond those that are handled; 200 by default, or
    /// [`concurrency`](Self::concurrency) if that is more. Fewer share slow work more evenly between instances. Without effect on ordered consumers.
    pub fn prefetch(mut self, messages: usize) -> Self {
        self.settings.prefetch = Some(messages);
        self
    }

    /// How many messages of the durable consumer, over all instances, wait for an acknowledgement or a retry at most;
    /// 10,000 by default, and 1,024 if ordered. Past it the server sends nothing until some are done.
    pub fn max_ack_pending(mut self, messages: usize) -> Self {
        self.settings.max_ack_pending = Some(messages);
        self
    }

    /// After what time without a sign of life a message goes to another instance; 30 s by default. A message in hand is
    /// kept by a progress acknowledgement at a third of it, however long its handler takes.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.settings.ack_wait = ack_wait;
        self
    }

    /// How long a handler may take; then it is cancelled and the attempt failed. 60 s by default.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handler_timeout = timeout;
        self
    }

    /// How long the inbox may take to begin or to commit before it counts as unavailable. 30 s by default.
    pub fn inbox_timeout(mut self, timeout: Duration) -> Self {
        self.settings.inbox_timeout = timeout;
        self
    }

    /// How long the inbox remembers a handled message at least; 30 days by default. A record stays longer if an older
    /// message of the stream still waits to be acknowledged, so what can be delivered again is always remembered. It should
    /// be longer than a letter may lie among the dead letters.
    pub fn inbox_retention(mut self, retention: Duration) -> Self {
        self.settings.inbox_retention = retention;
        self
    }

    /// How long handlers may go on after the shutdown began; 30 s by default.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.settings.drain_deadline = deadline;
        self
    }

    /// When a failed message is tried again, and when no more.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.settings.retry = policy;
        self
    }

    /// The stream of the dead letters.
    pub fn dead_letters(mut self, dead_letters: DeadLetterStream) -> Self {
        self.settings.dead_letters = dead_letters;
        self
    }

    /// Opens or creates what the consumer needs: the durable consumer, the stream of the dead letters with a durable
    /// consumer for replayed ones, the key-value bucket of the attempts, and what the inbox needs.
    ///
    /// # Errors
    ///
    /// If a setting makes no sense (all are named at once), if NATS or the inbox cannot be reached, if the stream is not
    /// there, or if the durable consumer is there but differs from the settings.
    pub async fn build(self, inbox: I, handlers: impl Into<Routes<I>>) -> Result<Consumer<I>, ConsumerError> {
        let routes = handlers.into();
        let mut problems = self.settings.problems();
        if routes.is_empty() {
            problems.push("there are no handlers".to_owned());
        }
        if !problems.is_empty() {
            return Err(ConsumerError::new(ConsumerErrorKind::Settings, problems.join("; ")));
        }
        // Boxed, so that services' own futures stay small.
        Box::pin(Consumer::open(self.client, self.settings, routes, inbox)).await
    }
}
