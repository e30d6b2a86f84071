//! Dead letters that are published after all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::stream::RetentionPolicy;
use outbox_bridge_tests::{Bridge, Event, STREAM, TABLE, World};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{await_letters, large, letters, parking, world};

const ALL: [&str; 4] = ["dead-letters", "replay", "--all", "--yes"];

async fn ids(world: &World) -> Result<Vec<String>> {
    Ok(world.stored(STREAM).await?.iter().map(|message| message.header("ce-id").to_owned()).collect())
}

fn listed(bridge: &Bridge, more: &[&str]) -> Result<String> {
    let (code, text) = bridge.command(&[&["dead-letters", "list"], more].concat())?;
    ensure!(code == 0, "{text}");
    Ok(text)
}

#[tokio::test]
async fn a_letter_is_published_once_its_cause_is_mended() -> Result<()> {
    let world = world().await?;
    let mut bridge = Bridge::start(&parking(&world)?.set("lease.ttl", "2s")).await?;
    let mut conn = world.conn().await?;
    let events: Vec<Event> =
        (0..6).map(|number| if number == 1 { large(number) } else { Event::new(number) }).collect();
    let id = |index: usize| events[index].id.to_string();
    for event in &events[..3] {
        event.insert(&mut conn, TABLE).await?;
    }
    let unfit = Event::new(9).headers("[]");
    unfit.insert(&mut conn, TABLE).await?;
    await_letters(&world, &mut bridge, 2).await?;
    world.await_messages(&mut bridge, STREAM, 2).await?;

    let (code, text) = bridge.command(&ALL)?;
    ensure!(code == 69 && text.contains("leads"), "{code}: {text}");
    bridge.stop().await?;

    // The cause is still there.
    let (code, text) = bridge.command(&ALL)?;
    ensure!(code == 78 && text.contains("does not take dead letter"), "{code}: {text}");
    ensure!(text.contains("its row has no message"), "{text}");
    ensure!(listed(&bridge, &[])?.ends_with("2 dead letters\n"));

    // The sequence that it was to get goes to another.
    bridge.relaunch().await?;
    events[3].insert(&mut conn, TABLE).await?;
    world.await_messages(&mut bridge, STREAM, 3).await?;
    bridge.stop().await?;
    world.change_stream(|config| config.max_message_size = -1).await?;
    let (code, text) = bridge.command(&[&ALL[..], &["--reason", "too_large"]].concat())?;
    ensure!(code == 0 && text.contains("as message 4 of ORDERS"), "{code}: {text}");

    bridge.relaunch().await?;
    events[4].insert(&mut conn, TABLE).await?;
    world.await_messages(&mut bridge, STREAM, 5).await?;
    bridge.kill()?;
    bridge.relaunch().await?;
    events[5].insert(&mut conn, TABLE).await?;
    world.await_messages(&mut bridge, STREAM, 6).await?;
    ensure!(ids(&world).await? == [id(0), id(2), id(3), id(1), id(4), id(5)]);

    let stored = world.stored(STREAM).await?;
    let replayed = &stored[3];
    ensure!(replayed.header("Outbox-Position") == stored[2].header("Outbox-Position"));
    ensure!(!replayed.header("Outbox-Replayed-Position").is_empty());
    ensure!(replayed.header("Nats-Msg-Id") == id(1) && replayed.header("ce-type") == "placed");
    ensure!(replayed.subject == stored[2].subject && replayed.body.len() > 6_000);
    ensure!(
        replayed.headers.iter().all(|(name, _)| !name.to_string().starts_with("Outbox-Letter-")),
        "{replayed:?}"
    );

    // Only the other one is left, and it can be dropped.
    let left = listed(&bridge, &["--json"])?;
    ensure!(left.lines().count() == 1 && left.contains(&unfit.id.to_string()), "{left}");
    let number = left.split_once("\"number\":").and_then(|(_, rest)| rest.split_once(','));
    let number = number.map(|(number, _)| number.to_owned()).unwrap_or_default();
    let (code, text) = bridge.command(&["dead-letters", "show", &number])?;
    ensure!(code == 0 && text.contains("Outbox-Letter-Row") && text.contains("\"n\": 9"), "{text}");
    let (code, text) = bridge.command(&["dead-letters", "drop", &number])?;
    ensure!(code == 0, "{text}");
    ensure!(listed(&bridge, &[])? == "0 dead letters\n");
    let done = listed(&bridge, &["--done"])?;
    ensure!(done.contains("replayed") && done.contains("dropped"), "{done}");
    let (code, text) = bridge.command(&["dead-letters", "show", &number])?;
    ensure!(code == 64, "{text}");
    bridge.stop().await
}

