//! Several NATS servers that form a JetStream cluster.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::context::{CreateStreamErrorKind, DeleteStreamErrorKind};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, ErrorCode};

use super::{Nats, NatsBuilder};
use crate::port::Port;
use crate::proxy::FaultyProxy;
use crate::wait::eventually;

/// How long the servers may take to connect to one another and to elect a leader.
const MEET_LIMIT: Duration = Duration::from_secs(60);
/// A single question to JetStream.
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// NATS servers joined in one cluster; they die with this handle.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<Nats>,
    /// Held, so that nobody else takes the ports between two starts of a node.
    _route_ports: Vec<Port>,
    links: Links,
}

/// The ways between the servers, where these lead through proxies.
#[derive(Debug, Clone, Default)]
pub struct Links {
    links: Arc<Vec<Link>>,
}

/// What one server dials to reach another.
#[derive(Debug)]
struct Link {
    from: usize,
    to: usize,
    proxy: FaultyProxy,
}

impl Links {
    /// A proxy for each pair of servers and each direction in which one may dial the other.
    async fn start(route_ports: &[Port]) -> Result<Self> {
        let mut links = Vec::new();
        for from in 0..route_ports.len() {
            for (to, port) in route_ports.iter().enumerate().filter(|(to, _)| *to != from) {
                links.push(Link { from, to, proxy: FaultyProxy::start(port.number()).await? });
            }
        }
        Ok(Self { links: Arc::new(links) })
    }

    /// Cuts a server off from its peers, as a network does that swallows packets: connections stay open and nothing
    /// arrives. What is sent meanwhile arrives after [`heal`](Self::heal), as TCP sends it again. Clients still reach
    /// every server.
    pub fn isolate(&self, node: usize) {
        for link in self.of(node) {
            link.proxy.stall();
        }
    }

    /// As [`isolate`](Self::isolate), but connections are reset and new ones refused, which the servers notice at once.
    ///
    /// # Errors
    ///
    /// When a proxy's task is gone.
    pub async fn cut_off(&self, node: usize) -> Result<()> {
        for link in self.of(node) {
            link.proxy.down().await?;
        }
        Ok(())
    }

    /// Lets all servers reach one another again.
    ///
    /// # Errors
    ///
    /// When a proxy's task is gone.
    pub async fn heal(&self) -> Result<()> {
        for link in self.links.iter() {
            link.proxy.pass().await?;
        }
        Ok(())
    }

    fn of(&self, node: usize) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.from == node || link.to == node)
    }
}

impl NatsCluster {
    /// Starts `size` servers, each configured as `builder` says, and waits until JetStream answers on each and a stream
    /// may have a replica on all of them.
    ///
    /// # Errors
    ///
    /// As [`NatsBuilder::start`].
    pub async fn start(builder: &NatsBuilder, size: usize) -> Result<Self> {
        Self::launch(builder, size, false).await
    }

    /// As [`start`](Self::start), but the servers reach one another by way of proxies only, so that the network between
    /// them can be [partitioned](Self::links). Clients are not told of the other servers.
    ///
    /// # Errors
    ///
    /// As [`NatsBuilder::start`].
    pub async fn start_partitionable(builder: &NatsBuilder, size: usize) -> Result<Self> {
        Self::launch(builder, size, true).await
    }

    async fn launch(builder: &NatsBuilder, size: usize, proxied: bool) -> Result<Self> {
        let route_ports = (0..size).map(|_| Port::reserve()).collect::<Result<Vec<_>>>()?;
        let links = if proxied { Links::start(&route_ports).await? } else { Links::default() };
        // What servers tell one another of third ones is to lead nowhere, or it would lead past the proxies.
        let nowhere = Port::reserve()?;
        let mut nodes = Vec::new();
        for (index, port) in route_ports.iter().enumerate() {
            let listen = port.address();
            let dialled: Vec<String> = if proxied {
                let from = links.links.iter().filter(|link| link.from == index);
                from.map(|link| format!("127.0.0.1:{}", link.proxy.port())).collect()
            } else {
                route_ports.iter().map(|port| port.address().to_string()).collect()
            };
            let routes: Vec<_> =
                dialled.iter().map(|address| format!("\"nats-route://{address}\"")).collect();
            let routes = routes.join(", ");
            let more = if proxied {
                format!("no_advertise: true, advertise: \"{}\"", nowhere.address())
            } else {
                String::new()
            };
            let cluster =
                format!("cluster {{ name: testbed, listen: \"{listen}\", routes: [ {routes} ], {more} }}");
            let mut node = builder.clone().config(&cluster).prepare().await?;
            // No node is ready before the others run.
            node.launch()?;
            nodes.push(node);
        }
        for node in &mut nodes {
            node.wait_until_ready().await?;
        }
        let mut route_ports = route_ports;
        route_ports.push(nowhere);
        let cluster = Self { nodes, _route_ports: route_ports, links };
        cluster.await_placement().await?;
        Ok(cluster)
    }

