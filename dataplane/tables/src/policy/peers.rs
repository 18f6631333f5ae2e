//! The writer's side of peers: identities, addresses, ranges and selectors of ranges, and what has
//! to be looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_packet::Addr;

use super::groups::{Classes, Groups, Selectors};
use super::limits::{self, ADDRESSES_MAX, CIDR_SELECTORS_MAX, RANGES_MAX};
use super::paged::Numbers;
use super::rows::{CidrSelector, Identity, IdentityId, SelectorId};
use crate::network::Prefix;
use crate::rejection::Rejection;

/// An address of its own class, and why it has an identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Control said so: goes before the others.
    stated: Option<IdentityId>,
    is_host: bool,
    /// Of a pod of this node.
    endpoint: Option<IdentityId>,
}

impl Known {
    pub(super) fn identity(&self) -> Option<IdentityId> {
        let host = self.is_host.then_some(IdentityId::HOST);
        self.stated.or(host).or(self.endpoint)
    }
}

/// A prefix that something is said about. Addresses of which it is the longest are a *region*:
/// the same is known of all of them.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) region: u32,
    pub(super) stated: Option<IdentityId>,
    pub(super) within: Vec<SelectorId>,
    pub(super) except: Vec<SelectorId>,
    /// Not in any view yet.
    pub(super) is_new: bool,
}

impl Range {
    fn is_empty(&self) -> bool {
        self.stated.is_none() && self.within.is_empty() && self.except.is_empty()
    }
}

/// The selectors of ranges that choose the addresses of a region.
#[derive(Clone, Debug)]
pub(super) struct Members {
    /// If the address is outside the cluster.
    pub(super) of_world: Selectors,
    /// If it is of a pod or a node.
    pub(super) of_cluster: Selectors,
}

/// Everything about peers that rules do not say.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) identities: BTreeMap<IdentityId, Arc<Identity>>,
    local_identities: usize,
    pub(super) known: BTreeMap<Addr, Known>,
    stated_addresses: usize,
    /// Those about which nothing is said any more are kept for a while, so that nobody else is
    /// looked at again because they went.
    pub(super) ranges: BTreeMap<Prefix, Range>,
    /// How many ranges have a length, for each family.
    lengths: BTreeMap<(bool, u8), usize>,
    pub(super) region_numbers: Numbers,
    /// By region.
    pub(super) members: Vec<Members>,
    pub(super) cidrs: BTreeMap<SelectorId, CidrSelector>,
    pub(super) classes: Classes,
    pub(super) groups: Groups,
    /// Addresses and ranges of which views still remember when they went.
    pub(super) gone: BTreeSet<Addr>,
    pub(super) dead: BTreeSet<Prefix>,
    pub(super) dirty_identities: BTreeSet<IdentityId>,
    pub(super) dirty_known: BTreeSet<Addr>,
    pub(super) dirty_ranges: BTreeSet<Prefix>,
}

impl Default for Peers {
    fn default() -> Peers {
        let mut peers = Peers {
            identities: BTreeMap::new(),
            local_identities: 0,
            known: BTreeMap::new(),
            stated_addresses: 0,
            ranges: BTreeMap::new(),
            lengths: BTreeMap::new(),
            region_numbers: Numbers::default(),
            members: Vec::new(),
            cidrs: BTreeMap::new(),
            classes: Classes::default(),
            groups: Groups::default(),
            gone: BTreeSet::new(),
            dead: BTreeSet::new(),
            dirty_identities: BTreeSet::new(),
            dirty_known: BTreeSet::new(),
            dirty_ranges: BTreeSet::new(),
        };
        // Region 0 stands for none.
        peers.region_numbers.take();
        for is_v4 in [true, false] {
            peers.range(Prefix::of_family(is_v4));
        }
        peers
    }
}

