//! Rows that cannot be published become dead letters: each once, in order, whatever crashes; or they stop the bridge.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::stream;
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, STREAM, Settings, Stored, TABLE, World};
use testbed::eventually;

const LETTERS: &str = "LETTERS";
const LIMIT: Duration = Duration::from_secs(60);
/// The largest message that the stream takes.
const MESSAGE_BYTES_MAX: i32 = 4_096;

async fn world() -> Result<World> {
    let world = World::mysql().start().await?;
    let config = stream::Config {
        name: LETTERS.into(),
        subjects: vec!["outbox.dead.>".into()],
        max_messages_per_subject: 1,
        ..Default::default()
    };
    world.jetstream.create_stream(config).await?;
    let mut config = world.jetstream.get_stream(STREAM).await?.cached_info().config.clone();
    config.max_message_size = MESSAGE_BYTES_MAX;
    world.jetstream.update_stream(config).await?;
    Ok(world)
}

fn parking(settings: Settings) -> Settings {
    settings.set("poison.action", "dead_letter").set("poison.stream", LETTERS)
}

fn large(number: u64) -> Event {
    Event::new(number).payload(format!("{{\"n\": {number}, \"x\": \"{}\"}}", "large ".repeat(1_000)))
}

/// The ids of all letters, each with its reason.
async fn letters(world: &World) -> Result<Vec<(String, String)>> {
    let header = |message: &Stored, name: &str| message.header(name).to_owned();
    let stored = world.stored(LETTERS).await?;
    Ok(stored
        .iter()
        .map(|message| (header(message, "ce-id"), header(message, "Outbox-Letter-Reason")))
        .collect())
}

async fn await_letters(world: &World, bridge: &mut Bridge, count: usize) -> Result<Vec<(String, String)>> {
    let found = eventually("the dead letters", LIMIT, async || {
        bridge.check_running()?;
        let letters = letters(world).await?;
        Ok((letters.len() >= count).then_some(letters))
    });
    let found = found.await;
    found.map_err(|error| bridge.explain(error))
}

#[tokio::test]
async fn a_row_that_is_too_large_stops_the_bridge_by_default() -> Result<()> {
    let world = world().await?;
    let mut bridge = world.bridge().await?;
    let mut conn = world.conn().await?;
    large(1).insert(&mut conn, TABLE).await?;
    bridge.refuses(&["refuses the message"]).await?;
    ensure!(letters(&world).await?.is_empty());
    Ok(())
}

/// Every reason there is, in every mode; the rows around them arrive, in order.
async fn every_reason(mode: &str) -> Result<()> {
    let world = world().await?;
    let mut config = world.jetstream.get_stream(STREAM).await?.cached_info().config.clone();
    config.subjects = vec!["orders.order.>".into()];
    world.jetstream.update_stream(config).await?;
    let settings = parking(world.settings()).set("publish.mode", mode).set("publish.ack_timeout", "1s");
    let mut bridge = Bridge::start(&settings).await?;
    let mut conn = world.conn().await?;
    let mut expected = HashMap::new();
    let mut good = Vec::new();
    conn.query_drop("BEGIN").await?;
    for number in 0..40 {
        let mut event = Event::new(number);
        event.aggregate_type = "order".to_owned();
        match number {
            7 | 8 => {
                event = large(number);
                event.aggregate_type = "order".to_owned();
                expected.insert(event.id.to_string(), "too_large");
            }
            12 => {
                event.aggregate_type = "nowhere".to_owned();
                expected.insert(event.id.to_string(), "subject");
            }
            20 => {
                event.headers = Some("[1, 2]".to_owned());
                expected.insert(event.id.to_string(), "headers");
            }
            _ => good.push(event.id.to_string()),
        }
        event.insert(&mut conn, TABLE).await?;
        if number == 20 {
            conn.query_drop("COMMIT").await?;
        }
    }
    await_letters(&world, &mut bridge, expected.len()).await?;
    world.await_messages(&mut bridge, STREAM, good.len() as u64).await?;
    let stored: Vec<String> =
        world.stored(STREAM).await?.iter().map(|message| message.header("ce-id").to_owned()).collect();
    ensure!(stored == good, "{mode}: {stored:?}, expected {good:?}");
    let found = letters(&world).await?;
    ensure!(found.len() == expected.len(), "{mode}: {found:?}");
    for (id, reason) in &found {
        ensure!(expected.get(id) == Some(&reason.as_str()), "{mode}: {id} is {reason}, of {expected:?}");
    }
    let metrics = bridge.metrics().await?;
    ensure!(
        metrics.contains("outbox_dead_letters_total{stream=\"ORDERS\",reason=\"too_large\"} 2"),
        "{metrics}"
    );
    bridge.stop().await
}

#[tokio::test]
async fn every_reason_in_mode_pipelined() -> Result<()> {
    every_reason("pipelined").await
}

#[tokio::test]
async fn every_reason_in_mode_fast() -> Result<()> {
    every_reason("fast").await
}

#[tokio::test]
async fn every_reason_in_mode_durable() -> Result<()> {
    every_reason("durable").await
}

/// The bridge is killed again and again while every third row is poison; at the end the limit is raised, so that a row which
/// is met again could be published as well.
#[tokio::test]
async fn killed_at_any_time_each_row_is_stored_or_a_letter_and_never_both() -> Result<()> {
    const ROWS: u64 = 600;
    let world = world().await?;
    let mut bridge = Bridge::start(&parking(world.settings())).await?;
    let mut conn = world.conn().await?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for from in (0..ROWS).step_by(60) {
        for number in from..from + 60 {
            let event = if number % 3 == 2 { large(number) } else { Event::new(number) };
            let of = if number % 3 == 2 { &mut bad } else { &mut good };
            of.push(event.id.to_string());
            event.insert(&mut conn, TABLE).await?;
        }
        let half = usize::try_from(from / 3)? / 2;
        await_letters(&world, &mut bridge, half).await?;
        bridge.kill()?;
        bridge.relaunch().await?;
    }
    await_letters(&world, &mut bridge, bad.len()).await?;
    bridge.kill()?;
    let mut config = world.jetstream.get_stream(STREAM).await?.cached_info().config.clone();
    config.max_message_size = -1;
    world.jetstream.update_stream(config).await?;
    bridge.relaunch().await?;
    let last = Event::new(ROWS);
    good.push(last.id.to_string());
    last.insert(&mut conn, TABLE).await?;
    world.await_messages(&mut bridge, STREAM, good.len() as u64).await?;
    let stored = world.stored(STREAM).await?;
    let stored: Vec<&str> = stored.iter().map(|message| message.header("ce-id")).collect();
    ensure!(stored == good, "{} stored of {}: {stored:?}", stored.len(), good.len());
    let letters: Vec<String> = letters(&world).await?.into_iter().map(|(id, _)| id).collect();
    ensure!(letters == bad, "{} letters of {}", letters.len(), bad.len());
    bridge.stop().await
}
