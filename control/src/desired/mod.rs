//! The desired state of this node, kept up to date piece by piece.
//!
//! The result depends on the objects only, never on the order in which they came: applying changes
//! one by one gives what computing from scratch gives.

mod election;
mod key;
mod labels;
mod mapped;
mod node;
mod policy_rows;
mod problems;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};

use weir_api::v1::{BackendSet, Endpoint, Frontend, Object, object};

use election::Election;
pub use key::{Changes, DesiredKey};
use labels::LabelIndex;

use crate::compile::{
    Compiled, FrontendId, Inputs, Nodes, PodInput, compile_host_ports, compile_service,
};
use crate::model::{self, HostPort, Kind, Name, Node, ObjectKey, Pod, Service};
use crate::policy::PolicyState;
pub use crate::settings::NodeSettings;

/// The model, and the state that follows from it.
#[derive(Debug)]
pub struct Desired {
    settings: NodeSettings,
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, model::EndpointSlice>,
    slices_of: BTreeMap<Name, BTreeSet<Name>>,
    pods: BTreeMap<Name, Pod>,
    nodes: BTreeMap<String, Node>,
    pods_by_label: LabelIndex,
    /// By the first label of their selectors.
    services_by_label: LabelIndex,

    policy: PolicyState,
    /// Pods as they were attached, by `namespace/name`.
    attached: BTreeMap<String, Endpoint>,
    /// Ports of the node that the runtimes of attached pods ask for.
    mapped: BTreeMap<Name, Vec<HostPort>>,

    /// Services and pods.
    dirty: BTreeSet<ObjectKey>,
    /// Attached pods, and pods that were.
    dirty_endpoints: BTreeSet<String>,
    is_node_dirty: bool,

    /// Of services, and of pods that have frontends.
    compiled: BTreeMap<ObjectKey, Compiled>,
    with_problems: BTreeSet<ObjectKey>,
    /// Services and pods that follow from a node, by its name.
    dependents: BTreeMap<String, BTreeSet<ObjectKey>>,
    /// Local endpoints of the services that ask for a health check on a port; the first one has it.
    health_checks: BTreeMap<u16, BTreeMap<Name, u32>>,
    health_version: u64,
    /// Services and pods that ask for an address and port; the first one has it.
    claims: BTreeMap<FrontendId, BTreeSet<Claim>>,
    contested: BTreeSet<FrontendId>,

    /// Of load balancer addresses.
    election: Election,

    objects: BTreeMap<DesiredKey, Object>,
    changes: Changes,
}

/// Orders services and pods by age, as far as it is known, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    has_no_age: bool,
    created: Option<String>,
    object: ObjectKey,
}

impl Desired {
    /// The state of a node in an empty cluster.
    #[must_use]
    pub fn new(settings: NodeSettings) -> Self {
        Self {
            policy: PolicyState::new(settings.policy()),
            attached: BTreeMap::new(),
            mapped: BTreeMap::new(),
            dirty_endpoints: BTreeSet::new(),
            settings,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pods_by_label: LabelIndex::default(),
            services_by_label: LabelIndex::default(),
            dirty: BTreeSet::new(),
            is_node_dirty: true,
            compiled: BTreeMap::new(),
            with_problems: BTreeSet::new(),
            dependents: BTreeMap::new(),
            health_checks: BTreeMap::new(),
            health_version: 0,
            claims: BTreeMap::new(),
            contested: BTreeSet::new(),
            election: Election::default(),
            objects: BTreeMap::new(),
            changes: Changes::new(),
        }
    }

