//! Which specs of policies select which local endpoints, and the peers of those in force.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weir_tables::policy::{Direction, RulePeers, SelectorId};

use super::addresses::Owner;
use super::compile::{NamedPorts, ResolvedRule, SpecInput};
use super::identities::INIT;
use super::index::Labels;
use super::labels::reserved;
use super::resolve::resolve_peers;
use super::{EndpointPolicy, Enforcement, PolicyState};
use crate::model::{
    Cidr, Name, ObjectKey, Peers, Policy, PolicyPeer, PolicyRule, PolicySpec, PortChoice, Section,
    Subject,
};

/// The number of a policy's spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SpecId(pub u32);

/// A spec, and what follows from it.
#[derive(Debug)]
pub(super) struct SpecEntry {
    pub policy: ObjectKey,
    pub spec: PolicySpec,
    /// Local endpoints that it selects.
    pub endpoints: BTreeSet<Name>,
    /// There while it is in force.
    resolved: Option<Resolved>,
    is_changed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Resolved {
    ingress: Vec<ResolvedRule>,
    egress: Vec<ResolvedRule>,
    /// Each as often as it is used.
    selectors: Vec<SelectorId>,
    /// Of its peers.
    port_names: BTreeSet<String>,
}

/// A local endpoint.
#[derive(Debug)]
pub(super) struct Local {
    /// What policies select it by.
    labels: Labels,
    /// That it was attached with.
    addresses: Vec<IpAddr>,
    pub specs: BTreeSet<SpecId>,
    /// Number of its rules.
    pub table: Option<u32>,
    pub policy: EndpointPolicy,
}

impl SpecEntry {
    /// All peers that its rules name.
    pub(super) fn peers(&self) -> impl Iterator<Item = &PolicyPeer> {
        self.rules().flat_map(|(_, rule)| peers_of(rule))
    }

    fn rules(&self) -> impl Iterator<Item = (Direction, &PolicyRule)> {
        let ingress = rules_of(self.spec.ingress.as_ref()).map(|it| (Direction::Ingress, it));
        let egress = rules_of(self.spec.egress.as_ref()).map(|it| (Direction::Egress, it));
        ingress.chain(egress)
    }

    /// Names of ports that its rules for a direction have.
    pub(super) fn port_names(&self, direction: Direction) -> BTreeSet<&str> {
        let rules = self.rules().filter(|it| it.0 == direction);
        let ports = rules.flat_map(|(_, rule)| &rule.ports);
        let names = ports.filter_map(|it| match &it.port {
            PortChoice::Named(name) => Some(name.as_str()),
            PortChoice::All | PortChoice::Range(..) => None,
        });
        names.collect()
    }

    /// For the compiler; `None` while it is not in force.
    pub(super) fn input(&self) -> Option<SpecInput<'_>> {
        let Resolved { ingress, egress, .. } = self.resolved.as_ref()?;
        Some(SpecInput { policy: &self.policy, spec: &self.spec, ingress, egress })
    }
}

pub(super) fn rules_of(section: Option<&Section>) -> impl Iterator<Item = &PolicyRule> {
    section.into_iter().flat_map(|it| &it.rules)
}

pub(super) fn peers_of(rule: &PolicyRule) -> &[PolicyPeer] {
    match &rule.peers {
        Peers::Any => &[],
        Peers::Of(peers) => peers,
    }
}

fn subject_of(spec: &PolicySpec) -> Option<&crate::model::IdentitySelector> {
    match &spec.subject {
        Subject::Endpoints(selector) => Some(selector),
        Subject::Nodes(_) => None,
    }
}

impl PolicyState {
    /// Takes over policies that have changed; whether there were any.
    pub(super) fn apply_policies(&mut self) -> bool {
        let policies = std::mem::take(&mut self.dirty.policies);
        let is_some = !policies.is_empty();
        let had_any = !self.policies.is_empty();
        for (key, policy) in policies {
            self.apply_policy(key, policy);
        }
        if had_any == self.policies.is_empty() {
            // Endpoints without labels are isolated where there is any policy.
            self.dirty.rules.extend(self.locals.keys().cloned());
        }
        is_some
    }

