//! Keys that are parked behind a dead letter, and how they go on.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use outbox_consumer::{ConsumerBuilder, Context, DeadLetter, FailingKeys, HandlerError, Router, State, Tx};
use testbed::eventually;

use crate::support::{PATIENCE, TestInbox, World};

type Works = Arc<AtomicBool>;

/// Refuses the first message of the stream until it works.
async fn append(
    State(works): State<Works>,
    mut tx: Tx<TestInbox>,
    context: Context,
) -> Result<(), HandlerError> {
    if context.sequence() == 1 && !works.load(Ordering::SeqCst) {
        return Err(HandlerError::permanent("refused"));
    }
    tx.effect(format!("{}:{}", context.partition_key().unwrap_or_default(), context.sequence()));
    Ok(())
}

fn builder(world: &World) -> ConsumerBuilder<TestInbox> {
    world.builder().ordered().failing_keys(FailingKeys::Park)
}

fn router(works: &Works) -> outbox_consumer::Routes<TestInbox> {
    Router::new().on("placed", append).with_state(Arc::clone(works))
}

/// "bad" at the odd sequences, "good" at the even ones.
async fn publish(world: &World, count: usize) -> Result<()> {
    for number in 0..count {
        let key = if number % 2 == 0 { "bad" } else { "good" };
        world.publish(&number.to_string(), "placed", key, "{}").await?;
    }
    Ok(())
}

fn sequences(letters: &[DeadLetter]) -> Vec<u64> {
    letters.iter().map(|letter| letter.sequence).collect()
}

async fn until_no_letters(world: &World) -> Result<()> {
    let stream = world.context.get_stream("DEAD_LETTERS").await?;
    eventually("no letters", PATIENCE, async || {
        Ok((stream.get_info().await?.state.messages == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_parked_key_goes_on_in_order_when_it_is_replayed() -> Result<()> {
    let world = World::new().await?;
    publish(&world, 6).await?;
    let works = Works::default();
    let running = world.start(builder(&world), router(&works)).await?;
    let letters = world.until_letters(3).await?;
    assert_eq!(sequences(&letters), [1, 3, 5]);
    assert_eq!(letters[0].reason, "refused");
    assert_eq!(letters[1].reason, "its key is parked: message 1 is a dead letter");
    assert_eq!((letters[0].attempts.len(), letters[1].attempts.len()), (1, 0));
    world.until_settled().await?;
    assert_eq!(world.inbox.effects(), ["good:2", "good:4", "good:6"]);

    works.store(true, Ordering::SeqCst);
    assert_eq!(world.letters().await?.replay_key("good").await?, 0);
    assert_eq!(world.letters().await?.replay_key("bad").await?, 3);
    // It arrives while the others are on their way back, and waits for them.
    world.publish("late", "placed", "bad", "{}").await?;
    let effects = world.until_effects(7).await?;
    assert_eq!(effects[3..], ["bad:1", "bad:3", "bad:5", "bad:7"]);
    until_no_letters(&world).await?;
    world.until_settled().await?;
    running.stop().await
}

#[tokio::test]
async fn what_fails_again_stays_in_front_of_its_key() -> Result<()> {
    let world = World::new().await?;
    publish(&world, 6).await?;
    let works = Works::default();
    let running = world.start(builder(&world), router(&works)).await?;
    world.until_letters(3).await?;
    let letters = world.letters().await?;
    assert_eq!(letters.replay_key("bad").await?, 3);
    // Later positions show that they came back.
    let again = eventually("three letters again", PATIENCE, async || {
        let found = letters.list(3, 10).await?;
        Ok((found.len() == 3).then_some(found))
    })
    .await?;
    let mut found = sequences(&again);
    found.sort_unstable();
    assert_eq!(found, [1, 3, 5]);
    assert_eq!(world.inbox.effects(), ["good:2", "good:4", "good:6"]);
    running.stop().await?;

    // What is parked is parked for the next instance too.
    world.publish("late", "placed", "bad", "{}").await?;
    let running = world.start(builder(&world), router(&works)).await?;
    let all = world.until_letters(4).await?;
    assert!(sequences(&all).contains(&7), "{:?}", sequences(&all));

    // Discarding the letter in front lets those behind it go on, without it.
    let first = all.iter().find(|letter| letter.sequence == 1).unwrap();
    letters.discard(first.position).await?;
    assert_eq!(letters.replay_key("bad").await?, 3);
    let effects = world.until_effects(6).await?;
    assert_eq!(effects[3..], ["bad:3", "bad:5", "bad:7"]);
    until_no_letters(&world).await?;
    world.publish("later", "placed", "bad", "{}").await?;
    assert_eq!(world.until_effects(7).await?.last().map(String::as_str), Some("bad:8"));
    running.stop().await
}
