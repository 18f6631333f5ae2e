//! Who is at the other end of a ClusterNetworkPolicy's rule.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::super::super::fields::Findings;
use super::super::ranges::read_range;
use super::super::selectors::{
    LabelSelector, read_namespace_labels, read_node_peers, read_pod_labels,
};
use super::limit_filled;
use crate::model::{AddressBlock, IdentitySelector, NamePattern, PolicyPeer};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NamespacedPod {
    namespace_selector: Option<LabelSelector>,
    pod_selector: LabelSelector,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct EgressPeer {
    pub(super) namespaces: Option<LabelSelector>,
    pub(super) pods: Option<NamespacedPod>,
    pub(super) nodes: Option<LabelSelector>,
    pub(super) networks: Option<Vec<String>>,
    pub(super) domain_names: Option<Vec<String>>,
}

pub(super) fn read_pods(
    path: &str,
    pods: &NamespacedPod,
    findings: &mut Findings,
) -> IdentitySelector {
    let everything = LabelSelector::default();
    let namespaces = pods.namespace_selector.as_ref().unwrap_or(&everything);
    let mut requirements =
        read_pod_labels(&format!("{path}.podSelector"), &pods.pod_selector, findings);
    let path = format!("{path}.namespaceSelector");
    requirements.extend(read_namespace_labels(&path, namespaces, findings));
    IdentitySelector { requirements }
}

pub(super) fn read_peer(path: &str, peer: EgressPeer, findings: &mut Findings) -> Vec<PolicyPeer> {
    match (peer.namespaces, peer.pods, peer.nodes, peer.networks, peer.domain_names) {
        (Some(namespaces), None, None, None, None) => {
            let path = format!("{path}.namespaces");
            let requirements = read_namespace_labels(&path, &namespaces, findings);
            vec![PolicyPeer::Identities(IdentitySelector { requirements })]
        }
        (None, Some(pods), None, None, None) => {
            vec![PolicyPeer::Identities(read_pods(&format!("{path}.pods"), &pods, findings))]
        }
        (None, None, Some(nodes), None, None) => {
            read_node_peers(&format!("{path}.nodes"), &nodes, findings)
        }
        (None, None, None, Some(networks), None) => {
            read_networks(&format!("{path}.networks"), networks, findings)
        }
        (None, None, None, None, Some(names)) => {
            read_names(&format!("{path}.domainNames"), names, findings)
        }
        (None, None, None, None, None) => {
            findings.refuse(path, "an empty peer: say who it is");
            Vec::new()
        }
        _ => {
            findings.refuse(path, "several kinds of peers in one entry: give each its own");
            Vec::new()
        }
    }
}

fn check_unique(path: &str, texts: &[String], findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (i, text) in texts.iter().enumerate() {
        if !seen.insert(text) {
            findings.refuse(format!("{path}[{i}]"), format_args!("{text:?} is given twice"));
        }
    }
}

/// Any addresses, those of pods and nodes included.
fn read_networks(path: &str, texts: Vec<String>, findings: &mut Findings) -> Vec<PolicyPeer> {
    let texts = limit_filled(path, Some(texts), findings);
    check_unique(path, &texts, findings);
    let ranges = texts.iter().enumerate().filter_map(|(i, it)| {
        let cidr = read_range(&format!("{path}[{i}]"), it, findings)?;
        Some(PolicyPeer::Block(AddressBlock { cidr, except: Vec::new(), is_world_only: false }))
    });
    ranges.collect()
}

fn read_names(path: &str, texts: Vec<String>, findings: &mut Findings) -> Vec<PolicyPeer> {
    let texts = limit_filled(path, Some(texts), findings);
    check_unique(path, &texts, findings);
    let names = texts.iter().enumerate().filter_map(|(i, it)| match read_name(it) {
        Some(name) => Some(PolicyPeer::Fqdn(name)),
        None => {
            let reason = format!(
                "{it:?} is not a domain name: give one of two labels or more, as example.com, or \
                 *.example.com for all below it"
            );
            findings.refuse(format!("{path}[{i}]"), reason);
            None
        }
    });
    names.collect()
}

/// `*.` stands for one label or more, which a pattern of ours writes as `**.`.
fn read_name(text: &str) -> Option<NamePattern> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_edge = |it: Option<&u8>| it.is_some_and(u8::is_ascii_alphanumeric);
    let is_inner = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        is_edge(bytes.first()) && is_edge(bytes.last()) && label.bytes().all(is_inner)
    };
    let is_fine = name.contains('.') && name.len() <= 253 && name.split('.').all(is_label);
    match (is_fine, name == text) {
        (false, _) => None,
        (true, true) => Some(NamePattern::Name(name.into())),
        (true, false) => Some(NamePattern::Pattern(format!("**.{name}"))),
    }
}
