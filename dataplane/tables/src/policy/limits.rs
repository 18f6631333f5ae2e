//! What is accepted, and how much of it.

use super::rows::{Direction, Identity, L4Protocol, PolicyRules, Rule, RulePeers};
use crate::rejection::Rejection;

/// Most identities of the cluster, and most that are local to the node.
pub(super) const IDENTITIES_MAX: usize = 65_536;
/// Most selectors that choose one identity.
pub(super) const SELECTORS_OF_IDENTITY_MAX: usize = 65_536;
/// Most addresses with an identity.
pub(super) const ADDRESSES_MAX: usize = 1 << 20;
/// Most prefixes that an identity or a selector has.
pub(super) const RANGES_MAX: usize = 1 << 17;
/// Most selectors of addresses.
pub(super) const CIDR_SELECTORS_MAX: usize = 65_536;
/// Most tables.
pub(super) const TABLES_MAX: usize = 65_536;
/// Most rules of a table for one direction.
pub(super) const RULES_MAX: usize = 65_536;
/// Most selectors and ranges of ports that all rules of a table have together.
pub(super) const PARTS_MAX: usize = 1 << 20;

pub(super) fn check_identity(identity: &Identity, count: usize) -> Result<(), Rejection> {
    if count > IDENTITIES_MAX {
        return Err(Rejection::Full("the identity table", IDENTITIES_MAX));
    }
    let selectors = identity.selectors.len();
    if selectors > SELECTORS_OF_IDENTITY_MAX {
        return Err(Rejection::TooMuchPolicy {
            what: "selectors of one identity",
            count: selectors,
            most: SELECTORS_OF_IDENTITY_MAX,
            advice: "use fewer different selectors in policies",
        });
    }
    Ok(())
}

pub(super) fn check_rules(rules: &PolicyRules) -> Result<(), Rejection> {
    let sides = [(Direction::Ingress, &rules.ingress), (Direction::Egress, &rules.egress)];
    for (direction, rules) in sides {
        if rules.len() > RULES_MAX {
            return Err(Rejection::TooMuchPolicy {
                what: match direction {
                    Direction::Ingress => "ingress rules for one endpoint",
                    Direction::Egress => "egress rules for one endpoint",
                },
                count: rules.len(),
                most: RULES_MAX,
                advice: "select the endpoint by fewer policies, or merge their rules",
            });
        }
        let mut tier = 0;
        for (rule, number) in rules.iter().zip(1..) {
            check_rule(rule, tier).map_err(|reason| Rejection::Rule {
                number,
                direction,
                origin: rule.origin.clone(),
                reason,
            })?;
            tier = rule.tier;
        }
    }
    let parts = |rule: &Rule| match &rule.peers {
        RulePeers::Any => rule.ports.len(),
        RulePeers::Of(selectors) => rule.ports.len() + selectors.len(),
    };
    let count = rules.ingress.iter().chain(&rules.egress).map(parts).sum();
    if count > PARTS_MAX {
        return Err(Rejection::TooMuchPolicy {
            what: "selectors and port ranges in the rules for one endpoint",
            count,
            most: PARTS_MAX,
            advice: "select the endpoint by fewer policies, or merge their rules",
        });
    }
    Ok(())
}

fn check_rule(rule: &Rule, tier: u8) -> Result<(), &'static str> {
    if rule.tier < tier {
        return Err("is of an earlier tier than the rule before: sort rules by tier");
    }
    for ports in &rule.ports {
        if ports.first > ports.last {
            return Err("has a range of ports whose last is below its first: swap them");
        }
        let most = match ports.protocol {
            L4Protocol::Tcp | L4Protocol::Udp | L4Protocol::Sctp => u16::MAX,
            L4Protocol::Icmp | L4Protocol::Icmpv6 | L4Protocol::Other => u16::from(u8::MAX),
        };
        if ports.last > most {
            return Err("has an ICMP type or a protocol number over 255");
        }
    }
    Ok(())
}
