//! What `weir policy show` and `weir drops` print of policy.

use serde::Serialize;
use weir_api::object::protocol_name;
use weir_api::v1::{self, PolicyAction, PolicyPorts, PolicyProtocol};

use super::{Drop, join_address, show_address};

/// One endpoint of `weir policy show`.
#[derive(Debug, Serialize)]
pub(in super::super) struct EndpointPolicy {
    pub name: String,
    pub identity: u32,
    pub labels: Vec<String>,
    /// Name of its rules; empty: no policy.
    pub policy_rules: String,
    /// The rules are missing or were refused: everything is denied.
    pub closed: bool,
    pub audited: bool,
    pub since_revision: u32,
    /// Whether there are rules for the direction; else everything is allowed.
    pub ingress_enforced: bool,
    pub egress_enforced: bool,
    pub verdicts: VerdictTotals,
    /// The rules, where one endpoint is asked for.
    pub ingress: Option<Vec<EnforcedRule>>,
    pub egress: Option<Vec<EnforcedRule>>,
}

/// Verdicts at one endpoint by all rules.
#[derive(Debug, Default, Serialize)]
pub(in super::super) struct VerdictTotals {
    pub allowed: u64,
    pub denied: u64,
    pub audited: u64,
    pub redirected: u64,
}

/// A rule; they are in order, and the first one that matches decides.
#[derive(Debug, Serialize)]
pub(in super::super) struct EnforcedRule {
    /// "admin", "normal" or "baseline".
    pub tier: String,
    /// "allow", "deny", "pass" or "redirect".
    pub action: &'static str,
    pub any_peer: bool,
    /// Numbers of what the peers are chosen by.
    pub selectors: Vec<u32>,
    /// Identities that they choose.
    pub identities: u32,
    /// As `80/TCP`; empty: all protocols and ports.
    pub ports: Vec<String>,
    pub verdicts: u64,
    pub origin: String,
    pub log: String,
    /// The proxy's rules, as JSON.
    pub l7: String,
}

/// `weir drops`.
#[derive(Debug, Serialize)]
pub(in super::super) struct Drops {
    pub drops: Vec<Drop>,
    /// What policy did not allow, by endpoint and rule.
    pub denied: Vec<DeniedCount>,
    /// The last ones, oldest first.
    pub recent: Vec<DeniedPacket>,
}

#[derive(Debug, Serialize)]
pub(in super::super) struct DeniedCount {
    pub endpoint: String,
    pub direction: &'static str,
    pub verdict: &'static str,
    pub rule: String,
    pub count: u64,
}

#[derive(Debug, Serialize)]
pub(in super::super) struct DeniedPacket {
    pub ago_ns: u64,
    pub revision: u32,
    pub worker: u32,
    pub endpoint: String,
    pub direction: &'static str,
    pub verdict: &'static str,
    pub rule: String,
    pub log: String,
    /// Of ICMP and protocols without ports the address alone.
    pub source: String,
    pub destination: String,
    /// As `80/TCP`.
    pub port: String,
    pub peer_identity: u32,
    pub peer_labels: Vec<String>,
}

impl EndpointPolicy {
    /// An endpoint, with its rules where they were asked for.
    pub(in super::super) fn new(
        it: v1::EndpointPolicy,
        verdicts: VerdictTotals,
        has_rules: bool,
    ) -> Self {
        let rules = |rules: Vec<v1::EnforcedRule>| {
            has_rules.then(|| rules.into_iter().map(Into::into).collect())
        };
        Self {
            name: it.name,
            identity: it.identity,
            labels: it.labels,
            policy_rules: it.policy_rules,
            closed: it.is_closed,
            audited: it.is_audited,
            since_revision: it.since_revision,
            ingress_enforced: it.has_ingress,
            egress_enforced: it.has_egress,
            verdicts,
            ingress: rules(it.ingress),
            egress: rules(it.egress),
        }
    }
}

impl VerdictTotals {
    /// Adds a count.
    pub(in super::super) fn add(&mut self, it: &v1::VerdictCount) {
        match it.verdict() {
            v1::VerdictKind::Allowed => self.allowed += it.count,
            v1::VerdictKind::Denied => self.denied += it.count,
            v1::VerdictKind::Audited => self.audited += it.count,
            v1::VerdictKind::Redirected => self.redirected += it.count,
            v1::VerdictKind::Unspecified => {}
        }
    }
}

