//! The tables that workers read: one immutable value per revision.

use std::sync::Arc;

use rpds::HashTrieMapSync;
use weir_packet::{Addr, Mac};

use crate::adjacency::{Adjacencies, Adjacency};
use crate::backend_set::BackendSet;
use crate::ids::{PortId, WorkerId};
use crate::network::{Network, NextHop, Prefix, PrefixMap, RouteTarget};
use crate::policy::{Direction, L4, PolicyTable, PolicyVerdict, PolicyView};
use crate::rows::{Bandwidth, DsrDispatch, Endpoint, Frontend, FrontendKey, NodeConfig, SnatPorts};
use crate::tables::{ENDPOINTS_MAX, FRONTENDS_MAX};

/// An endpoint as workers see it.
#[derive(Debug)]
pub(crate) struct EndpointRow {
    pub(crate) endpoint: Endpoint,
    pub(crate) worker: WorkerId,
    pub(crate) adjacency: u16,
    /// The place that it has its rules from; `None`: no policy.
    pub(crate) policy: Option<u32>,
    /// The revision in which it came to have them from there.
    pub(crate) policy_since: u32,
}

/// Where a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// A pod of this node: its worker owns the pod's half of every flow.
    Pod { port: PortId, worker: WorkerId, adjacency: u16 },
    /// The node itself.
    Host { adjacency: u16 },
    /// A resolved next hop on an uplink.
    Uplink { adjacency: u16 },
    /// A next hop on an uplink that the kernel must resolve first.
    Unresolved(NextHop),
    /// Reachable, but only by the kernel.
    Kernel,
    /// No route, or one that says unreachable.
    NoRoute,
}

/// What workers ask of the node's configuration.
#[derive(Debug, Default)]
pub(crate) struct NodeView {
    /// Whether a range is one address alone, as of a node.
    cluster: PrefixMap<bool>,
    unmasqueraded: PrefixMap<bool>,
    masquerade: bool,
    dispatch: DsrDispatch,
    snat_ports: SnatPorts,
    policy_audit: bool,
    policy_reject: bool,
    /// Source of translated packets, IPv4 and IPv6.
    addrs: [Option<Addr>; 2],
    /// Of the uplinks, then of others; empty while no uplink is known.
    macs: Vec<Mac>,
}

impl NodeView {
    /// Configured addresses go before those of the node's uplinks.
    pub(crate) fn new(config: &NodeConfig, network: &Network) -> NodeView {
        let set = |ranges: &[Prefix]| {
            PrefixMap::new(ranges.iter().map(|range| (*range, range.is_single())))
        };
        let first = |is_v4: bool| {
            let mut candidates = config.addresses.iter().chain(&network.uplink_addresses);
            let is_usable = |addr: &&Addr| {
                addr.is_v4() == is_v4 && !addr.is_link_local() && !addr.is_loopback()
            };
            candidates.find(is_usable).copied()
        };
        let macs = network.uplinks.iter().map(|uplink| &uplink.mac).chain(&network.other_macs);
        NodeView {
            macs: macs.filter(|_| !network.uplinks.is_empty()).copied().collect(),
            cluster: set(&config.cluster_ranges),
            unmasqueraded: set(&config.masquerade_exclusions),
            masquerade: config.masquerade,
            dispatch: config.dsr_dispatch,
            snat_ports: config.snat_ports,
            policy_audit: config.policy_audit,
            policy_reject: config.policy_reject,
            addrs: [first(true), first(false)],
        }
    }
}

/// Immutable tables of one revision. Cloning shares everything.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(crate) revision: u32,
    /// The first revision in which the node did not audit any more; 0 where it never did.
    pub(crate) audited_until: u32,
    pub(crate) frontends: HashTrieMapSync<FrontendKey, Arc<Frontend>>,
    pub(crate) backend_sets: HashTrieMapSync<String, Arc<BackendSet>>,
    /// How many frontends an address has.
    pub(crate) service_addrs: HashTrieMapSync<Addr, u32>,
    pub(crate) endpoints: HashTrieMapSync<Addr, Arc<EndpointRow>>,
    pub(crate) ports: HashTrieMapSync<PortId, Arc<EndpointRow>>,
    /// Of endpoints that have any.
    pub(crate) limits: HashTrieMapSync<PortId, Bandwidth>,
    pub(crate) host_addrs: HashTrieMapSync<Addr, ()>,
    pub(crate) neighbours: HashTrieMapSync<(PortId, Addr), u16>,
    pub(crate) routes: Arc<PrefixMap<RouteTarget>>,
    pub(crate) node: Arc<NodeView>,
    /// Nodes that backends run on, and the place of each among them.
    pub(crate) remotes: Arc<Vec<Addr>>,
    pub(crate) remote_index: HashTrieMapSync<Addr, u16>,
    pub(crate) adjacencies: Arc<Vec<Adjacency>>,
    pub(crate) host_adjacency: Option<u16>,
    pub(crate) policy: PolicyView,
}

