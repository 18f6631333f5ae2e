//! Pods to the model: what an endpoint controller would read of them, and their host ports.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::fields::{Findings, read_address, read_port, read_protocol};
use crate::model::{ContainerPort, HostPort, Name, Origin, Pod};

/// What policies deny this pod is let through and reported.
const AUDIT_ANNOTATION: &str = "policy.weir.dev/audit";

pub(super) fn convert_pod(
    pod: &core::Pod,
    name: Name,
    origin: Option<Origin>,
    findings: &mut Findings,
) -> Pod {
    let empty_status = core::PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty_status);
    // A pod written by hand has no phase: with an address it counts as running.
    let phase = status.phase.as_deref().unwrap_or("Running");
    let has_ended = phase == "Succeeded" || phase == "Failed";
    let ready_condition = status.conditions.iter().flatten().find(|it| it.type_ == "Ready");
    let is_ready = phase == "Running" && ready_condition.is_none_or(|it| it.status == "True");
    let mut ports = Ports::default();
    if let Some(spec) = &pod.spec {
        read_ports(spec, &mut ports, findings);
    }
    let created = pod.metadata.creation_timestamp.as_ref().map(|it| it.0.to_string());
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|it| it.node_name.clone());
    let account = spec.and_then(|it| it.service_account_name.clone());
    Pod {
        name,
        origin,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        addresses: if has_ended { Vec::new() } else { read_addresses(status, findings) },
        is_ready,
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
        ports: ports.named,
        created,
        node: node.filter(|it| !it.is_empty()),
        host_ports: ports.of_host,
        service_account: account.filter(|it| !it.is_empty()).unwrap_or_else(|| "default".into()),
        is_host_network: spec.and_then(|it| it.host_network).unwrap_or(false),
        is_policy_audited: read_audit(&pod.metadata, findings),
    }
}

fn read_audit(metadata: &ObjectMeta, findings: &mut Findings) -> bool {
    let annotations = metadata.annotations.as_ref();
    match annotations.and_then(|it| it.get(AUDIT_ANNOTATION)).map(String::as_str) {
        Some("true") => true,
        None | Some("false") => false,
        Some(other) => {
            let path = format!("metadata.annotations.{AUDIT_ANNOTATION}");
            findings.refuse(path, format_args!("{other:?}: give \"true\" or \"false\""));
            false
        }
    }
}

fn read_addresses(status: &core::PodStatus, findings: &mut Findings) -> Vec<IpAddr> {
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    if listed.is_empty() {
        let single = status.pod_ip.iter().filter(|it| !it.is_empty());
        return single.filter_map(|it| read_address("status.podIP", it, findings)).collect();
    }
    let mut addresses = Vec::new();
    for (i, it) in listed.iter().enumerate() {
        addresses.extend(read_address(&format!("status.podIPs[{i}].ip"), &it.ip, findings));
    }
    addresses
}

#[derive(Default)]
struct Ports {
    named: Vec<ContainerPort>,
    of_host: Vec<HostPort>,
}

/// Ports of the containers that run beside each other: init containers only where they stay
/// (KEP-753).
fn read_ports(spec: &core::PodSpec, ports: &mut Ports, findings: &mut Findings) {
    // Its ports are the host's own; the API server copies them to hostPort.
    let is_on_host = spec.host_network.unwrap_or(false);
    let init = spec.init_containers.iter().flatten().enumerate();
    let sidecars = init.filter(|(_, it)| it.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().enumerate();
    let all = containers
        .map(|(i, it)| (format!("spec.containers[{i}]"), it))
        .chain(sidecars.map(|(i, it)| (format!("spec.initContainers[{i}]"), it)));
    for (path, container) in all {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.filter(|it| *it != 0 && !is_on_host);
            if port.name.is_none() && host_port.is_none() {
                continue;
            }
            let path = format!("{path}.ports[{i}]");
            let protocol = read_protocol(&path, port.protocol.as_deref(), findings);
            let number = format!("{path}.containerPort");
            let l4_port = read_port(&number, port.container_port, findings);
            let (Some(protocol), Some(l4_port)) = (protocol, l4_port) else { continue };
            if let Some(name) = port.name.clone() {
                ports.named.push(ContainerPort { name, protocol, l4_port });
            }
            let Some(number) = host_port else { continue };
            let number = read_port(&format!("{path}.hostPort"), number, findings);
            let host_ip = read_host_ip(&path, port.host_ip.as_deref(), findings);
            if let (Some(number), Ok(host_ip)) = (number, host_ip) {
                let container_port = l4_port;
                ports.of_host.push(HostPort { host_ip, l4_port: number, protocol, container_port });
            }
        }
    }
}

/// An unspecified address means all of its family, a loopback one the node's own sockets.
fn read_host_ip(
    path: &str,
    text: Option<&str>,
    findings: &mut Findings,
) -> Result<Option<IpAddr>, ()> {
    let Some(text) = text.filter(|it| !it.is_empty()) else { return Ok(None) };
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_loopback() => Ok(Some(address)),
        _ => read_address(&format!("{path}.hostIP"), text, findings).map(Some).ok_or(()),
    }
}
