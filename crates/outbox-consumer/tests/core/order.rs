//! Ordered consumers: one message of a key at a time, in the order of the stream, whatever fails.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use outbox_consumer::{Context, HandlerError, Router, State, Tx};
use testbed::eventually;

use crate::support::{PATIENCE, TestInbox, World};

/// The keys that are being handled, to see that none is handled twice at a time.
#[derive(Clone, Default)]
pub(crate) struct Busy(Arc<Mutex<Keys>>);

#[derive(Default)]
struct Keys {
    busy: BTreeSet<String>,
    /// Found in a handler, whose panic would only be a failed attempt.
    twice: Option<String>,
}

/// Ends also when its handler is cut off.
struct BusyWith(Busy, String);

impl Busy {
    fn with(&self, key: &str) -> BusyWith {
        let mut keys = self.0.lock().unwrap();
        if !keys.busy.insert(key.to_owned()) {
            keys.twice = Some(key.to_owned());
        }
        drop(keys);
        BusyWith(self.clone(), key.to_owned())
    }

    pub(crate) fn assert_one_at_a_time(&self) {
        let keys = self.0.lock().unwrap();
        assert_eq!(keys.twice, None, "two messages of a key at a time");
    }
}

impl Drop for BusyWith {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().busy.remove(&self.1);
    }
}

pub(crate) async fn append(
    State(busy): State<Busy>,
    mut tx: Tx<TestInbox>,
    context: Context,
) -> Result<(), HandlerError> {
    let key = context.partition_key().unwrap_or_default().to_owned();
    let busy = busy.with(&key);
    tokio::time::sleep(Duration::from_millis(2)).await;
    drop(busy);
    // Every third message fails at first, so that retries stand between the others.
    if context.sequence().is_multiple_of(3) && context.attempt() == 1 {
        return Err(HandlerError::transient("at first"));
    }
    tx.effect(format!("{key}:{:05}", context.sequence()));
    Ok(())
}

pub(crate) fn assert_order_of_keys(effects: &[String]) {
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
    let busy = Busy::default();
    let router = Router::new().on("placed", append).with_state(busy.clone());
    let running = world.start(world.builder().ordered().concurrency(8), router).await?;
    let effects = world.until_effects(120).await?;
    assert_order_of_keys(&effects);
    busy.assert_one_at_a_time();
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

    let busy = Busy::default();
    let router = Router::new().on("placed", append).with_state(busy.clone());
    let running = world.start(world.builder().ordered().concurrency(8), router).await?;
    let effects = world.until_effects(60).await?;
    assert_order_of_keys(&effects);
    busy.assert_one_at_a_time();
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
    let busy = Busy::default();
    let router = Router::new().on("placed", append).with_state(busy.clone());
    let running = world.start(world.builder().ordered().concurrency(4), router).await?;
    for count in [60, 140] {
        world.until_effects(count).await?;
        world.server.kill().await?;
        world.server.start().await?;
    }
    let effects = world.until_effects(400).await?;
    assert_order_of_keys(&effects);
    busy.assert_one_at_a_time();
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
    world.until_effects(250).await?;
    let third = start().await?;
    second.stop().await?;
    let effects = world.until_effects(400).await?;
    assert_order_of_keys(&effects);
    busy.assert_one_at_a_time();
    assert_eq!(effects.len(), 400);
    world.until_settled().await?;
    third.stop().await
}
