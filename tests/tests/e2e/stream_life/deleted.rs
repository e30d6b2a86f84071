//! Messages and streams that are deleted.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::stream::{Config, StorageType};
use outbox_bridge_tests::{Bridge, Expected, Order, STREAM, TABLE, World};

use super::{await_checkpoint, insert_transaction, verify_without};

/// The ids of what the stream holds.
async fn ids(world: &World) -> Result<Vec<String>> {
    let stored = world.stored(STREAM).await?;
    Ok(stored.iter().map(|message| message.header("ce-id").to_owned()).collect())
}

/// Deletes the messages with these sequences, and notes their ids.
async fn delete(world: &World, sequences: &[u64], deleted: &mut HashSet<String>) -> Result<()> {
    let stored = world.stored(STREAM).await?;
    let stream = world.jetstream.get_stream(STREAM).await?;
    for sequence in sequences {
        let message = stored.iter().find(|message| message.sequence == *sequence);
        deleted.insert(message.context("there is no such message")?.header("ce-id").to_owned());
        stream.delete_message(*sequence).await?;
    }
    Ok(())
}

async fn purge(world: &World, deleted: &mut HashSet<String>) -> Result<()> {
    deleted.extend(ids(world).await?);
    world.jetstream.get_stream(STREAM).await?.purge().await?;
    Ok(())
}

/// Whatever an operator deletes, what is not deleted is there once and in order, and nothing stands in its way.
async fn messages_are_deleted(mode: &str) -> Result<()> {
    let mut world = World::mysql().start().await?;
    let settings = world.settings().set("publish.mode", mode).set("checkpoint.interval", "100ms");
    let mut bridge = Bridge::start(&settings).await?;
    let mut deleted = HashSet::new();
    world.insert(0..10).await?;
    verify_without(&world, &mut bridge, &deleted).await?;

    // While it runs: all, the last ones, one in the middle; then the server restarts, and the bridge has to look.
    purge(&world, &mut deleted).await?;
    world.insert(10..20).await?;
    verify_without(&world, &mut bridge, &deleted).await?;
    let last = world.last_sequence(STREAM).await;
    delete(&world, &[last - 5, last - 1, last], &mut deleted).await?;
    insert_transaction(&world, 100, "placed").await?;
    verify_without(&world, &mut bridge, &deleted).await?;
    let last = world.last_sequence(STREAM).await;
    delete(&world, &[last - 1, last], &mut deleted).await?;
    world.nats.restart().await?;
    verify_without(&world, &mut bridge, &deleted).await?;
    purge(&world, &mut deleted).await?;
    world.nats.restart().await?;
    verify_without(&world, &mut bridge, &deleted).await?;

    // The same while it is stopped.
    bridge.stop().await?;
    let last = world.last_sequence(STREAM).await;
    delete(&world, &[last], &mut deleted).await?;
    world.insert(30..35).await?;
    bridge.relaunch().await?;
    verify_without(&world, &mut bridge, &deleted).await?;
    bridge.stop().await?;
    purge(&world, &mut deleted).await?;
    world.insert(35..40).await?;
    bridge.relaunch().await?;
    verify_without(&world, &mut bridge, &deleted).await?;

    // Many last ones, of one subject.
    let before: HashSet<String> = ids(&world).await?.into_iter().collect();
    insert_transaction(&world, 1_500, "bulk").await?;
    world.await_messages(&mut bridge, STREAM, world.last_sequence(STREAM).await.max(1) + 1).await?;
    let rows = Expected::rows(&world.database, TABLE, "seq").await?.len();
    world.await_messages(&mut bridge, STREAM, u64::try_from(rows)?).await?;
    bridge.stop().await?;
    deleted.extend(ids(&world).await?.into_iter().filter(|id| !before.contains(id)));
    world.jetstream.get_stream(STREAM).await?.purge().filter("orders.order.bulk").await?;
    world.insert(40..45).await?;
    bridge.relaunch().await?;
    verify_without(&world, &mut bridge, &deleted).await?;
    bridge.finish().await
}

#[tokio::test]
async fn messages_are_deleted_in_mode_fast() -> Result<()> {
    messages_are_deleted("fast").await
}