impl Peers {
    pub(super) fn upsert_identity(&mut self, mut identity: Identity) -> Result<(), Rejection> {
        identity.selectors.sort_unstable();
        identity.selectors.dedup();
        let id = identity.id;
        if self.identities.get(&id).is_some_and(|known| **known == identity) {
            return Ok(());
        }
        let is_local = (IdentityId::LOCAL_MIN..=IdentityId::LOCAL_MAX).contains(&id);
        let is_known = self.identities.contains_key(&id);
        let count = match is_local {
            true => self.local_identities,
            false => self.identities.len() - self.local_identities,
        };
        limits::check_identity(&identity, count + usize::from(!is_known))?;
        self.identities.insert(id, Arc::new(identity));
        self.local_identities += usize::from(is_local && !is_known);
        self.dirty_identities.insert(id);
        Ok(())
    }

    pub(super) fn delete_identity(&mut self, id: IdentityId) {
        if self.identities.remove(&id).is_some() {
            let is_local = (IdentityId::LOCAL_MIN..=IdentityId::LOCAL_MAX).contains(&id);
            self.local_identities -= usize::from(is_local);
            self.dirty_identities.insert(id);
        }
    }

    pub(super) fn upsert_address(
        &mut self,
        prefix: Prefix,
        identity: IdentityId,
    ) -> Result<(), Rejection> {
        if !prefix.is_single() {
            self.check_room([&prefix])?;
            let range = self.range(prefix);
            if range.stated.replace(identity) != Some(identity) {
                self.dirty_ranges.insert(prefix);
            }
            return Ok(());
        }
        let addr = prefix.addr();
        let is_new = self.known.get(&addr).is_none_or(|known| known.stated.is_none());
        if is_new && self.stated_addresses >= ADDRESSES_MAX {
            return Err(Rejection::Full("the table of peers' addresses", ADDRESSES_MAX));
        }
        self.stated_addresses += usize::from(is_new);
        self.change_known(addr, |known| known.stated = Some(identity));
        Ok(())
    }

    pub(super) fn delete_address(&mut self, prefix: &Prefix) {
        if prefix.is_single() {
            if self.known.get(&prefix.addr()).is_some_and(|known| known.stated.is_some()) {
                self.stated_addresses -= 1;
                self.change_known(prefix.addr(), |known| known.stated = None);
            }
        } else if let Some(range) = self.ranges.get_mut(prefix)
            && range.stated.take().is_some()
        {
            self.leave(prefix);
        }
    }

    pub(super) fn set_endpoint_addr(&mut self, addr: Addr, identity: Option<IdentityId>) {
        self.change_known(addr, |known| known.endpoint = identity);
    }

    pub(super) fn set_host_addr(&mut self, addr: Addr, is_host: bool) {
        self.change_known(addr, |known| known.is_host = is_host);
    }

    fn change_known(&mut self, addr: Addr, change: impl FnOnce(&mut Known)) {
        let known = self.known.entry(addr).or_default();
        let before = known.identity();
        change(known);
        if known.identity() != before {
            self.dirty_known.insert(addr);
        }
        if *known == Known::default() {
            self.known.remove(&addr);
        }
    }

    pub(super) fn upsert_cidr(&mut self, mut selector: CidrSelector) -> Result<(), Rejection> {
        for prefixes in [&mut selector.prefixes, &mut selector.except] {
            prefixes.sort_unstable();
            prefixes.dedup();
        }
        let id = selector.id;
        let before = self.cidrs.get(&id);
        if before == Some(&selector) {
            return Ok(());
        }
        if before.is_none() && self.cidrs.len() >= CIDR_SELECTORS_MAX {
            return Err(Rejection::Full("the table of address selectors", CIDR_SELECTORS_MAX));
        }
        self.check_room(selector.prefixes.iter().chain(&selector.except))?;
        let before = self.cidrs.insert(id, selector.clone());
        let is_other_kind =
            before.as_ref().is_some_and(|before| before.is_world_only != selector.is_world_only);
        if let Some(before) = before {
            self.detach(&before, |prefix, is_except| {
                let kept = if is_except { &selector.except } else { &selector.prefixes };
                !is_other_kind && kept.binary_search(prefix).is_ok()
            });
        }
        for prefix in &selector.prefixes {
            self.attach(*prefix, id, |range| &mut range.within);
        }
        for prefix in &selector.except {
            self.attach(*prefix, id, |range| &mut range.except);
        }
        Ok(())
    }

    pub(super) fn delete_cidr(&mut self, id: SelectorId) {
        if let Some(before) = self.cidrs.remove(&id) {
            self.detach(&before, |_, _| false);
        }
    }

