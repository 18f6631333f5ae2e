//! Services: addresses, ports, and how traffic to them is treated.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_api::v1::{Algorithm, Forwarding, Protocol};

use super::{Cidr, LabelSelector, Name, Origin};

/// A Service. One without addresses for this proxy (headless, `ExternalName`, another proxy's)
/// exists too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`.
    pub name: Name,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// What selectors match.
    pub labels: BTreeMap<String, String>,
    /// RFC 3339; orders claims on one address. Services without it are newer than all with it.
    pub created: Option<String>,
    /// Cluster-internal addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses that a load balancer sends here, for clients outside.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who provides the load balancer; `None`: the cluster's default.
    pub load_balancer_class: Option<String>,
    /// Addresses that somebody else routes here, for clients outside.
    pub external_ips: Vec<IpAddr>,
    /// At least one where there is an address; names and (port, protocol) pairs are unique.
    pub ports: Vec<ServicePort>,
    /// Families in which its node ports are open.
    pub node_port_families: Vec<Family>,
    /// Labels of its pods; empty where endpoints are given by slices only.
    pub selector: BTreeMap<String, String>,
    /// Pods count as ready whatever they say.
    pub publish_not_ready: bool,
    /// How its traffic is treated.
    pub policy: ServicePolicy,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// 0.0.0.0 or ::.
    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([0; 4]),
            Self::V6 => IpAddr::from([0; 16]),
        }
    }
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
    /// Port on the addresses of every node.
    pub node_port: Option<u16>,
}

/// Port on the pods behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// The same on all pods.
    Number(u16),
    /// The container port of this name.
    Name(String),
}

/// How a service's traffic is treated. The default is what an empty Service has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePolicy {
    /// Seconds that a client keeps its backend after its last packet; 0: not at all.
    pub affinity_timeout_s: u32,
    /// `internalTrafficPolicy: Local`.
    pub is_internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub is_external_local: bool,
    /// Clients outside must be in one of these, where there is one.
    pub source_ranges: Vec<Cidr>,
    /// They must be in none of them.
    pub source_ranges_deny: bool,
    /// `trafficDistribution`.
    pub proximity: Option<Proximity>,
    /// Asked for by annotation.
    pub algorithm: Option<Algorithm>,
    /// Asked for by annotation.
    pub forwarding: Option<Forwarding>,
    /// Kinds of frontends that it has, where an annotation restricts them.
    pub exposed: Option<ExposedTypes>,
    /// Nodes on which it is open to clients outside.
    pub nodes: NodeFilter,
    /// Port where load balancers ask whether this node has endpoints.
    pub health_check_port: Option<u16>,
}

/// Which endpoints are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proximity {
    /// Of this node's zone.
    SameZone,
    /// Of this node, else of its zone.
    SameNode,
}

/// Kinds of frontends, as the annotation `service.cilium.io/type` lists them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExposedTypes {
    /// Cluster IPs.
    pub cluster_ip: bool,
    /// Node ports.
    pub node_port: bool,
    /// Load balancer addresses.
    pub load_balancer: bool,
}

/// Some nodes of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodeFilter {
    /// All.
    #[default]
    All,
    /// The one of this name.
    Name(String),
    /// Those with these labels.
    Labels(LabelSelector),
}