#[tokio::test]
async fn messages_are_deleted_in_mode_pipelined() -> Result<()> {
    messages_are_deleted("pipelined").await
}

#[tokio::test]
async fn messages_are_deleted_in_mode_durable() -> Result<()> {
    messages_are_deleted("durable").await
}

/// A foreign message that is deleted before the bridge looks leaves a sequence, which must not count for a row.
#[tokio::test]
async fn what_nobody_can_account_for_is_no_row() -> Result<()> {
    for delete_only in [false, true] {
        let world = World::mysql().start().await?;
        let mut bridge = world.bridge().await?;
        world.insert(0..10).await?;
        world.verify(&mut bridge, Order::Total).await?;
        await_checkpoint(&world, &mut bridge).await?;
        // Nothing tells an idle bridge of it.
        let foreign = world.jetstream.publish("orders.foreign", "not yours".into()).await?.await?.sequence;
        let stream = world.jetstream.get_stream(STREAM).await?;
        if delete_only {
            stream.delete_message(foreign).await?;
            stream.delete_message(foreign - 1).await?;
        } else {
            stream.purge().await?;
        }
        world.insert(10..15).await?;
        bridge.refuses(&[STREAM, "stored 1 message(s) after", "nothing tells"]).await?;
        ensure!(world.last_sequence(STREAM).await == foreign, "nothing follows");
    }
    Ok(())
}

/// Deletes the stream and makes it again, empty.
async fn remake(world: &World) -> Result<()> {
    world.jetstream.delete_stream(STREAM).await?;
    world.create_stream(STREAM).await?;
    // A stream that is made at once may find the files of the old one, and then goes on with them (nats-server 2.15.1).
    while world.last_sequence(STREAM).await != 0 {
        world.jetstream.delete_stream(STREAM).await?;
        world.create_stream(STREAM).await?;
    }
    Ok(())
}

/// A stream that was deleted and made again lacks what it had: the bridge says so, and how to publish it again.
#[tokio::test]
async fn a_stream_is_deleted_and_made_again() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..10).await?;
    world.verify(&mut bridge, Order::Total).await?;
    await_checkpoint(&world, &mut bridge).await?;
    let remade = "starts anew at sequence 0";

    // While it runs.
    remake(&world).await?;
    world.insert(10..15).await?;
    bridge.refuses(&[STREAM, remade, "source.start"]).await?;
    ensure!(world.last_sequence(STREAM).await == 0, "nothing is stored behind a gap");
    // It stays so, until it is told what to do.
    bridge.launch()?;
    bridge.refuses(&[remade]).await?;
    world.jetstream.get_key_value("OUTBOX_BRIDGE").await?.purge("outbox-bridge").await?;
    bridge.configure(&world.settings().set("source.start", "earliest"))?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;

    // While it is stopped; a stream that is made again with as many other messages is no better.
    bridge.stop().await?;
    let last = world.last_sequence(STREAM).await;
    remake(&world).await?;
    bridge.launch()?;
    bridge.refuses(&[remade]).await?;
    for _ in 0..=last {
        world.jetstream.publish("orders.foreign", "x".into()).await?.await?;
    }
    bridge.launch()?;
    bridge.refuses(&["no bridge wrote"]).await?;

    // Gone altogether, while it runs.
    remake(&world).await?;
    world.jetstream.get_key_value("OUTBOX_BRIDGE").await?.purge("outbox-bridge").await?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;
    world.jetstream.delete_stream(STREAM).await?;
    world.insert(20..21).await?;
    bridge.refuses(&[STREAM, "does not exist", "init"]).await
}

/// What is held in memory is gone with the server.
#[tokio::test]
async fn a_stream_in_memory_is_lost_at_a_restart() -> Result<()> {
    let mut world = World::mysql().start().await?;
    world.jetstream.delete_stream(STREAM).await?;
    let subjects = vec!["orders.>".to_owned()];
    let config =
        Config { name: STREAM.to_owned(), subjects, storage: StorageType::Memory, ..Config::default() };
    world.jetstream.create_stream(config).await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..10).await?;
    world.verify(&mut bridge, Order::Total).await?;
    world.nats.restart().await?;
    bridge.refuses(&[STREAM, "does not exist"]).await
}
