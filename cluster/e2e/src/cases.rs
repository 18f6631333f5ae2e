//! The upstream network cases: which group each belongs to, and what it needs.
//!
//! A case is known by its full text, tags included, as `e2e.test --list-tests` prints it.

use std::{fmt, str::FromStr};

use anyhow::{Result, bail, ensure};

const PREFIX: &str = "[sig-network] ";

/// The order of the groups is the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    Granular,
    Services,
    EndpointSlice,
    Hostport,
    Conntrack,
    Dns,
    Proxy,
    Policy,
    DualStack,
    Misc,
    LoadBalancer,
}

/// Every group with its name.
pub const GROUPS: [(Group, &str); 11] = [
    (Group::Granular, "granular"),
    (Group::Services, "services"),
    (Group::EndpointSlice, "endpointslice"),
    (Group::Hostport, "hostport"),
    (Group::Conntrack, "conntrack"),
    (Group::Dns, "dns"),
    (Group::Proxy, "proxy"),
    (Group::Policy, "policy"),
    (Group::DualStack, "dualstack"),
    (Group::Misc, "misc"),
    (Group::LoadBalancer, "loadbalancer"),
];

impl fmt::Display for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = GROUPS.iter().find(|(group, _)| group == self).map_or("", |(_, name)| *name);
        formatter.pad(name)
    }
}

impl FromStr for Group {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = GROUPS.iter().find(|(_, name)| *name == text);
        let names = GROUPS.map(|(_, name)| name).join(", ");
        found.map_or_else(|| bail!("no group {text:?}: use {names}"), |(group, _)| Ok(*group))
    }
}

/// One upstream case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its full text; two cases never share one.
    pub name: String,
    pub group: Group,
}

/// What the cluster and the machine have, of what some cases need.
#[derive(Clone, Copy, Debug)]
pub struct Environment {
    pub nodes: u8,
    pub kernel_has_sctp: bool,
}

impl Case {
    /// Of a text, if it is one of the network's.
    fn of(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        Some(Self { name: text.into(), group: group_of(rest) })
    }

    /// Without what all cases have in common.
    pub fn short_name(&self) -> &str {
        self.name.strip_prefix(PREFIX).unwrap_or(&self.name)
    }

    fn contains(&self, text: &str) -> bool {
        self.name.contains(text)
    }

    /// Whether it wants the cluster to itself: by its tag, or because it measures time.
    pub fn is_serial(&self) -> bool {
        ["[Serial]", "[Disruptive]", "endpoints latency", "IPAddress API"]
            .iter()
            .any(|text| self.contains(text))
    }

    /// Why it cannot run here, if so.
    pub fn exclusion(&self, environment: Environment) -> Option<String> {
        if self.contains("[Feature:SCTPConnectivity]") && !environment.kernel_has_sctp {
            return Some("this kernel has no SCTP sockets".into());
        }
        let nodes = NEEDS_NODES.iter().find(|(text, _)| self.contains(text)).map(|(_, n)| *n);
        if let Some(nodes) = nodes.filter(|nodes| *nodes > environment.nodes) {
            return Some(format!("needs {nodes} nodes, here are {}", environment.nodes));
        }
        let found = EXCLUDED.iter().find(|(text, _)| self.contains(text));
        found.map(|(_, reason)| (*reason).to_owned())
    }

    /// Whether `--quick` runs it.
    pub fn is_quick(&self) -> bool {
        QUICK.iter().any(|text| self.contains(text))
    }
}

