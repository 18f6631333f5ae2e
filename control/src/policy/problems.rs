//! What of policies has no effect, and which pods have no identity.

use super::specs::{SpecEntry, peers_of, rules_of};
use super::{PolicyEntry, PolicyState};
use crate::model::{
    GroupChoice, Kind, Name, ObjectKey, Origin, PolicyAction, PolicyPeer, PolicyRule, Problem,
    Severity, Subject,
};

impl PolicyState {
    /// Where a policy, namespace or group of ranges was read.
    #[must_use]
    pub fn locate(&self, key: &ObjectKey) -> Option<Origin> {
        match key.kind {
            Kind::CiliumCidrGroup => self.objects.groups.get(&key.name.name)?.origin.clone(),
            Kind::Namespace => self.objects.namespaces.get(&key.name.name)?.origin.clone(),
            _ => self.policies.get(key)?.origin.clone(),
        }
    }

    /// Number of objects by kind.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::CiliumCidrGroup => self.objects.groups.len(),
            Kind::Namespace => self.objects.namespaces.len(),
            _ => self.policies.keys().filter(|it| it.kind == kind).count(),
        }
    }

    /// What is wrong with policies, beside what makes an object unreadable.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let of_policies = self.policies_with_problems.iter();
        let mut problems: Vec<Problem> =
            of_policies.flat_map(|it| self.explain_policy(it)).collect();
        let pods = self.pods_without_number.values().flatten();
        problems.extend(pods.map(|it| self.explain_pod(it)));
        problems
    }

    /// What is wrong with one policy.
    pub(super) fn explain_policy(&self, key: &ObjectKey) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Some(entry) = self.policies.get(key) else { return problems };
        for spec in entry.specs.iter().filter_map(|it| self.specs.get(it)) {
            self.explain_spec(key, entry, spec, &mut problems);
        }
        problems
    }

    /// Notes a policy that has problems, or may have some when other objects change.
    pub(super) fn note_problems(&mut self, key: ObjectKey) {
        let specs = self.policies.get(&key).into_iter().flat_map(|it| &it.specs);
        let mut peers = specs.filter_map(|it| self.specs.get(it)).flat_map(SpecEntry::peers);
        let is_by_group = peers.any(|it| group_name(it).is_some());
        if is_by_group || !self.explain_policy(&key).is_empty() {
            self.policies_with_problems.insert(key);
        } else {
            self.policies_with_problems.remove(&key);
        }
    }

    fn explain_pod(&self, name: &Name) -> Problem {
        let key = ObjectKey { kind: Kind::Pod, name: name.clone() };
        Problem {
            location: self.objects.pods.get(name).and_then(|it| it.origin.clone()),
            object: key.to_string(),
            reason: "no identity: the cluster's pods have more different sets of labels than \
                     there are numbers; it is denied everything, and no rule for pods is about \
                     it: leave out labels that differ from pod to pod"
                .into(),
            severity: Severity::Refused,
        }
    }

    fn explain_spec(
        &self,
        key: &ObjectKey,
        entry: &PolicyEntry,
        spec: &SpecEntry,
        problems: &mut Vec<Problem>,
    ) {
        let mut add = |reason: String, severity| {
            let (location, object) = (entry.origin.clone(), key.to_string());
            problems.push(Problem { location, object, reason, severity });
        };
        if let Subject::Nodes(_) = spec.spec.subject {
            let reason =
                "spec.nodeSelector: not enforced: weir does not see the hosts' own traffic";
            add(reason.into(), Severity::Ignored);
            return;
        }
        let sections = [spec.spec.ingress.as_ref(), spec.spec.egress.as_ref()];
        for rule in sections.into_iter().flat_map(rules_of) {
            if let Some((reason, severity)) = self.explain_rule(rule) {
                add(format!("{}: {reason}", rule.path), severity);
            }
        }
    }

    /// The worst that is wrong with a rule.
    fn explain_rule(&self, rule: &PolicyRule) -> Option<(String, Severity)> {
        if let Some(reason) = &rule.unsupported {
            return Some((format!("{reason}: {}", explain_effect(rule)), Severity::Refused));
        }
        let is_missing = |peer: &&PolicyPeer| {
            group_name(peer).is_some_and(|it| !self.objects.groups.contains_key(it))
        };
        let mut missing = peers_of(rule).iter().filter(is_missing).peekable();
        if let Some(name) = missing.peek().and_then(|it| group_name(it)) {
            let about = explain_peers(rule, missing.count());
            let reason = format!("CiliumCIDRGroup {name} does not exist: {about} until it does");
            return Some((reason, Severity::Refused));
        }
        if rule.l7.is_some() {
            let reason = "needs the L7 proxy, which is not there yet: such connections are dropped";
            return Some((reason.into(), Severity::Ignored));
        }
        let names = peers_of(rule).iter().filter(|it| matches!(it, PolicyPeer::Fqdn(_))).count();
        (names > 0).then(|| {
            let about = explain_peers(rule, names);
            (format!("no DNS answers are known yet: {about}"), Severity::Ignored)
        })
    }
}

fn group_name(peer: &PolicyPeer) -> Option<&str> {
    match peer {
        PolicyPeer::CidrGroup { groups: GroupChoice::Name(name), .. } => Some(name),
        _ => None,
    }
}

/// Whom a rule is about where some of its peers are nobody.
fn explain_peers(rule: &PolicyRule, empty: usize) -> &'static str {
    match empty == peers_of(rule).len() {
        true => "the rule is about nobody",
        false => "the rule is about its other peers alone",
    }
}

fn explain_effect(rule: &PolicyRule) -> &'static str {
    match rule.action {
        PolicyAction::Allow => "the rule allows nothing",
        PolicyAction::Deny | PolicyAction::Pass => "the rule denies everything",
    }
}
