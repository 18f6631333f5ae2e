//! What is wrong across objects.

use weir_api::v1::FrontendKey;

use super::{Claim, Desired, DesiredKey};
use crate::compile::FrontendId;
use crate::model::{Kind, Name, ObjectKey, Origin, Problem, Severity};

impl Desired {
    /// What is wrong across objects; what is wrong within one is the source's to report.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let within = self.with_problems.iter().filter_map(|key| self.compiled.get(key));
        let mut problems: Vec<Problem> =
            within.flat_map(|compiled| compiled.problems.iter().cloned()).collect();
        problems.extend(self.contested.iter().flat_map(|id| self.explain_contest(id)));
        problems.extend(self.explain_health_checks());
        problems.extend(self.explain_unknown_node());
        problems.extend(self.policy.problems());
        problems.sort();
        problems
    }

    fn explain_contest(&self, id: &FrontendId) -> Vec<Problem> {
        let mut claims = self.claims.get(id).into_iter().flatten();
        let Some(owner) = claims.next() else { return Vec::new() };
        let at = self.locate(&owner.object).map(|it| format!(" ({it})")).unwrap_or_default();
        let key = FrontendKey::new(id.0, id.1);
        let explain = |claim: &Claim| Problem {
            location: self.locate(&claim.object),
            object: claim.object.to_string(),
            reason: format!("{key} belongs to {}{at}: give it another", owner.object),
            severity: Severity::Refused,
        };
        claims.map(explain).collect()
    }

    fn explain_health_checks(&self) -> Vec<Problem> {
        let contested = self.health_checks.iter().filter(|(_, services)| services.len() > 1);
        let explain = |(port, services): (&u16, &std::collections::BTreeMap<Name, u32>)| {
            let mut names = services.keys().cloned();
            let owner = names.next();
            let owner = owner.map(|it| it.to_string()).unwrap_or_default();
            let reason = format!(
                "spec.healthCheckNodePort: {port} belongs to Service {owner}: give it another"
            );
            let explain = move |name: Name| {
                let key = ObjectKey { kind: Kind::Service, name };
                Problem {
                    location: self.locate(&key),
                    object: key.to_string(),
                    reason: reason.clone(),
                    severity: Severity::Refused,
                }
            };
            names.map(explain).collect::<Vec<_>>()
        };
        contested.flat_map(explain).collect()
    }

    /// An object of the desired state for people who are told that the dataplane refuses it.
    #[must_use]
    pub fn describe(&self, key: &DesiredKey) -> String {
        let name = key.reference().to_string();
        match key {
            DesiredKey::PolicyRules(rules) => {
                format!("{name} ({})", self.policy.explain_rules(rules))
            }
            _ => name,
        }
    }

    /// Where an object was read.
    #[must_use]
    pub fn locate(&self, key: &ObjectKey) -> Option<Origin> {
        match key.kind {
            Kind::Service => self.services.get(&key.name)?.origin.clone(),
            Kind::Pod => self.pods.get(&key.name)?.origin.clone(),
            Kind::EndpointSlice => self.slices.get(&key.name)?.origin.clone(),
            Kind::Node => self.nodes.get(&key.name.name)?.origin.clone(),
            _ => self.policy.locate(key),
        }
    }

    fn explain_unknown_node(&self) -> Option<Problem> {
        let name = &self.settings.name;
        let is_known = self.nodes.contains_key(name);
        (!is_known && self.settings.addresses.is_empty()).then(|| Problem {
            location: None,
            object: format!("Node {name}"),
            reason:
                "no such Node object and no --node-address: this node's own addresses are unknown"
                    .into(),
            severity: Severity::Ignored,
        })
    }
}
