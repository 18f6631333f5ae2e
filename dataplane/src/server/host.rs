//! What the kernel must know of the tables, kept by address and by L4 port: whatever one object
//! changes costs that change, however many services there are. Pure: [`super::kernel`] carries it
//! into eBPF maps, rules and routes.
//!
//! An address has one class. The node's own go first: only some of their packets are weir's, also
//! where a Service has the same address (an externalIP that is a node's); its L4 ports are then
//! ports of the node. Then pods, then Services. Loopback addresses have none: from the wire they
//! are nobody's, and the node's own sockets reach the hostPorts there by rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_packet::{Addr, protocol};
use weir_tables::{DsrDispatch, FrontendKey, NodeConfig, Prefix};
use weir_xdp_redirect::{AddressClass, L4Port};

use crate::netlink::{KernelState, PortRange, PortRule, host_path};

mod loopback;

/// Where Geneve is received (RFC 8926 section 3.3).
const GENEVE_PORT: u16 = 6081;

/// An L4 port on addresses of the node, of one family.
type NodePort = (bool, L4PortKey);
/// Protocol and L4 port.
type L4PortKey = (u8, u16);

/// What a change may have changed in the eBPF maps.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub addrs: BTreeSet<Addr>,
    pub l4_ports: BTreeSet<L4PortKey>,
}

/// The state behind the kernel's maps, rules and routes.
#[derive(Debug)]
pub struct HostView {
    /// The node's own addresses.
    own: BTreeSet<Addr>,
    pods: BTreeMap<Addr, AddressClass>,
    /// By address: the frontends on it, and whether each is under DSR.
    frontends: BTreeMap<Addr, BTreeMap<L4PortKey, bool>>,
    dsr_frontends: usize,
    dispatch: DsrDispatch,
    /// How many frontends need each.
    node_ports: BTreeMap<NodePort, u32>,
    node_port_range: PortRange,
    /// How many node ports need each rule.
    rules: BTreeMap<PortRule, u32>,
    service_ranges: Vec<Prefix>,
    cluster_ranges: Vec<Prefix>,
    /// Addresses of Services outside all ranges.
    outside: BTreeSet<Addr>,
    /// The host's rules, or its routes to services, may be outdated.
    pub is_rules_dirty: bool,
    pub is_routes_dirty: bool,
}

/// The node's own addresses, without loopback, link-local ones and those of the host port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    pub on_uplinks: BTreeSet<Addr>,
    /// On any interface.
    pub local: BTreeSet<Addr>,
    /// Named by the node's configuration, in its order.
    pub configured: Vec<Addr>,
}

impl OwnAddresses {
    /// With what the kernel knows now. `host_port` is the interface of weir itself.
    pub fn with_network(self, state: &KernelState, uplinks: &[u32], host_port: u32) -> Self {
        let (mut on_uplinks, mut local) = (BTreeSet::new(), BTreeSet::new());
        for (ip, ifindex) in state.addresses.keys() {
            let addr = Addr::from(*ip);
            if *ifindex == host_port || !is_usable(&addr) {
                continue;
            }
            local.insert(addr);
            if uplinks.contains(ifindex) {
                on_uplinks.insert(addr);
            }
        }
        OwnAddresses { on_uplinks, local, ..self }
    }

    /// With what the node's configuration says now.
    pub fn with_configured(self, addresses: &[Addr]) -> Self {
        OwnAddresses { configured: addresses.iter().copied().filter(is_usable).collect(), ..self }
    }

    /// Those that the outside may send to.
    pub fn reachable(&self) -> BTreeSet<Addr> {
        self.on_uplinks.iter().chain(&self.configured).copied().collect()
    }

    /// The first of a family is the one that hostNetwork pods are known by.
    pub fn primary(&self) -> Vec<IpAddr> {
        let configured = self.configured.iter().filter(|addr| self.local.contains(addr));
        configured.chain(&self.on_uplinks).map(|addr| IpAddr::from(*addr)).collect()
    }
}

fn is_usable(addr: &Addr) -> bool {
    !addr.is_loopback() && !addr.is_link_local() && !addr.is_unspecified()
}

impl Default for HostView {
    fn default() -> Self {
        let node = NodeConfig::default();
        HostView {
            own: BTreeSet::new(),
            pods: BTreeMap::new(),
            frontends: BTreeMap::new(),
            dsr_frontends: 0,
            dispatch: node.dsr_dispatch,
            node_ports: BTreeMap::new(),
            node_port_range: node_port_range(&node),
            rules: BTreeMap::new(),
            service_ranges: Vec::new(),
            cluster_ranges: Vec::new(),
            outside: BTreeSet::new(),
            is_rules_dirty: true,
            is_routes_dirty: true,
        }
    }
}

