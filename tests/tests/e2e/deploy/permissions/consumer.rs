//! A service with the crate `outbox-consumer`, and whoever looks after its dead letters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::{self, object_store, stream};
use async_nats::{Client, HeaderMap};
use outbox_consumer::inbox::MemoryInbox;
use outbox_consumer::{Consumer, ConsumerError, DeadLetters, HandlerError, RetryPolicy, Router, State};
use testbed::{Nats, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{PASSWORD, Recorder, server};

const INBOX_PREFIX: &str = "_INBOX_STOCK";
const OPERATOR_PREFIX: &str = "_INBOX_STOCK_LETTERS";
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(nats: &Nats, user: &str, inbox_prefix: &str) -> Result<Client> {
    let options = async_nats::ConnectOptions::new()
        .user_and_password(user.to_owned(), PASSWORD.to_owned())
        .custom_inbox_prefix(inbox_prefix);
    Ok(options.connect(nats.url()).await?)
}

async fn publish(nats: &Nats, id: &str) -> Result<()> {
    let mut headers = HeaderMap::new();
    let payload = ("ce-dataref", "nats-object://OUTBOX_PAYLOADS/large");
    let format = ("Outbox-Format", "2");
    for (name, value) in [("ce-id", id), ("ce-type", "placed"), ("ce-partitionkey", "k"), payload, format] {
        headers.insert(name, value);
    }
    let context = jetstream::new(nats.client().await?);
    context.publish_with_headers("orders.order.placed", headers, "".into()).await?.await?;
    Ok(())
}

/// Fails until it is told to work.
async fn handle(State(works): State<Arc<AtomicBool>>) -> Result<(), HandlerError> {
    if works.load(Ordering::SeqCst) { Ok(()) } else { Err(HandlerError::transient("not now")) }
}

/// An instance of the service.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ConsumerError>>,
}

impl Running {
    async fn start(nats: &Nats, retry_in: Duration, works: &Arc<AtomicBool>) -> Result<Self> {
        let retry =
            RetryPolicy { initial: retry_in, max: retry_in, attempts_max: 2, ..RetryPolicy::default() };
        let router = Router::new().on("placed", handle).with_state(Arc::clone(works));
        let consumer = Consumer::builder(connect(nats, "stock", INBOX_PREFIX).await?, "ORDERS", "stock")
            .ordered()
            .lease(Duration::from_secs(1))
            .filter_subjects(["orders.order.*"])
            .retry(retry)
            .build(MemoryInbox::new(), router)
            .await?;
        let stop = CancellationToken::new();
        let token = stop.clone();
        Ok(Self { stop, task: tokio::spawn(async move { consumer.run(token).await }) })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await??)
    }
}

/// Runs an instance until it has written down a failed attempt at a message of `stream`, and ends it before the next.
async fn fail_once(nats: &Nats, works: &Arc<AtomicBool>, stream: &str) -> Result<()> {
    let instance = Running::start(nats, Duration::from_secs(1), works).await?;
    let admin = jetstream::new(nats.client().await?);
    let attempts = format!("$KV.outbox-consumers.attempts.{stream}.>");
    eventually("a failed attempt to be recorded", PATIENCE, async || {
        let bucket = admin.get_stream("KV_outbox-consumers").await?;
        Ok(bucket.get_last_raw_message_by_subject(&attempts).await.ok().map(drop))
    })
    .await
    .with_context(|| nats.log())?;
    instance.stop().await
}

#[tokio::test]
async fn the_permissions_of_a_consumer_suffice_and_none_is_idle() -> Result<()> {
    let nats = server("")?.start().await?;
    let admin = jetstream::new(nats.client().await?);
    admin
        .create_stream(stream::Config {
            name: "ORDERS".to_owned(),
            subjects: vec!["orders.*.*".to_owned()],
            ..stream::Config::default()
        })
        .await?;
    let bucket = object_store::Config { bucket: "OUTBOX_PAYLOADS".to_owned(), ..Default::default() };
    // Large enough for the server to ask whether the consumer keeps up.
    admin.create_object_store(bucket).await?.put("large", &mut &*vec![b'x'; 3 << 20]).await?;
    let recorder = Recorder::start(&nats, INBOX_PREFIX).await?;
    let works = Arc::new(AtomicBool::new(false));
    publish(&nats, "a").await?;
    publish(&nats, "b").await?;
    // An instance that ends between two attempts leaves the next one to look up what it wrote down.
    fail_once(&nats, &works, "ORDERS").await?;
    let quick = Running::start(&nats, Duration::from_millis(50), &works).await?;

    let operator = Recorder::start(&nats, OPERATOR_PREFIX).await?;
    let letters =
        DeadLetters::open(connect(&nats, "stock-letters", OPERATOR_PREFIX).await?, "ORDERS", "stock").await?;
    let found = eventually("two dead letters", PATIENCE, async || {
        let found = letters.list(0, 10).await?;
        Ok((found.len() == 2).then_some(found))
    })
    .await?;
    quick.stop().await?;
    let [first, second] = &*found else { bail!("{found:?}") };
    letters.replay(first.position).await?;
    letters.discard(second.position).await?;
    operator.expect_use("STOCK_LETTERS").await?;

    fail_once(&nats, &works, "DEAD_LETTERS").await?;
    works.store(true, Ordering::SeqCst);
    let quick = Running::start(&nats, Duration::from_millis(50), &works).await?;
    let replays = admin.get_stream("DEAD_LETTERS").await?;
    eventually("the replayed message to be handled", PATIENCE, async || {
        let info = replays.consumer_info("ORDERS-stock").await?;
        Ok((info.num_pending == 0 && info.num_ack_pending == 0).then_some(()))
    })
    .await?;
    quick.stop().await?;
    recorder.expect_use("STOCK").await?;
    ensure!(!nats.log().contains("Violation"), "{}", nats.log());
    Ok(())
}
