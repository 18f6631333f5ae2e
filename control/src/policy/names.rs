//! Peers by address and by name: rows of ranges, and identities of what is outside the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use weir_tables::policy::{IdentityId, SelectorId};

use super::PolicyState;
use super::addresses::Owner;
use super::fqdn::{NameCache, NameLimits, matches_name};
use super::identities::Scope;
use super::index::Labels;
use super::labels::reserved;
use super::selectors::SelectorKey;
use crate::model::{Cidr, Name, NamePattern};

/// What follows from selectors by range and name.
#[derive(Debug, Default)]
pub(super) struct Names {
    cache: NameCache,
    patterns: BTreeMap<SelectorId, NamePattern>,
    dirty: BTreeSet<IpAddr>,
    named: BTreeMap<IpAddr, IdentityId>,
    /// Ranges that selectors have given an identity.
    ranges: BTreeMap<SelectorId, BTreeSet<Cidr>>,
    /// Selectors to be written again.
    pub(super) changed_rows: BTreeSet<SelectorId>,
}

impl Names {
    /// A pod is not local any more.
    pub(super) fn forget_pod(&mut self, pod: &Name) {
        self.cache.forget_pod(pod);
    }
}

impl PolicyState {
    /// Other limits than the defaults; forgets all names.
    pub fn set_name_limits(&mut self, limits: NameLimits) {
        self.names.dirty.extend(self.names.cache.addresses());
        self.names.cache = NameCache::new(limits);
    }

    /// What DNS answered a local pod: the mapping from names to addresses. Time is whatever starts
    /// at zero and never goes back.
    pub fn learn_name(
        &mut self,
        pod: &Name,
        name: &str,
        addresses: &[IpAddr],
        ttl: Duration,
        now: Duration,
    ) {
        if self.wanted.contains_key(pod) {
            self.names.cache.learn(pod, name, addresses, ttl, now);
        }
    }

    /// These addresses, and no others, have connections at present: they count beyond their TTL.
    pub fn keep_names(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Duration) {
        self.names.cache.keep(addresses, now);
    }

    /// Ends names whose time is over.
    pub fn expire_names(&mut self, now: Duration) {
        self.names.cache.expire(now);
    }

    /// Takes over selectors by range and name that have come, gone or changed; whether there were
    /// any.
    pub(super) fn apply_selectors(&mut self) -> bool {
        let mut changed = std::mem::take(&mut self.peers.selectors.news.others);
        if std::mem::take(&mut self.dirty.groups) {
            let all = self.peers.selectors.iter();
            let groups = all.filter(|(_, key)| matches!(key, SelectorKey::Groups(..)));
            changed.extend(groups.map(|(id, _)| id));
        }
        for id in &changed {
            self.apply_selector(*id);
        }
        !changed.is_empty()
    }

    fn apply_selector(&mut self, id: SelectorId) {
        let key = self.peers.selectors.key(id);
        let pattern = match key {
            Some(SelectorKey::Fqdn(pattern)) => Some(pattern.clone()),
            _ => None,
        };
        let ranges: BTreeSet<Cidr> = match key {
            Some(SelectorKey::Block(block)) if block.is_world_only => [block.cidr].into(),
            Some(SelectorKey::Groups(groups, _)) => self.list_ranges(groups).into_iter().collect(),
            _ => BTreeSet::new(),
        };
        self.replace_ranges(id, ranges);
        let old = match pattern.clone() {
            Some(pattern) => self.names.patterns.insert(id, pattern),
            None => self.names.patterns.remove(&id),
        };
        if old != pattern {
            self.names.dirty.extend(self.names.cache.addresses());
        }
        self.names.changed_rows.insert(id);
    }

    /// Gives ranges of `cilium.io` policies identities of their own, so that people see which range
    /// a packet's peer was in. What chooses them looks at the address.
    fn replace_ranges(&mut self, id: SelectorId, mut new: BTreeSet<Cidr>) {
        // Everything has the identity of the world already.
        new.retain(|it| it.length() > 0);
        let old = self.names.ranges.remove(&id).unwrap_or_default();
        for range in &new {
            if old.contains(range) {
                continue;
            }
            let mut labels = world_labels(range.address());
            labels.insert(format!("cidr:{range}"), String::new());
            if let Ok(identity) = self.peers.acquire_identity(labels, Scope::World) {
                self.peers.addresses.claim(*range, Owner::Range(id), identity);
            }
        }
        for range in old.difference(&new) {
            if let Some(identity) = self.peers.addresses.unclaim(*range, &Owner::Range(id)) {
                self.peers.identities.release(identity);
            }
        }
        if !new.is_empty() {
            self.names.ranges.insert(id, new);
        }
    }

    /// Gives addresses the identities of their names; whether there were any to look at.
    pub(super) fn apply_names(&mut self) -> bool {
        let mut dirty = std::mem::take(&mut self.names.dirty);
        dirty.extend(self.names.cache.take_changed());
        for address in &dirty {
            self.apply_named_address(*address);
        }
        !dirty.is_empty()
    }

    fn apply_named_address(&mut self, address: IpAddr) {
        let names: Vec<&str> = self.names.cache.names_of(address).collect();
        let is_meant = |it: &NamePattern| names.iter().any(|name| matches_name(it, name));
        let chosen: Vec<_> = self.names.patterns.iter().filter(|(_, it)| is_meant(it)).collect();
        let old = self.names.named.remove(&address);
        let range = Cidr::of_host(address);
        if chosen.is_empty() {
            self.peers.addresses.unclaim(range, &Owner::Fqdn);
        } else {
            let mut labels = world_labels(address);
            for (_, pattern) in &chosen {
                let (NamePattern::Name(text) | NamePattern::Pattern(text)) = pattern;
                labels.insert(format!("fqdn:{text}"), String::new());
            }
            if let Ok(id) = self.peers.acquire_identity(labels, Scope::World) {
                let (identities, selectors) =
                    (&mut self.peers.identities, &mut self.peers.selectors);
                for (selector, _) in chosen {
                    selectors.add_member(*selector, id, identities);
                }
                if old != Some(id) {
                    self.peers.addresses.claim(range, Owner::Fqdn, id);
                }
                self.names.named.insert(address, id);
            } else {
                self.peers.addresses.unclaim(range, &Owner::Fqdn);
            }
        }
        if let Some(old) = old {
            self.peers.identities.release(old);
        }
    }

    /// Looks again at pods and nodes whose identities have other labels from now on; whether there
    /// was anything new.
    pub(super) fn take_selector_news(&mut self) -> bool {
        let news = &mut self.peers.selectors.news;
        let asked = std::mem::take(&mut news.asked);
        let is_asking_nodes = std::mem::take(&mut news.is_asking_nodes);
        self.dirty.all_nodes |= is_asking_nodes;
        if !asked.is_empty() {
            let pods = self.objects.pods.iter();
            let has_one = |it: &crate::model::Name| {
                let labels = self.objects.pods.get(it).map(|it| &it.labels);
                labels.is_some_and(|it| asked.iter().any(|key| it.contains_key(key)))
            };
            let concerned: Vec<Name> =
                pods.map(|(name, _)| name).filter(|it| has_one(it)).cloned().collect();
            self.dirty.pods.extend(concerned);
        }
        is_asking_nodes || !asked.is_empty() || !self.peers.selectors.news.others.is_empty()
    }
}

fn world_labels(address: IpAddr) -> Labels {
    let family = if address.is_ipv4() { "world-ipv4" } else { "world-ipv6" };
    reserved(&["world", family], None)
}
