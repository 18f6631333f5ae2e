//! Which pod has which addresses, on disk: what survives a restart of the agent. With it, what was
//! last known of this node: the next start may have no source that would say so.
//!
//! A lease belongs to one interface of one container and is found by the name of its host side,
//! which follows from both (`weir_api::cni`). Leases of an earlier boot are void: the runtime makes
//! all containers anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{error, info};
use weir_api::cni::is_host_interface;

use crate::endpoints::AttachedEndpoint;
use crate::model::Cidr;

/// The file cannot be read, written or moved.
#[derive(Debug, Error)]
#[error("{path}: cannot {what} the leases of pods' addresses: {error}")]
pub struct LeaseError {
    path: PathBuf,
    what: &'static str,
    error: io::Error,
}

/// The addresses of one interface of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Name of the host side of its veth.
    pub host_interface: String,
    /// Of the container; empty where the lease was recovered.
    pub container_id: String,
    /// Name of the interface inside; empty where the lease was recovered.
    pub ifname: String,
    /// Of the pod; empty where the runtime is not Kubernetes'.
    pub pod_namespace: String,
    /// Of the pod.
    pub pod_name: String,
    /// Of the pod.
    pub pod_uid: String,
    /// One per family.
    pub addresses: Vec<IpAddr>,
    /// MAC address inside.
    pub mac: String,
    /// Bytes; 0 where the lease was recovered: whatever the interface has.
    pub mtu: u32,
    /// Since when (RFC 3339), for people.
    pub since: String,
}

impl Lease {
    /// Name of its endpoint.
    #[must_use]
    pub fn endpoint_name(&self) -> String {
        if !self.pod_namespace.is_empty() && !self.pod_name.is_empty() {
            return format!("{}/{}", self.pod_namespace, self.pod_name);
        }
        let id = self.container_id.get(..13).unwrap_or(&self.container_id);
        let name = format!("{id}-{}", self.ifname).to_lowercase();
        let is_fine = |it: char| it.is_ascii_alphanumeric() || it == '.';
        format!("cni/{}", name.replace(|it| !is_fine(it), "-"))
    }

    fn recover(endpoint: &AttachedEndpoint) -> Self {
        let (namespace, name) = endpoint.name.split_once('/').unwrap_or_default();
        Self {
            host_interface: endpoint.interface.clone(),
            pod_namespace: namespace.to_owned(),
            pod_name: name.to_owned(),
            addresses: endpoint.addresses.clone(),
            mac: endpoint.mac.clone(),
            ..Self::default()
        }
    }
}

/// What the source said last of this node, for a start while it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownNode {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ranges of its pods' addresses.
    pub pod_ranges: Vec<Cidr>,
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    version: u32,
    boot_id: String,
    /// Address of each family that was given last.
    last: Vec<IpAddr>,
    leases: Vec<Lease>,
    /// Files of earlier versions have none.
    #[serde(default)]
    node: NodeText,
}

#[derive(Default, Serialize, Deserialize)]
struct NodeText {
    addresses: Vec<IpAddr>,
    pod_ranges: Vec<String>,
}

impl NodeText {
    fn write(node: &KnownNode) -> Self {
        let pod_ranges = node.pod_ranges.iter().map(ToString::to_string).collect();
        Self { addresses: node.addresses.clone(), pod_ranges }
    }

    fn read(&self) -> Result<KnownNode, String> {
        let pod_ranges: Result<_, String> = self.pod_ranges.iter().map(|it| it.parse()).collect();
        Ok(KnownNode { addresses: self.addresses.clone(), pod_ranges: pod_ranges? })
    }
}

const FILE_VERSION: u32 = 1;

/// All leases.
#[derive(Debug)]
pub struct LeaseStore {
    path: PathBuf,
    boot_id: String,
    leases: BTreeMap<String, Lease>,
    last: Vec<IpAddr>,
    node: KnownNode,
}

