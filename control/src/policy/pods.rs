//! Pods and nodes: their identities, and which addresses have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_tables::policy::IdentityId;

use super::PolicyState;
use super::addresses::Owner;
use super::identities::{INIT, Scope};
use super::index::Labels;
use super::labels::{PodLabels, reserved};
use super::objects::PodFacts;
use crate::model::{Cidr, Name};

/// What was last made of a pod.
#[derive(Debug, Default)]
pub(super) struct AppliedPod {
    /// `None` for a pod in its node's network.
    pub identity: Option<IdentityId>,
    /// There was no number left for its labels.
    pub is_without_number: bool,
    addresses: Vec<IpAddr>,
    port_names: BTreeSet<String>,
}

/// Addresses of nodes and of the API server, with the identities held for them.
pub(super) type HeldAddresses = BTreeMap<(Cidr, Owner), IdentityId>;

impl PolicyState {
    /// Looks again at pods that may have changed; whether there were any.
    pub(super) fn apply_pods(&mut self) -> bool {
        let pods = std::mem::take(&mut self.dirty.pods);
        for name in &pods {
            self.apply_pod(name);
        }
        !pods.is_empty()
    }

    /// What a pod's labels follow from.
    pub(super) fn pod_labels<'a>(&'a self, name: &'a Name, pod: &'a PodFacts) -> PodLabels<'a> {
        PodLabels {
            namespace: &name.namespace,
            own: &pod.labels,
            of_namespace: self.objects.namespaces.get(&name.namespace).map(|it| &it.labels),
            service_account: &pod.service_account,
            cluster: &self.settings.cluster,
        }
    }

    fn apply_pod(&mut self, name: &Name) {
        let old = self.applied_pods.remove(name).unwrap_or_default();
        let pod = self.objects.pods.get(name).filter(|it| !it.is_host_network);
        let selectors = &self.peers.selectors;
        let labels =
            pod.map(|it| self.pod_labels(name, it).list_security(|key| selectors.asks_for(key)));
        let addresses = pod.map(|it| it.addresses.clone()).unwrap_or_default();
        let names = pod.into_iter().flat_map(|it| &it.ports).map(|it| it.name.clone());
        let mut new =
            AppliedPod { addresses, port_names: names.collect(), ..AppliedPod::default() };
        if let Some(labels) = labels {
            let id = self.peers.acquire_identity(labels, Scope::Pod);
            new.identity = Some(id.unwrap_or(INIT));
            new.is_without_number = id.is_none();
        }
        if new.is_without_number {
            self.pods_without_number.insert(name.clone());
        } else if old.is_without_number {
            self.pods_without_number.remove(name);
        }
        if let Some(id) = old.identity.filter(|_| !old.is_without_number) {
            self.peers.identities.release(id);
        }
        let claims = |it: &AppliedPod| (it.identity, it.addresses.clone());
        if claims(&old) != claims(&new) {
            let owner = Owner::Pod(name.clone());
            for address in &old.addresses {
                self.peers.addresses.unclaim(Cidr::of_host(*address), &owner);
            }
            for address in &new.addresses {
                let id = new.identity.unwrap_or(INIT);
                self.peers.addresses.claim(Cidr::of_host(*address), owner.clone(), id);
            }
        }
        self.index_ports(name, &old.port_names, &new.port_names);
        if self.objects.pods.contains_key(name) {
            self.applied_pods.insert(name.clone(), new);
        }
        if self.wanted.contains_key(name) {
            self.dirty.locals.insert(name.clone());
        }
    }

    fn index_ports(&mut self, pod: &Name, old: &BTreeSet<String>, new: &BTreeSet<String>) {
        for gone in old.difference(new) {
            let Some(pods) = self.pods_by_port.get_mut(gone) else { continue };
            pods.remove(pod);
            if pods.is_empty() {
                self.pods_by_port.remove(gone);
            }
        }
        for name in new.difference(old) {
            self.pods_by_port.entry(name.clone()).or_default().insert(pod.clone());
        }
        for name in old.union(new) {
            self.dirty.specs.extend(self.specs_by_port.get(name).into_iter().flatten());
        }
    }

    /// Looks again at the addresses of nodes and of the API server.
    pub(super) fn apply_nodes(&mut self) {
        let mut old = std::mem::take(&mut self.held);
        for ((range, owner), labels) in self.list_node_addresses() {
            let scope = match owner {
                Owner::ApiServer => Scope::World,
                _ => Scope::Node,
            };
            let id = self.peers.acquire_identity(labels, scope).unwrap_or(INIT);
            let key = (range, owner.clone());
            match old.remove(&key) {
                Some(before) if before == id => self.peers.identities.release(id),
                before => {
                    self.peers.addresses.claim(range, owner, id);
                    before.into_iter().for_each(|it| self.peers.identities.release(it));
                }
            }
            self.held.insert(key, id);
        }
        for ((range, owner), id) in old {
            self.peers.addresses.unclaim(range, &owner);
            self.peers.identities.release(id);
        }
    }

    fn list_node_addresses(&self) -> BTreeMap<(Cidr, Owner), Labels> {
        let slices = self.objects.slices.get(&Name::new("default", "kubernetes"));
        let servers: BTreeSet<IpAddr> =
            slices.into_iter().flat_map(BTreeMap::values).flatten().copied().collect();
        let is_asked = self.peers.selectors.asks_for_nodes();
        let mut wanted = BTreeMap::new();
        let mut of_nodes = BTreeSet::new();
        let mut add = |name: &str, addresses: &[IpAddr]| {
            let is_own = self.are_nodes_own || self.settings.node.as_deref() == Some(name);
            let own = if is_own { "host" } else { "remote-node" };
            let node = self.objects.nodes.get(name);
            let labels = node.map(|it| &it.labels).filter(|_| is_asked);
            for address in addresses {
                let labels = match servers.contains(address) {
                    true => reserved(&[own, "kube-apiserver"], labels),
                    false => reserved(&[own], labels),
                };
                of_nodes.insert(*address);
                wanted.insert((Cidr::of_host(*address), Owner::Node(name.to_owned())), labels);
            }
        };
        for (name, node) in &self.objects.nodes {
            add(name, &node.addresses);
        }
        if let Some(own) = &self.settings.node {
            add(own, &self.settings.node_addresses);
        }
        for address in servers.difference(&of_nodes) {
            let family = if address.is_ipv4() { "world-ipv4" } else { "world-ipv6" };
            let labels = reserved(&["kube-apiserver", "world", family], None);
            wanted.insert((Cidr::of_host(*address), Owner::ApiServer), labels);
        }
        wanted
    }
}
