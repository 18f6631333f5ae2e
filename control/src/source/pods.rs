//! Pods to the model: what an endpoint controller would read of them.

use k8s_openapi::api::core::v1 as core;

use super::fields::{Findings, read_address, read_port, read_protocol};
use crate::model::{ContainerPort, Name, Origin, Pod};

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
    Pod {
        name,
        origin,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        addresses: if has_ended { Vec::new() } else { read_addresses(status, findings) },
        is_ready,
        is_terminating: pod.metadata.deletion_timestamp.is_some(),
        ports: pod.spec.as_ref().map(|it| read_ports(it, findings)).unwrap_or_default(),
    }
}

fn read_addresses(status: &core::PodStatus, findings: &mut Findings) -> Vec<std::net::IpAddr> {
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

/// Named ports of the containers that run beside each other: init containers only where they stay
/// (KEP-753).
fn read_ports(spec: &core::PodSpec, findings: &mut Findings) -> Vec<ContainerPort> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let sidecars = init.filter(|(_, it)| it.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().enumerate();
    let all = containers
        .map(|(i, it)| (format!("spec.containers[{i}]"), it))
        .chain(sidecars.map(|(i, it)| (format!("spec.initContainers[{i}]"), it)));
    let mut ports = Vec::new();
    for (path, container) in all {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let Some(name) = port.name.clone() else { continue };
            let path = format!("{path}.ports[{i}]");
            let protocol = read_protocol(&path, port.protocol.as_deref(), findings);
            let number = format!("{path}.containerPort");
            let l4_port = read_port(&number, port.container_port, findings);
            if let (Some(protocol), Some(l4_port)) = (protocol, l4_port) {
                ports.push(ContainerPort { name, protocol, l4_port });
            }
        }
    }
    ports
}
