//! The desired state of this node, kept up to date piece by piece.
//!
//! The result depends on the objects only, never on the order in which they came: applying changes
//! one by one gives what computing from scratch gives.

mod key;
mod problems;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_api::convert::address_bytes;
use weir_api::v1::{BackendSet, Endpoint, Frontend, NodeConfig, Object, Prefix, object};

pub use key::{Changes, DesiredKey};

use crate::compile::{Compiled, FrontendId, Inputs, compile_service};
use crate::model::{self, Kind, Name, Node, ObjectKey, Pod, Service};

/// What is known of this node without asking the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// Name of its Node object.
    pub name: String,
    /// Its addresses, beside those of the Node object.
    pub addresses: Vec<IpAddr>,
    /// Ranges of service addresses: (address, prefix length).
    pub service_ranges: Vec<(IpAddr, u8)>,
}

/// The model, and the state that follows from it.
#[derive(Debug)]
pub struct Desired {
    settings: NodeSettings,
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, model::EndpointSlice>,
    slices_of: BTreeMap<Name, BTreeSet<Name>>,
    pods: BTreeMap<Name, Pod>,
    nodes: BTreeMap<Name, Node>,

    dirty_services: BTreeSet<Name>,
    is_node_dirty: bool,

    compiled: BTreeMap<Name, Compiled>,
    with_problems: BTreeSet<Name>,
    /// Services that ask for an address and port; the first one has it.
    claims: BTreeMap<FrontendId, BTreeSet<Claim>>,
    contested: BTreeSet<FrontendId>,

    objects: BTreeMap<DesiredKey, Object>,
    changes: Changes,
}

/// Orders services by age, as far as it is known, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    has_no_age: bool,
    created: Option<String>,
    service: Name,
}

