//! Network policy, whatever language it was written in.
//!
//! Three languages become these nouns: NetworkPolicy (`networking.k8s.io/v1`), CiliumNetworkPolicy
//! and CiliumClusterwideNetworkPolicy (`cilium.io/v2`), ClusterNetworkPolicy
//! (`policy.networking.k8s.io/v1alpha2`). What differs between them (what an empty list means, what
//! is scoped to the namespace, what a range of addresses is about) has been settled by the reader;
//! what follows from labels, names and addresses is settled later.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Cidr, ObjectKey, Origin};

/// One policy object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its kind, namespace and name.
    pub key: ObjectKey,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// One, or as many as `specs` has.
    pub specs: Vec<PolicySpec>,
}

/// Rules for some endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySpec {
    /// Place among policies: lower tiers first, and within one lower priorities first.
    pub tier: Tier,
    /// 0 for the normal tier, where order does not count and denials go first.
    pub priority: u32,
    /// Whom it is about.
    pub subject: Subject,
    /// Rules for connections to the subject; `None`: it says nothing about them.
    pub ingress: Option<Section>,
    /// Rules for connections from the subject.
    pub egress: Option<Section>,
    /// What it wants in the log; empty: nothing.
    pub log: String,
}

/// The order of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// ClusterNetworkPolicy of tier Admin: the first rule that matches decides or passes.
    Admin,
    /// NetworkPolicy and the `cilium.io` policies: denials first, then what is allowed.
    Normal,
    /// ClusterNetworkPolicy of tier Baseline: for endpoints and connections that no other decides.
    Baseline,
}

/// Whom a policy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Pods, by identity labels; their namespace is one of the requirements.
    Endpoints(IdentitySelector),
    /// Nodes: weir does not see their own traffic, so such policies are not enforced.
    Nodes(IdentitySelector),
}

/// What a policy says about one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What no rule allows is denied.
    pub is_default_deny: bool,
    /// In order.
    pub rules: Vec<PolicyRule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// Path of the field, as `spec.ingress[0]`.
    pub path: String,
    /// What it does.
    pub action: PolicyAction,
    /// With whom.
    pub peers: Peers,
    /// On which ports; empty: all protocols and ports.
    pub ports: Vec<PolicyPort>,
    /// Rules of a proxy, as they were written: the connection goes there.
    pub l7: Option<L7Rules>,
    /// Why weir cannot do what the rule says. It then allows nothing; one that denies or passes
    /// denies everything that it could be about.
    pub unsupported: Option<String>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyAction {
    /// Lets it through.
    Allow,
    /// Stops it.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// With whom a rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Anybody.
    Any,
    /// Any of these; nobody if there are none.
    Of(Vec<PolicyPeer>),
}

/// Somebody at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyPeer {
    /// By identity labels.
    Identities(IdentitySelector),
    /// By address.
    Block(AddressBlock),
    /// By the addresses of CiliumCIDRGroups.
    CidrGroup {
        /// Which groups.
        groups: GroupChoice,
        /// Ranges that are left out.
        except: Vec<Cidr>,
    },
    /// By a name that DNS has answered with the address.
    Fqdn(NamePattern),
    /// By services: their backends, or what is behind a service without a selector.
    Services(ServiceChoice),
}

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressBlock {
    /// Addresses in it are chosen,
    pub cidr: Cidr,
    /// unless they are in one of these.
    pub except: Vec<Cidr>,
    /// Never addresses of pods and nodes (`cilium.io`); otherwise any (`ipBlock`).
    pub is_world_only: bool,
}

/// Which CiliumCIDRGroups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupChoice {
    /// One, by name.
    Name(String),
    /// By labels.
    Labels(IdentitySelector),
}

/// A `toFQDNs` entry, in lower case without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// `matchName`.
    Name(String),
    /// `matchPattern`.
    Pattern(String),
}

/// Which services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceChoice {
    /// One, by namespace and name.
    Name(super::Name),
    /// By labels; `None`: of all namespaces.
    Labels {
        /// Of this namespace alone.
        namespace: Option<String>,
        /// On the service's own labels, without a source.
        selector: IdentitySelector,
    },
}

/// Ports of one protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyPort {
    /// Which protocol.
    pub protocol: PolicyProtocol,
    /// Which ports of it.
    pub port: PortChoice,
}

/// A protocol of a rule. ICMP types stand in the place of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// TCP, UDP and SCTP.
    Any,
    /// ICMP over IPv4.
    Icmp,
    /// ICMP over IPv6.
    Icmpv6,
    /// An IP protocol number.
    Other(u8),
}

/// Ports, or ICMP types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortChoice {
    /// All of the protocol.
    All,
    /// Both ends included.
    Range(u16, u16),
    /// By the name that the container's port has.
    Named(String),
}

/// What proxies understand: HTTP, DNS, TLS by server names, a listener of its own, Kafka, and
/// parsers by name.
pub const PARSERS: [&str; 6] = ["http", "dns", "tls", "listener", "kafka", "l7proto"];