    /// Waits until a stream may be placed on all servers. JetStream answers before that: a leader of the cluster places
    /// nothing on a server whose first report on itself it has not got yet.
    async fn await_placement(&self) -> Result<()> {
        const PROBE: &str = "TESTBED_PLACEMENT";
        let Some(node) = self.nodes.first() else { return Ok(()) };
        let mut context = jetstream::new(node.client().await?);
        context.set_timeout(ASK_LIMIT);
        let config = Config {
            name: PROBE.to_owned(),
            subjects: vec!["testbed.placement".to_owned()],
            num_replicas: self.nodes.len(),
            ..Config::default()
        };
        eventually("every server to take a replica", MEET_LIMIT, async || {
            match context.create_stream(&config).await.map_err(|err| err.kind()) {
                Ok(_) => Ok(Some(())),
                Err(CreateStreamErrorKind::TimedOut) => Ok(None),
                Err(CreateStreamErrorKind::JetStream(err))
                    if err.error_code() == ErrorCode::CLUSTER_NO_PEERS =>
                {
                    Ok(None)
                }
                Err(kind) => bail!("cannot place a stream on {} servers: {kind}", self.nodes.len()),
            }
        })
        .await?;
        eventually("the stream to be deleted again", MEET_LIMIT, async || {
            match context.delete_stream(PROBE).await.map_err(|err| err.kind()) {
                Ok(_) => Ok(Some(())),
                Err(DeleteStreamErrorKind::JetStream(err))
                    if err.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(Some(()))
                }
                Err(_) => Ok(None),
            }
        })
        .await
    }

    /// The servers.
    #[must_use]
    pub fn nodes(&self) -> &[Nats] {
        &self.nodes
    }

    /// One of the servers, to kill, pause or restart it. A restart waits for JetStream, so it needs a majority.
    ///
    /// # Errors
    ///
    /// When there is no such server.
    pub fn node(&mut self, index: usize) -> Result<&mut Nats> {
        let size = self.nodes.len();
        self.nodes.get_mut(index).with_context(|| format!("no node {index} in a cluster of {size}"))
    }

    /// Kills all servers and starts them again, at once.
    ///
    /// # Errors
    ///
    /// As [`Nats::kill`] and [`Nats::start`].
    pub async fn kill_and_start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.kill().await?;
        }
        for node in &mut self.nodes {
            node.launch()?;
        }
        for node in &mut self.nodes {
            node.wait_until_ready().await?;
        }
        Ok(())
    }

    /// The URLs of all servers, separated by commas, as clients take them.
    #[must_use]
    pub fn urls(&self) -> String {
        self.nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// The ways between the servers of a [partitionable](Self::start_partitionable) cluster; none in another.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Which server leads a stream (`KV_<bucket>` for a bucket), according to the first of `witnesses` that knows; waits for an
    /// election.
    ///
    /// # Errors
    ///
    /// When none leads.
    pub async fn leader_as_seen_by(&self, witnesses: &[usize], stream: &str) -> Result<usize> {
        eventually(&format!("a leader of stream {stream}"), MEET_LIMIT, async || {
            for witness in witnesses {
                let Some(node) = self.nodes.get(*witness) else { continue };
                let Ok(client) = node.client().await else { continue };
                let mut context = jetstream::new(client);
                context.set_timeout(ASK_LIMIT);
                let Ok(stream) = context.get_stream(stream).await else { continue };
                let leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
                let index = self.nodes.iter().position(|node| leader.as_ref() == Some(&node.name()));
                if index.is_some() {
                    return Ok(index);
                }
            }
            Ok(None)
        })
        .await
    }

    /// Which server leads a stream; waits for an election.
    ///
    /// # Errors
    ///
    /// When none leads.
    pub async fn leader(&self, stream: &str) -> Result<usize> {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.leader_as_seen_by(&all, stream).await
    }

    /// Has a stream's leader step down, so that its peers elect another one.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub async fn step_down(&self, stream: &str) -> Result<()> {
        let leader = self.leader(stream).await?;
        let node = self.nodes.get(leader).context("no such node")?;
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        let answer = node.client().await?.request(subject, "".into()).await?;
        let answer = String::from_utf8_lossy(&answer.payload).into_owned();
        ensure!(answer.contains("\"success\":true"), "cannot step down: {answer}");
        Ok(())
    }

    /// Waits until all replicas of a stream have what its leader has.
    ///
    /// # Errors
    ///
    /// When they do not get there.
    pub async fn await_current(&self, stream: &str) -> Result<()> {
        eventually(&format!("all replicas of {stream} to be current"), MEET_LIMIT, async || {
            let Some(node) = self.nodes.first() else { return Ok(None) };
            let Ok(client) = node.client().await else { return Ok(None) };
            let mut context = jetstream::new(client);
            context.set_timeout(ASK_LIMIT);
            let Ok(stream) = context.get_stream(stream).await else { return Ok(None) };
            let Some(cluster) = stream.cached_info().cluster.clone() else { return Ok(None) };
            let current = cluster.leader.is_some()
                && cluster.replicas.len() + 1 == self.nodes.len()
                && cluster.replicas.iter().all(|replica| replica.current && !replica.offline);
            Ok(current.then_some(()))
        })
        .await
    }
}
