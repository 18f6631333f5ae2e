//! Nodes to the model: addresses, labels, and the ranges of their pods.

use k8s_openapi::api::core::v1 as core;

use super::fields::{Findings, read_address};
use crate::model::{Cidr, Name, Node, Origin};

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
    let conditions = node.status.as_ref().and_then(|it| it.conditions.as_deref());
    let has = |type_: &str, status: &str| {
        let condition = conditions.unwrap_or_default().iter().find(|it| it.type_ == type_);
        condition.map(|it| it.status == status)
    };
    // The operator says so where weir has been down for long.
    let is_cut_off = has("NetworkUnavailable", "True").unwrap_or(false);
    let is_ready = has("Ready", "True").unwrap_or(true) && !is_cut_off;
    let is_deleting = is_deleting(node);
    Node { name, origin, addresses, internal_addresses, labels, pod_ranges, is_ready, is_deleting }
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