    fn apply_policy(&mut self, key: ObjectKey, policy: Option<Policy>) {
        let mut entry = self.policies.remove(&key).unwrap_or_default();
        let is_there = policy.is_some();
        let mut new = Vec::new();
        if let Some(policy) = policy {
            entry.origin = policy.origin;
            new = policy.specs;
        }
        for id in entry.specs.split_off(new.len().min(entry.specs.len())) {
            self.remove_spec(id);
        }
        let count = entry.specs.len();
        for (at, spec) in new.into_iter().enumerate() {
            if at < count {
                self.replace_spec(entry.specs[at], spec);
            } else {
                entry.specs.push(self.add_spec(key.clone(), spec));
            }
        }
        if is_there {
            self.policies.insert(key.clone(), entry);
        }
        self.note_problems(key);
    }

    fn add_spec(&mut self, policy: ObjectKey, spec: PolicySpec) -> SpecId {
        let id = SpecId(self.next_spec);
        self.next_spec += 1;
        let endpoints = BTreeSet::new();
        let entry = SpecEntry { policy, spec, endpoints, resolved: None, is_changed: true };
        self.specs.insert(id, entry);
        self.select_endpoints(id);
        id
    }

    fn replace_spec(&mut self, id: SpecId, new: PolicySpec) {
        let Some(entry) = self.specs.get_mut(&id) else { return };
        if entry.spec == new {
            return;
        }
        let is_other_subject = entry.spec.subject != new.subject;
        if is_other_subject && let Some(subject) = subject_of(&entry.spec) {
            self.specs_by_subject.remove(subject, id);
        }
        entry.spec = new;
        entry.is_changed = true;
        self.dirty.specs.insert(id);
        if is_other_subject {
            self.select_endpoints(id);
        }
    }

    fn remove_spec(&mut self, id: SpecId) {
        self.unresolve_spec(id);
        let Some(entry) = self.specs.remove(&id) else { return };
        if let Some(subject) = subject_of(&entry.spec) {
            self.specs_by_subject.remove(subject, id);
        }
        for name in entry.endpoints {
            if let Some(local) = self.locals.get_mut(&name) {
                local.specs.remove(&id);
                self.dirty.rules.insert(name);
            }
        }
    }

    /// Finds the local endpoints of a spec with another subject.
    fn select_endpoints(&mut self, id: SpecId) {
        let Some(entry) = self.specs.get_mut(&id) else { return };
        let mut new = BTreeSet::new();
        if let Some(subject) = subject_of(&entry.spec) {
            self.specs_by_subject.insert(subject, id);
            new = self.locals_by_label.candidates(subject);
            new.retain(|it| self.locals.get(it).is_some_and(|it| subject.matches(&it.labels)));
        }
        for name in new.symmetric_difference(&entry.endpoints) {
            let Some(local) = self.locals.get_mut(name) else { continue };
            if new.contains(name) {
                local.specs.insert(id);
            } else {
                local.specs.remove(&id);
            }
            self.dirty.rules.insert(name.clone());
        }
        entry.endpoints = new;
        self.dirty.specs.insert(id);
    }

    /// Looks again at endpoints that may have come, gone or changed their labels; whether there
    /// were any.
    pub(super) fn apply_locals(&mut self) -> bool {
        let locals = std::mem::take(&mut self.dirty.locals);
        for name in &locals {
            self.apply_local(name);
        }
        !locals.is_empty()
    }

    fn apply_local(&mut self, name: &Name) {
        let old = self.locals.remove(name);
        let owner = Owner::Attached(name.clone());
        for address in old.iter().flat_map(|it| &it.addresses) {
            self.peers.addresses.unclaim(Cidr::of_host(*address), &owner);
        }
        let pod = self.objects.pods.get(name);
        // A pod in its node's network is the node, as far as policy goes.
        let wanted = self.wanted.get(name).filter(|_| !pod.is_some_and(|it| it.is_host_network));
        let Some(addresses) = wanted.cloned() else {
            if let Some(old) = old {
                self.locals_by_label.remove(&old.labels, name);
                self.replace_specs_of(name, &old.specs, &BTreeSet::new());
                self.tables.release(old.table);
                self.changed_endpoints.insert(name.clone());
            }
            return;
        };
        let labels = match pod {
            Some(pod) => self.pod_labels(name, pod).list_all(),
            None => reserved(&["init"], None),
        };
        let id = self.identity_of(name).unwrap_or(INIT);
        for address in &addresses {
            self.peers.addresses.claim(Cidr::of_host(*address), owner.clone(), id);
        }
        let policy = EndpointPolicy { identity: INIT, rules: None, is_audited: false };
        let mut local = old.unwrap_or_else(|| {
            self.changed_endpoints.insert(name.clone());
            let (labels, addresses, specs) = Default::default();
            Local { labels, addresses, specs, table: None, policy }
        });
        if local.labels != labels {
            self.locals_by_label.remove(&local.labels, name);
            self.locals_by_label.insert(&labels, name);
            let mut specs = self.specs_by_subject.candidates(&labels);
            let is_selected = |id: &SpecId| {
                let subject = self.specs.get(id).and_then(|it| subject_of(&it.spec));
                subject.is_some_and(|it| it.matches(&labels))
            };
            specs.retain(is_selected);
            self.replace_specs_of(name, &local.specs, &specs);
            (local.specs, local.labels) = (specs, labels);
        }
        local.addresses = addresses;
        self.locals.insert(name.clone(), local);
        self.dirty.rules.insert(name.clone());
    }

