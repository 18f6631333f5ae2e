//! Numbers of rules' origins, which stay the same for as long as the process runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::paged::Paged;
use super::rows::RuleId;

/// What a rule's number stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleOrigin {
    /// `KIND NAMESPACE/NAME: PATH`.
    pub origin: String,
    /// What the policy wants in the log.
    pub log: String,
}

/// Every origin that there ever was, each once.
#[derive(Debug, Default)]
pub(super) struct Origins {
    numbers: HashMap<Arc<RuleOrigin>, RuleId>,
    pub(super) by_number: Paged<Option<Arc<RuleOrigin>>>,
}

/// Most origins that are told apart; those that come later share a number.
const ORIGINS_MAX: usize = 1 << 18;

impl Origins {
    pub(super) fn number(&mut self, origin: &str, log: &str) -> RuleId {
        let origin = match self.numbers.len() < ORIGINS_MAX {
            true => RuleOrigin { origin: origin.to_owned(), log: log.to_owned() },
            false => RuleOrigin {
                origin: "a rule: the node has seen too many to name this one".into(),
                log: String::new(),
            },
        };
        if let Some(number) = self.numbers.get(&origin) {
            return *number;
        }
        let number = RuleId(RuleId::MISSING.0 + 1 + self.numbers.len() as u32);
        let origin = Arc::new(origin);
        self.by_number.set(number.0, Some(Arc::clone(&origin)));
        self.numbers.insert(origin, number);
        number
    }
}
