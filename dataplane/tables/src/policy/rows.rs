//! What control says about policy, as plain checked values.
//!
//! Labels, namespaces and selectors stay in control. What arrives here are numbers: identities, the
//! selectors that each belongs to, and rules by selector. A new identity is one object, however
//! many policies there are.

use std::fmt;

use weir_packet::protocol;

use crate::network::Prefix;

/// The number of a set of security labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId(pub u32);

impl IdentityId {
    /// Not known: belongs to no selector.
    pub const UNKNOWN: IdentityId = IdentityId(0);
    /// This node.
    pub const HOST: IdentityId = IdentityId(1);
    /// An address without an identity of its own.
    pub const WORLD_IPV4: IdentityId = IdentityId(9);
    pub const WORLD_IPV6: IdentityId = IdentityId(10);
    /// Identities of ranges and names outside the cluster, local to the node: from here to
    /// [`IdentityId::LOCAL_MAX`].
    pub const LOCAL_MIN: IdentityId = IdentityId(0x0100_0000);
    pub const LOCAL_MAX: IdentityId = IdentityId(0x01ff_ffff);

    /// Whether it stands for something outside the cluster: an address that is of no pod and no
    /// node.
    pub fn is_world(self) -> bool {
        matches!(self.0, 2 | 9 | 10) || (Self::LOCAL_MIN..=Self::LOCAL_MAX).contains(&self)
    }
}

/// The number of something that peers are chosen by: a label selector, an entity, a range, a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorId(pub u32);

/// A set of security labels, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: IdentityId,
    /// `source:key=value`, for people.
    pub labels: Vec<String>,
    /// Every selector that chooses it, in rising order.
    pub selectors: Vec<SelectorId>,
}

/// A selector of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidrSelector {
    pub id: SelectorId,
    /// An address in any of these is chosen,
    pub prefixes: Vec<Prefix>,
    /// unless it is in one of these.
    pub except: Vec<Prefix>,
    /// Only addresses that are of no pod and no node, as the `cilium.io` policies have it.
    /// Kubernetes' `ipBlock` means any address.
    pub is_world_only: bool,
}

/// Which way the connection goes, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

/// The rules of all endpoints that the same policies select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRules {
    pub name: String,
    pub ingress: Vec<Rule>,
    pub egress: Vec<Rule>,
}

/// One rule. Rules are in order of precedence, and the first one that matches decides; where none
/// does, the packet is allowed. A default deny is a last rule like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Never falls from rule to rule. [`RuleAction::Pass`] goes on behind the last rule of its
    /// tier.
    pub tier: u8,
    pub action: RuleAction,
    pub peers: RulePeers,
    /// Empty: all protocols and ports.
    pub ports: Vec<PortRange>,
    /// Which rule of which object it is, as `NetworkPolicy default/web: spec.ingress[0]`. Rules of
    /// several endpoints with one origin are counted as one.
    pub origin: String,
    /// What the policy wants in the log with each verdict.
    pub log: String,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulePeers {
    Any,
    /// Whoever belongs to one of these; nobody if there are none.
    Of(Vec<SelectorId>),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    Allow,
    Deny,
    /// The next tier decides.
    Pass,
    /// The L7 proxy decides by these rules: JSON, with the name of their `parser` first.
    Redirect {
        l7: String,
    },
}

/// Ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    pub protocol: L4Protocol,
    pub first: u16,
    pub last: u16,
}

/// The protocols that rules tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L4Protocol {
    Tcp,
    Udp,
    Sctp,
    /// The ICMP type stands in place of the port.
    Icmp,
    Icmpv6,
    /// The IP protocol number stands in place of the port.
    Other,
}

impl L4Protocol {
    pub const ALL: [L4Protocol; 6] = [
        L4Protocol::Tcp,
        L4Protocol::Udp,
        L4Protocol::Sctp,
        L4Protocol::Icmp,
        L4Protocol::Icmpv6,
        L4Protocol::Other,
    ];
}

/// What a packet asks for at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4 {
    pub protocol: L4Protocol,
    /// Destination port; ICMP type; IP protocol number of any other protocol.
    pub port: u16,
}

impl L4 {
    /// Of a packet of an IP protocol with this destination port, or with this ICMP type.
    #[inline]
    pub fn new(ip_protocol: u8, port_or_type: u16) -> L4 {
        let (protocol, port) = match ip_protocol {
            protocol::TCP => (L4Protocol::Tcp, port_or_type),
            protocol::UDP => (L4Protocol::Udp, port_or_type),
            protocol::SCTP => (L4Protocol::Sctp, port_or_type),
            protocol::ICMP => (L4Protocol::Icmp, port_or_type),
            protocol::ICMPV6 => (L4Protocol::Icmpv6, port_or_type),
            other => (L4Protocol::Other, u16::from(other)),
        };
        L4 { protocol, port }
    }
}

/// `80/TCP`, `icmp type 8`, `protocol 47`.
impl fmt::Display for L4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match self.protocol {
            L4Protocol::Tcp => write!(f, "{port}/TCP"),
            L4Protocol::Udp => write!(f, "{port}/UDP"),
            L4Protocol::Sctp => write!(f, "{port}/SCTP"),
            L4Protocol::Icmp => write!(f, "ICMP type {port}"),
            L4Protocol::Icmpv6 => write!(f, "ICMPv6 type {port}"),
            L4Protocol::Other => write!(f, "protocol {port}"),
        }
    }
}

/// The number of a rule's origin. It means the same for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No rule: no policy is about this.
    pub const NONE: RuleId = RuleId(0);
    /// The endpoint's rules are not there, or could not be accepted: everything is denied.
    pub const MISSING: RuleId = RuleId(1);
}

/// What becomes of a connection in one direction, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyVerdict {
    pub action: PolicyAction,
    pub rule: RuleId,
}

impl PolicyVerdict {
    /// Where no policy is about it.
    pub const NO_POLICY: PolicyVerdict =
        PolicyVerdict { action: PolicyAction::Allow, rule: RuleId::NONE };
    /// Where the rules are not there, or could not be accepted.
    pub const MISSING: PolicyVerdict =
        PolicyVerdict { action: PolicyAction::Deny, rule: RuleId::MISSING };
}

/// What becomes of a connection in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyAction {
    Allow,
    Deny,
    /// Allowed, if the L7 proxy allows it.
    Redirect,
}