    fn attach(
        &mut self,
        prefix: Prefix,
        id: SelectorId,
        list: impl Fn(&mut Range) -> &mut Vec<SelectorId>,
    ) {
        let list = list(self.range(prefix));
        if !list.contains(&id) {
            list.push(id);
            self.dirty_ranges.insert(prefix);
        }
    }

    fn detach(&mut self, selector: &CidrSelector, is_kept: impl Fn(&Prefix, bool) -> bool) {
        for (prefixes, is_except) in [(&selector.prefixes, false), (&selector.except, true)] {
            for prefix in prefixes.iter().filter(|prefix| !is_kept(prefix, is_except)) {
                let Some(range) = self.ranges.get_mut(prefix) else { continue };
                let list = if is_except { &mut range.except } else { &mut range.within };
                list.retain(|id| *id != selector.id);
                self.leave(prefix);
            }
        }
    }

    fn check_room<'a>(
        &self,
        prefixes: impl IntoIterator<Item = &'a Prefix>,
    ) -> Result<(), Rejection> {
        let is_live =
            |prefix: &&Prefix| self.ranges.contains_key(*prefix) && !self.dead.contains(*prefix);
        let added = prefixes.into_iter().filter(|prefix| !is_live(prefix)).count();
        if self.live_ranges() + added > RANGES_MAX {
            return Err(Rejection::Full("the table of address ranges", RANGES_MAX));
        }
        Ok(())
    }

    /// The range of a prefix, which is made if there is none.
    fn range(&mut self, prefix: Prefix) -> &mut Range {
        self.dead.remove(&prefix);
        self.ranges.entry(prefix).or_insert_with(|| {
            let region = self.region_numbers.take();
            let nothing = Members { of_world: [].into(), of_cluster: [].into() };
            if self.members.len() <= region as usize {
                self.members.resize(region as usize + 1, nothing);
            }
            *self.lengths.entry((prefix.addr().is_v4(), prefix.length())).or_default() += 1;
            self.dirty_ranges.insert(prefix);
            let (within, except) = (Vec::new(), Vec::new());
            Range { region, stated: None, within, except, is_new: true }
        })
    }

    /// Something is not said of a range any more.
    fn leave(&mut self, prefix: &Prefix) {
        self.dirty_ranges.insert(*prefix);
        if self.ranges.get(prefix).is_some_and(Range::is_empty) && prefix.length() > 0 {
            self.dead.insert(*prefix);
        }
    }

    /// Forgets a dead range.
    pub(super) fn forget(&mut self, prefix: &Prefix) -> Option<Range> {
        let range = self.ranges.remove(prefix)?;
        self.dead.remove(prefix);
        self.region_numbers.give_back(range.region);
        let key = (prefix.addr().is_v4(), prefix.length());
        if let Some(count) = self.lengths.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&key);
            }
        }
        Some(range)
    }

    /// The ranges that contain a prefix, itself first, the longest first.
    pub(super) fn around(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &Range)> {
        let is_v4 = prefix.addr().is_v4();
        let lengths = self.lengths.range((is_v4, 0)..=(is_v4, prefix.length())).rev();
        lengths.filter_map(move |((_, length), _)| {
            let around = prefix.shortened(*length);
            self.ranges.get(&around).map(|range| (around, range))
        })
    }

    /// Whether nothing changed since the last view.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty_identities.is_empty()
            && self.dirty_known.is_empty()
            && self.dirty_ranges.is_empty()
    }

    /// Numbers of identities, of addresses and of ranges.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.identities.len(), self.stated_addresses, self.live_ranges()]
    }

    /// Without those of all addresses of a family, which are always there.
    fn live_ranges(&self) -> usize {
        self.ranges.len() - self.dead.len() - 2
    }

    pub(super) fn stated_addresses(&self) -> impl Iterator<Item = Prefix> {
        let single = self.known.iter().filter(|(_, known)| known.stated.is_some());
        let single = single.map(|(addr, _)| Prefix::of_addr(*addr));
        let ranges = self.ranges.iter().filter(|(_, range)| range.stated.is_some());
        single.chain(ranges.map(|(prefix, _)| *prefix))
    }
}
