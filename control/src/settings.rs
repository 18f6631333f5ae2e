//! What an agent is told about its node and its cluster when it starts.

use std::net::IpAddr;

use weir_api::v1::{DsrDispatch, Forwarding, Protocol};

use crate::model::Cidr;
use crate::policy::{CLUSTER_DEFAULT, Enforcement, PolicySettings};

/// What is known of this node without asking the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// Name of its Node object.
    pub name: String,
    /// Its addresses, beside those of the Node object.
    pub addresses: Vec<IpAddr>,
    /// Ranges of service addresses.
    pub service_ranges: Vec<Cidr>,
    /// Ranges of the cluster, beside the pod ranges and addresses of its Node objects.
    pub cluster_ranges: Vec<Cidr>,
    /// Pods keep their own address also outside the cluster.
    pub is_masquerade_off: bool,
    /// Destinations outside the cluster where pods keep their own address.
    pub masquerade_exclusions: Vec<Cidr>,
    /// Ports of the node's addresses that source translation uses; `None`: the default range.
    pub snat_ports: Option<PortRange>,
    /// Where node ports are; `None`: the default range.
    pub node_ports: Option<PortRange>,
    /// Slots of Maglev tables; 0: the default.
    pub maglev_table_size: u32,
    /// Seed of Maglev tables; empty: the default.
    pub maglev_seed: Vec<u8>,
    /// How packets reach backends on other nodes.
    pub mode: LoadBalancerMode,
    /// How the service's address travels with DSR.
    pub dsr_dispatch: DsrDispatch,
    /// Whom policies isolate.
    pub policy_enforcement: Enforcement,
    /// What policies deny passes everywhere, and is reported.
    pub policy_audit: bool,
    /// Who is denied is told at once.
    pub policy_reject: bool,
    /// Addresses of load balancers are answered for on the nodes' own links, by one node each.
    pub announce_l2: bool,
    /// Services of type LoadBalancer that name no class are somebody else's.
    pub needs_load_balancer_class: bool,
    /// Name of the cluster, a label of its pods; empty: the default.
    pub cluster_name: String,
}

impl NodeSettings {
    /// What of this concerns policy.
    #[must_use]
    pub fn policy(&self) -> PolicySettings {
        let cluster = match self.cluster_name.is_empty() {
            true => CLUSTER_DEFAULT,
            false => &self.cluster_name,
        };
        PolicySettings {
            enforcement: self.policy_enforcement,
            cluster: cluster.to_owned(),
            node: Some(self.name.clone()),
            node_addresses: self.addresses.clone(),
        }
    }
}

/// Ports from the first to the second, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub min: u16,
    /// Last, not below the first.
    pub max: u16,
}

/// Kubernetes' default of `--service-node-port-range`.
pub const NODE_PORTS: PortRange = PortRange { min: 30_000, max: 32_767 };
/// The dataplane's default for source translation.
pub const SNAT_PORTS: PortRange = PortRange { min: 49_152, max: 65_535 };

impl PortRange {
    /// Whether a port is in it.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.min..=self.max).contains(&port)
    }

    /// Whether they have a port in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// How packets reach backends on other nodes, where a service does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadBalancerMode {
    /// With this node's address as source; answers come back by this node.
    #[default]
    Snat,
    /// With the client's address; answers go straight to the client.
    Dsr,
    /// DSR for TCP, SNAT for the rest.
    Hybrid,
}

impl LoadBalancerMode {
    /// What it means for a protocol.
    #[must_use]
    pub fn forwarding(self, protocol: Protocol) -> Forwarding {
        match self {
            Self::Dsr => Forwarding::Dsr,
            Self::Hybrid if protocol == Protocol::Tcp => Forwarding::Dsr,
            Self::Snat | Self::Hybrid => Forwarding::Snat,
        }
    }
}
