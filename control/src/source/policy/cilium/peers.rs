//! Who is at the other end of a `cilium.io` rule.

use std::net::IpAddr;

use super::super::super::fields::Findings;
use super::super::labels::is_subdomain;
use super::super::ranges::{read_exceptions, read_range};
use super::super::selectors::{node_peers, read_plain_labels};
use super::entities::read_entity;
use super::names::read_name_pattern;
use super::schema::{CidrRule, Fqdn, Rule, Service};
use super::selectors::{Scope, read_node_labels, read_peer};
use crate::model::{AddressBlock, Cidr, GroupChoice, Name, Peers, PolicyPeer, ServiceChoice};

/// Which section of a policy a rule is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// `from` or `to`: what fields of peers begin with.
    pub(super) prefix: &'static str,
    pub(super) is_deny: bool,
    /// The policy is for nodes.
    pub(super) is_host: bool,
}

impl Place {
    pub(super) fn is_ingress(self) -> bool {
        self.prefix == "from"
    }
}

/// Peers of a rule.
#[derive(Debug)]
pub(super) struct RulePeers {
    /// `None` where no field names any.
    pub(super) peers: Option<Peers>,
    /// Why weir cannot tell who they are.
    pub(super) unsupported: Option<String>,
}

/// Reads the one kind of peers that a rule may have. A list that is there and empty chooses nobody.
pub(super) fn read_peers(
    path: &str,
    rule: &Rule,
    place: Place,
    scope: Scope<'_>,
    findings: &mut Findings,
) -> RulePeers {
    let name = |suffix: &str| format!("{}{suffix}", place.prefix);
    let requires = rule.requires.as_ref().is_some_and(|it| !it.is_empty());
    if requires {
        let reason = "not supported since Cilium 1.17: write the labels into each selector";
        findings.refuse(format!("{path}.{}", name("Requires")), reason);
    }
    if place.is_deny && rule.fqdns.is_some() {
        findings.refuse(format!("{path}.toFQDNs"), "rules that deny have no names");
    }
    let lists = [
        ("Endpoints", rule.endpoints.as_ref().map(Vec::len)),
        ("CIDR", rule.cidr.as_ref().map(Vec::len)),
        ("CIDRSet", rule.cidr_set.as_ref().map(Vec::len)),
        ("Entities", rule.entities.as_ref().map(Vec::len)),
        ("Groups", rule.groups.as_ref().map(Vec::len)),
        ("Nodes", rule.nodes.as_ref().map(Vec::len)),
        ("Services", rule.services.as_ref().map(Vec::len)),
        ("FQDNs", rule.fqdns.as_ref().map(Vec::len)),
    ];
    let given = || lists.iter().filter(|(_, length)| length.is_some());
    let filled: Vec<&str> =
        given().filter(|(_, length)| *length != Some(0)).map(|(name, _)| *name).collect();
    if let [first, second, ..] = filled[..] {
        let (first, second) = (name(first), name(second));
        let reason = format!("combining {first} and {second} is not supported: use two rules");
        findings.refuse(path, reason);
    }
    let mut reader = Reader { path, place, scope, findings, peers: Vec::new() };
    reader.read_all(rule);
    let peers = reader.peers;
    if given().count() > filled.len() {
        return RulePeers { peers: Some(Peers::Of(Vec::new())), unsupported: None };
    }
    if filled == ["Groups"] {
        let reason = format!("{}: groups of a cloud provider are not known", name("Groups"));
        return RulePeers { peers: Some(Peers::Any), unsupported: Some(reason) };
    }
    let peers = (given().count() > 0).then_some(Peers::Of(peers));
    RulePeers { peers, unsupported: None }
}

struct Reader<'a> {
    path: &'a str,
    place: Place,
    scope: Scope<'a>,
    findings: &'a mut Findings,
    peers: Vec<PolicyPeer>,
}

