//! Dead letters: once only, listed, replayed, dropped.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::StreamExt;
use outbox_consumer::{ConsumerErrorKind, Context, HandlerError, PermanentExt, Router, State, Tx};

use crate::support::{TestInbox, World};

async fn refuse() -> Result<(), HandlerError> {
    Err("refused").permanent()
}

#[tokio::test]
async fn a_crash_between_storing_and_terminating_leaves_one_letter() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let running = world.start(world.builder(), Router::new().on("placed", refuse)).await?;
    let before = world.until_letters(1).await?;
    world.until_settled().await?;
    running.stop().await?;
    // The crash: the letter is stored, and the original is delivered again, as it would be if never terminated.
    let stream = world.context.get_stream("ORDERS").await?;
    stream.delete_consumer("stock").await?;
    let config = pull::Config {
        durable_name: Some("stock".to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: std::time::Duration::from_secs(2),
        max_deliver: -1,
        max_ack_pending: 10_000,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let lost = consumer.messages().await?.next().await.transpose()?;
    assert!(lost.is_some_and(|message| message.info().is_ok_and(|info| info.delivered == 1)));

    let handled = Arc::new(AtomicBool::new(false));
    let handler = async |State(handled): State<Arc<AtomicBool>>| handled.store(true, Ordering::SeqCst);
    let router = Router::new().on("placed", handler).with_state(Arc::clone(&handled));
    let running = world.start(world.builder(), router).await?;
    world.until_settled().await?;
    running.stop().await?;
    let after = world.letters().await?.list(0, 10).await?;
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].position, before[0].position);
    assert!(!handled.load(Ordering::SeqCst), "a dead letter is handled only when it is replayed");
    Ok(())
}

#[tokio::test]
async fn a_second_delivery_to_the_dead_letters_stores_nothing() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let running = world.start(world.builder(), Router::new().on("placed", refuse)).await?;
    world.until_letters(1).await?;
    world.until_settled().await?;
    running.stop().await?;
    // A first delivery is not looked up, so this goes all the way to the dead letters again.
    world.context.get_stream("ORDERS").await?.delete_consumer("stock").await?;
    let running = world.start(world.builder(), Router::new().on("placed", refuse)).await?;
    world.until_settled().await?;
    running.stop().await?;
    assert_eq!(world.letters().await?.list(0, 10).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn letters_are_listed_replayed_and_dropped() -> Result<()> {
    let world = World::new().await?;
    for id in ["a", "b", "c"] {
        world.publish(id, "placed", "k", "{}").await?;
    }
    let works = Arc::new(AtomicBool::new(false));
    let handler = async |State(works): State<Arc<AtomicBool>>, mut tx: Tx<TestInbox>, context: Context| {
        if !works.load(Ordering::SeqCst) {
            return Err(HandlerError::permanent("out of order"));
        }
        tx.effect(format!(
            "{} {} {} {} attempt {}",
            context.message_id(),
            context.stream(),
            context.subject(),
            context.sequence(),
            context.attempt()
        ));
        assert_eq!(context.header("x-note"), Some("from the test"));
        assert!(context.header("Outbox-Dead-Reason").is_none());
        Ok(())
    };
    let router = Router::new().on("placed", handler).with_state(Arc::clone(&works));
    let running = world.start(world.builder().concurrency(1), router).await?;
    let letters = world.until_letters(3).await?;
    let api = world.letters().await?;
    assert_eq!(api.list(0, 2).await?.len(), 2);
    assert_eq!(api.list(letters[1].position, 2).await?[0].position, letters[2].position);

    // Replayed too early it fails again, and is a dead letter again.
    api.replay(letters[0].position).await?;
    let again = testbed::eventually("the letter again", crate::support::PATIENCE, async || {
        let found = api.list(letters[2].position, 1).await?;
        Ok(found.into_iter().next())
    })
    .await?;
    assert_eq!((again.sequence, again.message_id.as_deref()), (1, Some("a")));

    works.store(true, Ordering::SeqCst);
    api.replay(again.position).await?;
    assert_eq!(world.until_effects(1).await?, ["a ORDERS orders.placed 1 attempt 1"]);
    api.discard(letters[1].position).await?;
    let left = api.list(0, 10).await?;
    assert_eq!(left.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [3]);
    let missing = api.replay(letters[1].position).await.unwrap_err();
    assert_eq!(missing.kind(), ConsumerErrorKind::NoSuchLetter);

    // What was replayed is gone from the stream of the dead letters, once handled.
    let stream = world.context.get_stream("DEAD_LETTERS").await?;
    testbed::eventually("one message", crate::support::PATIENCE, async || {
        Ok((stream.get_info().await?.state.messages == 1).then_some(()))
    })
    .await?;
    running.stop().await
}

#[tokio::test]
async fn only_its_own_consumer_gets_a_replayed_message() -> Result<()> {
    let world = World::new().await?;
    world.publish("a", "placed", "k", "{}").await?;
    let running = world.start(world.builder(), Router::new().on("placed", refuse)).await?;
    let letters = world.until_letters(1).await?;
    let other = outbox_consumer::DeadLetters::open(world.client.clone(), "ORDERS", "other").await?;
    assert!(other.list(0, 10).await?.is_empty());
    assert_eq!(other.replay(letters[0].position).await.unwrap_err().kind(), ConsumerErrorKind::NoSuchLetter);
    running.stop().await
}
