//! Taking changes of the model, and noting what follows from them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_api::convert::parse_address;
use weir_api::v1::Endpoint;

use super::Desired;
use crate::compile::Compiled;
use crate::model::{Kind, Name, Node, Object, ObjectKey, Pod, Service};

impl Desired {
    /// Adds an object or replaces it.
    pub fn upsert(&mut self, object: Object) {
        self.policy.upsert(&object);
        if let Object::Node(node) = object {
            return self.replace_node(&node.name.name.clone(), Some(node));
        }
        self.remove_from_services(&object.key());
        match object {
            Object::Service(it) => {
                self.dirty.insert(service_key(&it.name));
                self.services_by_label.insert(&it.name, it.selector.first_key_value());
                self.services.insert(it.name.clone(), it);
            }
            Object::Slice(it) => {
                self.dirty.insert(service_key(&it.service));
                self.slices_of.entry(it.service.clone()).or_default().insert(it.name.clone());
                self.slices.insert(it.name.clone(), it);
            }
            Object::Pod(it) => {
                self.mark_pod(&it);
                self.pods_by_label.insert(&it.name, &it.labels);
                self.pods.insert(it.name.clone(), it);
            }
            Object::Node(_) | Object::Namespace(_) | Object::Policy(_) | Object::CidrGroup(_) => {}
        }
    }

    /// Removes an object; one that does not exist is no error.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.policy.remove(key);
        self.remove_from_services(key);
    }

    fn remove_from_services(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Service => {
                if let Some(service) = self.services.remove(&key.name) {
                    let label = service.selector.first_key_value();
                    self.services_by_label.remove(&key.name, label);
                    self.dirty.insert(key.clone());
                }
            }
            Kind::EndpointSlice => {
                let Some(slice) = self.slices.remove(&key.name) else { return };
                let siblings = self.slices_of.entry(slice.service.clone()).or_default();
                siblings.remove(&key.name);
                if siblings.is_empty() {
                    self.slices_of.remove(&slice.service);
                }
                self.dirty.insert(service_key(&slice.service));
            }
            Kind::Pod => {
                if let Some(pod) = self.pods.remove(&key.name) {
                    self.pods_by_label.remove(&key.name, &pod.labels);
                    self.mark_pod(&pod);
                }
            }
            Kind::Node => self.replace_node(&key.name.name, None),
            Kind::Namespace
            | Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CiliumCidrGroup
            | Kind::ClusterNetworkPolicy => {}
        }
    }

    /// Adds or replaces an attached pod.
    pub fn put_endpoint(&mut self, endpoint: Endpoint) {
        let name = endpoint.name.clone();
        let addresses = endpoint.addresses.iter().filter_map(|it| parse_address(it).ok());
        self.mark_attached(&name, Some(addresses.collect()));
        self.attached.insert(name, endpoint);
    }

    /// Removes an attached pod.
    pub fn remove_endpoint(&mut self, name: &str) {
        self.attached.remove(name);
        self.set_port_mappings(name, Vec::new());
        self.mark_attached(name, None);
    }

    /// A pod that no scheduler has seen is where it is attached.
    fn mark_attached(&mut self, name: &str, addresses: Option<Vec<IpAddr>>) {
        self.dirty_endpoints.insert(name.to_owned());
        let Some(name) = Name::parse(name) else { return };
        self.policy.attach(&name, addresses);
        let pod = self.pods.get(&name);
        if let Some(pod) = pod.filter(|it| it.node.is_none()).cloned() {
            self.mark_pod(&pod);
        }
    }

    /// Marks what follows from a pod.
    fn mark_pod(&mut self, pod: &Pod) {
        let key = ObjectKey { kind: Kind::Pod, name: pod.name.clone() };
        if !pod.host_ports.is_empty() || self.compiled.contains_key(&key) {
            self.dirty.insert(key);
        }
        for label in &pod.labels {
            let names = self.services_by_label.find(&pod.name, label);
            let services = names.into_iter().flatten().filter_map(|it| self.services.get(it));
            for service in services {
                if is_selected(service, pod) && !self.slices_of.contains_key(&service.name) {
                    self.dirty.insert(service_key(&service.name));
                }
            }
        }
    }

    /// The pods that a service's selector matches.
    pub(super) fn select_pods<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Pod> + 'a {
        let of_label = |label| self.pods_by_label.find(&service.name, label);
        let by_label = service.selector.iter().map(of_label);
        // The rarest label leaves the fewest pods to look at.
        let rarest = by_label.min_by_key(|names| names.map_or(0, BTreeSet::len)).flatten();
        let names: Vec<&Name> = rarest.map_or_else(Vec::new, |it| it.iter().collect());
        let pods = names.into_iter().filter_map(|name| self.pods.get(name));
        pods.filter(move |pod| is_selected(service, pod))
    }

    /// Marks what follows from what is new about a node, and no more.
    fn replace_node(&mut self, name: &str, new: Option<Node>) {
        let old = match new {
            Some(node) => self.nodes.insert(name.to_owned(), node),
            None => self.nodes.remove(name),
        };
        let (old, new) = (old.as_ref(), self.nodes.get(name));
        self.election.mark_nodes(old, new);
        let way = |it: Option<&Node>| it.map(|it| it.internal_addresses.clone());
        let ranges = |it: Option<&Node>| it.map(|it| (it.addresses.clone(), it.pod_ranges.clone()));
        self.is_node_dirty |= ranges(old) != ranges(new) || way(old) != way(new);
        let place = |it: Option<&Node>| (way(it), it.map(|it| it.zone().map(str::to_owned)));
        let labels = |it: Option<&Node>| it.map(|it| it.labels.clone());
        let is_own = name == self.settings.name;
        if place(old) != place(new) || (is_own && labels(old) != labels(new)) {
            self.dirty.extend(self.dependents.get(name).into_iter().flatten().cloned());
        }
    }

    /// Keeps the nodes and health checks of a service or pod, which was computed again.
    pub(super) fn replace_dependencies(&mut self, key: &ObjectKey, old: &Compiled, new: &Compiled) {
        for node in old.nodes.difference(&new.nodes) {
            let Some(dependents) = self.dependents.get_mut(node) else { continue };
            dependents.remove(key);
            if dependents.is_empty() {
                self.dependents.remove(node);
            }
        }
        for node in new.nodes.difference(&old.nodes) {
            self.dependents.entry(node.clone()).or_default().insert(key.clone());
        }
        self.health_version += u64::from(old.health_check != new.health_check);
        if let Some(check) = old.health_check
            && let Some(services) = self.health_checks.get_mut(&check.l4_port)
        {
            services.remove(&key.name);
            if services.is_empty() {
                self.health_checks.remove(&check.l4_port);
            }
        }
        if let Some(check) = new.health_check {
            let services = self.health_checks.entry(check.l4_port).or_default();
            services.insert(key.name.clone(), check.local_endpoints);
        }
    }
}

fn service_key(name: &Name) -> ObjectKey {
    ObjectKey { kind: Kind::Service, name: name.clone() }
}

/// Whether a pod is behind a service by its labels.
fn is_selected(service: &Service, pod: &Pod) -> bool {
    let has_label = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
    !service.selector.is_empty() && service.selector.iter().all(has_label)
}
