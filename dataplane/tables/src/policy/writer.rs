//! The writer's side of policy: accepts objects one at a time and makes views.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weir_packet::Addr;

use super::compile::Compiled;
use super::limits::{self, TABLES_MAX};
use super::origins::Origins;
use super::paged::Numbers;
use super::peers::Peers;
use super::rows::{CidrSelector, Identity, IdentityId, PolicyRules, RulePeers, SelectorId};
use super::settle::Changes;
use super::view::{self, PolicyView};
use crate::network::Prefix;
use crate::rejection::Rejection;
use crate::rows::ObjectRef;

/// Everything that policy follows from; objects come in any order.
#[derive(Debug, Default)]
pub struct Policies {
    peers: Peers,
    hosts: BTreeSet<Addr>,
    slots: Slots,
    /// Slots of tables whose rules are about a selector.
    by_selector: BTreeMap<SelectorId, BTreeSet<u32>>,
    /// Selectors of ranges that were refused: no rule that names one can be followed.
    refused: BTreeSet<SelectorId>,
    origins: Origins,
    view: PolicyView,
}

/// Places that endpoints have their rules from. A place stays while it has rules or endpoints.
#[derive(Debug, Default)]
struct Slots {
    by_name: HashMap<String, u32>,
    rows: Vec<Option<Slot>>,
    numbers: Numbers,
    dirty: BTreeSet<u32>,
    /// Slots with rules or closed.
    tables: usize,
}

#[derive(Debug, Default)]
struct Slot {
    name: String,
    endpoints: usize,
    compiled: Option<Box<Compiled>>,
    /// Rules that name a refused selector: closed while it is.
    held: Option<PolicyRules>,
    /// What takes the place of `compiled` with the next view.
    pending: Option<Pending>,
}

#[derive(Debug)]
enum Pending {
    Rules(PolicyRules),
    Closed,
    Gone,
}

impl Pending {
    fn into_rules(self) -> Option<PolicyRules> {
        match self {
            Pending::Rules(rules) => Some(rules),
            Pending::Closed | Pending::Gone => None,
        }
    }
}

/// Whether a rule names such a selector.
fn names_any(rules: &PolicyRules, is_it: impl Fn(SelectorId) -> bool) -> bool {
    rules.ingress.iter().chain(&rules.egress).any(|rule| match &rule.peers {
        RulePeers::Any => false,
        RulePeers::Of(selectors) => selectors.iter().any(|id| is_it(*id)),
    })
}

impl Slot {
    /// Whether there are rules, good or refused, with the next view.
    fn is_named(&self) -> bool {
        match &self.pending {
            Some(Pending::Rules(_) | Pending::Closed) => true,
            Some(Pending::Gone) => false,
            None => self.compiled.is_some(),
        }
    }
}

impl Policies {
    /// A refused identity changes nothing.
    pub fn upsert_identity(&mut self, identity: Identity) -> Result<(), Rejection> {
        self.peers.upsert_identity(identity)
    }

    /// Whoever has it belongs to no selector any more.
    pub fn delete_identity(&mut self, id: IdentityId) {
        self.peers.delete_identity(id);
    }

    /// The identity of a pod's, a node's or an outside address or range; the longest match counts.
    pub fn upsert_address(
        &mut self,
        prefix: Prefix,
        identity: IdentityId,
    ) -> Result<(), Rejection> {
        self.peers.upsert_address(prefix, identity)
    }

    /// The address belongs to the longest range left around it, else to the world.
    pub fn delete_address(&mut self, prefix: &Prefix) {
        self.peers.delete_address(prefix);
    }

    /// Rules that name a refused selector deny everything while it is: without its ranges a denial
    /// would let through.
    pub fn upsert_cidr(&mut self, selector: CidrSelector) -> Result<(), Rejection> {
        let id = selector.id;
        let result = self.peers.upsert_cidr(selector);
        let is_new = match &result {
            Ok(()) => self.refused.remove(&id),
            Err(_) => self.refused.insert(id),
        };
        if is_new {
            self.reconsider(id);
        }
        result
    }

    /// No address belongs to it any more.
    pub fn delete_cidr(&mut self, id: SelectorId) {
        if self.refused.remove(&id) {
            self.reconsider(id);
        }
        self.peers.delete_cidr(id);
    }

    /// Refused rules leave their name closed: it denies everything until better ones come.
    pub fn upsert_rules(&mut self, rules: PolicyRules) -> Result<(), Rejection> {
        let slot = self.slots.by_name.get(&rules.name).copied();
        let is_named = slot.and_then(|slot| self.slots.row(slot)).is_some_and(Slot::is_named);
        if !is_named && self.slots.tables >= TABLES_MAX {
            // There is no rule of that name, which denies everything as well.
            return Err(Rejection::Full("the table of policy rules", TABLES_MAX));
        }
        let checked = limits::check_rules(&rules);
        let name = rules.name.clone();
        let pending = if checked.is_ok() { Pending::Rules(rules) } else { Pending::Closed };
        self.slots.set(&name, pending);
        checked
    }

