//! EndpointSlices to the model. A bad endpoint is left out; a bad port refuses the slice.

use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weir_api::v1::BackendState;

use super::fields::{Findings, read_address, read_port, read_protocol};
use crate::model::{
    EndpointSlice, Hints, Name, Origin, SliceEndpoint, SlicePort, WEIGHT_DEFAULT, backend_state,
};

/// Names the service of a slice.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// A slice with this label is for nobody who serves ClusterIPs, whatever the value (a well-known
/// label of Kubernetes; kube-proxy watches slices without it).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Weight of a slice's endpoints; 0 takes them out of service. Cilium's name, so that users can
/// move in.
const WEIGHT_ANNOTATION: &str = "service.cilium.io/weight";

pub(super) fn convert_slice(
    slice: &discovery::EndpointSlice,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Option<EndpointSlice> {
    let labels = slice.metadata.labels.as_ref()?;
    let service = Name::new(&name.namespace, labels.get(SERVICE_NAME_LABEL)?);
    let empty = |name, origin, service| {
        let (ports, endpoints, weight) = (Vec::new(), Vec::new(), WEIGHT_DEFAULT);
        Some(EndpointSlice { name, origin, service, ports, endpoints, weight })
    };
    if labels.contains_key(HEADLESS_LABEL) {
        return empty(name, origin, service);
    }
    let is_ipv4 = match slice.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => {
            findings.ignore("addressType", "addressType FQDN is");
            return empty(name, origin, service);
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
    let hints = endpoint.hints.as_ref();
    let zones = hints.iter().flat_map(|it| it.for_zones.iter().flatten());
    let nodes = hints.iter().flat_map(|it| it.for_nodes.iter().flatten());
    Some(SliceEndpoint {
        address,
        state: backend_state(is_ready, is_serving, is_terminating),
        node: endpoint.node_name.clone().filter(|it| !it.is_empty()),
        zone: endpoint.zone.clone().filter(|it| !it.is_empty()),
        hints: Hints {
            zones: zones.map(|it| it.name.clone()).collect(),
            nodes: nodes.map(|it| it.name.clone()).collect(),
        },
    })
}
