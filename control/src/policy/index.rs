//! Selectors by what they require, and sets of labels by what they have.
//!
//! One new set of labels among many is compared with few selectors, and one new selector with few
//! sets of labels. Both indexes give candidates: whether a selector chooses them is asked of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::policy::{NAMESPACE_LABEL, NAMESPACE_LABELS};
use crate::model::{IdentitySelector, LabelTest, Requirement};

/// Labels of an identity, keys with their source.
pub(super) type Labels = BTreeMap<String, String>;

/// The label that every namespace has, with its name.
pub(super) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Selectors by the namespace and by one label that they require. Labels go without their source,
/// so that one look-up finds the selectors of a source and those of any.
#[derive(Debug)]
pub(super) struct SelectorIndex<T> {
    in_namespace: BTreeMap<String, LabelPlaces<T>>,
    anywhere: LabelPlaces<T>,
}

#[derive(Debug)]
struct LabelPlaces<T> {
    by_key: BTreeMap<String, ValuePlaces<T>>,
    rest: BTreeSet<T>,
}

#[derive(Debug)]
struct ValuePlaces<T> {
    by_value: BTreeMap<String, BTreeSet<T>>,
    rest: BTreeSet<T>,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self { in_namespace: BTreeMap::new(), anywhere: LabelPlaces::default() }
    }
}

impl<T> Default for LabelPlaces<T> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), rest: BTreeSet::new() }
    }
}

impl<T> Default for ValuePlaces<T> {
    fn default() -> Self {
        Self { by_value: BTreeMap::new(), rest: BTreeSet::new() }
    }
}

impl<T: Ord + Copy> SelectorIndex<T> {
    pub(super) fn insert(&mut self, selector: &IdentitySelector, item: T) {
        let label = find_label(selector);
        match find_namespaces(selector) {
            None => self.anywhere.insert(label, item),
            Some(namespaces) => {
                for namespace in namespaces {
                    self.in_namespace.entry(namespace.clone()).or_default().insert(label, item);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, selector: &IdentitySelector, item: T) {
        let label = find_label(selector);
        match find_namespaces(selector) {
            None => self.anywhere.remove(label, item),
            Some(namespaces) => {
                for namespace in namespaces {
                    let Some(places) = self.in_namespace.get_mut(namespace) else { continue };
                    places.remove(label, item);
                    if places.is_empty() {
                        self.in_namespace.remove(namespace);
                    }
                }
            }
        }
    }

    /// Everything that could choose something with these labels, once each.
    pub(super) fn candidates(&self, labels: &Labels) -> BTreeSet<T> {
        let mut found = BTreeSet::new();
        self.anywhere.collect(labels, &mut found);
        let namespace = labels.get(NAMESPACE_LABEL).and_then(|it| self.in_namespace.get(it));
        if let Some(places) = namespace {
            places.collect(labels, &mut found);
        }
        found
    }
}

impl<T: Ord + Copy> LabelPlaces<T> {
    fn insert(&mut self, label: Option<&Requirement>, item: T) {
        let Some(Requirement { key, test }) = label else {
            self.rest.insert(item);
            return;
        };
        let places = self.by_key.entry(bare_key(key).to_owned()).or_default();
        if let LabelTest::In(values) = test {
            for value in values {
                places.by_value.entry(value.clone()).or_default().insert(item);
            }
        } else {
            places.rest.insert(item);
        }
    }

    fn remove(&mut self, label: Option<&Requirement>, item: T) {
        let Some(Requirement { key, test }) = label else {
            self.rest.remove(&item);
            return;
        };
        let key = bare_key(key);
        let Some(places) = self.by_key.get_mut(key) else { return };
        if let LabelTest::In(values) = test {
            for value in values {
                let Some(items) = places.by_value.get_mut(value) else { continue };
                items.remove(&item);
                if items.is_empty() {
                    places.by_value.remove(value);
                }
            }
        } else {
            places.rest.remove(&item);
        }
        if places.by_value.is_empty() && places.rest.is_empty() {
            self.by_key.remove(key);
        }
    }

    fn is_empty(&self) -> bool {
        self.by_key.is_empty() && self.rest.is_empty()
    }

    fn collect(&self, labels: &Labels, found: &mut BTreeSet<T>) {
        found.extend(&self.rest);
        for (key, value) in labels {
            let Some(places) = self.by_key.get(bare_key(key)) else { continue };
            found.extend(&places.rest);
            found.extend(places.by_value.get(value).into_iter().flatten());
        }
    }
}

/// Sets of labels by each label, without its source.
#[derive(Debug)]
pub(super) struct LabelIndex<T> {
    by_key: BTreeMap<String, BTreeMap<String, BTreeSet<T>>>,
    all: BTreeSet<T>,
}

impl<T> Default for LabelIndex<T> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), all: BTreeSet::new() }
    }
}

