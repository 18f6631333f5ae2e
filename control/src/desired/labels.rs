//! Objects by the labels that they have or ask for, so that one changed pod among many costs work
//! for its own services only.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Name;

/// Names by namespace, label and value.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    names: BTreeMap<(String, String, String), BTreeSet<Name>>,
}

impl LabelIndex {
    /// Adds an object under each of these labels.
    pub(super) fn insert<'a>(
        &mut self,
        name: &Name,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) {
        for label in labels {
            self.names.entry(key(name, label)).or_default().insert(name.clone());
        }
    }

    /// Removes what was added with the same labels.
    pub(super) fn remove<'a>(
        &mut self,
        name: &Name,
        labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) {
        for label in labels {
            let key = key(name, label);
            let Some(names) = self.names.get_mut(&key) else { continue };
            names.remove(name);
            if names.is_empty() {
                self.names.remove(&key);
            }
        }
    }

    /// Objects under this label, in the namespace of `name`.
    pub(super) fn find(&self, name: &Name, label: (&String, &String)) -> Option<&BTreeSet<Name>> {
        self.names.get(&key(name, label))
    }
}

fn key(name: &Name, label: (&String, &String)) -> (String, String, String) {
    (name.namespace.clone(), label.0.clone(), label.1.clone())
}
