//! Which node answers for the address of a load balancer. Every agent computes it from what all of
//! them see, without a word between them.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): of the nodes that may, the one with the
//! highest score for the address. The score is the finalizer of splitmix64 over the XOR of two
//! MurmurHash3 values (first half of `x64_128`, seed 0): of the address's bytes and of the node's
//! name. All nodes must compute it alike: it does not change between releases.
//!
//! A node that comes or goes moves its own share of the addresses, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_api::convert::address_bytes;
use weir_tables::murmur3_x64_128;

use crate::compile::Announcement;
use crate::model::{Name, Node, NodeFilter};

/// Label of nodes that load balancers leave out (well-known labels of Kubernetes).
const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Addresses, who asks for them, and who answers.
#[derive(Debug, Default)]
pub(super) struct Election {
    claims: BTreeMap<IpAddr, BTreeMap<Name, Announcement>>,
    elected: BTreeMap<IpAddr, String>,
    dirty: BTreeSet<IpAddr>,
    is_all_dirty: bool,
}

impl Election {
    /// Takes a service's addresses, which were `old` before.
    pub(super) fn replace(
        &mut self,
        service: &Name,
        old: &BTreeMap<IpAddr, Announcement>,
        new: &BTreeMap<IpAddr, Announcement>,
    ) {
        for address in old.keys().filter(|it| !new.contains_key(it)) {
            if let Some(claims) = self.claims.get_mut(address) {
                claims.remove(service);
            }
            self.dirty.insert(*address);
        }
        for (address, announcement) in new {
            if old.get(address) != Some(announcement) {
                let claims = self.claims.entry(*address).or_default();
                claims.insert(service.clone(), announcement.clone());
                self.dirty.insert(*address);
            }
        }
    }

    /// Takes that a node came, went, or is fit for something else than before.
    pub(super) fn mark_nodes(&mut self, old: Option<&Node>, new: Option<&Node>) {
        let fitness =
            |it: Option<&Node>| it.map(|it| (it.is_ready, it.is_deleting, it.labels.clone()));
        self.is_all_dirty |= fitness(old) != fitness(new);
    }

    /// The node that answers for an address.
    pub(super) fn elected(&self, address: IpAddr) -> Option<&str> {
        self.elected.get(&address).map(String::as_str)
    }

    /// The addresses that a node answers for, in order.
    pub(super) fn won_by<'a>(&'a self, node: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        self.elected.iter().filter(move |(_, it)| *it == node).map(|(address, _)| *address)
    }

    /// Elects again where something changed; says whether `own` won or lost any.
    pub(super) fn settle(&mut self, nodes: &BTreeMap<String, Node>, own: &str) -> bool {
        let mut dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.is_all_dirty) {
            dirty.extend(self.claims.keys());
        }
        if dirty.is_empty() {
            return false;
        }
        let voters = list_voters(nodes, own);
        let mut has_changed = false;
        for address in dirty {
            if self.claims.get(&address).is_some_and(BTreeMap::is_empty) {
                self.claims.remove(&address);
            }
            let claims = self.claims.get(&address);
            let winner = claims.and_then(|it| elect(address, it, &voters));
            let old = match winner {
                Some(name) => self.elected.insert(address, name.to_owned()),
                None => self.elected.remove(&address),
            };
            has_changed |= (old.as_deref() == Some(own)) != (winner == Some(own));
        }
        has_changed
    }
}

/// A node, and what does not depend on the address.
#[derive(Debug)]
struct Voter<'a> {
    name: &'a str,
    /// Absent where manifests have no Node objects: then this node is the only one there is.
    node: Option<&'a Node>,
    hash: u64,
}

impl Voter<'_> {
    fn is_fit(&self) -> bool {
        self.node.is_none_or(|it| it.is_ready && !it.is_deleting)
    }

    fn is_in(&self, filter: &NodeFilter) -> bool {
        match filter {
            NodeFilter::All => true,
            NodeFilter::Name(name) => name == self.name,
            NodeFilter::Labels(selector) => match self.node {
                Some(node) => selector.matches(&node.labels),
                None => selector.matches(&BTreeMap::new()),
            },
        }
    }

    fn serves(&self, it: &Announcement) -> bool {
        it.serving.as_ref().is_none_or(|nodes| nodes.contains(self.name))
    }
}

fn list_voters<'a>(nodes: &'a BTreeMap<String, Node>, own: &'a str) -> Vec<Voter<'a>> {
    let hash = |name: &str| murmur3_x64_128(name.as_bytes(), 0).0;
    if nodes.is_empty() {
        return vec![Voter { name: own, node: None, hash: hash(own) }];
    }
    let is_included = |it: &&Node| !it.labels.contains_key(EXCLUDE_LABEL);
    let included = nodes.values().filter(is_included);
    let write = |node: &'a Node| {
        let name = node.name.name.as_str();
        Voter { name, node: Some(node), hash: hash(name) }
    };
    included.map(write).collect()
}

/// Of the nodes that suit all services at the address, else of those that suit any. Where none of
/// them is fit, one that is not: rather perhaps nobody than certainly nobody.
fn elect<'a>(
    address: IpAddr,
    claims: &BTreeMap<Name, Announcement>,
    voters: &[Voter<'a>],
) -> Option<&'a str> {
    let hash = murmur3_x64_128(&address_bytes(address), 0).0;
    // Names break ties.
    let best = |suits: &dyn Fn(&Voter<'_>) -> bool| {
        let suitable = voters.iter().filter(|it| suits(it));
        suitable.max_by_key(|it| (mix(it.hash ^ hash), it.name)).map(|it| it.name)
    };
    let suits = |voter: &Voter<'_>, it: &Announcement| voter.is_in(&it.filter) && voter.serves(it);
    let all = |voter: &Voter<'_>| claims.values().all(|it| suits(voter, it));
    let any = |voter: &Voter<'_>| claims.values().any(|it| suits(voter, it));
    best(&|it| it.is_fit() && all(it))
        .or_else(|| best(&|it| it.is_fit() && any(it)))
        .or_else(|| best(&any))
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
