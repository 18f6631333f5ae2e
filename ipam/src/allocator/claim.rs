//! What a Service asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_control::model::{Family, Name};

/// A port that a Service has at its address: protocol as Kubernetes writes it, and number.
pub type ClaimedPort = (String, u16);

/// A Service, as far as its load balancer addresses are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `namespace/name`.
    pub name: Name,
    /// Tells it from an earlier one of its name.
    pub uid: String,
    /// RFC 3339; where two cannot both have what they ask for, the older has it.
    pub created: String,
    /// What selectors of pools match.
    pub labels: BTreeMap<String, String>,
    /// Families in which it wants an address, in its order; none where it wants none from weir.
    pub families: Vec<Family>,
    /// It is content with one family.
    pub is_any_family_enough: bool,
    /// Addresses that it asks for by name, or what is wrong with how it asks.
    pub requested: Result<Vec<IpAddr>, String>,
    /// Services of its namespace with the same key may have the same address.
    pub sharing_key: Option<String>,
    /// At its address.
    pub ports: BTreeSet<ClaimedPort>,
    /// `externalTrafficPolicy: Local`.
    pub is_local: bool,
    /// Of its pods.
    pub selector: BTreeMap<String, String>,
    /// Addresses in its status.
    pub current: Vec<IpAddr>,
    /// Addresses that it has from somewhere else.
    pub foreign: Vec<IpAddr>,
}

impl Claim {
    /// Whether both can be served at one address: each port leads to one of them, and the node
    /// that answers for the address suits both.
    #[must_use]
    pub fn can_share(&self, other: &Self) -> bool {
        let is_one_key = self.sharing_key.is_some() && self.sharing_key == other.sharing_key;
        let is_one_namespace = self.name.namespace == other.name.namespace;
        let is_anywhere = !self.is_local && !other.is_local;
        let is_one_place = is_anywhere || self.selector == other.selector;
        is_one_key && is_one_namespace && is_one_place && self.ports.is_disjoint(&other.ports)
    }

    /// Orders by age, then by name.
    pub(super) fn age(&self) -> (&str, &Name) {
        (&self.created, &self.name)
    }

    pub(super) fn requested_in(&self, family: Family) -> Option<IpAddr> {
        let all = self.requested.as_deref().unwrap_or_default();
        all.iter().copied().find(|it| Family::of(*it) == family)
    }
}
