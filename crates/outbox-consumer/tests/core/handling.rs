//! Handlers: success, failure in all its forms, types without a handler.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use outbox_consumer::{
    Body, ConsumerErrorKind, Context, Event, FromRef, Handler, HandlerError, PermanentExt, Router, State, Tx,
    Unhandled,
};
use serde::Deserialize;
use testbed::eventually;

use crate::support::{PATIENCE, TestInbox, World, quick};

#[derive(Deserialize)]
struct Placed {
    quantity: u32,
}

#[derive(Clone, Default)]
struct Calls(Arc<AtomicU32>);

impl Calls {
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Default)]
struct Shop {
    calls: Calls,
}

impl FromRef<Shop> for Calls {
    fn from_ref(shop: &Shop) -> Self {
        shop.calls.clone()
    }
}

async fn reserve(
    Event(order): Event<Placed>,
    State(calls): State<Calls>,
    mut tx: Tx<TestInbox>,
    context: Context,
) -> Result<(), HandlerError> {
    calls.next();
    assert_eq!(context.header("x-note"), Some("from the test"));
    assert_eq!(context.partition_key(), Some("k"));
    tx.effect(format!("{}:{}:{}", context.message_id(), order.quantity, context.attempt()));
    Ok(())
}

#[tokio::test]
async fn messages_are_handled_once_and_acknowledged() -> Result<()> {
    let world = World::new().await?;
    for number in 0..50 {
        world.publish(&format!("id {number}"), "placed", "k", &format!("{{\"quantity\": {number}}}")).await?;
    }
    let shop = Shop::default();
    let running =
        world.start(world.builder(), Router::new().on("placed", reserve).with_state(shop.clone())).await?;
    let mut effects = world.until_effects(50).await?;
    effects.sort();
    let mut expected: Vec<_> = (0..50).map(|number| format!("id {number}:{number}:1")).collect();
    expected.sort();
    assert_eq!(effects, expected);
    world.until_settled().await?;
    running.stop().await?;
    assert_eq!(shop.calls.count(), 50);
    Ok(())
}

#[tokio::test]
async fn a_failure_is_tried_again_and_counted() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let calls = Calls::default();
    let handler = async |State(calls): State<Calls>, mut tx: Tx<TestInbox>, context: Context| {
        tx.effect(format!("attempt {}", context.attempt()));
        if calls.next() < 3 { Err(std::io::Error::other("not yet")) } else { Ok(()) }
    };
    let running =
        world.start(world.builder(), Router::new().on("placed", handler).with_state(calls.clone())).await?;
    assert_eq!(world.until_effects(1).await?, ["attempt 3"], "what failed left nothing behind");
    world.until_settled().await?;
    running.stop().await?;
    assert_eq!(calls.count(), 3);
    Ok(())
}

#[tokio::test]
async fn after_the_last_attempt_a_message_is_a_dead_letter_with_its_history() -> Result<()> {
    let world = World::new().await?;
    let sequence = world.publish("a", "placed", "k", "{\"the\": \"body\"}").await?;
    let handler = async |context: Context| -> Result<(), HandlerError> {
        Err(HandlerError::transient(format!("failure {}", context.attempt())))
    };
    let running = world.start(world.builder(), Router::new().on("placed", handler)).await?;
    let letters = world.until_letters(1).await?;
    world.until_settled().await?;
    running.stop().await?;
    let letter = &letters[0];
    assert_eq!(letter.reason, "given up after 3 attempts: failure 3");
    assert_eq!(
        (letter.subject.as_str(), letter.stream.as_str(), letter.sequence),
        ("orders.placed", "ORDERS", sequence)
    );
    assert_eq!((letter.consumer.as_str(), letter.message_id.as_deref()), ("stock", Some("a")));
    assert_eq!(letter.body.as_ref(), b"{\"the\": \"body\"}");
    assert_eq!(letter.headers.get("Nats-Msg-Id").map(|value| value.as_str()), Some("a"));
    assert_eq!(letter.headers.get("x-note").map(|value| value.as_str()), Some("from the test"));
    let errors: Vec<_> =
        letter.attempts.iter().map(|attempt| (attempt.number, attempt.error.as_str())).collect();
    assert_eq!(errors, [(1, "failure 1"), (2, "failure 2"), (3, "failure 3")]);
    assert!(letter.attempts.iter().all(|attempt| attempt.at.ends_with('Z')));
    Ok(())
}

