//! Rules of endpoints, shared by those that the same specs select.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_tables::policy::{Direction, PolicyRules};

use super::compile::{Isolation, NamedPorts, SpecInput, compile_rules};
use super::identities::INIT;
use super::index::Numbers;
use super::pods::AppliedPod;
use super::resolve::add_named_ports;
use super::specs::{SpecEntry, SpecId};
use super::{EndpointPolicy, Enforcement, PolicyState};
use crate::model::Name;

/// What rules follow from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TableKey {
    specs: BTreeSet<SpecId>,
    /// Of the endpoint's own containers, as far as the specs ask.
    ports: NamedPorts,
    isolation: Isolation,
}

/// All tables in use.
#[derive(Debug)]
pub(super) struct Tables {
    entries: BTreeMap<u32, Table>,
    by_key: BTreeMap<Arc<TableKey>, u32>,
    by_spec: BTreeMap<SpecId, BTreeSet<u32>>,
    numbers: Numbers,
    idle: BTreeSet<u32>,
    /// To be written again.
    dirty: BTreeSet<u32>,
}

#[derive(Debug)]
struct Table {
    key: Arc<TableKey>,
    users: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_spec: BTreeMap::new(),
            numbers: Numbers::new(1, u32::MAX - 1),
            idle: BTreeSet::new(),
            dirty: BTreeSet::new(),
        }
    }
}

impl Tables {
    /// The number of the rules that follow from this, for one more user.
    fn acquire(&mut self, key: TableKey) -> Option<u32> {
        if let Some(number) = self.by_key.get(&key) {
            if let Some(table) = self.entries.get_mut(number) {
                table.users += 1;
                self.idle.remove(number);
            }
            return Some(*number);
        }
        let number = self.numbers.take()?;
        let key = Arc::new(key);
        for spec in &key.specs {
            self.by_spec.entry(*spec).or_default().insert(number);
        }
        self.by_key.insert(key.clone(), number);
        self.entries.insert(number, Table { key, users: 1 });
        self.dirty.insert(number);
        Some(number)
    }

    /// One user less.
    pub(super) fn release(&mut self, number: Option<u32>) {
        let Some(number) = number else { return };
        let Some(table) = self.entries.get_mut(&number) else { return };
        table.users -= 1;
        if table.users == 0 {
            self.idle.insert(number);
        }
    }

    /// Has everything written again that follows from a spec.
    pub(super) fn mark(&mut self, spec: SpecId) {
        self.dirty.extend(self.by_spec.get(&spec).into_iter().flatten());
    }

    fn collect_idle(&mut self) {
        for number in std::mem::take(&mut self.idle) {
            let Some(table) = self.entries.remove(&number) else { continue };
            self.by_key.remove(&table.key);
            for spec in &table.key.specs {
                let Some(tables) = self.by_spec.get_mut(spec) else { continue };
                tables.remove(&number);
                if tables.is_empty() {
                    self.by_spec.remove(spec);
                }
            }
            self.numbers.give_back(number);
            self.dirty.insert(number);
        }
    }
}

/// The name of rules in the state protocol.
fn table_name(number: u32) -> String {
    format!("rules-{number}")
}

impl PolicyState {
    /// Finds the rules of endpoints that may have others now.
    pub(super) fn recompute_tables(&mut self) {
        for name in std::mem::take(&mut self.dirty.rules) {
            self.recompute_rules_of(&name);
        }
        self.tables.collect_idle();
    }

    fn recompute_rules_of(&mut self, name: &Name) {
        let Some(local) = self.locals.get(name) else { return };
        let key = self.table_key(name, &local.specs);
        let is_empty = key.specs.is_empty() && key.isolation == Isolation::None;
        let is_never = self.settings.enforcement == Enforcement::Never;
        let new = if is_empty || is_never { None } else { self.tables.acquire(key) };
        let pod = self.objects.pods.get(name);
        let policy = EndpointPolicy {
            identity: self.identity_of(name).unwrap_or(INIT),
            rules: new.map(table_name),
            is_audited: pod.is_some_and(|it| it.is_audited),
        };
        let Some(local) = self.locals.get_mut(name) else { return };
        self.tables.release(local.table);
        local.table = new;
        if local.policy != policy {
            local.policy = policy;
            self.changed_endpoints.insert(name.clone());
        }
    }

    fn table_key(&self, name: &Name, specs: &BTreeSet<SpecId>) -> TableKey {
        let pod = self.objects.pods.get(name);
        let entries = || specs.iter().filter_map(|it| self.specs.get(it));
        let mut ports = NamedPorts::new();
        if let Some(pod) = pod {
            let names: BTreeSet<&str> =
                entries().flat_map(|it| it.port_names(Direction::Ingress)).collect();
            for name in names {
                add_named_ports(pod, name, &mut ports);
            }
        }
        let applied = self.applied_pods.get(name);
        let isolation = match (pod, self.settings.enforcement) {
            (_, Enforcement::Always) => Isolation::Always,
            (None, _) if !self.policies.is_empty() => Isolation::NoLabels,
            _ if applied.is_some_and(AppliedPod::is_without_number) => Isolation::NoIdentity,
            _ => Isolation::None,
        };
        // Specs about no connection select endpoints to no effect.
        let has_effect = |it: &&SpecEntry| it.spec.ingress.is_some() || it.spec.egress.is_some();
        let specs = specs.iter().filter(|id| self.specs.get(id).as_ref().is_some_and(has_effect));
        TableKey { specs: specs.copied().collect(), ports, isolation }
    }

    /// Rules that are new, written again or gone, by name.
    pub(super) fn take_rules(&mut self) -> BTreeMap<String, Option<PolicyRules>> {
        let dirty = std::mem::take(&mut self.tables.dirty);
        let write = |number: u32| {
            let name = table_name(number);
            let table = self.tables.entries.get(&number);
            (name.clone(), table.map(|it| self.compile_table(name, &it.key)))
        };
        dirty.into_iter().map(write).collect()
    }

    fn compile_table(&self, name: String, key: &TableKey) -> PolicyRules {
        let entries = key.specs.iter().filter_map(|it| Some((*it, self.specs.get(it)?)));
        let mut entries: Vec<_> = entries.collect();
        let place = |it: &SpecEntry| {
            let policy = self.policies.get(&it.policy);
            policy.map(|it| &it.specs)
        };
        entries.sort_by_cached_key(|(id, it)| {
            let at = place(it).and_then(|all| all.iter().position(|one| one == id));
            (it.policy.clone(), at)
        });
        let inputs: Vec<SpecInput<'_>> = entries.iter().filter_map(|(_, it)| it.input()).collect();
        compile_rules(name, &inputs, &key.ports, key.isolation)
    }

    /// The local endpoints that have these rules, and the policies that they follow from.
    #[must_use]
    pub fn explain_rules(&self, name: &str) -> String {
        let of_it = self.locals.iter().filter(|(_, it)| it.policy.rules.as_deref() == Some(name));
        let endpoints: Vec<String> = of_it.map(|(name, _)| name.to_string()).collect();
        let number = name.strip_prefix("rules-").and_then(|it| it.parse().ok());
        let table = number.and_then(|it: u32| self.tables.entries.get(&it));
        let specs = table.into_iter().flat_map(|it| &it.key.specs);
        let policies = specs.filter_map(|it| self.specs.get(it)).map(|it| it.policy.to_string());
        let policies: BTreeSet<String> = policies.collect();
        let policies: Vec<String> = policies.into_iter().collect();
        format!("endpoints {}; policies {}", endpoints.join(", "), policies.join(", "))
    }
}
