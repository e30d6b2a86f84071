//! Several bridges of one name: one carries the events, the others stand by and take over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outbox_bridge_tests::{Bridge, Load, LoadOptions, Order, STREAM, Settings, World};
use rustix::process::Signal;
use testbed::eventually;

const TTL: Duration = Duration::from_secs(3);

fn settings(world: &World) -> Settings {
    world.settings().set("lease.ttl", "3s").set("checkpoint.interval", "100ms")
}

/// Waits until the bridge has this role.
async fn await_role(bridge: &mut Bridge, role: &str, limit: Duration) -> Result<Duration> {
    let begin = Instant::now();
    let wanted = format!("\"role\":\"{role}\"");
    eventually(&format!("a {role}"), limit, async || {
        bridge.check_running()?;
        Ok(bridge.get("/readyz").await.ok().filter(|answer| answer.contains(&wanted)))
    })
    .await?;
    Ok(begin.elapsed())
}

async fn await_more(world: &World, count: u64) -> Result<()> {
    let from = world.last_sequence(STREAM).await;
    eventually("events to arrive", Duration::from_secs(30), async || {
        Ok((world.last_sequence(STREAM).await >= from + count).then_some(()))
    })
    .await
}

/// Killed, stopped in good order, and frozen: each time another one takes over, in time, and nothing is lost or doubled.
#[tokio::test]
async fn the_next_takes_over() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = settings(&world);
    let mut leader = Bridge::start(&settings).await?;
    await_role(&mut leader, "leader", Duration::from_secs(5)).await?;
    let load = Load::start(&world, &LoadOptions { tickets: true, ..LoadOptions::default() }).await?;
    for round in 0..6 {
        let mut standby = Bridge::start(&settings).await?;
        await_role(&mut standby, "standby", Duration::from_secs(5)).await?;
        ensure!(standby.get("/readyz").await?.contains("process "), "it says who leads");
        ensure!(standby.metric("outbox_leader_state").await? == 0.0);
        await_more(&world, 20).await?;
        match round % 3 {
            0 => {
                leader.kill()?;
                let after = await_role(&mut standby, "leader", TTL + Duration::from_secs(2)).await?;
                println!("killed: {after:?}");
            }
            1 => {
                leader.stop().await?;
                let after = await_role(&mut standby, "leader", Duration::from_secs(2)).await?;
                println!("stopped: {after:?}");
            }
            _ => {
                leader.pause()?;
                await_role(&mut standby, "leader", TTL + Duration::from_secs(2)).await?;
                await_more(&world, 20).await?;
                // It believes itself the leader for a moment more.
                leader.resume()?;
                await_role(&mut leader, "standby", Duration::from_secs(5)).await?;
                await_more(&world, 20).await?;
                leader.stop().await?;
            }
        }
        ensure!(standby.metric("outbox_leader_state").await? == 1.0);
        await_more(&world, 20).await?;
        leader = standby;
    }
    load.stop().await?;
    world.verify_tickets(&mut leader).await?;
    leader.stop().await
}

/// `outbox-bridge status` before, while and after a bridge leads, and without its servers.
#[tokio::test]
async fn status_tells_who_leads_and_how_far_it_is() -> Result<()> {
    let mut world = World::mysql().start().await?;
    let mut bridge = Bridge::spawn(&settings(&world))?;
    await_role(&mut bridge, "leader", Duration::from_secs(10)).await?;
    bridge.await_ready().await?;
    world.insert(0..5).await?;
    world.verify(&mut bridge, Order::Total).await?;
    let status = eventually("the checkpoint to follow", Duration::from_secs(5), async || {
        let (code, text) = bridge.command(&["status"])?;
        ensure!(code == 0, "{code}: {text}");
        // It names the beginning of the last transaction.
        let bytes =
            text.split(" bytes from the checkpoint on").next().and_then(|text| text.rsplit(' ').next());
        let bytes = bytes.and_then(|bytes| bytes.parse::<u64>().ok());
        Ok(bytes.filter(|bytes| (1..1_500).contains(bytes)).map(|_| text.clone()))
    })
    .await?;
    for words in [
        "led by process ",
        "checkpoint       binlog.",
        "stream ORDERS    6 messages",
        "the last is 6, stored ",
    ] {
        ensure!(status.contains(words), "{words:?} is missing: {status}");
    }
    let (code, json) = bridge.command(&["status", "--json"])?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(code == 0 && json.pointer("/streams/ORDERS/last_sequence") == Some(&6.into()), "{json}");
    bridge.stop().await?;
    let (code, text) = bridge.command(&["status"])?;
    ensure!(code == 69 && text.contains("nobody leads") && text.contains("6 messages"), "{code}: {text}");
    world.database.kill().await?;
    world.nats.kill().await?;
    let (code, text) = bridge.command(&["status"])?;
    ensure!(code == 69 && text.contains("not known: cannot connect to NATS"), "{code}: {text}");
    ensure!(text.contains("checkpoint       not known\n"), "{text}");
    ensure!(text.contains("cannot connect to the server"), "{text}");
    Ok(())
}

/// NATS is away for longer than the lease lives: nobody leads then, and afterwards one does.
#[tokio::test]
async fn an_outage_of_nats_leaves_one_leader() -> Result<()> {
    let mut world = World::mysql().start().await?;
    let settings = settings(&world);
    let mut first = Bridge::start(&settings).await?;
    let mut second = Bridge::start(&settings).await?;
    await_role(&mut second, "standby", Duration::from_secs(5)).await?;
    let load = Load::start(&world, &LoadOptions { tickets: true, ..LoadOptions::default() }).await?;
    await_more(&world, 20).await?;
    world.nats.kill().await?;
    tokio::time::sleep(TTL * 2).await;
    for bridge in [&first, &second] {
        ensure!(bridge.get("/readyz").await?.starts_with("HTTP/1.1 503"), "without NATS nobody is ready");
    }
    world.nats.start().await?;
    await_more(&world, 100).await?;
    let leads = async |bridge: &Bridge| anyhow::Ok(bridge.metric("outbox_leader_state").await? == 1.0);
    ensure!(leads(&first).await? != leads(&second).await?, "exactly one leads");
    load.stop().await?;
    let leader = if leads(&first).await? { &mut first } else { &mut second };
    world.verify_tickets(leader).await?;
    first.stop().await?;
    second.stop().await
}

/// The process is dead, but its number is not free, as if it had run on another host: the lease must live to its end.
#[tokio::test]
async fn a_dead_leader_elsewhere_is_followed_after_its_lease() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = settings(&world);
    let mut leader = Bridge::start(&settings).await?;
    let mut standby = Bridge::start(&settings).await?;
    await_role(&mut standby, "standby", Duration::from_secs(5)).await?;
    let load = Load::start(&world, &LoadOptions { tickets: true, ..LoadOptions::default() }).await?;
    await_more(&world, 20).await?;
    // Nobody waits for it, so it stays in the list of processes.
    leader.signal(Signal::KILL)?;
    let after = await_role(&mut standby, "leader", TTL + Duration::from_secs(2)).await?;
    println!("killed: {after:?}");
    ensure!(after > TTL / 2, "the lease was taken after {after:?}, while it lived");
    await_more(&world, 20).await?;
    load.stop().await?;
    world.verify_tickets(&mut standby).await?;
    ensure!(leader.check_running().is_err());
    standby.finish().await
}
