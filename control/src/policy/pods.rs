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
    /// Labels for which there was no number left.
    waiting: Option<Labels>,
    /// As whom it claims its addresses.
    owner: Option<Owner>,
    addresses: Vec<IpAddr>,
    port_names: BTreeSet<String>,
}

impl AppliedPod {
    /// There was no number left for its labels.
    pub(super) fn is_without_number(&self) -> bool {
        self.waiting.is_some()
    }
}

/// Addresses of nodes and of the API server, with the identities held for them.
pub(super) type HeldAddresses = BTreeMap<Owner, BTreeMap<Cidr, IdentityId>>;

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
        self.stop_waiting(name, &old);
        let new = self.make_pod(name);
        self.note_number(name, &new);
        if let Some(id) = old.identity.filter(|_| !old.is_without_number()) {
            self.peers.identities.release(id);
        }
        if old.owner != new.owner && matches!(old.owner, Some(Owner::HostPod(_))) {
            old.owner.iter().for_each(|it| self.replace_held(it, Scope::Node, BTreeMap::new()));
        }
        let claims = |it: &AppliedPod| (it.identity, it.owner.clone(), it.addresses.clone());
        if claims(&old) != claims(&new) {
            let each = |it: &AppliedPod| {
                let owner = it.owner.clone();
                let all = it.addresses.iter().map(|it| Cidr::of_host(*it)).collect::<Vec<_>>();
                owner.into_iter().flat_map(move |owner| {
                    all.clone().into_iter().map(move |range| (range, owner.clone()))
                })
            };
            for (range, owner) in each(&old) {
                self.peers.addresses.unclaim(range, &owner);
            }
            for (range, owner) in each(&new) {
                self.peers.addresses.claim(range, owner, new.identity.unwrap_or(INIT));
            }
        }
        self.index_ports(name, &old.port_names, &new.port_names);
        if self.objects.pods.contains_key(name) {
            self.applied_pods.insert(name.clone(), new);
        }
        self.claim_host(name);
        if self.wanted.contains_key(name) {
            self.dirty.locals.insert(name.clone());
        }
    }

    /// What is to be made of a pod at present; its identity is held for it.
    fn make_pod(&mut self, name: &Name) -> AppliedPod {
        let Some(pod) = self.objects.pods.get(name) else { return AppliedPod::default() };
        if pod.is_host_network {
            let owner = Some(Owner::HostPod(pod.claim.clone()));
            return AppliedPod { owner, ..AppliedPod::default() };
        }
        let selectors = &self.peers.selectors;
        let labels = self.pod_labels(name, pod).list_security(|key| selectors.asks_for(key));
        let (id, waiting) = match self.peers.acquire_identity(labels, Scope::Pod) {
            Ok(id) => (id, None),
            Err(labels) => (INIT, Some(labels)),
        };
        AppliedPod {
            identity: Some(id),
            waiting,
            owner: Some(Owner::Pod(pod.claim.clone())),
            addresses: pod.addresses.clone(),
            port_names: pod.ports.iter().map(|it| it.name.clone()).collect(),
        }
    }

    fn stop_waiting(&mut self, name: &Name, old: &AppliedPod) {
        let Some(labels) = &old.waiting else { return };
        let Some(pods) = self.pods_without_number.get_mut(labels) else { return };
        pods.remove(name);
        if pods.is_empty() {
            self.pods_without_number.remove(labels);
        }
    }

    /// Has a pod wait for a number, or ends the wait of those with the same labels.
    fn note_number(&mut self, name: &Name, new: &AppliedPod) {
        if let Some(labels) = &new.waiting {
            self.pods_without_number.entry(labels.clone()).or_default().insert(name.clone());
        } else if !self.pods_without_number.is_empty()
            && let Some(labels) = new.identity.and_then(|it| self.peers.identities.labels(it))
        {
            let alike = self.pods_without_number.get(&**labels).into_iter().flatten();
            self.dirty.pods.extend(alike.cloned());
        }
    }

    /// Looks again at pods that wait for numbers, of which this many have become free.
    pub(super) fn retry_pods(&mut self, freed: usize) {
        let pods = self.pods_without_number.values().take(freed).flatten();
        self.dirty.pods.extend(pods.cloned());
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

    /// Looks again at the addresses of nodes and of the API server that may have changed; whether
    /// there were any.
    pub(super) fn apply_nodes(&mut self) -> bool {
        let mut names = std::mem::take(&mut self.dirty.nodes);
        let is_all = std::mem::take(&mut self.dirty.all_nodes);
        if is_all {
            names.extend(self.objects.nodes.keys().cloned());
            names.extend(self.settings.node.clone());
            let pods = self.objects.pods.iter().filter(|(_, it)| it.is_host_network);
            for name in pods.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                self.claim_host(&name);
            }
        }
        for name in &names {
            let labels = self.label_node(name);
            self.replace_held(&Owner::Node(name.clone()), Scope::Node, labels);
        }
        let is_any = is_all || !names.is_empty();
        if is_any {
            self.replace_held(&Owner::ApiServer, Scope::World, self.label_api_server());
        }
        is_any
    }

    /// Claims the addresses of a pod in its node's network for the node, whose object may not be
    /// there.
    fn claim_host(&mut self, name: &Name) {
        let pod = self.objects.pods.get(name).filter(|it| it.is_host_network);
        let Some(pod) = pod else { return };
        let labels = self.label_addresses(pod.node.as_deref(), &pod.addresses, None);
        self.replace_held(&Owner::HostPod(pod.claim.clone()), Scope::Node, labels);
    }

    /// Claims addresses, and gives up those that the same owner claimed before.
    fn replace_held(&mut self, owner: &Owner, scope: Scope, wanted: BTreeMap<Cidr, Labels>) {
        let mut old = self.held.remove(owner).unwrap_or_default();
        let mut new = BTreeMap::new();
        for (range, labels) in wanted {
            let Ok(id) = self.peers.acquire_identity(labels, scope) else { continue };
            match old.remove(&range) {
                Some(before) if before == id => self.peers.identities.release(id),
                before => {
                    self.peers.addresses.claim(range, owner.clone(), id);
                    before.into_iter().for_each(|it| self.peers.identities.release(it));
                }
            }
            new.insert(range, id);
        }
        for (range, id) in old {
            self.peers.addresses.unclaim(range, owner);
            self.peers.identities.release(id);
        }
        if !new.is_empty() {
            self.held.insert(owner.clone(), new);
        }
    }

    fn label_node(&self, name: &str) -> BTreeMap<Cidr, Labels> {
        let is_asked = self.peers.selectors.asks_for_nodes();
        let node = self.objects.nodes.get(name);
        let mut addresses = node.map(|it| it.addresses.clone()).unwrap_or_default();
        if self.settings.node.as_deref() == Some(name) {
            addresses.extend(&self.settings.node_addresses);
        }
        let labels = node.map(|it| &it.labels).filter(|_| is_asked);
        self.label_addresses(Some(name), &addresses, labels)
    }

    /// The labels of addresses that are a node's.
    fn label_addresses(
        &self,
        node: Option<&str>,
        addresses: &[IpAddr],
        of_node: Option<&BTreeMap<String, String>>,
    ) -> BTreeMap<Cidr, Labels> {
        let is_own = self.are_nodes_own || node.is_some() && self.settings.node.as_deref() == node;
        let own = if is_own { "host" } else { "remote-node" };
        let servers = self.list_api_servers();
        let label = |address: &IpAddr| match servers.contains(address) {
            true => reserved(&[own, "kube-apiserver"], of_node),
            false => reserved(&[own], of_node),
        };
        addresses.iter().map(|it| (Cidr::of_host(*it), label(it))).collect()
    }

    /// The labels of the API server's addresses that are no node's.
    fn label_api_server(&self) -> BTreeMap<Cidr, Labels> {
        let label = |address: IpAddr| {
            let family = if address.is_ipv4() { "world-ipv4" } else { "world-ipv6" };
            let labels = reserved(&["kube-apiserver", "world", family], None);
            (Cidr::of_host(address), labels)
        };
        let all = self.list_api_servers().into_iter().map(label);
        all.filter(|(address, _)| !self.peers.addresses.is_of_node(address)).collect()
    }

    fn list_api_servers(&self) -> BTreeSet<IpAddr> {
        self.objects.endpoints_of(&Name::new("default", "kubernetes"))
    }
}
