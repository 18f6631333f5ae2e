//! Taking objects of the model: what policy needs of them is kept, and what may follow is noted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::PolicyState;
use super::addresses::PodClaim;
use super::specs::SpecId;
use crate::model::{
    CidrGroup, ContainerPort, EndpointSlice, Kind, Name, Namespace, Node, Object, ObjectKey,
    Origin, Pod, PolicyPeer, Service, ServiceChoice,
};

/// What is known of the cluster.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub pods: BTreeMap<Name, PodFacts>,
    pub namespaces: BTreeMap<String, Namespace>,
    pub nodes: BTreeMap<String, NodeFacts>,
    pub groups: BTreeMap<String, CidrGroup>,
    pub services: BTreeMap<Name, ServiceFacts>,
    /// Addresses in the slices of services, by service and slice.
    pub slices: BTreeMap<Name, BTreeMap<Name, BTreeSet<IpAddr>>>,
    service_of: BTreeMap<Name, Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub labels: BTreeMap<String, String>,
    pub service_account: String,
    pub is_host_network: bool,
    /// That it runs on, where known.
    pub node: Option<String>,
    pub claim: PodClaim,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ContainerPort>,
    pub is_audited: bool,
    pub origin: Option<Origin>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub addresses: Vec<IpAddr>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceFacts {
    pub labels: BTreeMap<String, String>,
    pub selector: BTreeMap<String, String>,
}

impl From<Pod> for PodFacts {
    fn from(pod: Pod) -> Self {
        Self {
            claim: PodClaim::from(&pod),
            node: pod.node,
            labels: pod.labels,
            service_account: pod.service_account,
            is_host_network: pod.is_host_network,
            addresses: pod.addresses,
            ports: pod.ports,
            is_audited: pod.is_policy_audited,
            origin: pod.origin,
        }
    }
}

/// The service whose endpoints are the API server's.
pub(super) fn is_api_server(service: &Name) -> bool {
    service.namespace == "default" && service.name == "kubernetes"
}

impl Objects {
    /// Addresses in a service's slices.
    pub(super) fn endpoints_of(&self, service: &Name) -> BTreeSet<IpAddr> {
        let slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values);
        slices.flatten().copied().collect()
    }

    fn put_slice(&mut self, name: Name, service: Name, addresses: BTreeSet<IpAddr>) {
        self.service_of.insert(name.clone(), service.clone());
        self.slices.entry(service).or_default().insert(name, addresses);
    }

    /// The service that it was of.
    fn remove_slice(&mut self, name: &Name) -> Option<(Name, BTreeSet<IpAddr>)> {
        let service = self.service_of.remove(name)?;
        let siblings = self.slices.get_mut(&service)?;
        let old = siblings.remove(name)?;
        if siblings.is_empty() {
            self.slices.remove(&service);
        }
        Some((service, old))
    }
}

impl PolicyState {
    /// Pods, namespaces, nodes, policies, CIDR groups, services and slices.
    pub fn upsert(&mut self, object: &Object) {
        match object {
            Object::Pod(it) => self.replace_pod(&it.name, Some(it.clone().into())),
            Object::Namespace(it) => self.replace_namespace(&it.name.name, Some(it.clone())),
            Object::Node(it) => self.replace_node(&it.name.name, Some(it)),
            Object::CidrGroup(it) => self.replace_group(&it.name.name, Some(it.clone())),
            Object::Service(it) => self.replace_service(&it.name, Some(it)),
            Object::Slice(it) => self.replace_slice(&it.name, Some(it)),
            Object::Policy(it) => {
                self.dirty.policies.insert(it.key.clone(), Some(it.clone()));
            }
        }
    }

    /// Removes an object; one that does not exist is no error.
    pub fn remove(&mut self, key: &ObjectKey) {
        let name = &key.name;
        match key.kind {
            Kind::Pod => self.replace_pod(name, None),
            Kind::Namespace => self.replace_namespace(&name.name, None),
            Kind::Node => self.replace_node(&name.name, None),
            Kind::CiliumCidrGroup => self.replace_group(&name.name, None),
            Kind::Service => self.replace_service(name, None),
            Kind::EndpointSlice => self.replace_slice(name, None),
            Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::ClusterNetworkPolicy => {
                self.dirty.policies.insert(key.clone(), None);
            }
        }
    }

