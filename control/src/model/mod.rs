//! What weir understands of a cluster: our nouns, whatever source they come from.
//!
//! Everything here has been validated: a value that exists is usable. No Kubernetes type appears.

mod names;
pub mod policy;
mod problem;
mod range;
mod selector;
mod service;

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_api::v1::{BackendState, Protocol};

pub use names::{Kind, Name, ObjectKey, Origin};
pub use policy::{
    AddressBlock, CidrGroup, GroupChoice, IdentitySelector, L7Rules, LabelTest, NamePattern,
    Namespace, PARSERS, Peers, Policy, PolicyAction, PolicyPeer, PolicyPort, PolicyProtocol,
    PolicyRule, PolicySpec, PortChoice, Requirement, Section, ServiceChoice, Subject, Tier,
};
pub use problem::{Problem, Severity};
pub use range::Cidr;
pub use selector::LabelSelector;
pub use service::{
    ExposedTypes, Family, NodeFilter, Proximity, Service, ServicePolicy, ServicePort, TargetPort,
};

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
    /// Labels of a namespace.
    Namespace(Namespace),
    /// Who may talk to whom, in any of the languages.
    Policy(Policy),
    /// Ranges of addresses under a name.
    CidrGroup(CidrGroup),
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
            Self::Namespace(it) => (Kind::Namespace, &it.name),
            Self::Policy(it) => return it.key.clone(),
            Self::CidrGroup(it) => (Kind::CiliumCidrGroup, &it.name),
        };
        ObjectKey { kind, name: name.clone() }
    }

    /// The same object, read elsewhere.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Self {
        let own = match &mut self {
            Self::Service(it) => &mut it.origin,
            Self::Slice(it) => &mut it.origin,
            Self::Pod(it) => &mut it.origin,
            Self::Node(it) => &mut it.origin,
            Self::Namespace(it) => &mut it.origin,
            Self::Policy(it) => &mut it.origin,
            Self::CidrGroup(it) => &mut it.origin,
        };
        *own = Some(origin);
        self
    }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// What it takes.
    pub state: BackendState,
    /// Node that it runs on, where known.
    pub node: Option<String>,
    /// Zone that it runs in, where the slice says so.
    pub zone: Option<String>,
    /// Who should use it.
    pub hints: Hints,
}

/// Where an endpoint should be used (KEP-2433, KEP-3015); empty: no hint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// In these zones.
    pub zones: Vec<String>,
    /// On these nodes.
    pub nodes: Vec<String>,
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
    /// RFC 3339, as of services.
    pub created: Option<String>,
    /// Node that it runs on, where known.
    pub node: Option<String>,
    /// Ports of its node that lead to it; none for a pod in the host's network.
    pub host_ports: Vec<HostPort>,
    /// `default` where it names none.
    pub service_account: String,
    /// It has no network of its own: its addresses are its node's.
    pub is_host_network: bool,
    /// What its policies deny is let through and reported.
    pub is_policy_audited: bool,
}

/// A port of the node that leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// Address of the node; unspecified: all of its family. `None`: all of both families.
    pub host_ip: Option<IpAddr>,
    /// Port of the node.
    pub l4_port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
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
    /// The internal ones: what other nodes reach it by.
    pub internal_addresses: Vec<IpAddr>,
    /// What selectors match.
    pub labels: BTreeMap<String, String>,
    /// Ranges of its pods' addresses.
    pub pod_ranges: Vec<Cidr>,
    /// Its kubelet works, and pods have a network there by weir, as far as the source says.
    pub is_ready: bool,
    /// It is going away: load balancers shall send it no new connections (KEP-3836).
    pub is_deleting: bool,
}

/// Label of a node with the zone that it is in (well-known labels of Kubernetes).
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl Node {
    /// The zone that it is in, where known.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.labels.get(ZONE_LABEL).map(String::as_str).filter(|it| !it.is_empty())
    }

    /// Its internal address of a family.
    #[must_use]
    pub fn internal_address(&self, family: Family) -> Option<IpAddr> {
        self.internal_addresses.iter().copied().find(|it| Family::of(*it) == family)
    }
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
