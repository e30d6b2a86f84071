//! Payloads that are too large for a message go to an object store, come back by the consumer crate, and go with their messages.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{object_store, stream::Stream};
use futures_util::TryStreamExt as _;
use outbox_bridge_tests::{Bridge, Event, Order, STREAM, Settings, Stored, TABLE, World};
use outbox_consumer::{Body, Consumer, HandlerError, RetryPolicy, Router, inbox::MemoryInbox};
use outbox_event::header;
use testbed::eventually;
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "PAYLOADS";
const LIMIT: Duration = Duration::from_secs(60);
/// More than the server takes in a message.
const LARGE: usize = 1_200_000;

fn settings(world: &World) -> Settings {
    world.settings().set("claim_check.bucket", BUCKET).set("claim_check.interval", "1s")
}

/// An event with a payload of about so many bytes.
fn sized(number: u64, bytes: usize) -> Event {
    Event::new(number).payload(format!("{{\"n\": {number}, \"filler\": \"{}\"}}", "x".repeat(bytes)))
}

async fn objects(world: &World) -> Result<Stream> {
    Ok(world.jetstream.get_stream(format!("OBJ_{BUCKET}")).await?)
}

/// The subjects of the object store: what is described, and whose parts are there.
async fn subjects(world: &World, kind: &str) -> Result<BTreeSet<String>> {
    let stream = objects(world).await?;
    let subjects = stream.info_with_subjects(format!("$O.{BUCKET}.{kind}.>")).await?;
    Ok(subjects.map_ok(|(subject, _)| subject).try_collect().await?)
}

/// Waits until there are so many objects, each with its parts, and nothing else.
async fn await_objects(world: &World, count: usize) -> Result<()> {
    let what = format!("{count} objects with their parts");
    eventually(&what, LIMIT, async || {
        let (described, parts) = (subjects(world, "M").await?, subjects(world, "C").await?);
        Ok((described.len() == count && parts.len() == count).then_some(()))
    })
    .await
}

fn large(stored: &[Stored]) -> Result<Vec<&Stored>> {
    let mut large = Vec::new();
    for message in stored {
        let format = message.header(header::FORMAT);
        match message.data_ref()? {
            Some(reference) => {
                ensure!(reference.bucket == BUCKET && format == "2", "{reference} {format:?}");
                ensure!(
                    reference.name.starts_with(&format!("{STREAM}/{}/", message.sequence)),
                    "{reference}"
                );
                large.push(message);
            }
            None => ensure!(format.is_empty(), "{format}"),
        }
    }
    Ok(large)
}

async fn whatever_is_killed(mode: &str) -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world).set("publish.mode", mode)).await?;
    let mut conn = world.conn().await?;
    let mut count = 0;
    for round in 0..6_u64 {
        let mut rows = Vec::new();
        for number in 0..40 {
            let bytes = if number % 8 == 3 { LARGE } else { 300 };
            rows.push(sized(round * 40 + number, bytes));
        }
        count += rows.len() as u64;
        // Some in transactions of their own, some together.
        for some in rows.chunks(if round % 2 == 0 { 1 } else { 10 }) {
            conn_insert(&mut conn, some).await?;
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..200))).await;
        bridge.kill()?;
        bridge.launch()?;
    }
    conn.disconnect().await?;
    world.await_messages(&mut bridge, STREAM, count).await?;
    world.verify(&mut bridge, Order::Total).await?;
    let stored = world.stored(STREAM).await?;
    let large = large(&stored)?;
    ensure!(large.len() == 30, "{}", large.len());
    // What was stored for a sequence that another message has got is removed again, and so are parts of what a kill broke off.
    await_objects(&world, 30).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.finish().await
}

async fn conn_insert(conn: &mut mysql_async::Conn, events: &[Event]) -> Result<()> {
    use mysql_async::prelude::Queryable as _;
    conn.query_drop("BEGIN").await?;
    for event in events {
        event.insert(conn, TABLE).await?;
    }
    Ok(conn.query_drop("COMMIT").await?)
}

#[tokio::test]
async fn large_payloads_are_stored_once_and_in_order_in_mode_fast() -> Result<()> {
    whatever_is_killed("fast").await
}

#[tokio::test]
async fn large_payloads_are_stored_once_and_in_order_in_mode_pipelined() -> Result<()> {
    whatever_is_killed("pipelined").await
}

#[tokio::test]
async fn large_payloads_are_stored_once_and_in_order_in_mode_durable() -> Result<()> {
    whatever_is_killed("durable").await
}

