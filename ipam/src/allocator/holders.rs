//! Who has which address, looked up both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_control::model::Name;

use super::Block;

/// Those who have one address.
#[derive(Debug, Default)]
struct Sharers {
    ours: BTreeSet<Name>,
    foreign: BTreeSet<Name>,
}

/// Addresses and Services. Foreign holders have theirs from elsewhere: nothing is ever taken from
/// them, and nobody else is given it.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_address: BTreeMap<IpAddr, Sharers>,
    ours: BTreeMap<Name, Vec<IpAddr>>,
    foreign: BTreeMap<Name, Vec<IpAddr>>,
}

impl Holders {
    pub(super) fn held_by(&self, name: &Name) -> &[IpAddr] {
        self.ours.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those who have it from a pool.
    pub(super) fn ours(&self, address: IpAddr) -> Vec<Name> {
        self.by_address.get(&address).iter().flat_map(|it| &it.ours).cloned().collect()
    }

    pub(super) fn all(&self, address: IpAddr) -> Vec<Name> {
        let sharers = self.by_address.get(&address);
        sharers.iter().flat_map(|it| it.ours.iter().chain(&it.foreign)).cloned().collect()
    }

    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    pub(super) fn is_foreign(&self, address: IpAddr) -> bool {
        self.by_address.get(&address).is_some_and(|it| !it.foreign.is_empty())
    }

    /// Number of taken addresses in a block.
    pub(super) fn count(&self, block: Block) -> u64 {
        self.by_address.range(block.first()..=block.last()).count() as u64
    }

    pub(super) fn add(&mut self, name: &Name, address: IpAddr) {
        if self.by_address.entry(address).or_default().ours.insert(name.clone()) {
            self.ours.entry(name.clone()).or_default().push(address);
        }
    }

    /// Says whether it had it.
    pub(super) fn remove(&mut self, name: &Name, address: IpAddr) -> bool {
        let Some(sharers) = self.by_address.get_mut(&address) else { return false };
        let existed = sharers.ours.remove(name);
        self.drop_empty(address);
        if let Some(held) = self.ours.get_mut(name) {
            held.retain(|it| *it != address);
            if held.is_empty() {
                self.ours.remove(name);
            }
        }
        existed
    }

    /// Returns addresses that may have become free.
    pub(super) fn replace_foreign(&mut self, name: &Name, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut old = self.foreign.remove(name).unwrap_or_default();
        for address in &old {
            if let Some(sharers) = self.by_address.get_mut(address) {
                sharers.foreign.remove(name);
                self.drop_empty(*address);
            }
        }
        for address in addresses {
            self.by_address.entry(*address).or_default().foreign.insert(name.clone());
        }
        if !addresses.is_empty() {
            self.foreign.insert(name.clone(), addresses.to_vec());
        }
        old.retain(|it| !addresses.contains(it));
        old
    }

    fn drop_empty(&mut self, address: IpAddr) {
        let sharers = self.by_address.get(&address);
        if sharers.is_some_and(|it| it.ours.is_empty() && it.foreign.is_empty()) {
            self.by_address.remove(&address);
        }
    }
}
