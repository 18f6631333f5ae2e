//! The peers of a rule by number, and the names of their ports.

use std::collections::BTreeSet;

use weir_api::v1::Protocol;
use weir_tables::policy::{L4Protocol, RulePeers, SelectorId};

use super::PolicyState;
use super::compile::NamedPorts;
use super::objects::{Objects, PodFacts, ServiceFacts};
use super::peers::Peers;
use super::selectors::SelectorKey;
use super::specs::peers_of;
use crate::model::policy::NAMESPACE_LABEL;
use crate::model::{
    self, Cidr, IdentitySelector, LabelTest, Name, PolicyPeer, PolicyRule, PortChoice, Requirement,
    ServiceChoice,
};

/// The selectors of a rule, each for one more user.
pub(super) fn resolve_peers(rule: &PolicyRule, objects: &Objects, peers: &mut Peers) -> RulePeers {
    if rule.peers == model::Peers::Any {
        return RulePeers::Any;
    }
    if rule.unsupported.is_some() {
        return RulePeers::Of(Vec::new());
    }
    let keys: BTreeSet<SelectorKey> =
        peers_of(rule).iter().flat_map(|it| list_keys(it, objects)).collect();
    let mut selectors: Vec<SelectorId> =
        keys.into_iter().map(|it| peers.acquire_selector(it)).collect();
    selectors.sort_unstable();
    RulePeers::Of(selectors)
}

fn list_keys(peer: &PolicyPeer, objects: &Objects) -> Vec<SelectorKey> {
    match peer {
        PolicyPeer::Identities(selector) => vec![SelectorKey::Identities(selector.clone())],
        PolicyPeer::Block(block) => vec![SelectorKey::Block(block.clone())],
        PolicyPeer::CidrGroup { groups, except } => {
            vec![SelectorKey::Groups(groups.clone(), except.clone())]
        }
        PolicyPeer::Fqdn(pattern) => vec![SelectorKey::Fqdn(pattern.clone())],
        PolicyPeer::Services(choice) => list_service_keys(choice, objects),
    }
}

/// The pods behind services, by the services' own selectors; behind one without a selector, the
/// addresses in its slices, whosever they are.
fn list_service_keys(choice: &ServiceChoice, objects: &Objects) -> Vec<SelectorKey> {
    let chosen: Vec<_> = match choice {
        ServiceChoice::Name(name) => objects.services.get_key_value(name).into_iter().collect(),
        ServiceChoice::Labels { namespace, selector } => {
            let is_chosen = |(name, service): &(&Name, &ServiceFacts)| {
                namespace.as_ref().is_none_or(|it| *it == name.namespace)
                    && selector.matches(&service.labels)
            };
            objects.services.iter().filter(is_chosen).collect()
        }
    };
    let mut keys = Vec::new();
    let mut addresses = BTreeSet::new();
    for (name, service) in chosen {
        if service.selector.is_empty() {
            addresses.extend(objects.endpoints_of(name).into_iter().map(Cidr::of_host));
        } else {
            keys.push(SelectorKey::Identities(select_pods_of(name, &service.selector)));
        }
    }
    if !addresses.is_empty() {
        keys.push(SelectorKey::Addresses(addresses));
    }
    keys
}

fn select_pods_of(
    service: &Name,
    labels: &std::collections::BTreeMap<String, String>,
) -> IdentitySelector {
    let require = |key: String, value: &String| Requirement {
        key,
        test: LabelTest::In(BTreeSet::from([value.clone()])),
    };
    let mut requirements = vec![require(NAMESPACE_LABEL.to_owned(), &service.namespace)];
    requirements.extend(labels.iter().map(|(key, value)| require(format!("k8s:{key}"), value)));
    IdentitySelector { requirements }
}

impl PolicyState {
    /// What the names of ports in a rule stand for: the union over the pods that its peers choose.
    pub(super) fn resolve_ports_of(&self, rule: &PolicyRule, peers: &RulePeers) -> NamedPorts {
        let mut ports = NamedPorts::new();
        let names: BTreeSet<&str> =
            rule.ports.iter().filter_map(|it| port_name(&it.port)).collect();
        for name in names {
            for pod in self.pods_by_port.get(name).into_iter().flatten() {
                let Some(facts) = self.objects.pods.get(pod) else { continue };
                if self.is_chosen(pod, facts, peers) {
                    add_named_ports(facts, name, &mut ports);
                }
            }
        }
        ports
    }

    fn is_chosen(&self, pod: &Name, facts: &PodFacts, peers: &RulePeers) -> bool {
        let RulePeers::Of(selectors) = peers else { return true };
        let Some(id) = self.identity_of(pod) else { return false };
        let has_one_in = |range: &Cidr| facts.addresses.iter().any(|it| range.contains(*it));
        let is_by_address = |selector: &SelectorId| match self.peers.selectors.key(*selector) {
            Some(SelectorKey::Block(block)) => {
                let is_left_out = block.is_world_only || block.except.iter().any(has_one_in);
                has_one_in(&block.cidr) && !is_left_out
            }
            Some(SelectorKey::Addresses(all)) => all.iter().any(has_one_in),
            // Of the world only, or by labels.
            Some(SelectorKey::Groups(..) | SelectorKey::Fqdn(_) | SelectorKey::Identities(_))
            | None => false,
        };
        self.peers.identities.is_any_of(id, selectors) || selectors.iter().any(is_by_address)
    }
}

fn port_name(port: &PortChoice) -> Option<&str> {
    match port {
        PortChoice::Named(name) => Some(name),
        PortChoice::All | PortChoice::Range(..) => None,
    }
}

/// Adds what a pod's containers call by a name.
pub(super) fn add_named_ports(pod: &PodFacts, name: &str, ports: &mut NamedPorts) {
    for port in pod.ports.iter().filter(|it| it.name == name) {
        let protocol = match port.protocol {
            Protocol::Tcp => L4Protocol::Tcp,
            Protocol::Udp => L4Protocol::Udp,
            Protocol::Sctp => L4Protocol::Sctp,
            Protocol::Icmp | Protocol::Icmpv6 | Protocol::Unspecified => continue,
        };
        ports.entry((protocol, name.to_owned())).or_default().insert(port.l4_port);
    }
}
