//! Who is compared: pods of both versions, their nodes, and what is outside. Those that all rules
//! treat alike, in both versions, are one group.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use weir_tables::policy::{L4Protocol, Peer, PolicyView};

use super::halves::{ClassId, Halves, TablesId};
use super::ranges::{Region, list_regions};
use crate::model::Family;
use crate::offline::cluster::{Cluster, PodEntry};

/// Who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unit {
    /// By number in the version that has it; in the new one, if both have.
    Pod { is_old: bool, pod: u32 },
    /// By name.
    Node(String),
    /// Outside the cluster.
    Outside(Region),
}

/// By which addresses two ends talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Face {
    V4,
    V6,
    /// No address is known.
    Any,
}

impl Face {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }

    /// Of a connection between two faces, if there can be one.
    pub(super) fn meet(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, face) | (face, Self::Any) => Some(face),
            (a, b) => (a == b).then_some(a),
        }
    }

    pub(super) fn has(self, protocol: L4Protocol) -> bool {
        match protocol {
            L4Protocol::Icmp => self != Self::V6,
            L4Protocol::Icmpv6 => self != Self::V4,
            _ => true,
        }
    }
}

/// What rules can tell of a unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Traits {
    /// `None`: it is no endpoint.
    pub(super) tables: Option<TablesId>,
    pub(super) faces: Vec<(Face, ClassId)>,
    /// Its own node, as it sees it.
    pub(super) home: Vec<(Face, ClassId)>,
}

/// Units that are alike.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) traits: Traits,
    /// Numbers in [`Units::all`].
    pub(super) units: Vec<u32>,
}

/// All units of both versions.
pub(super) struct Units {
    pub(super) all: Vec<Unit>,
    /// The node of each unit, as a number in the new version, if it has the same in both.
    node_of: Vec<Option<u32>>,
    pub(super) groups: Vec<Group>,
    pub(super) only_old: Vec<String>,
    pub(super) only_new: Vec<String>,
}

struct Builder<'a, 'h> {
    old: &'a Cluster,
    new: &'a Cluster,
    halves: &'h mut Halves<'a>,
    all: Vec<Unit>,
    node_of: Vec<Option<u32>>,
    groups: Vec<Group>,
    by_traits: HashMap<Traits, usize>,
    /// Of addresses that pods have and policies are about.
    families: Vec<Family>,
}

impl Units {
    pub(super) fn new<'a>(old: &'a Cluster, new: &'a Cluster, halves: &mut Halves<'a>) -> Self {
        let mut builder = Builder {
            old,
            new,
            halves,
            all: Vec::new(),
            node_of: Vec::new(),
            groups: Vec::new(),
            by_traits: HashMap::new(),
            families: Vec::new(),
        };
        let pods = pair_pods(old, new);
        for (old_pod, new_pod) in &pods.both {
            builder.add_pod(*old_pod, *new_pod);
        }
        builder.add_nodes();
        builder.add_outside();
        let Builder { all, node_of, groups, .. } = builder;
        let name = |cluster: &Cluster, pods: Vec<u32>| {
            pods.into_iter().map(|pod| cluster.pods[pod as usize].name.to_string()).collect()
        };
        let (only_old, only_new) = (name(old, pods.only_old), name(new, pods.only_new));
        Self { all, node_of, groups, only_old, only_new }
    }

    /// Whether `from` is one node, and all of `to` run on it.
    pub(super) fn is_node_of_all(&self, from: &Group, to: &Group) -> bool {
        let [node] = from.units.as_slice() else { return false };
        let is_node = matches!(self.all[*node as usize], Unit::Node(_));
        let node = self.node_of[*node as usize];
        is_node && to.units.iter().all(|unit| self.node_of[*unit as usize] == node)
    }
}