impl HostView {
    /// The class of an address; `None` where it is not weir's.
    pub fn class(&self, addr: &Addr) -> Option<AddressClass> {
        if self.own.contains(addr) {
            return Some(AddressClass::NODE);
        }
        let is_address = !addr.is_unspecified() && !addr.is_loopback();
        let is_service = is_address && self.frontends.contains_key(addr);
        let pod = self.pods.get(addr).copied();
        pod.or_else(|| is_service.then_some(AddressClass::SERVICE))
    }

    /// Whether packets to this L4 port of the node's addresses are weir's.
    pub fn has_l4_port(&self, (protocol, l4_port): L4PortKey) -> bool {
        let of_family = |is_v4| self.node_ports.contains_key(&(is_v4, (protocol, l4_port)));
        // Only while it is used: the node may have a tunnel of its own there.
        let is_dsr = (protocol, l4_port) == (protocol::UDP, GENEVE_PORT)
            && self.dsr_frontends > 0
            && self.dispatch == DsrDispatch::Geneve;
        is_dsr || of_family(true) || of_family(false)
    }

    /// All L4 ports of the node that are weir's.
    pub fn l4_ports(&self) -> BTreeSet<L4PortKey> {
        let geneve = (protocol::UDP, GENEVE_PORT);
        let used = self.node_ports.keys().map(|(_, port)| *port).chain([geneve]);
        used.filter(|port| self.has_l4_port(*port)).collect()
    }

    /// Rules for the host's packets to its own ports, and how many more than possible there are.
    pub fn rules(&self) -> (BTreeSet<PortRule>, usize) {
        // Ranges of NodePorts first.
        let mut all: Vec<PortRule> = self.rules.keys().copied().collect();
        all.sort_by_key(|rule| (rule.min == rule.max, *rule));
        let too_many = all.len().saturating_sub(host_path::RULES_MAX);
        all.truncate(host_path::RULES_MAX);
        (all.into_iter().collect(), too_many)
    }

    /// What the host reaches through its port: service ranges, and every service address outside of
    /// them (those of load balancers). Not addresses of this or other nodes, which externalIPs may
    /// name: all other traffic to them would follow.
    pub fn service_routes(&self) -> Vec<Prefix> {
        let outside = self.outside.iter().copied().map(Prefix::of_addr);
        self.service_ranges.iter().copied().chain(outside).collect()
    }

    /// Adds or changes a frontend.
    pub fn set_frontend(&mut self, key: &FrontendKey, is_dsr: bool) -> Touched {
        let mut touched = Touched::default();
        let port = (key.protocol, key.l4_port);
        let before = self.frontends.entry(key.addr).or_default().insert(port, is_dsr);
        self.dsr_frontends += usize::from(is_dsr);
        self.dsr_frontends -= usize::from(before == Some(true));
        touched.l4_ports.insert((protocol::UDP, GENEVE_PORT));
        if before.is_none() {
            self.is_rules_dirty |= self.is_on_loopback(&key.addr, key.l4_port);
            if self.is_nodes(&key.addr) {
                self.add_node_port((key.addr.is_v4(), port), &mut touched);
            }
            self.revisit(key.addr, &mut touched);
        }
        touched
    }

    /// Undoes `set_frontend`.
    pub fn remove_frontend(&mut self, key: &FrontendKey) -> Touched {
        let mut touched = Touched::default();
        let port = (key.protocol, key.l4_port);
        let Some(ports) = self.frontends.get_mut(&key.addr) else { return touched };
        let Some(is_dsr) = ports.remove(&port) else { return touched };
        if ports.is_empty() {
            self.frontends.remove(&key.addr);
        }
        self.dsr_frontends -= usize::from(is_dsr);
        self.is_rules_dirty |= self.is_on_loopback(&key.addr, key.l4_port);
        touched.l4_ports.insert((protocol::UDP, GENEVE_PORT));
        if self.is_nodes(&key.addr) {
            self.remove_node_port((key.addr.is_v4(), port), &mut touched);
        }
        self.revisit(key.addr, &mut touched);
        touched
    }

    /// Says that an address is a local pod's, or no longer.
    pub fn set_pod(&mut self, addr: Addr, class: Option<AddressClass>) {
        match class {
            Some(class) => self.pods.insert(addr, class),
            None => self.pods.remove(&addr),
        };
    }

