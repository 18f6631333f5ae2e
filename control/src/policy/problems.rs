//! What of policies has no effect, and which pods have no identity.

use super::specs::{SpecEntry, rules_of};
use super::{PolicyEntry, PolicyState};
use crate::model::{
    Kind, Name, ObjectKey, Origin, PolicyAction, PolicyRule, Problem, Severity, Subject,
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
        problems.extend(self.pods_without_number.iter().map(|it| self.explain_pod(it)));
        problems
    }

    /// What is wrong with one policy.
    pub(super) fn explain_policy(&self, key: &ObjectKey) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Some(entry) = self.policies.get(key) else { return problems };
        for spec in entry.specs.iter().filter_map(|it| self.specs.get(it)) {
            explain_spec(key, entry, spec, &mut problems);
        }
        problems
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
}

fn explain_spec(
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
        let reason = "spec.nodeSelector: not enforced: weir does not see the hosts' own traffic";
        add(reason.into(), Severity::Ignored);
        return;
    }
    let sections = [spec.spec.ingress.as_ref(), spec.spec.egress.as_ref()];
    for rule in sections.into_iter().flat_map(rules_of) {
        if let Some(reason) = &rule.unsupported {
            add(format!("{}: {reason}: {}", rule.path, explain_effect(rule)), Severity::Refused);
        }
    }
}

fn explain_effect(rule: &PolicyRule) -> &'static str {
    match rule.action {
        PolicyAction::Allow => "the rule allows nothing",
        PolicyAction::Deny | PolicyAction::Pass => "the rule denies everything",
    }
}