    /// Computes again what depends on changed objects, and returns what differs since the last
    /// call.
    pub fn recompute(&mut self) -> Changes {
        let mut touched = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty) {
            self.recompute_object(&key, &mut touched);
        }
        for id in touched {
            self.settle_claims(id);
        }
        self.is_node_dirty |= self.election.settle(&self.nodes, &self.settings.name);
        if std::mem::take(&mut self.is_node_dirty) {
            let node = self.compile_node();
            self.put(DesiredKey::Node, object::Kind::Node(node));
        }
        let changes = self.policy.recompute();
        self.put_policy(changes);
        for name in std::mem::take(&mut self.dirty_endpoints) {
            self.settle_endpoint(name);
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

    /// Policy on this node.
    #[must_use]
    pub fn policy(&self) -> &PolicyState {
        &self.policy
    }

    /// To tell it of names.
    pub fn policy_mut(&mut self) -> &mut PolicyState {
        &mut self.policy
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

    /// Rises whenever [`Self::health_checks`] changes.
    #[must_use]
    pub fn health_version(&self) -> u64 {
        self.health_version
    }

    /// What load balancers ask on this node: the service and the number of its ready endpoints
    /// here, by port.
    pub fn health_checks(&self) -> impl Iterator<Item = (u16, &Name, u32)> {
        self.health_checks.iter().filter_map(|(port, services)| {
            let (name, count) = services.first_key_value()?;
            Some((*port, name, *count))
        })
    }

    /// Number of model objects by kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Pod => self.pods.len(),
            Kind::Node => self.nodes.len(),
            Kind::Namespace
            | Kind::NetworkPolicy
            | Kind::CiliumNetworkPolicy
            | Kind::CiliumClusterwideNetworkPolicy
            | Kind::CiliumCidrGroup
            | Kind::ClusterNetworkPolicy => self.policy.count(kind),
        }
    }

    fn recompute_object(&mut self, key: &ObjectKey, touched: &mut BTreeSet<FrontendId>) {
        let old = self.compiled.remove(key).unwrap_or_default();
        let (new, created) = self.compile(key).unwrap_or_default();
        for id in old.frontends.keys() {
            if let Some(claims) = self.claims.get_mut(id) {
                claims.retain(|claim| claim.object != *key);
                touched.insert(*id);
            }
        }
        let claim = Claim { has_no_age: created.is_none(), created, object: key.clone() };
        for id in new.frontends.keys() {
            self.claims.entry(*id).or_default().insert(claim.clone());
            touched.insert(*id);
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
            self.with_problems.remove(key);
        } else {
            self.with_problems.insert(key.clone());
        }
        self.replace_dependencies(key, &old, &new);
        self.election.replace(&key.name, &old.announced, &new.announced);
        if new != Compiled::default() {
            self.compiled.insert(key.clone(), new);
        }
    }

    /// Nothing where there is no such object, or it has no business here.
    fn compile(&self, key: &ObjectKey) -> Option<(Compiled, Option<String>)> {
        let nodes = Nodes { settings: &self.settings, all: &self.nodes };
        match key.kind {
            Kind::Service => {
                let service = self.services.get(&key.name)?;
                Some((self.compile_service(service, nodes), service.created.clone()))
            }
            Kind::Pod => {
                let pod = self.find_pod_with_ports(&key.name)?;
                Some((compile_host_ports(&pod, nodes), pod.created.clone()))
            }
            _ => None,
        }
    }

    fn compile_service(&self, service: &Service, nodes: Nodes<'_>) -> Compiled {
        let names = self.slices_of.get(&service.name);
        let slices: Vec<_> =
            names.into_iter().flatten().filter_map(|name| self.slices.get(name)).collect();
        let mut pods = Vec::new();
        if slices.is_empty() {
            let describe = |pod| PodInput { pod, node: self.node_of(pod) };
            pods.extend(self.select_pods(service).map(describe));
        }
        compile_service(&Inputs { service, slices, pods, nodes })
    }

    /// Name of a pod's node. A pod that no scheduler has seen is where it is attached.
    fn node_of<'a>(&'a self, pod: &'a Pod) -> Option<&'a str> {
        let is_attached = || self.attached.contains_key(&pod.name.to_string());
        match &pod.node {
            Some(node) => Some(node),
            None => is_attached().then_some(self.settings.name.as_str()),
        }
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
            .and_then(|owner| self.compiled.get(&owner.object))
            .and_then(|compiled| compiled.frontends.get(&id).cloned());
        match frontend {
            Some(frontend) => self.put(key, object::Kind::Frontend(frontend)),
            None => {
                self.claims.remove(&id);
                self.delete(key);
            }
        }
    }

    /// An endpoint is what was attached, and what policy says of it.
    fn settle_endpoint(&mut self, name: String) {
        let Some(mut endpoint) = self.attached.get(&name).cloned() else {
            return self.delete(DesiredKey::Endpoint(name));
        };
        if let Some(pod) = Name::parse(&name) {
            let policy = self.policy.endpoint(&pod);
            endpoint.identity = policy.identity.0;
            endpoint.policy_rules = policy.rules.unwrap_or_default();
            endpoint.policy_audit = policy.is_audited;
        }
        self.put(DesiredKey::Endpoint(name), object::Kind::Endpoint(endpoint));
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
