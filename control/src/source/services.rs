//! Services to the model: addresses, ports, and what is not supported.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::fields::{Findings, read_address, read_port, read_protocol};
use crate::model::{Name, Origin, Service, ServicePort, Severity, TargetPort};

/// A service with this label belongs to another proxy (well-known labels of Kubernetes).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

pub(super) fn convert_service(
    service: &core::Service,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Option<Service> {
    let empty_spec = core::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty_spec);
    let is_ours = !service.metadata.labels.iter().flatten().any(|(key, _)| key == PROXY_NAME_LABEL);
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
        created: service.metadata.creation_timestamp.as_ref().map(|it| it.0.to_string()),
        cluster_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: Vec::new(),
        selector: spec.selector.clone().unwrap_or_default(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
    };
    if !is_ours || is_headless || type_ == "ExternalName" {
        return Some(ours);
    }
    ours.cluster_ips = read_cluster_ips(spec, findings);
    if type_ == "LoadBalancer" {
        ours.load_balancer_ips = read_load_balancer_ips(service, findings);
    }
    ours.ports = read_service_ports(spec, findings);
    if findings.has_refusal() {
        return None;
    }
    note_unsupported(spec, type_, findings);
    if !spec.load_balancer_source_ranges.iter().flatten().all(String::is_empty) {
        // Serving these addresses to everybody would be worse than not serving them.
        ours.load_balancer_ips.clear();
        findings.refuse(
            "spec.loadBalancerSourceRanges",
            "not supported yet: the load balancer addresses stay closed, the cluster IP works",
        );
    } else if ours.cluster_ips.is_empty() && ours.load_balancer_ips.is_empty() {
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

fn read_service_ports(spec: &core::ServiceSpec, findings: &mut Findings) -> Vec<ServicePort> {
    let given = spec.ports.as_deref().unwrap_or_default();
    if given.is_empty() {
        findings.refuse("spec.ports", "a service with an address needs at least one port");
    }
    let mut ports = Vec::new();
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (i, it) in given.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let l4_port = read_port(&format!("{path}.port"), it.port, findings);
        let protocol = read_protocol(&path, it.protocol.as_deref(), findings);
        let target = read_target(&path, it.target_port.as_ref(), it.port, findings);
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
        ports.push(ServicePort { name, l4_port, protocol, target });
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

fn note_unsupported(spec: &core::ServiceSpec, type_: &str, findings: &mut Findings) {
    if type_ == "NodePort" {
        findings.ignore("spec.type", "NodePort is");
    } else if spec.ports.iter().flatten().any(|it| it.node_port.is_some_and(|it| it != 0)) {
        findings.ignore("spec.ports", "nodePort is");
    }
    let list_is_set = |list: &Option<Vec<String>>| list.iter().flatten().next().is_some();
    if list_is_set(&spec.external_ips) {
        findings.ignore("spec.externalIPs", "externalIPs are");
    }
    let value_is = |field: &Option<String>, value| field.as_deref() == Some(value);
    if value_is(&spec.session_affinity, "ClientIP") {
        findings.ignore("spec.sessionAffinity", "sessionAffinity is");
    }
    if value_is(&spec.external_traffic_policy, "Local") {
        findings.ignore("spec.externalTrafficPolicy", "externalTrafficPolicy Local is");
    }
    if value_is(&spec.internal_traffic_policy, "Local") {
        findings.ignore("spec.internalTrafficPolicy", "internalTrafficPolicy Local is");
    }
    if spec.traffic_distribution.is_some() {
        findings.ignore("spec.trafficDistribution", "trafficDistribution is");
    }
}