#[tokio::test]
async fn a_permanent_failure_is_a_dead_letter_at_once() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{\"quantity\": \"many\"}").await?;
    world.publish("b", "cancelled", "k", "seven").await?;
    let parse = async |Body(body): Body| -> Result<(), HandlerError> {
        let text = std::str::from_utf8(&body).permanent()?;
        text.parse::<u32>().permanent()?;
        Ok(())
    };
    let router = Router::new().on("placed", reserve).on("cancelled", parse).with_state(Shop::default());
    let running = world.start(world.builder(), router).await?;
    let letters = world.until_letters(2).await?;
    world.until_settled().await?;
    running.stop().await?;
    let reason =
        |id: &str| letters.iter().find(|letter| letter.message_id.as_deref() == Some(id)).map(|l| &l.reason);
    assert!(
        reason("a").is_some_and(|reason| reason.contains("the payload is not a") && !reason.contains("many"))
    );
    assert_eq!(reason("b").map(String::as_str), Some("invalid digit found in string"));
    assert!(letters.iter().all(|letter| letter.attempts.len() == 1));
    Ok(())
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    world.publish("b", "cancelled", "k", "{}").await?;
    let panics = async |mut tx: Tx<TestInbox>, context: Context| {
        tx.effect("never");
        assert!(context.attempt() == 0, "out of {}", "paper");
    };
    let works = async |mut tx: Tx<TestInbox>| tx.effect("b");
    let router = Router::new().on("placed", panics).on("cancelled", works);
    let running = world.start(world.builder(), router).await?;
    let letters = world.until_letters(1).await?;
    assert_eq!(world.until_effects(1).await?, ["b"]);
    world.until_settled().await?;
    running.stop().await?;
    assert_eq!(letters[0].attempts.len(), 3);
    assert_eq!(letters[0].attempts[0].error, "the handler panicked: out of paper");
    Ok(())
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_cancelled() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let calls = Calls::default();
    let handler = async |State(calls): State<Calls>, mut tx: Tx<TestInbox>, context: Context| {
        let calls_so_far = calls.next();
        tx.effect(format!("call {calls_so_far}"));
        if calls_so_far == 1 {
            tokio::time::sleep_until(context.deadline() + PATIENCE).await;
        }
    };
    let builder = world.builder().handler_timeout(Duration::from_millis(300));
    let running = world.start(builder, Router::new().on("placed", handler).with_state(calls)).await?;
    assert_eq!(world.until_effects(1).await?, ["call 2"]);
    running.stop().await
}

#[tokio::test]
async fn a_long_handler_keeps_its_message() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let calls = Calls::default();
    let handler = async |State(calls): State<Calls>, mut tx: Tx<TestInbox>| {
        calls.next();
        // More than three times the ack wait.
        tokio::time::sleep(Duration::from_millis(3500)).await;
        tx.effect("done");
    };
    let builder = world.builder().ack_wait(Duration::from_secs(1));
    let running = world.start(builder, Router::new().on("placed", handler).with_state(calls.clone())).await?;
    world.until_effects(1).await?;
    world.until_settled().await?;
    let info = world.context.get_stream("ORDERS").await?.consumer_info("stock").await?;
    assert_eq!(info.delivered.consumer_sequence, 1, "delivered once");
    assert_eq!(calls.count(), 1);
    running.stop().await
}

#[tokio::test]
async fn types_without_a_handler() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "unknown", "k", "{}").await?;
    let router = || Router::<TestInbox>::new().on("placed", async || {});
    let running = world.start(world.builder(), router().unhandled(Unhandled::Ignore)).await?;
    world.until_settled().await?;
    running.stop().await?;
    assert_eq!(world.letters().await?.list(0, 10).await?.len(), 0);

    world.publish("b", "unknown", "k", "{}").await?;
    let running = world.start(world.builder(), router().unhandled(Unhandled::Fail)).await?;
    let error = running.ended().await.unwrap_err();
    let error = error.downcast::<outbox_consumer::ConsumerError>()?;
    assert_eq!(error.kind(), ConsumerErrorKind::Unhandled);
    assert!(error.to_string().contains("\"unknown\""), "{error}");

    let running = world.start(world.builder(), router().unhandled(Unhandled::DeadLetter)).await?;
    let letters = world.until_letters(1).await?;
    assert_eq!(
        letters[0].message_id.as_deref(),
        Some("b"),
        "it stayed in the stream when the consumer stopped"
    );
    assert_eq!(letters[0].reason, "no handler for its event type");
    world.until_settled().await?;
    running.stop().await
}

#[tokio::test]
async fn a_message_that_is_no_event_is_a_dead_letter() -> Result<()> {
    let world = World::new().await?;
    world.context.publish("orders.raw", "?".into()).await?.await?;
    let running = world.start(world.builder(), Router::new().on("placed", async || {})).await?;
    let letters = world.until_letters(1).await?;
    assert_eq!(letters[0].reason, "the message is not an event: it has no header ce-id");
    running.stop().await
}

/// A layer that counts the calls through it.
#[derive(Clone)]
struct Counting(Calls);

#[derive(Clone)]
struct Counted<S>(Calls, S);

impl<S> tower_layer::Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted(self.0.clone(), inner)
    }
}

impl<S: tower_service::Service<R>, R> tower_service::Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, task: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.1.poll_ready(task)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.next();
        self.1.call(request)
    }
}

#[tokio::test]
async fn layers_wrap_a_handler() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{\"quantity\": 1}").await?;
    let (shop, through) = (Shop::default(), Calls::default());
    let handler = reserve.layer(Counting(through.clone())).layer(Counting(through.clone()));
    let running = world.start(world.builder(), Router::new().on("placed", handler).with_state(shop)).await?;
    world.until_effects(1).await?;
    running.stop().await?;
    assert_eq!(through.count(), 2);
    Ok(())
}

#[tokio::test]
async fn a_message_that_kills_the_process_every_time_is_given_up() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let policy = outbox_consumer::RetryPolicy { deliveries_max: 2, ..quick() };
    for _ in 0..2 {
        let calls = Calls::default();
        let handler = async |State(calls): State<Calls>| {
            calls.next();
            std::future::pending::<()>().await;
        };
        let router = Router::new().on("placed", handler).with_state(calls.clone());
        let running =
            world.start(world.builder().retry(policy).ack_wait(Duration::from_secs(1)), router).await?;
        eventually("the handler's call", PATIENCE, async || Ok((calls.count() > 0).then_some(()))).await?;
        running.crash().await;
    }
    let running = world
        .start(
            world.builder().retry(policy).ack_wait(Duration::from_secs(1)),
            Router::new().on("placed", async || {}),
        )
        .await?;
    let letters = world.until_letters(1).await?;
    assert_eq!(letters[0].reason, "delivered 3 times without coming to an end");
    running.stop().await
}
