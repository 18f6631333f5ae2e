//! [`Node`]: a host that runs weir's own binaries, and the pods on it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Addresses, Pod, manifests::pod_yaml_on, pod_addresses_on};
use crate::{Error, Host, Lab, Process, Result, host::format_mac};

/// How a node runs weir.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    /// Name of its Node object.
    pub name: String,
    /// From 0: the third part of its pods' addresses.
    pub number: u8,
    /// Folder of its run and state folders.
    pub folder: PathBuf,
    /// The watched folder of YAML files.
    pub manifests: PathBuf,
    /// In bpffs.
    pub pins: PathBuf,
    /// Packet workers.
    pub workers: u16,
    /// `open`, `closed` or `auto`.
    pub failure_mode: &'static str,
    /// More flags for the agent.
    pub agent_flags: Vec<String>,
    /// More flags for the dataplane.
    pub dataplane_flags: Vec<String>,
}

/// A node and its pods. Nothing runs before one of the `start` functions is called.
#[derive(Debug)]
pub struct Node {
    pub(super) options: NodeOptions,
    pub(super) host: Host,
    pods: BTreeMap<String, Pod>,
    pods_made: u16,
    pub(super) up: Option<Process>,
    pub(super) dataplane: Option<Process>,
    pub(super) agent: Option<Process>,
    /// Last: processes end before their namespaces go.
    lab: Arc<Lab>,
}

impl Node {
    /// Makes its folders.
    pub(crate) fn new(lab: &Arc<Lab>, host: Host, options: NodeOptions) -> Result<Self> {
        let node = Self {
            options,
            host,
            pods: BTreeMap::new(),
            pods_made: 0,
            up: None,
            dataplane: None,
            agent: None,
            lab: Arc::clone(lab),
        };
        for folder in [node.manifests(), node.state_folder()] {
            let made = fs::create_dir_all(&folder);
            made.map_err(|source| file_error("make folder", &folder, source))?;
        }
        Ok(node)
    }

    /// A pod with an interface that weir knows, without servers and without a Pod manifest.
    ///
    /// # Errors
    /// Those of [`Lab`], and what `weir endpoint attach` says.
    pub fn add_pod(&mut self, name: &str) -> Result<&Pod> {
        let addresses = pod_addresses_on(self.options.number, self.pods_made);
        self.add_pod_at(name, addresses)
    }

    /// The same at these addresses; `name` may be `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// Those of [`Node::add_pod`].
    pub fn add_pod_at(&mut self, name: &str, addresses: Addresses) -> Result<&Pod> {
        let interface = format!("pod{}", self.pods_made);
        self.pods_made += 1;
        let pod = Pod::new(&self.lab, &self.host, name, interface, addresses)?;
        self.attach(&pod)?;
        Ok(self.pods.entry(name.into()).insert_entry(pod).into_mut())
    }

    /// A pod with an HTTP and a UDP echo server, attached, and its manifest with this label `app`.
    ///
    /// # Errors
    /// Those of [`Node::add_pod`].
    pub fn add_backend(&mut self, name: &str, app: &str) -> Result<&Pod> {
        self.add_pod(name)?;
        let pod = self.pods.get_mut(name).ok_or_else(|| Error::NoPod { pod: name.into() })?;
        pod.serve()?;
        let yaml = pod_yaml_on(&self.options.name, name, app, pod.addresses());
        self.apply(name, &yaml)?;
        self.pod(name)
    }

    /// Tells the agent about a pod's interface, as its CNI plugin would.
    ///
    /// # Errors
    /// [`Error::Command`] with what `weir endpoint attach` said.
    pub fn attach(&self, pod: &Pod) -> Result<()> {
        let name = format!("{}/{}", pod.namespace(), pod.name());
        let mac = format_mac(pod.mac());
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
        self.weir(&["endpoint", "detach", &format!("{}/{}", pod.namespace(), pod.name())])?;
        self.host.ip(&format!("link delete dev {}", pod.interface())).map(drop)
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

    /// Flags of the next agent, beside those that every agent has.
    pub fn change_agent_flags(&mut self, flags: &[&str]) {
        self.options.agent_flags = flags.iter().map(|it| (*it).to_owned()).collect();
    }

    /// Its network namespace.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Name of its Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
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

    /// The watched folder of YAML files.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.options.manifests.clone()
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.manifests().join(format!("{name}.yaml"))
    }

    /// weir's `--run-dir`: sockets and flow tables, on tmpfs.
    #[must_use]
    pub fn run_folder(&self) -> PathBuf {
        self.options.folder.join("run")
    }

    /// weir's `--state-dir`.
    #[must_use]
    pub fn state_folder(&self) -> PathBuf {
        self.options.folder.join("state")
    }
}

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { action, path: path.into(), source }
}
