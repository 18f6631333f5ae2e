//! Identities, what they are chosen by, and the addresses that they have.

use weir_tables::policy::{IdentityId, SelectorId};

use super::addresses::Addresses;
use super::identities::{Identities, Scope};
use super::index::Labels;
use super::selectors::{SelectorKey, Selectors};

/// All that rules can be about.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) identities: Identities,
    pub(super) selectors: Selectors,
    pub(super) addresses: Addresses,
}

impl Peers {
    /// The identity with these labels, for one more user; `None` where no number is left.
    pub(super) fn acquire_identity(&mut self, labels: Labels, scope: Scope) -> Option<IdentityId> {
        let (id, is_new) = self.identities.acquire(labels, scope)?;
        if is_new {
            self.selectors.add_identity(id, &mut self.identities);
        }
        Some(id)
    }

    /// The number of a selector, for one more user.
    pub(super) fn acquire_selector(&mut self, key: SelectorKey) -> SelectorId {
        self.selectors.acquire(key, &mut self.identities)
    }

    /// Forgets what nobody uses; whether there was any.
    pub(super) fn collect_idle(&mut self) -> bool {
        let is_some = self.selectors.collect_idle(&mut self.identities);
        let gone = self.identities.collect_idle();
        for (id, selectors) in &gone {
            self.selectors.remove_identity(*id, selectors);
        }
        is_some || !gone.is_empty()
    }
}