impl LeaseStore {
    /// Reads the file. One that is damaged is moved aside, and the leases of attached pods are made
    /// again from `endpoints`, with an error in the log.
    ///
    /// # Errors
    /// The file cannot be read or moved: starting without it would give addresses away twice.
    pub fn open<'a>(
        path: &Path,
        boot_id: &str,
        endpoints: impl Iterator<Item = &'a AttachedEndpoint>,
    ) -> Result<Self, LeaseError> {
        let failed = |what, error| LeaseError { path: path.to_owned(), what, error };
        let mut store = Self {
            path: path.to_owned(),
            boot_id: boot_id.to_owned(),
            leases: BTreeMap::new(),
            last: Vec::new(),
            node: KnownNode::default(),
        };
        let text = match fs::read(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read", error)),
        };
        match text.as_deref().map(parse) {
            None => {}
            Some(Ok((file, node))) => store.take(file, node),
            Some(Err(reason)) => {
                let aside = path.with_extension("damaged");
                fs::rename(path, &aside).map_err(|it| failed("move aside", it))?;
                error!(
                    "{}: {reason}: moved to {}; the addresses of attached pods are recovered, and \
                     nothing has to be done; please report it, with that file",
                    path.display(),
                    aside.display()
                );
            }
        }
        // Also those that an interrupted write left without a lease.
        for endpoint in endpoints.filter(|it| is_host_interface(&it.interface)) {
            if !store.leases.contains_key(&endpoint.interface) {
                let lease = Lease::recover(endpoint);
                info!("endpoint {}: its lease is recovered", endpoint.name);
                store.leases.insert(endpoint.interface.clone(), lease);
            }
        }
        Ok(store)
    }

    fn take(&mut self, file: File, node: KnownNode) {
        self.last = file.last;
        if file.boot_id == self.boot_id {
            self.node = node;
            let by_name = |it: Lease| (it.host_interface.clone(), it);
            self.leases = file.leases.into_iter().map(by_name).collect();
        } else if !file.leases.is_empty() {
            let count = file.leases.len();
            info!("the host has booted since: {count} leases of addresses are dropped");
        }
    }

    /// The lease of this host interface.
    #[must_use]
    pub fn find(&self, host_interface: &str) -> Option<&Lease> {
        self.leases.get(host_interface)
    }

    /// All of them, by host interface.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The address of each family that was given last.
    #[must_use]
    pub fn last(&self) -> &[IpAddr] {
        &self.last
    }

    /// What the source said last of this node, in this boot: one that was away for longer may have
    /// become another.
    #[must_use]
    pub fn node(&self) -> &KnownNode {
        &self.node
    }

    /// Keeps what the source says of this node.
    ///
    /// # Errors
    /// It cannot be written; then the next lease tries again.
    pub fn put_node(&mut self, node: KnownNode) -> Result<(), LeaseError> {
        self.node = node;
        self.write()
    }

    /// Adds or replaces a lease.
    ///
    /// # Errors
    /// It cannot be written; then nothing has changed.
    pub fn put(&mut self, lease: Lease, last: Vec<IpAddr>) -> Result<(), LeaseError> {
        let name = lease.host_interface.clone();
        let earlier = self.leases.insert(name.clone(), lease);
        let last = std::mem::replace(&mut self.last, last);
        self.write().inspect_err(|_| {
            self.leases.remove(&name);
            self.leases.extend(earlier.map(|it| (name, it)));
            self.last = last;
        })
    }

    /// Removes leases; those that do not exist are no error.
    ///
    /// # Errors
    /// It cannot be written; then nothing has changed.
    pub fn remove(&mut self, host_interfaces: &BTreeSet<String>) -> Result<(), LeaseError> {
        let earlier = self.leases.clone();
        self.leases.retain(|name, _| !host_interfaces.contains(name));
        if self.leases.len() == earlier.len() {
            return Ok(());
        }
        self.write().inspect_err(|_| self.leases = earlier)
    }

    /// Replaces the file in one step, and has it on disk before it counts.
    fn write(&self) -> Result<(), LeaseError> {
        let file = File {
            version: FILE_VERSION,
            boot_id: self.boot_id.clone(),
            last: self.last.clone(),
            leases: self.leases.values().cloned().collect(),
            node: NodeText::write(&self.node),
        };
        let write = || {
            let mut text = serde_json::to_vec_pretty(&file)?;
            text.push(b'\n');
            let folder = self.path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder)?;
            let fresh = self.path.with_extension("new");
            let mut file = fs::File::create(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            fs::File::open(folder)?.sync_all()
        };
        let path = self.path.clone();
        write().map_err(|error| LeaseError { path, what: "write", error })
    }
}

fn parse(text: &[u8]) -> Result<(File, KnownNode), String> {
    let file: File = serde_json::from_slice(text).map_err(|error| format!("damaged: {error}"))?;
    if file.version != FILE_VERSION {
        return Err(format!("of version {}, not {FILE_VERSION}", file.version));
    }
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for lease in &file.leases {
        if !names.insert(&lease.host_interface) {
            return Err(format!("damaged: {} is leased twice", lease.host_interface));
        }
        if let Some(twice) = lease.addresses.iter().find(|it| !addresses.insert(**it)) {
            return Err(format!("damaged: {twice} is leased twice"));
        }
    }
    let node = file.node.read().map_err(|error| format!("damaged: {error}"))?;
    Ok((file, node))
}
