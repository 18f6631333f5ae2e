//! One service, or one pod with host ports, to frontends and backend sets. Pure: the same inputs
//! give the same objects.

mod announce;
mod backends;
mod host_ports;
mod nodes;
mod problems;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use weir_api::v1::{
    Algorithm, BackendSet, BackendState, Forwarding, Frontend, FrontendKey, FrontendType, Protocol,
};

use announce::list_announced;
pub use announce::{Announcement, L2_CLASS};
use backends::{Candidates, collect, depends_on_zone, write_all, write_local};
pub use host_ports::compile_host_ports;
pub use nodes::Nodes;
use problems::{explain_node_port, find_backend_problem, refuse_port};

use crate::model::{EndpointSlice, Family, NodeFilter, Pod, Problem, Service, ServicePort};
use crate::settings::NODE_PORTS;

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
    pub pods: Vec<PodInput<'a>>,
    /// Where they are.
    pub nodes: Nodes<'a>,
}

/// A pod behind a service.
#[derive(Debug, Clone, Copy)]
pub struct PodInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Name of its node, where known.
    pub node: Option<&'a str>,
}

/// What one service or pod asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compiled {
    /// One per address and port; another service may own that address and port.
    pub frontends: BTreeMap<FrontendId, Frontend>,
    /// One per port and address family, and one more of the endpoints on this node alone where a
    /// traffic policy asks for it.
    pub sets: Vec<BackendSet>,
    /// What has no effect, and why.
    pub problems: Vec<Problem>,
    /// Nodes whose objects this follows from.
    pub nodes: BTreeSet<String>,
    /// What load balancers ask about it.
    pub health_check: Option<HealthCheck>,
    /// Its load balancer addresses that nodes answer for.
    pub announced: BTreeMap<IpAddr, Announcement>,
}

/// Whether a load balancer should send a service's traffic to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// Port of the node where this is asked.
    pub l4_port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: u32,
}

/// Computes a service's frontends and backend sets.
#[must_use]
pub fn compile_service(inputs: &Inputs<'_>) -> Compiled {
    let mut compiled = Compiled::default();
    if inputs.service.ports.is_empty() {
        return compiled;
    }
    for port in &inputs.service.ports {
        if let Some(reason) = find_backend_problem(inputs, port) {
            compiled.problems.push(refuse_port(inputs.service, port, &reason));
        }
        let node_ports = inputs.nodes.settings.node_ports.unwrap_or(NODE_PORTS);
        if let Some(number) = port.node_port.filter(|it| !node_ports.contains(*it)) {
            let reason = explain_node_port(number, node_ports);
            compiled.problems.push(refuse_port(inputs.service, port, &reason));
        }
        for family in Family::ALL {
            compile_port(inputs, port, family, &mut compiled);
        }
    }
    compiled.nodes = list_nodes(inputs);
    compiled.announced = list_announced(inputs);
    compiled.health_check = inputs
        .service
        .policy
        .health_check_port
        .map(|l4_port| HealthCheck { l4_port, local_endpoints: count_local_endpoints(inputs) });
    compiled
}

fn compile_port(inputs: &Inputs<'_>, port: &ServicePort, family: Family, compiled: &mut Compiled) {
    let addresses = list_frontends(inputs, port, family);
    if addresses.is_empty() {
        return;
    }
    let service = inputs.service;
    let service_port = match port.name.as_str() {
        "" => service.name.to_string(),
        name => format!("{}:{name}", service.name),
    };
    let all_set = format!("{service_port}/{}", if family == Family::V4 { 4 } else { 6 });
    let local_set = format!("{all_set}/local");
    let mut used_sets = BTreeSet::new();
    for (address, type_) in addresses {
        let mut frontend = Frontend {
            key: Some(FrontendKey::new(address, port.protocol)),
            service: service_port.clone(),
            r#type: type_.into(),
            backend_set: all_set.clone(),
            affinity_timeout_s: service.policy.affinity_timeout_s,
            ..Frontend::default()
        };
        if type_ == FrontendType::ClusterIp {
            if service.policy.is_internal_local {
                frontend.backend_set.clone_from(&local_set);
            }
        } else {
            add_external_policy(inputs, port, &local_set, &mut frontend);
        }
        used_sets.insert(frontend.backend_set.clone());
        used_sets.insert(frontend.external_backend_set.clone());
        compiled.frontends.insert((address, port.protocol), frontend);
    }
    let candidates = collect(inputs, port, family);
    let algorithm = find_algorithm(service);
    let mut add_set = |name: String, backends| {
        if used_sets.contains(&name) {
            let (protocol, algorithm) = (port.protocol.into(), algorithm.into());
            compiled.sets.push(BackendSet { name, protocol, algorithm, backends });
        }
    };
    add_set(all_set, write_all(&candidates, service.policy.proximity, inputs.nodes));
    add_set(local_set, write_local(&candidates, inputs.nodes));
}

