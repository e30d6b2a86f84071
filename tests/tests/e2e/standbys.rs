//! Which bridges stand by: what the page of each, `/status.json` and `outbox-bridge status` say of it is true.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::kv;
use outbox_bridge_tests::{Bridge, Settings, World};
use serde_json::Value;
use testbed::{Nats, eventually};

use crate::page::{at, await_status, is, status};

const TTL: Duration = Duration::from_secs(3);
/// From one look at the others to the next, and for the page to be made anew.
const LOOK: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(1);

type Processes = BTreeSet<u64>;

fn settings(world: &World) -> Settings {
    world.settings().set("lease.ttl", "3s").set("checkpoint.interval", "100ms")
}

async fn process(bridge: &Bridge) -> Result<u64> {
    at(&status(bridge).await?, "/process/process").as_u64().context("no process")
}

/// The processes that a bridge lists as standing by; `None`: it does not know.
fn listed(status: &Value) -> Option<Processes> {
    let known = at(status, "/standbys/known").as_array()?.iter();
    Some(known.filter_map(|standby| at(standby, "/process").as_u64()).collect())
}

/// Waits until a bridge lists these and no others; says how long that took.
async fn await_listed(bridge: &mut Bridge, expected: &[u64]) -> Result<Duration> {
    let (begin, expected) = (Instant::now(), Processes::from_iter(expected.iter().copied()));
    let lists = |status: &Value| listed(status).as_ref() == Some(&expected);
    await_status(bridge, &format!("{expected:?} to be listed"), lists).await?;
    Ok(begin.elapsed())
}

/// The processes that `outbox-bridge status` lists, as JSON and as text.
fn told(settings: &Settings) -> Result<Processes> {
    let (_, json) = Bridge::once(settings, &["status", "--json"])?;
    let json: Value = serde_json::from_str(&json)?;
    let standbys = at(&json, "/standbys").as_array().with_context(|| format!("no standbys: {json}"))?.iter();
    let processes: Processes = standbys.filter_map(|standby| at(standby, "/process").as_u64()).collect();
    ensure!(
        !at(&json, "/leader/process").as_u64().is_some_and(|leader| processes.contains(&leader)),
        "{json}"
    );
    let (_, text) = Bridge::once(settings, &["status"])?;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("standby  ")).collect();
    if processes.is_empty() {
        ensure!(lines.iter().all(|line| line.ends_with(" none")), "{text}");
    } else {
        let of = |process: &u64| format!("         process {process} on ");
        ensure!(lines.len() == processes.len(), "{text}");
        ensure!(processes.iter().all(|process| text.contains(&of(process))), "{processes:?}: {text}");
    }
    Ok(processes)
}

/// A leader and two that stand by, in the order in which they were started.
async fn three(settings: &Settings) -> Result<([Bridge; 3], [u64; 3])> {
    let mut leader = Bridge::start(settings).await?;
    await_status(&mut leader, "a leader", is("/role", "leader")).await?;
    let mut bridges = [leader, Bridge::start(settings).await?, Bridge::start(settings).await?];
    let mut processes = [0; 3];
    for (bridge, process) in bridges.iter().zip(&mut processes) {
        *process = self::process(bridge).await?;
    }
    let [_, standbys @ ..] = processes;
    for bridge in &mut bridges {
        await_listed(bridge, &standbys).await?;
    }
    Ok((bridges, processes))
}

#[tokio::test]
async fn they_are_listed_until_they_are_gone() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = settings(&world);
    let ([mut leader, mut second, mut third], [leading, killed, stopped]) = three(&settings).await?;
    ensure!(told(&settings)? == Processes::from([killed, stopped]));
    let page = leader.get("/").await?;
    for process in [killed, stopped] {
        ensure!(page.matches(&format!("<td class=\"why\">process {process} on ")).count() == 1, "{page}");
    }
    ensure!(!page.contains(&format!("<td class=\"why\">process {leading} on ")), "{page}");
    ensure!(second.get("/").await?.matches("(this one)</td>").count() == 1, "a standby knows itself");
    ensure!(leader.metric("outbox_standby_instances").await? == 2.0);
    // Its signs of life go on.
    let seen = |status: &Value| at(status, "/standbys/known/0/seen").as_str().map(str::to_owned);
    let before = seen(&status(&leader).await?);
    await_status(&mut leader, "another sign of life", |status| seen(status) > before).await?;

    second.kill()?;
    let gone = await_listed(&mut leader, &[stopped]).await?;
    println!("killed: {gone:?}");
    ensure!(gone < TTL + LOOK + SLACK, "it was listed for {gone:?}");
    ensure!(told(&settings)? == Processes::from([stopped]));

    third.pause()?;
    let gone = await_listed(&mut leader, &[]).await?;
    println!("frozen: {gone:?}");
    ensure!(leader.get("/").await?.contains("None stands by."));
    third.resume()?;
    await_listed(&mut leader, &[stopped]).await?;

    third.stop().await?;
    ensure!(told(&settings)?.is_empty(), "it said that it goes");
    let gone = await_listed(&mut leader, &[]).await?;
    println!("stopped: {gone:?}");
    ensure!(gone < LOOK + SLACK, "it was listed for {gone:?}");
    ensure!(leader.metric("outbox_standby_instances").await? == 0.0);
    leader.finish().await
}

