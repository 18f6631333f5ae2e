//! Many pods, nodes and ranges in few words.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Party;
use super::ranges::Region;
use super::units::{Unit, Units};
use crate::model::Family;
use crate::offline::cluster::{Cluster, PodEntry};

/// As many names are written out.
const NAMES_MAX: usize = 3;
/// As many namespaces or ranges are.
const PARTS_MAX: usize = 5;
/// The node of whoever is at the other end.
const OWN_NODE: &str = "its own node";
/// Everybody outside.
const WORLD: &str = "world";
/// Labels that people think of first.
const COMMON_LABELS: [&str; 5] =
    ["app", "app.kubernetes.io/name", "k8s-app", "name", "app.kubernetes.io/component"];

/// What there is, to say how much of it something is.
pub(super) struct Names<'a> {
    units: &'a Units,
    old: &'a Cluster,
    new: &'a Cluster,
    /// Pods by namespace.
    pods: BTreeMap<&'a str, Vec<&'a PodEntry>>,
    /// Numbers of pods by namespace, label and value.
    labelled: HashMap<[&'a str; 3], usize>,
    nodes: usize,
    /// Numbers of outside ranges by family.
    regions: BTreeMap<Family, usize>,
}

/// Some of all units.
#[derive(Default)]
struct Selection<'a> {
    /// By namespace.
    pods: BTreeMap<&'a str, Vec<&'a PodEntry>>,
    nodes: Vec<&'a str>,
    regions: Vec<&'a Region>,
    /// All of them by name.
    members: Vec<String>,
}

impl<'a> Names<'a> {
    pub(super) fn new(old: &'a Cluster, new: &'a Cluster, units: &'a Units) -> Self {
        let mut names = Self {
            units,
            old,
            new,
            pods: BTreeMap::new(),
            labelled: HashMap::new(),
            nodes: 0,
            regions: BTreeMap::new(),
        };
        for unit in &units.all {
            match unit {
                Unit::Pod { is_old, pod } => {
                    let pod = &(if *is_old { old } else { new }).pods[*pod as usize];
                    let namespace = pod.name.namespace.as_str();
                    names.pods.entry(namespace).or_default().push(pod);
                    for (key, value) in &pod.labels {
                        *names.labelled.entry([namespace, key, value]).or_default() += 1;
                    }
                }
                Unit::Node(_) => names.nodes += 1,
                Unit::Outside(region) => {
                    *names.regions.entry(Family::of(region.address)).or_default() += 1;
                }
            }
        }
        names
    }

    /// Names units by their numbers; `own_node`: and the node of whoever is at the other end.
    pub(super) fn describe(&self, units: &BTreeSet<u32>, own_node: bool) -> Party {
        let selection = self.select(units);
        let mut text = self.describe_selection(&selection);
        if units.len() * 2 > self.units.all.len() {
            let all = 0..self.units.all.len() as u32;
            let others: BTreeSet<u32> = all.filter(|it| !units.contains(it)).collect();
            let others = self.describe_selection(&self.select(&others));
            let inverse = match others.as_str() {
                "" => "anybody".to_owned(),
                others => format!("anybody but {others}"),
            };
            if inverse.len() <= text.len() {
                text = inverse;
            }
        }
        let mut members = selection.members;
        members.sort();
        if own_node {
            members.push("own node".into());
            text = if text.is_empty() { OWN_NODE.into() } else { format!("{OWN_NODE}, {text}") };
        }
        Party { text, members }
    }

