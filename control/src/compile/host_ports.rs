//! The host ports of one pod of this node to frontends and backend sets.

use std::net::{Ipv6Addr, SocketAddr};

use weir_api::convert::address_bytes;
use weir_api::object::protocol_name;
use weir_api::v1::{
    Algorithm, Backend, BackendSet, BackendState, Forwarding, Frontend, FrontendKey, FrontendType,
};

use super::{Compiled, Nodes};
use crate::model::{Family, HostPort, Pod, Problem, Severity, WEIGHT_DEFAULT};
use crate::settings::NODE_PORTS;

/// Computes the frontends of a pod that runs on this node. They lead to the pod while it has an
/// address, ready or not, as a container runtime's port mappings do.
#[must_use]
pub fn compile_host_ports(pod: &Pod, nodes: Nodes<'_>) -> Compiled {
    let mut compiled = Compiled::default();
    let node_ports = nodes.settings.node_ports.unwrap_or(NODE_PORTS);
    for port in &pod.host_ports {
        if node_ports.contains(port.l4_port) {
            let reason = format!(
                "hostPort {} has no effect: it is in the range of node ports, {node_ports}: give \
                 one outside",
                port.l4_port
            );
            compiled.problems.push(explain(pod, reason));
            continue;
        }
        for address in &pod.addresses {
            let family = Family::of(*address);
            let host_ip = port.host_ip.unwrap_or(family.unspecified());
            if host_ip == Ipv6Addr::LOCALHOST && family == Family::V6 {
                let reason = format!(
                    "hostPort {} at {host_ip} has no effect: the kernel takes that address from \
                     no other interface: give one of the node, or 127.0.0.1",
                    port.l4_port
                );
                compiled.problems.push(explain(pod, reason));
            } else if Family::of(host_ip) == family {
                let frontend = SocketAddr::new(host_ip, port.l4_port);
                let backend = SocketAddr::new(*address, port.container_port);
                add_frontend(pod, port, frontend, backend, nodes, &mut compiled);
            }
        }
    }
    compiled.nodes.insert(nodes.settings.name.clone());
    compiled
}

fn add_frontend(
    pod: &Pod,
    port: &HostPort,
    frontend: SocketAddr,
    backend: SocketAddr,
    nodes: Nodes<'_>,
    compiled: &mut Compiled,
) {
    let id = (frontend, port.protocol);
    if compiled.frontends.contains_key(&id) {
        let protocol = protocol_name(port.protocol);
        let reason = format!("hostPort {frontend}/{protocol} twice: the first one counts");
        compiled.problems.push(explain(pod, reason));
        return;
    }
    let key = FrontendKey::new(frontend, port.protocol);
    // No service's set has an `@` in its name.
    let set = format!("{}@{key}", pod.name);
    let frontend = Frontend {
        key: Some(key),
        service: format!("{}:{}", pod.name, port.l4_port),
        r#type: FrontendType::HostPort.into(),
        backend_set: set.clone(),
        forwarding: Forwarding::Snat.into(),
        ..Frontend::default()
    };
    compiled.frontends.insert(id, frontend);
    let own_name = Some(nodes.settings.name.as_str());
    let backend = Backend {
        address: address_bytes(backend.ip()),
        l4_port: u32::from(backend.port()),
        state: BackendState::Active.into(),
        weight: WEIGHT_DEFAULT,
        node_address: nodes.address_of(own_name, Family::of(backend.ip())),
    };
    compiled.sets.push(BackendSet {
        name: set,
        protocol: port.protocol.into(),
        algorithm: Algorithm::Maglev.into(),
        backends: vec![backend],
    });
}

fn explain(pod: &Pod, reason: String) -> Problem {
    let (location, object) = (pod.origin.clone(), format!("Pod {}", pod.name));
    Problem { location, object, reason, severity: Severity::Ignored }
}
