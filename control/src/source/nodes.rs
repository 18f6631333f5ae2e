//! Nodes to the model: addresses, labels, and the ranges of their pods.

use k8s_openapi::api::core::v1 as core;

use super::fields::{Findings, read_address};
use crate::model::{Cidr, Name, Node, Origin};

/// The operator's reason for `NetworkUnavailable: False`: an agent has been ready on the node
/// within the last minute.
const NETWORK_REASON: &str = "WeirIsUp";

pub(super) fn convert_node(
    node: &core::Node,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Node {
    let given = node.status.as_ref().and_then(|it| it.addresses.as_deref()).unwrap_or_default();
    let (mut addresses, mut internal_addresses) = (Vec::new(), Vec::new());
    for (i, it) in given.iter().enumerate() {
        if it.type_ == "InternalIP" || it.type_ == "ExternalIP" {
            let path = format!("status.addresses[{i}].address");
            let Some(address) = read_address(&path, &it.address, findings) else { continue };
            addresses.push(address);
            if it.type_ == "InternalIP" {
                internal_addresses.push(address);
            }
        }
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let pod_ranges = read_pod_ranges(node.spec.as_ref(), findings);
    // Manifests say where they were read, and have no operator that would write into them.
    let is_ready = is_ready(node, origin.is_none());
    let is_deleting = is_deleting(node);
    Node { name, origin, addresses, internal_addresses, labels, pod_ranges, is_ready, is_deleting }
}

/// Whether pods have a network there, by weir. Where there is an operator it says so: weir does not
/// run on every node of a cluster. In manifests it does, except where they say that the network is
/// unavailable.
fn is_ready(node: &core::Node, has_operator: bool) -> bool {
    let conditions = node.status.as_ref().and_then(|it| it.conditions.as_deref());
    let find = |type_: &str| conditions.unwrap_or_default().iter().find(|it| it.type_ == type_);
    let network = find("NetworkUnavailable");
    let has_network = match has_operator {
        true => network
            .is_some_and(|it| it.status == "False" && it.reason.as_deref() == Some(NETWORK_REASON)),
        false => network.is_none_or(|it| it.status != "True"),
    };
    find("Ready").is_none_or(|it| it.status == "True") && has_network
}

/// As kube-proxy judges (KEP-3836; `NodeEligible` in `pkg/proxy/healthcheck/proxy_health.go`).
fn is_deleting(node: &core::Node) -> bool {
    let taints = node.spec.as_ref().and_then(|it| it.taints.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_some()
        || taints.iter().any(|it| it.key == "ToBeDeletedByClusterAutoscaler")
}

fn read_pod_ranges(spec: Option<&core::NodeSpec>, findings: &mut Findings) -> Vec<Cidr> {
    let Some(spec) = spec else { return Vec::new() };
    let listed = spec.pod_cidrs.iter().flatten().enumerate();
    let mut given: Vec<(String, &String)> =
        listed.map(|(i, it)| (format!("spec.podCIDRs[{i}]"), it)).collect();
    if given.is_empty() {
        let single = spec.pod_cidr.iter().filter(|it| !it.is_empty());
        given.extend(single.map(|it| ("spec.podCIDR".to_owned(), it)));
    }
    let mut ranges = Vec::new();
    for (path, text) in given {
        match text.parse() {
            Ok(range) => ranges.push(range),
            Err(reason) => findings.refuse(path, reason),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Kind, Object};
    use crate::source::kubernetes::convert;

    fn is_ready(conditions: &[(&str, &str, &str)], origin: Option<Origin>) -> bool {
        let mut written: Vec<Value> = Vec::new();
        for (type_, status, reason) in conditions {
            written.push(json!({"type": type_, "status": status, "reason": reason}));
        }
        let value = json!({"metadata": {"name": "n1"}, "status": {"conditions": written}});
        let node = convert(Kind::Node, Name::new("", "n1"), origin, &value).object;
        let Some(Object::Node(node)) = node else { panic!("no node") };
        node.is_ready
    }

    #[test]
    fn in_a_cluster_a_node_is_ready_where_the_operator_says_that_weir_is() {
        let ready = ("Ready", "True", "KubeletReady");
        let network = |status, reason| ("NetworkUnavailable", status, reason);
        for (conditions, expected) in [
            (vec![ready, network("False", "WeirIsUp")], true),
            // Where no agent runs nobody would answer.
            (vec![ready], false),
            (vec![ready, network("False", "RouteCreated")], false),
            (vec![ready, network("True", "WeirIsDown")], false),
            (vec![ready, network("Unknown", "WeirIsUp")], false),
            (vec![("Ready", "False", "x"), network("False", "WeirIsUp")], false),
            (vec![("Ready", "Unknown", "x"), network("False", "WeirIsUp")], false),
        ] {
            assert_eq!(is_ready(&conditions, None), expected, "{conditions:?}");
        }
    }

    #[test]
    fn in_manifests_a_node_is_ready_unless_they_say_otherwise() {
        let file = Some(Origin::new(std::sync::Arc::new("nodes.yaml".into()), 1));
        let cut_off = ("NetworkUnavailable", "True", "");
        for (conditions, expected) in [
            (vec![], true),
            (vec![("Ready", "True", "")], true),
            (vec![("Ready", "False", "")], false),
            (vec![cut_off], false),
        ] {
            assert_eq!(is_ready(&conditions, file.clone()), expected, "{conditions:?}");
        }
    }
}
