//! Servers, proxies and bridges of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, stream};
use mysql_async::Opts;
use outbox_bridge_tests::{Bridge, STREAM, Settings, TABLE};
use testbed::{FaultyProxy, MySql, Nats, NatsCluster, eventually};
use tokio::sync::watch;

use crate::schedule::{BRIDGES, Link, NODES};

const USER: &str = "bridge";
const PASSWORD: &str = "chaos";
/// Where rows go that can be no message.
pub(crate) const LETTERS: &str = "DEAD";
/// Where payloads go that are too large for a message, and from which size of a message on.
pub(crate) const PAYLOADS: &str = "PAYLOADS";
pub(crate) const LARGE_BYTES: usize = 128 << 10;
/// The comparison sorts rows with payloads that are too large for a message.
const SORT_BUFFER: &str = "--sort-buffer-size=64M";
/// A single question to JetStream, so that a server that is gone costs little time.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long the cluster may take to have a leader.
const LEADER_LIMIT: Duration = Duration::from_secs(60);

/// All that is broken.
pub(crate) struct Place {
    /// The server that is written to.
    pub(crate) source: MySql,
    /// The one that replicates it.
    pub(crate) replica: MySql,
    /// Where producers may write, if anywhere.
    pub(crate) writable: watch::Sender<Option<Opts>>,
    pub(crate) cluster: NatsCluster,
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) source_proxies: Vec<FaultyProxy>,
    pub(crate) nats_proxies: Vec<FaultyProxy>,
    /// A client that goes by no proxy.
    pub(crate) jetstream: jetstream::Context,
    _folder: tempfile::TempDir,
}

impl Place {
    /// Starts all of it; the bridges are ready.
    pub(crate) async fn new() -> Result<Self> {
        let nats = Nats::builder();
        let (source, cluster) = tokio::try_join!(
            MySql::builder().option(SORT_BUFFER).start(),
            NatsCluster::start_partitionable(&nats, NODES)
        )?;
        prepare_source(&source).await?;
        let replica = MySql::replica_of(&source).option(SORT_BUFFER).start().await?;
        replica.await_caught_up(&source).await?;
        let servers = cluster.nodes().iter().map(|node| node.url().parse());
        let servers = servers.collect::<Result<Vec<async_nats::ServerAddr>, _>>()?;
        let client = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .ping_interval(Duration::from_secs(2))
            .connect(servers.as_slice())
            .await?;
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(ASK_LIMIT);
        create_streams(&jetstream).await?;

        let mut source_proxies = Vec::new();
        for server in [&source, &replica] {
            source_proxies.push(FaultyProxy::start(server.port()).await?);
        }
        let mut nats_proxies = Vec::new();
        for node in cluster.nodes() {
            nats_proxies.push(FaultyProxy::start(node.port()).await?);
        }
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("password"), PASSWORD)?;
        let settings = settings(&source_proxies, &nats_proxies, folder.path());
        let mut place = Self {
            writable: watch::Sender::new(Some(source.root_opts())),
            source,
            replica,
            cluster,
            bridges: Vec::new(),
            source_proxies,
            nats_proxies,
            jetstream,
            _folder: folder,
        };
        for _ in 0..BRIDGES {
            place.bridges.push(Bridge::start(&settings).await?);
        }
        Ok(place)
    }

    /// The proxies of a link.
    pub(crate) fn proxies(&self, link: Link) -> &[FaultyProxy] {
        match link {
            Link::Source => &self.source_proxies,
            Link::Nats => &self.nats_proxies,
        }
    }

    /// One of the bridges.
    pub(crate) fn bridge(&mut self, index: usize) -> Result<&mut Bridge> {
        self.bridges.get_mut(index).with_context(|| format!("no bridge {index}"))
    }

    /// How often the bridges have gone on with another of the source's servers.
    pub(crate) fn switches(&self) -> usize {
        let said = |bridge: &Bridge| bridge.log().matches("the source has changed its server").count();
        self.bridges.iter().map(said).sum()
    }

    /// Keeps what bridges and servers logged.
    pub(crate) fn keep_logs(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for (index, bridge) in self.bridges.iter().enumerate() {
            std::fs::write(folder.join(format!("bridge-{index}.log")), bridge.log())?;
        }
        for (index, node) in self.cluster.nodes().iter().enumerate() {
            std::fs::write(folder.join(format!("nats-{index}.log")), node.log())?;
        }
        std::fs::write(folder.join("mysql.log"), self.source.log())?;
        Ok(std::fs::write(folder.join("mysql-replica.log"), self.replica.log())?)
    }
}

