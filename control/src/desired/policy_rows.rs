//! Rows of policy as the state protocol writes them.

use std::net::IpAddr;

use weir_api::convert::address_bytes;
use weir_api::v1::{self, PolicyPorts, PolicyProtocol, PolicyRule, object};
use weir_tables::Prefix;
use weir_tables::policy::{
    CidrSelector, Identity, IdentityId, L4Protocol, PolicyRules, PortRange, Rule, RuleAction,
    RulePeers,
};

use super::{Desired, DesiredKey};
use crate::policy::PolicyChanges;

impl Desired {
    /// Takes over what the policy state says has changed.
    pub(super) fn put_policy(&mut self, changes: PolicyChanges) {
        for (id, row) in changes.identities {
            self.replace(DesiredKey::Identity(id.0), row.map(write_identity));
        }
        for (id, row) in changes.selectors {
            self.replace(DesiredKey::CidrSelector(id.0), row.map(write_selector));
        }
        for (prefix, identity) in changes.addresses {
            let key = DesiredKey::PeerAddress(IpAddr::from(prefix.addr()), prefix.length());
            self.replace(key, identity.map(|it| write_address(prefix, it)));
        }
        for (name, row) in changes.rules {
            self.replace(DesiredKey::PolicyRules(name), row.map(write_rules));
        }
        self.dirty_endpoints.extend(changes.endpoints.iter().map(ToString::to_string));
    }

    fn replace(&mut self, key: DesiredKey, new: Option<object::Kind>) {
        match new {
            Some(kind) => self.put(key, kind),
            None => self.delete(key),
        }
    }
}

fn write_identity(row: Identity) -> object::Kind {
    object::Kind::Identity(v1::Identity {
        id: row.id.0,
        labels: row.labels,
        selectors: row.selectors.into_iter().map(|it| it.0).collect(),
    })
}

fn write_selector(row: CidrSelector) -> object::Kind {
    object::Kind::CidrSelector(v1::CidrSelector {
        id: row.id.0,
        prefixes: row.prefixes.into_iter().map(write_prefix).collect(),
        except: row.except.into_iter().map(write_prefix).collect(),
        world_only: row.is_world_only,
    })
}

fn write_address(prefix: Prefix, identity: IdentityId) -> object::Kind {
    let prefix = Some(write_prefix(prefix));
    object::Kind::PeerAddress(v1::PeerAddress { prefix, identity: identity.0 })
}

fn write_prefix(prefix: Prefix) -> v1::Prefix {
    let address = address_bytes(IpAddr::from(prefix.addr()));
    v1::Prefix { address, length: u32::from(prefix.length()) }
}

fn write_rules(row: PolicyRules) -> object::Kind {
    object::Kind::PolicyRules(v1::PolicyRules {
        name: row.name,
        ingress: row.ingress.into_iter().map(write_rule).collect(),
        egress: row.egress.into_iter().map(write_rule).collect(),
    })
}

fn write_rule(row: Rule) -> PolicyRule {
    let (action, l7) = match row.action {
        RuleAction::Allow => (v1::PolicyAction::Allow, String::new()),
        RuleAction::Deny => (v1::PolicyAction::Deny, String::new()),
        RuleAction::Pass => (v1::PolicyAction::Pass, String::new()),
        RuleAction::Redirect { l7 } => (v1::PolicyAction::Redirect, l7),
    };
    let (any_peer, selectors) = match row.peers {
        RulePeers::Any => (true, Vec::new()),
        RulePeers::Of(selectors) => (false, selectors.into_iter().map(|it| it.0).collect()),
    };
    PolicyRule {
        tier: u32::from(row.tier),
        action: action.into(),
        any_peer,
        selectors,
        ports: row.ports.into_iter().map(write_ports).collect(),
        origin: row.origin,
        log: row.log,
        l7,
    }
}

fn write_ports(row: PortRange) -> PolicyPorts {
    let protocol = match row.protocol {
        L4Protocol::Tcp => PolicyProtocol::Tcp,
        L4Protocol::Udp => PolicyProtocol::Udp,
        L4Protocol::Sctp => PolicyProtocol::Sctp,
        L4Protocol::Icmp => PolicyProtocol::Icmp,
        L4Protocol::Icmpv6 => PolicyProtocol::Icmpv6,
        L4Protocol::Other => PolicyProtocol::Other,
    };
    PolicyPorts {
        protocol: protocol.into(),
        first: u32::from(row.first),
        last: u32::from(row.last),
    }
}
