//! Three servers, three replicas: leaders that die, sleep, step down, or lose their peers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, stream::Config};
use outbox_bridge_tests::{Bridge, Load, LoadOptions, STREAM, Settings, World};
use testbed::{Nats, NatsCluster};

const SIZE: usize = 3;
/// The bucket's stream, with the lease and the checkpoint.
const BUCKET: &str = "KV_OUTBOX_BRIDGE";
/// For how long a leader sleeps, or is cut off: longer than an election takes and than the lease lives.
const PAUSE: Duration = Duration::from_secs(13);
/// How long storing may stand still on a busy machine.
const STALL_LIMIT: Duration = Duration::from_secs(90);

/// A world whose stream lies in a cluster.
async fn world_with(cluster: &NatsCluster) -> Result<World> {
    let mut world = World::mysql().start().await?;
    let urls: Vec<String> = cluster.nodes().iter().map(Nats::url).collect();
    world.jetstream = jetstream::new(async_nats::connect(urls).await?);
    world.jetstream.set_timeout(Duration::from_secs(2));
    let config = Config {
        name: STREAM.to_owned(),
        subjects: vec!["orders.>".to_owned()],
        num_replicas: SIZE,
        allow_batch_publish: true,
        ..Config::default()
    };
    world.jetstream.create_stream(config).await?;
    Ok(world)
}

fn settings(world: &World, nodes: &[&Nats]) -> Settings {
    let urls: Vec<String> = nodes.iter().map(|node| node.url()).collect();
    world.settings().set("nats.url", urls)
}

fn load() -> LoadOptions {
    LoadOptions { tickets: true, pause: Duration::from_millis(20), ..LoadOptions::default() }
}

/// Watches the stream until it has grown well beyond where it stands now; says how long it stood still at most.
async fn measure(world: &World, what: &str, begun: Instant) -> Result<()> {
    let from = last(world).await;
    let (mut seen, mut since, mut longest) = (from, begun, Duration::ZERO);
    loop {
        let now = last(world).await;
        longest = longest.max(since.elapsed());
        if now > seen {
            (seen, since) = (now, Instant::now());
        }
        if seen > from + 100 {
            println!("{what}: stood still for {:.1} s", longest.as_secs_f64());
            return Ok(());
        }
        anyhow::ensure!(since.elapsed() < STALL_LIMIT, "{what}: nothing is stored any more");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Compares the stream with the table. A server that has lost its peers a moment ago may not answer for the stream yet.
async fn verify(world: &World, bridge: &mut Bridge) -> Result<()> {
    let deadline = Instant::now() + STALL_LIMIT;
    loop {
        match world.verify_tickets(bridge).await {
            Err(error) if is_away(&error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            verified => return verified,
        }
    }
}

/// The index of the server that leads the stream, once one does.
async fn leading(cluster: &NatsCluster) -> Result<usize> {
    let deadline = Instant::now() + STALL_LIMIT;
    loop {
        match cluster.leader(STREAM).await {
            Err(error) if is_away(&error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            found => return found,
        }
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("no responders") || text.contains("timed out")
}

async fn last(world: &World) -> u64 {
    world.last_sequence(STREAM).await
}

#[tokio::test]
async fn servers_of_a_cluster_die_and_come_back() -> Result<()> {
    let mut cluster = NatsCluster::start_partitionable(&Nats::builder(), SIZE).await?;
    let world = world_with(&cluster).await?;
    let nodes: Vec<&Nats> = cluster.nodes().iter().collect();
    let mut bridge = Bridge::start(&settings(&world, &nodes)).await?;
    let load = Load::start(&world, &load()).await?;
    let context = |error: anyhow::Error| error.context("while servers died");
    let run = async {
        measure(&world, "at rest", Instant::now()).await?;
        for stream in [STREAM, BUCKET] {
            let begun = Instant::now();
            cluster.step_down(stream).await?;
            measure(&world, &format!("leader of {stream} stepped down"), begun).await?;
        }
        let leader = leading(&cluster).await?;
        let begun = Instant::now();
        cluster.node(leader)?.kill().await?;
        measure(&world, "leader killed", begun).await?;
        cluster.node(leader)?.start().await?;
        cluster.await_current(STREAM).await?;

        let follower = (leading(&cluster).await? + 1) % SIZE;
        let begun = Instant::now();
        cluster.node(follower)?.kill().await?;
        measure(&world, "follower killed", begun).await?;
        cluster.node(follower)?.start().await?;
        cluster.await_current(STREAM).await?;

        let leader = leading(&cluster).await?;
        let begun = Instant::now();
        cluster.node(leader)?.pause()?;
        tokio::time::sleep(PAUSE).await;
        cluster.node(leader)?.resume()?;
        measure(&world, "leader paused", begun).await?;
        cluster.await_current(STREAM).await?;

        for node in 0..SIZE {
            let begun = Instant::now();
            cluster.node(node)?.restart().await?;
            cluster.await_current(STREAM).await?;
            measure(&world, "rolling restart", begun).await?;
        }
        let begun = Instant::now();
        cluster.kill_and_start_all().await?;
        measure(&world, "all killed and started", begun).await
    };
    run.await.map_err(|error| bridge.explain(context(error)))?;
    load.stop().await?;
    cluster.await_current(STREAM).await?;
    verify(&world, &mut bridge).await?;
    bridge.finish().await
}

/// The stream's leader is alone on its side of a partition, and so is the bridge that leads; another bridge is on the other
/// side. Then the same with a bridge on the side of the majority.
#[tokio::test]
async fn a_leader_is_cut_off_from_its_peers() -> Result<()> {
    let cluster = NatsCluster::start_partitionable(&Nats::builder(), SIZE).await?;
    let world = world_with(&cluster).await?;
    let leader = leading(&cluster).await?;
    let alone = cluster.nodes().get(leader).context("no node")?;
    let others: Vec<&Nats> = cluster.nodes().iter().filter(|node| node.url() != alone.url()).collect();
    let mut minority = Bridge::start(&settings(&world, &[alone])).await?;
    let mut majority = Bridge::start(&settings(&world, &others)).await?;
    let load = Load::start(&world, &load()).await?;
    let run = async {
        measure(&world, "at rest", Instant::now()).await?;
        // The leader's buckets as well: the lease is led by the server that is cut off, or by another.
        let begun = Instant::now();
        cluster.links().isolate(leader);
        tokio::time::sleep(PAUSE).await;
        cluster.links().heal().await?;
        measure(&world, "cut off, with the leading bridge on the small side", begun).await?;
        minority.check_running()?;
        majority.check_running()?;
        cluster.await_current(STREAM).await?;

        minority.kill()?;
        let leader = leading(&cluster).await?;
        let begun = Instant::now();
        cluster.links().cut_off(leader).await?;
        tokio::time::sleep(PAUSE).await;
        cluster.links().heal().await?;
        measure(&world, "cut off, connections reset", begun).await
    };
    run.await.map_err(|error| minority.explain(majority.explain(error)))?;
    load.stop().await?;
    cluster.await_current(STREAM).await?;
    verify(&world, &mut majority).await?;
    majority.finish().await
}