impl<'a> Builder<'a, '_> {
    fn add(&mut self, unit: Unit, node: Option<u32>, traits: Traits) {
        let number = u32::try_from(self.all.len()).expect("manifests are shorter than 4 GB");
        self.all.push(unit);
        self.node_of.push(node);
        let next = self.groups.len();
        let at = *self.by_traits.entry(traits.clone()).or_insert(next);
        if at == next {
            self.groups.push(Group { traits, units: Vec::new() });
        }
        self.groups[at].units.push(number);
    }

    fn add_pod(&mut self, old_pod: (u32, bool), new_pod: (u32, bool)) {
        let (old, new) = (&self.old.pods[old_pod.0 as usize], &self.new.pods[new_pod.0 as usize]);
        let tables = self.halves.add_tables(&old.rules, &new.rules);
        let faces = self.faces(old, new);
        let home = match (old.node, new.node) {
            (Some(old), Some(new)) => {
                let old = &self.old.nodes[old as usize].addresses;
                let new = &self.new.nodes[new as usize].addresses;
                self.faces_of(old, new, true)
            }
            _ => Vec::new(),
        };
        let unit = match new_pod {
            (pod, true) => Unit::Pod { is_old: false, pod },
            (_, false) => Unit::Pod { is_old: true, pod: old_pod.0 },
        };
        let node_name = |cluster: &'a Cluster, node: Option<u32>| {
            node.map(|it| cluster.nodes[it as usize].name.as_str())
        };
        let is_same = node_name(self.old, old.node) == node_name(self.new, new.node);
        let node = new.node.filter(|_| is_same);
        self.add(unit, node, Traits { tables: Some(tables), faces, home });
    }

    fn faces(&mut self, old: &PodEntry, new: &PodEntry) -> Vec<(Face, ClassId)> {
        let faces = self.faces_of(&old.addresses, &new.addresses, false);
        if !faces.is_empty() {
            return faces;
        }
        let (old, new) =
            (self.old.remote.peer_of(old.identity), self.new.remote.peer_of(new.identity));
        vec![(Face::Any, self.halves.add_class(old, new, false))]
    }

    /// By the first address of each family that both versions have.
    fn faces_of(&mut self, old: &[IpAddr], new: &[IpAddr], is_home: bool) -> Vec<(Face, ClassId)> {
        let mut faces = Vec::new();
        for family in Family::ALL {
            let first = |list: &[IpAddr]| list.iter().copied().find(|it| Family::of(*it) == family);
            let (Some(old), Some(new)) = (first(old), first(new)) else { continue };
            if !is_home {
                self.note_family(family);
            }
            let peer = |cluster: &Cluster, address: IpAddr| -> Peer {
                let view: &PolicyView = if is_home { &cluster.home } else { &cluster.remote };
                view.peer(&address.into())
            };
            let (old, new) = (peer(self.old, old), peer(self.new, new));
            faces.push((Face::of(family), self.halves.add_class(old, new, is_home)));
        }
        faces
    }

    fn note_family(&mut self, family: Family) {
        if !self.families.contains(&family) {
            self.families.push(family);
        }
    }

    fn add_nodes(&mut self) {
        for (node, number) in self.new.nodes.iter().zip(0..) {
            let Some(old) = self.old.find_node(&node.name) else { continue };
            let faces = self.faces_of(&old.addresses, &node.addresses, false);
            if !faces.is_empty() {
                let traits = Traits { tables: None, faces, home: Vec::new() };
                self.add(Unit::Node(node.name.clone()), Some(number), traits);
            }
        }
    }

    fn add_outside(&mut self) {
        let (old, new) = (self.old, self.new);
        for (address, _) in old.ranges.iter().chain(&new.ranges) {
            self.note_family(Family::of(*address));
        }
        if self.families.is_empty() {
            self.families.push(Family::V4);
        }
        let ranges = old.ranges.iter().chain(&new.ranges).copied();
        let is_taken = |it: IpAddr| old.owners.contains_key(&it) || new.owners.contains_key(&it);
        for region in list_regions(ranges, &self.families, is_taken) {
            let address = region.address.into();
            let class =
                self.halves.add_class(old.remote.peer(&address), new.remote.peer(&address), false);
            let faces = vec![(Face::of(Family::of(region.address)), class)];
            let traits = Traits { tables: None, faces, home: Vec::new() };
            self.add(Unit::Outside(region), None, traits);
        }
    }
}

struct PodPairs {
    /// Each with whether it has this unit's name.
    both: Vec<((u32, bool), (u32, bool))>,
    only_old: Vec<u32>,
    only_new: Vec<u32>,
}

/// Pods of one name are one; so is a pod without a namesake and any with the same labels: replicas
/// come and go under new names.
fn pair_pods(old: &Cluster, new: &Cluster) -> PodPairs {
    let mut pairs = PodPairs { both: Vec::new(), only_old: Vec::new(), only_new: Vec::new() };
    let (old_by_labels, new_by_labels) = (index_labels(old), index_labels(new));
    for (pod, number) in list_endpoints(new) {
        let namesake = old.find_pod(&pod.name.namespace, &pod.name.name);
        let namesake = namesake.filter(|it| old.pods[*it as usize].host.is_none());
        match namesake.or_else(|| old_by_labels.get(&workload(pod)).copied()) {
            Some(old) => pairs.both.push(((old, namesake.is_some()), (number, true))),
            None => pairs.only_new.push(number),
        }
    }
    for (pod, number) in list_endpoints(old) {
        if new.find_pod(&pod.name.namespace, &pod.name.name).is_some() {
            continue;
        }
        match new_by_labels.get(&workload(pod)) {
            Some(new) => pairs.both.push(((number, true), (*new, false))),
            None => pairs.only_old.push(number),
        }
    }
    pairs
}

fn list_endpoints(cluster: &Cluster) -> impl Iterator<Item = (&PodEntry, u32)> {
    cluster.pods.iter().zip(0..).filter(|(pod, _)| pod.host.is_none())
}

/// What identities are made of.
type Workload<'a> = (&'a str, &'a BTreeMap<String, String>, &'a str);

fn workload(pod: &PodEntry) -> Workload<'_> {
    (&pod.name.namespace, &pod.labels, &pod.service_account)
}

fn index_labels(cluster: &Cluster) -> HashMap<Workload<'_>, u32> {
    let pods = list_endpoints(cluster);
    // The first of several stays.
    let mut found = HashMap::new();
    for (pod, number) in pods {
        found.entry(workload(pod)).or_insert(number);
    }
    found
}