#[tokio::test]
async fn payloads_go_with_their_messages() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    let mut conn = world.conn().await?;
    for number in 0..6 {
        sized(number, LARGE).insert(&mut conn, TABLE).await?;
    }
    conn.disconnect().await?;
    world.await_messages(&mut bridge, STREAM, 6).await?;
    await_objects(&world, 6).await?;
    // Somebody else's object is none of the bridge's, parts of no object are nobody's.
    let store = world.jetstream.get_object_store(BUCKET).await?;
    store.put("report.pdf", &mut &b"mine"[..]).await?;
    world.jetstream.publish(format!("$O.{BUCKET}.C.BROKENOFF"), "half".into()).await?.await?;
    // A message that went to another sequence in the end leaves an object with the name of the first one.
    let elsewhere = format!("{STREAM}/5/0-1-1@binlog.000001:4/0");
    store.put(elsewhere.as_str(), &mut &b"needed no more"[..]).await?;

    let stream = world.jetstream.get_stream(STREAM).await?;
    stream.delete_message(3).await?;
    stream.purge().sequence(3).await?;
    eventually("the payloads of three messages to go", LIMIT, async || {
        Ok((subjects(&world, "M").await?.len() == 4).then_some(()))
    })
    .await?;
    // Three payloads, the object of somebody else, and no parts of none.
    await_objects(&world, 4).await?;
    let mut left = world.stored(STREAM).await?;
    ensure!(left.iter().map(|message| message.sequence).eq([4, 5, 6]), "{left:?}");
    for message in &mut left {
        message.fetch_body(&world.jetstream).await?;
        ensure!(message.body.len() > LARGE, "{}", message.body.len());
    }
    ensure!(store.info("report.pdf").await?.size == 4);
    bridge.await_metric("outbox_payloads_removed_total", 4.0).await?;
    ensure!(bridge.metric("outbox_payloads_removed_total").await? == 4.0);
    ensure!(bridge.metric("outbox_payloads_stored_total").await? == 6.0);
    // The description of what was deleted by name is removed too.
    store.delete("report.pdf").await?;
    await_objects(&world, 3).await?;
    bridge.finish().await
}

#[tokio::test]
async fn a_threshold_and_limits_that_change_decide_what_is_large() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world).set("claim_check.threshold", "64KiB")).await?;
    let mut conn = world.conn().await?;
    for (number, bytes) in [(0, 100_000), (1, 30_000), (2, 100_000)] {
        sized(number, bytes).insert(&mut conn, TABLE).await?;
    }
    world.await_messages(&mut bridge, STREAM, 3).await?;
    let stored = world.stored(STREAM).await?;
    ensure!(large(&stored)?.iter().map(|message| message.sequence).eq([1, 3]));
    // The stream takes less than the bridge was told.
    world.change_stream(|config| config.max_message_size = 20_000).await?;
    for (number, bytes) in [(3, 30_000), (4, 300), (5, 25_000)] {
        sized(number, bytes).insert(&mut conn, TABLE).await?;
    }
    conn.disconnect().await?;
    world.await_messages(&mut bridge, STREAM, 6).await?;
    let stored = world.stored(STREAM).await?;
    ensure!(large(&stored)?.iter().map(|message| message.sequence).eq([1, 3, 4, 6]));
    world.verify(&mut bridge, Order::Total).await?;
    bridge.finish().await
}

#[tokio::test]
async fn an_object_store_that_is_full_is_waited_for() -> Result<()> {
    let world = World::mysql().start().await?;
    let config =
        object_store::Config { bucket: BUCKET.to_owned(), max_bytes: 1_000_000, ..Default::default() };
    world.jetstream.create_object_store(config).await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    let mut conn = world.conn().await?;
    for (number, bytes) in [(0, 300), (1, LARGE), (2, 300)] {
        sized(number, bytes).insert(&mut conn, TABLE).await?;
    }
    conn.disconnect().await?;
    bridge.await_log("a message cannot be sent").await?;
    ensure!(world.last_sequence(STREAM).await == 1, "nothing overtakes it");
    ensure!(bridge.log().contains("maximum bytes exceeded"), "{}", bridge.log());
    let mut stream = objects(&world).await?.cached_info().config.clone();
    stream.max_bytes = -1;
    world.jetstream.update_stream(stream).await?;
    world.verify(&mut bridge, Order::Total).await?;
    await_objects(&world, 1).await?;
    bridge.finish().await
}

