//! What a consumer finds and makes on the server.

use std::time::Duration;

use anyhow::Result;
use outbox_consumer::{Consumer, ConsumerErrorKind, Router, StartAt};

use crate::support::{TestInbox, World};

fn router() -> Router<TestInbox> {
    Router::new().on("placed", async || {})
}

#[tokio::test]
async fn a_durable_that_differs_is_reported_and_left_alone() -> Result<()> {
    let world = World::new().await?;
    drop(world.builder().build(world.inbox.clone(), router()).await?);
    drop(world.builder().build(world.inbox.clone(), router()).await?);
    let other = world.builder().ack_wait(Duration::from_secs(7)).filter_subjects(["orders.placed"]);
    let error = other.build(world.inbox.clone(), router()).await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Durable);
    let text = error.to_string();
    assert!(text.contains("ack_wait is 2s, the settings say 7s"), "{text}");
    assert!(text.contains("filter_subjects is [], the settings say [\"orders.placed\"]"), "{text}");
    let info = world.context.get_stream("ORDERS").await?.consumer_info("stock").await?;
    assert_eq!(info.config.ack_wait, Duration::from_secs(2));
    Ok(())
}

#[tokio::test]
async fn a_deleted_durable_ends_the_run() -> Result<()> {
    let world = World::new().await?;
    let running = world.start(world.builder(), router()).await?;
    world.publish("a", "placed", "k", "{}").await?;
    world.until_settled().await?;
    world.context.get_stream("ORDERS").await?.delete_consumer("stock").await?;
    let error = running.ended().await.unwrap_err().downcast::<outbox_consumer::ConsumerError>()?;
    assert_eq!(error.kind(), ConsumerErrorKind::Durable);
    Ok(())
}

#[tokio::test]
async fn what_makes_no_sense_is_told_at_once() -> Result<()> {
    let world = World::new().await?;
    let builder = Consumer::builder(world.client.clone(), "OR.DERS", "stock").concurrency(0);
    let error = builder.build(world.inbox.clone(), Router::new()).await.unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Settings);
    for part in ["the stream's name", "concurrency", "no handlers"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = Consumer::builder(world.client.clone(), "NOWHERE", "stock")
        .build(world.inbox.clone(), router())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ConsumerErrorKind::Stream);
    Ok(())
}

#[tokio::test]
async fn a_consumer_can_begin_at_what_is_new() -> Result<()> {
    let world = World::new().await?;
    world.publish("old", "placed", "k", "{}").await?;
    let handler = async |mut tx: outbox_consumer::Tx<TestInbox>, context: outbox_consumer::Context| {
        tx.effect(context.message_id());
    };
    let running =
        world.start(world.builder().start_at(StartAt::New), Router::new().on("placed", handler)).await?;
    world.publish("new", "placed", "k", "{}").await?;
    assert_eq!(world.until_effects(1).await?, ["new"]);
    running.stop().await
}