    /// Has the rules that name a selector looked at again with the next view: it was refused, or is
    /// not any more.
    fn reconsider(&mut self, id: SelectorId) {
        let is_named = |rules: &PolicyRules| names_any(rules, |it| it == id);
        for (slot, row) in (0..).zip(&mut self.slots.rows) {
            let Some(row) = row.as_mut().filter(|row| row.pending.is_none()) else { continue };
            let rules = row.held.clone().or_else(|| row.compiled.as_ref().map(|it| it.rules()));
            if let Some(rules) = rules.filter(is_named) {
                row.pending = Some(Pending::Rules(rules));
                self.slots.dirty.insert(slot);
            }
        }
    }

    /// Endpoints of that name deny everything.
    pub fn delete_rules(&mut self, name: &str) {
        if self.slots.by_name.contains_key(name) {
            self.slots.set(name, Pending::Gone);
        }
    }

    /// The node's own addresses, which are [`IdentityId::HOST`] unless an address says otherwise.
    pub fn set_host_addrs(&mut self, addrs: impl IntoIterator<Item = Addr>) {
        let addrs: BTreeSet<Addr> = addrs.into_iter().collect();
        for gone in self.hosts.difference(&addrs) {
            self.peers.set_host_addr(*gone, false);
        }
        for new in addrs.difference(&self.hosts) {
            self.peers.set_host_addr(*new, true);
        }
        self.hosts = addrs;
    }

    /// An address of a pod of this node has the pod's identity, unless an address says otherwise;
    /// `None`: it is of no such pod any more.
    pub(crate) fn set_endpoint_addr(&mut self, addr: Addr, identity: Option<IdentityId>) {
        self.peers.set_endpoint_addr(addr, identity);
    }

    /// The place that an endpoint has its rules from, until [`Policies::release`].
    pub(crate) fn acquire(&mut self, name: &str) -> u32 {
        let slot = self.slots.named(name);
        self.slots.row_mut(slot).endpoints += 1;
        slot
    }

    pub(crate) fn release(&mut self, slot: u32) {
        let row = self.slots.row_mut(slot);
        row.endpoints -= 1;
        if row.endpoints == 0 {
            self.slots.dirty.insert(slot);
        }
    }

    /// What follows from all that, as of `revision`, which rises from 1: the work is in proportion
    /// to what changed.
    pub fn commit(&mut self, revision: u32) -> PolicyView {
        let dirty = std::mem::take(&mut self.slots.dirty);
        if self.peers.is_settled() && dirty.is_empty() {
            return self.view.clone();
        }
        let changes = self.peers.settle(revision, &mut self.view);
        let mut changed = BTreeSet::new();
        for slot in &dirty {
            if self.replace(*slot, revision) {
                changed.insert(*slot);
            }
        }
        self.regroup(&changes, &mut changed);
        for slot in changed {
            self.publish(slot, revision);
        }
        for slot in dirty {
            if self.slots.sweep(slot) {
                self.view.slots.set(slot, view::Slot::default());
            }
        }
        let [identities, addresses, ranges] = self.peers.counts();
        self.view.sizes = [identities, addresses, ranges, self.slots.tables];
        self.view.origins = self.origins.by_number.clone();
        self.view.clone()
    }

    /// Names of all objects, to find those that a resync no longer has.
    pub(crate) fn names(&self) -> impl Iterator<Item = ObjectRef> {
        let peers = &self.peers;
        let identities = peers.identities.keys().map(|id| ObjectRef::Identity(*id));
        let addresses = peers.stated_addresses().map(ObjectRef::PeerAddress);
        let cidrs = peers.cidrs.keys().map(|id| ObjectRef::CidrSelector(*id));
        let slots = self.slots.rows.iter().flatten().filter(|slot| slot.is_named());
        let rules = slots.map(|slot| ObjectRef::PolicyRules(slot.name.clone()));
        identities.chain(addresses).chain(cidrs).chain(rules)
    }

    /// Of classes and of groups: how many there are, and the most that there ever were.
    #[cfg(test)]
    pub(super) fn counts(&self) -> [(usize, usize); 2] {
        [self.peers.classes.counts(), self.peers.groups.counts()]
    }

    #[cfg(test)]
    pub(super) fn ranges_kept(&self) -> usize {
        self.peers.ranges.len()
    }

