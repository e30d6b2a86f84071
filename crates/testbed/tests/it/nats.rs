//! nats-server: versions, kills, pauses, users, TLS, clusters.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use testbed::{Nats, NatsCluster, TlsMaterial, Version, eventually};

async fn publish(server: &Nats) -> Result<u64> {
    let context = jetstream::new(server.client().await?);
    let config = Config { name: "S".to_owned(), subjects: vec!["s.>".to_owned()], ..Config::default() };
    context.get_or_create_stream(config).await?;
    Ok(context.publish("s.a", "hello".into()).await?.await?.sequence)
}

#[tokio::test]
async fn stored_messages_survive_a_kill_and_a_restart() -> Result<()> {
    let mut server = Nats::builder().start().await?;
    let url = server.url();
    assert!(server.version() >= Version::new(2, 15, 0));
    assert_eq!(publish(&server).await?, 1);
    server.kill().await?;
    assert!(server.client().await.is_err(), "it is gone");
    server.start().await?;
    assert_eq!(publish(&server).await?, 2);
    server.restart().await?;
    assert_eq!(publish(&server).await?, 3);
    assert_eq!(server.url(), url);
    assert!(server.store_dir().join("jetstream").is_dir());
    Ok(())
}

#[tokio::test]
async fn older_versions_run() -> Result<()> {
    for minor in ["2.10", "2.12"] {
        let server = Nats::builder().version(minor).start().await?;
        assert!(server.version().to_string().starts_with(&format!("{minor}.")), "{}", server.version());
        assert_eq!(server.client().await?.server_info().version, server.version().to_string());
        assert_eq!(publish(&server).await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_server_says_nothing_and_goes_on_later() -> Result<()> {
    let server = Nats::builder().start().await?;
    let context = jetstream::new(server.client().await?);
    server.pause()?;
    assert!(tokio::time::timeout(Duration::from_millis(300), context.query_account()).await.is_err());
    server.resume()?;
    context.query_account().await?;
    Ok(())
}

#[tokio::test]
async fn users_limits_and_jetstream_settings_hold() -> Result<()> {
    let server = Nats::builder()
        .user("bridge", "secret \"quoted\"")
        .max_payload(4096)
        .jetstream_config("sync_interval: always")
        .start()
        .await?;
    assert_eq!(server.client().await?.server_info().max_payload, 4096);
    assert_eq!(publish(&server).await?, 1);
    assert!(async_nats::connect(server.url()).await.is_err(), "no entry without a name");
    Ok(())
}

#[tokio::test]
async fn certificates_are_checked() -> Result<()> {
    let material = TlsMaterial::generate()?;
    let server = Nats::builder().tls(&material.ca, &material.server).start().await?;
    assert_eq!(publish(&server).await?, 1);
    let stranger = async_nats::ConnectOptions::new().add_root_certificates(material.other_ca.clone());
    assert!(stranger.connect(server.url()).await.is_err(), "an unknown authority");

    let server = Nats::builder().mutual_tls(&material.ca, &material.server, &material.client).start().await?;
    assert_eq!(publish(&server).await?, 1);
    let bare = async_nats::ConnectOptions::new().add_root_certificates(material.ca.clone());
    assert!(bare.connect(server.url()).await.is_err(), "no entry without a certificate");
    Ok(())
}

#[tokio::test]
async fn a_failed_start_shows_the_end_of_the_log() {
    let failure = Nats::builder().config("no_such_setting: 1").start().await.expect_err("refused");
    assert!(failure.to_string().contains("no_such_setting"), "{failure:#}");
    let failure = Nats::builder().version("1.0").start().await.expect_err("there is none");
    assert!(format!("{failure:#}").contains("no nats-server 1.0: put that version on PATH"), "{failure:#}");
}

#[tokio::test]
async fn a_cluster_survives_the_loss_of_one_node() -> Result<()> {
    let mut cluster = NatsCluster::start(&Nats::builder(), 3).await?;
    let context = jetstream::new(async_nats::connect(cluster.urls().split(',').collect::<Vec<_>>()).await?);
    let config = Config {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        num_replicas: 3,
        ..Config::default()
    };
    context.create_stream(config).await?;
    assert_eq!(context.publish("s.a", "one".into()).await?.await?.sequence, 1);
    cluster.node(0)?.kill().await?;
    eventually("a second message", Duration::from_secs(30), async || {
        let Ok(publishing) = context.publish("s.a", "two".into()).await else { return Ok(None) };
        Ok(publishing.await.ok())
    })
    .await?;
    cluster.node(0)?.start().await
}

/// A server that its peers do not reach leads no longer, though clients reach it; all its streams are whole afterwards.
#[tokio::test]
async fn a_partitioned_leader_is_succeeded() -> Result<()> {
    let cluster = NatsCluster::start_partitionable(&Nats::builder(), 3).await?;
    let first = cluster.nodes().first().context("no node")?;
    let context = jetstream::new(first.client().await?);
    let config = Config {
        name: "S".to_owned(),
        subjects: vec!["s.>".to_owned()],
        num_replicas: 3,
        ..Config::default()
    };
    context.create_stream(config).await?;
    assert_eq!(context.publish("s.a", "one".into()).await?.await?.sequence, 1);
    let led = cluster.leader("S").await?;
    cluster.step_down("S").await?;
    let leader = eventually("another leader", Duration::from_secs(30), async || {
        Ok(Some(cluster.leader("S").await?).filter(|leader| *leader != led))
    })
    .await?;
    assert_ne!(leader, led);
    for silent in [true, false] {
        let before = cluster.leader("S").await?;
        let others: Vec<usize> = (0..3).filter(|node| *node != before).collect();
        if silent {
            cluster.links().isolate(before);
        } else {
            cluster.links().cut_off(before).await?;
        }
        eventually("another leader", Duration::from_secs(60), async || {
            Ok(Some(cluster.leader_as_seen_by(&others, "S").await?).filter(|leader| *leader != before))
        })
        .await?;
        // Alone it can store nothing.
        let alone = cluster.nodes().get(before).context("no node")?;
        let mut context = jetstream::new(alone.client().await?);
        context.set_timeout(Duration::from_secs(1));
        assert!(context.publish("s.a", "lost".into()).await?.await.is_err());
        cluster.links().heal().await?;
        cluster.await_current("S").await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_configuration_changes_at_a_reload_and_at_a_restart() -> Result<()> {
    let mut server = Nats::builder().start().await?;
    assert_eq!(publish(&server).await?, 1);
    server.configure(|builder| builder.max_payload(4096))?;
    server.reload().await?;
    assert_eq!(server.client().await?.server_info().max_payload, 4096);
    server.configure(testbed::NatsBuilder::without_jetstream)?;
    server.restart().await?;
    assert!(publish(&server).await.is_err(), "without JetStream");
    Ok(())
}
