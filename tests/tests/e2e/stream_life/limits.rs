//! Streams that take no more, or not this: limits, subjects, sizes, JetStream off.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Order, STREAM, TABLE, World};
use testbed::NatsBuilder;

use super::{await_complaint, insert_transaction};

fn unlimited(config: &mut Config) {
    config.max_messages = -1;
    config.max_bytes = -1;
    config.max_messages_per_subject = -1;
    config.max_message_size = -1;
    config.discard_new_per_subject = false;
    config.discard = DiscardPolicy::Old;
    config.subjects = vec!["orders.>".to_owned()];
}

/// Makes the stream refuse, sees that the bridge waits and says so, makes room and sees that nothing is missing.
async fn waits(
    world: &World,
    bridge: &mut Bridge,
    limit: impl FnOnce(&mut Config),
    words: &str,
) -> Result<()> {
    world.change_stream(limit).await?;
    let before = world.last_sequence(STREAM).await;
    insert_transaction(world, 150, "placed").await?;
    world.insert(0..3).await?;
    await_complaint(bridge, words).await?;
    ensure!(world.last_sequence(STREAM).await < before + 153, "it has taken all");
    world.change_stream(unlimited).await?;
    world.verify(bridge, Order::Total).await
}

async fn a_stream_takes_no_more(mode: &str) -> Result<()> {
    let mut world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&world.settings().set("publish.mode", mode)).await?;
    world.insert(0..5).await?;
    world.verify(&mut bridge, Order::Total).await?;
    let full = |limit: fn(&mut Config, i64)| {
        move |config: &mut Config, have: i64| {
            config.discard = DiscardPolicy::New;
            limit(config, have);
        }
    };
    let messages = full(|config, have| config.max_messages = have);
    let room = i64::try_from(world.last_sequence(STREAM).await)? + 70;
    waits(&world, &mut bridge, |config| messages(config, room), "maximum messages exceeded").await?;
    let bytes = i64::try_from(world.jetstream.get_stream(STREAM).await?.cached_info().state.bytes)? + 20_000;
    let limit = full(|config, have| config.max_bytes = have);
    waits(&world, &mut bridge, |config| limit(config, bytes), "maximum bytes exceeded").await?;
    let per_subject = full(|config, have| {
        config.max_messages_per_subject = have;
        config.discard_new_per_subject = true;
    });
    let room = i64::try_from(world.last_sequence(STREAM).await)? + 10;
    waits(&world, &mut bridge, |config| per_subject(config, room), "maximum messages per subject exceeded")
        .await?;

    // No stream has the subject.
    let away = |config: &mut Config| config.subjects = vec!["elsewhere.>".to_owned()];
    waits(&world, &mut bridge, away, "do not cover orders.order.placed").await?;

    // The server has no room for anything, not even for a checkpoint.
    world.nats.configure(|nats| nats.jetstream_config("max_file_store: 40KB"))?;
    world.nats.restart().await?;
    insert_transaction(&world, 150, "placed").await?;
    world.insert(0..3).await?;
    await_complaint(&mut bridge, "").await?;
    world.nats.configure(|nats| nats.jetstream_config("max_file_store: 1GB"))?;
    world.nats.restart().await?;
    world.verify(&mut bridge, Order::Total).await?;

    // JetStream is off for a while: the bridge waits for it, also one that starts meanwhile.
    world.nats.configure(NatsBuilder::without_jetstream)?;
    world.nats.restart().await?;
    world.insert(0..3).await?;
    await_complaint(&mut bridge, "").await?;
    bridge.kill()?;
    bridge.launch()?;
    await_complaint(&mut bridge, "").await?;
    world.nats.configure(NatsBuilder::with_jetstream)?;
    world.nats.restart().await?;
    world.verify(&mut bridge, Order::Total).await?;

    // With `discard` old there is always room, for the newest.
    world.change_stream(|config| config.max_messages = 3).await?;
    insert_transaction(&world, 150, "placed").await?;
    let last = world.settle(&mut bridge).await?;
    let stored = world.stored(STREAM).await?;
    ensure!(stored.len() == 3, "{} messages", stored.len());
    let newest = last.first().map(|(_, event)| event.id.to_string());
    ensure!(stored.last().map(|stored| stored.header("ce-id").to_owned()) == newest, "not the newest");
    bridge.finish().await
}

#[tokio::test]
async fn a_stream_takes_no_more_in_mode_fast() -> Result<()> {
    a_stream_takes_no_more("fast").await
}

#[tokio::test]
async fn a_stream_takes_no_more_in_mode_pipelined() -> Result<()> {
    a_stream_takes_no_more("pipelined").await
}

