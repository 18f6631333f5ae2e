//! Identities: numbered sets of security labels, counted by those who have them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use weir_tables::policy::{Identity, IdentityId, SelectorId};

use super::index::{LabelIndex, Labels, Numbers};
use crate::model::IdentitySelector;

/// The labels of each reserved identity.
const RESERVED: [(u32, &[&str]); 9] = [
    (1, &["reserved:host"]),
    (3, &["reserved:unmanaged"]),
    (4, &["reserved:health"]),
    (5, &["reserved:init"]),
    (6, &["reserved:remote-node"]),
    (7, &["reserved:kube-apiserver", "reserved:remote-node"]),
    (8, &["reserved:ingress"]),
    (9, &["reserved:world", "reserved:world-ipv4"]),
    (10, &["reserved:world", "reserved:world-ipv6"]),
];

/// Of the identities of pods.
const POD_NUMBERS: RangeInclusive<u32> = 256..=65_535;

/// Endpoints whose labels are not known.
pub(super) const INIT: IdentityId = IdentityId(5);

/// Which numbers an identity has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Of pods: 256 to 65535.
    Pod,
    /// Of what is outside the cluster.
    World,
    /// Of nodes whose labels policies ask for.
    Node,
}

/// All identities in use.
#[derive(Debug)]
pub(super) struct Identities {
    entries: BTreeMap<IdentityId, Entry>,
    by_labels: BTreeMap<Arc<Labels>, IdentityId>,
    by_label: LabelIndex<IdentityId>,
    pods: Numbers,
    world: Numbers,
    nodes: Numbers,
    /// That nobody has any more.
    idle: BTreeSet<IdentityId>,
    /// That the dataplane has to be told of.
    changed: BTreeSet<IdentityId>,
}

#[derive(Debug)]
struct Entry {
    labels: Arc<Labels>,
    selectors: BTreeSet<SelectorId>,
    users: u32,
}

impl Default for Identities {
    fn default() -> Self {
        let mut all = Self {
            entries: BTreeMap::new(),
            by_labels: BTreeMap::new(),
            by_label: LabelIndex::default(),
            pods: Numbers::new(*POD_NUMBERS.start(), *POD_NUMBERS.end()),
            world: Numbers::new(IdentityId::LOCAL_MIN.0, IdentityId::LOCAL_MAX.0),
            nodes: Numbers::new(0x0200_0000, 0x02ff_ffff),
            idle: BTreeSet::new(),
            changed: BTreeSet::new(),
        };
        for (number, labels) in RESERVED {
            let labels = labels.iter().map(|it| ((*it).to_owned(), String::new())).collect();
            all.insert(IdentityId(number), Arc::new(labels));
        }
        all
    }
}

impl Identities {
    /// The identity with these labels, for one more user, and whether it is new: then selectors
    /// must be told.
    ///
    /// # Errors
    /// The labels, where there is no number left.
    pub(super) fn acquire(
        &mut self,
        labels: Labels,
        scope: Scope,
    ) -> Result<(IdentityId, bool), Labels> {
        if let Some(id) = self.by_labels.get(&labels) {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.users += 1;
                self.idle.remove(id);
            }
            return Ok((*id, false));
        }
        let number = match scope {
            Scope::Pod => self.pods.take(),
            Scope::World => self.world.take(),
            Scope::Node => self.nodes.take(),
        };
        let Some(id) = number.map(IdentityId) else { return Err(labels) };
        self.insert(id, Arc::new(labels));
        Ok((id, true))
    }

    /// Leaves only this many numbers for pods.
    #[cfg(test)]
    pub(super) fn limit_pods(&mut self, count: u32) {
        self.pods = Numbers::new(256, 255 + count);
    }

    fn insert(&mut self, id: IdentityId, labels: Arc<Labels>) {
        self.by_label.insert(&labels, &id);
        self.by_labels.insert(labels.clone(), id);
        self.entries.insert(id, Entry { labels, selectors: BTreeSet::new(), users: 1 });
        self.changed.insert(id);
    }

    /// One user less.
    pub(super) fn release(&mut self, id: IdentityId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            self.idle.insert(id);
        }
    }

    /// Whether its number is one of those that pods wait for where there are too few.
    pub(super) fn is_of_pods(id: IdentityId) -> bool {
        POD_NUMBERS.contains(&id.0)
    }

    /// Forgets identities without users, and returns the selectors that chose each.
    pub(super) fn collect_idle(&mut self) -> Vec<(IdentityId, BTreeSet<SelectorId>)> {
        let mut gone = Vec::new();
        for id in std::mem::take(&mut self.idle) {
            let Some(entry) = self.entries.remove(&id) else { continue };
            self.by_labels.remove(&entry.labels);
            self.by_label.remove(&entry.labels, &id);
            match id.0 {
                0x0100_0000..=0x01ff_ffff => self.world.give_back(id.0),
                0x0200_0000..=0x02ff_ffff => self.nodes.give_back(id.0),
                _ => self.pods.give_back(id.0),
            }
            self.changed.insert(id);
            gone.push((id, entry.selectors));
        }
        gone
    }

    pub(super) fn labels(&self, id: IdentityId) -> Option<&Arc<Labels>> {
        self.entries.get(&id).map(|it| &it.labels)
    }

    /// Whether any of these selectors chooses it.
    pub(super) fn is_any_of(&self, id: IdentityId, selectors: &[SelectorId]) -> bool {
        let entry = self.entries.get(&id);
        entry.is_some_and(|it| selectors.iter().any(|one| it.selectors.contains(one)))
    }

    /// All identities that a selector chooses.
    pub(super) fn find(&self, selector: &IdentitySelector) -> BTreeSet<IdentityId> {
        let mut found = self.by_label.candidates(selector);
        found.retain(|id| self.labels(*id).is_some_and(|it| selector.matches(it)));
        found
    }

    pub(super) fn add_selector(&mut self, id: IdentityId, selector: SelectorId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.selectors.insert(selector)
        {
            self.changed.insert(id);
        }
    }

    pub(super) fn remove_selector(&mut self, id: IdentityId, selector: SelectorId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.selectors.remove(&selector)
        {
            self.changed.insert(id);
        }
    }

    /// What is new, differs or is gone since the last call.
    pub(super) fn take_changes(&mut self) -> BTreeMap<IdentityId, Option<Identity>> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|id| (id, self.row(id))).collect()
    }

    fn row(&self, id: IdentityId) -> Option<Identity> {
        let entry = self.entries.get(&id)?;
        let write = |(key, value): (&String, &String)| match value.is_empty() {
            true => key.clone(),
            false => format!("{key}={value}"),
        };
        let labels = entry.labels.iter().map(write).collect();
        Some(Identity { id, labels, selectors: entry.selectors.iter().copied().collect() })
    }
}
