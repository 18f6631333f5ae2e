//! Services to the model: addresses and ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fields::{Findings, read_address, read_port, read_protocol};
use super::service_policy::read_policy;
use crate::model::{
    Family, Name, Origin, Service, ServicePolicy, ServicePort, Severity, TargetPort,
};

/// A service with one of these labels belongs to another proxy, or to none, whatever the value
/// (well-known labels of Kubernetes; kube-proxy watches services without them).
const NOT_OURS_LABELS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

pub(super) fn convert_service(
    service: &core::Service,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Option<Service> {
    let empty_spec = core::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty_spec);
    let labels = service.metadata.labels.iter().flatten();
    let is_ours = !labels.map(|it| it.0.as_str()).any(|it| NOT_OURS_LABELS.contains(&it));
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&type_) {
        findings.refuse("spec.type", format_args!("unknown service type {type_:?}"));
        return None;
    }
    let is_headless = spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.iter().flatten().any(|it| it == "None");
    let mut ours = Service {
        name,
        origin,
        labels: service.metadata.labels.clone().unwrap_or_default(),
        created: service.metadata.creation_timestamp.as_ref().map(|it| it.0.to_string()),
        cluster_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        load_balancer_class: spec.load_balancer_class.clone(),
        external_ips: Vec::new(),
        ports: Vec::new(),
        node_port_families: Vec::new(),
        selector: spec.selector.clone().unwrap_or_default(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        policy: ServicePolicy::default(),
    };
    if !is_ours || is_headless || type_ == "ExternalName" {
        return Some(ours);
    }
    ours.cluster_ips = read_cluster_ips(spec, findings);
    if type_ == "LoadBalancer" {
        ours.load_balancer_ips = read_load_balancer_ips(service, findings);
    }
    ours.external_ips = read_external_ips(spec, findings);
    ours.node_port_families = read_node_port_families(spec, &ours.cluster_ips, findings);
    ours.ports = read_service_ports(spec, type_, findings);
    ours.policy = read_policy(service, spec, findings);
    if findings.has_refusal() {
        return None;
    }
    let addresses = [&ours.cluster_ips, &ours.load_balancer_ips, &ours.external_ips];
    let has_node_port = ours.ports.iter().any(|it| it.node_port.is_some());
    if addresses.iter().all(|it| it.is_empty()) && !has_node_port {
        let reason =
            "no address: set spec.clusterIP, or status.loadBalancer.ingress of a LoadBalancer";
        findings.push("spec.clusterIP".into(), reason.into(), Severity::Ignored);
    }
    Some(ours)
}

fn read_cluster_ips(spec: &core::ServiceSpec, findings: &mut Findings) -> Vec<IpAddr> {
    let first = spec.cluster_ip.as_ref().filter(|it| !it.is_empty());
    let all: Vec<(String, &String)> = match spec.cluster_ips.as_deref() {
        Some(list) if !list.is_empty() => {
            if first.is_some_and(|first| *first != list[0]) {
                findings.refuse("spec.clusterIPs[0]", "differs from spec.clusterIP");
            }
            let indexed = list.iter().enumerate();
            indexed.map(|(i, it)| (format!("spec.clusterIPs[{i}]"), it)).collect()
        }
        _ => first.map(|it| ("spec.clusterIP".to_owned(), it)).into_iter().collect(),
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (path, text) in all {
        let Some(address) = read_address(&path, text, findings) else { continue };
        if addresses.iter().any(|it| it.is_ipv4() == address.is_ipv4()) {
            findings.refuse(path, "a second address of one family: give one IPv4 and one IPv6");
            continue;
        }
        addresses.push(address);
    }
    addresses
}

fn read_load_balancer_ips(service: &core::Service, findings: &mut Findings) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|it| it.load_balancer.as_ref());
    let ingress = status.and_then(|it| it.ingress.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for (i, it) in ingress.iter().enumerate() {
        // KEP-1860: with mode Proxy the traffic must go through the load balancer, not around it.
        let Some(ip) = it.ip.as_ref().filter(|_| it.ip_mode.as_deref() != Some("Proxy")) else {
            continue;
        };
        let path = format!("status.loadBalancer.ingress[{i}].ip");
        addresses.extend(read_address(&path, ip, findings));
    }
    addresses
}

