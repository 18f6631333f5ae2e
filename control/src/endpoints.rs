//! Pods attached to this node: checked, and kept on disk for the agent's next start.
//!
//! An entry is valid for one boot and one interface: interface indexes start again at boot, and a
//! veth of the same name may be another pod's.

mod extras;
mod interfaces;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{info, warn};
use weir_api::convert::{ConvertError, Mac, address_bytes};
use weir_api::v1::{AttachEndpointRequest, Endpoint, FailureMode};

pub use extras::{BandwidthLimits, MappedPort};
pub use interfaces::{Interfaces, KernelInterfaces};

use crate::model::{HostPort, check_unicast};

/// An endpoint that cannot be attached, or a store that cannot be read or written.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// Not `namespace/name`.
    #[error("{0:?} is not an endpoint's name: give namespace/name of the pod")]
    Name(String),
    /// No such interface in the agent's network namespace.
    #[error("endpoint {name}: no interface {interface:?} on this host: create the veth pair first")]
    NoInterface {
        /// Endpoint.
        name: String,
        /// Interface.
        interface: String,
    },
    /// The kernel does not answer.
    #[error("endpoint {name}: cannot look up interface {interface:?}: {error}")]
    Interface {
        /// Endpoint.
        name: String,
        /// Interface.
        interface: String,
        /// Why.
        error: io::Error,
    },
    /// Not a MAC address of an interface.
    #[error("endpoint {name}: {error}")]
    Mac {
        /// Endpoint.
        name: String,
        /// What is wrong.
        error: ConvertError,
    },
    /// Not an address that a pod can have.
    #[error("endpoint {name}: {reason}")]
    Address {
        /// Endpoint.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Not a port of the node and one of the pod.
    #[error("endpoint {name}: {reason}")]
    PortMapping {
        /// Endpoint.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Another endpoint has this interface or address.
    #[error("endpoint {name}: {what} belongs to endpoint {owner}: detach that one first")]
    Taken {
        /// Endpoint.
        name: String,
        /// Interface or address.
        what: String,
        /// Who has it.
        owner: String,
    },
    /// The file cannot be read or written.
    #[error("{path}: cannot {what} the attached endpoints: {error}")]
    Store {
        /// The file.
        path: PathBuf,
        /// Read or write.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// One attached pod, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedEndpoint {
    /// `namespace/name`.
    pub name: String,
    /// Host side of its veth.
    pub interface: String,
    /// Index of that interface.
    pub ifindex: u32,
    /// MAC address inside the pod.
    pub mac: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to it, beside those of its Pod object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<MappedPort>,
    /// How fast it may receive and send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BandwidthLimits>,
}

impl AttachedEndpoint {
    /// Ports of the node that lead to it, beside those of its Pod object.
    #[must_use]
    pub fn host_ports(&self) -> Vec<HostPort> {
        self.port_mappings.iter().map(MappedPort::to_host_port).collect()
    }

    /// As the state protocol carries it.
    ///
    /// # Errors
    /// The MAC address is none: only where the file was edited.
    pub fn to_object(&self) -> Result<Endpoint, ConvertError> {
        Ok(Endpoint {
            name: self.name.clone(),
            interface: self.interface.clone(),
            ifindex: self.ifindex,
            mac: self.mac.parse::<Mac>()?.0.to_vec(),
            addresses: self.addresses.iter().map(|it| address_bytes(*it)).collect(),
            failure_mode: FailureMode::Unspecified.into(),
            bandwidth: self.bandwidth.map(BandwidthLimits::to_wire),
            ..Endpoint::default()
        })
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    boot_id: String,
    endpoints: Vec<AttachedEndpoint>,
}

const FILE_VERSION: u32 = 1;

/// All attached pods.
pub struct EndpointStore {
    path: PathBuf,
    boot_id: String,
    interfaces: Box<dyn Interfaces>,
    endpoints: BTreeMap<String, AttachedEndpoint>,
}

impl EndpointStore {
    /// Reads the store. Entries of another boot, and those whose interface is gone or is another
    /// one, are dropped with a line in the log.
    ///
    /// # Errors
    /// The file exists and cannot be read: starting without it would withdraw live pods.
    pub fn open(
        path: &Path,
        boot_id: &str,
        interfaces: Box<dyn Interfaces>,
    ) -> Result<Self, EndpointError> {
        let failed = |error| EndpointError::Store { path: path.to_owned(), what: "read", error };
        let mut store = Self {
            path: path.to_owned(),
            boot_id: boot_id.to_owned(),
            interfaces,
            endpoints: BTreeMap::new(),
        };
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(store),
            Err(error) => return Err(failed(error)),
        };
        let file: File = serde_json::from_slice(&text).map_err(|it| failed(it.into()))?;
        if file.version != FILE_VERSION {
            let reason = format!("version {} is not {FILE_VERSION}", file.version);
            return Err(failed(io::Error::other(reason)));
        }
        if file.boot_id != boot_id {
            let count = file.endpoints.len();
            info!("the host has booted since: {count} attached endpoints are dropped");
            return Ok(store);
        }
        for endpoint in file.endpoints {
            match store.check_identity(&endpoint) {
                Ok(()) => {
                    store.endpoints.insert(endpoint.name.clone(), endpoint);
                }
                Err(reason) => warn!("endpoint {}: {reason}: dropped", endpoint.name),
            }
        }
        Ok(store)
    }

    /// Checks and stores an endpoint; the same call twice is one endpoint, a call for a known name
    /// with other values replaces it.
    ///
    /// # Errors
    /// The request is refused, or cannot be stored; then nothing has changed.
    pub fn attach(
        &mut self,
        request: &AttachEndpointRequest,
    ) -> Result<AttachedEndpoint, EndpointError> {
        let endpoint = self.check(request)?;
        if self.endpoints.get(&endpoint.name) != Some(&endpoint) {
            let earlier = self.endpoints.insert(endpoint.name.clone(), endpoint.clone());
            if let Err(error) = self.write() {
                self.endpoints.remove(&endpoint.name);
                self.endpoints.extend(earlier.map(|it| (it.name.clone(), it)));
                return Err(error);
            }
        }
        Ok(endpoint)
    }

    /// Forgets an endpoint; false where there was none.
    ///
    /// # Errors
    /// The file cannot be written; then nothing has changed.
    pub fn detach(&mut self, name: &str) -> Result<bool, EndpointError> {
        let Some(endpoint) = self.endpoints.remove(name) else { return Ok(false) };
        if let Err(error) = self.write() {
            self.endpoints.insert(endpoint.name.clone(), endpoint);
            return Err(error);
        }
        Ok(true)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &AttachedEndpoint> {
        self.endpoints.values()
    }

    /// By name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&AttachedEndpoint> {
        self.endpoints.get(name)
    }

    /// By the host side of its veth.
    #[must_use]
    pub fn find_by_interface(&self, interface: &str) -> Option<&AttachedEndpoint> {
        self.endpoints.values().find(|it| it.interface == interface)
    }

    /// Whether this host has an interface of this name.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn has_interface(&self, name: &str) -> io::Result<bool> {
        Ok(self.interfaces.find_index(name)?.is_some())
    }

    /// Whether the interface is still the one that was attached.
    ///
    /// # Errors
    /// Says what is there instead and what to do.
    pub fn check_identity(&self, endpoint: &AttachedEndpoint) -> Result<(), String> {
        let AttachedEndpoint { interface, ifindex, .. } = endpoint;
        match self.interfaces.find_index(interface) {
            Ok(Some(index)) if index == *ifindex => Ok(()),
            Ok(Some(index)) => Err(format!(
                "interface {interface} is another one now (index {index}, was {ifindex}): attach \
                 again"
            )),
            Ok(None) => Err(format!("interface {interface} is gone: detach, or attach again")),
            Err(error) => Err(format!("interface {interface} cannot be looked up: {error}")),
        }
    }

    fn check(&self, request: &AttachEndpointRequest) -> Result<AttachedEndpoint, EndpointError> {
        let name = request.name.clone();
        if !is_pod_name(&name) {
            return Err(EndpointError::Name(name));
        }
        let mac = request.mac.parse::<Mac>();
        let mac = mac.map_err(|error| EndpointError::Mac { name: name.clone(), error })?;
        let addresses = self.check_addresses(&name, &request.addresses)?;
        let interface = request.interface.clone();
        let ifindex = match self.interfaces.find_index(&interface) {
            Ok(Some(index)) => index,
            Ok(None) => return Err(EndpointError::NoInterface { name, interface }),
            Err(error) => return Err(EndpointError::Interface { name, interface, error }),
        };
        if let Some(owner) = self.find_other(&name, |it| it.interface == interface) {
            let what = format!("interface {interface}");
            return Err(EndpointError::Taken { name, what, owner });
        }
        let mappings = request.port_mappings.iter().map(MappedPort::read);
        let port_mappings: Result<Vec<_>, String> = mappings.collect();
        let refuse = |reason| EndpointError::PortMapping { name: name.clone(), reason };
        let port_mappings = port_mappings.map_err(refuse)?;
        let bandwidth = request.bandwidth.as_ref().and_then(BandwidthLimits::read);
        let mac = mac.to_string();
        Ok(AttachedEndpoint { name, interface, ifindex, mac, addresses, port_mappings, bandwidth })
    }

    fn check_addresses(&self, name: &str, texts: &[String]) -> Result<Vec<IpAddr>, EndpointError> {
        let refuse = |reason| EndpointError::Address { name: name.to_owned(), reason };
        let mut addresses = Vec::new();
        let mut seen = BTreeSet::new();
        for text in texts {
            let address: IpAddr = text.parse().map_err(|_| {
                refuse(format!("{text:?} is not an IP address (without a prefix length)"))
            })?;
            if let Err(what) = check_unicast(address) {
                return Err(refuse(format!("{address} is {what}: give the pod's own address")));
            }
            if !seen.insert(address) {
                return Err(refuse(format!("{address} is given twice")));
            }
            if let Some(owner) = self.find_other(name, |it| it.addresses.contains(&address)) {
                let (name, what) = (name.to_owned(), format!("address {address}"));
                return Err(EndpointError::Taken { name, what, owner });
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(refuse("an endpoint needs at least one address".into()));
        }
        Ok(addresses)
    }

    fn find_other(&self, name: &str, has: impl Fn(&AttachedEndpoint) -> bool) -> Option<String> {
        let mut others = self.endpoints.values().filter(|it| it.name != name);
        others.find(|it| has(it)).map(|it| it.name.clone())
    }

    /// Replaces the file in one step: a crash leaves the old one or the new one.
    fn write(&self) -> Result<(), EndpointError> {
        let file = File {
            version: FILE_VERSION,
            boot_id: self.boot_id.clone(),
            endpoints: self.endpoints.values().cloned().collect(),
        };
        let write = || {
            let mut text = serde_json::to_vec_pretty(&file)?;
            text.push(b'\n');
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            let fresh = self.path.with_extension("new");
            let mut file = fs::File::create(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)
        };
        let path = self.path.clone();
        write().map_err(|error| EndpointError::Store { path, what: "write", error })
    }
}

/// The identity of this boot of the host.
///
/// # Errors
/// `/proc` is not there.
pub fn read_boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

pub(crate) fn is_pod_name(name: &str) -> bool {
    let is_fine = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let is_part = |part: &str| !part.is_empty() && part.len() <= 253 && part.bytes().all(is_fine);
    name.split_once('/').is_some_and(|(namespace, pod)| is_part(namespace) && is_part(pod))
}
