//! Servers that say what is damaged: the bridge neither panics nor hangs nor grows, and publishes nothing that is wrong.

use std::time::Duration;

use anyhow::{Result, ensure};
use outbox_bridge_tests::{Bridge, Load, LoadOptions, Settings, World};
use testbed::{DamagingProxy, eventually};

/// So many pieces are damaged before the servers are sound again.
const DAMAGES: u64 = 40;
const MEMORY_BYTES_MAX: u64 = 128 << 20;
const LIMIT: Duration = Duration::from_secs(120);

/// Runs a load through damaged connections. A bridge that stops because of what it heard is started again, as a supervisor
/// would; that it stops is one of the right answers.
async fn survives(
    world: &World,
    settings: &Settings,
    proxy: &DamagingProxy,
    spared_bytes: u64,
) -> Result<()> {
    let mut bridge = Bridge::start(settings).await?;
    let load = Load::start(world, &LoadOptions { tickets: true, ..LoadOptions::default() }).await?;
    proxy.damage(50, spared_bytes);
    let mut launches = 1;
    eventually("the connection to be damaged", LIMIT, async || {
        if bridge.check_running().is_err() {
            launches += 1;
            bridge.launch()?;
        }
        Ok((proxy.damaged() >= DAMAGES).then_some(()))
    })
    .await
    .map_err(|error| bridge.explain(error))?;
    proxy.damage(0, 0);
    load.stop().await?;
    // What it heard last may still make it stop.
    eventually("the bridge to be ready", LIMIT, async || {
        if bridge.check_running().is_err() {
            launches += 1;
            bridge.launch()?;
        }
        Ok(bridge.is_ready().await.then_some(()))
    })
    .await
    .map_err(|error| bridge.explain(error))?;
    println!("{} damages, {launches} launches", proxy.damaged());
    let memory = bridge.memory_peak_bytes()?;
    ensure!(memory < MEMORY_BYTES_MAX, "{} MiB were resident", memory >> 20);
    world.verify_tickets(&mut bridge).await?;
    let log = bridge.log();
    ensure!(!log.contains("panicked"), "{log}");
    bridge.finish().await
}

/// The dump of the log is damaged, not what is asked for before: only events have checksums.
#[tokio::test]
async fn a_damaged_dump() -> Result<()> {
    let world = World::mysql().start().await?;
    let proxy = DamagingProxy::start(world.database.port(), 1).await?;
    // TLS would find the damage before the bridge does.
    let settings = world
        .settings()
        .set("source.url", world.database_url_at(proxy.port()))
        .set("source.tls.mode", "disabled");
    survives(&world, &settings, &proxy, 4_000).await
}

#[tokio::test]
async fn a_damaged_dump_of_mariadb() -> Result<()> {
    let world = World::mariadb().start().await?;
    let proxy = DamagingProxy::start(world.database.port(), 2).await?;
    let settings = world.settings().set("source.url", world.database_url_at(proxy.port()));
    survives(&world, &settings, &proxy, 4_000).await
}

/// What NATS says has no checksums, so no single bits are flipped here; what it says then breaks off or does not fit.
#[tokio::test]
async fn damaged_words_of_nats() -> Result<()> {
    let world = World::mysql().start().await?;
    let proxy = DamagingProxy::start(world.nats.port(), 3).await?;
    proxy.keep_bits();
    let settings = world.settings().set("nats.url", format!("nats://127.0.0.1:{}", proxy.port()));
    survives(&world, &settings, &proxy, 2_000).await
}
