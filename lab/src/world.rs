//! [`World`]: nodes and pods at addresses that somebody else chose, for running what is written
//! down elsewhere about a cluster. All nodes are on one segment with a host that is everything
//! outside the cluster.

use std::sync::Arc;

use crate::{
    Host, Lab, LinkOptions, Result,
    testbed::{Addresses, Node, NodeOptions, UPLINK},
};

/// The segment, in the host outside.
const BRIDGE: &str = "br0";

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Of the host outside, on the segment of the nodes.
    pub gateway: Addresses,
    pub nodes: Vec<WorldNode>,
    /// Packet workers of each node.
    pub workers: u16,
    /// More flags for every agent.
    pub agent_flags: Vec<String>,
}

/// A node by its Node object.
#[derive(Clone, Debug)]
pub struct WorldNode {
    pub name: String,
    pub addresses: Addresses,
}

/// Nodes and the host outside. Dropping it removes everything, as [`Lab`] does.
#[derive(Debug)]
pub struct World {
    options: WorldOptions,
    outside: Host,
    nodes: Vec<Node>,
    /// Last: the nodes' processes end before their namespaces go.
    lab: Arc<Lab>,
}

impl World {
    /// Hosts, links, addresses and an empty folder of manifests. Nothing runs yet.
    ///
    /// # Errors
    /// Those of [`Lab`].
    pub fn new(name: &str, options: WorldOptions) -> Result<Self> {
        let lab = Arc::new(Lab::new(name)?);
        let outside = lab.host("outside")?;
        outside.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        outside.ip("link set dev br0 up")?;
        give(&outside, BRIDGE, options.gateway, [24, 64])?;
        let mut nodes = Vec::new();
        for (number, node) in (0..).zip(&options.nodes) {
            let host = lab.host(&node.name)?;
            lab.link(&outside, &node.name, &host, UPLINK, &LinkOptions::default())?;
            outside.ip(&format!("link set dev {} master {BRIDGE}", node.name))?;
            give(&host, UPLINK, node.addresses, [24, 64])?;
            host.route(&format!("default via {}", options.gateway.v4))?;
            host.route(&format!("default via {}", options.gateway.v6))?;
            let node_options = NodeOptions {
                name: node.name.clone(),
                number,
                folder: lab.folder().join(&node.name),
                manifests: lab.folder().join("manifests"),
                pins: lab.pin_folder().join(&node.name),
                workers: options.workers,
                failure_mode: "auto",
                agent_flags: options.agent_flags.clone(),
                // Several nodes share this machine's few cores.
                dataplane_flags: vec!["--no-pinning".into()],
            };
            nodes.push(Node::new(&lab, host, node_options)?);
        }
        Ok(Self { options, outside, nodes, lab })
    }

    /// Runs a dataplane and an agent on every node, each by itself.
    ///
    /// # Errors
    /// Those of [`Node::start_dataplane`] and [`Node::start_agent`].
    pub fn start(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start_dataplane()?;
            node.start_agent()?;
        }
        self.nodes.iter().try_for_each(Node::wait_until_settled)
    }

    /// A pod `NAMESPACE/NAME` on a node, and everybody's way to it.
    ///
    /// # Errors
    /// Those of [`Node::add_pod`].
    pub fn add_pod(&mut self, node: usize, name: &str, addresses: Addresses) -> Result<()> {
        self.nodes[node].add_pod_at(name, addresses)?;
        let via = self.options.nodes[node].addresses;
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        let others = others.map(|(_, other)| other.host());
        for host in others.chain([&self.outside]) {
            host.route(&format!("{} via {}", addresses.v4, via.v4))?;
            host.route(&format!("{} via {}", addresses.v6, via.v6))?;
        }
        Ok(())
    }

    /// Everything outside the cluster.
    #[must_use]
    pub fn outside(&self) -> &Host {
        &self.outside
    }

    /// In the order of their options.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// In the order of their options.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }
}

fn give(host: &Host, interface: &str, own: Addresses, lengths: [u8; 2]) -> Result<()> {
    host.addr(interface, &format!("{}/{}", own.v4, lengths[0]))?;
    host.addr(interface, &format!("{}/{}", own.v6, lengths[1]))
}
