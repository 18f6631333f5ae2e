//! From policies, namespaces, pods and nodes to what the dataplane knows of policy.
//!
//! ```text
//!  Pod, Namespace, Node ─► labels ─► identities ◄─matches─► selectors ◄─ specs in force
//!                 └─ addresses ─► PeerAddress       └─ Identity rows       └─► PolicyRules rows
//! ```
//!
//! Pure and incremental: the result depends on the objects only, never on the order in which they
//! came (numbers do), and one changed object costs work in proportion to what follows from it.
//! A policy that selects no local endpoint costs nothing but its memory.

mod addresses;
mod change;
mod compile;
mod fqdn;
mod identities;
mod index;
mod labels;
mod names;
mod objects;
mod peers;
mod pods;
mod problems;
mod resolve;
mod selectors;
mod specs;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_tables::policy as rows;

pub(crate) use addresses::PodClaim;
pub use change::PolicyChanges;
pub use fqdn::NameLimits;
use index::{LabelIndex, Labels, SelectorIndex};
use names::Names;
use objects::Objects;
use peers::Peers;
use pods::{AppliedPod, HeldAddresses};
use specs::{Local, SpecEntry, SpecId};
use tables::Tables;

use crate::model::{Name, ObjectKey, Origin, Policy};

/// What is known of policy without asking the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// Whom default deny is about.
    pub enforcement: Enforcement,
    /// Name of this cluster, a label of every pod.
    pub cluster: String,
    /// Name of this node; `None` where all nodes are alike, as offline.
    pub node: Option<String>,
    /// Addresses of this node, beside those of its Node object.
    pub node_addresses: Vec<IpAddr>,
}

/// Name of a cluster that has been given none.
pub const CLUSTER_DEFAULT: &str = "default";

/// `--enable-policy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Enforcement {
    /// Endpoints that a policy selects are isolated, in the directions that it is about.
    #[default]
    Default,
    /// All endpoints are isolated in both directions.
    Always,
    /// No policy is enforced.
    Never,
}

/// What an endpoint has to do with policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Number of its labels.
    pub identity: rows::IdentityId,
    /// Name of its rules; `None`: everything is allowed.
    pub rules: Option<String>,
    /// What its rules deny passes, and is reported.
    pub is_audited: bool,
}

/// Policy state of a node (or, offline, of all pods of a cluster at once).
#[derive(Debug)]
pub struct PolicyState {
    settings: PolicySettings,
    objects: Objects,
    peers: Peers,
    names: Names,

    applied_pods: BTreeMap<Name, AppliedPod>,
    /// Pods by the names of their ports.
    pods_by_port: BTreeMap<String, BTreeSet<Name>>,
    held: HeldAddresses,
    /// Every node is as it is to its own pods, and not to those of others.
    are_nodes_own: bool,

    policies: BTreeMap<ObjectKey, PolicyEntry>,
    specs: BTreeMap<SpecId, SpecEntry>,
    next_spec: u32,
    specs_by_subject: SelectorIndex<SpecId>,
    /// Specs in force that depend on names of their peers' ports, by these names.
    specs_by_port: BTreeMap<String, BTreeSet<SpecId>>,
    /// Specs in force that depend on services.
    specs_by_service: BTreeSet<SpecId>,

    /// Local endpoints, with the addresses that they were attached with.
    wanted: BTreeMap<Name, Vec<IpAddr>>,
    locals: BTreeMap<Name, Local>,
    locals_by_label: LabelIndex<Name>,
    tables: Tables,

    /// Policies that have problems, or will have if groups go.
    policies_with_problems: BTreeSet<ObjectKey>,
    /// Pods that found no number, by the labels that need one.
    pods_without_number: BTreeMap<Labels, BTreeSet<Name>>,
    dirty: Dirty,
    changed_endpoints: BTreeSet<Name>,
}

