//! Ordered consumers: one message of a key at a time, in the order of the stream, whatever fails.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use outbox_consumer::{Context, HandlerError, Router, State, Tx};
use testbed::eventually;

use crate::support::{PATIENCE, TestInbox, World};

/// The keys that are being handled, to see that none is handled twice at a time.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<HashMap<String, u32>>>);

async fn append(
    State(busy): State<Busy>,
    mut tx: Tx<TestInbox>,
    context: Context,
) -> Result<(), HandlerError> {
    let key = context.partition_key().unwrap_or_default().to_owned();
    {
        let mut busy = busy.0.lock().unwrap();
        let count = busy.entry(key.clone()).or_default();
        *count += 1;
        assert_eq!(*count, 1, "two messages of {key} at a time");
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    *busy.0.lock().unwrap().get_mut(&key).unwrap() -= 1;
    // Every third message fails at first, so that retries stand between the others.
    if context.sequence().is_multiple_of(3) && context.attempt() == 1 {
        return Err(HandlerError::transient("at first"));
    }
    tx.effect(format!("{key}:{:05}", context.sequence()));
    Ok(())
}

fn assert_order_of_keys(effects: &[String]) {
    let mut last = HashMap::new();
    for effect in effects {
        let (key, sequence) = effect.split_once(':').unwrap();
        let before = last.insert(key.to_owned(), sequence.to_owned());
        assert!(before.is_none_or(|before| before.as_str() < sequence), "{effect} came late in {effects:?}");
    }
}

async fn publish_many(world: &World, count: usize) -> Result<()> {
    for number in 0..count {
        world.publish(&format!("{number}"), "placed", &format!("key-{}", number % 7), "{}").await?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_keep_their_order_across_retries() -> Result<()> {
    let world = World::new().await?;
    publish_many(&world, 120).await?;
    let router = Router::new().on("placed", append).with_state(Busy::default());
    let running = world.start(world.builder().ordered().concurrency(8), router).await?;
    let effects = world.until_effects(120).await?;
    assert_order_of_keys(&effects);
    assert_eq!(effects.len(), 120);
    world.until_settled().await?;
    running.stop().await
}

#[tokio::test]
async fn other_keys_go_on_while_one_fails() -> Result<()> {
    let world = World::new().await?;
    for number in 0..20 {
        let key = if number % 2 == 0 { "bad" } else { "good" };
        world.publish(&format!("{number}"), "placed", key, "{}").await?;
    }
    let handler = async |mut tx: Tx<TestInbox>, context: Context| {
        if context.partition_key() == Some("bad") && context.sequence() == 1 {
            return Err(HandlerError::transient("bad").retry_after(Duration::from_millis(800)));
        }
        tx.effect(format!("{}:{:05}", context.partition_key().unwrap_or_default(), context.sequence()));
        Ok(())
    };
    let running = world.start(world.builder().ordered(), Router::new().on("placed", handler)).await?;
    let effects = world.until_effects(10).await?;
    assert!(effects.iter().all(|effect| effect.starts_with("good")), "{effects:?}");
    let effects = world.until_effects(19).await?;
    assert_order_of_keys(&effects);
    assert_eq!(world.until_letters(1).await?[0].sequence, 1, "after it was given up, its key goes on");
    running.stop().await
}

#[tokio::test]
async fn what_a_crash_left_comes_before_what_is_new() -> Result<()> {
    let world = World::new().await?;
    publish_many(&world, 30).await?;
    let stuck = Router::new().on("placed", async || std::future::pending::<()>().await);
    let running = world.start(world.builder().ordered(), stuck).await?;
    let stream = world.context.get_stream("ORDERS").await?;
    eventually("messages in hand", PATIENCE, async || {
        Ok((stream.consumer_info("stock").await?.num_ack_pending == 30).then_some(()))
    })
    .await?;
    running.crash().await;
    publish_many_more(&world).await?;

    let router = Router::new().on("placed", append).with_state(Busy::default());
    let running = world.start(world.builder().ordered().concurrency(8), router).await?;
    let effects = world.until_effects(60).await?;
    assert_order_of_keys(&effects);
    running.stop().await
}

async fn publish_many_more(world: &World) -> Result<()> {
    for number in 30..60 {
        world.publish(&format!("{number}"), "placed", &format!("key-{}", number % 7), "{}").await?;
    }
    Ok(())
}

#[tokio::test]
async fn order_holds_while_nats_is_restarted() -> Result<()> {
    let mut world = World::new().await?;
    publish_many(&world, 400).await?;
    let router = Router::new().on("placed", append).with_state(Busy::default());
    let running = world.start(world.builder().ordered().concurrency(4), router).await?;
    for count in [60, 140] {
        world.until_effects(count).await?;
        world.server.kill().await?;
        world.server.start().await?;
    }
    let effects = world.until_effects(400).await?;
    assert_order_of_keys(&effects);
    assert_eq!(effects.len(), 400, "nothing twice");
    world.until_settled().await?;
    running.stop().await
}

#[tokio::test]
async fn of_two_instances_one_works_and_the_other_takes_over() -> Result<()> {
    let world = World::new().await?;
    publish_many(&world, 400).await?;
    // Both instances share `Busy`: a key that both handle at a time is found.
    let busy = Busy::default();
    let start = async || {
        let router = Router::new().on("placed", append).with_state(busy.clone());
        world.start(world.builder().ordered().concurrency(4), router).await
    };
    let first = start().await?;
    world.until_effects(50).await?;
    let second = start().await?;
    world.until_effects(100).await?;
    first.crash().await;
    // A crash in the midst of a handler leaves its key marked as busy here.
    busy.0.lock().unwrap().clear();
    world.until_effects(250).await?;
    let third = start().await?;
    second.stop().await?;
    let effects = world.until_effects(400).await?;
    assert_order_of_keys(&effects);
    assert_eq!(effects.len(), 400);
    world.until_settled().await?;
    third.stop().await
}