fn read_external_ips(spec: &core::ServiceSpec, findings: &mut Findings) -> Vec<IpAddr> {
    let given = spec.external_ips.iter().flatten().enumerate();
    given
        .filter_map(|(i, it)| read_address(&format!("spec.externalIPs[{i}]"), it, findings))
        .collect()
}

/// Kubernetes' default for a service that says nothing is one family; without an address to tell
/// it from, that is IPv4.
fn read_node_port_families(
    spec: &core::ServiceSpec,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for (i, it) in spec.ip_families.iter().flatten().enumerate() {
        match it.as_str() {
            "IPv4" => families.push(Family::V4),
            "IPv6" => families.push(Family::V6),
            other => {
                let reason = format_args!("unknown family {other:?}: give IPv4 or IPv6");
                findings.refuse(format!("spec.ipFamilies[{i}]"), reason);
            }
        }
    }
    if families.is_empty() {
        families.extend(cluster_ips.iter().map(|it| Family::of(*it)));
    }
    if families.is_empty() {
        families.push(Family::V4);
    }
    families.sort();
    families.dedup();
    families
}

fn read_service_ports(
    spec: &core::ServiceSpec,
    type_: &str,
    findings: &mut Findings,
) -> Vec<ServicePort> {
    let given = spec.ports.as_deref().unwrap_or_default();
    if given.is_empty() {
        findings.refuse("spec.ports", "a service with an address needs at least one port");
    }
    let mut ports = Vec::new();
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for (i, it) in given.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let l4_port = read_port(&format!("{path}.port"), it.port, findings);
        let protocol = read_protocol(&path, it.protocol.as_deref(), findings);
        let target = read_target(&path, it.target_port.as_ref(), it.port, findings);
        let node_port = read_node_port(&path, it.node_port, type_, findings);
        let name = it.name.clone().unwrap_or_default();
        if name.is_empty() && given.len() > 1 {
            findings.refuse(format!("{path}.name"), "needed where a service has several ports");
        } else if !names.insert(name.clone()) {
            findings.refuse(format!("{path}.name"), format_args!("{name:?} is used twice"));
        }
        let (Some(l4_port), Some(protocol), Some(target)) = (l4_port, protocol, target) else {
            continue;
        };
        if !numbers.insert((l4_port, protocol)) {
            let protocol = weir_api::object::protocol_name(protocol);
            findings.refuse(format!("{path}.port"), format_args!("{l4_port}/{protocol} twice"));
        }
        if let Some(node_port) = node_port
            && !node_ports.insert((node_port, protocol))
        {
            let protocol = weir_api::object::protocol_name(protocol);
            let reason = format_args!("{node_port}/{protocol} twice");
            findings.refuse(format!("{path}.nodePort"), reason);
        }
        ports.push(ServicePort { name, l4_port, protocol, target, node_port });
    }
    ports
}

fn read_target(
    path: &str,
    target: Option<&IntOrString>,
    port: i32,
    findings: &mut Findings,
) -> Option<TargetPort> {
    let path = format!("{path}.targetPort");
    match target {
        // An impossible default has been reported as the port's.
        None | Some(IntOrString::Int(0)) => u16::try_from(port).ok().map(TargetPort::Number),
        Some(IntOrString::Int(number)) => {
            read_port(&path, *number, findings).map(TargetPort::Number)
        }
        Some(IntOrString::String(name)) if name.is_empty() => {
            findings.refuse(path, "an empty name: give a number or a container port's name");
            None
        }
        Some(IntOrString::String(name)) => Some(TargetPort::Name(name.clone())),
    }
}

/// Given by the API server; manifests that it has not seen have to name one.
fn read_node_port(
    path: &str,
    number: Option<i32>,
    type_: &str,
    findings: &mut Findings,
) -> Option<u16> {
    let path = format!("{path}.nodePort");
    match (number.filter(|it| *it != 0), type_) {
        (None, "NodePort") => {
            let reason = "none given: this port is not open on nodes";
            findings.push(path, reason.into(), Severity::Ignored);
            None
        }
        (None, _) => None,
        (Some(number), "NodePort" | "LoadBalancer") => read_port(&path, number, findings),
        (Some(_), _) => {
            let reason = format!("has no effect with type {type_}: it is for type NodePort");
            findings.push(path, reason, Severity::Ignored);
            None
        }
    }
}
