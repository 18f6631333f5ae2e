//! The writer's side: accepts objects one at a time and makes snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_packet::Addr;

use crate::adjacency::{Adjacencies, Adjacency, Link, Target};
use crate::backend_set::{Algorithm, Backend, BackendSet};
use crate::ids::{PortId, WorkerId};
use crate::network::{Network, index_routes};
use crate::policy::Policies;
use crate::rejection::{Rejection, check_backends, check_unicast};
use crate::rows::{Bandwidth, Endpoint, Frontend, Object, ObjectRef};
use crate::snapshot::{EndpointRow, NodeView, Snapshot};

/// Most frontends of a node.
pub(crate) const FRONTENDS_MAX: usize = 1 << 20;
/// Most endpoints of a node: the size of the kernel's port table.
pub(crate) const ENDPOINTS_MAX: usize = 4096;

/// The state of one node, built up object by object.
#[derive(Debug, Default)]
pub struct Tables {
    next: Snapshot,
    adjacencies: Adjacencies,
    endpoints: BTreeMap<String, Arc<EndpointRow>>,
    network: Network,
    node: crate::rows::NodeConfig,
    policies: Policies,
    workers: u8,
}

impl Tables {
    /// Empty tables for a node with `workers` workers, from 1.
    pub fn new(workers: u8) -> Tables {
        assert!(workers > 0, "a node has at least one worker");
        Tables { workers, ..Tables::default() }
    }

    /// The next snapshot, with a revision one higher than the last.
    pub fn snapshot(&mut self) -> Snapshot {
        self.next.revision += 1;
        self.next.adjacencies = self.adjacencies.rows();
        self.next.policy = self.policies.commit(self.next.revision);
        self.next.clone()
    }

    /// Adds or replaces one object. A refused one changes nothing.
    pub fn upsert(&mut self, object: Object) -> Result<(), Rejection> {
        match object {
            Object::Frontend(frontend) => self.upsert_frontend(frontend),
            Object::BackendSet { name, protocol, algorithm, backends } => {
                self.upsert_backend_set(name, protocol, algorithm, backends)
            }
            Object::Endpoint(endpoint) => self.upsert_endpoint(endpoint),
            Object::Node(node) => self.upsert_node(node),
            Object::Identity(identity) => self.policies.upsert_identity(identity),
            Object::PeerAddress { prefix, identity } => {
                self.policies.upsert_address(prefix, identity)
            }
            Object::CidrSelector(selector) => self.policies.upsert_cidr(selector),
            Object::PolicyRules(rules) => self.policies.upsert_rules(rules),
        }
    }

    /// Removes one object; no such object is not an error.
    pub fn delete(&mut self, name: &ObjectRef) {
        match name {
            ObjectRef::Frontend(key) => {
                if self.next.frontends.remove_mut(key) {
                    self.count_service_addr(key.addr, false);
                }
            }
            ObjectRef::BackendSet(name) => {
                self.next.backend_sets.remove_mut(name);
            }
            ObjectRef::Endpoint(name) => self.delete_endpoint(name),
            ObjectRef::Node => {
                self.node = crate::rows::NodeConfig::default();
                self.rebuild_host_addrs();
            }
            ObjectRef::Identity(id) => self.policies.delete_identity(*id),
            ObjectRef::PeerAddress(prefix) => self.policies.delete_address(prefix),
            ObjectRef::CidrSelector(id) => self.policies.delete_cidr(*id),
            ObjectRef::PolicyRules(name) => self.policies.delete_rules(name),
        }
    }

    /// The names of all objects, to find those that a resync no longer has.
    pub fn names(&self) -> BTreeSet<ObjectRef> {
        let frontends = self.next.frontends.keys().map(|key| ObjectRef::Frontend(*key));
        let sets = self.next.backend_sets.keys().map(|name| ObjectRef::BackendSet(name.clone()));
        let endpoints = self.endpoints.keys().map(|name| ObjectRef::Endpoint(name.clone()));
        frontends.chain(sets).chain(endpoints).chain(self.policies.names()).collect()
    }

    /// What concerns the node.
    pub fn node(&self) -> &crate::rows::NodeConfig {
        &self.node
    }

    /// One endpoint, by name, with its worker.
    pub fn endpoint(&self, name: &str) -> Option<(&Endpoint, WorkerId)> {
        self.endpoints.get(name).map(|row| (&row.endpoint, row.worker))
    }