#[tokio::test]
async fn who_takes_over_stands_by_no_longer() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = settings(&world);
    let ([mut first, mut second, mut third], [_, one, other]) = three(&settings).await?;
    first.kill()?;
    let leads = eventually("another leader", TTL + LOOK + SLACK, async || {
        let leads = async |bridge: &Bridge| anyhow::Ok(is("/role", "leader")(&status(bridge).await?));
        Ok((leads(&second).await? || leads(&third).await?).then_some(()))
    });
    leads.await?;
    let second_leads = is("/role", "leader")(&status(&second).await?);
    let (new, standby) = if second_leads { (one, other) } else { (other, one) };
    // From the first moment on, wherever one looks.
    ensure!(!told(&settings)?.contains(&new), "{new} leads");
    for bridge in [&mut second, &mut third] {
        await_status(bridge, "the new leader", is("/leader/process", new)).await?;
        let told = status(bridge).await?;
        ensure!(listed(&told).is_some_and(|listed| !listed.contains(&new)), "{new} leads: {told}");
        await_listed(bridge, &[standby]).await?;
    }
    ensure!(told(&settings)? == Processes::from([standby]));

    // All are killed: nobody is left to say so, and it is said all the same.
    second.kill()?;
    third.kill()?;
    eventually("nobody to be there", TTL + SLACK, async || {
        let (code, text) = Bridge::once(&settings, &["status"])?;
        let none = text.contains("nobody leads; process ") && text.contains("standby          none\n");
        Ok((code == 69 && none).then_some(()))
    })
    .await?;
    Ok(())
}

/// A server that has no times to live for messages, and a process that finds its dead predecessor.
#[tokio::test]
async fn an_old_server_is_enough() -> Result<()> {
    let world = World::mysql().nats(Nats::builder().version("2.10")).start().await?;
    // So long that a predecessor is not gone by itself meanwhile.
    let settings = settings(&world).set("lease.ttl", "20s");
    let ([mut leader, mut second, third], [_, killed, stays]) = three(&settings).await?;
    second.kill()?;
    second.relaunch().await?;
    let begun = process(&second).await?;
    ensure!(begun != killed);
    let shown = await_listed(&mut leader, &[stays, begun]).await?;
    ensure!(shown < Duration::from_secs(8), "its predecessor was listed for {shown:?}");
    second.finish().await?;
    third.finish().await?;
    leader.finish().await
}

/// It is a list, and no more: without it, or with nonsense in its place, the bridges do what they did.
#[tokio::test]
async fn nothing_hangs_on_the_list() -> Result<()> {
    let world = World::mysql().start().await?;
    let settings = settings(&world);
    let ([mut leader, second, mut third], [_, one, other]) = three(&settings).await?;
    let bucket = world.jetstream.get_key_value("OUTBOX_BRIDGE").await?;
    let record = bucket.entry("outbox-bridge.instances").await?.context("no record")?;
    ensure!(record.operation == kv::Operation::Put);
    bucket.delete("outbox-bridge.instances").await?;
    await_listed(&mut leader, &[one, other]).await?;
    bucket.put("outbox-bridge.instances", r#"{"version":99}"#.into()).await?;
    let unknown = |status: &Value| at(status, "/standbys/known").is_null();
    let told = await_status(&mut leader, "a record of a newer version", unknown).await?;
    ensure!(at(&told, "/standbys/problem").as_str().is_some_and(|why| why.contains("format 99")), "{told}");
    ensure!(*at(&told, "/ready") == true && *at(&told, "/role") == "leader", "{told}");
    ensure!(leader.get("/").await?.contains("The standbys cannot be listed."));
    let (code, text) = Bridge::once(&settings, &["status"])?;
    ensure!(code == 0 && text.contains("standby          not known: "), "{code}: {text}");
    world.insert(0..5).await?;
    await_status(&mut leader, "the events", is("/flow/events", 5)).await?;
    let record = bucket.entry("outbox-bridge.instances").await?.context("no record")?;
    ensure!(record.value.starts_with(br#"{"version":99}"#), "it was left alone");
    leader.kill()?;
    let leads = async |bridge: &Bridge| anyhow::Ok(is("/role", "leader")(&status(bridge).await?));
    eventually("another leader", TTL + LOOK + SLACK, async || {
        Ok((leads(&second).await? || leads(&third).await?).then_some(()))
    })
    .await?;
    third.stop().await?;
    second.finish().await
}
