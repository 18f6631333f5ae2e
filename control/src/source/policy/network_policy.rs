//! NetworkPolicy (Kubernetes API validation: `pkg/apis/networking/validation`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use super::super::fields::Findings;
use super::Written;
use super::ports::{check_port_name, read_port_range};
use super::ranges::{read_exceptions, read_range};
use super::selectors::{LabelSelector, in_namespace, read_namespace_labels, read_pod_labels};
use crate::model::{
    AddressBlock, IdentitySelector, Peers, PolicyAction, PolicyPeer, PolicyPort, PolicyProtocol,
    PolicyRule, PolicySpec, PortChoice, Section, Severity, Subject, Tier,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    pod_selector: Option<LabelSelector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<EgressRule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    from: Option<Vec<Peer>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    to: Option<Vec<Peer>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Peer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<IpBlock>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IpBlock {
    cidr: String,
    except: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Port {
    protocol: Option<String>,
    port: Option<IntOrString>,
    end_port: Option<i32>,
}

/// `None` where there is a direction that it cannot be about.
pub(super) fn read_policy(
    policy: Written<Option<Spec>>,
    namespace: &str,
    findings: &mut Findings,
) -> Option<PolicySpec> {
    let spec = policy.spec.unwrap_or_default();
    let types = read_types(&spec, findings);
    let selector = spec.pod_selector.unwrap_or_default();
    let mut requirements = read_pod_labels("spec.podSelector", &selector, findings);
    requirements.push(in_namespace(namespace));
    let mut reader = Reader { namespace, findings };
    let ingress = spec.ingress.unwrap_or_default().into_iter().enumerate();
    let ingress = ingress
        .map(|(i, it)| reader.read_rule(format!("spec.ingress[{i}]"), "from", it.from, it.ports));
    let ingress: Vec<PolicyRule> = ingress.collect();
    let egress = spec.egress.unwrap_or_default().into_iter().enumerate();
    let egress =
        egress.map(|(i, it)| reader.read_rule(format!("spec.egress[{i}]"), "to", it.to, it.ports));
    let egress: Vec<PolicyRule> = egress.collect();
    let types = types?;
    Some(PolicySpec {
        tier: Tier::Normal,
        priority: 0,
        subject: Subject::Endpoints(IdentitySelector { requirements }),
        ingress: section("ingress", types.is_ingress, ingress, findings),
        egress: section("egress", types.is_egress, egress, findings),
        log: String::new(),
    })
}

/// Rules of a direction that `policyTypes` does not name have no effect.
fn section(
    name: &str,
    is_meant: bool,
    rules: Vec<PolicyRule>,
    findings: &mut Findings,
) -> Option<Section> {
    if !is_meant && !rules.is_empty() {
        let reason = "policyTypes does not name this direction: these rules have no effect";
        findings.push(format!("spec.{name}"), reason.into(), Severity::Ignored);
    }
    is_meant.then_some(Section { is_default_deny: true, rules })
}

struct Types {
    is_ingress: bool,
    is_egress: bool,
}

/// Where none are given: ingress always, egress where there are rules for it.
fn read_types(spec: &Spec, findings: &mut Findings) -> Option<Types> {
    let given = spec.policy_types.as_deref().unwrap_or_default();
    if given.is_empty() {
        let has_egress = spec.egress.as_ref().is_some_and(|it| !it.is_empty());
        return Some(Types { is_ingress: true, is_egress: has_egress });
    }
    if given.len() > 2 {
        findings.refuse("spec.policyTypes", "more than the two types Ingress and Egress");
        return None;
    }
    for (i, it) in given.iter().enumerate() {
        if it != "Ingress" && it != "Egress" {
            let path = format!("spec.policyTypes[{i}]");
            findings.refuse(path, format_args!("unknown type {it:?}: give Ingress or Egress"));
            return None;
        }
    }
    let has = |type_| given.iter().any(|it| it == type_);
    Some(Types { is_ingress: has("Ingress"), is_egress: has("Egress") })
}

struct Reader<'a> {
    namespace: &'a str,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    /// No peers and no ports, absent or empty, are no restriction.
    fn read_rule(
        &mut self,
        path: String,
        field: &str,
        peers: Option<Vec<Peer>>,
        ports: Option<Vec<Port>>,
    ) -> PolicyRule {
        let mut chosen = Vec::new();
        let peers = peers.unwrap_or_default();
        for (i, peer) in peers.iter().enumerate() {
            chosen.extend(self.read_peer(&format!("{path}.{field}[{i}]"), peer));
        }
        let mut read = Vec::new();
        for (i, port) in ports.unwrap_or_default().into_iter().enumerate() {
            read.extend(self.read_port(&format!("{path}.ports[{i}]"), port));
        }
        PolicyRule {
            path,
            action: PolicyAction::Allow,
            peers: if peers.is_empty() { Peers::Any } else { Peers::Of(chosen) },
            ports: read,
            l7: None,
            unsupported: None,
        }
    }

    fn read_peer(&mut self, path: &str, peer: &Peer) -> Option<PolicyPeer> {
        let findings = &mut *self.findings;
        let requirements = match (&peer.pod_selector, &peer.namespace_selector, &peer.ip_block) {
            (None, None, None) => {
                findings.refuse(path, "give a podSelector, a namespaceSelector or an ipBlock");
                return None;
            }
            (None, None, Some(block)) => {
                return read_block(&format!("{path}.ipBlock"), block, findings);
            }
            (_, _, Some(_)) => {
                findings.refuse(path, "ipBlock stands alone: give selectors in an entry of theirs");
                return None;
            }
            (pods, Some(namespaces), None) => {
                let pods = pods
                    .iter()
                    .flat_map(|it| read_pod_labels(&format!("{path}.podSelector"), it, findings));
                let mut all: Vec<_> = pods.collect();
                let path = format!("{path}.namespaceSelector");
                all.extend(read_namespace_labels(&path, namespaces, findings));
                all
            }
            (Some(pods), None, None) => {
                let mut all = read_pod_labels(&format!("{path}.podSelector"), pods, findings);
                all.push(in_namespace(self.namespace));
                all
            }
        };
        Some(PolicyPeer::Identities(IdentitySelector { requirements }))
    }

    fn read_port(&mut self, path: &str, port: Port) -> Option<PolicyPort> {
        let findings = &mut *self.findings;
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => Some(PolicyProtocol::Tcp),
            "UDP" => Some(PolicyProtocol::Udp),
            "SCTP" => Some(PolicyProtocol::Sctp),
            other => {
                let reason = format_args!("unknown protocol {other:?}: give TCP, UDP or SCTP");
                findings.refuse(format!("{path}.protocol"), reason);
                None
            }
        };
        let (number, end) = (format!("{path}.port"), format!("{path}.endPort"));
        let choice = match (port.port, port.end_port) {
            (None, None) => Some(PortChoice::All),
            (None, Some(_)) => {
                findings.refuse(end, "needs a port where the range starts");
                None
            }
            (Some(IntOrString::Int(first)), last) => {
                read_port_range(&number, first, &end, last, findings)
            }
            (Some(IntOrString::String(_)), Some(_)) => {
                findings.refuse(end, "cannot stand with a named port: give the port's number");
                None
            }
            (Some(IntOrString::String(name)), None) => match check_port_name(&name) {
                Ok(()) => Some(PortChoice::Named(name)),
                Err(reason) => {
                    findings.refuse(number, reason);
                    None
                }
            },
        };
        Some(PolicyPort { protocol: protocol?, port: choice? })
    }
}

/// Of any address, pods' and nodes' included.
fn read_block(path: &str, block: &IpBlock, findings: &mut Findings) -> Option<PolicyPeer> {
    let cidr = read_range(&format!("{path}.cidr"), &block.cidr, findings);
    let except = block.except.as_deref().unwrap_or_default();
    let except = read_exceptions(&format!("{path}.except"), except, cidr, true, findings);
    Some(PolicyPeer::Block(AddressBlock { cidr: cidr?, except, is_world_only: false }))
}
