//! What is away comes back: NATS, the inbox, this process.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use outbox_consumer::{Context, HandlerError, Router, State, Tx};
use testbed::eventually;
use tokio::sync::Semaphore;

use crate::support::{PATIENCE, TestInbox, World};

async fn note(mut tx: Tx<TestInbox>, context: Context) {
    tx.effect(format!("{}:{}", context.message_id(), context.attempt()));
}

#[tokio::test]
async fn nats_is_killed_under_load() -> Result<()> {
    let mut world = World::new().await?;
    for number in 0..2000 {
        world.publish(&number.to_string(), "placed", "k", "{}").await?;
    }
    let handler = async |mut tx: Tx<TestInbox>, context: Context| {
        tokio::time::sleep(Duration::from_millis(3)).await;
        tx.effect(context.message_id());
    };
    let running = world.start(world.builder(), Router::new().on("placed", handler)).await?;
    for count in [200, 700] {
        world.until_effects(count).await?;
        world.server.kill().await?;
        eventually("the loss to be noticed", PATIENCE, async || {
            Ok((world.client.connection_state() != async_nats::connection::State::Connected).then_some(()))
        })
        .await?;
        world.server.start().await?;
    }
    let effects = world.until_effects(2000).await?;
    assert_eq!(effects.len(), effects.iter().collect::<HashSet<_>>().len(), "nothing took effect twice");
    world.until_settled().await?;
    running.stop().await?;
    assert_eq!(world.inbox.effects().len(), 2000);
    Ok(())
}

#[tokio::test]
async fn an_outage_of_the_inbox_burns_no_attempt() -> Result<()> {
    let world = World::new().await?;
    let builder = world.builder().concurrency(4).prefetch(4);
    let running = world.start(builder, Router::new().on("placed", note)).await?;
    world.publish("before", "placed", "k", "{}").await?;
    world.until_effects(1).await?;
    world.inbox.set_away(true);
    for number in 0..100 {
        world.publish(&number.to_string(), "placed", "k", "{}").await?;
    }
    // Longer than the ack wait, and than all attempts together would take.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let info = world.context.get_stream("ORDERS").await?.consumer_info("stock").await?;
    assert!(info.num_pending >= 80, "fetching paused: {} are not fetched", info.num_pending);
    assert_eq!(info.num_redelivered, 0, "what was in hand stayed there");
    world.inbox.set_away(false);
    let effects = world.until_effects(101).await?;
    assert!(effects.iter().all(|effect| effect.ends_with(":1")), "{effects:?}");
    assert!(world.letters().await?.list(0, 10).await?.is_empty());
    running.stop().await
}

#[tokio::test]
async fn a_handler_that_fails_since_the_inbox_is_away_burns_no_attempt() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let inbox = world.inbox.clone();
    let handler = async |State(inbox): State<TestInbox>,
                         State(calls): State<Arc<AtomicU32>>,
                         mut tx: Tx<TestInbox>,
                         context: Context| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            inbox.set_away(true);
            return Err(HandlerError::transient("the connection broke"));
        }
        tx.effect(format!("attempt {}", context.attempt()));
        Ok(())
    };
    let calls = Arc::new(AtomicU32::new(0));
    let state = (inbox.clone(), Arc::clone(&calls));
    let router = Router::new()
        .on(
            "placed",
            async move |State(state): State<(TestInbox, Arc<AtomicU32>)>,
                        tx: Tx<TestInbox>,
                        context: Context| {
                handler(State(state.0), State(state.1), tx, context).await
            },
        )
        .with_state(state);
    let running = world.start(world.builder(), router).await?;
    // The call, a look whether the inbox is there, and another one after a pause.
    eventually("the outage to be noticed", PATIENCE, async || {
        Ok((inbox.refusals.load(Ordering::SeqCst) > 1).then_some(()))
    })
    .await?;
    inbox.set_away(false);
    assert_eq!(world.until_effects(1).await?, ["attempt 1"]);
    running.stop().await
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_takes_effect_once() -> Result<()> {
    let world = World::new().await?;
    world.inbox.doubtful_commits.store(3, Ordering::SeqCst);
    for number in 0..10 {
        world.publish(&number.to_string(), "placed", "k", "{}").await?;
    }
    let running = world.start(world.builder(), Router::new().on("placed", note)).await?;
    world.until_settled().await?;
    running.stop().await?;
    let effects = world.inbox.effects();
    assert_eq!(effects.iter().collect::<HashSet<_>>().len(), 10);
    assert_eq!(effects.len(), 10, "{effects:?}");
    Ok(())
}

