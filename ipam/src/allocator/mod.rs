//! Which Service has which address: a pure state machine without a store of its own.
//!
//! What Services have is in their status. The first [`Allocator::settle`] comes after everything
//! has been put in once; it takes over those addresses before it gives out any, so that a restart,
//! or another process that takes over, changes nothing. After that:
//!
//! - A Service keeps its address until it wants none, or gets another one that it asked for, or can
//!   no longer share it with an older one. What becomes of a pool never takes an address away.
//! - Of Services that cannot all have what they want, the oldest come first.
//! - Of pools with addresses in common, the oldest counts.

mod block;
mod claim;
mod holders;
mod outcome;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use block::Block;
pub use claim::{Claim, ClaimedPort};
use holders::Holders;
pub use outcome::{Outcome, Refusal};
pub use pool::{Fill, Pool, PoolContent, PoolProblem};
use pool::{PoolState, settle_pools};
use weir_control::model::{Family, Name};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Pools, Services, and who has what.
#[derive(Debug, Default)]
pub struct Allocator {
    pools: BTreeMap<String, PoolState>,
    claims: BTreeMap<Name, Claim>,
    namespaces: BTreeMap<String, Labels>,
    holders: Holders,
    outcomes: BTreeMap<Name, Outcome>,
    /// Services by namespace and key.
    by_key: BTreeMap<(String, String), BTreeSet<Name>>,
    /// Whom Services lost addresses to in this settling.
    lost: BTreeMap<Name, Vec<Refusal>>,
    /// Services to look at.
    dirty: BTreeSet<Name>,
    /// Services that want something that they do not have.
    waiting: BTreeSet<Name>,
    are_pools_dirty: bool,
    /// An address became free, or may be shared: somebody who waits may have it.
    has_news: bool,
}

impl Allocator {
    /// Adds a pool or replaces it.
    pub fn put_pool(&mut self, pool: Pool) {
        self.pools.insert(pool.name.clone(), PoolState::new(pool));
        self.are_pools_dirty = true;
    }

    /// Removes a pool; Services keep its addresses.
    pub fn remove_pool(&mut self, name: &str) {
        self.are_pools_dirty |= self.pools.remove(name).is_some();
    }

    /// Adds a namespace or replaces it.
    pub fn put_namespace(&mut self, name: &str, labels: Labels) {
        let old = self.namespaces.insert(name.to_owned(), labels);
        self.are_pools_dirty |= old.as_ref() != self.namespaces.get(name);
    }

    /// Removes a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Adds a Service or replaces it.
    pub fn put_service(&mut self, claim: Claim) {
        let name = claim.name.clone();
        match self.claims.get(&name) {
            Some(old) if *old == claim => return,
            Some(old) if old.uid != claim.uid => self.remove_service(&name),
            _ => {}
        }
        self.forget_key(&name);
        if let Some(key) = &claim.sharing_key {
            let key = (name.namespace.clone(), key.clone());
            self.by_key.entry(key).or_default().insert(name.clone());
            self.has_news = true;
        }
        self.replace_foreign(&name, &claim.foreign);
        self.claims.insert(name.clone(), claim);
        self.dirty.insert(name);
    }

    /// Removes a Service; its addresses are free.
    pub fn remove_service(&mut self, name: &Name) {
        self.forget_key(name);
        self.claims.remove(name);
        for address in self.holders.held_by(name).to_vec() {
            self.release(name, address);
        }
        self.replace_foreign(name, &[]);
        self.outcomes.remove(name);
        self.lost.remove(name);
        self.dirty.remove(name);
        self.waiting.remove(name);
    }

    /// The Service as it was put in.
    #[must_use]
    pub fn claim(&self, name: &Name) -> Option<&Claim> {
        self.claims.get(name)
    }

    /// What came of it at the last [`Self::settle`].
    #[must_use]
    pub fn outcome(&self, name: &Name) -> Option<&Outcome> {
        self.outcomes.get(name)
    }

    /// Number of Services that want something that they do not have.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The pools: why one gives out nothing, and how full it is in IPv4 and in IPv6.
    pub fn pools(&self) -> impl Iterator<Item = (&Pool, Option<&PoolProblem>, [Fill; 2])> {
        self.pools.values().map(|state| {
            let fill = Family::ALL.map(|family| self.count(&state.pool, family));
            (&state.pool, state.problem.as_ref(), fill)
        })
    }

