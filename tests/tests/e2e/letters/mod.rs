//! Rows that cannot be published become dead letters: each once, in order, whatever crashes; or they stop the bridge.

mod accounted;
mod replay;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::stream;
use mysql_async::prelude::Queryable as _;
use outbox_bridge_tests::{Bridge, Event, Outbox, STREAM, Settings, Stored, TABLE, World};
use testbed::{Nats, eventually};

const LETTERS: &str = "LETTERS";
const LIMIT: Duration = Duration::from_secs(60);
/// The largest message that the stream takes.
const MESSAGE_BYTES_MAX: i32 = 4_096;

/// The largest message that the server takes.
const PAYLOAD_BYTES_MAX: usize = 128 << 10;
const PASSWORD: &str = "s3cret-of-nats";
/// The bridge may do everything but publish to one subject of its stream.
const USERS: &str = "authorization { users = [
    { user: admin, password: s3cret-of-nats }
    { user: bridge, password: s3cret-of-nats, permissions: { publish: { deny: [\"orders.secret.>\"] } } }
] }";
/// The standard layout, but that a row need not say what it is of.
const LAYOUT: &str = "seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, id BINARY(16) NOT NULL UNIQUE, \
    aggregate_type VARCHAR(64) NULL, aggregate_id VARCHAR(255) NOT NULL, type VARCHAR(128) NOT NULL, payload JSON NOT NULL, \
    headers JSON NULL";

async fn world() -> Result<World> {
    let nats = Nats::builder().user("admin", PASSWORD).config(USERS).max_payload(PAYLOAD_BYTES_MAX);
    let world = World::mysql().nats(nats).outbox(Outbox::standard().layout(LAYOUT)).start().await?;
    create_letters(&world).await?;
    Ok(world)
}

/// Makes the stream of letters, and limits the size of what the other one takes.
async fn create_letters(world: &World) -> Result<()> {
    let config = stream::Config {
        name: LETTERS.into(),
        subjects: vec!["outbox.dead.>".into()],
        max_messages_per_subject: 1,
        ..Default::default()
    };
    world.jetstream.create_stream(config).await?;
    world.change_stream(|config| config.max_message_size = MESSAGE_BYTES_MAX).await
}

fn parking(world: &World) -> Result<Settings> {
    let settings = user(world)?;
    Ok(settings.set("poison.action", "dead_letter").set("poison.stream", LETTERS))
}

/// The settings of a bridge with the restricted user.
fn user(world: &World) -> Result<Settings> {
    let file = world.nats.store_dir().with_file_name("password-of-bridge");
    std::fs::write(&file, PASSWORD)?;
    Ok(world.settings().set("nats.user", "bridge").set("nats.password_file", file.display().to_string()))
}

fn large(number: u64) -> Event {
    sized(number, 6_000)
}

fn sized(number: u64, bytes: usize) -> Event {
    Event::new(number).payload(format!("{{\"n\": {number}, \"x\": \"{}\"}}", "x".repeat(bytes)))
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
    for mode in ["pipelined", "fast", "durable"] {
        let world = world().await?;
        let mut bridge = Bridge::start(&user(&world)?.set("publish.mode", mode)).await?;
        let mut conn = world.conn().await?;
        // In one transaction, so that it is one batch in mode durable.
        let events = [Event::new(0), large(1), Event::new(2)];
        conn.query_drop(Event::insert_sql(TABLE, &events)).await?;
        bridge.refuses(&["refuses the message"]).await?;
        ensure!(letters(&world).await?.is_empty());
        let huge = [Event::new(3), sized(4, PAYLOAD_BYTES_MAX)];
        world.change_stream(|config| config.max_message_size = -1).await?;
        conn.query_drop(Event::insert_sql(TABLE, &huge)).await?;
        bridge.launch()?;
        bridge.refuses(&["larger than the server's max_payload"]).await?;
        ensure!(world.last_sequence(STREAM).await == 4, "{mode}: all before it");
    }
    Ok(())
}

/// Every reason there is, in every mode; the rows around them arrive, in order.
async fn every_reason(mode: &str) -> Result<()> {
    let world = world().await?;
    world
        .change_stream(|config| {
            config.subjects = vec!["orders.order.>".into(), "orders.secret.>".into()];
            // More than headers may have.
            config.max_message_size = 80 << 10;
        })
        .await?;
    let other = stream::Config {
        name: "OTHER".into(),
        subjects: vec!["orders.elsewhere.>".into()],
        ..Default::default()
    };
    world.jetstream.create_stream(other).await?;
    let settings = parking(&world)?.set("publish.mode", mode).set("publish.ack_timeout", "1s");
    let mut bridge = Bridge::start(&settings).await?;
    let mut conn = world.conn().await?;
    let mut expected = HashMap::new();
    let mut good = Vec::new();
    // The first transaction ends with a row that is not answered, the second with another stream's.
    let transactions = [0..13, 13..21, 21..22, 22..23, 23..24, 24..25, 25..120];
    for numbers in transactions {
        conn.query_drop("BEGIN").await?;
        for number in numbers {
            let mut event = Event::new(number);
            let of = |kind: &str| Event { aggregate_type: kind.to_owned(), ..Event::new(number) };
            let reason = match number {
                2 => ("too_large", sized(number, PAYLOAD_BYTES_MAX)),
                7 | 8 | 22 | 100 => ("too_large", sized(number, 100 << 10)),
                5 | 23 => ("subject", of("nowhere")),
                20 => ("subject", of("elsewhere")),
                12 | 24 => ("denied", of("secret")),
                3 => ("headers", Event::new(number).headers("[1, 2]")),
                16 => {
                    let text = format!("{{\"x\": \"{}\"}}", "h".repeat(70 << 10));
                    ("headers", Event::new(number).headers(text))
                }
                10 | 110 => ("unmappable", of("NULL")),
                _ => ("", event),
            };
            event = reason.1;
            let row = event.values().replace("'NULL'", "NULL");
            let columns = "id, aggregate_type, aggregate_id, type, payload, headers";
            conn.query_drop(format!("INSERT INTO {TABLE} ({columns}) VALUES {row}")).await?;
            match reason.0 {
                "" => good.push(event.id.to_string()),
                reason => drop(expected.insert(event.id.to_string(), reason)),
            }
        }
        conn.query_drop("COMMIT").await?;
    }
    await_letters(&world, &mut bridge, expected.len()).await?;
    world.await_messages(&mut bridge, STREAM, good.len() as u64).await?;
    let stored: Vec<String> =
        world.stored(STREAM).await?.iter().map(|message| message.header("ce-id").to_owned()).collect();
    ensure!(stored == good, "{mode}: {stored:?}, expected {good:?}");
    ensure!(world.last_sequence("OTHER").await == 0, "{mode}: nothing goes into another stream");
    let found = letters(&world).await?;
    ensure!(found.len() == expected.len(), "{mode}: {found:?}");
    for (id, reason) in &found {
        ensure!(expected.get(id) == Some(&reason.as_str()), "{mode}: {id} is {reason}, of {expected:?}");
    }
    let cut = world.stored(LETTERS).await?;
    let cut = cut.iter().filter(|letter| !letter.header("Outbox-Letter-Cut").is_empty()).count();
    ensure!(cut == 2, "{mode}: {cut} letters are cut: that of the large body, and that of the large header");
    let metrics = bridge.metrics().await?;
    let metric = format!("outbox_dead_letters_total{{stream=\"{STREAM}\",reason=\"too_large\"}} 5");
    ensure!(metrics.contains(&metric), "{metrics}");
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

#[tokio::test]
async fn killed_at_any_time_in_mode_pipelined() -> Result<()> {
    killed_at_any_time("pipelined").await
}

#[tokio::test]
async fn killed_at_any_time_in_mode_fast() -> Result<()> {
    killed_at_any_time("fast").await
}

#[tokio::test]
async fn killed_at_any_time_in_mode_durable() -> Result<()> {
    killed_at_any_time("durable").await
}

/// Each row is stored or a letter and never both. The bridge is killed again and again while every third row is poison; at the
/// end the limit is raised, so that a row which is met again could be published as well.
async fn killed_at_any_time(mode: &str) -> Result<()> {
    const ROWS: u64 = 300;
    let world = world().await?;
    let mut bridge = Bridge::start(&parking(&world)?.set("publish.mode", mode)).await?;
    let mut conn = world.conn().await?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for from in (0..ROWS).step_by(30) {
        for number in from..from + 30 {
            let event = if number % 3 == 2 { large(number) } else { Event::new(number) };
            let of = if number % 3 == 2 { &mut bad } else { &mut good };
            of.push(event.id.to_string());
            event.insert(&mut conn, TABLE).await?;
        }
        // At some moment between a row and its letter, or the letter and the next row.
        let some = usize::try_from(from / 3 + from % 7)?;
        await_letters(&world, &mut bridge, some.min(bad.len())).await?;
        bridge.kill()?;
        bridge.relaunch().await?;
    }
    await_letters(&world, &mut bridge, bad.len()).await?;
    bridge.kill()?;
    world.change_stream(|config| config.max_message_size = -1).await?;
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
