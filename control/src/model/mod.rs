//! What weir understands of a cluster: our nouns, whatever source they come from.
//!
//! Everything here has been validated: a value that exists is usable. No Kubernetes type appears.

mod names;
mod problem;

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_api::v1::{BackendState, Protocol};

pub use names::{Kind, Name, ObjectKey, Origin};
pub use problem::{Problem, Severity};

/// Weight of a backend that has none of its own.
pub const WEIGHT_DEFAULT: u32 = 100;

/// Any object of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A set of addresses and ports in front of endpoints.
    Service(Service),
    /// Endpoints of a service.
    Slice(EndpointSlice),
    /// A pod; here a possible endpoint of services with a selector.
    Pod(Pod),
    /// A machine of the cluster.
    Node(Node),
}

impl Object {
    /// Kind and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let (kind, name) = match self {
            Self::Service(it) => (Kind::Service, &it.name),
            Self::Slice(it) => (Kind::EndpointSlice, &it.name),
            Self::Pod(it) => (Kind::Pod, &it.name),
            Self::Node(it) => (Kind::Node, &it.name),
        };
        ObjectKey { kind, name: name.clone() }
    }
}

/// A Service. One without addresses for this proxy (headless, `ExternalName`, another proxy's)
/// exists too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`.
    pub name: Name,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// RFC 3339; orders claims on one address. Services without it are newer than all with it.
    pub created: Option<String>,
    /// Cluster-internal addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses for clients outside.
    pub load_balancer_ips: Vec<IpAddr>,
    /// At least one where there is an address; names and (port, protocol) pairs are unique.
    pub ports: Vec<ServicePort>,
    /// Labels of its pods; empty where endpoints are given by slices only.
    pub selector: BTreeMap<String, String>,
    /// Pods count as ready whatever they say.
    pub publish_not_ready: bool,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where the service has one unnamed port.
    pub name: String,
    /// Port on the service's addresses.
    pub l4_port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Port on the pods; used where no slice gives the endpoints.
    pub target: TargetPort,
}

/// Port on the pods behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// The same on all pods.
    Number(u16),
    /// The container port of this name.
    Name(String),
}

/// Some of a service's endpoints, all of one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// `namespace/name` of the slice.
    pub name: Name,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// The service, in the slice's namespace.
    pub service: Name,
    /// Ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// Addresses and states.
    pub endpoints: Vec<SliceEndpoint>,
    /// Weight of its backends.
    pub weight: u32,
}

/// One port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the service's port.
    pub name: String,
    /// Protocol of the service's port.
    pub protocol: Protocol,
    /// Port on the endpoints.
    pub l4_port: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// What it takes.
    pub state: BackendState,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `namespace/name`.
    pub name: Name,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// What selectors match.
    pub labels: BTreeMap<String, String>,
    /// One per address family at most; none where the pod has not started or has ended.
    pub addresses: Vec<IpAddr>,
    /// Passes its readiness checks.
    pub is_ready: bool,
    /// Is being deleted.
    pub is_terminating: bool,
    /// Named ports of its containers.
    pub ports: Vec<ContainerPort>,
}

/// A named port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub l4_port: u16,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; nodes have no namespace.
    pub name: Name,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// Internal and external addresses.
    pub addresses: Vec<IpAddr>,
}

/// What an endpoint in this condition takes: the first match of Kubernetes' conditions
/// (EndpointSlice API, KEP-1669).
#[must_use]
pub fn backend_state(is_ready: bool, is_serving: bool, is_terminating: bool) -> BackendState {
    if is_ready {
        BackendState::Active
    } else if is_terminating && is_serving {
        BackendState::Terminating
    } else {
        BackendState::Maintenance
    }
}

/// Whether traffic can be sent to this address: what Kubernetes accepts as an endpoint, an
/// IPv4-mapped IPv6 address excepted.
///
/// # Errors
/// Says what the address is instead.
pub fn check_unicast(address: IpAddr) -> Result<(), &'static str> {
    let wrong = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
        _ => return Ok(()),
    };
    Err(wrong)
}
