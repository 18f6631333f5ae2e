//! Objects of policy: from their wire form to checked rows, and rules back for showing.

use weir_api::v1;
use weir_tables::Prefix;
use weir_tables::policy::{
    CidrSelector, Direction, Identity, IdentityId, L4Protocol, PolicyRules, PortRange, Rule,
    RuleAction, RulePeers, SelectorId,
};

use super::{BadObject, Result, prefix, prefixes, unsupported};
use crate::verdicts::VerdictKind;

/// Most bytes of a rule's text for the log, and of its origin: they are in every verdict shown.
const TEXT_MAX: usize = 4096;

pub(super) fn identity(identity: &v1::Identity) -> Result<Identity> {
    if identity.id == 0 {
        return Err(unsupported("id", 0));
    }
    let mut selectors: Vec<SelectorId> =
        identity.selectors.iter().copied().map(SelectorId).collect();
    selectors.sort_unstable();
    selectors.dedup();
    Ok(Identity { id: IdentityId(identity.id), labels: identity.labels.clone(), selectors })
}

pub(super) fn peer_address(address: &v1::PeerAddress) -> Result<(Prefix, IdentityId)> {
    if address.identity == 0 {
        return Err(unsupported("identity", 0));
    }
    let prefix = prefix("prefix", address.prefix.as_ref().ok_or(BadObject::Empty)?)?;
    Ok((prefix, IdentityId(address.identity)))
}

pub(super) fn cidr_selector(selector: &v1::CidrSelector) -> Result<CidrSelector> {
    Ok(CidrSelector {
        id: SelectorId(selector.id),
        prefixes: prefixes("prefixes", &selector.prefixes)?,
        except: prefixes("except", &selector.except)?,
        is_world_only: selector.world_only,
    })
}

pub(super) fn policy_rules(rules: &v1::PolicyRules) -> Result<PolicyRules> {
    if rules.name.is_empty() {
        return Err(unsupported("name", "an empty name"));
    }
    Ok(PolicyRules {
        name: rules.name.clone(),
        ingress: section("ingress", &rules.ingress)?,
        egress: section("egress", &rules.egress)?,
    })
}

/// The order of tiers and the ends of port ranges are the tables' to check: they name the rule.
fn section(name: &str, rules: &[v1::PolicyRule]) -> Result<Vec<Rule>> {
    let rule = |(at, rule)| self::rule(rule).map_err(|error| error.within(format!("{name}[{at}]")));
    rules.iter().enumerate().map(rule).collect()
}

fn rule(rule: &v1::PolicyRule) -> Result<Rule> {
    let action = match v1::PolicyAction::try_from(rule.action) {
        Ok(v1::PolicyAction::Allow) => RuleAction::Allow,
        Ok(v1::PolicyAction::Deny) => RuleAction::Deny,
        Ok(v1::PolicyAction::Pass) => RuleAction::Pass,
        Ok(v1::PolicyAction::Redirect) => RuleAction::Redirect { l7: rule.l7.clone() },
        _ => return Err(unsupported("action", rule.action)),
    };
    if !rule.l7.is_empty() && !matches!(action, RuleAction::Redirect { .. }) {
        return Err(unsupported("l7", "a rule that does not redirect"));
    }
    if rule.any_peer && !rule.selectors.is_empty() {
        return Err(unsupported("selectors", "any_peer beside selectors"));
    }
    for (field, text) in [("origin", &rule.origin), ("log", &rule.log)] {
        if text.len() > TEXT_MAX {
            return Err(unsupported(field, format_args!("a text of {} bytes", text.len())));
        }
    }
    let ports =
        rule.ports.iter().enumerate().map(|(at, ports)| {
            port_range(ports).map_err(|error| error.within(format!("ports[{at}]")))
        });
    Ok(Rule {
        tier: u8::try_from(rule.tier).map_err(|_| unsupported("tier", rule.tier))?,
        action,
        peers: match rule.any_peer {
            true => RulePeers::Any,
            false => RulePeers::Of(rule.selectors.iter().copied().map(SelectorId).collect()),
        },
        ports: ports.collect::<Result<_>>()?,
        origin: rule.origin.clone(),
        log: rule.log.clone(),
    })
}

fn port_range(ports: &v1::PolicyPorts) -> Result<PortRange> {
    let protocol = match v1::PolicyProtocol::try_from(ports.protocol) {
        Ok(v1::PolicyProtocol::Tcp) => L4Protocol::Tcp,
        Ok(v1::PolicyProtocol::Udp) => L4Protocol::Udp,
        Ok(v1::PolicyProtocol::Sctp) => L4Protocol::Sctp,
        Ok(v1::PolicyProtocol::Icmp) => L4Protocol::Icmp,
        Ok(v1::PolicyProtocol::Icmpv6) => L4Protocol::Icmpv6,
        Ok(v1::PolicyProtocol::Other) => L4Protocol::Other,
        _ => return Err(unsupported("protocol", ports.protocol)),
    };
    let number = |field, number: u32| u16::try_from(number).map_err(|_| unsupported(field, number));
    let (first, last) = (number("first", ports.first)?, number("last", ports.last)?);
    Ok(PortRange { protocol, first, last })
}

/// A rule for showing.
pub fn show_rule(rule: &Rule) -> v1::PolicyRule {
    let (action, l7) = match &rule.action {
        RuleAction::Allow => (v1::PolicyAction::Allow, String::new()),
        RuleAction::Deny => (v1::PolicyAction::Deny, String::new()),
        RuleAction::Pass => (v1::PolicyAction::Pass, String::new()),
        RuleAction::Redirect { l7 } => (v1::PolicyAction::Redirect, l7.clone()),
    };
    let selectors = match &rule.peers {
        RulePeers::Any => Vec::new(),
        RulePeers::Of(selectors) => selectors.iter().map(|selector| selector.0).collect(),
    };
    v1::PolicyRule {
        tier: rule.tier.into(),
        action: action.into(),
        any_peer: rule.peers == RulePeers::Any,
        selectors,
        ports: rule.ports.iter().map(show_ports).collect(),
        origin: rule.origin.clone(),
        log: rule.log.clone(),
        l7,
    }
}

fn show_ports(ports: &PortRange) -> v1::PolicyPorts {
    let protocol = match ports.protocol {
        L4Protocol::Tcp => v1::PolicyProtocol::Tcp,
        L4Protocol::Udp => v1::PolicyProtocol::Udp,
        L4Protocol::Sctp => v1::PolicyProtocol::Sctp,
        L4Protocol::Icmp => v1::PolicyProtocol::Icmp,
        L4Protocol::Icmpv6 => v1::PolicyProtocol::Icmpv6,
        L4Protocol::Other => v1::PolicyProtocol::Other,
    };
    v1::PolicyPorts {
        protocol: protocol.into(),
        first: ports.first.into(),
        last: ports.last.into(),
    }
}

/// A direction for showing.
pub fn show_direction(direction: Direction) -> v1::Direction {
    match direction {
        Direction::Ingress => v1::Direction::Ingress,
        Direction::Egress => v1::Direction::Egress,
    }
}

/// A kind of verdict for showing.
pub fn show_verdict_kind(kind: VerdictKind) -> v1::VerdictKind {
    match kind {
        VerdictKind::Allowed => v1::VerdictKind::Allowed,
        VerdictKind::Denied => v1::VerdictKind::Denied,
        VerdictKind::Audited => v1::VerdictKind::Audited,
        VerdictKind::Redirected => v1::VerdictKind::Redirected,
    }
}

#[cfg(test)]
mod tests;