/// A policy as it was last applied.
#[derive(Debug, Default)]
struct PolicyEntry {
    origin: Option<Origin>,
    specs: Vec<SpecId>,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    pods: BTreeSet<Name>,
    nodes: BTreeSet<String>,
    all_nodes: bool,
    groups: bool,
    policies: BTreeMap<ObjectKey, Option<Policy>>,
    specs: BTreeSet<SpecId>,
    /// Endpoints whose labels may have changed.
    locals: BTreeSet<Name>,
    /// Endpoints whose rules may be others.
    rules: BTreeSet<Name>,
}

impl PolicyState {
    /// Of a node in an empty cluster.
    #[must_use]
    pub fn new(settings: PolicySettings) -> Self {
        Self {
            settings,
            objects: Objects::default(),
            peers: Peers::default(),
            names: Names::default(),
            applied_pods: BTreeMap::new(),
            pods_by_port: BTreeMap::new(),
            held: HeldAddresses::default(),
            are_nodes_own: false,
            policies: BTreeMap::new(),
            specs: BTreeMap::new(),
            next_spec: 0,
            specs_by_subject: SelectorIndex::default(),
            specs_by_port: BTreeMap::new(),
            specs_by_service: BTreeSet::new(),
            wanted: BTreeMap::new(),
            locals: BTreeMap::new(),
            locals_by_label: LabelIndex::default(),
            tables: Tables::default(),
            policies_with_problems: BTreeSet::new(),
            pods_without_number: BTreeMap::new(),
            dirty: Dirty { all_nodes: true, ..Dirty::default() },
            changed_endpoints: BTreeSet::new(),
        }
    }

    /// From now on every node is to all pods what it is to its own: offline, where the same rules
    /// answer for pods of all nodes.
    pub fn make_nodes_own(&mut self) {
        self.are_nodes_own = true;
        self.dirty.all_nodes = true;
    }

    /// Rules are made for local pods only.
    pub fn set_local(&mut self, pod: &Name, is_local: bool) {
        self.attach(pod, is_local.then(Vec::new));
    }

    /// A local pod and the addresses that it was attached with, which count also before its object
    /// has them; `None`: it is not local any more.
    pub fn attach(&mut self, pod: &Name, addresses: Option<Vec<IpAddr>>) {
        match addresses {
            Some(addresses) => drop(self.wanted.insert(pod.clone(), addresses)),
            None => {
                self.wanted.remove(pod);
                self.names.forget_pod(pod);
            }
        }
        self.dirty.locals.insert(pod.clone());
    }

    /// Computes again what depends on what has changed, and returns what differs since the last
    /// call.
    pub fn recompute(&mut self) -> PolicyChanges {
        // Each round ends what the one before began: a new policy may ask for labels that
        // identities did not have until then.
        while self.recompute_round() {}
        self.recompute_tables();
        self.take_changes()
    }

    /// Whether there was anything to do.
    fn recompute_round(&mut self) -> bool {
        let mut is_busy = self.apply_policies();
        is_busy |= self.apply_pods();
        is_busy |= self.apply_nodes();
        is_busy |= self.apply_locals();
        is_busy |= self.apply_specs();
        is_busy |= self.apply_selectors();
        is_busy |= self.apply_names();
        if !is_busy && let Some(freed) = self.peers.collect_idle() {
            self.retry_pods(freed);
            is_busy = true;
        }
        is_busy | self.take_selector_news()
    }

    /// What a local endpoint has to do with policy, as of the last [`Self::recompute`].
    #[must_use]
    pub fn endpoint(&self, pod: &Name) -> EndpointPolicy {
        if let Some(local) = self.locals.get(pod) {
            return local.policy.clone();
        }
        let is_host = self.objects.pods.get(pod).is_some_and(|it| it.is_host_network);
        let identity = if is_host { rows::IdentityId::HOST } else { identities::INIT };
        EndpointPolicy { identity, rules: None, is_audited: false }
    }

    /// The identity of a pod, local or not.
    #[must_use]
    pub fn identity_of(&self, pod: &Name) -> Option<rows::IdentityId> {
        self.applied_pods.get(pod).and_then(|it| it.identity)
    }
}

#[cfg(test)]
mod tests;