impl Reader<'_> {
    fn field(&self, suffix: &str, index: usize) -> String {
        format!("{}.{}{suffix}[{index}]", self.path, self.place.prefix)
    }

    fn read_all(&mut self, rule: &Rule) {
        for (i, selector) in rule.endpoints.iter().flatten().enumerate() {
            let path = self.field("Endpoints", i);
            let selector = read_peer(&path, selector, self.scope, self.findings);
            self.peers.push(PolicyPeer::Identities(selector));
        }
        for (i, text) in rule.cidr.iter().flatten().enumerate() {
            let path = self.field("CIDR", i);
            // A single address stands for its range.
            let cidr = match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => read_range(&path, &format!("{text}/32"), self.findings),
                Ok(IpAddr::V6(_)) => read_range(&path, &format!("{text}/128"), self.findings),
                Err(_) => read_range(&path, text, self.findings),
            };
            self.peers.extend(cidr.map(|cidr| world_block(cidr, Vec::new())));
        }
        for (i, it) in rule.cidr_set.iter().flatten().enumerate() {
            let path = self.field("CIDRSet", i);
            self.read_cidr_rule(&path, it);
        }
        for (i, name) in rule.entities.iter().flatten().enumerate() {
            match read_entity(name) {
                Ok(all) => self.peers.extend(all.into_iter().map(PolicyPeer::Identities)),
                Err(reason) => self.findings.refuse(self.field("Entities", i), reason),
            }
        }
        for (i, group) in rule.groups.iter().flatten().enumerate() {
            if !group.is_object() {
                self.findings
                    .refuse(self.field("Groups", i), "not a group: give aws and its fields");
            }
        }
        for (i, selector) in rule.nodes.iter().flatten().enumerate() {
            let path = self.field("Nodes", i);
            let requirements = read_node_labels(&path, selector, self.findings);
            self.peers.extend(node_peers(&requirements));
        }
        for (i, service) in rule.services.iter().flatten().enumerate() {
            let path = self.field("Services", i);
            let service = self.read_service(&path, service);
            self.peers.extend(service.map(PolicyPeer::Services));
        }
        for (i, it) in rule.fqdns.iter().flatten().enumerate() {
            let path = self.field("FQDNs", i);
            self.read_fqdn(&path, it);
        }
    }

    /// Addresses that are not the cluster's.
    fn read_cidr_rule(&mut self, path: &str, it: &CidrRule) {
        let except = it.except.as_deref().unwrap_or_default();
        let except_path = format!("{path}.except");
        let groups = match (&it.cidr, &it.cidr_group_ref, &it.cidr_group_selector) {
            (Some(text), None, None) => {
                let cidr = read_range(&format!("{path}.cidr"), text, self.findings);
                let except = read_exceptions(&except_path, except, cidr, false, self.findings);
                self.peers.extend(cidr.map(|cidr| world_block(cidr, except)));
                return;
            }
            (None, Some(name), None) if is_subdomain(name) => GroupChoice::Name(name.clone()),
            (None, Some(name), None) => {
                let reason = format_args!("{name:?} is not the name of a CiliumCIDRGroup");
                return self.findings.refuse(format!("{path}.cidrGroupRef"), reason);
            }
            (None, None, Some(selector)) => {
                let path = format!("{path}.cidrGroupSelector");
                GroupChoice::Labels(read_plain_labels(&path, selector, self.findings))
            }
            _ => {
                let reason = "give one of cidr, cidrGroupRef and cidrGroupSelector";
                return self.findings.refuse(path, reason);
            }
        };
        let except = read_exceptions(&except_path, except, None, false, self.findings);
        self.peers.push(PolicyPeer::CidrGroup { groups, except });
    }

    /// A service without a namespace is in the policy's.
    fn read_service(&mut self, path: &str, service: &Service) -> Option<ServiceChoice> {
        match (&service.k8s_service, &service.k8s_service_selector) {
            (Some(it), None) => {
                let path = format!("{path}.k8sService");
                let name = it.service_name.as_deref().unwrap_or_default();
                if !is_subdomain(name) {
                    let reason = format_args!("{name:?} is not the name of a service");
                    self.findings.refuse(format!("{path}.serviceName"), reason);
                    return None;
                }
                let namespace = it.namespace.as_deref().filter(|it| !it.is_empty());
                let Some(namespace) = namespace.or(self.scope.namespace) else {
                    let reason = "needed in a policy that has no namespace itself";
                    self.findings.refuse(format!("{path}.namespace"), reason);
                    return None;
                };
                Some(ServiceChoice::Name(Name::new(namespace, name)))
            }
            (None, Some(it)) => {
                let path = format!("{path}.k8sServiceSelector.selector");
                let selector = read_plain_labels(&path, &it.selector, self.findings);
                let namespace = it.namespace.clone().filter(|it| !it.is_empty());
                Some(ServiceChoice::Labels { namespace, selector })
            }
            _ => {
                self.findings.refuse(path, "give either k8sService or k8sServiceSelector");
                None
            }
        }
    }

    fn read_fqdn(&mut self, path: &str, it: &Fqdn) {
        match read_name_pattern(it.match_name.as_deref(), it.match_pattern.as_deref()) {
            Ok(pattern) => self.peers.push(PolicyPeer::Fqdn(pattern)),
            Err(("", reason)) => self.findings.refuse(path, reason),
            Err((field, reason)) => self.findings.refuse(format!("{path}.{field}"), reason),
        }
    }
}

fn world_block(cidr: Cidr, except: Vec<Cidr>) -> PolicyPeer {
    PolicyPeer::Block(AddressBlock { cidr, except, is_world_only: true })
}
