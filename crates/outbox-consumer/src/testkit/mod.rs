//! Runs handlers against given events in memory, without NATS. With the feature `testkit`.
//!
//! [`TestConsumer`] delivers events and says what came of each. [`check_repeated`] asks the question that matters in
//! production: do the effects stay the same when every event is delivered at least twice, concurrently and late, and
//! when the process dies between a handler's end and the commit?
//!
//! ```
//! # use outbox_consumer::inbox::Inbox;
//! # async fn example<I: Inbox>(inbox: I) {
//! use outbox_consumer::{Context, Router, testkit::{Outcome, TestConsumer, TestEvent}};
//! use serde_json::json;
//!
//! async fn reserve(context: Context) -> Result<(), std::io::Error> {
//!     if context.attempt() == 1 { Err(std::io::Error::other("not yet")) } else { Ok(()) }
//! }
//!
//! let consumer = TestConsumer::new(inbox, Router::new().on("order.placed", reserve));
//! let event = TestEvent::new("order.placed", &json!({"quantity": 3})).key("order 7");
//! assert_eq!(consumer.deliver(&event).await, Outcome::Handled { attempts: 2 });
//! assert_eq!(consumer.deliver(&event).await, Outcome::Duplicate);
//! # }
//! ```

mod repeated;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use outbox_event::header;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use self::repeated::{Difference, check_repeated};
use crate::{
    Unhandled,
    engine::{Attempted, Engine, Work},
    envelope::{Envelope, NotAnEvent, Origin},
    handler::{error::report, router::Routes},
    history::{Attempt, History},
    inbox::Inbox,
    retry::RetryPolicy,
};

/// How often an inbox that is away or in conflict is asked before the test kit gives up.
const PATIENCE: u32 = 100;

/// An event for a test.
#[derive(Debug, Clone)]
pub struct TestEvent {
    sequence: u64,
    headers: Arc<HeaderMap>,
    payload: Bytes,
}

impl TestEvent {
    /// An event of this type, with an id of its own.
    ///
    /// # Panics
    ///
    /// If the payload cannot be written as JSON.
    #[must_use]
    pub fn new(event_type: &str, payload: &impl Serialize) -> Self {
        let json = serde_json::to_vec(payload).expect("the payload of a test event is JSON");
        Self::with_body(event_type, json)
    }

    /// As [`new`](Self::new), with a body that need not be JSON.
    #[must_use]
    pub fn with_body(event_type: &str, body: impl Into<Bytes>) -> Self {
        static SEQUENCE: AtomicU64 = AtomicU64::new(1);
        let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
        let mut headers = HeaderMap::new();
        headers.insert(header::CE_ID, format!("event-{sequence}").as_str());
        headers.insert(header::CE_TYPE, header::encode_value(event_type).as_ref());
        Self { sequence, headers: Arc::new(headers), payload: body.into() }
    }

    /// With this id.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        Arc::make_mut(&mut self.headers).insert(header::CE_ID, header::encode_value(id).as_ref());
        self
    }

    /// With this partition key, which is the aggregate id as well.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        Arc::make_mut(&mut self.headers).insert(header::CE_PARTITION_KEY, header::encode_value(key).as_ref());
        Arc::make_mut(&mut self.headers).insert(header::CE_SUBJECT, header::encode_value(key).as_ref());
        self
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        Arc::make_mut(&mut self.headers).insert(name, value);
        self
    }
}

impl TestEvent {
    fn envelope(&self) -> Result<Envelope, NotAnEvent> {
        let origin = Origin { subject: "test".into(), stream: "TEST".into(), sequence: self.sequence };
        Envelope::read(&self.headers, origin)
    }
}

/// What came of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The effects are committed.
    Handled {
        /// How many attempts it took.
        attempts: u32,
    },
    /// The inbox knew the message already.
    Duplicate,
    /// There is no handler for its type, and it is acknowledged.
    Ignored,
    /// It became a dead letter.
    DeadLetter {
        /// Why.
        reason: String,
        /// The failed attempts, as far as they are kept.
        attempts: Vec<Attempt>,
    },
    /// The consumer would have stopped with this error.
    Stopped(String),
}