    fn replace_pod(&mut self, name: &Name, new: Option<PodFacts>) {
        let is_same = self.objects.pods.get(name) == new.as_ref();
        match new {
            _ if is_same => return,
            Some(new) => drop(self.objects.pods.insert(name.clone(), new)),
            None => drop(self.objects.pods.remove(name)),
        }
        self.dirty.pods.insert(name.clone());
    }

    fn replace_namespace(&mut self, name: &str, new: Option<Namespace>) {
        let old = match new {
            Some(new) => self.objects.namespaces.insert(name.to_owned(), new),
            None => self.objects.namespaces.remove(name),
        };
        let labels = |it: Option<&Namespace>| it.map(|it| it.labels.clone());
        if labels(old.as_ref()) != labels(self.objects.namespaces.get(name)) {
            let pods = self.objects.pods.range(Name::new(name, "")..);
            let of_it = pods.map(|(pod, _)| pod).take_while(|it| it.namespace == name);
            self.dirty.pods.extend(of_it.cloned());
        }
    }

    fn replace_node(&mut self, name: &str, new: Option<&Node>) {
        let facts =
            |it: &Node| NodeFacts { addresses: it.addresses.clone(), labels: it.labels.clone() };
        let old = match new {
            Some(new) => self.objects.nodes.insert(name.to_owned(), facts(new)),
            None => self.objects.nodes.remove(name),
        };
        if old.as_ref() != self.objects.nodes.get(name) {
            self.dirty.nodes.insert(name.to_owned());
        }
    }

    fn replace_group(&mut self, name: &str, new: Option<CidrGroup>) {
        let old = match new {
            Some(new) => self.objects.groups.insert(name.to_owned(), new),
            None => self.objects.groups.remove(name),
        };
        self.dirty.groups |= old.as_ref() != self.objects.groups.get(name);
    }

    fn replace_service(&mut self, name: &Name, new: Option<&Service>) {
        let facts = |it: &Service| ServiceFacts {
            labels: it.labels.clone(),
            selector: it.selector.clone(),
        };
        let old = match new {
            Some(new) => self.objects.services.insert(name.clone(), facts(new)),
            None => self.objects.services.remove(name),
        };
        if old.as_ref() != self.objects.services.get(name) {
            self.mark_service(name);
        }
    }

    fn replace_slice(&mut self, name: &Name, new: Option<&EndpointSlice>) {
        let old = self.objects.remove_slice(name);
        let new = new.map(|it| {
            let addresses: BTreeSet<IpAddr> = it.endpoints.iter().map(|it| it.address).collect();
            (it.service.clone(), addresses)
        });
        if let Some((service, addresses)) = &new {
            self.objects.put_slice(name.clone(), service.clone(), addresses.clone());
        }
        if old != new {
            let services = [old, new].into_iter().flatten().map(|(service, _)| service);
            for service in services.collect::<BTreeSet<_>>() {
                self.dirty.all_nodes |= is_api_server(&service);
                let facts = self.objects.services.get(&service);
                if facts.is_none_or(|it| it.selector.is_empty()) {
                    self.mark_service(&service);
                }
            }
        }
    }

    /// Marks the specs in force that may be about a service.
    fn mark_service(&mut self, service: &Name) {
        let is_about = |peer: &PolicyPeer| match peer {
            PolicyPeer::Services(ServiceChoice::Name(name)) => name == service,
            PolicyPeer::Services(ServiceChoice::Labels { namespace, .. }) => {
                namespace.as_ref().is_none_or(|it| *it == service.namespace)
            }
            _ => false,
        };
        let is_concerned =
            |id: &SpecId| self.specs.get(id).is_some_and(|it| it.peers().any(is_about));
        let concerned = self.specs_by_service.iter().copied().filter(is_concerned);
        self.dirty.specs.extend(concerned);
    }
}
