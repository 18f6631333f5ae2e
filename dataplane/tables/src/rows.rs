//! The objects that control upserts and deletes, as plain checked values.

use std::fmt;

use weir_packet::{Addr, FlowKey, Mac, protocol};

use crate::backend_set::{Algorithm, Backend};
use crate::ids::{PortId, WorkerId};
use crate::network::Prefix;
use crate::policy::{CidrSelector, Identity, IdentityId, PolicyRules, SelectorId};

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
    NodePort,
    ExternalIp,
    HostPort,
}

/// How packets reach a backend on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// With the node's address as source: answers come back by this node.
    #[default]
    Snat,
    /// With the client's address, and the frontend's beside it: answers go straight to the client.
    Dsr,
}

/// Which clients outside the cluster a frontend answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRanges {
    /// Empty: all of them.
    pub ranges: Vec<Prefix>,
    /// The ranges are those that it does not answer.
    pub is_deny: bool,
}

impl SourceRanges {
    /// Whether a client outside the cluster is answered.
    pub fn allow(&self, client: &Addr) -> bool {
        self.ranges.is_empty()
            || self.ranges.iter().any(|range| range.contains(client)) != self.is_deny
    }
}

/// A frontend and the set that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// An unspecified address stands for every address of the node.
    pub key: FrontendKey,
    /// `namespace/name`, with `:port-name` where the port has one.
    pub service: String,
    pub kind: FrontendType,
    /// Name of its backend set; where no such set exists, nothing answers.
    pub backend_set: String,
    /// The set for clients outside the cluster, where it is another one.
    pub external_backend_set: Option<String>,
    /// How long a client's choice is remembered after its last packet; 0: not at all.
    pub affinity_s: u32,
    pub source_ranges: SourceRanges,
    pub forwarding: Forwarding,
}

impl Frontend {
    /// A frontend with one set for all clients and nothing special.
    pub fn new(key: FrontendKey, service: &str, kind: FrontendType, set: &str) -> Frontend {
        Frontend {
            key,
            service: service.to_owned(),
            kind,
            backend_set: set.to_owned(),
            external_backend_set: None,
            affinity_s: 0,
            source_ranges: SourceRanges::default(),
            forwarding: Forwarding::Snat,
        }
    }

    /// Whether it answers on every address of the node.
    pub fn is_on_all_node_addrs(&self) -> bool {
        self.key.addr.is_unspecified()
    }
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
    pub identity: IdentityId,
    /// Name of its rules; where there are none of that name, everything is denied. `None`: no
    /// policy, everything is allowed.
    pub policy: Option<String>,
    /// What policy denies passes, and is told.
    pub is_audited: bool,
    /// How fast the pod may receive and send.
    pub bandwidth: Bandwidth,
}

/// Limits of a pod; a direction without one is as fast as it can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What the pod receives.
    pub ingress: Option<Rate>,
    /// What the pod sends.
    pub egress: Option<Rate>,
}

/// A token bucket: bytes of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub bytes_per_s: u64,
    /// What may go at once after a silence, bytes.
    pub burst_bytes: u64,
}

impl Endpoint {
    /// A pod without policy, and of an identity that is not known.
    pub fn new(name: &str, port: PortId, mac: Mac, addresses: Vec<Addr>) -> Endpoint {
        Endpoint {
            name: name.to_owned(),
            port,
            mac,
            addresses,
            failure_mode: FailureMode::Open,
            identity: IdentityId::UNKNOWN,
            policy: None,
            is_audited: false,
            bandwidth: Bandwidth::default(),
        }
    }
}

/// What concerns the node as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: String,
    pub addresses: Vec<Addr>,
    pub maglev: crate::maglev::MaglevParams,
    /// Ranges that the host sends into its port.
    pub service_ranges: Vec<Prefix>,
    /// Addresses of pods and nodes: clients and destinations elsewhere are outside the cluster.
    pub cluster_ranges: Vec<Prefix>,
    /// Whether pods reach destinations outside the cluster with the node's address.
    pub masquerade: bool,
    /// Destinations outside that pods reach with their own address all the same.
    pub masquerade_exclusions: Vec<Prefix>,
    pub dsr_dispatch: DsrDispatch,
    pub snat_ports: SnatPorts,
    pub node_ports: NodePorts,
    /// All endpoints are audited.
    pub policy_audit: bool,
    /// Who is denied is told at once.
    pub policy_reject: bool,
    /// Ranges of this node's own pods: addresses inside that no pod has are unreachable.
    pub pod_ranges: Vec<Prefix>,
    /// Ways to the pods of other nodes.
    pub pod_routes: Vec<PodRoute>,
    /// Addresses of load balancers that this node answers neighbours for.
    pub announced: Vec<Addr>,
}

