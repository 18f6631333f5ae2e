//! Why a service has fewer frontends or backends than its author expects.

use weir_api::object::protocol_name;

use super::Inputs;
use super::backends::{find_target, is_same_port};
use crate::model::{EndpointSlice, Problem, Service, ServicePort, Severity, TargetPort};
use crate::settings::PortRange;

/// What is wrong with one port of a service.
pub(super) fn refuse_port(service: &Service, port: &ServicePort, reason: &str) -> Problem {
    Problem {
        location: service.origin.clone(),
        object: format!("Service {}", service.name),
        reason: format!("port {}: {reason}", describe_port(port)),
        severity: Severity::Refused,
    }
}

pub(super) fn explain_node_port(node_port: u16, range: PortRange) -> String {
    format!(
        "nodePort {node_port} is outside the range {range}: give one inside, or start the agent \
         with another --node-ports"
    )
}

/// Why a port has fewer backends than its author expects.
pub(super) fn find_backend_problem(inputs: &Inputs<'_>, port: &ServicePort) -> Option<String> {
    let protocol = protocol_name(port.protocol);
    if inputs.slices.is_empty() {
        let TargetPort::Name(name) = &port.target else { return None };
        let pods = inputs.pods.iter().map(|it| it.pod).filter(|it| !it.addresses.is_empty());
        let lacking: Vec<String> = pods
            .filter(|it| find_target(it, port).is_none())
            .map(|it| it.name.to_string())
            .collect();
        let first = lacking.first()?;
        let others = match lacking.len() - 1 {
            0 => String::new(),
            others => format!(" and of {others} more"),
        };
        return Some(format!(
            "targetPort {name:?}: no container of pod {first}{others} has a {protocol} port of \
             this name: no backend there"
        ));
    }
    let has_ports = |it: &&&EndpointSlice| !it.ports.is_empty() && !it.endpoints.is_empty();
    let first = inputs.slices.iter().find(has_ports)?;
    let mut all_ports = inputs.slices.iter().flat_map(|it| &it.ports);
    let is_matched = all_ports.any(|it| is_same_port(it, port));
    (!is_matched).then(|| {
        format!(
            "none of its EndpointSlices ({}, ...) has a {protocol} port of this name: no backends",
            first.name
        )
    })
}

fn describe_port(port: &ServicePort) -> String {
    match port.name.as_str() {
        "" => format!("{}/{}", port.l4_port, protocol_name(port.protocol)),
        name => format!("{name:?}"),
    }
}