#[tokio::test]
async fn verify_compares_payloads_that_lie_elsewhere() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = settings(&world);
    let mut bridge = Bridge::start(&settings).await?;
    world.pass_the_start().await?;
    let mut conn = world.conn().await?;
    for number in 0..4 {
        sized(number, if number == 0 { 300 } else { LARGE }).insert(&mut conn, TABLE).await?;
    }
    conn.disconnect().await?;
    world.await_messages(&mut bridge, STREAM, 4).await?;
    let (code, text) = Bridge::once(&settings, &["verify"])?;
    ensure!(code == 0, "{code}: {text}");
    let stored = world.stored(STREAM).await?;
    let large = large(&stored)?;
    let name =
        |at: usize| anyhow::Ok(large.get(at).context("a message")?.data_ref()?.context("a payload")?.name);
    let store = world.jetstream.get_object_store(BUCKET).await?;
    store.put(name(0)?.as_str(), &mut &b"{}"[..]).await?;
    store.delete(name(1)?).await?;
    let (code, text) = Bridge::once(&settings, &["verify"])?;
    ensure!(code == 65 && text.contains("is gone") && text.contains("body"), "{code}: {text}");
    ensure!(
        text.contains("message 2") && text.contains("message 3") && !text.contains("message 4"),
        "{text}"
    );
    bridge.finish().await
}

/// Runs a consumer until `done`, and gives the length of each body that its handler saw.
async fn consume(
    world: &World,
    fails: bool,
    done: impl AsyncFn(&[usize]) -> Result<bool>,
) -> Result<Vec<usize>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = Arc::clone(&seen);
        move |body: Body| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().map_err(|_| HandlerError::permanent("poisoned"))?.push(body.0.len());
                if fails && body.0.len() > LARGE { Err(HandlerError::permanent("no")) } else { Ok(()) }
            }
        }
    };
    let router = Router::new().on("placed", handler);
    let consumer = Consumer::builder(world.nats.client().await?, STREAM, "stock")
        .retry(RetryPolicy { attempts_max: 3, initial: Duration::from_millis(10), ..RetryPolicy::default() })
        .build(MemoryInbox::new(), router)
        .await?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { consumer.run(shutdown).await }
    });
    let lengths = || seen.lock().map(|seen| seen.clone()).unwrap_or_default();
    let waited = eventually("the consumer", LIMIT, async || Ok(done(&lengths()).await?.then_some(()))).await;
    shutdown.cancel();
    running.await??;
    waited?;
    Ok(lengths())
}

#[tokio::test]
async fn handlers_see_no_difference_and_a_dead_letter_keeps_its_payload() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    let mut conn = world.conn().await?;
    for (number, bytes) in [(0, 300), (1, LARGE), (2, 300)] {
        sized(number, bytes).insert(&mut conn, TABLE).await?;
    }
    conn.disconnect().await?;
    world.await_messages(&mut bridge, STREAM, 3).await?;
    let letters = outbox_consumer::DeadLetters::open(world.nats.client().await?, STREAM, "stock").await?;
    let parked = async |_: &[usize]| Ok(!letters.list(0, 10).await?.is_empty());
    let seen = consume(&world, true, parked).await?;
    ensure!(seen.iter().filter(|length| **length > LARGE).count() == 1, "{seen:?}");
    // The message goes, and its payload with it; the letter has one of its own.
    await_objects(&world, 2).await?;
    world.jetstream.get_stream(STREAM).await?.purge().await?;
    await_objects(&world, 1).await?;
    let letter = letters.list(0, 10).await?.pop().context("a letter")?;
    letters.replay(letter.position).await?;
    let seen =
        consume(&world, false, async |seen: &[usize]| Ok(seen.iter().any(|length| *length > LARGE))).await?;
    ensure!(seen.len() == 1, "{seen:?}");
    ensure!(letters.list(0, 10).await?.is_empty());
    await_objects(&world, 0).await?;
    bridge.finish().await
}

#[tokio::test]
async fn a_payload_that_is_gone_makes_a_dead_letter_that_says_so() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    let mut conn = world.conn().await?;
    sized(0, LARGE).insert(&mut conn, TABLE).await?;
    world.await_messages(&mut bridge, STREAM, 1).await?;
    let store = world.jetstream.get_object_store(BUCKET).await?;
    let stored = world.stored(STREAM).await?;
    let reference = stored.first().context("a message")?.data_ref()?.context("a reference")?;
    store.delete(&reference.name).await?;
    sized(1, LARGE).insert(&mut conn, TABLE).await?;
    conn.disconnect().await?;
    let letters = outbox_consumer::DeadLetters::open(world.nats.client().await?, STREAM, "stock").await?;
    let done = async |seen: &[usize]| Ok(!letters.list(0, 10).await?.is_empty() && !seen.is_empty());
    let seen = consume(&world, false, done).await?;
    ensure!(seen.len() == 1, "the other one is handled: {seen:?}");
    let letter = letters.list(0, 10).await?.pop().context("a letter")?;
    ensure!(letter.reason.contains("is gone") && letter.attempts.len() == 3, "{}", letter.reason);
    letters.discard(letter.position).await?;
    bridge.finish().await
}
