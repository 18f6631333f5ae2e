//! Kubernetes objects to the model: decoding and every check on a single object.
//!
//! Reference: Kubernetes API validation (`pkg/apis/core/validation`, `pkg/apis/discovery/validation`).

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_api::v1::{BackendState, Protocol};

use super::pods;
use crate::model::{
    EndpointSlice, Kind, Name, Node, Object, Origin, Service, ServicePort, Severity, SliceEndpoint,
    SlicePort, TargetPort, WEIGHT_DEFAULT, backend_state, check_unicast,
};

/// A service with this label belongs to another proxy (well-known labels of Kubernetes).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Names the service of a slice.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Weight of a slice's endpoints; 0 takes them out of service. Cilium's name, so that users can move in.
const WEIGHT_ANNOTATION: &str = "service.cilium.io/weight";

/// Something wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `spec.ports[0].port`; empty for the object itself.
    pub path: String,
    /// What is wrong and what to do.
    pub reason: String,
    /// Whether the field applies.
    pub severity: Severity,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// `None` where the object is refused, or means nothing to weir (then without findings).
    pub object: Option<Object>,
    /// In the order of the fields.
    pub findings: Vec<Finding>,
}

/// Decodes and checks one object of a kind that weir reads.
#[must_use]
pub fn convert(kind: Kind, name: Name, origin: Option<Origin>, value: &Value) -> Converted {
    let mut findings = Findings::default();
    let object = match kind {
        Kind::Service => decode(value, &mut findings)
            .and_then(|it| convert_service(&it, name, origin, &mut findings).map(Object::Service)),
        Kind::EndpointSlice => decode(value, &mut findings)
            .and_then(|it| convert_slice(&it, name, origin, &mut findings).map(Object::Slice)),
        Kind::Pod => decode(value, &mut findings)
            .map(|it| Object::Pod(pods::convert_pod(&it, name, origin, &mut findings))),
        Kind::Node => decode(value, &mut findings)
            .map(|it| Object::Node(convert_node(&it, name, origin, &mut findings))),
    };
    Converted { object, findings: findings.list }
}

fn decode<T: DeserializeOwned>(value: &Value, findings: &mut Findings) -> Option<T> {
    match serde_path_to_error::deserialize(value) {
        Ok(it) => Some(it),
        Err(error) => {
            let path = error.path().to_string();
            // The library writes "." for the object itself.
            let path = if path == "." { String::new() } else { path };
            findings.refuse(path, error.into_inner());
            None
        }
    }
}

/// Collects what is wrong with one object.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    pub(super) fn refuse(&mut self, path: impl Into<String>, reason: impl Display) {
        self.push(path.into(), reason.to_string(), Severity::Refused);
    }

    fn ignore(&mut self, path: impl Into<String>, what: &str) {
        self.push(path.into(), format!("{what} not supported yet: ignored"), Severity::Ignored);
    }

    fn push(&mut self, path: String, reason: String, severity: Severity) {
        self.list.push(Finding { path, reason, severity });
    }

    fn has_refusal(&self) -> bool {
        self.list.iter().any(|it| it.severity == Severity::Refused)
    }
}

fn convert_service(
    service: &core::Service,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Option<Service> {
    let empty_spec = core::ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty_spec);
    let is_ours = !has_label(&service.metadata, PROXY_NAME_LABEL);
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

fn convert_slice(
    slice: &discovery::EndpointSlice,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Option<EndpointSlice> {
    let service = slice.metadata.labels.as_ref().and_then(|it| it.get(SERVICE_NAME_LABEL))?;
    let service = Name::new(&name.namespace, service);
    let is_ipv4 = match slice.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => {
            findings.ignore("addressType", "addressType FQDN is");
            let (ports, endpoints, weight) = (Vec::new(), Vec::new(), WEIGHT_DEFAULT);
            return Some(EndpointSlice { name, origin, service, ports, endpoints, weight });
        }
        other => {
            let reason = format!("unknown address type {other:?}: IPv4 and IPv6 are served");
            findings.refuse("addressType", reason);
            return None;
        }
    };
    let weight = read_weight(&slice.metadata, findings)?;
    let ports = read_slice_ports(slice, findings);
    if findings.has_refusal() {
        return None;
    }
    let mut endpoints = Vec::new();
    for (i, it) in slice.endpoints.iter().flatten().enumerate() {
        let mut endpoint = match read_endpoint(i, it, is_ipv4, findings) {
            Some(endpoint) => endpoint,
            None => continue,
        };
        if weight == 0 {
            endpoint.state = BackendState::Maintenance;
        }
        endpoints.push(endpoint);
    }
    let weight = if weight == 0 { WEIGHT_DEFAULT } else { weight };
    Some(EndpointSlice { name, origin, service, ports, endpoints, weight })
}

fn read_weight(metadata: &ObjectMeta, findings: &mut Findings) -> Option<u32> {
    let annotations = metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|it| it.get(WEIGHT_ANNOTATION)) else {
        return Some(WEIGHT_DEFAULT);
    };
    match text.parse::<u16>() {
        Ok(weight) => Some(u32::from(weight)),
        Err(_) => {
            let path = format!("metadata.annotations.{WEIGHT_ANNOTATION}");
            findings.refuse(path, format_args!("{text:?} is not a weight: give 0..65535"));
            None
        }
    }
}