    fn count(&self, pool: &Pool, family: Family) -> Fill {
        let blocks = pool.content.as_ref().map(|it| it.blocks.as_slice()).unwrap_or_default();
        let mut fill = Fill::default();
        for block in blocks.iter().filter(|it| it.family() == family) {
            fill.total = fill.total.saturating_add(block.size());
            fill.used += self.holders.count(*block);
        }
        fill
    }

    /// Takes the address of a Service's status as written.
    pub fn mark_written(&mut self, name: &Name, addresses: &[IpAddr]) {
        if let Some(claim) = self.claims.get_mut(name) {
            claim.current = addresses.to_vec();
        }
    }

    /// Gives every Service what it can have. Returns those with another outcome than before.
    pub fn settle(&mut self) -> BTreeSet<Name> {
        let mut queue = std::mem::take(&mut self.dirty);
        self.lost.clear();
        if std::mem::take(&mut self.are_pools_dirty) {
            settle_pools(&mut self.pools);
            queue.extend(self.claims.keys().cloned());
        }
        // Who has an address keeps it, before anybody gets a new one.
        for name in self.by_age(&queue) {
            self.keep(&name);
        }
        queue.extend(std::mem::take(&mut self.dirty));
        let mut changed = BTreeSet::new();
        loop {
            // A turn with news has given a Service something: there are no more of them than
            // Services and families.
            if std::mem::take(&mut self.has_news) {
                queue.extend(self.waiting.iter().cloned());
            }
            if queue.is_empty() {
                return changed;
            }
            for name in self.by_age(&std::mem::take(&mut queue)) {
                let outcome = self.fulfil(&name);
                if self.outcomes.get(&name) != Some(&outcome) {
                    self.outcomes.insert(name.clone(), outcome);
                    changed.insert(name);
                }
            }
        }
    }

    fn by_age(&self, names: &BTreeSet<Name>) -> Vec<Name> {
        let mut claims: Vec<&Claim> = names.iter().filter_map(|it| self.claims.get(it)).collect();
        claims.sort_by_key(|it| it.age());
        claims.into_iter().map(|it| it.name.clone()).collect()
    }

    /// Releases what a Service has no right to any more, and takes over what it came with.
    fn keep(&mut self, name: &Name) {
        let Some(claim) = self.claims.get(name).cloned() else { return };
        let is_new = !self.outcomes.contains_key(name);
        for address in self.holders.held_by(name).to_vec() {
            if !claim.families.contains(&Family::of(address)) {
                self.release(name, address);
                continue;
            }
            self.settle_conflicts(&claim, address);
        }
        let current = if is_new { claim.current.as_slice() } else { &[] };
        for address in current.iter().copied() {
            let family = Family::of(address);
            if !claim.families.contains(&family) || self.held(name, family).is_some() {
                continue;
            }
            self.holders.add(name, address);
            self.settle_conflicts(&claim, address);
        }
    }

    /// Takes an address from the youngest of those who have it and cannot share it.
    fn settle_conflicts(&mut self, claim: &Claim, address: IpAddr) {
        for other in self.holders.ours(address) {
            let Some(other) = self.claims.get(&other).filter(|it| it.name != claim.name) else {
                continue;
            };
            if claim.can_share(other) {
                continue;
            }
            let (older, younger) =
                if claim.age() < other.age() { (claim, other) } else { (other, claim) };
            let (older, younger) = (older.name.clone(), younger.name.clone());
            self.release(&younger, address);
            let refusal = Refusal::AddressLost(address, older);
            self.lost.entry(younger.clone()).or_default().push(refusal);
            self.dirty.insert(younger.clone());
            if younger == claim.name {
                return;
            }
        }
    }