/// By the start of the text behind the prefix.
fn group_of(rest: &str) -> Group {
    const STARTS: [(&str, Group); 18] = [
        ("Netpol ", Group::Policy),
        ("Services ", Group::Services),
        ("Traffic Distribution ", Group::Services),
        ("Topology Hints ", Group::Services),
        ("Service CIDRs ", Group::Services),
        ("Connectivity Pod Lifecycle ", Group::Services),
        ("EndpointSlice ", Group::EndpointSlice),
        ("EndpointSliceMirroring ", Group::EndpointSlice),
        ("Endpoints ", Group::EndpointSlice),
        ("EndpointsController ", Group::EndpointSlice),
        ("Networking Granular Checks", Group::Granular),
        ("HostPort ", Group::Hostport),
        ("Networking should allow creating a Pod with an SCTP HostPort", Group::Hostport),
        ("DNS ", Group::Dns),
        ("Proxy ", Group::Proxy),
        ("Conntrack ", Group::Conntrack),
        ("[Feature:IPv6DualStack] ", Group::DualStack),
        ("LoadBalancers ", Group::LoadBalancer),
    ];
    let found = STARTS.iter().find(|(start, _)| rest.starts_with(start));
    found.map_or(Group::Misc, |(_, group)| *group)
}

/// Reads what `e2e.test --list-tests` printed: lines of `FILE.go:LINE: TEXT`.
///
/// # Errors
/// There is not one network case in it.
pub fn read_list(text: &str) -> Result<Vec<Case>> {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let mut cases: Vec<Case> = lines.filter_map(|(_, text)| Case::of(text.trim_end())).collect();
    cases.sort_by(|one, other| (one.group, &one.name).cmp(&(other.group, &other.name)));
    cases.dedup();
    ensure!(!cases.is_empty(), "e2e.test --list-tests names no case of sig-network");
    Ok(cases)
}

/// How many nodes a case needs that says so only by skipping itself after a while.
const NEEDS_NODES: [(&str, u8); 9] = [
    ("HealthCheckNodePort correctly when ExternalTrafficPolicy changes", 3),
    ("Traffic Distribution should route traffic correctly between pods on multiple nodes", 6),
    ("Traffic Distribution should route traffic to an endpoint on the same node or fall back", 6),
    ("Traffic Distribution", 3),
    ("Topology Hints", 2),
    ("NoSNAT", 2),
    ("terminating endpoints", 2),
    ("internalTrafficPolicy=Local", 2),
    ("on different nodes", 2),
];

/// Cases that say nothing about a network without kube-proxy, without a cloud and without the
/// Internet, and why.
const EXCLUDED: [(&str, &str); 16] = [
    ("provide Internet connection", "needs the Internet"),
    ("provider Internet connection", "needs the Internet"),
    ("[Provider:GCE]", "about DNS of Google's cloud"),
    ("should check kube-proxy urls", "about kube-proxy, which is not here"),
    ("work after restarting kube-proxy", "about kube-proxy, which is not here"),
    ("KubeProxy ", "about kube-proxy, which is not here"),
    ("kube-proxy migration", "about kube-proxy, which is not here"),
    ("recreate its iptables rules", "about iptables rules of kube-proxy, which are not here"),
    ("work after restarting apiserver", "deletes the API server's pod; here it is a process"),
    ("IPerf2", "a measurement with no limit to pass"),
    ("[Feature:PerformanceDNS]", "measures CoreDNS with 10,000 services"),
    ("Change stubDomain", "rewrites the ConfigMap of kube-dns or of CoreDNS in kube-system"),
    ("Forward PTR lookup", "rewrites the ConfigMap of kube-dns or of CoreDNS in kube-system"),
    ("Forward external name", "rewrites the ConfigMap of kube-dns or of CoreDNS in kube-system"),
    ("cleanup finalizer", "the finalizer is a cloud controller's; here nothing needs cleaning up"),
    ("[Feature:Networking-Performance]", "a measurement with no limit to pass"),
];

