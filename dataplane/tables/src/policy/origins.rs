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

impl Origins {
    pub(super) fn number(&mut self, origin: &str, log: &str) -> RuleId {
        let origin = RuleOrigin { origin: origin.to_owned(), log: log.to_owned() };
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
