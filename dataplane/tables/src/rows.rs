//! The objects that control upserts and deletes, as plain checked values.

use std::fmt;

use weir_packet::{Addr, FlowKey, Mac, protocol};

use crate::backend_set::{Algorithm, Backend};
use crate::ids::PortId;
use crate::network::Prefix;

/// An address, port and protocol that a Service answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    pub addr: Addr,
    pub l4_port: u16,
    pub protocol: u8,
}

impl FrontendKey {
    /// The frontend that a flow is addressed to.
    #[inline]
    pub fn of_destination(key: &FlowKey) -> FrontendKey {
        FrontendKey { addr: key.dst, l4_port: key.dport, protocol: key.protocol }
    }
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addr = crate::ids::BackendAddr { addr: self.addr, l4_port: self.l4_port };
        write!(f, "{addr}/{}", protocol::Name(self.protocol))
    }
}

/// Which field of the Service an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontendType {
    ClusterIp,
    LoadBalancer,
}

/// A frontend and the set that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub key: FrontendKey,
    /// `namespace/name`, with `:port-name` where the port has one.
    pub service: String,
    pub kind: FrontendType,
    /// Name of its backend set; where no such set exists, nothing answers.
    pub backend_set: String,
}

/// What happens to a pod's packets while no worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureMode {
    /// The kernel forwards them.
    Open,
    /// They are dropped.
    Closed,
}

/// A pod attached to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `namespace/name`.
    pub name: String,
    /// Index of the host side of its veth.
    pub port: PortId,
    /// Inside the pod.
    pub mac: Mac,
    pub addresses: Vec<Addr>,
    pub failure_mode: FailureMode,
}

/// What concerns the node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: String,
    pub addresses: Vec<Addr>,
    pub maglev: crate::maglev::MaglevParams,
    /// Ranges that the host sends into its port.
    pub service_ranges: Vec<Prefix>,
}

/// Anything that control upserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Frontend(Frontend),
    BackendSet { name: String, protocol: u8, algorithm: Algorithm, backends: Vec<Backend> },
    Endpoint(Endpoint),
    Node(NodeConfig),
}

/// The name of anything that control upserts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    Frontend(FrontendKey),
    BackendSet(String),
    Endpoint(String),
    Node,
}

impl Object {
    /// Its name.
    pub fn name(&self) -> ObjectRef {
        match self {
            Object::Frontend(frontend) => ObjectRef::Frontend(frontend.key),
            Object::BackendSet { name, .. } => ObjectRef::BackendSet(name.clone()),
            Object::Endpoint(endpoint) => ObjectRef::Endpoint(endpoint.name.clone()),
            Object::Node(_) => ObjectRef::Node,
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectRef::Frontend(key) => write!(f, "frontend {key}"),
            ObjectRef::BackendSet(name) => write!(f, "backend set {name}"),
            ObjectRef::Endpoint(name) => write!(f, "endpoint {name}"),
            ObjectRef::Node => f.write_str("node"),
        }
    }
}