#[tokio::test]
async fn a_drain_lets_handlers_end_and_gives_the_rest_back() -> Result<()> {
    let world = World::new().await?;
    for number in 0..20 {
        world.publish(&number.to_string(), "placed", "k", "{}").await?;
    }
    #[derive(Clone)]
    struct Handlers {
        begun: Arc<AtomicU32>,
        cancelled: Arc<AtomicU32>,
        may_end: Arc<Semaphore>,
    }
    let handlers =
        Handlers { begun: Arc::default(), cancelled: Arc::default(), may_end: Arc::new(Semaphore::new(0)) };
    let handler = async |State(handlers): State<Handlers>, mut tx: Tx<TestInbox>, context: Context| {
        handlers.begun.fetch_add(1, Ordering::SeqCst);
        context.cancellation().cancelled().await;
        handlers.cancelled.fetch_add(1, Ordering::SeqCst);
        handlers.may_end.acquire().await.unwrap().forget();
        tx.effect(context.message_id());
    };
    let builder = || world.builder().concurrency(4).ack_wait(Duration::from_secs(30));
    let running =
        world.start(builder(), Router::new().on("placed", handler).with_state(handlers.clone())).await?;
    let all = |count: &Arc<AtomicU32>| (count.load(Ordering::SeqCst) == 4).then_some(());
    eventually("four handlers", PATIENCE, async || Ok(all(&handlers.begun))).await?;
    running.shutdown.cancel();
    eventually("four to be told", PATIENCE, async || Ok(all(&handlers.cancelled))).await?;
    assert!(!running.has_ended() && world.inbox.effects().is_empty());
    handlers.may_end.add_permits(4);
    running.stop().await?;
    assert_eq!(world.inbox.effects().len(), 4, "what had begun ended, nothing else began");

    // The rest comes at once, not after the ack wait of 30 s.
    let began = std::time::Instant::now();
    let running = world.start(builder(), Router::new().on("placed", note)).await?;
    world.until_effects(20).await?;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    running.stop().await
}

#[tokio::test]
async fn a_handler_that_does_not_end_is_cut_off_without_an_attempt() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let begun = Arc::new(AtomicU32::new(0));
    let handler = async |State(begun): State<Arc<AtomicU32>>| {
        begun.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    };
    let builder =
        || world.builder().drain_deadline(Duration::from_millis(300)).ack_wait(Duration::from_secs(30));
    let running =
        world.start(builder(), Router::new().on("placed", handler).with_state(Arc::clone(&begun))).await?;
    eventually("the handler", PATIENCE, async || Ok((begun.load(Ordering::SeqCst) == 1).then_some(())))
        .await?;
    running.stop().await?;
    let running = world.start(builder(), Router::new().on("placed", note)).await?;
    assert_eq!(world.until_effects(1).await?, ["a:1"]);
    running.stop().await
}

#[tokio::test]
async fn attempts_are_counted_over_instances() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let policy = outbox_consumer::RetryPolicy {
        initial: Duration::from_millis(500),
        jitter: 0.0,
        ..crate::support::quick()
    };
    let fails = async |context: Context| -> Result<(), HandlerError> {
        Err(HandlerError::transient(format!("in the first instance, attempt {}", context.attempt())))
    };
    let failed = Arc::new(AtomicU32::new(0));
    let counts = async move |State(failed): State<Arc<AtomicU32>>, context: Context| {
        failed.fetch_add(1, Ordering::SeqCst);
        fails(context).await
    };
    let router = Router::new().on("placed", counts).with_state(Arc::clone(&failed));
    let running = world.start(world.builder().retry(policy), router).await?;
    eventually("an attempt", PATIENCE, async || Ok((failed.load(Ordering::SeqCst) == 1).then_some(())))
        .await?;
    running.stop().await?;
    let running = world.start(world.builder().retry(policy), Router::new().on("placed", note)).await?;
    assert_eq!(world.until_effects(1).await?, ["a:2"]);
    running.stop().await
}
