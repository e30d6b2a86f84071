//! Several NATS servers that form a JetStream cluster.

use anyhow::{Context as _, Result};

use super::{Nats, NatsBuilder};
use crate::port::Port;

/// NATS servers joined in one cluster; they die with this handle.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<Nats>,
    /// Held, so that nobody else takes the ports between two starts of a node.
    _route_ports: Vec<Port>,
}

impl NatsCluster {
    /// Starts `size` servers, each configured as `builder` says, and waits until JetStream answers on each.
    ///
    /// # Errors
    ///
    /// As [`NatsBuilder::start`].
    pub async fn start(builder: &NatsBuilder, size: usize) -> Result<Self> {
        let route_ports = (0..size).map(|_| Port::reserve()).collect::<Result<Vec<_>>>()?;
        let routes: Vec<String> =
            route_ports.iter().map(|port| format!("\"nats-route://{}\"", port.address())).collect();
        let routes = routes.join(", ");
        let mut nodes = Vec::new();
        for port in &route_ports {
            let address = port.address();
            let cluster = format!("cluster {{ name: testbed, listen: \"{address}\", routes: [ {routes}] }}");
            let mut node = builder.clone().config(&cluster).prepare().await?;
            // No node is ready before the others run.
            node.launch()?;
            nodes.push(node);
        }
        for node in &mut nodes {
            node.wait_until_ready().await?;
        }
        Ok(Self { nodes, _route_ports: route_ports })
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

    /// The URLs of all servers, separated by commas, as clients take them.
    #[must_use]
    pub fn urls(&self) -> String {
        self.nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }
}