impl Snapshot {
    /// Rises with every snapshot of a process, from 1; 0 is the empty snapshot before the first.
    #[inline]
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// The service that answers on an address, port and protocol.
    pub fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        let on_all = || {
            let key = FrontendKey { addr: Addr::unspecified(key.addr.is_v4()), ..*key };
            self.frontends.get(&key)
        };
        let exact = self.frontends.get(key);
        exact
            .or_else(|| self.is_host_addr(&key.addr).then(on_all).flatten())
            .map(|frontend| &**frontend)
    }

    /// The frontend of exactly this key, the unspecified address included.
    pub fn frontend_at(&self, key: &FrontendKey) -> Option<&Frontend> {
        self.frontends.get(key).map(|frontend| &**frontend)
    }

    /// The backends of a frontend for clients inside or outside the cluster; `None` where the set
    /// has not been sent.
    pub fn backends_of(&self, frontend: &Frontend, is_outside: bool) -> Option<&BackendSet> {
        let name = match &frontend.external_backend_set {
            Some(external) if is_outside => external,
            _ => &frontend.backend_set,
        };
        self.backend_sets.get(name).map(|set| &**set)
    }

    /// All backend sets of a frontend, that for clients outside first.
    pub fn sets_of<'a>(&'a self, frontend: &'a Frontend) -> impl Iterator<Item = &'a BackendSet> {
        let names = frontend.external_backend_set.iter().chain([&frontend.backend_set]);
        names.filter_map(|name| self.backend_sets.get(name)).map(|set| &**set)
    }

    /// Whether an address is of a pod or a node of the cluster.
    pub fn is_in_cluster(&self, addr: &Addr) -> bool {
        self.endpoints.contains_key(addr)
            || self.is_host_addr(addr)
            || self.node.cluster.lookup(addr).is_some()
    }

    /// Whether an address is of another node, as far as is known.
    pub fn is_node_addr(&self, addr: &Addr) -> bool {
        self.node.cluster.lookup(addr) == Some(true)
    }

    /// Whether pods reach a destination with the node's address.
    pub fn is_masqueraded(&self, dst: &Addr) -> bool {
        self.node.masquerade
            && !self.is_in_cluster(dst)
            && self.node.unmasqueraded.lookup(dst).is_none()
    }

    /// The node's address as source of translated packets.
    pub fn snat_addr(&self, is_v4: bool) -> Option<Addr> {
        self.node.addrs[usize::from(!is_v4)]
    }

    /// Ports of the node's addresses that source translation uses.
    #[inline]
    pub fn snat_ports(&self) -> SnatPorts {
        self.node.snat_ports
    }

    /// The number of a node that backends run on; it stays the same in later snapshots.
    pub fn remote_index(&self, node: &Addr) -> Option<u16> {
        self.remote_index.get(node).copied()
    }

    /// The address of such a node.
    #[inline]
    pub fn remote(&self, index: u16) -> Option<&Addr> {
        self.remotes.get(usize::from(index))
    }

    /// How packets travel to backends of other nodes under DSR.
    pub fn dsr_dispatch(&self) -> DsrDispatch {
        self.node.dispatch
    }

    /// Whether any service answers on some port of the address.
    pub fn is_service_addr(&self, addr: &Addr) -> bool {
        self.service_addrs.contains_key(addr)
    }

    /// The pod behind a port.
    pub fn endpoint_at(&self, port: PortId) -> Option<&Endpoint> {
        self.ports.get(&port).map(|row| &row.endpoint)
    }

    /// Whether any endpoint may not receive or send as fast as it can.
    #[inline]
    pub fn has_limits(&self) -> bool {
        !self.limits.is_empty()
    }

    /// The endpoints that have limits, by port.
    pub fn limits(&self) -> impl Iterator<Item = (PortId, Bandwidth)> {
        self.limits.iter().map(|(port, limits)| (*port, *limits))
    }

    fn row_at(&self, port: PortId) -> Option<&EndpointRow> {
        self.ports.get(&port).map(|row| &**row)
    }

    /// Whether the address is the node's own, as every loopback address is.
    pub fn is_host_addr(&self, addr: &Addr) -> bool {
        self.host_addrs.contains_key(addr) || addr.is_loopback()
    }

    /// Whether a MAC is none of the node's; never while no uplink is known.
    #[inline]
    pub fn is_foreign_mac(&self, mac: &Mac) -> bool {
        let own = &self.node.macs;
        !own.is_empty() && !own.contains(mac)
    }

    /// Where a destination is, by pod, then host, then route.
    pub fn resolve(&self, dst: &Addr) -> Egress {
        if let Some(row) = self.endpoints.get(dst) {
            let port = row.endpoint.port;
            return Egress::Pod { port, worker: row.worker, adjacency: row.adjacency };
        }
        if self.is_host_addr(dst) {
            return self
                .host_adjacency
                .map_or(Egress::NoRoute, |at| Egress::Host { adjacency: at });
        }
        match self.routes.lookup(dst) {
            Some(RouteTarget::Uplink { port, gateway }) => {
                let addr = gateway.unwrap_or(*dst);
                match self.neighbours.get(&(port, addr)) {
                    Some(&adjacency) => Egress::Uplink { adjacency },
                    None => Egress::Unresolved(NextHop { port, addr }),
                }
            }
            Some(RouteTarget::Kernel) => Egress::Kernel,
            Some(RouteTarget::Unreachable) | None => Egress::NoRoute,
        }
    }

    /// The row of an index that this or an earlier snapshot gave out.
    #[inline]
    pub fn adjacency(&self, index: u16) -> Option<&Adjacency> {
        self.adjacencies.get(usize::from(index))
    }

    /// What becomes of a connection between an endpoint and a peer, in one direction.
    pub fn judge(
        &self,
        endpoint: PortId,
        direction: Direction,
        peer: &Addr,
        l4: L4,
    ) -> PolicyVerdict {
        match self.row_at(endpoint) {
            Some(EndpointRow { policy: Some(slot), .. }) => {
                self.policy.judge_by(*slot, direction, peer, l4)
            }
            Some(_) => PolicyVerdict::NO_POLICY,
            None => PolicyVerdict::MISSING,
        }
    }

    /// The newest revision in which anything changed that such a verdict follows from: the
    /// endpoint's rules, that it has these, and whom of the rules the peer belongs to.
    pub fn judged_since(&self, endpoint: PortId, direction: Direction, peer: &Addr) -> u32 {
        let since = match self.row_at(endpoint) {
            Some(EndpointRow { policy: Some(slot), policy_since, .. }) => {
                self.policy.judged_since(*slot, direction, peer).max(*policy_since)
            }
            Some(row) => row.policy_since,
            None => self.revision,
        };
        since.max(self.audited_until)
    }

    /// Whether an endpoint has rules for a direction, or denies everything for want of them.
    pub fn has_policy(&self, endpoint: PortId, direction: Direction) -> bool {
        match self.row_at(endpoint) {
            Some(EndpointRow { policy: Some(slot), .. }) => {
                self.policy.slot(*slot).is_none_or(|table| table.has_rules(direction))
            }
            Some(_) => false,
            None => true,
        }
    }

    /// Whether what policy denies at an endpoint passes, and is told.
    pub fn is_audited(&self, endpoint: PortId) -> bool {
        self.node.policy_audit
            || self.ports.get(&endpoint).is_some_and(|row| row.endpoint.is_audited)
    }

    /// Whether who is denied is told at once.
    pub fn rejects_denied(&self) -> bool {
        self.node.policy_reject
    }

    /// Policy by itself: peers, tables, identities, origins of rules.
    pub fn policy(&self) -> &PolicyView {
        &self.policy
    }

    /// The rules of an endpoint, if it has a policy and its rules are there.
    pub fn policy_of(&self, endpoint: PortId) -> Option<&Arc<PolicyTable>> {
        self.policy.slot(self.ports.get(&endpoint)?.policy?)
    }

    /// The host's port, if there is one.
    #[inline]
    pub fn host_adjacency(&self) -> Option<u16> {
        self.host_adjacency
    }

    /// All frontends, in no order, for people.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.values().map(|frontend| &**frontend)
    }

    /// All pods, in no order, with their workers.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, WorkerId)> {
        self.ports.values().map(|row| (&row.endpoint, row.worker))
    }

    /// How full each table is: name, rows, most rows.
    pub fn sizes(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        let own = [
            ("frontends", self.frontends.size(), FRONTENDS_MAX),
            ("endpoints", self.ports.size(), ENDPOINTS_MAX),
            ("adjacencies", self.adjacencies.len(), Adjacencies::MAX),
        ];
        own.into_iter().chain(self.policy.sizes())
    }

    /// Number of backend sets.
    pub fn backend_sets_len(&self) -> usize {
        self.backend_sets.size()
    }
}
