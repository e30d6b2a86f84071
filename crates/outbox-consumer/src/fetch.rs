//! Asks for messages, and never for more than there is room for.
//!
//! This is done by pull requests of our own: the stream of `async-nats` asks for the next batch while the last one is
//! still in its buffer, where no progress acknowledgement keeps the messages.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, Message, StatusCode, Subscriber,
    jetstream::consumer::{PullConsumer, pull::BatchConfig},
};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until};

use crate::retry::Backoff;

/// The server forgets a request after this time.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server says as often that a request still stands.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silent for this long means that the requests are lost.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// What came.
#[derive(Debug)]
pub(crate) enum Fetched {
    Message(Box<Message>),
    /// Requests ended, by time or by trouble: it is time to ask again.
    AskAgain,
    /// The durable consumer is gone, or refuses to be asked.
    Refused(String),
}

/// One durable consumer's pull requests.
pub(crate) struct Fetcher {
    client: Client,
    consumer: PullConsumer,
    /// Of the stream.
    name: Arc<str>,
    subscriber: Option<Subscriber>,
    inbox: String,
    /// How many messages are asked for and not here yet.
    outstanding: usize,
    heard: Instant,
    /// Not asked before this time, after trouble.
    not_before: Instant,
    backoff: Backoff,
    connects: u64,
}

impl Fetcher {
    pub(crate) fn new(client: Client, consumer: PullConsumer) -> Self {
        let now = Instant::now();
        let connects = connects(&client);
        let name = consumer.cached_info().stream_name.as_str().into();
        Self {
            client,
            consumer,
            name,
            subscriber: None,
            inbox: String::new(),
            outstanding: 0,
            heard: now,
            not_before: now,
            backoff: Backoff::default(),
            connects,
        }
    }

    pub(crate) fn consumer(&self) -> &PullConsumer {
        &self.consumer
    }

    /// The name of the stream.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Asks for as many messages as there is room for, if that is worth a request: of the `capacity` a quarter when there
    /// is enough to do, so that under load a request brings many; anything when workers wait and nothing is on its way.
    pub(crate) async fn ask(&mut self, room: usize, capacity: usize, enough_to_do: bool) {
        let missing = room.saturating_sub(self.outstanding);
        let worth = match (enough_to_do, self.outstanding) {
            (true, _) => capacity / 4,
            (false, 0) => 0,
            (false, _) => room / 2,
        };
        if missing < worth.max(1) {
            return;
        }
        if Instant::now() < self.not_before
            || self.client.connection_state() != async_nats::connection::State::Connected
        {
            return;
        }
        if let Err(error) = self.request(missing).await {
            tracing::warn!(%error, "messages cannot be asked for");
            self.reset();
        }
    }

    async fn request(&mut self, batch: usize) -> Result<(), async_nats::Error> {
        if self.subscriber.is_none() {
            self.inbox = self.client.new_inbox();
            self.subscriber = Some(self.client.subscribe(self.inbox.clone()).await?);
            self.connects = connects(&self.client);
        }
        let request = BatchConfig {
            batch,
            expires: Some(EXPIRES),
            idle_heartbeat: HEARTBEAT,
            ..BatchConfig::default()
        };
        self.consumer.request_batch(request, self.inbox.clone().into()).await?;
        if self.outstanding == 0 {
            self.heard = Instant::now();
        }
        self.outstanding += batch;
        Ok(())
    }

    /// What comes next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Fetched {
        loop {
            let Some(subscriber) = &mut self.subscriber else {
                // Nothing is asked for: after the waiting time the caller may ask.
                sleep_until(self.not_before.max(Instant::now() + Duration::from_millis(100))).await;
                return Fetched::AskAgain;
            };
            let silent = self.heard + SILENCE_MAX;
            let message = tokio::select! {
                biased;
                message = subscriber.next() => message,
                () = sleep_until(silent), if self.outstanding > 0 => {
                    tracing::debug!("no heartbeat of the stream: asking anew");
                    None
                }
            };
            let Some(message) = message else {
                self.reset();
                return Fetched::AskAgain;
            };
            self.heard = Instant::now();
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.outstanding = self.outstanding.saturating_sub(1);
                    self.backoff.reset();
                    return Fetched::Message(Box::new(message));
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {
                    if connects(&self.client) != self.connects {
                        self.reset();
                        return Fetched::AskAgain;
                    }
                }
                Some(status) => {
                    if let Some(fetched) = self.status(status, &message) {
                        return fetched;
                    }
                }
            }
        }
    }

    /// A message that is here already.
    pub(crate) fn next_now(&mut self) -> Option<Fetched> {
        self.subscriber.as_ref()?;
        // `next` is cancel-safe, so nothing is lost if it has to wait.
        futures_util::FutureExt::now_or_never(self.next())
    }

    /// After a new connection the server knows none of the old requests.
    pub(crate) fn look_after(&mut self) {
        if self.subscriber.is_some() && connects(&self.client) != self.connects {
            self.reset();
            self.not_before = Instant::now();
        }
    }

    fn status(&mut self, status: StatusCode, message: &Message) -> Option<Fetched> {
        let description = message.description.as_deref().unwrap_or_default();
        if description.contains("Consumer Deleted")
            || description.contains("push based")
            || status.as_u16() == 400
        {
            return Some(Fetched::Refused(description.to_owned()));
        }
        if description.contains("Exceeded MaxRequest") {
            return Some(Fetched::Refused(description.to_owned()));
        }
        let pending = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|value| value.as_str().parse::<usize>().ok());
        match pending {
            // A request ended, by time or since the leader changed, and says how much of it was left.
            Some(pending) => {
                self.outstanding = self.outstanding.saturating_sub(pending);
                Some(Fetched::AskAgain).filter(|_| self.outstanding == 0)
            }
            None => {
                tracing::debug!(%status, description, "a request for messages failed");
                self.reset();
                Some(Fetched::AskAgain)
            }
        }
    }

    /// Forgets all requests; what they still bring goes nowhere and is delivered again.
    fn reset(&mut self) {
        self.subscriber = None;
        self.outstanding = 0;
        self.not_before = Instant::now() + self.backoff.next();
    }

    /// Ends all requests and gives the messages that are here already.
    pub(crate) async fn close(&mut self) -> Vec<Message> {
        let Some(mut subscriber) = self.subscriber.take() else { return Vec::new() };
        self.outstanding = 0;
        let mut left = Vec::new();
        if subscriber.unsubscribe().await.is_ok() {
            let ending = tokio::time::timeout(Duration::from_secs(1), async {
                while let Some(message) = subscriber.next().await {
                    if message.status.is_none_or(|status| status == StatusCode::OK) {
                        left.push(message);
                    }
                }
            });
            if ending.await.is_err() {
                tracing::debug!("some messages may be delivered again only after the ack wait");
            }
        }
        left
    }
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("outstanding", &self.outstanding).finish_non_exhaustive()
    }
}
