//! Which identity an address has, where several could claim it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use weir_tables::policy::{IdentityId, SelectorId};

use crate::model::{Cidr, Name, Pod};

/// A pod that has an address. Where several have the same, the one that is not being deleted and
/// was created last is believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodClaim {
    is_terminating: bool,
    created: Reverse<Option<String>>,
    name: Name,
}

impl From<&Pod> for PodClaim {
    fn from(pod: &Pod) -> Self {
        let created = Reverse(pod.created.clone());
        Self { is_terminating: pod.is_terminating, created, name: pod.name.clone() }
    }
}

/// Who says which identity an address has; the first in this order is believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A node, by name.
    Node(String),
    /// An endpoint attached here.
    Attached(Name),
    /// A pod in its node's network, for that node.
    HostPod(PodClaim),
    /// A pod.
    Pod(PodClaim),
    /// The API server, outside the cluster.
    ApiServer,
    /// Names that DNS answered with it.
    Fqdn,
    /// A range of a policy.
    Range(SelectorId),
}

/// Claims on addresses and ranges. A longer prefix wins over a shorter one, whoever claims it.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Each in order of their owners. Most have one.
    claims: BTreeMap<Cidr, Vec<(Owner, IdentityId)>>,
    changed: BTreeSet<Cidr>,
}

impl Addresses {
    /// Claims a range; returns the identity that the same owner claimed it for before.
    pub(super) fn claim(
        &mut self,
        range: Cidr,
        owner: Owner,
        id: IdentityId,
    ) -> Option<IdentityId> {
        self.changed.insert(range);
        let claims = self.claims.entry(range).or_default();
        match claims.binary_search_by(|(it, _)| it.cmp(&owner)) {
            Ok(at) => Some(std::mem::replace(&mut claims[at].1, id)),
            Err(at) => {
                claims.insert(at, (owner, id));
                None
            }
        }
    }

    /// Gives a claim up; returns its identity.
    pub(super) fn unclaim(&mut self, range: Cidr, owner: &Owner) -> Option<IdentityId> {
        let claims = self.claims.get_mut(&range)?;
        let at = claims.binary_search_by(|(it, _)| it.cmp(owner)).ok()?;
        let (_, id) = claims.remove(at);
        if claims.is_empty() {
            self.claims.remove(&range);
        }
        self.changed.insert(range);
        Some(id)
    }

    /// Whether a node has this address.
    pub(super) fn is_of_node(&self, address: &Cidr) -> bool {
        let first = self.claims.get(address).and_then(|it| it.first());
        matches!(first, Some((Owner::Node(_), _)))
    }

    /// What is new, differs or is gone since the last call.
    pub(super) fn take_changes(&mut self) -> BTreeMap<Cidr, Option<IdentityId>> {
        let changed = std::mem::take(&mut self.changed);
        let believed =
            |range: &Cidr| self.claims.get(range).and_then(|it| it.first()).map(|(_, id)| *id);
        changed.into_iter().map(|range| (range, believed(&range))).collect()
    }
}
