//! Manifests, compiled: every pod an endpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_tables::policy::{IdentityId, Policies, PolicyTable, PolicyView};
use weir_tables::{Prefix, Rejection};

use super::End;
use super::read::{ReadError, read_texts};
use crate::model::{Name, Node, Object, Origin, Pod, Problem, Severity};
use crate::policy::{CLUSTER_DEFAULT, Enforcement, PodClaim, PolicySettings, PolicyState};
use crate::source::ManifestStore;

/// A cluster as its manifests have it, and what its policies make of it.
pub struct Cluster {
    pub(super) pods: Vec<PodEntry>,
    pub(super) nodes: Vec<NodeEntry>,
    pub(super) owners: HashMap<IpAddr, Owner>,
    /// As everywhere but on the node itself: nodes are remote.
    pub(super) remote: PolicyView,
    /// As on each node for itself: all nodes are the host.
    pub(super) home: PolicyView,
    /// Of addresses that policies tell apart.
    pub(super) ranges: BTreeSet<(IpAddr, u8)>,
    by_name: HashMap<String, HashMap<String, u32>>,
    node_by_name: HashMap<String, u32>,
    origins: HashMap<String, Origin>,
    objects: Vec<Object>,
}

/// A node.
#[derive(Debug)]
pub(super) struct NodeEntry {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// A pod.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) name: Name,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) service_account: String,
    pub(super) addresses: Vec<IpAddr>,
    /// That it runs on, where that has an object.
    pub(super) node: Option<u32>,
    /// It has no network of its own: it is its node.
    pub(super) host: Option<HostEntry>,
    pub(super) identity: IdentityId,
    pub(super) rules: PodRules,
    pub(super) is_audited: bool,
}

/// Where a pod in its node's network is.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostEntry {
    pub(super) node: Option<u32>,
    pub(super) address: Option<IpAddr>,
}

/// What is enforced at a pod.
#[derive(Debug)]
pub(super) enum PodRules {
    /// Nothing.
    None,
    /// Denies everything.
    Closed,
    /// In the remote view and in the home view.
    Table([Arc<PolicyTable>; 2]),
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    Pod(u32),
    Node(u32),
    Service(Name),
}

impl Cluster {
    /// Reads manifests and compiles their policies; everything that is wrong with them, too.
    #[must_use]
    pub fn read(texts: &[(PathBuf, String)]) -> (Self, Vec<Problem>) {
        Self::read_with(texts, Self::settings())
    }

    /// As an agent has them by default; all nodes are alike.
    #[must_use]
    pub fn settings() -> PolicySettings {
        PolicySettings {
            enforcement: Enforcement::Default,
            cluster: CLUSTER_DEFAULT.into(),
            node: None,
            node_addresses: Vec::new(),
        }
    }

    /// As [`Self::read`], with other settings than an agent has by default.
    #[must_use]
    pub fn read_with(
        texts: &[(PathBuf, String)],
        settings: PolicySettings,
    ) -> (Self, Vec<Problem>) {
        let mut store = ManifestStore::default();
        for (path, text) in texts {
            store.put_file(path, Ok(text));
        }
        let batch = store.settle();
        let mut state = PolicyState::new(settings);
        for object in &batch.upserts {
            state.upsert(object);
            if let Object::Pod(pod) = object {
                state.set_local(&pod.name, true);
            }
        }
        let mut problems = batch.problems;
        let cluster = Self::compile(batch.upserts, &mut state, &mut problems);
        problems.extend(state.problems());
        problems.sort();
        problems.dedup();
        (cluster, problems)
    }

