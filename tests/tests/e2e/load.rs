//! Concurrent producers: the stream has the order of the commits.

use anyhow::{Result, ensure};
use outbox_bridge_tests::{Bridge, Load, LoadOptions, Order, World};
use testbed::Flavour;

/// Each transaction takes a ticket from a row that it keeps locked until its commit, so tickets tell the order of commits,
/// while the rows' own numbers tell that of the inserts.
async fn commit_order(flavour: Flavour) -> Result<()> {
    let world = World::of(flavour).start().await?;
    let mut bridge = world.bridge().await?;
    let options =
        LoadOptions { producers: 8, tickets: true, pause: std::time::Duration::ZERO, ..Default::default() };
    let load = Load::start(&world, &options).await?;
    load.await_more(1_000).await?;
    let transactions = load.stop().await?;
    ensure!(transactions >= 1_000);
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

#[tokio::test]
async fn commit_order_of_mysql() -> Result<()> {
    commit_order(Flavour::MySql).await
}

#[tokio::test]
async fn commit_order_of_mariadb() -> Result<()> {
    commit_order(Flavour::MariaDb).await
}

/// Transactions that commit together in groups, in both modes of publishing and with and without message ids.
#[tokio::test]
async fn everything_arrives_in_all_modes() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    for (mode, ids) in
        [("auto", true), ("fast", true), ("fast", false), ("pipelined", true), ("pipelined", false)]
    {
        bridge.stop().await?;
        bridge.configure(&world.settings().set("publish.mode", mode).set("publish.message_id", ids))?;
        bridge.relaunch().await?;
        let options = LoadOptions { producers: 6, pause: std::time::Duration::ZERO, ..Default::default() };
        let load = Load::start(&world, &options).await?;
        load.await_more(500).await?;
        load.stop().await?;
        let verified = world.verify(&mut bridge, Order::PerAggregate).await;
        verified.map_err(|error| error.context(format!("mode {mode}, message ids: {ids}")))?;
    }
    bridge.stop().await
}

/// A backlog is carried while applications go on.
#[tokio::test]
async fn a_backlog_is_caught_up_with() -> Result<()> {
    let world = World::mysql().start().await?;
    let options = LoadOptions { producers: 4, pause: std::time::Duration::ZERO, ..Default::default() };
    let load = Load::start(&world, &options).await?;
    load.await_more(1_500).await?;
    let mut bridge = Bridge::start(&world.settings().set("source.start", "earliest")).await?;
    load.await_more(300).await?;
    load.stop().await?;
    world.verify(&mut bridge, Order::PerAggregate).await?;
    bridge.stop().await
}
