//! The judge: network policy read straight from the YAML, once per probe, from the published
//! semantics alone.
//!
//! Nothing here is fast, numbered, compiled or kept. For a probe each policy object is walked: does
//! it select the pod, which of its rules match the other end and the port, and what do all of them
//! together say. It shares no code with what it judges.

mod address;
mod cilium;
mod cilium_peers;
mod cluster;
mod ends;
mod labels;
mod network_policy;
mod ports;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

pub use address::contains;
pub use ends::End;

/// All objects.
pub struct World {
    pub objects: Vec<Value>,
}

/// A connection somebody wants to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// `namespace/pod` or an address.
    pub from: String,
    pub to: String,
    /// Destination port, or ICMP type.
    pub port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Allow,
    Deny,
    /// A proxy decides.
    Redirect,
}

/// What one direction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half {
    pub verdict: Verdict,
    /// Rules that match and say so: any of them may be named as the one that decides. Empty where
    /// the verdict follows from no rule at all.
    pub rules: BTreeSet<String>,
}

/// What both directions say; `None` where that end is no pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub egress: Option<Half>,
    pub ingress: Option<Half>,
}

/// A rule that matches.
pub struct Hit {
    pub action: Action,
    /// As `NetworkPolicy default/web: spec.ingress[0]`.
    pub origin: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Redirect,
    Deny,
    Pass,
}

/// What is asked of a policy.
pub struct Question<'w> {
    pub world: &'w World,
    pub direction: Direction,
    /// The pod whose policies are asked.
    pub pod: &'w Value,
    /// The other end.
    pub peer: &'w End<'w>,
    pub port: u16,
    pub protocol: Protocol,
}

impl World {
    pub fn judge(&self, probe: &Probe) -> Answer {
        let (from, to) = ends::resolve(self, probe);
        let half = |direction, own: &End, peer: &End| {
            let pod = own.pod?;
            let (port, protocol) = (probe.port, probe.protocol);
            let question = Question { world: self, direction, pod, peer, port, protocol };
            Some(question.answer())
        };
        Answer {
            egress: half(Direction::Egress, &from, &to),
            ingress: half(Direction::Ingress, &to, &from),
        }
    }

    pub fn of_kind<'w>(&'w self, kind: &'w str) -> impl Iterator<Item = &'w Value> {
        self.objects.iter().filter(move |it| it["kind"] == kind)
    }
}

impl Question<'_> {
    fn answer(&self) -> Half {
        if self.is_always_allowed() {
            return Half { verdict: Verdict::Allow, rules: BTreeSet::new() };
        }
        let half = self.ask_tier("Admin").or_else(|| self.ask_normal_tier());
        let half = half.or_else(|| self.ask_tier("Baseline"));
        half.unwrap_or(Half { verdict: Verdict::Allow, rules: BTreeSet::new() })
    }

    /// A pod reaches itself, and its own node reaches it.
    fn is_always_allowed(&self) -> bool {
        let is_itself = self.peer.pod.is_some_and(|peer| std::ptr::eq(peer, self.pod));
        let is_own_node = self.direction == Direction::Ingress && self.is_peer_own_node();
        is_itself || is_own_node
    }

    /// Whether the other end is the node that the pod runs on.
    pub fn is_peer_own_node(&self) -> bool {
        self.peer.node.is_some_and(|node| node["metadata"]["name"] == self.pod["spec"]["nodeName"])
    }

    /// The first rule that matches, of the policy that comes first.
    fn ask_tier(&self, tier: &str) -> Option<Half> {
        let mut policies: Vec<&Value> = self.world.of_kind("ClusterNetworkPolicy").collect();
        policies.retain(|it| it["spec"]["tier"] == tier);
        policies.sort_by_key(|it| {
            let name = it["metadata"]["name"].as_str().unwrap().to_string();
            (it["spec"]["priority"].as_i64().unwrap(), name)
        });
        let hit = policies.into_iter().find_map(|policy| cluster::first_hit(self, policy))?;
        let verdict = match hit.action {
            Action::Allow => Verdict::Allow,
            Action::Deny => Verdict::Deny,
            Action::Redirect => Verdict::Redirect,
            Action::Pass => return None,
        };
        Some(Half { verdict, rules: BTreeSet::from([hit.origin]) })
    }

    /// Denials, then redirects, then what is allowed, then the default.
    fn ask_normal_tier(&self) -> Option<Half> {
        let mut hits = Vec::new();
        let mut isolating = BTreeSet::new();
        for policy in self.world.of_kind("NetworkPolicy") {
            if network_policy::is_isolating(self, policy) {
                isolating.insert(name_object(policy));
                hits.extend(network_policy::hits(self, policy));
            }
        }
        for kind in ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"] {
            for policy in self.world.of_kind(kind) {
                if cilium::is_isolating(self, policy) {
                    isolating.insert(name_object(policy));
                }
                hits.extend(cilium::hits(self, policy));
            }
        }
        let by_action = [
            (Action::Deny, Verdict::Deny),
            (Action::Redirect, Verdict::Redirect),
            (Action::Allow, Verdict::Allow),
        ];
        for (action, verdict) in by_action {
            let found = hits.iter().filter(|it| it.action == action);
            let rules: BTreeSet<String> = found.map(|it| it.origin.clone()).collect();
            if !rules.is_empty() {
                return Some(Half { verdict, rules });
            }
        }
        let is_isolated = !isolating.is_empty();
        let rules = isolating.into_iter().map(|it| format!("default deny of {it}")).collect();
        is_isolated.then_some(Half { verdict: Verdict::Deny, rules })
    }

    /// `ingress` or `egress`.
    pub fn section(&self) -> &'static str {
        match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// `NetworkPolicy default/web`, `ClusterNetworkPolicy web`.
pub fn name_object(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap();
    let name = object["metadata"]["name"].as_str().unwrap();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// Items of a list that may be missing.
pub fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.name();
        write!(f, "{} -> {} {}/{protocol}", self.from, self.to, self.port)
    }
}

impl Protocol {
    pub const ALL: [Protocol; 5] =
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp, Protocol::Icmpv6];

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
            Protocol::Icmp => "ICMP",
            Protocol::Icmpv6 => "ICMPv6",
        }
    }

    pub fn has_ports(self) -> bool {
        !matches!(self, Protocol::Icmp | Protocol::Icmpv6)
    }
}