    fn fulfil(&mut self, name: &Name) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(claim) = self.claims.get(name).cloned() else { return outcome };
        outcome.problems = self.lost.get(name).cloned().unwrap_or_default();
        for family in claim.families.iter().copied() {
            match self.assign(&claim, family) {
                Ok(None) => {}
                Ok(Some(refusal)) | Err(refusal) => outcome.problems.push(refusal),
            }
            outcome.addresses.extend(self.held(name, family));
        }
        if let Err(reason) = &claim.requested {
            outcome.problems.push(Refusal::InvalidRequest(reason.clone()));
        }
        match outcome.problems.iter().any(Refusal::is_lacking) {
            true => self.waiting.insert(name.clone()),
            false => self.waiting.remove(name),
        };
        if claim.is_any_family_enough && !outcome.addresses.is_empty() {
            outcome.problems.retain(|it| !it.is_lack_of_room());
        }
        outcome
    }

    /// Sees to one family: a remark, or why there is no address as it should be.
    fn assign(&mut self, claim: &Claim, family: Family) -> Result<Option<Refusal>, Refusal> {
        let held = self.held(&claim.name, family);
        if let Some(wanted) = claim.requested_in(family).filter(|it| Some(*it) != held) {
            self.check_wanted(claim, wanted)?;
            if let Some(old) = held {
                self.release(&claim.name, old);
            }
            self.add(claim, wanted);
            return Ok(None);
        }
        if let Some(address) = held {
            let is_in = |it: &PoolState| it.active().is_some_and(|it| it.contains(address));
            let is_known = self.pools.values().any(is_in);
            return Ok((!is_known).then_some(Refusal::OutsidePools(address)));
        }
        if claim.requested.is_err() {
            // What it wants is not known: nothing is better than something else.
            return Ok(None);
        }
        let address = match self.find_shared(claim, family) {
            Some(address) => address,
            None => self.find_free(claim, family)?,
        };
        self.add(claim, address);
        Ok(None)
    }

    fn check_wanted(&self, claim: &Claim, wanted: IpAddr) -> Result<(), Refusal> {
        let labels = self.labels_of(&claim.name.namespace);
        let has = |it: &PoolState| {
            it.selects(claim, labels) && it.active().is_some_and(|it| it.contains(wanted))
        };
        if !self.pools.values().any(has) {
            return Err(Refusal::NotInPool(wanted));
        }
        let others = self.holders.all(wanted);
        let may_join = |it: &Name| self.claims.get(it).is_some_and(|it| claim.can_share(it));
        match !self.holders.is_foreign(wanted) && others.iter().all(may_join) {
            true => Ok(()),
            false => Err(Refusal::AddressTaken(wanted, others)),
        }
    }

    /// An address that it may share with all who have it.
    fn find_shared(&self, claim: &Claim, family: Family) -> Option<IpAddr> {
        let key = (claim.name.namespace.clone(), claim.sharing_key.clone()?);
        let peers = self.by_key.get(&key)?.iter().filter(|it| **it != claim.name);
        let mut addresses = peers.filter_map(|it| self.held(it, family));
        addresses.find(|it| self.check_wanted(claim, *it).is_ok())
    }

    fn find_free(&mut self, claim: &Claim, family: Family) -> Result<IpAddr, Refusal> {
        let no_labels = Labels::new();
        let labels = self.namespaces.get(&claim.name.namespace).unwrap_or(&no_labels);
        let holders = &self.holders;
        let mut candidates: Vec<&mut PoolState> = self
            .pools
            .values_mut()
            .filter(|it| it.selects(claim, labels) && it.has_family(family))
            .filter(|it| it.active().is_some_and(|it| it.auto_assign))
            .collect();
        candidates.sort_by(|a, b| a.pool.created.cmp(&b.pool.created));
        let mut names = Vec::new();
        for state in candidates {
            if let Some(free) = state.find_free(family, |it| holders.is_taken(it)) {
                return Ok(free);
            }
            names.push(state.pool.name.clone());
        }
        Err(match names.is_empty() {
            true => Refusal::NoPool(family),
            false => Refusal::PoolExhausted(family, names),
        })
    }

    fn labels_of(&self, namespace: &str) -> &Labels {
        static NO_LABELS: Labels = Labels::new();
        self.namespaces.get(namespace).unwrap_or(&NO_LABELS)
    }

    fn held(&self, name: &Name, family: Family) -> Option<IpAddr> {
        let held = self.holders.held_by(name);
        held.iter().copied().find(|it| Family::of(*it) == family)
    }

    fn add(&mut self, claim: &Claim, address: IpAddr) {
        self.holders.add(&claim.name, address);
        self.has_news |= claim.sharing_key.is_some();
    }

    fn release(&mut self, name: &Name, address: IpAddr) {
        if self.holders.remove(name, address) {
            self.note_release(address);
        }
    }

    fn replace_foreign(&mut self, name: &Name, addresses: &[IpAddr]) {
        for address in self.holders.replace_foreign(name, addresses) {
            self.note_release(address);
        }
    }

    fn note_release(&mut self, address: IpAddr) {
        self.has_news = true;
        for state in self.pools.values_mut() {
            state.release(address);
        }
    }

    fn forget_key(&mut self, name: &Name) {
        let key = self.claims.get(name).and_then(|it| it.sharing_key.clone());
        let Some(key) = key.map(|it| (name.namespace.clone(), it)) else { return };
        if let Some(names) = self.by_key.get_mut(&key) {
            names.remove(name);
            if names.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }
}