impl<T: Ord + Clone> LabelIndex<T> {
    pub(super) fn insert(&mut self, labels: &Labels, item: &T) {
        self.all.insert(item.clone());
        for (key, value) in labels {
            let key = bare_key(key);
            let values = match self.by_key.get_mut(key) {
                Some(values) => values,
                None => self.by_key.entry(key.to_owned()).or_default(),
            };
            match values.get_mut(value) {
                Some(items) => items.insert(item.clone()),
                None => values.entry(value.clone()).or_default().insert(item.clone()),
            };
        }
    }

    pub(super) fn remove(&mut self, labels: &Labels, item: &T) {
        self.all.remove(item);
        for (key, value) in labels {
            let key = bare_key(key);
            let Some(values) = self.by_key.get_mut(key) else { continue };
            if let Some(items) = values.get_mut(value) {
                items.remove(item);
                if items.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.by_key.remove(key);
            }
        }
    }

    /// Everything that a selector could choose: by the requirement that leaves the fewest.
    pub(super) fn candidates(&self, selector: &IdentitySelector) -> BTreeSet<T> {
        let mut best: Option<Vec<&BTreeSet<T>>> = None;
        let size = |sets: &[&BTreeSet<T>]| sets.iter().map(|it| it.len()).sum::<usize>();
        for Requirement { key, test } in &selector.requirements {
            let values = self.by_key.get(bare_key(key));
            let sets: Vec<_> = match test {
                LabelTest::In(wanted) => {
                    wanted.iter().filter_map(|it| values.and_then(|all| all.get(it))).collect()
                }
                // Many values take long to count; a label with a value is asked for, as a rule.
                LabelTest::Exists if best.is_none() => {
                    values.into_iter().flat_map(BTreeMap::values).collect()
                }
                LabelTest::Exists | LabelTest::NotIn(_) | LabelTest::Absent => continue,
            };
            if best.as_ref().is_none_or(|it| size(&sets) < size(it)) {
                best = Some(sets);
            }
        }
        match best {
            None => self.all.clone(),
            Some(sets) => sets.into_iter().flatten().cloned().collect(),
        }
    }
}

/// The names of namespaces that a selector is limited to.
fn find_namespaces(selector: &IdentitySelector) -> Option<&BTreeSet<String>> {
    let limits = selector.requirements.iter().filter(|it| is_namespace_name(bare_key(&it.key)));
    let values = limits.filter_map(|it| match &it.test {
        LabelTest::In(values) => Some(values),
        _ => None,
    });
    values.min_by_key(|it| it.len())
}

fn is_namespace_name(key: &str) -> bool {
    key == bare_key(NAMESPACE_LABEL)
        || key.strip_prefix(bare_key(NAMESPACE_LABELS)) == Some(NAME_LABEL)
}

/// The label that a selector is found by: one of the pod's own with a value, as it is the rarest.
fn find_label(selector: &IdentitySelector) -> Option<&Requirement> {
    let rank = |it: &&Requirement| {
        let of_namespace = bare_key(&it.key).starts_with(bare_key(NAMESPACE_LABELS));
        match &it.test {
            _ if is_namespace_name(bare_key(&it.key)) => None,
            LabelTest::In(values) => Some((of_namespace, false, values.len())),
            LabelTest::Exists => Some((of_namespace, true, 0)),
            LabelTest::NotIn(_) | LabelTest::Absent => None,
        }
    };
    let ranked = selector.requirements.iter().filter_map(|it| Some((rank(&it)?, it)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, it)| it)
}

/// A key without its source.
pub(super) fn bare_key(key: &str) -> &str {
    key.split_once(':').map_or(key, |(_, bare)| bare)
}

/// The lowest numbers first, and again when they are given back.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u32,
    max: u32,
    free: BTreeSet<u32>,
}

impl Numbers {
    pub(super) fn new(min: u32, max: u32) -> Self {
        Self { next: min, max, free: BTreeSet::new() }
    }

    /// `None` where all are taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop_first() {
            return Some(number);
        }
        let number = self.next;
        (number <= self.max).then(|| {
            self.next += 1;
            number
        })
    }

    pub(super) fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }
}
