//! The continuous audit finds what is planted, and nothing else.

use anyhow::{Result, ensure};
use async_nats::jetstream::stream;
use outbox_bridge_tests::{Bridge, Load, LoadOptions, Outbox, STREAM, Settings, TABLE, World};
use testbed::Flavour;

fn settings(world: &World) -> Settings {
    world.settings().set("audit.interval", "300ms").set("checkpoint.interval", "100ms")
}

/// Waits until so many more rows have been compared.
async fn await_checked(bridge: &mut Bridge, more: f64) -> Result<()> {
    let checked = bridge.metric("outbox_audit_checked_rows_total").await?;
    bridge.await_metric("outbox_audit_checked_rows_total", checked + more).await
}

async fn expect(bridge: &Bridge, missing: f64, doubled: f64, reordered: f64) -> Result<()> {
    for (name, expected) in [("missing", missing), ("doubled", doubled), ("reordered", reordered)] {
        let found = bridge.metric(&format!("outbox_audit_{name}_total")).await?;
        ensure!(found == expected, "{found} {name} instead of {expected}\n{}", bridge.log());
    }
    Ok(())
}

async fn what_is_planted_is_found(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    world.pass_the_start().await?;
    world.insert(0..30).await?;
    await_checked(&mut bridge, 60.0).await?;
    expect(&bridge, 0.0, 0.0, 0.0).await?;

    world.jetstream.get_stream(STREAM).await?.delete_message(12).await?;
    bridge.await_metric("outbox_audit_missing_total", 1.0).await?;
    let rounds = 3.0 * 30.0;
    await_checked(&mut bridge, rounds).await?;
    expect(&bridge, 1.0, 0.0, 0.0).await?;

    // The writers would refuse to go on behind it, so the bridge has nothing to do meanwhile.
    let stored = world.stored(STREAM).await?;
    let last = stored.last().expect("a message").clone();
    let client = world.nats.client().await?;
    last.publish_again(&client, last.body.clone()).await?;
    bridge.await_metric("outbox_audit_doubled_total", 1.0).await?;
    await_checked(&mut bridge, rounds).await?;
    expect(&bridge, 1.0, 1.0, 0.0).await?;

    // An earlier one behind later ones is a double and out of order; that is told of the one before.
    let early = stored.first().expect("a message").clone();
    early.publish_again(&client, early.body.clone()).await?;
    bridge.await_metric("outbox_audit_reordered_total", 1.0).await?;
    await_checked(&mut bridge, rounds).await?;
    ensure!(bridge.metric("outbox_audit_missing_total").await? == 1.0, "{}", bridge.log());
    ensure!(bridge.metric("outbox_audit_doubled_total").await? == 2.0, "{}", bridge.log());
    ensure!(bridge.metric("outbox_audit_errors_total").await? == 0.0, "{}", bridge.log());
    bridge.kill()
}

#[tokio::test]
async fn what_is_planted_is_found_with_mysql() -> Result<()> {
    what_is_planted_is_found(Flavour::MySql).await
}

#[tokio::test]
async fn what_is_planted_is_found_with_mariadb() -> Result<()> {
    what_is_planted_is_found(Flavour::MariaDb).await
}

/// What a stream drops at its beginning, what its consumers take away, and rows from before the bridge's start are not missing.
#[tokio::test]
async fn what_went_its_way_is_not_missing() -> Result<()> {
    let world = World::mysql().start().await?;
    world.insert(0..10).await?;
    let mut bridge = Bridge::start(&settings(&world)).await?;
    world.pass_the_start().await?;
    world.insert(10..30).await?;
    world.await_messages(&mut bridge, STREAM, 20).await?;
    world.jetstream.get_stream(STREAM).await?.purge().keep(5).await?;
    world.insert(30..40).await?;
    await_checked(&mut bridge, 60.0).await?;
    expect(&bridge, 0.0, 0.0, 0.0).await?;
    bridge.stop().await?;

    let world = World::mysql().start().await?;
    let stream = world.retain(stream::RetentionPolicy::WorkQueue).await?;
    let mut bridge = Bridge::start(&settings(&world).set("audit.rows", 10)).await?;
    world.pass_the_start().await?;
    world.insert(0..20).await?;
    world.await_messages(&mut bridge, STREAM, 20).await?;
    stream.delete_message(7).await?;
    // Two more rounds, which the log tells of nothing; an error would be counted.
    for _ in 0..2 {
        world.pass_the_start().await?;
    }
    expect(&bridge, 0.0, 0.0, 0.0).await?;
    ensure!(bridge.metric("outbox_audit_errors_total").await? == 0.0, "{}", bridge.log());
    bridge.stop().await
}

/// Under a load, with clean-up, while the bridge, NATS and MySQL die, the audit finds nothing.
#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() -> Result<()> {
    let outbox = Outbox::standard().set("retention", "3s");
    let mut world = World::mysql().durable().outbox(outbox).start().await?;
    world.database.exec(&format!("GRANT DELETE ON {TABLE} TO 'bridge'@'%'")).await?;
    let settings = settings(&world).set("cleanup.interval", "300ms");
    let mut bridge = Bridge::start(&settings).await?;
    world.pass_the_start().await?;
    let load = Load::start(&world, &LoadOptions::default()).await?;
    let (mut found, names) = (0.0, ["missing", "doubled", "reordered"]);
    for round in 0..3 {
        load.await_more(40).await?;
        await_checked(&mut bridge, 200.0).await?;
        match round {
            0 => world.nats.restart().await?,
            1 => world.database.restart().await?,
            _ => {
                for name in names {
                    found += bridge.metric(&format!("outbox_audit_{name}_total")).await?;
                }
                bridge.kill()?;
                bridge.relaunch().await?;
            }
        }
    }
    load.await_more(40).await?;
    await_checked(&mut bridge, 200.0).await?;
    load.stop().await?;
    ensure!(found == 0.0, "{found} were found\n{}", bridge.log());
    expect(&bridge, 0.0, 0.0, 0.0).await?;
    bridge.stop().await
}