/// The replay is killed again and again, and the bridge runs now and then in between; the server forgets ids at once.
#[tokio::test]
async fn killed_at_any_time_a_replay_publishes_each_letter_once() -> Result<()> {
    const LETTERS: u64 = 200;
    let world = world().await?;
    world.change_stream(|config| config.duplicate_window = Duration::from_millis(100)).await?;
    let mut bridge = Bridge::start(&parking(&world)?.set("lease.ttl", "2s")).await?;
    let mut conn = world.conn().await?;
    let mut bad = BTreeSet::new();
    for number in 0..LETTERS {
        let event = large(number);
        bad.insert(event.id.to_string());
        event.insert(&mut conn, TABLE).await?;
    }
    await_letters(&world, &mut bridge, bad.len()).await?;
    bridge.stop().await?;
    world.change_stream(|config| config.max_message_size = -1).await?;

    let mut random = SmallRng::seed_from_u64(7);
    let (mut good, mut kills) = (Vec::new(), 0_u64);
    loop {
        let after = Duration::from_millis(random.random_range(20..120 + 10 * kills));
        match bridge.command_killed(&ALL, after)? {
            Some(0) => break,
            Some(code) => ensure!(code == 0, "it ended with exit code {code}: {}", listed(&bridge, &[])?),
            None => kills += 1,
        }
        if random.random_ratio(1, 4) {
            bridge.relaunch().await?;
            let event = Event::new(LETTERS + good.len() as u64);
            event.insert(&mut conn, TABLE).await?;
            world.await_last(&mut bridge, STREAM, &event.id.to_string()).await?;
            good.push(event.id.to_string());
            bridge.kill()?;
        }
    }
    ensure!(listed(&bridge, &[])? == "0 dead letters\n");
    bridge.relaunch().await?;
    let last = Event::new(1_000);
    last.insert(&mut conn, TABLE).await?;
    world.await_last(&mut bridge, STREAM, &last.id.to_string()).await?;
    good.push(last.id.to_string());

    let mut counts = BTreeMap::<String, u32>::new();
    let ids = ids(&world).await?;
    ids.iter().for_each(|id| *counts.entry(id.clone()).or_default() += 1);
    ensure!(counts.values().all(|count| *count == 1), "published twice: {counts:?}");
    let of_log: Vec<_> = ids.iter().filter(|id| !bad.contains(*id)).cloned().collect();
    ensure!(of_log == good, "{of_log:?}, expected {good:?}");
    ensure!(ids.len() == good.len() + bad.len(), "{} of {} letters", ids.len() - good.len(), bad.len());
    ensure!(kills > 3, "the replay was killed only {kills} times");
    bridge.stop().await
}

/// Where the stream's last messages are gone, the checkpoint tells where the bridge goes on; where that does not, nothing is
/// published.
#[tokio::test]
async fn a_purged_stream_takes_a_letter_only_if_the_checkpoint_knows_its_end() -> Result<()> {
    let world = world().await?;
    let mut bridge = Bridge::start(&parking(&world)?).await?;
    let mut conn = world.conn().await?;
    let events = [large(0), Event::new(1), large(2), Event::new(3), Event::new(4)];
    for event in &events[..3] {
        event.insert(&mut conn, TABLE).await?;
    }
    await_letters(&world, &mut bridge, 2).await?;
    world.await_messages(&mut bridge, STREAM, 1).await?;
    bridge.stop().await?;
    let stream = world.jetstream.get_stream(STREAM).await?;
    stream.purge().await?;
    world.change_stream(|config| config.max_message_size = -1).await?;
    let first = listed(&bridge, &["--json"])?;
    let first = first.split_once("\"number\":").and_then(|(_, rest)| rest.split_once(','));
    let first = first.map(|(number, _)| number.to_owned()).unwrap_or_default();
    let (code, text) = bridge.command(&["dead-letters", "replay", &first])?;
    ensure!(code == 0, "{code}: {text}");
    bridge.relaunch().await?;
    events[3].insert(&mut conn, TABLE).await?;
    world.await_messages(&mut bridge, STREAM, 3).await?;
    ensure!(ids(&world).await? == [events[0].id.to_string(), events[3].id.to_string()]);

    // Killed, its checkpoint does not know of the last row.
    bridge.stop().await?;
    stream.purge().await?;
    let bucket = world.jetstream.get_key_value("OUTBOX_BRIDGE").await?;
    bucket.delete("outbox-bridge").await?;
    let (code, text) = bridge.command(&ALL)?;
    ensure!(code == 78 && text.contains("let it catch up"), "{code}: {text}");
    ensure!(letters(&world).await?.len() == 2 && ids(&world).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_work_queue_takes_no_letter() -> Result<()> {
    let world = world().await?;
    world.jetstream.delete_stream(STREAM).await?;
    world.create_stream(STREAM).await?;
    let mut config = world.jetstream.get_stream(STREAM).await?.cached_info().config.clone();
    world.jetstream.delete_stream(STREAM).await?;
    config.retention = RetentionPolicy::WorkQueue;
    config.max_message_size = super::MESSAGE_BYTES_MAX;
    world.jetstream.create_stream(config).await?;
    let mut bridge = Bridge::start(&parking(&world)?).await?;
    let mut conn = world.conn().await?;
    large(0).insert(&mut conn, TABLE).await?;
    await_letters(&world, &mut bridge, 1).await?;
    bridge.stop().await?;
    let (code, text) = bridge.command(&ALL)?;
    ensure!(code == 78 && text.contains("does not keep what was consumed"), "{code}: {text}");
    Ok(())
}

/// A row that is a letter stays one, though the table still has it and the stream would take it.
#[tokio::test]
async fn a_backfill_leaves_letters_alone() -> Result<()> {
    let world = world().await?;
    let mut bridge = Bridge::start(&parking(&world)?).await?;
    let mut conn = world.conn().await?;
    let events = [Event::new(0), large(1), Event::new(2)];
    for event in &events {
        event.insert(&mut conn, TABLE).await?;
    }
    await_letters(&world, &mut bridge, 1).await?;
    world.await_messages(&mut bridge, STREAM, 2).await?;
    bridge.stop().await?;
    world.change_stream(|config| config.max_message_size = -1).await?;
    let (code, text) = bridge.command(&["backfill"])?;
    ensure!(
        code == 0 && text.contains("3 rows read: 0 published, 3 in the streams already"),
        "{code}: {text}"
    );
    let (code, text) = bridge.command(&ALL)?;
    ensure!(code == 0, "{code}: {text}");
    let expected = [0, 2, 1].map(|index: usize| events[index].id.to_string());
    ensure!(ids(&world).await? == expected);
    Ok(())
}