    fn select(&self, units: &BTreeSet<u32>) -> Selection<'a> {
        let mut selection = Selection::default();
        for unit in units {
            let member = match &self.units.all[*unit as usize] {
                Unit::Pod { is_old, pod } => {
                    let pod = &(if *is_old { self.old } else { self.new }).pods[*pod as usize];
                    selection.pods.entry(&pod.name.namespace).or_default().push(pod);
                    pod.name.to_string()
                }
                Unit::Node(name) => {
                    selection.nodes.push(name);
                    format!("node {name}")
                }
                Unit::Outside(region) => {
                    selection.regions.push(region);
                    region.cidr.to_string()
                }
            };
            selection.members.push(member);
        }
        selection
    }

    fn describe_selection(&self, selection: &Selection<'a>) -> String {
        let Selection { pods, nodes, regions, .. } = selection;
        let mut parts = self.describe_pods(pods);
        match nodes.len() {
            0 => {}
            count if count == self.nodes => parts.push("nodes".into()),
            1..=NAMES_MAX => parts.extend(nodes.iter().map(|it| format!("node {it}"))),
            count => parts.push(format!("{count} nodes")),
        }
        parts.extend(self.describe_outside(regions));
        parts.join(", ")
    }

    fn describe_pods(&self, chosen: &BTreeMap<&str, Vec<&PodEntry>>) -> Vec<String> {
        let is_whole = |(namespace, pods): &(&&str, &Vec<&PodEntry>)| {
            pods.len() == self.pods[**namespace].len()
        };
        let whole: Vec<&str> = chosen.iter().filter(is_whole).map(|(it, _)| *it).collect();
        let others: Vec<&str> =
            self.pods.keys().filter(|it| !chosen.contains_key(**it)).copied().collect();
        if whole.len() == self.pods.len() && !whole.is_empty() {
            return vec!["all pods".into()];
        }
        let is_most = whole.len() == chosen.len() && others.len() <= 2;
        if is_most && whole.len() > NAMES_MAX {
            return vec![format!("all pods but those of {}", others.join(", "))];
        }
        let mut parts = shorten(whole.iter().map(|it| format!("{it}/*")).collect(), "namespaces");
        let some: Vec<String> = chosen
            .iter()
            .filter(|it| !is_whole(it))
            .flat_map(|(namespace, pods)| self.describe_some(namespace, pods))
            .collect();
        parts.extend(shorten(some, "workloads"));
        parts
    }

    fn describe_outside(&self, chosen: &[&Region]) -> Vec<String> {
        let is_whole = |family: Family| {
            let count = chosen.iter().filter(|it| Family::of(it.address) == family).count();
            self.regions.get(&family) == Some(&count)
        };
        if !chosen.is_empty() && self.regions.keys().all(|family| is_whole(*family)) {
            return vec![WORLD.into()];
        }
        let whole: Vec<Family> = Family::ALL.into_iter().filter(|it| is_whole(*it)).collect();
        let some = chosen.iter().filter(|it| !whole.contains(&Family::of(it.address)));
        let some = some.map(|it| match it.is_rest {
            true => format!("rest of the {} world", name_family(Family::of(it.address))),
            false => it.cidr.to_string(),
        });
        let some = shorten(some.collect(), "ranges");
        whole.iter().map(|it| format!("{} world", name_family(*it))).chain(some).collect()
    }

    /// Some, but not all pods of a namespace.
    fn describe_some(&self, namespace: &str, chosen: &[&PodEntry]) -> Vec<String> {
        let count = chosen.len();
        let all = &self.pods[namespace];
        if count <= NAMES_MAX {
            return chosen.iter().map(|it| it.name.to_string()).collect();
        }
        let common: Vec<(&str, &str)> = chosen[0]
            .labels
            .iter()
            .filter(|(key, value)| chosen.iter().all(|it| it.labels.get(*key) == Some(value)))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        if let Some(label) = self.find_label(namespace, count, &common) {
            return vec![format!("{namespace}/{label} ({count} pods)")];
        }
        let has_all = |pod: &&&PodEntry| {
            common.iter().all(|(key, value)| pod.labels.get(*key).is_some_and(|it| it == value))
        };
        if !common.is_empty() && all.iter().filter(has_all).count() == count {
            let labels: Vec<String> = common.iter().map(|(k, v)| format!("{k}={v}")).collect();
            return vec![format!("{namespace}/{} ({count} pods)", labels.join(","))];
        }
        if let Some(values) = self.find_values(namespace, chosen) {
            return vec![format!("{namespace}/{values} ({count} pods)")];
        }
        if all.len() - count <= NAMES_MAX {
            let chosen: BTreeSet<&str> = chosen.iter().map(|it| it.name.name.as_str()).collect();
            let others = all.iter().filter(|it| !chosen.contains(it.name.name.as_str()));
            let others: Vec<&str> = others.map(|it| it.name.name.as_str()).collect();
            return vec![format!("{namespace}/* but {}", others.join(", "))];
        }
        let mut names: Vec<String> =
            chosen.iter().take(NAMES_MAX).map(|it| it.name.to_string()).collect();
        names.push(format!("{} more of {namespace}", count - NAMES_MAX));
        names
    }

    /// A label that so many pods have, and no others.
    fn find_label(&self, namespace: &str, count: usize, common: &[(&str, &str)]) -> Option<String> {
        let mut fitting: Vec<_> = common
            .iter()
            .filter(|(key, value)| self.labelled.get(&[namespace, key, value]) == Some(&count))
            .collect();
        fitting.sort_by_key(|(key, _)| rank_label(key));
        fitting.first().map(|(key, value)| format!("{key}={value}"))
    }

    /// A label with a few values that all these pods have, and no others.
    fn find_values(&self, namespace: &str, chosen: &[&PodEntry]) -> Option<String> {
        let mut keys: Vec<&str> = chosen[0].labels.keys().map(String::as_str).collect();
        keys.sort_by_key(|key| rank_label(key));
        keys.into_iter().find_map(|key| {
            let values: Option<BTreeSet<&str>> =
                chosen.iter().map(|it| it.labels.get(key).map(String::as_str)).collect();
            let values = values.filter(|it| it.len() <= PARTS_MAX)?;
            let having = values.iter().map(|it| self.labelled.get(&[namespace, key, it]));
            let having: usize = having.flatten().sum();
            let values: Vec<&str> = values.into_iter().collect();
            (having == chosen.len()).then(|| format!("{key} in ({})", values.join(",")))
        })
    }
}

fn name_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn rank_label(key: &str) -> (usize, &str) {
    let common = COMMON_LABELS.iter().position(|it| *it == key);
    (common.unwrap_or(COMMON_LABELS.len()), key)
}

/// The first of many, and how many more there are.
fn shorten(mut names: Vec<String>, what: &str) -> Vec<String> {
    if names.len() > PARTS_MAX {
        let more = names.len() - (PARTS_MAX - 1);
        names.truncate(PARTS_MAX - 1);
        names.push(format!("{more} more {what}"));
    }
    names
}
