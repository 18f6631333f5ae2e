//! Policy as workers and offline checks read it.

use std::collections::HashMap;
use std::sync::Arc;

use rpds::HashTrieMapSync;
use weir_packet::Addr;

use super::limits::{ADDRESSES_MAX, IDENTITIES_MAX, RANGES_MAX, TABLES_MAX};
use super::origins::RuleOrigin;
use super::paged::Paged;
use super::ranges::RangeTree;
use super::rows::{
    Direction, Identity, IdentityId, L4, PolicyVerdict, RuleId, RulePeers, SelectorId,
};
use super::table::PolicyTable;

/// The region of all IPv4 addresses that are in no prefix, and that of all IPv6 addresses.
pub(super) const REGION_V4: u32 = 1;
pub(super) const REGION_V6: u32 = 2;

/// What is known of a peer. Valid in the view that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: IdentityId,
    /// The newest revision in which rules began or ceased to be about it.
    pub since: u32,
    pub(super) group: u32,
}

/// A number that stands for a peer's class, and since when for whoever has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    /// [`Membership::GONE`]: no address that is known any more.
    pub(super) class: u32,
    /// The revision in which the peer came to the group that the class had then.
    pub(super) since: u32,
    /// The revision in which the peer came to the class: its later changes count.
    pub(super) joined: u32,
}

impl Membership {
    pub(super) const GONE: u32 = u32::MAX;
}

/// What all peers of a class have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClassRow {
    pub(super) identity: IdentityId,
    pub(super) group: u32,
    /// The revision in which it came to another group.
    pub(super) since: u32,
}

/// The place that endpoints have their rules from.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    pub(super) table: Option<Arc<PolicyTable>>,
    /// The revision in which the rules came or went.
    pub(super) since: u32,
}

/// An identity, and the peer of it that no range contains.
#[derive(Clone, Debug)]
pub(super) struct IdentityRow {
    pub(super) identity: Arc<Identity>,
    pub(super) member: Membership,
}

/// Policy as of one revision. Cloning shares everything.
#[derive(Clone, Debug, Default)]
pub struct PolicyView {
    pub(super) addresses: HashTrieMapSync<Addr, Membership>,
    pub(super) ranges: RangeTree,
    pub(super) regions: Paged<Membership>,
    pub(super) classes: Paged<ClassRow>,
    pub(super) identities: HashTrieMapSync<IdentityId, IdentityRow>,
    /// The newest revision in which an identity went.
    pub(super) identity_gone: u32,
    pub(super) slots: Paged<Slot>,
    pub(super) names: HashTrieMapSync<String, u32>,
    pub(super) origins: Paged<Option<Arc<RuleOrigin>>>,
    pub(super) sizes: [usize; 4],
}

impl PolicyView {
    /// Who an address is: of the longest prefix that contains it, else the world of its family.
    #[inline]
    pub fn peer(&self, addr: &Addr) -> Peer {
        let member = self.addresses.get(addr);
        match member {
            Some(member) if member.class != Membership::GONE => self.resolve(member),
            _ => {
                let peer = self.region(self.region_of(addr));
                // Who went came to its region then: only what befell that later counts.
                let gone = member.filter(|gone| peer.since <= gone.joined);
                Peer { since: gone.map_or(peer.since, |gone| gone.since), ..peer }
            }
        }
    }

    /// A peer of an identity with an address that no range contains.
    pub fn peer_of(&self, identity: IdentityId) -> Peer {
        match self.identities.get(&identity) {
            Some(row) => self.resolve(&row.member),
            None => Peer { identity, since: self.identity_gone, group: 0 },
        }
    }

    /// The rules of a name.
    pub fn table(&self, name: &str) -> Option<&Arc<PolicyTable>> {
        self.slots.get(*self.names.get(name)?).table.as_ref()
    }

    /// All tables, in no order.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<PolicyTable>> {
        self.names.values().filter_map(|slot| self.slots.get(*slot).table.as_ref())
    }

    /// An identity, if it has been sent.
    pub fn identity(&self, id: IdentityId) -> Option<&Identity> {
        self.identities.get(&id).map(|row| &*row.identity)
    }

    /// All identities, in no order.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.identities.values().map(|row| &*row.identity)
    }

    /// What [`PolicyVerdict::rule`] stands for.
    pub fn rule(&self, id: RuleId) -> Option<&RuleOrigin> {
        self.origins.get(id.0).as_deref()
    }

    /// For each rule of a table, in order, the number of identities that it is about; `None` where
    /// it is about any peer. Ranges are no identities.
    pub fn identities_by_rule(
        &self,
        table: &PolicyTable,
        direction: Direction,
    ) -> Vec<Option<u32>> {
        let mut members: HashMap<SelectorId, Vec<IdentityId>> = HashMap::new();
        for identity in self.identities() {
            for selector in &identity.selectors {
                members.entry(*selector).or_default().push(identity.id);
            }
        }
        let count = |peers: &RulePeers| match peers {
            RulePeers::Any => None,
            RulePeers::Of(selectors) => {
                let lists = selectors.iter().filter_map(|selector| members.get(selector));
                let mut all: Vec<IdentityId> = lists.flatten().copied().collect();
                all.sort_unstable();
                all.dedup();
                Some(all.len() as u32)
            }
        };
        table.rules(direction).map(|(_, rule)| count(&rule.peers)).collect()
    }

    /// How full each table is: name, rows, most rows.
    pub(crate) fn sizes(&self) -> [(&'static str, usize, usize); 4] {
        let [identities, addresses, ranges, tables] = self.sizes;
        [
            ("identities", identities, IDENTITIES_MAX * 2),
            ("peer_addresses", addresses, ADDRESSES_MAX),
            ("address_ranges", ranges, RANGES_MAX),
            ("policy_tables", tables, TABLES_MAX),
        ]
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<&Arc<PolicyTable>> {
        self.slots.get(slot).table.as_ref()
    }

    #[inline]
    pub(crate) fn judge_by(
        &self,
        slot: u32,
        direction: Direction,
        addr: &Addr,
        l4: L4,
    ) -> PolicyVerdict {
        match &self.slots.get(slot).table {
            Some(table) => table.judge(direction, self.peer(addr), l4),
            None => PolicyVerdict::MISSING,
        }
    }

    /// The newest revision in which anything changed that a verdict by a slot follows from.
    pub(crate) fn judged_since(&self, slot: u32, direction: Direction, addr: &Addr) -> u32 {
        let slot = self.slots.get(slot);
        match &slot.table {
            Some(table) if table.has_rules(direction) && !table.is_closed() => {
                slot.since.max(self.peer(addr).since)
            }
            _ => slot.since,
        }
    }

    #[inline]
    pub(super) fn region(&self, region: u32) -> Peer {
        self.resolve(self.regions.get(region))
    }

    #[inline]
    pub(super) fn region_of(&self, addr: &Addr) -> u32 {
        self.ranges.lookup(addr, if addr.is_v4() { REGION_V4 } else { REGION_V6 })
    }

    #[inline]
    fn resolve(&self, member: &Membership) -> Peer {
        let class = self.classes.get(member.class);
        let is_later = class.since > member.joined;
        let since = if is_later { class.since } else { member.since };
        Peer { identity: class.identity, since, group: class.group }
    }
}