impl From<v1::EnforcedRule> for EnforcedRule {
    fn from(it: v1::EnforcedRule) -> Self {
        let rule = it.rule.unwrap_or_default();
        Self {
            tier: match rule.tier {
                0 => "admin".into(),
                1 => "normal".into(),
                2 => "baseline".into(),
                other => other.to_string(),
            },
            action: match rule.action() {
                PolicyAction::Allow => "allow",
                PolicyAction::Deny => "deny",
                PolicyAction::Pass => "pass",
                PolicyAction::Redirect => "redirect",
                PolicyAction::Unspecified => "unspecified",
            },
            any_peer: rule.any_peer,
            identities: it.identities,
            ports: rule.ports.iter().map(show_ports).collect(),
            verdicts: it.verdicts,
            selectors: rule.selectors,
            origin: rule.origin,
            log: rule.log,
            l7: rule.l7,
        }
    }
}

impl From<v1::VerdictCount> for DeniedCount {
    fn from(it: v1::VerdictCount) -> Self {
        Self {
            direction: direction_name(it.direction()),
            verdict: verdict_name(it.verdict()),
            endpoint: it.endpoint,
            rule: it.rule,
            count: it.count,
        }
    }
}

impl From<v1::PolicyVerdict> for DeniedPacket {
    fn from(it: v1::PolicyVerdict) -> Self {
        let (protocol, port) = (it.protocol(), it.destination_port);
        let has_ports =
            matches!(protocol, v1::Protocol::Tcp | v1::Protocol::Udp | v1::Protocol::Sctp);
        let end = |address: &[u8], port| match has_ports {
            true => join_address(address, port),
            false => show_address(address),
        };
        Self {
            ago_ns: it.ago_ns,
            revision: it.revision,
            worker: it.worker,
            direction: direction_name(it.direction()),
            verdict: verdict_name(it.verdict()),
            source: end(&it.source, it.source_port),
            destination: end(&it.destination, port),
            port: match protocol {
                v1::Protocol::Icmp | v1::Protocol::Icmpv6 => {
                    format!("{} type {port}", protocol_name(protocol))
                }
                v1::Protocol::Unspecified => format!("protocol {}", it.protocol),
                _ => format!("{port}/{}", protocol_name(protocol)),
            },
            endpoint: it.endpoint,
            rule: it.rule,
            log: it.log,
            peer_identity: it.peer_identity,
            peer_labels: it.peer_labels,
        }
    }
}

/// `80/TCP`, `8000-8080/UDP`, `all SCTP`, `ICMP type 8`, `protocol 47`.
fn show_ports(ports: &PolicyPorts) -> String {
    let (first, last) = (ports.first, ports.last);
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    let of_ports = |name: &str| match (first, last) {
        (0, 0xffff) => format!("all {name}"),
        _ => format!("{range}/{name}"),
    };
    let of_types = |name: &str| match (first, last) {
        (0, 0xff) => format!("all {name}"),
        _ => format!("{name} type {range}"),
    };
    match ports.protocol() {
        PolicyProtocol::Tcp => of_ports("TCP"),
        PolicyProtocol::Udp => of_ports("UDP"),
        PolicyProtocol::Sctp => of_ports("SCTP"),
        PolicyProtocol::Icmp => of_types("ICMP"),
        PolicyProtocol::Icmpv6 => of_types("ICMPv6"),
        PolicyProtocol::Other | PolicyProtocol::Unspecified => format!("protocol {range}"),
    }
}

fn direction_name(direction: v1::Direction) -> &'static str {
    match direction {
        v1::Direction::Ingress => "ingress",
        v1::Direction::Egress => "egress",
        v1::Direction::Unspecified => "unspecified",
    }
}

fn verdict_name(verdict: v1::VerdictKind) -> &'static str {
    match verdict {
        v1::VerdictKind::Allowed => "allowed",
        v1::VerdictKind::Denied => "denied",
        v1::VerdictKind::Audited => "audited",
        v1::VerdictKind::Redirected => "redirected",
        v1::VerdictKind::Unspecified => "unspecified",
    }
}