/// Rules of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct L7Rules {
    /// One of [`PARSERS`].
    pub parser: &'static str,
    /// A lower number goes first where several are for the same connection.
    pub priority: u8,
    /// The fields as they were written, as JSON.
    pub json: String,
}

impl L7Rules {
    /// As they go to the dataplane: `{"parser":"http","rules":{...}}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!(r#"{{"parser":"{}","rules":{}}}"#, self.parser, self.json)
    }
}

/// Requirements on the labels of an identity; all must hold.
///
/// Keys have a source before a colon, as `k8s:app`, `reserved:host`, or `any:app` for any source.
/// Namespaces are labels, too: `k8s:io.kubernetes.pod.namespace` is the name, and
/// `k8s:io.cilium.k8s.namespace.labels.team` a label of the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentitySelector {
    /// Empty: everything that has an identity, the world included.
    pub requirements: Vec<Requirement>,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// `source:key`.
    pub key: String,
    /// What about it.
    pub test: LabelTest,
}

/// What a label must be (Kubernetes' LabelSelectorRequirement).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelTest {
    /// There, with one of these values.
    In(BTreeSet<String>),
    /// Not there, or with another value.
    NotIn(BTreeSet<String>),
    /// There.
    Exists,
    /// Not there.
    Absent,
}

impl IdentitySelector {
    /// Whether an identity with these labels, keys with their source, is chosen.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|it| it.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = match self.key.strip_prefix("any:") {
            None => labels.get(&self.key),
            Some(key) => labels.iter().find_map(|(own, value)| {
                let (_, own) = own.split_once(':')?;
                (own == key).then_some(value)
            }),
        };
        match &self.test {
            LabelTest::In(values) => value.is_some_and(|it| values.contains(it)),
            LabelTest::NotIn(values) => value.is_none_or(|it| !values.contains(it)),
            LabelTest::Exists => value.is_some(),
            LabelTest::Absent => value.is_none(),
        }
    }
}

/// Label of an identity with the name of its namespace.
pub const NAMESPACE_LABEL: &str = "k8s:io.kubernetes.pod.namespace";
/// What stands before the keys of the namespace's labels.
pub const NAMESPACE_LABELS: &str = "k8s:io.cilium.k8s.namespace.labels.";
/// Label of an identity with the name of its service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "k8s:io.cilium.k8s.policy.serviceaccount";
/// Label of an identity with the name of its cluster.
pub const CLUSTER_LABEL: &str = "k8s:io.cilium.k8s.policy.cluster";

/// `k8s:app in (a,b), !k8s:old`.
impl fmt::Display for IdentitySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |values: &BTreeSet<String>| {
            values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        };
        for (at, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            match test {
                LabelTest::In(values) if values.len() == 1 => write!(f, "{key}={}", join(values))?,
                LabelTest::In(values) => write!(f, "{key} in ({})", join(values))?,
                LabelTest::NotIn(values) => write!(f, "{key} not in ({})", join(values))?,
                LabelTest::Exists => f.write_str(key)?,
                LabelTest::Absent => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

/// A set of namespaces' labels, as a Namespace object has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name, as `Name` without a namespace.
    pub name: super::Name,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// `kubernetes.io/metadata.name` among them.
    pub labels: BTreeMap<String, String>,
}

/// A CiliumCIDRGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CidrGroup {
    /// Its name, as `Name` without a namespace.
    pub name: super::Name,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// What selectors match, keys without a source.
    pub labels: BTreeMap<String, String>,
    /// The ranges.
    pub cidrs: Vec<Cidr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_match_labels_by_source() {
        let labels: BTreeMap<String, String> =
            [("k8s:app", "web"), ("reserved:host", ""), ("node:zone", "a")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        let values = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect();
        for (key, test, is_chosen) in [
            ("k8s:app", LabelTest::In(values(&["web", "db"])), true),
            ("k8s:app", LabelTest::In(values(&["db"])), false),
            ("any:app", LabelTest::In(values(&["web"])), true),
            ("any:zone", LabelTest::Exists, true),
            ("k8s:zone", LabelTest::Exists, false),
            ("k8s:zone", LabelTest::Absent, true),
            ("any:zone", LabelTest::Absent, false),
            ("k8s:zone", LabelTest::NotIn(values(&["a"])), true),
            ("any:zone", LabelTest::NotIn(values(&["a"])), false),
            ("any:zone", LabelTest::NotIn(values(&["b"])), true),
            ("reserved:host", LabelTest::In(values(&[""])), true),
            ("app", LabelTest::Exists, false),
        ] {
            let requirement = Requirement { key: key.to_owned(), test };
            let selector = IdentitySelector { requirements: vec![requirement] };
            assert_eq!(selector.matches(&labels), is_chosen, "{selector}");
        }
        assert!(IdentitySelector::default().matches(&labels));
    }
}
