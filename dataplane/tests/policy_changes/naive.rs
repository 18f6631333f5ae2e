//! Policy as of one revision, judged by walking the rules.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use weir_packet::Addr;
use weir_tables::policy::{
    CidrSelector, Direction, Identity, IdentityId, L4, L4Protocol, PolicyRules, PortRange, Rule,
    RuleAction, RulePeers, SelectorId,
};
use weir_tables::{Object, ObjectRef, Prefix};

use crate::common::node::{PODS, addr};

/// Whoever packets come from or go to.
pub const PEERS: [&str; 7] = ["blue", "green", "red", "grey", "remote", "client", "near"];
/// Ports that packets go to.
pub const PORTS: [u16; 3] = [53, 5353, 8080];
const IDENTITIES: u32 = 6;
const SELECTORS: u32 = 6;
const BLOCKS: std::ops::Range<u32> = 10..13;
const TABLES: [&str; 3] = ["a", "b", "c"];

/// What control has said.
#[derive(Clone, Debug, Default)]
pub struct State {
    identities: BTreeMap<u32, BTreeSet<u32>>,
    /// By name of the peer.
    addresses: BTreeMap<&'static str, u32>,
    blocks: BTreeMap<u32, CidrSelector>,
    tables: BTreeMap<&'static str, PolicyRules>,
    /// The rules of each pod.
    pods: BTreeMap<&'static str, &'static str>,
}

/// A change, as the dataplane is told.
pub enum Change {
    Upsert(Object),
    Delete(ObjectRef),
    /// Other rules, or none, for a pod.
    Assign(&'static str, Option<&'static str>),
}

impl State {
    /// Whether a pod lets something pass, and by which rule; `None` where no policy is about it.
    pub fn judge(
        &self,
        pod: &str,
        direction: Direction,
        peer: &str,
        l4: L4,
    ) -> Option<(bool, String)> {
        let Some(table) = self.tables.get(self.pods.get(pod)?) else {
            return Some((false, String::new()));
        };
        let rules = match direction {
            Direction::Ingress => &table.ingress,
            Direction::Egress => &table.egress,
        };
        if rules.is_empty() {
            return None;
        }
        let mut passed = None;
        for rule in rules {
            let is_passed = passed == Some(rule.tier);
            if is_passed || !self.is_about(rule, peer) || !covers(rule, l4) {
                continue;
            }
            match rule.action {
                RuleAction::Pass => passed = Some(rule.tier),
                _ => return Some((rule.action == RuleAction::Allow, rule.origin.clone())),
            }
        }
        Some((true, String::new()))
    }

    fn is_about(&self, rule: &Rule, peer: &str) -> bool {
        let RulePeers::Of(selectors) = &rule.peers else { return true };
        let identity = self.addresses.get(peer);
        let of_identity = identity.and_then(|id| self.identities.get(id));
        // A pod of the node is of the cluster, whatever is known of it besides.
        let is_inside = identity.is_some() || PODS.iter().any(|pod| pod.0 == peer);
        selectors.iter().any(|selector| {
            let by_identity = of_identity.is_some_and(|it| it.contains(&selector.0));
            by_identity
                || self.blocks.get(&selector.0).is_some_and(|block| {
                    let address = addr(peer, 4);
                    let within = |ranges: &[Prefix]| ranges.iter().any(|it| it.contains(&address));
                    within(&block.prefixes)
                        && !within(&block.except)
                        && !(block.is_world_only && is_inside)
                })
        })
    }