/// Pods of `destination` are reached by the node at `via`, where that is on a link of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRoute {
    pub destination: Prefix,
    /// Of the same family.
    pub via: Addr,
}

/// How the frontend's address travels to the backend's node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DsrDispatch {
    #[default]
    Geneve,
    Ipip,
    Option,
}

/// L4 ports and ICMP identifiers of the node that source translation uses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatPorts {
    pub min: u16,
    pub max: u16,
}

impl Default for SnatPorts {
    fn default() -> Self {
        SnatPorts { min: 49152, max: 65535 }
    }
}

impl SnatPorts {
    /// Whether a port is in the range.
    #[inline]
    pub fn contains(&self, l4_port: u16) -> bool {
        (self.min..=self.max).contains(&l4_port)
    }

    /// The ports of one of `workers` workers: equal blocks, what is left over is unused.
    pub fn block(&self, worker: WorkerId, workers: u8) -> SnatPorts {
        let size = self.block_size(workers);
        let min = self.min + u16::from(worker.0) * size;
        SnatPorts { min, max: min + (size - 1) }
    }

    /// The worker in whose block a port is.
    #[inline]
    pub fn owner(&self, l4_port: u16, workers: u8) -> Option<WorkerId> {
        if !self.contains(l4_port) {
            return None;
        }
        let block = (l4_port - self.min) / self.block_size(workers);
        u8::try_from(block).ok().filter(|worker| *worker < workers).map(WorkerId)
    }

    /// Number of ports.
    pub fn len(&self) -> u32 {
        u32::from(self.max - self.min) + 1
    }

    /// Never: a range has both its ends.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn block_size(&self, workers: u8) -> u16 {
        (self.len() / u32::from(workers.max(1))).max(1) as u16
    }
}

/// The L4 ports that NodePorts are allocated from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePorts {
    pub min: u16,
    pub max: u16,
}

impl Default for NodePorts {
    fn default() -> Self {
        NodePorts { min: 30000, max: 32767 }
    }
}

/// Anything that control upserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Frontend(Frontend),
    BackendSet {
        name: String,
        protocol: u8,
        algorithm: Algorithm,
        backends: Vec<Backend>,
    },
    Endpoint(Endpoint),
    Node(NodeConfig),
    Identity(Identity),
    /// Which identity an address has, or a range without longer prefixes inside it.
    PeerAddress {
        prefix: Prefix,
        identity: IdentityId,
    },
    CidrSelector(CidrSelector),
    PolicyRules(PolicyRules),
}

/// The name of anything that control upserts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectRef {
    Frontend(FrontendKey),
    BackendSet(String),
    Endpoint(String),
    Node,
    Identity(IdentityId),
    PeerAddress(Prefix),
    CidrSelector(SelectorId),
    PolicyRules(String),
}

impl Object {
    /// Its name.
    pub fn name(&self) -> ObjectRef {
        match self {
            Object::Frontend(frontend) => ObjectRef::Frontend(frontend.key),
            Object::BackendSet { name, .. } => ObjectRef::BackendSet(name.clone()),
            Object::Endpoint(endpoint) => ObjectRef::Endpoint(endpoint.name.clone()),
            Object::Node(_) => ObjectRef::Node,
            Object::Identity(identity) => ObjectRef::Identity(identity.id),
            Object::PeerAddress { prefix, .. } => ObjectRef::PeerAddress(*prefix),
            Object::CidrSelector(selector) => ObjectRef::CidrSelector(selector.id),
            Object::PolicyRules(rules) => ObjectRef::PolicyRules(rules.name.clone()),
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
            ObjectRef::Identity(id) => write!(f, "identity {}", id.0),
            ObjectRef::PeerAddress(prefix) => write!(f, "address {prefix}"),
            ObjectRef::CidrSelector(id) => write!(f, "address selector {}", id.0),
            ObjectRef::PolicyRules(name) => write!(f, "policy rules {name}"),
        }
    }
}
