//! Who the two ends of a probe are.

use std::net::IpAddr;

use serde_json::Value;

use super::{Probe, Protocol, World, items};

/// One end: a pod, a node, or neither of them, which is the world.
#[derive(Debug)]
pub struct End<'w> {
    /// A pod of its own: one on the host's network is the node.
    pub pod: Option<&'w Value>,
    pub node: Option<&'w Value>,
    pub address: IpAddr,
}

pub fn resolve<'w>(world: &'w World, probe: &Probe) -> (End<'w>, End<'w>) {
    let given = [&probe.from, &probe.to].map(|it| it.parse::<IpAddr>().ok());
    let given = given.into_iter().flatten().next();
    let is_ipv6 = given.map_or(probe.protocol == Protocol::Icmpv6, |it| it.is_ipv6());
    (resolve_end(world, &probe.from, is_ipv6), resolve_end(world, &probe.to, is_ipv6))
}

fn resolve_end<'w>(world: &'w World, name: &str, is_ipv6: bool) -> End<'w> {
    let address = match name.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => {
            let pod = world.of_kind("Pod").find(|it| name_pod(it) == name);
            let pod = pod.unwrap_or_else(|| panic!("no pod {name}"));
            let found = pod_addresses(pod).into_iter().find(|it| it.is_ipv6() == is_ipv6);
            found.unwrap_or_else(|| panic!("pod {name} has no address of the family"))
        }
    };
    let mut pods = world.of_kind("Pod").filter(|it| !is_on_host_network(it));
    let mut nodes = world.of_kind("Node");
    End {
        pod: pods.find(|it| pod_addresses(it).contains(&address)),
        node: nodes.find(|it| node_addresses(it).contains(&address)),
        address,
    }
}

pub fn is_on_host_network(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == true
}

fn name_pod(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap();
    format!("{}/{}", text("namespace"), text("name"))
}

fn pod_addresses(pod: &Value) -> Vec<IpAddr> {
    items(&pod["status"]["podIPs"]).iter().map(|it| parse(&it["ip"])).collect()
}

fn node_addresses(node: &Value) -> Vec<IpAddr> {
    let all = items(&node["status"]["addresses"]).iter();
    all.filter_map(|it| it["address"].as_str()?.parse().ok()).collect()
}

fn parse(text: &Value) -> IpAddr {
    text.as_str().unwrap().parse().unwrap()
}
