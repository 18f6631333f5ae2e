//! Selectors: everything that peers are chosen by, numbered, each once, counted by the policies in
//! force that use it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_tables::policy::{IdentityId, SelectorId};

use super::identities::Identities;
use super::index::{Labels, Numbers, SelectorIndex, bare_key};
use super::labels::is_left_out;
use crate::model::{AddressBlock, Cidr, GroupChoice, IdentitySelector, NamePattern};

/// What peers are chosen by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SelectorKey {
    /// By labels.
    Identities(IdentitySelector),
    /// By a range.
    Block(AddressBlock),
    /// By addresses, of whomever.
    Addresses(BTreeSet<Cidr>),
    /// By the ranges of groups, less some.
    Groups(GroupChoice, Vec<Cidr>),
    /// By name.
    Fqdn(NamePattern),
}

/// All selectors in use.
#[derive(Debug)]
pub(super) struct Selectors {
    entries: BTreeMap<SelectorId, Entry>,
    by_key: BTreeMap<Arc<SelectorKey>, SelectorId>,
    by_labels: SelectorIndex<SelectorId>,
    numbers: Numbers,
    idle: BTreeSet<SelectorId>,
    /// Labels that identities do not have as a rule, and how many selectors ask for each.
    asked: BTreeMap<String, u32>,
    asking_nodes: u32,
    /// What followed since it was last asked.
    pub(super) news: SelectorNews,
}

#[derive(Debug, Default)]
pub(super) struct SelectorNews {
    /// Selectors by address or name that are new or gone.
    pub(super) others: BTreeSet<SelectorId>,
    /// Labels that identities have from now on, or no longer.
    pub(super) asked: BTreeSet<String>,
    /// Whether nodes' labels count has changed.
    pub(super) is_asking_nodes: bool,
}

#[derive(Debug)]
struct Entry {
    key: Arc<SelectorKey>,
    users: u32,
    members: BTreeSet<IdentityId>,
}

impl Default for Selectors {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_labels: SelectorIndex::default(),
            numbers: Numbers::new(1, u32::MAX - 1),
            idle: BTreeSet::new(),
            asked: BTreeMap::new(),
            asking_nodes: 0,
            news: SelectorNews::default(),
        }
    }
}

impl Selectors {
    /// The number of a selector, for one more user.
    pub(super) fn acquire(&mut self, key: SelectorKey, identities: &mut Identities) -> SelectorId {
        if let Some(id) = self.by_key.get(&key) {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.users += 1;
                self.idle.remove(id);
            }
            return *id;
        }
        let number = self.numbers.take().expect("fewer selectors than numbers: memory ends first");
        let (id, key) = (SelectorId(number), Arc::new(key));
        let mut members = BTreeSet::new();
        if let SelectorKey::Identities(selector) = &*key {
            self.by_labels.insert(selector, id);
            members = identities.find(selector);
            for member in &members {
                identities.add_selector(*member, id);
            }
            self.note_labels(selector, true);
        } else {
            self.news.others.insert(id);
        }
        self.by_key.insert(key.clone(), id);
        self.entries.insert(id, Entry { key, users: 1, members });
        id
    }

    /// One user less.
    pub(super) fn release(&mut self, id: SelectorId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            self.idle.insert(id);
        }
    }

    /// Forgets selectors without users; whether there were any.
    pub(super) fn collect_idle(&mut self, identities: &mut Identities) -> bool {
        let idle = std::mem::take(&mut self.idle);
        let is_some = !idle.is_empty();
        for id in idle {
            let Some(entry) = self.entries.remove(&id) else { continue };
            self.by_key.remove(&entry.key);
            self.numbers.give_back(id.0);
            for member in entry.members {
                identities.remove_selector(member, id);
            }
            if let SelectorKey::Identities(selector) = &*entry.key {
                self.by_labels.remove(selector, id);
                self.note_labels(selector, false);
            } else {
                self.news.others.insert(id);
            }
        }
        is_some
    }

    /// An identity that a selector by name chooses.
    pub(super) fn add_member(
        &mut self,
        selector: SelectorId,
        id: IdentityId,
        identities: &mut Identities,
    ) {
        if let Some(entry) = self.entries.get_mut(&selector) {
            entry.members.insert(id);
            identities.add_selector(id, selector);
        }
    }

    /// Finds what chooses a new identity.
    pub(super) fn add_identity(&mut self, id: IdentityId, identities: &mut Identities) {
        let Some(labels) = identities.labels(id).cloned() else { return };
        for selector in self.find(&labels) {
            identities.add_selector(id, selector);
            if let Some(entry) = self.entries.get_mut(&selector) {
                entry.members.insert(id);
            }
        }
    }

    /// Forgets an identity that these chose.
    pub(super) fn remove_identity(&mut self, id: IdentityId, selectors: &BTreeSet<SelectorId>) {
        for selector in selectors {
            if let Some(entry) = self.entries.get_mut(selector) {
                entry.members.remove(&id);
            }
        }
    }

    fn find(&self, labels: &Labels) -> Vec<SelectorId> {
        let candidates = self.by_labels.candidates(labels).into_iter();
        let chooses = |id: &SelectorId| match self.key(*id) {
            Some(SelectorKey::Identities(selector)) => selector.matches(labels),
            _ => false,
        };
        candidates.filter(chooses).collect()
    }

    pub(super) fn key(&self, id: SelectorId) -> Option<&SelectorKey> {
        self.entries.get(&id).map(|it| &*it.key)
    }

    /// All selectors, in order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SelectorId, &SelectorKey)> {
        self.entries.iter().map(|(id, it)| (*id, &*it.key))
    }

    /// Whether some selector asks for a label that identities do not have as a rule.
    pub(super) fn asks_for(&self, key: &str) -> bool {
        self.asked.contains_key(key)
    }

    /// Whether some selector asks for labels of nodes.
    pub(super) fn asks_for_nodes(&self) -> bool {
        self.asking_nodes > 0
    }

    fn note_labels(&mut self, selector: &IdentitySelector, is_new: bool) {
        let keys = || selector.requirements.iter().map(|it| it.key.as_str());
        // A key of any source may be a node's as well.
        if keys().any(|it| it.starts_with("node:")) {
            let before = self.asks_for_nodes();
            self.asking_nodes =
                if is_new { self.asking_nodes + 1 } else { self.asking_nodes.saturating_sub(1) };
            self.news.is_asking_nodes |= before != self.asks_for_nodes();
        }
        let left_out: BTreeSet<&str> = keys().map(bare_key).filter(|it| is_left_out(it)).collect();
        for key in left_out {
            if is_new {
                *self.asked.entry(key.to_owned()).or_default() += 1;
                self.news.asked.insert(key.to_owned());
            } else if let Some(count) = self.asked.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.asked.remove(key);
                    self.news.asked.insert(key.to_owned());
                }
            }
        }
    }
}