impl Desired {
    /// The state of a node in an empty cluster.
    #[must_use]
    pub fn new(settings: NodeSettings) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            dirty_services: BTreeSet::new(),
            is_node_dirty: true,
            compiled: BTreeMap::new(),
            with_problems: BTreeSet::new(),
            claims: BTreeMap::new(),
            contested: BTreeSet::new(),
            objects: BTreeMap::new(),
            changes: Changes::new(),
        }
    }

    /// Adds an object or replaces it.
    pub fn upsert(&mut self, object: model::Object) {
        self.remove(&object.key());
        match object {
            model::Object::Service(it) => {
                self.dirty_services.insert(it.name.clone());
                self.services.insert(it.name.clone(), it);
            }
            model::Object::Slice(it) => {
                self.dirty_services.insert(it.service.clone());
                self.slices_of.entry(it.service.clone()).or_default().insert(it.name.clone());
                self.slices.insert(it.name.clone(), it);
            }
            model::Object::Pod(it) => {
                self.mark_services_of_pod(&it);
                self.pods.insert(it.name.clone(), it);
            }
            model::Object::Node(it) => {
                self.is_node_dirty |= it.name.name == self.settings.name;
                self.nodes.insert(it.name.clone(), it);
            }
        }
    }

    /// Removes an object; one that does not exist is no error.
    pub fn remove(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Service => {
                if self.services.remove(&key.name).is_some() {
                    self.dirty_services.insert(key.name.clone());
                }
            }
            Kind::EndpointSlice => {
                let Some(slice) = self.slices.remove(&key.name) else { return };
                let siblings = self.slices_of.entry(slice.service.clone()).or_default();
                siblings.remove(&key.name);
                if siblings.is_empty() {
                    self.slices_of.remove(&slice.service);
                }
                self.dirty_services.insert(slice.service);
            }
            Kind::Pod => {
                if let Some(pod) = self.pods.remove(&key.name) {
                    self.mark_services_of_pod(&pod);
                }
            }
            Kind::Node => {
                self.is_node_dirty |= key.name.name == self.settings.name;
                self.nodes.remove(&key.name);
            }
        }
    }

    /// Adds or replaces an attached pod.
    pub fn put_endpoint(&mut self, endpoint: Endpoint) {
        let key = DesiredKey::Endpoint(endpoint.name.clone());
        self.put(key, object::Kind::Endpoint(endpoint));
    }

    /// Removes an attached pod.
    pub fn remove_endpoint(&mut self, name: &str) {
        self.delete(DesiredKey::Endpoint(name.to_owned()));
    }

    /// Computes again what depends on changed objects, and returns what differs since the last
    /// call.
    pub fn recompute(&mut self) -> Changes {
        if std::mem::take(&mut self.is_node_dirty) {
            let node = self.compile_node();
            self.put(DesiredKey::Node, object::Kind::Node(node));
        }
        let mut touched = BTreeSet::new();
        for name in std::mem::take(&mut self.dirty_services) {
            self.recompute_service(&name, &mut touched);
        }
        for id in touched {
            self.settle_claims(id);
        }
        std::mem::take(&mut self.changes)
    }

    /// The whole state as of the last [`Self::recompute`].
    #[must_use]
    pub fn objects(&self) -> &BTreeMap<DesiredKey, Object> {
        &self.objects
    }

    /// What is known of this node without asking the cluster.
    #[must_use]
    pub fn settings(&self) -> &NodeSettings {
        &self.settings
    }

    /// The frontends, in order of their addresses.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.objects.values().filter_map(|it| match &it.kind {
            Some(object::Kind::Frontend(frontend)) => Some(frontend),
            _ => None,
        })
    }

    /// A backend set by its name.
    #[must_use]
    pub fn backend_set(&self, name: &str) -> Option<&BackendSet> {
        match &self.objects.get(&DesiredKey::BackendSet(name.to_owned()))?.kind {
            Some(object::Kind::BackendSet(set)) => Some(set),
            _ => None,
        }
    }

    /// Number of model objects by kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Pod => self.pods.len(),
            Kind::Node => self.nodes.len(),
        }
    }

    fn mark_services_of_pod(&mut self, pod: &Pod) {
        let in_namespace = Name::new(&pod.name.namespace, "");
        for (name, service) in self.services.range(in_namespace..) {
            if name.namespace != pod.name.namespace {
                break;
            }
            if is_selected(service, pod) && !self.slices_of.contains_key(name) {
                self.dirty_services.insert(name.clone());
            }
        }
    }

    fn recompute_service(&mut self, name: &Name, touched: &mut BTreeSet<FrontendId>) {
        let old = self.compiled.remove(name).unwrap_or_default();
        let new = self.services.get(name).map(|it| self.compile(it)).unwrap_or_default();
        for id in old.frontends.keys() {
            if let Some(claims) = self.claims.get_mut(id) {
                claims.retain(|claim| claim.service != *name);
                touched.insert(*id);
            }
        }
        if let Some(service) = self.services.get(name) {
            let created = service.created.clone();
            let claim = Claim { has_no_age: created.is_none(), created, service: name.clone() };
            for id in new.frontends.keys() {
                self.claims.entry(*id).or_default().insert(claim.clone());
                touched.insert(*id);
            }
        }
        let kept: BTreeSet<&String> = new.sets.iter().map(|it| &it.name).collect();
        for set in old.sets.iter().filter(|it| !kept.contains(&it.name)) {
            self.delete(DesiredKey::BackendSet(set.name.clone()));
        }
        for set in &new.sets {
            let key = DesiredKey::BackendSet(set.name.clone());
            self.put(key, object::Kind::BackendSet(set.clone()));
        }
        if new.problems.is_empty() {
            self.with_problems.remove(name);
        } else {
            self.with_problems.insert(name.clone());
        }
        if self.services.contains_key(name) {
            self.compiled.insert(name.clone(), new);
        }
    }

    fn compile(&self, service: &Service) -> Compiled {
        let names = self.slices_of.get(&service.name);
        let slices: Vec<_> =
            names.into_iter().flatten().filter_map(|name| self.slices.get(name)).collect();
        let mut pods = Vec::new();
        if slices.is_empty() && !service.selector.is_empty() {
            let from = Name::new(&service.name.namespace, "");
            let in_namespace = self.pods.range(from..).map(|(_, pod)| pod);
            let in_namespace =
                in_namespace.take_while(|pod| pod.name.namespace == service.name.namespace);
            pods.extend(in_namespace.filter(|pod| is_selected(service, pod)));
        }
        compile_service(&Inputs { service, slices, pods })
    }

    fn settle_claims(&mut self, id: FrontendId) {
        let claims = self.claims.get(&id).map_or(0, BTreeSet::len);
        if claims > 1 {
            self.contested.insert(id);
        } else {
            self.contested.remove(&id);
        }
        let key = DesiredKey::Frontend(id.0, id.1);
        let owner = self.claims.get(&id).and_then(BTreeSet::first);
        let frontend = owner
            .and_then(|owner| self.compiled.get(&owner.service))
            .and_then(|compiled| compiled.frontends.get(&id).cloned());
        match frontend {
            Some(frontend) => self.put(key, object::Kind::Frontend(frontend)),
            None => {
                self.claims.remove(&id);
                self.delete(key);
            }
        }
    }

    fn compile_node(&self) -> NodeConfig {
        let own = self.nodes.get(&Name::new("", &self.settings.name));
        let mut addresses = self.settings.addresses.clone();
        for address in own.iter().flat_map(|node| &node.addresses) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let ranges = self.settings.service_ranges.iter();
        let write_prefix = |(address, length): &(IpAddr, u8)| Prefix {
            address: address_bytes(*address),
            length: u32::from(*length),
        };
        NodeConfig {
            name: self.settings.name.clone(),
            addresses: addresses.into_iter().map(address_bytes).collect(),
            maglev_table_size: 0,
            maglev_seed: Vec::new(),
            service_ranges: ranges.map(write_prefix).collect(),
            ..NodeConfig::default()
        }
    }

    fn put(&mut self, key: DesiredKey, kind: object::Kind) {
        let object = Object::from(kind);
        if self.objects.get(&key) != Some(&object) {
            self.objects.insert(key.clone(), object.clone());
            self.changes.insert(key, Some(object));
        }
    }

    fn delete(&mut self, key: DesiredKey) {
        if self.objects.remove(&key).is_some() {
            self.changes.insert(key, None);
        }
    }
}

/// Whether a pod is behind a service by its labels.
fn is_selected(service: &Service, pod: &Pod) -> bool {
    let has_label = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
    !service.selector.is_empty() && service.selector.iter().all(has_label)
}
