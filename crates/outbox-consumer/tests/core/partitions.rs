//! Ordered consumers whose instances share the work by partitions.

use std::{
    collections::BTreeSet,
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use async_nats::jetstream::stream::{Config, SubjectTransform};
use outbox_consumer::{
    ConsumerBuilder, ConsumerErrorKind, Context, FromRef, HandlerError, Router, State, Tx,
};
use outbox_event::partition_of;
use testbed::eventually;

use crate::{
    order::{self, Busy, assert_order_of_keys},
    support::{PATIENCE, Running, TestInbox, World},
};

const PARTITIONS: u16 = 8;

#[derive(Clone, Default)]
struct Instance {
    busy: Busy,
    handled: Arc<AtomicUsize>,
}

impl FromRef<Instance> for Busy {
    fn from_ref(instance: &Instance) -> Self {
        instance.busy.clone()
    }
}

async fn append(
    State(instance): State<Instance>,
    tx: Tx<TestInbox>,
    context: Context,
) -> Result<(), HandlerError> {
    order::append(State(instance.busy), tx, context).await?;
    instance.handled.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

fn builder(world: &World) -> ConsumerBuilder<TestInbox> {
    world.builder().ordered().partitions(PARTITIONS, ["orders.{partition}.*"]).concurrency(4)
}

async fn start(world: &World, busy: &Busy) -> Result<(Running, Arc<AtomicUsize>)> {
    let instance = Instance { busy: busy.clone(), ..Instance::default() };
    let handled = Arc::clone(&instance.handled);
    let router = Router::new().on("placed", append).with_state(instance);
    Ok((world.start(builder(world), router).await?, handled))
}

async fn publish(world: &World, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        let key = format!("key-{}", number % 23);
        let partition = partition_of(&key, NonZeroU16::new(PARTITIONS).unwrap());
        let subject = format!("orders.{partition}.placed");
        world.publish_at(&subject, &number.to_string(), "placed", &key, "{}").await?;
    }
    Ok(())
}

async fn until_handled(handled: &AtomicUsize, count: usize) -> Result<()> {
    eventually("an instance to work", PATIENCE, async || {
        Ok((handled.load(Ordering::SeqCst) >= count).then_some(()))
    })
    .await
}

#[tokio::test]
async fn instances_share_the_partitions_and_take_over() -> Result<()> {
    let world = World::new().await?;
    let busy = Busy::default();
    publish(&world, 0..400).await?;
    let (first, by_first) = start(&world, &busy).await?;
    until_handled(&by_first, 50).await?;
    let (second, by_second) = start(&world, &busy).await?;
    let (third, by_third) = start(&world, &busy).await?;
    publish(&world, 400..700).await?;
    for handled in [&by_second, &by_third] {
        until_handled(handled, 10).await?;
    }
    publish(&world, 700..1000).await?;
    second.crash().await;
    publish(&world, 1000..1200).await?;
    third.stop().await?;
    let effects = world.until_effects(1200).await?;
    assert_order_of_keys(&effects);
    busy.assert_one_at_a_time();
    assert_eq!(effects.len(), 1200);
    assert_eq!(effects.iter().collect::<BTreeSet<_>>().len(), 1200, "none twice");
    first.stop().await
}

#[tokio::test]
async fn a_replayed_message_goes_to_the_partition_of_its_key() -> Result<()> {
    let world = World::new().await?;
    let works = Arc::new(AtomicBool::new(false));
    let router = || {
        let handler =
            async |State(works): State<Arc<AtomicBool>>, mut tx: Tx<TestInbox>, context: Context| {
                if !works.load(Ordering::SeqCst) {
                    return Err(HandlerError::permanent("not yet"));
                }
                tx.effect(context.message_id());
                Ok(())
            };
        Router::new().on("placed", handler).with_state(Arc::clone(&works))
    };
    let first = world.start(builder(&world), router()).await?;
    let second = world.start(builder(&world), router()).await?;
    publish(&world, 0..23).await?;
    let letters = world.until_letters(23).await?;
    works.store(true, Ordering::SeqCst);
    let api = world.letters().await?;
    for letter in letters {
        api.replay(letter.position).await?;
    }
    assert_eq!(world.until_effects(23).await?.len(), 23);
    first.stop().await?;
    second.stop().await
}

#[tokio::test]
async fn the_server_computes_the_same_partitions() -> Result<()> {
    let world = World::new().await?;
    let config = Config {
        name: "PARTITIONED".to_owned(),
        subjects: vec!["in.*".to_owned()],
        subject_transform: Some(SubjectTransform {
            source: "in.*".to_owned(),
            destination: "out.{{partition(7,1)}}.{{wildcard(1)}}".to_owned(),
        }),
        ..Config::default()
    };
    let stream = world.context.create_stream(config).await?;
    for number in 0..100 {
        let key = format!("order-{number}");
        let stored = world.context.publish(format!("in.{key}"), "".into()).await?.await?;
        let subject = stream.get_raw_message(stored.sequence).await?.subject;
        let partition = partition_of(&key, NonZeroU16::new(7).unwrap());
        assert_eq!(subject.as_str(), format!("out.{partition}.{key}"));
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_with_more_partitions_is_refused() -> Result<()> {
    let world = World::new().await?;
    world.publish_at("orders.11.placed", "a", "placed", "k", "{}").await?;
    let router = Router::new().on("placed", async || {});
    let error = builder(&world).build(world.inbox.clone(), router).await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Settings);
    let text = error.to_string();
    assert!(text.contains("orders.11.*") && text.contains("8 partitions"), "{text}");
    Ok(())
}

#[tokio::test]
async fn instances_with_another_number_of_partitions_wait() -> Result<()> {
    let world = World::new().await?;
    let (first, by_first) = start(&world, &Busy::default()).await?;
    world.publish_at("orders.0.placed", "a", "placed", "k", "{}").await?;
    until_handled(&by_first, 1).await?;
    let other = world.builder().ordered().partitions(2, ["orders.{partition}.*"]);
    let instance = Instance::default();
    let by_second = Arc::clone(&instance.handled);
    let second = world.start(other, Router::new().on("placed", append).with_state(instance)).await?;
    first.stop().await?;
    world.publish_at("orders.0.placed", "b", "placed", "k", "{}").await?;
    until_handled(&by_second, 1).await?;
    second.stop().await
}
