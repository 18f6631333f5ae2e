//! How a service's traffic is treated: policies, affinity, source ranges, annotations.

use k8s_openapi::api::core::v1 as core;
use weir_api::v1::{Algorithm, Forwarding};

use super::fields::{Findings, read_port};
use crate::model::Severity::Ignored;
use crate::model::{Cidr, ExposedTypes, LabelSelector, NodeFilter, Proximity, ServicePolicy};

/// Prefix of the annotations that weir reads: Cilium's, so that users can move in.
const PREFIX: &str = "service.cilium.io/";
/// Annotations of other components, or about several clusters where there is one.
const ELSEWHERE: [&str; 4] = ["global", "shared", "affinity", "global-sync-endpoint-slices"];
/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_TIMEOUT_S: i32 = 10_800;
const AFFINITY_TIMEOUT_S_MAX: i32 = 86_400;

pub(super) fn read_policy(
    service: &core::Service,
    spec: &core::ServiceSpec,
    findings: &mut Findings,
) -> ServicePolicy {
    let internal = ("spec.internalTrafficPolicy", &spec.internal_traffic_policy);
    let external = ("spec.externalTrafficPolicy", &spec.external_traffic_policy);
    let mut policy = ServicePolicy {
        affinity_timeout_s: read_affinity(spec, findings),
        is_internal_local: read_traffic_policy(internal, findings),
        is_external_local: read_traffic_policy(external, findings),
        source_ranges: read_source_ranges(spec, findings),
        proximity: read_proximity(spec, findings),
        ..ServicePolicy::default()
    };
    policy.health_check_port = read_health_check_port(spec, policy.is_external_local, findings);
    let annotations = service.metadata.annotations.iter().flatten();
    let ours = annotations.filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)));
    for (key, value) in ours {
        read_annotation(key, value, &mut policy, findings);
    }
    policy
}

fn read_affinity(spec: &core::ServiceSpec, findings: &mut Findings) -> u32 {
    match spec.session_affinity.as_deref().unwrap_or("None") {
        "None" | "" => return 0,
        "ClientIP" => {}
        other => {
            let reason = format!("unknown value {other:?}: give None or ClientIP");
            findings.refuse("spec.sessionAffinity", reason);
            return 0;
        }
    }
    let config = spec.session_affinity_config.as_ref().and_then(|it| it.client_ip.as_ref());
    let timeout_s = config.and_then(|it| it.timeout_seconds).unwrap_or(AFFINITY_TIMEOUT_S);
    if !(1..=AFFINITY_TIMEOUT_S_MAX).contains(&timeout_s) {
        let reason = format!("{timeout_s} is outside 1..{AFFINITY_TIMEOUT_S_MAX} seconds");
        findings.refuse("spec.sessionAffinityConfig.clientIP.timeoutSeconds", reason);
    }
    u32::try_from(timeout_s).unwrap_or(0)
}

/// Whether it is `Local`.
fn read_traffic_policy((path, value): (&str, &Option<String>), findings: &mut Findings) -> bool {
    match value.as_deref().unwrap_or("Cluster") {
        "Cluster" | "" => false,
        "Local" => true,
        other => {
            let reason = format_args!("unknown value {other:?}: give Cluster or Local");
            findings.refuse(path, reason);
            false
        }
    }
}

fn read_source_ranges(spec: &core::ServiceSpec, findings: &mut Findings) -> Vec<Cidr> {
    let mut ranges = Vec::new();
    for (i, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        // Kubernetes trims them too.
        match text.trim().parse::<Cidr>() {
            Ok(range) => ranges.push(range),
            // Without it the others would let in, or keep out, others than was meant.
            Err(reason) => findings.refuse(format!("spec.loadBalancerSourceRanges[{i}]"), reason),
        }
    }
    ranges.sort();
    ranges.dedup();
    ranges
}

fn read_proximity(spec: &core::ServiceSpec, findings: &mut Findings) -> Option<Proximity> {
    match spec.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => Some(Proximity::SameZone),
        "PreferSameNode" => Some(Proximity::SameNode),
        other => {
            let reason = format!(
                "unknown value {other:?} has no effect: give PreferSameZone or PreferSameNode"
            );
            findings.push("spec.trafficDistribution".into(), reason, Ignored);
            None
        }
    }
}

fn read_health_check_port(
    spec: &core::ServiceSpec,
    is_external_local: bool,
    findings: &mut Findings,
) -> Option<u16> {
    let number = spec.health_check_node_port.filter(|it| *it != 0)?;
    let path = "spec.healthCheckNodePort";
    let port = read_port(path, number, findings)?;
    if spec.type_.as_deref() == Some("LoadBalancer") && is_external_local {
        return Some(port);
    }
    let reason = "has no effect: it is for type LoadBalancer with externalTrafficPolicy Local";
    findings.push(path.into(), reason.into(), Ignored);
    None
}

fn read_annotation(key: &str, value: &str, policy: &mut ServicePolicy, findings: &mut Findings) {
    let path = format!("metadata.annotations.{PREFIX}{key}");
    let mut unknown = |values: &str| {
        let reason = format!("unknown value {value:?} has no effect: give {values}");
        findings.push(path.clone(), reason, Ignored);
    };
    match (key, value) {
        ("lb-algorithm", "random") => policy.algorithm = Some(Algorithm::Hash),
        ("lb-algorithm", "maglev") => policy.algorithm = Some(Algorithm::Maglev),
        ("lb-algorithm", _) => unknown("random or maglev"),
        ("forwarding-mode", "snat") => policy.forwarding = Some(Forwarding::Snat),
        ("forwarding-mode", "dsr") => policy.forwarding = Some(Forwarding::Dsr),
        ("forwarding-mode", _) => unknown("snat or dsr"),
        ("src-ranges-policy", "allow" | "deny") => policy.source_ranges_deny = value == "deny",
        ("src-ranges-policy", _) => unknown("allow or deny"),
        ("type", _) => policy.exposed = Some(read_types(&path, value, findings)),
        // The selector has priority.
        ("node", name) if policy.nodes == NodeFilter::All => {
            policy.nodes = NodeFilter::Name(name.trim().to_owned());
        }
        ("node", _) => {}
        ("node-selector", _) => match value.parse::<LabelSelector>() {
            Ok(selector) => policy.nodes = NodeFilter::Labels(selector),
            Err(reason) => findings.refuse(path, reason),
        },
        ("proxy-delegation", "none") => {}
        (key, _) if ELSEWHERE.contains(&key) => {}
        ("proxy-delegation" | "lb-l7", _) => findings.ignore(path, "this annotation is"),
        _ => findings.push(path, "unknown annotation: it has no effect".into(), Ignored),
    }
}

/// Unknown entries expose nothing: a list that names others stays a restriction.
fn read_types(path: &str, value: &str, findings: &mut Findings) -> ExposedTypes {
    let mut types = ExposedTypes::default();
    for entry in value.split(',').map(str::trim) {
        match entry {
            "ClusterIP" => types.cluster_ip = true,
            "NodePort" => types.node_port = true,
            "LoadBalancer" => types.load_balancer = true,
            _ => {
                let reason = format!(
                    "unknown value {entry:?} has no effect: give ClusterIP, NodePort or \
                     LoadBalancer, several with commas"
                );
                findings.push(path.into(), reason, Ignored);
            }
        }
    }
    types
}