/// What `--quick` runs: at least one case of every kind of path, and the shortest of its kind.
const QUICK: [&str; 40] = [
    "Pods should function for intra-pod communication: http",
    "Pods should function for intra-pod communication: udp",
    "Pods should function for node-pod communication: http",
    "Pods should function for node-pod communication: udp",
    "Checks: Services should function for pod-Service: udp",
    "Checks: Services should function for node-Service: http",
    "Services should serve a basic endpoint from pods",
    "Services should serve multiport endpoints from pods",
    "Services should be able to change the type",
    "Services should be able to create a functioning NodePort service",
    "Services should have session affinity work for",
    "Services should be rejected when no endpoints exist",
    "Services should allow pods to hairpin back",
    "Services should preserve source pod IP",
    "Services should respect internalTrafficPolicy=Local Pod to Pod",
    "Services should support externalTrafficPolicy=Local for type=NodePort",
    "Services should fallback to local terminating endpoints",
    "Services should serve endpoints on same port and different protocols",
    "Services should complete a service status lifecycle",
    "Services should find a service from listing all namespaces",
    "possible to connect to a service via ExternalIP",
    "EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service",
    "EndpointSlice should support a Service with multiple",
    "EndpointSliceMirroring should mirror a custom Endpoints resource",
    "HostPort validates that there is no conflict",
    "Conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP \
     service and client is hostNetwork",
    "Conntrack proxy implementation should not be vulnerable",
    "DNS should provide DNS for services",
    "DNS should provide DNS for pods for Hostname",
    "Proxy version v1 should proxy through a service and a pod",
    "[Feature:IPv6DualStack] should be able to reach pod on ipv4 and ipv6 ip",
    "API Server should provide secure master service",
    "server and client should support a 'default-deny-ingress' policy",
    "server and client should support a 'default-deny-all' policy",
    "server and client should enforce policy based on Multiple PodSelectors",
    "server and client should allow egress access to server in CIDR block",
    "server and client should enforce except clause while egress access",
    "server and client should allow ingress access from updated pod",
    "server and client should stop enforcing policies after they are deleted",
    "using UDP should enforce policy based on Ports",
];

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Environment = Environment { nodes: 3, kernel_has_sctp: false };

    fn case(text: &str) -> Case {
        Case::of(&format!("{PREFIX}{text}")).unwrap()
    }

    #[test]
    fn groups_are_told_by_the_text() {
        assert_eq!(case("Netpol [LinuxOnly] NetworkPolicy between").group, Group::Policy);
        assert_eq!(case("Networking Granular Checks: Pods should").group, Group::Granular);
        assert_eq!(case("Networking should check kube-proxy urls").group, Group::Misc);
        assert_eq!(case("[Feature:IPv6DualStack] should create").group, Group::DualStack);
        assert_eq!(Case::of("[sig-node] Services should"), None);
        for (group, name) in GROUPS {
            assert_eq!(name.parse::<Group>().unwrap(), group);
            assert_eq!(group.to_string(), name);
        }
        assert!("all".parse::<Group>().is_err());
    }

    #[test]
    fn a_list_is_read_without_what_is_not_the_networks() {
        let list = "The following spec names can be used with 'ginkgo run --focus/skip':\n    \
                    k8s/service.go:716: [sig-network] Services should: a thing [Conformance]\n    \
                    k8s/pods.go:1: [sig-node] Pods should not be here\n";
        let cases = read_list(list).unwrap();
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0].short_name(), "Services should: a thing [Conformance]");
        assert!(read_list("").is_err());
    }

    #[test]
    fn what_cannot_run_says_why() {
        let sctp = case("Netpol [Feature:SCTPConnectivity] using SCTP should");
        assert_eq!(sctp.exclusion(HERE).unwrap(), "this kernel has no SCTP sockets");
        assert_eq!(sctp.exclusion(Environment { kernel_has_sctp: true, ..HERE }), None);
        let zones = case("Traffic Distribution should route traffic to an endpoint");
        assert_eq!(zones.exclusion(HERE), None);
        let reason = zones.exclusion(Environment { nodes: 2, ..HERE }).unwrap();
        assert_eq!(reason, "needs 3 nodes, here are 2");
        assert!(case("KubeProxy should set TCP CLOSE_WAIT").exclusion(HERE).is_some());
        assert_eq!(case("Services should be rejected").exclusion(HERE), None);
    }
}
