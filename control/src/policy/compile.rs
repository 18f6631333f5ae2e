//! The rules of the endpoints that some policies select, in order of precedence. Pure.

use std::collections::{BTreeMap, BTreeSet};

use weir_tables::policy::{
    Direction, L4Protocol, PolicyRules, PortRange, Rule, RuleAction, RulePeers,
};

use crate::model::{
    ObjectKey, PolicyAction, PolicyPort, PolicyProtocol, PolicyRule, PolicySpec, PortChoice,
    Section, Tier,
};

/// What the names of ports stand for.
pub(super) type NamedPorts = BTreeMap<(L4Protocol, String), BTreeSet<u16>>;

/// A rule's peers by number, and what else follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvedRule {
    pub peers: RulePeers,
    /// Of the peers; used by rules for egress.
    pub ports: NamedPorts,
}

/// One of the policies' specs.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpecInput<'a> {
    pub policy: &'a ObjectKey,
    pub spec: &'a PolicySpec,
    /// As many as the section has rules.
    pub ingress: &'a [ResolvedRule],
    pub egress: &'a [ResolvedRule],
}

/// Why endpoints are isolated beside what their policies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Isolation {
    /// They are not.
    None,
    /// Enforcement mode `always`.
    Always,
    /// Nothing says which labels they have.
    NoLabels,
    /// There are more sets of labels than numbers.
    NoIdentity,
}

impl Isolation {
    fn origin(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Always => Some("default deny of enforcement mode always"),
            Self::NoLabels => Some("default deny of endpoints without a Pod object"),
            Self::NoIdentity => Some("default deny of pods without an identity"),
        }
    }
}

/// Writes the rules of endpoints whose own named ports are `own_ports`. Specs come in order of
/// their policies' kinds and names.
pub(super) fn compile_rules(
    name: String,
    specs: &[SpecInput<'_>],
    own_ports: &NamedPorts,
    isolation: Isolation,
) -> PolicyRules {
    let compile = |direction| {
        let mut rules = Vec::new();
        add_ordered(specs, direction, Tier::Admin, own_ports, &mut rules);
        add_normal(specs, direction, own_ports, &mut rules);
        rules.extend(write_default_deny(specs, direction, isolation));
        add_ordered(specs, direction, Tier::Baseline, own_ports, &mut rules);
        rules
    };
    PolicyRules { name, ingress: compile(Direction::Ingress), egress: compile(Direction::Egress) }
}

/// Tiers in which the first rule that matches decides.
fn add_ordered(
    specs: &[SpecInput<'_>],
    direction: Direction,
    tier: Tier,
    own_ports: &NamedPorts,
    rules: &mut Vec<Rule>,
) {
    let mut specs: Vec<_> = specs.iter().filter(|it| it.spec.tier == tier).collect();
    specs.sort_by_key(|it| (it.spec.priority, &it.policy.name));
    for spec in specs {
        rules.extend(spec.rules(direction).filter_map(|it| it.write(own_ports)));
    }
}

/// Denials, then redirects by priority, then what is allowed.
fn add_normal(
    specs: &[SpecInput<'_>],
    direction: Direction,
    own_ports: &NamedPorts,
    rules: &mut Vec<Rule>,
) {
    let specs = specs.iter().filter(|it| it.spec.tier == Tier::Normal);
    let all = specs.flat_map(|it| it.rules(direction));
    let mut ranked: Vec<_> =
        all.filter_map(|it| Some((it.rank_normal(), it.write(own_ports)?))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    rules.extend(ranked.into_iter().map(|(_, rule)| rule));
}

fn write_default_deny(
    specs: &[SpecInput<'_>],
    direction: Direction,
    isolation: Isolation,
) -> Option<Rule> {
    let isolates = |it: &&SpecInput<'_>| {
        it.spec.tier == Tier::Normal && it.section(direction).is_some_and(|it| it.is_default_deny)
    };
    let mut policies: Vec<String> =
        specs.iter().filter(isolates).map(|it| it.policy.to_string()).collect();
    // Several specs of one policy stand together.
    policies.dedup();
    let origin = match policies.is_empty() {
        false => format!("default deny of {}", policies.join(", ")),
        true => isolation.origin()?.to_owned(),
    };
    let (action, peers, ports) = (RuleAction::Deny, RulePeers::Any, Vec::new());
    Some(Rule { tier: number_tier(Tier::Normal), action, peers, ports, origin, log: String::new() })
}

fn number_tier(tier: Tier) -> u8 {
    match tier {
        Tier::Admin => 0,
        Tier::Normal => 1,
        Tier::Baseline => 2,
    }
}

impl<'a> SpecInput<'a> {
    fn section(&self, direction: Direction) -> Option<&'a Section> {
        match direction {
            Direction::Ingress => self.spec.ingress.as_ref(),
            Direction::Egress => self.spec.egress.as_ref(),
        }
    }

    fn rules(self, direction: Direction) -> impl Iterator<Item = RuleInput<'a>> {
        let rules = self.section(direction).map_or(&[][..], |it| &it.rules);
        let resolved = match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        };
        let pairs = rules.iter().zip(resolved);
        pairs.map(move |(rule, resolved)| RuleInput { of: self, direction, rule, resolved })
    }
}

/// One rule of a spec.
struct RuleInput<'a> {
    of: SpecInput<'a>,
    direction: Direction,
    rule: &'a PolicyRule,
    resolved: &'a ResolvedRule,
}

