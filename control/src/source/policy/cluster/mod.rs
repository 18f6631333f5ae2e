//! ClusterNetworkPolicy (network-policy-api v0.2.0, `apis/v1alpha2`).
//!
//! - [`peers`]: who is at the other end.
//! - [`protocols`]: protocols and ports.

mod peers;
mod protocols;

use serde::Deserialize;

use super::super::fields::Findings;
use super::Written;
use super::selectors::{LabelSelector, read_namespace_labels};
use crate::model::{
    IdentitySelector, Peers, PolicyAction, PolicyRule, PolicySpec, PortChoice, Section, Subject,
    Tier,
};
use peers::{EgressPeer, NamespacedPod, read_peer, read_pods};
use protocols::{Protocol, read_protocols};

/// Rules of a direction, peers and protocols of a rule, networks and names of a peer.
const ENTRIES_MAX: usize = 25;
const PRIORITY_MAX: i32 = 1000;
/// Characters of a rule's name.
const NAME_CHARS_MAX: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    tier: String,
    priority: i32,
    subject: SubjectChoice,
    ingress: Option<Vec<IngressRule>>,
    egress: Option<Vec<EgressRule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectChoice {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressRule {
    name: Option<String>,
    action: String,
    from: Vec<IngressPeer>,
    protocols: Option<Vec<Protocol>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRule {
    name: Option<String>,
    action: String,
    to: Vec<EgressPeer>,
    protocols: Option<Vec<Protocol>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressPeer {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
}

pub(super) fn read_policy(policy: Written<Spec>, findings: &mut Findings) -> Option<PolicySpec> {
    let spec = policy.spec;
    let tier = match spec.tier.as_str() {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        other => {
            let reason = format_args!("unknown tier {other:?}: give Admin or Baseline");
            findings.refuse("spec.tier", reason);
            None
        }
    };
    let priority = u32::try_from(spec.priority).ok().filter(|_| spec.priority <= PRIORITY_MAX);
    if priority.is_none() {
        let reason = format_args!("{} is outside 0..{PRIORITY_MAX}", spec.priority);
        findings.refuse("spec.priority", reason);
    }
    let subject = read_subject(spec.subject, findings);
    let mut ingress = Vec::new();
    for (i, rule) in limit("spec.ingress", spec.ingress, findings).into_iter().enumerate() {
        ingress.extend(read_ingress(format!("spec.ingress[{i}]"), rule, findings));
    }
    let mut egress = Vec::new();
    for (i, rule) in limit("spec.egress", spec.egress, findings).into_iter().enumerate() {
        egress.extend(read_egress(format!("spec.egress[{i}]"), rule, findings));
    }
    let section =
        |rules: Vec<_>| (!rules.is_empty()).then_some(Section { is_default_deny: false, rules });
    Some(PolicySpec {
        tier: tier?,
        priority: priority?,
        subject: Subject::Endpoints(subject?),
        ingress: section(ingress),
        egress: section(egress),
        log: String::new(),
    })
}

/// Refuses what is too long a list; absent is empty.
fn limit<T>(path: &str, list: Option<Vec<T>>, findings: &mut Findings) -> Vec<T> {
    let list = list.unwrap_or_default();
    if list.len() > ENTRIES_MAX {
        let reason = format_args!("{} entries are more than {ENTRIES_MAX}", list.len());
        findings.refuse(path, reason);
    }
    list
}

/// As [`limit`], for lists that are not empty where they are there.
fn limit_filled<T>(path: &str, list: Option<Vec<T>>, findings: &mut Findings) -> Vec<T> {
    if list.as_ref().is_some_and(Vec::is_empty) {
        findings.refuse(path, "an empty list: give at least one entry");
    }
    limit(path, list, findings)
}

fn read_subject(subject: SubjectChoice, findings: &mut Findings) -> Option<IdentitySelector> {
    let requirements = match (subject.namespaces, subject.pods) {
        (Some(namespaces), None) => {
            read_namespace_labels("spec.subject.namespaces", &namespaces, findings)
        }
        (None, Some(pods)) => return Some(read_pods("spec.subject.pods", &pods, findings)),
        _ => {
            findings.refuse("spec.subject", "give either namespaces or pods");
            return None;
        }
    };
    Some(IdentitySelector { requirements })
}

fn read_action(path: &str, action: &str, findings: &mut Findings) -> Option<PolicyAction> {
    match action {
        "Accept" => Some(PolicyAction::Allow),
        "Deny" => Some(PolicyAction::Deny),
        "Pass" => Some(PolicyAction::Pass),
        other => {
            let reason = format_args!("unknown action {other:?}: give Accept, Deny or Pass");
            findings.refuse(format!("{path}.action"), reason);
            None
        }
    }
}

fn check_name(path: &str, name: Option<&String>, findings: &mut Findings) {
    if name.is_some_and(|it| it.chars().count() > NAME_CHARS_MAX) {
        let reason = format_args!("more than {NAME_CHARS_MAX} characters");
        findings.refuse(format!("{path}.name"), reason);
    }
}

fn read_ingress(path: String, rule: IngressRule, findings: &mut Findings) -> Option<PolicyRule> {
    check_name(&path, rule.name.as_ref(), findings);
    let action = read_action(&path, &rule.action, findings);
    let mut peers = Vec::new();
    let from = limit_filled(&format!("{path}.from"), Some(rule.from), findings);
    for (i, peer) in from.into_iter().enumerate() {
        let IngressPeer { namespaces, pods } = peer;
        let (nodes, networks, domain_names) = (None, None, None);
        let peer = EgressPeer { namespaces, pods, nodes, networks, domain_names };
        peers.extend(read_peer(&format!("{path}.from[{i}]"), peer, findings));
    }
    let ports = read_protocols(&path, rule.protocols, findings);
    let (peers, l7, unsupported) = (Peers::Of(peers), None, None);
    Some(PolicyRule { path, action: action?, peers, ports, l7, unsupported })
}

fn read_egress(path: String, rule: EgressRule, findings: &mut Findings) -> Option<PolicyRule> {
    check_name(&path, rule.name.as_ref(), findings);
    let action = read_action(&path, &rule.action, findings);
    let ports = read_protocols(&path, rule.protocols, findings);
    let has_name = ports.iter().any(|it| matches!(it.port, PortChoice::Named(_)));
    let mut peers = Vec::new();
    let to = limit_filled(&format!("{path}.to"), Some(rule.to), findings);
    for (i, peer) in to.into_iter().enumerate() {
        let path = format!("{path}.to[{i}]");
        let has_ports = peer.namespaces.is_some() || peer.pods.is_some();
        if has_name && !has_ports {
            let reason = "networks, nodes and domain names have no named ports: give a number in \
                          the rule's protocols";
            findings.refuse(path.as_str(), reason);
        }
        if peer.domain_names.is_some() && action.is_some_and(|it| it != PolicyAction::Allow) {
            findings.refuse(format!("{path}.domainNames"), "only for rules of action Accept");
        }
        peers.extend(read_peer(&path, peer, findings));
    }
    let (peers, l7, unsupported) = (Peers::Of(peers), None, None);
    Some(PolicyRule { path, action: action?, peers, ports, l7, unsupported })
}
