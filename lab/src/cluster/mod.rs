//! [`Cluster`]: one to three nodes that run weir, a real Linux router between them and the world,
//! and a client behind it. Every node's agent reads the same manifests.
//!
//! ```text
//!  client ── [edge ──] router ─┬─ uplink0 node-1 ── pods 10.244.0.0/24
//!                              ├─ uplink0 node-2 ── pods 10.244.1.0/24
//!                              └─ uplink0 node-3 ── pods 10.244.2.0/24
//! ```

mod manifests;
mod network;

use std::sync::Arc;

pub use manifests::{BackendAt, ClusterService, Kind, Port, cluster_node_yaml};
pub use network::{NARROW_MTU, OUTSIDE, node_addresses};

use crate::{
    Host, Impairment, Lab, Link, Result,
    testbed::{Node, NodeOptions, Pod},
};
use network::Network;

/// How nodes reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// All on one segment: each node is the others' next hop.
    #[default]
    Segment,
    /// Each alone with the router: it is everybody's next hop.
    Apart,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// One to three.
    pub nodes: u8,
    /// Packet workers of each node.
    pub workers: u16,
    /// How nodes reach each other.
    pub topology: Topology,
    /// More flags for every agent.
    pub agent_flags: Vec<String>,
    /// Puts a second router before the client, a hop of [`NARROW_MTU`] from the first.
    pub has_narrow_client: bool,
    /// Puts a second router before that node (from 0), a hop of [`NARROW_MTU`] from the first; the
    /// topology must be [`Topology::Apart`].
    pub narrow_node: Option<u8>,
    /// What is wrong with the links between router and nodes, and the seed that decides.
    pub impairment: Option<(u64, Impairment)>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 2,
            workers: 1,
            topology: Topology::Segment,
            agent_flags: Vec::new(),
            has_narrow_client: false,
            narrow_node: None,
            impairment: None,
        }
    }
}

/// Nodes, a router and a client. Dropping it removes everything, as [`Lab`] does.
#[derive(Debug)]
pub struct Cluster {
    network: Network,
    nodes: Vec<Node>,
    /// Last: the nodes' processes end before their namespaces go.
    lab: Arc<Lab>,
}

impl Cluster {
    /// Hosts, links, routes, and a manifest folder with the Nodes. Nothing runs yet.
    ///
    /// # Errors
    /// Those of [`Lab`].
    pub fn new(name: &str, options: &ClusterOptions) -> Result<Self> {
        let lab = Arc::new(Lab::new(name)?);
        let network = Network::new(&lab, options)?;
        let nodes = (0..options.nodes).map(|number| {
            let name = node_name(number);
            let node_options = NodeOptions {
                folder: lab.folder().join(&name),
                manifests: lab.folder().join("manifests"),
                pins: lab.pin_folder().join(&name),
                name,
                number,
                workers: options.workers,
                failure_mode: "auto",
                agent_flags: options.agent_flags.clone(),
                // Several nodes share this machine's few cores.
                dataplane_flags: vec!["--no-pinning".into()],
            };
            Node::new(&lab, network.nodes[usize::from(number)].clone(), node_options)
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let cluster = Self { network, nodes, lab };
        for number in 0..options.nodes {
            cluster.apply(&node_name(number), &cluster_node_yaml(number))?;
        }
        Ok(cluster)
    }

    /// Runs `weir up` on every node.
    ///
    /// # Errors
    /// Those of [`Node::start_up`].
    pub fn start_up(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::start_up)
    }

    /// Waits until every node runs the manifests' present state.
    ///
    /// # Errors
    /// Those of [`Node::wait_until_settled`].
    pub fn wait_until_settled(&self) -> Result<()> {
        self.nodes.iter().try_for_each(Node::wait_until_settled)
    }

    /// Writes a service with its slices, and waits until every node serves it.
    ///
    /// # Errors
    /// Those of [`Node::apply`] and [`Node::wait_for_service`].
    pub fn serve(&self, service: &ClusterService) -> Result<()> {
        // A pod may have the same name.
        self.apply(&format!("service-{}", service.name), &service.yaml())?;
        self.nodes.iter().try_for_each(|node| node.wait_for_service(service.name))
    }

    /// Writes a manifest that every node reads.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        self.nodes.iter().take(1).try_for_each(|node| node.apply(name, yaml))
    }

    /// Behind the router, outside the cluster.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.network.client
    }

    /// Between the nodes and the client.
    #[must_use]
    pub fn router(&self) -> &Host {
        &self.network.router
    }

    /// From 0.
    ///
    /// # Panics
    /// Where the cluster has fewer.
    #[must_use]
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// From 0.
    ///
    /// # Panics
    /// Where the cluster has fewer.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Of all nodes.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.iter().flat_map(Node::pods)
    }

    /// Everything that has connections: the client, nodes and pods.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let nodes = self.nodes.iter().map(Node::host);
        std::iter::once(self.client()).chain(nodes).chain(self.pods().map(Pod::host))
    }

    /// The impaired links between router and nodes, in their order; none without an impairment.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.network.links
    }

    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }
}

/// Of the Node object and the host.
fn node_name(number: u8) -> String {
    format!("node-{}", number + 1)
}