async fn prepare_source(source: &MySql) -> Result<()> {
    source
        .exec(&format!(
            "CREATE DATABASE shop; \
             CREATE TABLE {TABLE} (seq BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, \
               id BINARY(16) NOT NULL UNIQUE, aggregate_type VARCHAR(64) NOT NULL, aggregate_id VARCHAR(255) NOT NULL, \
               type VARCHAR(128) NOT NULL, payload JSON NOT NULL, headers JSON NULL, \
               created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)); \
             CREATE TABLE shop.ticket (n BIGINT UNSIGNED NOT NULL); INSERT INTO shop.ticket VALUES (0); \
             CREATE TABLE shop.noise (n BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, text TEXT)"
        ))
        .await?;
    source.create_user(USER, PASSWORD, "REPLICATION SLAVE, REPLICATION CLIENT ON *.*").await?;
    source.exec(&format!("GRANT SELECT ON {TABLE} TO '{USER}'@'%'")).await
}

async fn create_streams(jetstream: &jetstream::Context) -> Result<()> {
    let events = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["orders.>".to_owned()],
        num_replicas: NODES,
        allow_batch_publish: true,
        ..Default::default()
    };
    let letters = stream::Config {
        name: LETTERS.to_owned(),
        subjects: vec!["outbox.dead.>".to_owned()],
        num_replicas: NODES,
        max_messages_per_subject: 1,
        ..Default::default()
    };
    for config in [events, letters] {
        // The cluster's own leader may still be missing.
        eventually("the stream to be created", LEADER_LIMIT, async || {
            Ok(jetstream.create_stream(config.clone()).await.ok())
        })
        .await?;
        let created = jetstream.get_stream(&config.name).await?;
        ensure!(created.cached_info().config.num_replicas == NODES, "the stream has too few replicas");
    }
    Ok(())
}

fn settings(source: &[FaultyProxy], nats: &[FaultyProxy], folder: &Path) -> Settings {
    let servers: Vec<String> =
        source.iter().map(|proxy| format!("mysql://{USER}@127.0.0.1:{}", proxy.port())).collect();
    let urls: Vec<String> = nats.iter().map(|proxy| format!("nats://127.0.0.1:{}", proxy.port())).collect();
    let outbox = [("table", TABLE), ("stream", STREAM), ("subject", "orders.{aggregate_type}.{type}")];
    let outbox: BTreeMap<_, _> =
        outbox.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    Settings::default()
        .set("source.urls", servers)
        .set("source.password_file", folder.join("password").display().to_string())
        .set("source.heartbeat", "1s")
        // So that large transactions take the way of those that are larger than the buffer.
        .set("source.transaction_buffer_bytes_max", "512KiB")
        .set("nats.url", urls)
        .set("nats.ping_interval", "1s")
        .set("nats.connect_timeout", "2s")
        .set("publish.ack_timeout", "2s")
        .set("checkpoint.interval", "200ms")
        .set("retry.max", "1s")
        .set("lease.ttl", "3s")
        .set("poison.action", "dead_letter")
        .set("poison.stream", LETTERS)
        .set("claim_check.bucket", PAYLOADS)
        .set("claim_check.threshold", format!("{}KiB", LARGE_BYTES >> 10))
        .set("claim_check.interval", "1s")
        .outbox(outbox)
}