fn read_slice_ports(slice: &discovery::EndpointSlice, findings: &mut Findings) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (i, it) in slice.ports.iter().flatten().enumerate() {
        let path = format!("ports[{i}]");
        let protocol = read_protocol(&path, it.protocol.as_deref(), findings);
        // Without a number the slice means all ports, which no Service can ask for.
        let Some(number) = it.port else { continue };
        let l4_port = read_port(&format!("{path}.port"), number, findings);
        let (Some(protocol), Some(l4_port)) = (protocol, l4_port) else { continue };
        ports.push(SlicePort { name: it.name.clone().unwrap_or_default(), protocol, l4_port });
    }
    ports
}

fn read_endpoint(
    index: usize,
    endpoint: &discovery::Endpoint,
    is_ipv4: bool,
    findings: &mut Findings,
) -> Option<SliceEndpoint> {
    let path = format!("endpoints[{index}].addresses");
    // The API gives no meaning to the addresses after the first.
    let Some(text) = endpoint.addresses.first() else {
        findings.refuse(path, "an endpoint needs an address");
        return None;
    };
    let path = format!("{path}[0]");
    let address = read_address(&path, text, findings)?;
    if address.is_ipv4() != is_ipv4 {
        let (is, wanted) = if is_ipv4 { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        let reason = format!("{address} is {is}, but the slice's addressType is {wanted}");
        findings.refuse(path, reason);
        return None;
    }
    let conditions = endpoint.conditions.as_ref();
    // Absent means true for `ready`, the value of `ready` for `serving`, false for `terminating`.
    let is_ready = conditions.and_then(|it| it.ready).unwrap_or(true);
    let is_serving = conditions.and_then(|it| it.serving).unwrap_or(is_ready);
    let is_terminating = conditions.and_then(|it| it.terminating).unwrap_or(false);
    Some(SliceEndpoint { address, state: backend_state(is_ready, is_serving, is_terminating) })
}

fn convert_node(
    node: &core::Node,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Node {
    let given = node.status.as_ref().and_then(|it| it.addresses.as_deref()).unwrap_or_default();
    let mut addresses = Vec::new();
    for (i, it) in given.iter().enumerate() {
        if it.type_ == "InternalIP" || it.type_ == "ExternalIP" {
            let path = format!("status.addresses[{i}].address");
            addresses.extend(read_address(&path, &it.address, findings));
        }
    }
    Node { name, origin, addresses }
}

/// Reads an address that traffic can be sent to.
pub(super) fn read_address(path: &str, text: &str, findings: &mut Findings) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        findings.refuse(path, format_args!("{text:?} is not an IP address"));
        return None;
    };
    match check_unicast(address) {
        Ok(()) => Some(address),
        Err(what) => {
            findings.refuse(path, format_args!("{address} is {what}: give a unicast address"));
            None
        }
    }
}

/// Reads a port number.
pub(super) fn read_port(path: &str, port: i32, findings: &mut Findings) -> Option<u16> {
    let port = u16::try_from(port).ok().filter(|it| *it > 0).ok_or(port);
    port.map_err(|port| findings.refuse(path, format_args!("{port} is outside 1..65535"))).ok()
}

/// Reads the protocol of a port; absent means TCP.
pub(super) fn read_protocol(
    path: &str,
    protocol: Option<&str>,
    findings: &mut Findings,
) -> Option<Protocol> {
    match protocol.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        other => {
            let reason = format!("unknown protocol {other:?}: TCP, UDP and SCTP are served");
            findings.refuse(format!("{path}.protocol"), reason);
            None
        }
    }
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|it| it.contains_key(label))
}
