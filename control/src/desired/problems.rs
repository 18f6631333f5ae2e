//! What is wrong across objects.

use weir_api::v1::FrontendKey;

use super::{Claim, Desired};
use crate::compile::FrontendId;
use crate::model::{Name, Problem, Severity};

impl Desired {
    /// What is wrong across objects; what is wrong within one is the source's to report.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let within = self.with_problems.iter().filter_map(|name| self.compiled.get(name));
        let mut problems: Vec<Problem> =
            within.flat_map(|compiled| compiled.problems.iter().cloned()).collect();
        problems.extend(self.contested.iter().flat_map(|id| self.explain_contest(id)));
        problems.extend(self.explain_unknown_node());
        problems.sort();
        problems
    }

    fn explain_contest(&self, id: &FrontendId) -> Vec<Problem> {
        let mut claims = self.claims.get(id).into_iter().flatten();
        let Some(owner) = claims.next() else { return Vec::new() };
        let locate = |claim: &Claim| self.services.get(&claim.service)?.origin.clone();
        let at = locate(owner).map(|it| format!(" ({it})")).unwrap_or_default();
        let key = FrontendKey::new(id.0, id.1);
        let explain = |claim: &Claim| Problem {
            location: locate(claim),
            object: format!("Service {}", claim.service),
            reason: format!("{key} belongs to Service {}{at}: give it another", owner.service),
            severity: Severity::Refused,
        };
        claims.map(explain).collect()
    }

    fn explain_unknown_node(&self) -> Option<Problem> {
        let name = &self.settings.name;
        let is_known = self.nodes.contains_key(&Name::new("", name));
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