    /// As [`Self::read`], of a file or of all manifests below a folder.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read_path(path: &Path) -> Result<(Self, Vec<Problem>), ReadError> {
        Ok(Self::read(&read_texts(path)?))
    }

    fn compile(objects: Vec<Object>, state: &mut PolicyState, problems: &mut Vec<Problem>) -> Self {
        let mut policies = Policies::default();
        let ranges = feed(&mut policies, state, problems);
        let remote = policies.commit(1);
        // A node keeps its labels, and what else it is, with its own pods.
        state.make_nodes_own();
        feed(&mut policies, state, problems);
        let home = policies.commit(2);
        let nodes: Vec<&Node> = objects.iter().filter_map(as_node).collect();
        let mut cluster = Self {
            pods: Vec::new(),
            nodes: Vec::new(),
            owners: HashMap::new(),
            remote,
            home,
            ranges,
            by_name: HashMap::new(),
            node_by_name: HashMap::new(),
            origins: objects.iter().filter_map(locate_policy).collect(),
            objects: Vec::new(),
        };
        cluster.add_nodes(&nodes);
        for pod in objects.iter().filter_map(as_pod) {
            cluster.add_pod(pod, state);
        }
        cluster.claim_addresses(objects.iter().filter_map(as_pod).collect());
        cluster.add_services(&objects);
        cluster.objects = objects;
        cluster
    }

    fn add_nodes(&mut self, nodes: &[&Node]) {
        for (node, index) in nodes.iter().zip(0..) {
            let name = node.name.name.clone();
            self.node_by_name.insert(name.clone(), index);
            self.nodes.push(NodeEntry { name, addresses: node.addresses.clone() });
            for address in &node.addresses {
                self.owners.entry(*address).or_insert(Owner::Node(index));
            }
        }
    }

    fn add_pod(&mut self, pod: &Pod, state: &PolicyState) {
        let node = pod.node.as_ref().and_then(|it| self.node_by_name.get(it)).copied();
        let host = pod.is_host_network.then(|| {
            let of_node = node.and_then(|it| self.nodes[it as usize].addresses.first());
            HostEntry { node, address: pod.addresses.first().or(of_node).copied() }
        });
        let index = u32::try_from(self.pods.len()).expect("a manifest is shorter than 4 GB");
        let policy = state.endpoint(&pod.name);
        let rules = match &policy.rules {
            None => PodRules::None,
            Some(name) => match (self.remote.table(name), self.home.table(name)) {
                (Some(remote), Some(home)) => PodRules::Table([remote.clone(), home.clone()]),
                _ => PodRules::Closed,
            },
        };
        self.pods.push(PodEntry {
            name: pod.name.clone(),
            labels: pod.labels.clone(),
            service_account: pod.service_account.clone(),
            addresses: pod.addresses.clone(),
            node,
            host,
            identity: policy.identity,
            rules,
            is_audited: policy.is_audited,
        });
        let namespace = self.by_name.entry(pod.name.namespace.clone()).or_default();
        namespace.insert(pod.name.name.clone(), index);
    }

    /// Of several pods with the same address, the one has it that a node would believe.
    fn claim_addresses(&mut self, mut pods: Vec<&Pod>) {
        pods.retain(|it| !it.is_host_network);
        pods.sort_by_cached_key(|it| PodClaim::from(*it));
        for pod in pods {
            let Some(index) = self.find_pod(&pod.name.namespace, &pod.name.name) else { continue };
            for address in &pod.addresses {
                self.owners.entry(*address).or_insert(Owner::Pod(index));
            }
        }
    }

    fn add_services(&mut self, objects: &[Object]) {
        for object in objects {
            let Object::Service(service) = object else { continue };
            let outside = service.load_balancer_ips.iter().chain(&service.external_ips);
            for address in service.cluster_ips.iter().chain(outside) {
                let owner = Owner::Service(service.name.clone());
                self.owners.entry(*address).or_insert(owner);
            }
        }
    }

    pub(super) fn find_pod(&self, namespace: &str, name: &str) -> Option<u32> {
        self.by_name.get(namespace)?.get(name).copied()
    }

    pub(super) fn find_node(&self, name: &str) -> Option<&NodeEntry> {
        self.node_by_name.get(name).map(|it| &self.nodes[*it as usize])
    }

    /// Addresses of a service's backends, of the family of this one.
    pub(super) fn list_backends(&self, service: &Name, like: IpAddr) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        for object in &self.objects {
            match object {
                Object::Slice(slice) if slice.service == *service => {
                    found.extend(slice.endpoints.iter().map(|it| it.address));
                }
                Object::Service(it) if it.name == *service && !it.selector.is_empty() => {
                    let pods = self.pods.iter().filter(|pod| {
                        let mut wanted = it.selector.iter();
                        pod.name.namespace == service.namespace
                            && wanted.all(|(key, value)| pod.labels.get(key) == Some(value))
                    });
                    found.extend(pods.flat_map(|pod| &pod.addresses));
                }
                _ => {}
            }
        }
        found.retain(|it| it.is_ipv4() == like.is_ipv4());
        found.sort();
        found.dedup();
        found
    }

    /// The pod or the node that an end is, if it is known.
    #[must_use]
    pub fn find_owner(&self, end: &End) -> Option<String> {
        let address = match end {
            End::Pod(name) => return Some(name.to_string()),
            End::Address(address) => address.to_canonical(),
        };
        match self.owners.get(&address)? {
            Owner::Pod(pod) => Some(self.pods[*pod as usize].name.to_string()),
            Owner::Node(node) => Some(format!("node {}", self.nodes[*node as usize].name)),
            Owner::Service(_) => None,
        }
    }

    /// Where the object of a rule, or of a part of one that names a default deny, was read.
    #[must_use]
    pub fn locate(&self, rule: &str) -> Option<&Origin> {
        let object = rule.split_once(": ").map_or(rule, |(object, _)| object);
        self.origins.get(object)
    }
}

fn as_node(object: &Object) -> Option<&Node> {
    match object {
        Object::Node(node) => Some(node),
        _ => None,
    }
}

fn as_pod(object: &Object) -> Option<&Pod> {
    match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

fn locate_policy(object: &Object) -> Option<(String, Origin)> {
    match object {
        Object::Policy(policy) => Some((policy.key.to_string(), policy.origin.clone()?)),
        _ => None,
    }
}

/// Gives the dataplane's tables what a node would; returns the ranges of addresses in it.
fn feed(
    policies: &mut Policies,
    state: &mut PolicyState,
    problems: &mut Vec<Problem>,
) -> BTreeSet<(IpAddr, u8)> {
    let changes = state.recompute();
    let mut ranges = BTreeSet::new();
    let mut note = |prefix: &Prefix| ranges.insert((IpAddr::from(prefix.addr()), prefix.length()));
    let mut check = |object: String, result: Result<(), Rejection>| {
        if let Err(error) = result {
            problems.push(refuse(object, &error));
        }
    };
    for (id, identity) in changes.identities {
        let Some(identity) = identity else { continue };
        check(format!("identity {}", id.0), policies.upsert_identity(identity));
    }
    for (prefix, identity) in changes.addresses {
        let Some(identity) = identity else { continue };
        if !prefix.is_single() || identity.is_world() {
            note(&prefix);
        }
        check(format!("address {prefix}"), policies.upsert_address(prefix, identity));
    }
    for selector in changes.selectors.into_values().flatten() {
        for prefix in selector.prefixes.iter().chain(&selector.except) {
            note(prefix);
        }
        check("a range of addresses".into(), policies.upsert_cidr(selector));
    }
    for (name, rules) in changes.rules {
        let Some(rules) = rules else { continue };
        check(format!("rules {name}"), policies.upsert_rules(rules));
    }
    ranges
}

fn refuse(object: String, error: &Rejection) -> Problem {
    let reason = error.to_string();
    Problem { location: None, object, reason, severity: Severity::Refused }
}
