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
    /// The identity with these labels, for one more user.
    ///
    /// # Errors
    /// The labels, where no number is left.
    pub(super) fn acquire_identity(
        &mut self,
        labels: Labels,
        scope: Scope,
    ) -> Result<IdentityId, Labels> {
        let (id, is_new) = self.identities.acquire(labels, scope)?;
        if is_new {
            self.selectors.add_identity(id, &mut self.identities);
        }
        Ok(id)
    }

    /// The number of a selector, for one more user.
    pub(super) fn acquire_selector(&mut self, key: SelectorKey) -> SelectorId {
        self.selectors.acquire(key, &mut self.identities)
    }

    /// Forgets what nobody uses. How many numbers for pods are free by that; `None`: there was
    /// nothing to forget.
    pub(super) fn collect_idle(&mut self) -> Option<usize> {
        let is_some = self.selectors.collect_idle(&mut self.identities);
        let gone = self.identities.collect_idle();
        for (id, selectors) in &gone {
            self.selectors.remove_identity(*id, selectors);
        }
        let freed = gone.iter().filter(|(id, _)| Identities::is_of_pods(*id)).count();
        (is_some || !gone.is_empty()).then_some(freed)
    }
}