    /// Takes over what is pending for a slot. Whether that changes anything.
    fn replace(&mut self, slot: u32, revision: u32) -> bool {
        let row = self.slots.row_mut(slot);
        let Some(mut pending) = row.pending.take() else { return false };
        row.held = None;
        if let Pending::Rules(rules) = &pending
            && names_any(rules, |id| self.refused.contains(&id))
        {
            let held = std::mem::replace(&mut pending, Pending::Closed);
            self.slots.row_mut(slot).held = held.into_rules();
        }
        let row = self.slots.row_mut(slot);
        let is_same = match (&pending, &row.compiled) {
            (Pending::Rules(rules), Some(old)) => old.is_made_of(rules),
            (Pending::Closed, Some(old)) => old.table.is_closed(),
            (Pending::Gone, None) => true,
            _ => false,
        };
        if is_same {
            return false;
        }
        let name = row.name.clone();
        if let Some(old) = row.compiled.take() {
            for selector in old.selectors() {
                if let Some(slots) = self.by_selector.get_mut(&selector) {
                    slots.remove(&slot);
                    if slots.is_empty() {
                        self.by_selector.remove(&selector);
                    }
                }
            }
        }
        let compiled = match pending {
            Pending::Rules(rules) => Some(Compiled::new(rules, revision, &mut self.origins)),
            Pending::Closed => Some(Compiled::closed(&name, revision, &mut self.origins)),
            Pending::Gone => None,
        };
        self.slots.row_mut(slot).compiled =
            compiled.map(|compiled| Box::new(self.fill(slot, compiled)));
        true
    }

    /// Gives a new table its rows.
    fn fill(&mut self, slot: u32, mut compiled: Compiled) -> Compiled {
        let mut groups = BTreeSet::new();
        for selector in compiled.selectors() {
            self.by_selector.entry(selector).or_default().insert(slot);
            groups.extend(self.peers.groups.with(selector));
        }
        for group in groups {
            if let Some(selectors) = self.peers.groups.selectors(group) {
                compiled.set_group(group, selectors);
            }
        }
        compiled
    }

    /// Tells groups that came and went to the tables that have rules about them.
    fn regroup(&mut self, changes: &Changes, changed: &mut BTreeSet<u32>) {
        // In this order: some are both.
        let new = changes.new.iter().map(|(group, selectors)| (group, selectors, true));
        let gone = changes.gone.iter().map(|(group, selectors)| (group, selectors, false));
        for (group, selectors, is_new) in new.chain(gone) {
            let tables = selectors.iter().filter_map(|selector| self.by_selector.get(selector));
            let tables: BTreeSet<u32> = tables.flatten().copied().collect();
            for slot in tables {
                let Some(compiled) = &mut self.slots.row_mut(slot).compiled else { continue };
                let selectors = if is_new { &selectors[..] } else { &[] };
                if compiled.set_group(*group, selectors) {
                    changed.insert(slot);
                }
            }
        }
    }

    /// Writes a changed table into the view.
    fn publish(&mut self, slot: u32, revision: u32) {
        let row = self.slots.row_mut(slot);
        let (table, since) = match &row.compiled {
            Some(compiled) => (Some(Arc::new(compiled.table.clone())), compiled.table.since),
            None => (None, revision),
        };
        match &table {
            Some(_) => self.view.names.insert_mut(row.name.clone(), slot),
            None => drop(self.view.names.remove_mut(&row.name)),
        }
        self.view.slots.set(slot, view::Slot { table, since });
    }
}

impl Slots {
    fn row(&self, slot: u32) -> Option<&Slot> {
        self.rows.get(slot as usize)?.as_ref()
    }

    /// A slot that is known to be there.
    fn row_mut(&mut self, slot: u32) -> &mut Slot {
        self.rows[slot as usize].as_mut().expect("slots stay while anything refers to them")
    }

    /// The slot of a name, which is made if there is none.
    fn named(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let slot = self.numbers.take();
        if self.rows.len() <= slot as usize {
            self.rows.resize_with(slot as usize + 1, || None);
        }
        self.rows[slot as usize] = Some(Slot { name: name.to_owned(), ..Slot::default() });
        self.by_name.insert(name.to_owned(), slot);
        slot
    }

    fn set(&mut self, name: &str, pending: Pending) {
        let slot = self.named(name);
        let row = self.row_mut(slot);
        let before = row.is_named();
        row.pending = Some(pending);
        let after = row.is_named();
        self.tables = self.tables + usize::from(after) - usize::from(before);
        self.dirty.insert(slot);
    }

    /// Removes a slot that nobody needs. Whether it did.
    fn sweep(&mut self, slot: u32) -> bool {
        let is_idle =
            |row: &mut Slot| row.endpoints == 0 && row.compiled.is_none() && row.pending.is_none();
        let Some(row) = self.rows[slot as usize].take_if(is_idle) else { return false };
        self.by_name.remove(&row.name);
        self.numbers.give_back(slot);
        true
    }
}
