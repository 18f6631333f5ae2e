//! What both suites stand on: backends in every place, and a service for each.

use anyhow::Result;
use weir_lab::{
    Cluster, ClusterService, Process,
    cluster::{BackendAt, Kind, OUTSIDE, node_addresses},
    testbed::pod_yaml_on,
};

use crate::{common::serve_as, tools};

/// Kinds of addresses for those inside the cluster.
pub const INSIDE: [Kind; 5] =
    [Kind::ClusterIp, Kind::NodePort(0), Kind::NodePort(1), Kind::LoadBalancer, Kind::ExternalIp];
/// Those that the world outside has a way to.
pub const OUTER: [Kind; 4] =
    [Kind::NodePort(0), Kind::NodePort(1), Kind::LoadBalancer, Kind::ExternalIp];

/// A pod that asks and one that answers on each node, and servers on the nodes and outside.
pub fn populate(cluster: &mut Cluster) -> Result<Vec<Process>> {
    for (node, (asker, backend)) in [("ask", "local"), ("ask-far", "remote")].iter().enumerate() {
        cluster.node_mut(node).add_pod(asker)?;
        cluster.node_mut(node).add_backend(backend, backend)?;
    }
    cluster.node_mut(0).add_backend("self", "self")?;
    let pod = cluster.node(0).pod("local")?.addresses();
    let yaml = pod_yaml_on("node-1", "local", "local", pod);
    cluster.apply("local", &yaml.replace("image: weir-lab", &host_ports()))?;
    let mut servers = serve_as(cluster.node(0).host(), "host", node_addresses(0).both())?;
    servers.extend(serve_as(cluster.node(1).host(), "host-remote", node_addresses(1).both())?);
    servers.extend(serve_as(cluster.client(), "outside", OUTSIDE.both())?);
    Ok(servers)
}

/// Of the pod `local`, on every address of the node.
pub const HOST_PORT: u16 = 9080;
/// And at 127.0.0.1 alone.
pub const HOST_PORT_AT_LOOPBACK: u16 = 9081;

fn host_ports() -> String {
    let at = |port: u16, address: &str| {
        format!(
            "{{containerPort: 8080, hostPort: {port}, hostIP: {address}}}, \
             {{containerPort: 7007, hostPort: {port}, hostIP: {address}, protocol: UDP}}"
        )
    };
    let v4 = at(HOST_PORT_AT_LOOPBACK, "127.0.0.1");
    let all = at(HOST_PORT, "\"\"");
    format!("image: weir-lab, ports: [{all}, {v4}]")
}

/// One for each place; one without backends, one that its asker is behind, and two with policies.
pub fn services(cluster: &Cluster) -> Result<Vec<ClusterService>> {
    let pod = |node: u8, name: &str| -> Result<BackendAt> {
        let addresses = cluster.node(node.into()).pod(name)?.addresses();
        Ok(BackendAt { addresses, node })
    };
    let host = |node: u8| BackendAt { addresses: node_addresses(node), node };
    let service = |name, number, backends| ClusterService { name, number, backends, spec: vec![] };
    let both = vec![pod(0, "local")?, pod(1, "remote")?];
    let mut near = service("near", 7, both.clone());
    near.spec = vec!["externalTrafficPolicy: Local"];
    let mut sticky = service("sticky", 8, both);
    sticky.spec = vec!["sessionAffinity: ClientIP"];
    let services = vec![
        service("local", 1, vec![pod(0, "local")?]),
        service("remote", 2, vec![pod(1, "remote")?]),
        service("host", 3, vec![host(0)]),
        service("host-remote", 4, vec![host(1)]),
        service("self", 5, vec![pod(0, "self")?]),
        service("none", 6, vec![]),
        near,
        sticky,
    ];
    services.iter().try_for_each(|service| cluster.serve(service))?;
    Ok(services)
}

/// iperf3 and DNS servers in the pods behind the first two services.
pub fn serve_tools(cluster: &Cluster) -> Result<Vec<Process>> {
    let mut servers = Vec::new();
    for (node, name) in ["local", "remote"].into_iter().enumerate() {
        let pod = cluster.node(node).pod(name)?;
        servers.extend(tools::serve(pod.host(), name, pod.addresses())?);
    }
    Ok(servers)
}
