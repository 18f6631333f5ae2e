//! [`Testbed`]: a whole weir in a lab. A client host, an uplink, a node that runs weir's own
//! binaries, and pods with real servers, told to weir as Kubernetes YAML.
//!
//! ```no_run
//! use weir_lab::{Testbed, TestbedOptions, testbed::Service};
//!
//! # fn main() -> weir_lab::Result<()> {
//! let mut testbed = Testbed::new("example", TestbedOptions::default())?;
//! testbed.start_up()?;
//! for name in ["web-1", "web-2"] {
//!     testbed.add_backend(name, "web")?;
//! }
//! let web = Service::http();
//! testbed.apply("web", &web.yaml())?;
//! testbed.wait_for_backends("web", 2)?;
//! let url = format!("http://{}/", web.load_balancer().v4);
//! testbed.client().run(["curl", "-sS", &url])?;
//! # Ok(())
//! # }
//! ```

mod ask;
mod manifests;
mod node;
mod pod;
mod run;
mod status;

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

pub use manifests::{
    Addresses, CLIENT, ECHO_PORT, HTTP_PORT, LOAD_PORT, NODE, NODE_NAME, Service, ServicePort,
    node_yaml, pod_addresses, pod_addresses_on, pod_yaml, pod_yaml_on,
};
pub use node::Node;
pub(crate) use node::NodeOptions;
pub use pod::Pod;
pub use status::{Agent, Backend, Dataplane, Device, Drop, Drops, Frontend, Status, Worker};

use crate::{Host, Lab, LinkOptions, Result};

/// A node's interface to the network outside.
pub const UPLINK: &str = "uplink0";

/// How a testbed's node runs weir.
#[derive(Clone, Debug)]
pub struct TestbedOptions {
    /// Packet workers.
    pub workers: u16,
    /// `open`, `closed` or `auto`.
    pub failure_mode: &'static str,
    /// Queues of each end of the uplink; the kernel's default otherwise.
    pub uplink_queues: Option<u32>,
    /// More flags for [`Node::start_dataplane`], such as `--no-pinning`.
    pub dataplane_flags: Vec<String>,
}

impl Default for TestbedOptions {
    fn default() -> Self {
        Self { workers: 1, failure_mode: "auto", uplink_queues: None, dataplane_flags: Vec::new() }
    }
}

/// A client beside a [`Node`], which this is as well. Dropping it removes everything, as [`Lab`]
/// does.
#[derive(Debug)]
pub struct Testbed {
    client: Host,
    node: Node,
    lab: Arc<Lab>,
}

impl Testbed {
    /// Hosts, uplink, addresses, and a manifest folder with the Node. Nothing runs yet.
    ///
    /// # Errors
    /// Those of [`Lab`].
    pub fn new(name: &str, options: TestbedOptions) -> Result<Self> {
        let lab = Arc::new(Lab::new(name)?);
        let (client, host) = (lab.host("client")?, lab.host("node")?);
        let link = LinkOptions { queues: options.uplink_queues, ..Default::default() };
        lab.link(&client, "eth0", &host, UPLINK, &link)?;
        connect(&client, &host)?;
        let options = NodeOptions {
            name: NODE_NAME.into(),
            number: 0,
            folder: lab.folder().into(),
            manifests: lab.folder().join("manifests"),
            pins: lab.pin_folder(),
            workers: options.workers,
            failure_mode: options.failure_mode,
            agent_flags: Vec::new(),
            dataplane_flags: options.dataplane_flags,
        };
        let node = Node::new(&lab, host, options)?;
        node.apply("node", &node_yaml())?;
        Ok(Self { client, node, lab })
    }

    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    #[must_use]
    pub fn node(&self) -> &Host {
        self.node.host()
    }

    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }
}

impl Deref for Testbed {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for Testbed {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

/// Addresses on both ends of the uplink; behind the node are its services and pods, behind the
/// client everything else.
fn connect(client: &Host, node: &Host) -> Result<()> {
    for (host, interface, own) in [(client, "eth0", CLIENT), (node, UPLINK, NODE)] {
        host.addr(interface, &format!("{}/24", own.v4))?;
        host.addr(interface, &format!("{}/64", own.v6))?;
    }
    for range in manifests::BEHIND_NODE_V4 {
        client.route(&format!("{range} via {}", NODE.v4))?;
    }
    for range in manifests::BEHIND_NODE_V6 {
        client.route(&format!("{range} via {}", NODE.v6))?;
    }
    node.route(&format!("default via {}", CLIENT.v4))?;
    node.route(&format!("default via {}", CLIENT.v6))
}
