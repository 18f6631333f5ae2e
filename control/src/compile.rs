//! One service to frontends and backend sets. Pure: the same inputs give the same objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weir_api::convert::address_bytes;
use weir_api::object::protocol_name;
use weir_api::v1::{
    Algorithm, Backend, BackendSet, BackendState, Frontend, FrontendKey, FrontendType, Protocol,
};

use crate::model::{
    EndpointSlice, Pod, Problem, Service, ServicePort, Severity, TargetPort, WEIGHT_DEFAULT,
    backend_state,
};

/// A frontend's address, port and protocol.
pub type FrontendId = (SocketAddr, Protocol);

/// Everything that one service's objects follow from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The service.
    pub service: &'a Service,
    /// Its slices. Where there is one, even without endpoints, pods do not count.
    pub slices: Vec<&'a EndpointSlice>,
    /// Pods that its selector matches.
    pub pods: Vec<&'a Pod>,
}

/// What one service asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compiled {
    /// One per address and port; another service may own that address and port.
    pub frontends: BTreeMap<FrontendId, Frontend>,
    /// One per port and address family.
    pub sets: Vec<BackendSet>,
    /// What has no effect, and why.
    pub problems: Vec<Problem>,
}

/// Computes a service's frontends and backend sets.
#[must_use]
pub fn compile_service(inputs: &Inputs<'_>) -> Compiled {
    let service = inputs.service;
    let mut compiled = Compiled::default();
    for port in &service.ports {
        if let Some(reason) = find_port_problem(inputs, port) {
            compiled.problems.push(Problem {
                location: service.origin.clone(),
                object: format!("Service {}", service.name),
                reason: format!("port {}: {reason}", describe_port(port)),
                severity: Severity::Refused,
            });
        }
        for is_ipv4 in [true, false] {
            compile_port(inputs, port, is_ipv4, &mut compiled);
        }
    }
    compiled
}

fn compile_port(inputs: &Inputs<'_>, port: &ServicePort, is_ipv4: bool, compiled: &mut Compiled) {
    let service = inputs.service;
    let service_port = match port.name.as_str() {
        "" => service.name.to_string(),
        name => format!("{}:{name}", service.name),
    };
    let set = format!("{service_port}/{}", if is_ipv4 { 4 } else { 6 });
    let cluster = service.cluster_ips.iter().map(|it| (*it, FrontendType::ClusterIp));
    let external = service.load_balancer_ips.iter().map(|it| (*it, FrontendType::LoadBalancer));
    let mut has_frontend = false;
    for (address, type_) in cluster.chain(external).filter(|(it, _)| it.is_ipv4() == is_ipv4) {
        let id = (SocketAddr::new(address, port.l4_port), port.protocol);
        let frontend = Frontend {
            key: Some(FrontendKey::new(id.0, id.1)),
            service: service_port.clone(),
            r#type: type_.into(),
            backend_set: set.clone(),
            ..Frontend::default()
        };
        compiled.frontends.insert(id, frontend);
        has_frontend = true;
    }
    if !has_frontend {
        return;
    }
    // A frontend that clients outside reach must choose alike on every node; inside, each node
    // chooses for its own pods, and no table is needed.
    let algorithm = match service.load_balancer_ips.is_empty() {
        true => Algorithm::Hash,
        false => Algorithm::Maglev,
    };
    let backends = match inputs.slices.is_empty() {
        false => collect_from_slices(&inputs.slices, port, is_ipv4),
        true => collect_from_pods(inputs, port, is_ipv4),
    };
    compiled.sets.push(BackendSet {
        name: set,
        protocol: port.protocol.into(),
        algorithm: algorithm.into(),
        backends: backends.into_iter().map(write_backend).collect(),
    });
}

/// State and weight by address and port. Two mentions of one backend are one, in the better state.
type Backends = BTreeMap<SocketAddr, (BackendState, u32)>;

fn collect_from_slices(slices: &[&EndpointSlice], port: &ServicePort, is_ipv4: bool) -> Backends {
    let mut backends = Backends::new();
    for slice in slices {
        for slice_port in slice.ports.iter().filter(|it| is_same_port(it, port)) {
            let endpoints = slice.endpoints.iter().filter(|it| it.address.is_ipv4() == is_ipv4);
            for endpoint in endpoints {
                let address = SocketAddr::new(endpoint.address, slice_port.l4_port);
                add_backend(&mut backends, address, endpoint.state, slice.weight);
            }
        }
    }
    backends
}

fn collect_from_pods(inputs: &Inputs<'_>, port: &ServicePort, is_ipv4: bool) -> Backends {
    let mut backends = Backends::new();
    for pod in &inputs.pods {
        let Some(l4_port) = find_target(pod, port) else { continue };
        // As the endpoint controller writes them: a terminating pod is serving while it is ready.
        let is_ready = inputs.service.publish_not_ready || (pod.is_ready && !pod.is_terminating);
        let state = backend_state(is_ready, pod.is_ready, pod.is_terminating);
        let of_family = |it: &&IpAddr| it.is_ipv4() == is_ipv4;
        if let Some(address) = pod.addresses.iter().find(of_family) {
            let address = SocketAddr::new(*address, l4_port);
            add_backend(&mut backends, address, state, WEIGHT_DEFAULT);
        }
    }
    backends
}

fn add_backend(backends: &mut Backends, address: SocketAddr, state: BackendState, weight: u32) {
    let known = backends.entry(address).or_insert((state, weight));
    // The states are ordered from active to maintenance.
    if state < known.0 {
        *known = (state, weight);
    }
}

fn write_backend((address, (state, weight)): (SocketAddr, (BackendState, u32))) -> Backend {
    Backend {
        address: address_bytes(address.ip()),
        l4_port: u32::from(address.port()),
        state: state.into(),
        weight,
        node_address: Vec::new(),
    }
}

fn is_same_port(slice_port: &crate::model::SlicePort, port: &ServicePort) -> bool {
    slice_port.name == port.name && slice_port.protocol == port.protocol
}

fn find_target(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let is_target = |it: &&crate::model::ContainerPort| {
                it.name == *name && it.protocol == port.protocol
            };
            pod.ports.iter().find(is_target).map(|it| it.l4_port)
        }
    }
}

/// Why a port has fewer backends than its author expects.
fn find_port_problem(inputs: &Inputs<'_>, port: &ServicePort) -> Option<String> {
    let protocol = protocol_name(port.protocol);
    if inputs.slices.is_empty() {
        let TargetPort::Name(name) = &port.target else { return None };
        let pods = inputs.pods.iter().filter(|it| !it.addresses.is_empty());
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