    /// Takes over the node's own addresses.
    pub fn set_own(&mut self, own: BTreeSet<Addr>) -> Touched {
        let mut touched = Touched::default();
        let changed: Vec<Addr> = self.own.symmetric_difference(&own).copied().collect();
        for addr in changed {
            let is_added = own.contains(&addr);
            if is_added {
                self.own.insert(addr);
            } else {
                self.own.remove(&addr);
            }
            let ports = self.frontends.get(&addr).into_iter().flatten();
            let ports: Vec<L4PortKey> = ports.map(|(port, _)| *port).collect();
            for port in ports {
                match is_added {
                    true => self.add_node_port((addr.is_v4(), port), &mut touched),
                    false => self.remove_node_port((addr.is_v4(), port), &mut touched),
                }
            }
            self.revisit(addr, &mut touched);
        }
        touched
    }

    /// Takes over what the node's configuration says.
    pub fn set_node(&mut self, node: &NodeConfig) -> Touched {
        let mut touched = Touched::default();
        if self.dispatch != node.dsr_dispatch {
            self.dispatch = node.dsr_dispatch;
            touched.l4_ports.insert((protocol::UDP, GENEVE_PORT));
        }
        let range = node_port_range(node);
        if self.node_port_range != range {
            self.node_port_range = range;
            self.rules.clear();
            let ports: Vec<NodePort> = self.node_ports.keys().copied().collect();
            for port in ports {
                *self.rules.entry(self.rule(port)).or_default() += 1;
            }
            self.is_rules_dirty = true;
        }
        if self.service_ranges != node.service_ranges || self.cluster_ranges != node.cluster_ranges
        {
            self.service_ranges.clone_from(&node.service_ranges);
            self.cluster_ranges.clone_from(&node.cluster_ranges);
            let addrs: Vec<Addr> = self.frontends.keys().copied().collect();
            self.outside = addrs.into_iter().filter(|addr| self.is_outside(addr)).collect();
            self.is_routes_dirty = true;
        }
        touched
    }

    /// Whether frontends on the address are on the node.
    fn is_nodes(&self, addr: &Addr) -> bool {
        addr.is_unspecified() || self.own.contains(addr)
    }

    fn is_outside(&self, addr: &Addr) -> bool {
        let within = |ranges: &[Prefix]| ranges.iter().any(|range| range.contains(addr));
        self.frontends.contains_key(addr)
            && !self.is_nodes(addr)
            && !addr.is_loopback()
            && !within(&self.service_ranges)
            && !within(&self.cluster_ranges)
    }

    /// After something about an address has changed.
    fn revisit(&mut self, addr: Addr, touched: &mut Touched) {
        touched.addrs.insert(addr);
        self.is_routes_dirty |= match self.is_outside(&addr) {
            true => self.outside.insert(addr),
            false => self.outside.remove(&addr),
        };
    }

    fn add_node_port(&mut self, port: NodePort, touched: &mut Touched) {
        let count = self.node_ports.entry(port).or_default();
        *count += 1;
        if *count == 1 {
            touched.l4_ports.insert(port.1);
            let uses = self.rules.entry(self.rule(port)).or_default();
            *uses += 1;
            self.is_rules_dirty |= *uses == 1;
        }
    }

    fn remove_node_port(&mut self, port: NodePort, touched: &mut Touched) {
        if !release(&mut self.node_ports, &port) {
            return;
        }
        touched.l4_ports.insert(port.1);
        let rule = self.rule(port);
        self.is_rules_dirty |= release(&mut self.rules, &rule);
    }

    /// The rule for a port: one for all of the range of NodePorts, or its own.
    fn rule(&self, (is_ipv4, (protocol, l4_port)): NodePort) -> PortRule {
        let range = match self.node_port_range.contains(l4_port) {
            true => self.node_port_range,
            false => PortRange { min: l4_port, max: l4_port },
        };
        PortRule { is_ipv4, protocol, min: range.min, max: range.max }
    }
}

/// The key of the eBPF map.
pub fn l4_port((protocol, l4_port): L4PortKey) -> L4Port {
    L4Port::new(protocol, l4_port)
}

fn node_port_range(node: &NodeConfig) -> PortRange {
    PortRange { min: node.node_ports.min, max: node.node_ports.max }
}

/// Takes one use away; whether it was the last.
fn release<K: Ord>(uses: &mut BTreeMap<K, u32>, key: &K) -> bool {
    match uses.get_mut(key) {
        Some(count) if *count > 1 => {
            *count -= 1;
            false
        }
        Some(_) => uses.remove(key).is_some(),
        None => false,
    }
}

#[cfg(test)]
mod tests;