    fn replace_specs_of(&mut self, name: &Name, old: &BTreeSet<SpecId>, new: &BTreeSet<SpecId>) {
        for id in old.symmetric_difference(new) {
            let Some(entry) = self.specs.get_mut(id) else { continue };
            let was_in_force = !entry.endpoints.is_empty();
            if new.contains(id) {
                entry.endpoints.insert(name.clone());
            } else {
                entry.endpoints.remove(name);
            }
            if was_in_force == entry.endpoints.is_empty() {
                self.dirty.specs.insert(*id);
            }
        }
    }

    /// Puts specs in force or out of it, and finds their peers again; whether there were any.
    pub(super) fn apply_specs(&mut self) -> bool {
        let specs = std::mem::take(&mut self.dirty.specs);
        for id in &specs {
            self.apply_spec(*id);
        }
        !specs.is_empty()
    }

    fn apply_spec(&mut self, id: SpecId) {
        let is_enforced = self.settings.enforcement != Enforcement::Never;
        let Some(entry) = self.specs.get(&id) else { return };
        if entry.endpoints.is_empty() || !is_enforced {
            self.unresolve_spec(id);
            return;
        }
        let new = self.resolve_spec(id);
        let Some(entry) = self.specs.get(&id) else { return };
        let is_same = !entry.is_changed && Some(&new) == entry.resolved.as_ref();
        if !is_same {
            // Also the tables that nobody has at this moment: somebody may take them over.
            self.tables.mark(id);
            // Their rules may be others, where names of ports or sections have come or gone.
            self.dirty.rules.extend(entry.endpoints.iter().cloned());
        }
        self.unresolve_spec(id);
        let Some(entry) = self.specs.get_mut(&id) else { return };
        (entry.resolved, entry.is_changed) = (Some(new), false);
        for name in entry.port_names(Direction::Egress) {
            self.specs_by_port.entry(name.to_owned()).or_default().insert(id);
        }
        if entry.peers().any(|it| matches!(it, PolicyPeer::Services(_))) {
            self.specs_by_service.insert(id);
        }
    }

    /// Gives back what a spec in force uses.
    fn unresolve_spec(&mut self, id: SpecId) {
        let Some(resolved) = self.specs.get_mut(&id).and_then(|it| it.resolved.take()) else {
            return;
        };
        for selector in resolved.selectors {
            self.peers.selectors.release(selector);
        }
        self.specs_by_service.remove(&id);
        let names: Vec<_> = resolved.port_names.into_iter().collect();
        for name in names {
            let Some(specs) = self.specs_by_port.get_mut(&name) else { continue };
            specs.remove(&id);
            if specs.is_empty() {
                self.specs_by_port.remove(&name);
            }
        }
    }

    fn resolve_spec(&mut self, id: SpecId) -> Resolved {
        let Some(entry) = self.specs.get(&id) else { return Resolved::default() };
        let port_names = entry.port_names(Direction::Egress).into_iter().map(str::to_owned);
        let mut resolved = Resolved { port_names: port_names.collect(), ..Resolved::default() };
        for (direction, rule) in entry.rules() {
            let peers = resolve_peers(rule, &self.objects, &mut self.peers);
            if let RulePeers::Of(selectors) = &peers {
                resolved.selectors.extend(selectors);
            }
            let (ports, to) = match direction {
                Direction::Ingress => (NamedPorts::new(), &mut resolved.ingress),
                Direction::Egress => (self.resolve_ports_of(rule, &peers), &mut resolved.egress),
            };
            to.push(ResolvedRule { peers, ports });
        }
        resolved
    }
}