impl RuleInput<'_> {
    fn rank_normal(&self) -> (u8, u8) {
        match (self.rule.action, &self.rule.l7) {
            (PolicyAction::Deny | PolicyAction::Pass, _) => (0, 0),
            (PolicyAction::Allow, Some(l7)) => (1, l7.priority),
            (PolicyAction::Allow, None) => (2, 0),
        }
    }

    /// `None` for a rule that is about nothing.
    fn write(&self, own_ports: &NamedPorts) -> Option<Rule> {
        let rule = self.rule;
        let write = |action, peers, ports| Rule {
            tier: number_tier(self.of.spec.tier),
            action,
            peers,
            ports,
            origin: format!("{}: {}", self.of.policy, rule.path),
            log: self.of.spec.log.clone(),
        };
        if rule.unsupported.is_some() {
            return match rule.action {
                PolicyAction::Allow => None,
                PolicyAction::Deny | PolicyAction::Pass => {
                    Some(write(RuleAction::Deny, RulePeers::Any, Vec::new()))
                }
            };
        }
        if self.resolved.peers == RulePeers::Of(Vec::new()) {
            return None;
        }
        let names = match self.direction {
            Direction::Ingress => own_ports,
            Direction::Egress => &self.resolved.ports,
        };
        let ports = resolve_ports(&rule.ports, names);
        // No port would mean all of them.
        if ports.is_empty() && !rule.ports.is_empty() {
            return None;
        }
        let action = match (rule.action, &rule.l7) {
            (PolicyAction::Allow, Some(l7)) => RuleAction::Redirect { l7: l7.to_json() },
            (PolicyAction::Allow, None) => RuleAction::Allow,
            (PolicyAction::Deny, _) => RuleAction::Deny,
            (PolicyAction::Pass, _) => RuleAction::Pass,
        };
        Some(write(action, self.resolved.peers.clone(), ports))
    }
}

fn resolve_ports(ports: &[PolicyPort], names: &NamedPorts) -> Vec<PortRange> {
    let mut ranges = BTreeSet::new();
    for port in ports {
        for &protocol in list_protocols(port.protocol) {
            let max = match protocol {
                L4Protocol::Icmp | L4Protocol::Icmpv6 => 255,
                _ => u16::MAX,
            };
            let range = |first, last| PortRange { protocol, first, last };
            match (&port.port, port.protocol) {
                (_, PolicyProtocol::Other(number)) => {
                    ranges.insert(range(number.into(), number.into()));
                }
                (PortChoice::All, _) => {
                    ranges.insert(range(0, max));
                }
                (PortChoice::Range(first, last), _) => {
                    ranges.insert(range(*first, *last));
                }
                (PortChoice::Named(name), _) => {
                    let numbers = names.get(&(protocol, name.clone()));
                    ranges.extend(numbers.into_iter().flatten().map(|it| range(*it, *it)));
                }
            }
        }
    }
    ranges.into_iter().collect()
}

fn list_protocols(protocol: PolicyProtocol) -> &'static [L4Protocol] {
    match protocol {
        PolicyProtocol::Tcp => &[L4Protocol::Tcp],
        PolicyProtocol::Udp => &[L4Protocol::Udp],
        PolicyProtocol::Sctp => &[L4Protocol::Sctp],
        PolicyProtocol::Any => &[L4Protocol::Tcp, L4Protocol::Udp, L4Protocol::Sctp],
        PolicyProtocol::Icmp => &[L4Protocol::Icmp],
        PolicyProtocol::Icmpv6 => &[L4Protocol::Icmpv6],
        PolicyProtocol::Other(_) => &[L4Protocol::Other],
    }
}
