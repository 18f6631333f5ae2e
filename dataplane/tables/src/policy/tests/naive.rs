//! Policy by a plain reading of the objects, slowly.

use std::collections::{BTreeMap, BTreeSet};

use weir_packet::Addr;

use crate::network::Prefix;
use crate::policy::*;
use crate::rows::{Endpoint, NodeConfig, Object, ObjectRef};

/// All objects, as they are.
#[derive(Clone, Debug, Default)]
pub(super) struct Naive {
    pub(super) node: NodeConfig,
    pub(super) endpoints: BTreeMap<String, Endpoint>,
    pub(super) identities: BTreeMap<IdentityId, Identity>,
    pub(super) addresses: BTreeMap<Prefix, IdentityId>,
    pub(super) cidrs: BTreeMap<SelectorId, CidrSelector>,
    /// `None`: refused.
    pub(super) rules: BTreeMap<String, Option<PolicyRules>>,
}

impl Naive {
    pub(super) fn upsert(&mut self, object: Object) {
        match object {
            Object::Node(node) => self.node = node,
            Object::Endpoint(endpoint) => {
                self.endpoints.insert(endpoint.name.clone(), endpoint);
            }
            Object::Identity(identity) => {
                self.identities.insert(identity.id, identity);
            }
            Object::PeerAddress { prefix, identity } => {
                self.addresses.insert(prefix, identity);
            }
            Object::CidrSelector(selector) => {
                self.cidrs.insert(selector.id, selector);
            }
            Object::PolicyRules(rules) => {
                let is_sorted = |rules: &[Rule]| rules.is_sorted_by_key(|rule| rule.tier);
                let is_good = is_sorted(&rules.ingress) && is_sorted(&rules.egress);
                self.rules.insert(rules.name.clone(), is_good.then_some(rules));
            }
            other => panic!("not of policy: {other:?}"),
        }
    }

    pub(super) fn delete(&mut self, name: &ObjectRef) {
        match name {
            ObjectRef::Endpoint(name) => drop(self.endpoints.remove(name)),
            ObjectRef::Identity(id) => drop(self.identities.remove(id)),
            ObjectRef::PeerAddress(prefix) => drop(self.addresses.remove(prefix)),
            ObjectRef::CidrSelector(id) => drop(self.cidrs.remove(id)),
            ObjectRef::PolicyRules(name) => drop(self.rules.remove(name)),
            other => panic!("not of policy: {other}"),
        }
    }

    pub(super) fn objects(&self) -> Vec<Object> {
        let refused = |name: &String| PolicyRules {
            name: name.clone(),
            ingress: [1, 0].map(|tier| rule(tier, RuleAction::Allow)).into(),
            egress: Vec::new(),
        };
        let mut objects = vec![Object::Node(self.node.clone())];
        objects.extend(self.rules.iter().map(|(name, rules)| {
            Object::PolicyRules(rules.clone().unwrap_or_else(|| refused(name)))
        }));
        objects.extend(self.endpoints.values().cloned().map(Object::Endpoint));
        objects.extend(self.cidrs.values().cloned().map(Object::CidrSelector));
        let addresses = self.addresses.iter();
        objects.extend(addresses.map(|(prefix, identity)| Object::PeerAddress {
            prefix: *prefix,
            identity: *identity,
        }));
        objects.extend(self.identities.values().cloned().map(Object::Identity));
        objects
    }

    pub(super) fn identity(&self, addr: &Addr) -> IdentityId {
        if let Some(identity) = self.addresses.get(&Prefix::of_addr(*addr)) {
            return *identity;
        }
        if self.node.addresses.contains(addr) {
            return IdentityId::HOST;
        }
        let mut endpoints = self.endpoints.values();
        if let Some(endpoint) = endpoints.find(|endpoint| endpoint.addresses.contains(addr)) {
            return endpoint.identity;
        }
        let around = self.addresses.iter().filter(|(prefix, _)| prefix.contains(addr));
        let world = if addr.is_v4() { IdentityId::WORLD_IPV4 } else { IdentityId::WORLD_IPV6 };
        around.max_by_key(|(prefix, _)| prefix.length()).map_or(world, |(_, identity)| *identity)
    }

    /// Every selector that chooses an address.
    pub(super) fn selectors(&self, addr: &Addr) -> BTreeSet<SelectorId> {
        let identity = self.identity(addr);
        let own = self.identities.get(&identity).into_iter().flat_map(|known| &known.selectors);
        let is_in = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.contains(addr));
        let ranges = self.cidrs.values().filter(|cidr| {
            is_in(&cidr.prefixes)
                && !is_in(&cidr.except)
                && (!cidr.is_world_only || identity.is_world())
        });
        own.copied().chain(ranges.map(|cidr| cidr.id)).collect()
    }

    /// All rules that match.
    pub(super) fn matching<'a>(
        rules: &'a PolicyRules,
        direction: Direction,
        selectors: &BTreeSet<SelectorId>,
        l4: L4,
    ) -> Vec<&'a Rule> {
        let rules = match direction {
            Direction::Ingress => &rules.ingress,
            Direction::Egress => &rules.egress,
        };
        let is_peer = |rule: &&Rule| match &rule.peers {
            RulePeers::Any => true,
            RulePeers::Of(chosen) => chosen.iter().any(|id| selectors.contains(id)),
        };
        let is_port = |rule: &&Rule| {
            rule.ports.is_empty()
                || rule.ports.iter().any(|range| {
                    range.protocol == l4.protocol && range.first <= l4.port && l4.port <= range.last
                })
        };
        rules.iter().filter(is_peer).filter(is_port).collect()
    }

    /// The action and the origin of the rule that decides.
    pub(super) fn judge(
        &self,
        endpoint: &Endpoint,
        direction: Direction,
        peer: &Addr,
        l4: L4,
    ) -> (PolicyAction, Option<String>) {
        let Some(name) = &endpoint.policy else { return (PolicyAction::Allow, None) };
        let Some(Some(rules)) = self.rules.get(name) else {
            return (PolicyAction::Deny, Some("missing".into()));
        };
        let matching = Naive::matching(rules, direction, &self.selectors(peer), l4);
        let mut passed = None;
        for rule in matching {
            if passed.is_some_and(|tier| rule.tier == tier) {
                continue;
            }
            let action = match rule.action {
                RuleAction::Allow => PolicyAction::Allow,
                RuleAction::Deny => PolicyAction::Deny,
                RuleAction::Redirect { .. } => PolicyAction::Redirect,
                RuleAction::Pass => {
                    passed = Some(rule.tier);
                    continue;
                }
            };
            return (action, Some(rule.origin.clone()));
        }
        (PolicyAction::Allow, None)
    }
}

pub(super) fn rule(tier: u8, action: RuleAction) -> Rule {
    Rule {
        tier,
        action,
        peers: RulePeers::Any,
        ports: Vec::new(),
        origin: format!("rule of tier {tier}"),
        log: String::new(),
    }
}
