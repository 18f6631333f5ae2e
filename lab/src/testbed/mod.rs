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
mod pod;
mod run;
mod status;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

pub use manifests::{
    Addresses, CLIENT, ECHO_PORT, HTTP_PORT, LOAD_PORT, NODE, NODE_NAME, Service, ServicePort,
    node_yaml, pod_addresses, pod_yaml,
};
pub use pod::Pod;
pub use status::{Agent, Backend, Dataplane, Device, Drop, Frontend, Status, Worker};

use crate::{Error, Host, Lab, LinkOptions, Process, Result, host::format_mac};

/// The node's interface to the client.
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
    /// More flags for [`Testbed::start_dataplane`], such as `--no-pinning`.
    pub dataplane_flags: Vec<String>,
}

impl Default for TestbedOptions {
    fn default() -> Self {
        Self { workers: 1, failure_mode: "auto", uplink_queues: None, dataplane_flags: Vec::new() }
    }
}

/// A client, a node and its pods. Dropping it removes everything, as [`Lab`] does.
#[derive(Debug)]
pub struct Testbed {
    options: TestbedOptions,
    client: Host,
    node: Host,
    pods: BTreeMap<String, Pod>,
    pods_made: u16,
    up: Option<Process>,
    dataplane: Option<Process>,
    agent: Option<Process>,
    /// Last: the others' processes end before their namespaces go.
    lab: Lab,
}

impl Testbed {
    /// Hosts, uplink, addresses, and a manifest folder with the Node. Nothing runs yet.
    ///
    /// # Errors
    /// Those of [`Lab`].
    pub fn new(name: &str, options: TestbedOptions) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, node) = (lab.host("client")?, lab.host("node")?);
        let link = LinkOptions { queues: options.uplink_queues, ..Default::default() };
        lab.link(&client, "eth0", &node, UPLINK, &link)?;
        connect(&client, &node)?;
        let testbed = Self {
            options,
            client,
            node,
            pods: BTreeMap::new(),
            pods_made: 0,
            up: None,
            dataplane: None,
            agent: None,
            lab,
        };
        for folder in [testbed.manifests(), testbed.state_folder()] {
            fs::create_dir(&folder).map_err(|source| file_error("make folder", &folder, source))?;
        }
        testbed.apply("node", &node_yaml())?;
        Ok(testbed)
    }

    /// A pod with an interface that weir knows, without servers and without a Pod manifest.
    ///
    /// # Errors
    /// Those of [`Lab`], and what `weir endpoint attach` says.
    pub fn add_pod(&mut self, name: &str) -> Result<&Pod> {
        let number = self.pods_made;
        self.pods_made += 1;
        let interface = format!("pod{number}");
        let pod = Pod::new(&self.lab, &self.node, name, interface, pod_addresses(number))?;
        self.attach(&pod)?;
        Ok(self.pods.entry(name.into()).insert_entry(pod).into_mut())
    }

    /// A pod with an HTTP and a UDP echo server, attached, and its manifest with this label `app`.
    ///
    /// # Errors
    /// Those of [`Testbed::add_pod`].
    pub fn add_backend(&mut self, name: &str, app: &str) -> Result<&Pod> {
        self.add_pod(name)?;
        let pod = self.pods.get_mut(name).ok_or_else(|| Error::NoPod { pod: name.into() })?;
        pod.serve()?;
        let yaml = pod_yaml(name, app, pod.addresses());
        self.apply(name, &yaml)?;
        self.pod(name)
    }

    /// Tells the agent about a pod's interface, as its CNI plugin would.
    ///
    /// # Errors
    /// [`Error::Command`] with what `weir endpoint attach` said.
    pub fn attach(&self, pod: &Pod) -> Result<()> {
        let (name, mac) = (format!("default/{}", pod.name()), format_mac(pod.mac()));
        let [v4, v6] = pod.addresses().both().map(|address| address.to_string());
        let interface = ["--interface", pod.interface(), "--mac", &mac];
        let addresses = ["--address", &v4, "--address", &v6];
        self.weir(&[&["endpoint", "attach", &name], &interface[..], &addresses].concat()).map(drop)
    }

    /// Removes a pod in the order of Kubernetes: its servers end, then its object and its interface
    /// go.
    ///
    /// # Errors
    /// [`Error::NoPod`]; what `weir endpoint detach` says.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pods.remove(name).ok_or_else(|| Error::NoPod { pod: name.into() })?;
        pod.servers().iter().for_each(Process::kill);
        if self.manifest(name).exists() {
            self.delete(name)?;
        }
        self.weir(&["endpoint", "detach", &format!("default/{name}")])?;
        self.node.ip(&format!("link delete dev {}", pod.interface())).map(drop)
    }

    /// Writes a manifest, in one step as far as a reader can see.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        let (path, aside) = (self.manifest(name), self.manifests().join(format!(".{name}")));
        let written = fs::write(&aside, yaml).and_then(|()| fs::rename(&aside, &path));
        written.map_err(|source| file_error("write", &path, source))
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn delete(&self, name: &str) -> Result<()> {
        let path = self.manifest(name);
        fs::remove_file(&path).map_err(|source| file_error("remove", &path, source))
    }

    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    #[must_use]
    pub fn node(&self) -> &Host {
        &self.node
    }

    /// # Errors
    /// [`Error::NoPod`].
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).ok_or_else(|| Error::NoPod { pod: name.into() })
    }

    /// By name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The watched folder of YAML files.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.lab.folder().join("manifests")
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.manifests().join(format!("{name}.yaml"))
    }

    /// weir's `--run-dir`: sockets and flow tables, on tmpfs.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        self.lab.folder().join("run")
    }

    /// weir's `--state-dir`.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        self.lab.folder().join("state")
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

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { action, path: path.into(), source }
}
