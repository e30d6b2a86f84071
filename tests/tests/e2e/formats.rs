//! What a newer bridge has written is refused by this one, with words that tell what to do, and left as it is.

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use outbox_bridge_tests::{Bridge, Order, STREAM, World};
use outbox_event::header;
use serde_json::Value;
use std::time::Duration;

const CONFIGURATION: i32 = 78;
const KEY: &str = "outbox-bridge";

/// Expects that the bridge stops for good, saying all of `words`, and that `check` says so too.
async fn refused(world: &World, bridge: &mut Bridge, words: &[&str]) -> Result<()> {
    bridge.launch()?;
    let code = bridge.exit_code(Duration::from_secs(60)).await?;
    let log = bridge.log();
    let error = log.lines().rfind(|line| line.contains("ERROR")).unwrap_or_default();
    ensure!(code == CONFIGURATION && words.iter().all(|word| error.contains(word)), "{code}: {error}");
    let (code, text) = Bridge::once(&world.settings(), &["check"])?;
    ensure!(code != 0 && words.iter().all(|word| text.contains(word)), "{code}: {text}");
    Ok(())
}

#[tokio::test]
async fn a_newer_checkpoint_is_refused_until_it_is_gone() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..5).await?;
    world.await_messages(&mut bridge, STREAM, 5).await?;
    bridge.stop().await?;

    let bucket = world.jetstream.get_key_value("OUTBOX_BRIDGE").await?;
    let written = bucket.get(KEY).await?.context("a checkpoint")?;
    let mut newer: Value = serde_json::from_slice(&written)?;
    ensure!(newer.get("version") == Some(&1.into()), "{newer}");
    // An addition that older bridges may ignore comes without a new version.
    newer.as_object_mut().context("an object")?.insert("addition".into(), 7.into());
    bucket.put(KEY, newer.to_string().into()).await?;
    bridge.relaunch().await?;
    world.insert(5..10).await?;
    world.await_messages(&mut bridge, STREAM, 10).await?;
    bridge.stop().await?;

    // Of another format nothing but its number is known.
    let newer = r#"{"version": 99, "point": "elsewhere"}"#;
    bucket.put(KEY, newer.into()).await?;
    let words = ["format 99", "knows formats up to", "run that version"];
    refused(&world, &mut bridge, &words).await?;
    ensure!(bucket.get(KEY).await?.context("a checkpoint")? == newer, "the newer checkpoint is left alone");

    // The way back, as the guide has it.
    bucket.delete(KEY).await?;
    world.insert(10..15).await?;
    bridge.relaunch().await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.finish().await
}

#[tokio::test]
async fn a_stream_that_ends_with_a_newer_message_is_refused() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..5).await?;
    world.await_messages(&mut bridge, STREAM, 5).await?;
    bridge.stop().await?;
    let last = world.stored(STREAM).await?.pop().context("a message")?;
    ensure!(last.header(header::FORMAT).is_empty(), "format 1 goes without saying");
    let mut headers = HeaderMap::new();
    headers.insert(header::CE_ID, "newer");
    headers.insert(header::POSITION, "of another form");
    headers.insert(header::FORMAT, (header::FORMAT_VERSION + 1).to_string().as_str());
    world.jetstream.publish_with_headers(last.subject, headers, "{}".into()).await?.await?;
    refused(&world, &mut bridge, &["message 6", "of format", "run that version"]).await?;
    ensure!(world.last_sequence(STREAM).await == 6, "nothing was published behind it");
    Ok(())
}
