//! A server with a stream, an inbox in memory, and shortcuts.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use async_nats::{Client, HeaderMap, jetstream};
use outbox_consumer::{
    Consumer, ConsumerBuilder, ConsumerError, DeadLetter, DeadLetters, RetryPolicy, Routes,
    inbox::{Begun, Inbox, InboxError, InboxErrorKind, InboxKey},
};
use testbed::{Nats, eventually};
use tokio::{sync::OwnedMutexGuard, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What handlers did and the inbox committed, in order.
#[derive(Debug, Default)]
struct Committed {
    handled: HashSet<InboxKey>,
    effects: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct TestInbox {
    committed: Arc<Mutex<Committed>>,
    locks: Arc<Mutex<HashMap<InboxKey, Arc<tokio::sync::Mutex<()>>>>>,
    away: Arc<AtomicBool>,
    /// How often it was asked while it was away.
    pub(crate) refusals: Arc<AtomicU32>,
    /// So many commits happen, but say that they failed.
    pub(crate) doubtful_commits: Arc<AtomicU32>,
}

#[derive(Debug)]
pub(crate) struct TestTransaction {
    effects: Vec<String>,
    _lock: OwnedMutexGuard<()>,
}

impl TestTransaction {
    pub(crate) fn effect(&mut self, effect: impl Into<String>) {
        self.effects.push(effect.into());
    }
}

impl TestInbox {
    pub(crate) fn effects(&self) -> Vec<String> {
        self.committed.lock().unwrap().effects.clone()
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), InboxError> {
        if self.away.load(Ordering::SeqCst) {
            self.refusals.fetch_add(1, Ordering::SeqCst);
            return Err(InboxError::new(InboxErrorKind::Unavailable, "the test's inbox is away", None));
        }
        Ok(())
    }
}

impl Inbox for TestInbox {
    type Transaction = TestTransaction;

    async fn prepare(&self) -> Result<(), InboxError> {
        self.check()
    }

    async fn begin(&self, key: &InboxKey) -> Result<Begun<TestTransaction>, InboxError> {
        self.check()?;
        let lock = Arc::clone(self.locks.lock().unwrap().entry(key.clone()).or_default());
        let lock = lock.lock_owned().await;
        if self.committed.lock().unwrap().handled.contains(key) {
            return Ok(Begun::Duplicate);
        }
        Ok(Begun::New(TestTransaction { effects: Vec::new(), _lock: lock }))
    }

    async fn commit(&self, key: &InboxKey, transaction: TestTransaction) -> Result<(), InboxError> {
        self.check()?;
        let mut committed = self.committed.lock().unwrap();
        committed.handled.insert(key.clone());
        committed.effects.extend(transaction.effects);
        drop(committed);
        let doubt =
            self.doubtful_commits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match doubt {
            Ok(_) => {
                Err(InboxError::new(InboxErrorKind::Unavailable, "the connection broke in the commit", None))
            }
            Err(_) => Ok(()),
        }
    }

    async fn clean_up(&self, _: &str, _: Duration, _: u32) -> Result<u64, InboxError> {
        Ok(0)
    }
}

pub(crate) struct World {
    pub(crate) server: Nats,
    pub(crate) client: Client,
    pub(crate) context: jetstream::Context,
    pub(crate) inbox: TestInbox,
}

/// A consumer that runs.
pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<Result<(), ConsumerError>>,
}

impl Running {
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        self.ended().await
    }

    pub(crate) async fn ended(self) -> Result<()> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.context("the consumer does not end")?;
        Ok(ended??)
    }

    /// As a crash does it: nothing is given back.
    pub(crate) async fn crash(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

impl World {
    pub(crate) async fn new() -> Result<Self> {
        // Shown for tests that fail. Set RUST_LOG for more.
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| "warn,outbox_consumer=debug".into());
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init());
        let server = Nats::builder().start().await?;
        let client = server.client().await?;
        let context = jetstream::new(client.clone());
        let config = jetstream::stream::Config {
            name: "ORDERS".to_owned(),
            subjects: vec!["orders.>".to_owned()],
            ..jetstream::stream::Config::default()
        };
        context.create_stream(config).await?;
        Ok(Self { server, client, context, inbox: TestInbox::default() })
    }

    pub(crate) async fn publish(&self, id: &str, event_type: &str, key: &str, body: &str) -> Result<u64> {
        self.publish_at(&format!("orders.{event_type}"), id, event_type, key, body).await
    }

    pub(crate) async fn publish_at(
        &self,
        subject: &str,
        id: &str,
        event_type: &str,
        key: &str,
        body: &str,
    ) -> Result<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        headers.insert("ce-id", id);
        headers.insert("ce-type", event_type);
        headers.insert("ce-partitionkey", key);
        headers.insert("x-note", "from the test");
        let body = body.to_owned().into();
        let stored = self.context.publish_with_headers(subject.to_owned(), headers, body).await?.await?;
        Ok(stored.sequence)
    }

    /// With short times, so that tests are quick.
    pub(crate) fn builder(&self) -> ConsumerBuilder<TestInbox> {
        Consumer::builder(self.client.clone(), "ORDERS", "stock")
            .ack_wait(Duration::from_secs(2))
            .handler_timeout(Duration::from_secs(10))
            .lease(Duration::from_secs(2))
            .drain_deadline(Duration::from_secs(3))
            .retry(quick())
    }

    pub(crate) async fn start(
        &self,
        builder: ConsumerBuilder<TestInbox>,
        handlers: impl Into<Routes<TestInbox>>,
    ) -> Result<Running> {
        let consumer = builder.build(self.inbox.clone(), handlers).await?;
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { consumer.run(token).await });
        Ok(Running { shutdown, task })
    }

    pub(crate) async fn until_effects(&self, count: usize) -> Result<Vec<String>> {
        eventually(&format!("{count} effects"), PATIENCE, async || {
            let effects = self.inbox.effects();
            Ok((effects.len() >= count).then_some(effects))
        })
        .await
        .with_context(|| format!("there are {}", self.inbox.effects().len()))
    }

    pub(crate) async fn letters(&self) -> Result<DeadLetters> {
        Ok(DeadLetters::open(self.client.clone(), "ORDERS", "stock").await?)
    }

    pub(crate) async fn until_letters(&self, count: usize) -> Result<Vec<DeadLetter>> {
        let letters = self.letters().await?;
        eventually(&format!("{count} dead letters"), PATIENCE, async || {
            let found = letters.list(0, 1000).await?;
            Ok((found.len() >= count).then_some(found))
        })
        .await
    }

    /// Waits until the server knows that everything is acknowledged.
    pub(crate) async fn until_settled(&self) -> Result<()> {
        let stream = self.context.get_stream("ORDERS").await?;
        eventually("everything acknowledged", PATIENCE, async || {
            let info = stream.consumer_info("stock").await?;
            Ok((info.num_ack_pending == 0 && info.num_pending == 0).then_some(()))
        })
        .await
    }
}

pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        initial: Duration::from_millis(100),
        max: Duration::from_millis(400),
        attempts_max: 3,
        ..RetryPolicy::default()
    }
}