    /// All frontends, in no order.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.next.frontends()
    }

    /// Whether an address is the node's own, as every loopback address is.
    pub fn is_host_addr(&self, addr: &Addr) -> bool {
        self.next.is_host_addr(addr)
    }

    /// The node's own addresses, in no order.
    pub fn host_addrs(&self) -> impl Iterator<Item = Addr> {
        self.next.host_addrs.keys().copied()
    }

    /// All addresses that a frontend has, in no order.
    pub fn service_addrs(&self) -> impl Iterator<Item = Addr> {
        self.next.service_addrs.keys().copied()
    }

    /// Whether any frontend has the address.
    pub fn is_service_addr(&self, addr: &Addr) -> bool {
        self.next.service_addrs.contains_key(addr)
    }

    /// Whether an endpoint has the address.
    pub fn is_endpoint_addr(&self, addr: &Addr) -> bool {
        self.next.endpoints.contains_key(addr)
    }

    /// Whether an endpoint has the port.
    pub fn is_endpoint_port(&self, port: PortId) -> bool {
        self.next.ports.contains_key(&port)
    }

    /// Takes over what the kernel knows now. Unchanged input changes nothing and returns false.
    pub fn set_network(&mut self, network: Network) -> bool {
        if network == self.network {
            return false;
        }
        self.network = network;
        self.rebuild_host();
        self.rebuild_neighbours();
        self.next.routes = Arc::new(index_routes(&self.network.routes));
        self.rebuild_host_addrs();
        true
    }

    fn upsert_node(&mut self, node: crate::rows::NodeConfig) -> Result<(), Rejection> {
        if node.snat_ports.len() < u32::from(self.workers) {
            return Err(Rejection::SnatPorts(node.snat_ports.len(), self.workers));
        }
        if self.node.policy_audit && !node.policy_audit {
            self.next.audited_until = self.next.revision + 1;
        }
        let is_new_maglev = node.maglev != self.node.maglev;
        self.node = node;
        self.rebuild_host_addrs();
        if is_new_maglev {
            let sets: Vec<Arc<BackendSet>> = self.next.backend_sets.values().cloned().collect();
            for set in sets {
                let set = set.with_params(self.node.maglev);
                self.next.backend_sets.insert_mut(set.name().to_owned(), Arc::new(set));
            }
        }
        Ok(())
    }

    fn upsert_frontend(&mut self, frontend: Frontend) -> Result<(), Rejection> {
        if !frontend.is_on_all_node_addrs() {
            check_unicast(&frontend.key.addr)?;
        }
        if frontend.key.l4_port == 0 {
            return Err(Rejection::PortZero);
        }
        let known = self.next.frontends.contains_key(&frontend.key);
        if !known && self.next.frontends.size() >= FRONTENDS_MAX {
            return Err(Rejection::Full("the frontend table", FRONTENDS_MAX));
        }
        let addr = frontend.key.addr;
        self.next.frontends.insert_mut(frontend.key, Arc::new(frontend));
        if !known {
            self.count_service_addr(addr, true);
        }
        Ok(())
    }

    fn upsert_backend_set(
        &mut self,
        name: String,
        protocol: u8,
        algorithm: Algorithm,
        backends: Vec<Backend>,
    ) -> Result<(), Rejection> {
        check_backends(&backends)?;
        for node in backends.iter().filter_map(|backend| backend.node) {
            self.number_remote(node);
        }
        let set = BackendSet::new(name.clone(), protocol, algorithm, backends, self.node.maglev);
        self.next.backend_sets.insert_mut(name, Arc::new(set));
        Ok(())
    }

    /// Gives a node a number for good. Beyond the most that there may be its backends are reached
    /// with source translation.
    fn number_remote(&mut self, node: Addr) {
        let next = self.next.remotes.len();
        if self.next.remote_index.contains_key(&node) || next > usize::from(u16::MAX) {
            return;
        }
        self.next.remote_index.insert_mut(node, next as u16);
        Arc::make_mut(&mut self.next.remotes).push(node);
    }

    fn upsert_endpoint(&mut self, endpoint: Endpoint) -> Result<(), Rejection> {
        self.check_endpoint(&endpoint)?;
        let (policy, policy_since) = self.assign(&endpoint);
        self.delete_endpoint(&endpoint.name);
        let row = Adjacency {
            port: endpoint.port,
            link: Link::Trunk,
            dst_mac: endpoint.mac,
            src_mac: endpoint.mac,
            mtu: u16::MAX,
        };
        let target = Target::Port(endpoint.port);
        let full = Rejection::Full("the adjacency table", Adjacencies::MAX);
        let Some(adjacency) = self.adjacencies.set(target, row) else {
            policy.into_iter().for_each(|slot| self.policies.release(slot));
            return Err(full);
        };
        let worker = place(&endpoint.name, self.workers);
        let name = endpoint.name.clone();
        let row = EndpointRow { endpoint, worker, adjacency, policy, policy_since };
        let row = Arc::new(row);
        for addr in &row.endpoint.addresses {
            self.policies.set_endpoint_addr(*addr, Some(row.endpoint.identity));
            self.next.endpoints.insert_mut(*addr, Arc::clone(&row));
        }
        self.next.ports.insert_mut(row.endpoint.port, Arc::clone(&row));
        if row.endpoint.bandwidth != Bandwidth::default() {
            self.next.limits.insert_mut(row.endpoint.port, row.endpoint.bandwidth);
        }
        self.endpoints.insert(name, row);
        Ok(())
    }

    /// The place that an endpoint will have its rules from, and since when it does.
    fn assign(&mut self, endpoint: &Endpoint) -> (Option<u32>, u32) {
        let same = |row: &&Arc<EndpointRow>| {
            // What passed as audited is judged again once it is not.
            let is_stricter = row.endpoint.is_audited && !endpoint.is_audited;
            row.endpoint.policy == endpoint.policy
                && row.endpoint.port == endpoint.port
                && !is_stricter
        };
        let old = self.endpoints.get(&endpoint.name).filter(same);
        let since = old.map_or(self.next.revision + 1, |row| row.policy_since);
        // Before the old place is released, so that it remembers when its rules went.
        (endpoint.policy.as_ref().map(|name| self.policies.acquire(name)), since)
    }

    fn check_endpoint(&self, endpoint: &Endpoint) -> Result<(), Rejection> {
        let taken = |row: &Arc<EndpointRow>| row.endpoint.name != endpoint.name;
        if endpoint.addresses.is_empty() {
            return Err(Rejection::NoAddress);
        }
        for addr in &endpoint.addresses {
            check_unicast(addr)?;
            if let Some(row) = self.next.endpoints.get(addr).filter(|row| taken(row)) {
                return Err(Rejection::AddressTaken(*addr, row.endpoint.name.clone()));
            }
        }
        if let Some(row) = self.next.ports.get(&endpoint.port).filter(|row| taken(row)) {
            return Err(Rejection::PortTaken(endpoint.port, row.endpoint.name.clone()));
        }
        let known = self.endpoints.contains_key(&endpoint.name);
        if !known && self.endpoints.len() >= ENDPOINTS_MAX {
            return Err(Rejection::Full("the endpoint table", ENDPOINTS_MAX));
        }
        Ok(())
    }

    fn delete_endpoint(&mut self, name: &str) {
        let Some(row) = self.endpoints.remove(name) else { return };
        for addr in &row.endpoint.addresses {
            self.policies.set_endpoint_addr(*addr, None);
            self.next.endpoints.remove_mut(addr);
        }
        if let Some(slot) = row.policy {
            self.policies.release(slot);
        }
        self.next.ports.remove_mut(&row.endpoint.port);
        self.next.limits.remove_mut(&row.endpoint.port);
        self.adjacencies.remove(Target::Port(row.endpoint.port));
    }

    fn count_service_addr(&mut self, addr: Addr, added: bool) {
        if addr.is_unspecified() {
            return;
        }
        let count = self.next.service_addrs.get(&addr).copied().unwrap_or(0);
        match (added, count) {
            (true, _) => self.next.service_addrs.insert_mut(addr, count + 1),
            (false, 0 | 1) => drop(self.next.service_addrs.remove_mut(&addr)),
            (false, _) => self.next.service_addrs.insert_mut(addr, count - 1),
        }
    }

    fn rebuild_host(&mut self) {
        self.next.host_adjacency = match self.network.host {
            Some(host) => {
                let row = Adjacency {
                    port: host.port,
                    link: Link::Trunk,
                    dst_mac: host.mac,
                    src_mac: host.mac,
                    mtu: host.mtu,
                };
                self.adjacencies.set(Target::Host, row)
            }
            None => {
                self.adjacencies.remove(Target::Host);
                None
            }
        };
    }

    fn rebuild_neighbours(&mut self) {
        let network = &self.network;
        let uplink_of = |port: PortId| network.uplinks.iter().find(|uplink| uplink.port == port);
        self.adjacencies.retain_neighbours(|port, addr| {
            let hop = crate::network::NextHop { port, addr };
            uplink_of(port).is_some() && network.neighbours.contains_key(&hop)
        });
        let mut neighbours = rpds::HashTrieMap::new_sync();
        for (hop, mac) in &network.neighbours {
            let Some(uplink) = uplink_of(hop.port) else { continue };
            let row = Adjacency {
                port: hop.port,
                link: Link::Uplink,
                dst_mac: *mac,
                src_mac: uplink.mac,
                mtu: uplink.mtu,
            };
            if let Some(at) = self.adjacencies.set(Target::Neighbour(hop.port, hop.addr), row) {
                neighbours.insert_mut((hop.port, hop.addr), at);
            }
        }
        self.next.neighbours = neighbours;
    }

    fn rebuild_host_addrs(&mut self) {
        let mut addrs = rpds::HashTrieMap::new_sync();
        for addr in self.node.addresses.iter().chain(&self.network.addresses) {
            addrs.insert_mut(*addr, ());
        }
        self.policies.set_host_addrs(addrs.keys().copied());
        self.next.host_addrs = addrs;
        self.next.node = Arc::new(NodeView::new(&self.node, &self.network));
    }
}

/// The worker of a pod: a function of its name, so that it is the same after a restart.
fn place(name: &str, workers: u8) -> WorkerId {
    // FNV-1a with a final fold: the low bits of FNV alone are weak.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    WorkerId(((hash ^ (hash >> 32)) % u64::from(workers)) as u8)
}

#[cfg(test)]
mod tests;
