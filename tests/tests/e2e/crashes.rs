//! Everything dies, stalls and comes back under load; in the end nothing is missing and nothing is there twice.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outbox_bridge_tests::{Bridge, Load, LoadOptions, Order, STREAM, Settings, World};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use testbed::{Direction, FaultyProxy, Flavour, Nats, eventually};

/// A source of randomness whose seed is printed, for a failure to be looked into.
fn seeded() -> (u64, SmallRng) {
    let seed = rand::random();
    println!("seed {seed}");
    (seed, SmallRng::seed_from_u64(seed))
}

fn load(seed: u64) -> LoadOptions {
    LoadOptions { producers: 4, tickets: true, seed, ..LoadOptions::default() }
}

/// Waits until the stream has grown, so that a fault meets a bridge at work.
async fn await_progress(world: &World, bridge: &mut Bridge) -> Result<()> {
    let before = world.last_sequence(STREAM).await;
    world.await_messages(bridge, STREAM, before + 20).await
}

async fn a_hundred_kills(flavour: Flavour, mode: &str) -> Result<()> {
    let (seed, mut random) = seeded();
    let world = World::of(flavour).start().await?;
    let settings = world.settings().set("publish.mode", mode).set("checkpoint.interval", "100ms");
    let mut bridge = Bridge::start(&settings).await?;
    let load = Load::start(&world, &load(seed)).await?;
    for _ in 0..100 {
        // The moment is what this test is about: in the start, in the middle, in a checkpoint.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
        bridge.kill()?;
        bridge.launch()?;
    }
    ensure!(world.last_sequence(STREAM).await > 500, "the bridge gets on between its deaths");
    load.stop().await?;
    bridge.await_ready().await?;
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

#[tokio::test]
async fn a_hundred_kills_with_mysql() -> Result<()> {
    a_hundred_kills(Flavour::MySql, "fast").await
}

#[tokio::test]
async fn a_hundred_kills_with_mariadb() -> Result<()> {
    a_hundred_kills(Flavour::MariaDb, "pipelined").await
}

#[tokio::test]
async fn a_hundred_kills_in_mode_durable() -> Result<()> {
    a_hundred_kills(Flavour::MySql, "durable").await
}

async fn nats_dies(mode: &str, nats: testbed::NatsBuilder) -> Result<()> {
    let (seed, mut random) = seeded();
    let mut builder = World::mysql().nats(nats);
    if mode == "pipelined" {
        builder = builder.without_batches();
    }
    let mut world = builder.start().await?;
    let mut bridge = Bridge::start(&world.settings().set("publish.mode", mode)).await?;
    let load = Load::start(&world, &load(seed)).await?;
    for round in 0..6 {
        await_progress(&world, &mut bridge).await?;
        match round {
            2 => {
                // A server that is there and says nothing.
                world.nats.pause()?;
                load.await_more(random.random_range(50..300)).await?;
                world.nats.resume()?;
            }
            4 => world.nats.restart().await?,
            _ => {
                world.nats.kill().await?;
                load.await_more(random.random_range(0..100)).await?;
                world.nats.start().await?;
            }
        }
    }
    load.stop().await?;
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

#[tokio::test]
async fn nats_dies_in_fast_mode() -> Result<()> {
    nats_dies("fast", Nats::builder()).await
}

#[tokio::test]
async fn nats_dies_in_pipelined_mode() -> Result<()> {
    nats_dies("pipelined", Nats::builder()).await
}

#[tokio::test]
async fn an_old_nats_dies() -> Result<()> {
    nats_dies("pipelined", Nats::builder().version("2.10")).await
}

async fn the_database_dies(flavour: Flavour) -> Result<()> {
    let (seed, mut random) = seeded();
    let mut world = World::of(flavour).durable().start().await?;
    let mut bridge = world.bridge().await?;
    let load = Load::start(&world, &load(seed)).await?;
    for round in 0..4 {
        await_progress(&world, &mut bridge).await?;
        load.await_more(random.random_range(0..50)).await?;
        if round == 2 {
            world.database.pause()?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            world.database.resume()?;
        } else {
            world.database.kill().await?;
            world.database.start().await?;
        }
    }
    load.await_more(50).await?;
    load.stop().await?;
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

#[tokio::test]
async fn mysql_dies() -> Result<()> {
    the_database_dies(Flavour::MySql).await
}

#[tokio::test]
async fn mariadb_dies() -> Result<()> {
    the_database_dies(Flavour::MariaDb).await
}

/// The connections of both sides are cut, stalled, slowed and truncated.
async fn connections_fail(mode: &str) -> Result<()> {
    let (seed, mut random) = seeded();
    let world = World::mysql().start().await?;
    let database = FaultyProxy::start(world.database.port()).await?;
    let nats = FaultyProxy::start(world.nats.port()).await?;
    let settings = world
        .settings()
        .set("publish.mode", mode)
        .set("source.url", world.database_url_at(database.port()))
        .set("nats.url", format!("nats://127.0.0.1:{}", nats.port()));
    let mut bridge = Bridge::start(&settings).await?;
    let load = Load::start(&world, &load(seed)).await?;
    for round in 0..24 {
        let proxy = if round % 2 == 0 { &database } else { &nats };
        await_progress(&world, &mut bridge).await?;
        let direction = if random.random() { Direction::ToServer } else { Direction::ToClient };
        match (round / 2) % 6 {
            0 => proxy.cut(),
            1 => proxy.cut_after(direction, random.random_range(1..20_000)),
            2 => proxy.stall(),
            3 => proxy.down().await?,
            4 => proxy.throttle(direction, Some(20_000)),
            _ => proxy.delay(direction, Duration::from_millis(random.random_range(50..400))),
        }
        load.await_more(random.random_range(20..200)).await?;
        proxy.pass().await?;
    }
    load.stop().await?;
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

#[tokio::test]
async fn connections_fail_in_fast_mode() -> Result<()> {
    connections_fail("fast").await
}

#[tokio::test]
async fn connections_fail_in_pipelined_mode() -> Result<()> {
    connections_fail("pipelined").await
}

/// A half-open connection: it is noticed, shown, and replaced.
#[tokio::test]
async fn a_stalled_connection_shows_in_readiness() -> Result<()> {
    let world = World::mysql().start().await?;
    let limit = Duration::from_secs(30);
    for side in ["source", "nats"] {
        let database = FaultyProxy::start(world.database.port()).await?;
        let nats = FaultyProxy::start(world.nats.port()).await?;
        let settings = world
            .settings()
            .set("source.url", world.database_url_at(database.port()))
            .set("source.heartbeat", "500ms")
            .set("nats.url", format!("nats://127.0.0.1:{}", nats.port()));
        let mut bridge = Bridge::start(&settings).await?;
        world.verify(&mut bridge, Order::Total).await?;
        let proxy = if side == "source" { &database } else { &nats };
        proxy.stall();
        eventually("the bridge to be unready", limit, async || Ok((!bridge.is_ready().await).then_some(())))
            .await
            .with_context(|| format!("{side} is stalled"))?;
        proxy.pass().await?;
        bridge.await_ready().await?;
        world.verify(&mut bridge, Order::Total).await?;
        bridge.stop().await?;
    }
    Ok(())
}

/// The bridge is started before the servers are there, and waits for them.
#[tokio::test]
async fn servers_that_come_later() -> Result<()> {
    let mut world = World::mysql().start().await?;
    world.database.stop().await?;
    world.nats.stop().await?;
    let mut bridge = Bridge::spawn(&world.settings())?;
    let limit = Duration::from_secs(20);
    for nats in [true, false] {
        let before = bridge.log().len();
        eventually("the bridge to complain", limit, async || {
            bridge.check_running()?;
            let log = bridge.log();
            let news = log.get(before..).unwrap_or_default();
            Ok((news.contains("WARN") && news.contains("refused")).then_some(()))
        })
        .await?;
        ensure!(!bridge.is_ready().await);
        if nats {
            world.nats.start().await?;
        } else {
            world.database.start().await?;
        }
    }
    bridge.await_ready().await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_does_not() -> Result<()> {
    let (seed, _) = seeded();
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    let load = Load::start(&world, &load(seed)).await?;
    for _ in 0..5 {
        await_progress(&world, &mut bridge).await?;
        let begin = std::time::Instant::now();
        bridge.stop().await?;
        ensure!(begin.elapsed() < Duration::from_secs(3), "draining took {:?}", begin.elapsed());
        bridge.relaunch().await?;
    }
    await_progress(&world, &mut bridge).await?;
    // Now there is something that cannot be drained.
    world.nats.pause()?;
    load.await_more(20).await?;
    let drains = |bridge: &Bridge| bridge.log().matches("a second signal stops at once").count();
    let before = drains(&bridge);
    bridge.signal(rustix::process::Signal::TERM)?;
    eventually("the bridge to drain", Duration::from_secs(5), async || {
        bridge.check_running()?;
        Ok((drains(&bridge) > before).then_some(()))
    })
    .await?;
    bridge.signal(rustix::process::Signal::TERM)?;
    let code = bridge.exit_code(Duration::from_secs(2)).await?;
    ensure!(code == 143, "exit code {code}");
    world.nats.resume()?;

    // Or not before the deadline.
    bridge.configure(&world.settings().set("shutdown.deadline", "500ms"))?;
    bridge.relaunch().await?;
    await_progress(&world, &mut bridge).await?;
    world.nats.pause()?;
    load.await_more(20).await?;
    bridge.signal(rustix::process::Signal::TERM)?;
    let code = bridge.exit_code(Duration::from_secs(8)).await?;
    world.nats.resume()?;
    ensure!(code == 69, "exit code {code}");
    load.stop().await?;
    bridge.relaunch().await?;
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

/// Somebody else writes into the stream: noticed and refused, neither overwritten nor looped on.
async fn a_foreign_message(mode: &str) -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&world.settings().set("publish.mode", mode)).await?;
    world.insert(0..10).await?;
    world.verify(&mut bridge, Order::Total).await?;
    world.jetstream.publish("orders.foreign", "not yours".into()).await?.await?;
    world.insert(10..20).await?;
    bridge.refuses(&[STREAM]).await?;
    let count = world.last_sequence(STREAM).await;
    // It stays so.
    bridge.launch()?;
    bridge.refuses(&[STREAM]).await?;
    ensure!(world.last_sequence(STREAM).await == count, "nothing is written after a foreign message");
    ensure!(count == 12, "{count} messages");
    Ok(())
}

#[tokio::test]
async fn a_foreign_message_in_fast_mode() -> Result<()> {
    a_foreign_message("fast").await
}

#[tokio::test]
async fn a_foreign_message_in_pipelined_mode() -> Result<()> {
    a_foreign_message("pipelined").await
}

/// Whoever purges a foreign message away leaves a sequence that nobody can account for: it is not taken for a row.
#[tokio::test]
async fn a_purge_after_a_foreign_message_hides_no_row() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..10).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await?;
    world.jetstream.publish("orders.foreign", "not yours".into()).await?.await?;
    world.insert(10..20).await?;
    bridge.launch()?;
    bridge.refuses(&[STREAM]).await?;
    world.jetstream.get_stream(STREAM).await?.purge().await?;
    bridge.launch()?;
    bridge.refuses(&["stored 1 message(s) after"]).await
}

/// The stream's last message is deleted by hand: the bridge goes on behind it.
#[tokio::test]
async fn a_deleted_last_message_is_gone_on_behind() -> Result<()> {
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    world.insert(0..10).await?;
    world.verify(&mut bridge, Order::Total).await?;
    bridge.stop().await?;
    let last = world.last_sequence(STREAM).await;
    world.jetstream.get_stream(STREAM).await?.delete_message(last).await?;
    world.insert(10..20).await?;
    bridge.relaunch().await?;
    world.await_messages(&mut bridge, STREAM, 19).await?;
    ensure!(world.last_sequence(STREAM).await == last + 10, "each row is stored once");
    bridge.stop().await
}

/// A checkpoint is a hint: without it the stream's last message says where to go on.
#[tokio::test]
async fn a_lost_checkpoint_is_made_anew() -> Result<()> {
    let (seed, _) = seeded();
    let world = World::mysql().start().await?;
    let mut bridge = world.bridge().await?;
    let load = Load::start(&world, &load(seed)).await?;
    for round in 0..3 {
        await_progress(&world, &mut bridge).await?;
        match round {
            0 => bridge.kill()?,
            1 => bridge.stop().await?,
            _ => {}
        }
        world.jetstream.delete_key_value("OUTBOX_BRIDGE").await?;
        if round == 2 {
            // While it runs.
            await_progress(&world, &mut bridge).await?;
            bridge.stop().await?;
        }
        load.await_more(30).await?;
        world.database.exec("FLUSH BINARY LOGS").await?;
        bridge.relaunch().await?;
    }
    load.stop().await?;
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

/// The stream comes back in an older state, as after a power cut or from a backup: it is filled again from the log.
async fn a_stream_put_back(mode: &str, running: bool, whole_store: bool) -> Result<()> {
    let mut world = World::mysql().start().await?;
    let mut bridge = Bridge::start(&settings(&world, mode)).await?;
    let load = Load::start(&world, &load(1)).await?;
    await_progress(&world, &mut bridge).await?;
    let store = world.nats.store_dir();
    let folder = if whole_store { store } else { store.join("jetstream/$G/streams").join(STREAM) };
    let copies = tempfile::tempdir()?;
    let copy = copies.path().join("copy");
    world.nats.stop().await?;
    copy_folder(&folder, &copy)?;
    world.nats.start().await?;
    for _ in 0..5 {
        await_progress(&world, &mut bridge).await?;
    }
    if !running {
        bridge.stop().await?;
    }
    world.nats.stop().await?;
    std::fs::remove_dir_all(&folder)?;
    copy_folder(&copy, &folder)?;
    world.nats.start().await?;
    if !running {
        bridge.relaunch().await?;
    }
    load.await_more(30).await?;
    load.stop().await?;
    world.verify_tickets(&mut bridge).await?;
    bridge.stop().await
}

fn settings(world: &World, mode: &str) -> Settings {
    world.settings().set("publish.mode", mode)
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_put_back_while_the_bridge_runs() -> Result<()> {
    a_stream_put_back("fast", true, false).await
}

#[tokio::test]
async fn a_stream_put_back_while_the_bridge_is_down() -> Result<()> {
    a_stream_put_back("pipelined", false, false).await
}

#[tokio::test]
async fn a_store_put_back_while_the_bridge_runs() -> Result<()> {
    a_stream_put_back("pipelined", true, true).await
}

#[tokio::test]
async fn a_store_put_back_while_the_bridge_is_down() -> Result<()> {
    a_stream_put_back("fast", false, true).await
}