#[tokio::test]
async fn a_stream_takes_no_more_in_mode_durable() -> Result<()> {
    a_stream_takes_no_more("durable").await
}

/// What is refused for good stops the bridge with the reason, and once that is mended it goes on with the same row.
async fn a_stream_takes_a_message_never(mode: &str) -> Result<()> {
    let mut world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&world.settings().set("publish.mode", mode)).await?;
    world.insert(0..5).await?;
    world.verify(&mut bridge, Order::Total).await?;

    // Below the size of a message.
    world.change_stream(|config| config.max_message_size = 100).await?;
    world.insert(0..3).await?;
    bridge.refuses(&["refuses the message at", "exceeds maximum allowed"]).await?;
    world.change_stream(unlimited).await?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;

    // The server takes over a lower limit while the bridge is connected.
    world.nats.configure(|nats| nats.max_payload(10_000))?;
    world.nats.reload().await?;
    world.insert(0..3).await?;
    let payload = format!("{{\"x\": \"{}\"}}", "z".repeat(20_000));
    Event::new(0).payload(payload).insert(&mut world.conn().await?, TABLE).await?;
    world.insert(0..3).await?;
    bridge.refuses(&["max_payload of 10000"]).await?;
    world.nats.configure(|nats| nats.max_payload(1 << 20))?;
    world.nats.reload().await?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;

    // Another stream takes the subject over, and is just as long.
    let length = world.last_sequence(STREAM).await;
    world.change_stream(|config| config.subjects = vec!["elsewhere.>".to_owned()]).await?;
    let subjects = vec!["orders.>".to_owned()];
    let other = Config {
        name: "OTHER".to_owned(),
        subjects,
        allow_batch_publish: true,
        allow_atomic_publish: true,
        ..Config::default()
    };
    world.jetstream.create_stream(other).await?;
    for _ in 0..length {
        world.jetstream.publish("orders.x", "x".into()).await?.await?;
    }
    // At once, so that the first thing that is sent is a batch.
    insert_transaction(&world, 200, "placed").await?;
    bridge.refuses(&["refuses the message at", "expected stream does not match"]).await?;
    ensure!(world.last_sequence("OTHER").await == length, "rows are in the wrong stream");
    world.jetstream.delete_stream("OTHER").await?;
    world.change_stream(unlimited).await?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;

    // What protects the messages that are there is no hindrance; but a sealed stream takes none.
    world.change_stream(|config| config.deny_delete = true).await?;
    world.insert(0..3).await?;
    world.verify(&mut bridge, Order::Total).await?;
    world.change_stream(|config| config.sealed = true).await?;
    world.insert(0..3).await?;
    bridge.refuses(&["refuses the message at", "sealed"]).await
}

#[tokio::test]
async fn a_stream_takes_a_message_never_in_mode_fast() -> Result<()> {
    a_stream_takes_a_message_never("fast").await
}

#[tokio::test]
async fn a_stream_takes_a_message_never_in_mode_durable() -> Result<()> {
    a_stream_takes_a_message_never("durable").await
}

/// All messages go by age: the bridge goes on behind them, and is not misled by an empty stream when it starts.
#[tokio::test]
async fn a_stream_is_emptied_by_age() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&world.settings().set("checkpoint.interval", "100ms")).await?;
    world.insert(0..5).await?;
    world.verify(&mut bridge, Order::Total).await?;
    let age = async |world: &World, age: Duration| {
        world
            .change_stream(move |config: &mut Config| {
                config.max_age = age;
                config.duplicate_window = if age.is_zero() { Duration::from_secs(120) } else { age };
            })
            .await
    };
    for stopped in [false, true] {
        let before = world.last_sequence(STREAM).await;
        if stopped {
            bridge.stop().await?;
        }
        age(&world, Duration::from_millis(100)).await?;
        let empty = async || Ok(world.stored(STREAM).await?.is_empty().then_some(()));
        testbed::eventually("the messages to go", super::NOTICE_LIMIT, empty).await?;
        age(&world, Duration::ZERO).await?;
        let mut conn = world.conn().await?;
        conn.query_drop(Event::insert_sql(TABLE, &[Event::new(1), Event::new(2)])).await?;
        if stopped {
            bridge.relaunch().await?;
        }
        world.await_messages(&mut bridge, STREAM, before + 2).await?;
        world.settle(&mut bridge).await?;
        let stored = world.stored(STREAM).await?;
        ensure!(stored.first().is_some_and(|first| first.sequence == before + 1), "{stored:?}");
        ensure!(stored.len() == 3, "{} messages", stored.len());
    }
    bridge.finish().await
}