/// The addresses of one port in one family. Of an address that occurs twice the last one counts.
fn list_frontends(
    inputs: &Inputs<'_>,
    port: &ServicePort,
    family: Family,
) -> Vec<(SocketAddr, FrontendType)> {
    let service = inputs.service;
    let of_port = |address: &IpAddr| SocketAddr::new(*address, port.l4_port);
    let mut frontends = Vec::new();
    let mut add = |addresses: &[IpAddr], type_| {
        let addresses = addresses.iter().filter(|it| Family::of(**it) == family);
        frontends.extend(addresses.map(|it| (of_port(it), type_)));
    };
    let is_exposed =
        |is_in: fn(crate::model::ExposedTypes) -> bool| service.policy.exposed.is_none_or(is_in);
    if is_exposed(|it| it.cluster_ip) {
        add(&service.cluster_ips, FrontendType::ClusterIp);
    }
    if !inputs.nodes.is_own_in(&service.policy.nodes) {
        return frontends;
    }
    add(&service.external_ips, FrontendType::ExternalIp);
    if is_exposed(|it| it.load_balancer) {
        add(&service.load_balancer_ips, FrontendType::LoadBalancer);
    }
    let node_ports = inputs.nodes.settings.node_ports.unwrap_or(NODE_PORTS);
    if let Some(node_port) = port.node_port.filter(|it| node_ports.contains(*it))
        && service.node_port_families.contains(&family)
        && is_exposed(|it| it.node_port)
    {
        let address = SocketAddr::new(family.unspecified(), node_port);
        frontends.push((address, FrontendType::NodePort));
    }
    frontends
}

/// Clients inside the cluster are served from all endpoints at these addresses too (Service API,
/// externalTrafficPolicy).
fn add_external_policy(
    inputs: &Inputs<'_>,
    port: &ServicePort,
    local_set: &str,
    frontend: &mut Frontend,
) {
    let policy = &inputs.service.policy;
    if policy.is_external_local {
        frontend.external_backend_set = local_set.to_owned();
    }
    if matches!(frontend.r#type(), FrontendType::LoadBalancer | FrontendType::ExternalIp) {
        // Also those of the other family: a list of IPv6 ranges alone lets no IPv4 client in.
        frontend.source_ranges = policy.source_ranges.iter().map(|it| it.to_prefix()).collect();
        frontend.source_ranges_deny = policy.source_ranges_deny && !policy.source_ranges.is_empty();
    }
    let mode = inputs.nodes.settings.mode;
    let forwarding: Forwarding = policy.forwarding.unwrap_or(mode.forwarding(port.protocol));
    frontend.forwarding = forwarding.into();
}

/// A frontend that clients outside reach must choose alike on every node; inside, each node
/// chooses for its own pods, and no table is needed.
fn find_algorithm(service: &Service) -> Algorithm {
    let has_external = !service.load_balancer_ips.is_empty()
        || !service.external_ips.is_empty()
        || service.ports.iter().any(|it| it.node_port.is_some());
    let default = if has_external { Algorithm::Maglev } else { Algorithm::Hash };
    service.policy.algorithm.unwrap_or(default)
}

/// As kube-proxy counts them: endpoints are addresses, whatever their ports. A pod with an address
/// of each family is one.
fn count_local_endpoints(inputs: &Inputs<'_>) -> u32 {
    let count = |family: Family| {
        let mut addresses = BTreeSet::new();
        for port in &inputs.service.ports {
            let candidates: Candidates<'_> = collect(inputs, port, family);
            let local = candidates
                .iter()
                .filter(|(_, it)| it.state == BackendState::Active && inputs.nodes.is_own(it.node));
            addresses.extend(local.map(|(address, _)| address.ip()));
        }
        addresses.len()
    };
    let count = Family::ALL.into_iter().map(count).max().unwrap_or(0);
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn list_nodes(inputs: &Inputs<'_>) -> BTreeSet<String> {
    let of_slices = inputs.slices.iter().flat_map(|it| &it.endpoints);
    let of_slices = of_slices.filter_map(|it| it.node.as_deref());
    let of_pods = inputs.pods.iter().filter_map(|it| it.node);
    let mut nodes: BTreeSet<String> = of_slices.chain(of_pods).map(str::to_owned).collect();
    let by_labels = matches!(inputs.service.policy.nodes, NodeFilter::Labels(_));
    if by_labels || depends_on_zone(inputs) {
        nodes.insert(inputs.nodes.settings.name.clone());
    }
    nodes
}