    /// Something else from now on.
    pub fn change(&mut self, rng: &mut SmallRng) -> Change {
        match rng.random_range(0..12) {
            0..3 => {
                let id = rng.random_range(0..IDENTITIES);
                let selectors = some_of(0..SELECTORS, rng);
                self.identities.insert(id, selectors.iter().copied().collect());
                Change::Upsert(Object::Identity(Identity {
                    id: IdentityId(256 + id),
                    labels: vec![format!("k8s:id={id}")],
                    selectors: selectors.into_iter().map(SelectorId).collect(),
                }))
            }
            3..5 => {
                let peer = *PEERS.choose(rng).expect("some");
                let prefix = Prefix::of_addr(addr(peer, 4));
                if rng.random_bool(0.2) && !PODS.iter().any(|pod| pod.0 == peer) {
                    self.addresses.remove(peer);
                    return Change::Delete(ObjectRef::PeerAddress(prefix));
                }
                let id = rng.random_range(0..IDENTITIES);
                self.addresses.insert(peer, id);
                Change::Upsert(Object::PeerAddress { prefix, identity: IdentityId(256 + id) })
            }
            5..7 => {
                let id = rng.random_range(BLOCKS);
                let block = block(id, rng);
                self.blocks.insert(id, block.clone());
                Change::Upsert(Object::CidrSelector(block))
            }
            7..10 => {
                let name = *TABLES.choose(rng).expect("some");
                if rng.random_bool(0.1) {
                    self.tables.remove(name);
                    return Change::Delete(ObjectRef::PolicyRules(name.into()));
                }
                let mut side = |direction| rules(name, direction, rng);
                let rules = PolicyRules {
                    name: name.into(),
                    ingress: side("ingress"),
                    egress: side("egress"),
                };
                self.tables.insert(name, rules.clone());
                Change::Upsert(Object::PolicyRules(rules))
            }
            _ => {
                let pod = PODS.choose(rng).expect("some").0;
                let table = rng.random_bool(0.8).then(|| *TABLES.choose(rng).expect("some"));
                match table {
                    Some(table) => drop(self.pods.insert(pod, table)),
                    None => drop(self.pods.remove(pod)),
                }
                Change::Assign(pod, table)
            }
        }
    }
}

fn covers(rule: &Rule, l4: L4) -> bool {
    let covers = |range: &PortRange| {
        range.protocol == l4.protocol && (range.first..=range.last).contains(&l4.port)
    };
    rule.ports.is_empty() || rule.ports.iter().any(covers)
}

fn some_of(range: std::ops::Range<u32>, rng: &mut SmallRng) -> Vec<u32> {
    let count = rng.random_range(0..3);
    let mut some = range.choose_multiple(rng, count);
    some.sort_unstable();
    some
}

fn block(id: u32, rng: &mut SmallRng) -> CidrSelector {
    let mut range = |lengths: &[u8]| {
        let address: Addr = addr(PEERS.choose(rng).expect("some"), 4);
        Prefix::new(address, *lengths.choose(rng).expect("some")).expect("short")
    };
    CidrSelector {
        id: SelectorId(id),
        prefixes: vec![range(&[0, 8, 24])],
        except: vec![range(&[24, 31, 32])],
        is_world_only: id.is_multiple_of(2),
    }
}

fn rules(table: &str, direction: &str, rng: &mut SmallRng) -> Vec<Rule> {
    let count = rng.random_range(0..6);
    let mut tiers: Vec<u8> = (0..count).map(|_| rng.random_range(0..3)).collect();
    tiers.sort_unstable();
    let one = |(at, tier): (usize, u8)| {
        let action = match rng.random_range(0..5) {
            0 | 1 => RuleAction::Deny,
            2 if tier != 1 => RuleAction::Pass,
            _ => RuleAction::Allow,
        };
        let peers = match rng.random_range(0..4) {
            0 => RulePeers::Any,
            _ => {
                let mut selectors = some_of(0..SELECTORS, rng);
                selectors.extend(some_of(BLOCKS, rng));
                RulePeers::Of(selectors.into_iter().map(SelectorId).collect())
            }
        };
        let port = *PORTS.choose(rng).expect("some");
        let ports = match rng.random_range(0..3) {
            0 => vec![PortRange { protocol: L4Protocol::Udp, first: port, last: port }],
            1 => vec![PortRange { protocol: L4Protocol::Udp, first: 0, last: port }],
            _ => Vec::new(),
        };
        // No two rules are one, so that a verdict names the very rule.
        let origin = format!("{table} {direction} {at} {}", rng.random::<u32>());
        Rule { tier, action, peers, ports, origin, log: String::new() }
    };
    tiers.into_iter().enumerate().map(one).collect()
}