/// A consumer without NATS: it handles what a test delivers.
#[derive(Debug)]
pub struct TestConsumer<I: Inbox> {
    engine: Engine<I>,
    policy: RetryPolicy,
    ordered: bool,
}

impl<I: Inbox> TestConsumer<I> {
    /// A consumer with the default settings.
    #[must_use]
    pub fn new(inbox: I, handlers: impl Into<Routes<I>>) -> Self {
        let engine = Engine {
            consumer: "test".to_owned(),
            routes: handlers.into(),
            inbox: Arc::new(inbox),
            handler_timeout: Duration::from_secs(60),
            inbox_timeout: Duration::from_secs(30),
            shutdown: CancellationToken::new(),
        };
        Self { engine, policy: RetryPolicy::default(), ordered: false }
    }

    /// How many attempts a message has. Delays are left out: a retry follows at once.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How long a handler may take.
    #[must_use]
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.engine.handler_timeout = timeout;
        self
    }

    /// As [`ConsumerBuilder::ordered`](crate::ConsumerBuilder::ordered): [`check_repeated`] then keeps the order of a key.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Delivers an event, with as many attempts as it takes.
    pub async fn deliver(&self, event: &TestEvent) -> Outcome {
        let envelope = match event.envelope() {
            Ok(envelope) => Arc::new(envelope),
            Err(error) => return Outcome::DeadLetter { reason: error.to_string(), attempts: Vec::new() },
        };
        let mut history = History::default();
        let mut patience = PATIENCE;
        loop {
            let attempt = history.count().saturating_add(1);
            let attempted = self.engine.attempt(work(event, &envelope, attempt)).await;
            let text = match attempted {
                Attempted::Handled => return Outcome::Handled { attempts: attempt },
                Attempted::Duplicate => return Outcome::Duplicate,
                Attempted::Unhandled(Unhandled::Ignore) => return Outcome::Ignored,
                Attempted::Unhandled(Unhandled::DeadLetter) => {
                    return dead("no handler for its event type", &history);
                }
                Attempted::Unhandled(Unhandled::Fail) => {
                    return Outcome::Stopped("no handler for its event type".to_owned());
                }
                Attempted::Unusable(error) => return Outcome::Stopped(report(&error)),
                Attempted::Unavailable(error) | Attempted::Conflict(error) => {
                    patience -= 1;
                    if patience == 0 {
                        return Outcome::Stopped(error);
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                Attempted::Failed(error) => {
                    history.push(&error.report(), SystemTime::now());
                    if error.is_permanent() {
                        return dead(&error.report(), &history);
                    }
                    error.report()
                }
            };
            if self.policy.next(history.count(), Duration::ZERO, None, 0.0).is_none() {
                return dead(&format!("given up after {} attempts: {text}", history.count()), &history);
            }
        }
    }

    /// Delivers events one after another.
    pub async fn deliver_all(&self, events: &[TestEvent]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(events.len());
        for event in events {
            outcomes.push(self.deliver(event).await);
        }
        outcomes
    }

    /// Delivers an event to a process that dies after the handler's end and before the commit.
    pub async fn deliver_and_crash(&self, event: &TestEvent) {
        if let Ok(envelope) = event.envelope() {
            drop(self.engine.attempt_until_commit(work(event, &Arc::new(envelope), 1)).await);
        }
    }
}

fn work<'a>(event: &'a TestEvent, envelope: &'a Arc<Envelope>, attempt: u32) -> Work<'a> {
    Work { envelope, headers: &event.headers, payload: &event.payload, attempt }
}

fn dead(reason: &str, history: &History) -> Outcome {
    Outcome::DeadLetter { reason: reason.to_owned(), attempts: history.attempts().to_vec() }
}
