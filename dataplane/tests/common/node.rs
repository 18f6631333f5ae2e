//! The state of one small node, and a name for every address in it.
//!
//! ```text
//!  pods      blue green red grey      services  web    -> green       (ClusterIP, tcp 80, udp 53)
//!  host      the node itself                    lb     -> green       (LoadBalancer, the same)
//!  client    outside, by the gateway            pair   -> green, red  (LoadBalancer, the same)
//!  near      on the uplink, unresolved          own    -> blue
//!  docker    behind a route of the kernel       far    -> remote      (another node's pod)
//!  nowhere   unreachable                        empty  -> nobody
//! ```

use weir_dataplane::pipeline::{GATEWAY_MAC, gateway_addr, hairpin_addr, host_peer_addr};
use weir_packet::{Addr, Mac, protocol};
use weir_tables::{
    Algorithm, Backend, BackendAddr, BackendState, Endpoint, Frontend, FrontendKey, FrontendType,
    HostPort, Network, NextHop, NodeConfig, Object, PortId, Prefix, Route, RouteTarget, Tables,
    Uplink,
};

/// The interface of the uplink.
pub const UPLINK_PORT: PortId = PortId(2);
/// The interface of the host's port.
pub const HOST_PORT: PortId = PortId(9);
pub const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 2, 0]);
pub const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
pub const NEAR_MAC: Mac = Mac([2, 0, 0, 0, 2, 77]);
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 9, 0]);
pub const UPLINK_MTU: u16 = 1500;

/// Pods and their ports.
pub const PODS: [(&str, u32); 4] = [("blue", 11), ("green", 12), ("red", 13), ("grey", 14)];
/// Services and their backends.
pub const SERVICES: [(&str, &[&str]); 6] = [
    ("web", &["green"]),
    ("lb", &["green"]),
    ("pair", &["green", "red"]),
    ("own", &["blue"]),
    ("far", &["remote"]),
    ("empty", &[]),
];
/// The port that services answer on, their protocol, and the backends' port.
pub const PORTS: [(u8, u16, u16); 2] = [(protocol::TCP, 80, 8080), (protocol::UDP, 53, 5353)];

const NAMES: [(&str, &str, &str); 22] = [
    ("blue", "10.0.0.1", "fd00::1"),
    ("green", "10.0.0.2", "fd00::2"),
    ("red", "10.0.0.3", "fd00::3"),
    ("grey", "10.0.0.4", "fd00::4"),
    ("host", "192.0.2.10", "2001:db8::10"),
    ("weir0", "169.254.64.1", "fd77:6569:7200::1"),
    ("loopback", "127.0.0.1", "::1"),
    ("loopback-2", "127.9.9.9", "::1"),
    ("router", "192.0.2.1", "2001:db8::1"),
    ("near", "192.0.2.77", "2001:db8::77"),
    ("client", "198.51.100.7", "2001:db8:ffff::7"),
    ("remote", "10.1.0.9", "fd01::9"),
    ("docker", "172.17.0.2", "fd17::2"),
    ("nowhere", "100.64.0.1", "fdff::1"),
    ("web", "10.96.0.1", "fd96::1"),
    ("lb", "203.0.113.1", "2001:db8:1b::1"),
    ("pair", "203.0.113.2", "2001:db8:1b::2"),
    ("own", "10.96.0.3", "fd96::3"),
    ("far", "10.96.0.4", "fd96::4"),
    ("empty", "10.96.0.5", "fd96::5"),
    ("stranger", "10.0.0.99", "fd00::99"),
    ("all", "224.0.0.251", "ff02::fb"),
];

/// The address of a name in a family, 4 or 6.
pub fn addr(name: &str, family: u8) -> Addr {
    match name {
        "gateway" => return gateway_addr(family == 4),
        "hairpin" => return hairpin_addr(family == 4),
        "peer" => return host_peer_addr(family == 4),
        _ => {}
    }
    let row = NAMES.iter().find(|row| row.0 == name);
    let (_, v4, v6) = row.unwrap_or_else(|| panic!("nobody is called {name}"));
    (if family == 4 { v4 } else { v6 }).parse().expect("an address")
}

/// The name of an address, or the address.
pub fn name_of(found: &Addr) -> String {
    if *found == hairpin_addr(true) || *found == hairpin_addr(false) {
        return "hairpin".into();
    }
    if *found == host_peer_addr(true) || *found == host_peer_addr(false) {
        return "peer".into();
    }
    let named = NAMES.iter().find(|row| *found == addr(row.0, 4) || *found == addr(row.0, 6));
    named.map_or_else(|| found.to_string(), |row| row.0.into())
}

/// The name of a port: a pod's, `host` or `out`.
pub fn port_name(port: PortId) -> String {
    match port {
        UPLINK_PORT => "out".into(),
        HOST_PORT => "host".into(),
        PortId(index) => PODS
            .iter()
            .find(|pod| pod.1 == index)
            .map_or_else(|| format!("if{index}"), |pod| pod.0.into()),
    }
}

/// The port of a name, as the source of packets.
pub fn port_of(name: &str) -> PortId {
    match name {
        "out" => PortId::UPLINK,
        "host" => PortId::HOST,
        "nobody" => PortId(999),
        pod => PortId(PODS.iter().find(|row| row.0 == pod).expect("a pod").1),
    }
}

pub fn pod_mac(port: PortId) -> Mac {
    Mac([2, 0, 0, 0, 1, port.0 as u8])
}

/// Source and destination MAC of what comes in by a port.
pub fn arriving_macs(port: PortId) -> (Mac, Mac) {
    match port {
        PortId::UPLINK => (ROUTER_MAC, UPLINK_MAC),
        PortId::HOST => (HOST_MAC, GATEWAY_MAC),
        pod => (pod_mac(pod), GATEWAY_MAC),
    }
}

/// Source and destination MAC of what should leave by a port for an address.
pub fn leaving_macs(port: PortId, dst: &Addr) -> (Mac, Mac) {
    let is_near = *dst == addr("near", 4) || *dst == addr("near", 6);
    match port {
        UPLINK_PORT => (UPLINK_MAC, if is_near { NEAR_MAC } else { ROUTER_MAC }),
        HOST_PORT => (GATEWAY_MAC, HOST_MAC),
        pod => (GATEWAY_MAC, pod_mac(pod)),
    }
}

/// A pod of both families; `salt` changes its name, and so the worker that it falls to.
pub fn pod(name: &str, salt: u32, port: PortId) -> Object {
    let addresses = vec![addr(name, 4), addr(name, 6)];
    Object::Endpoint(Endpoint::new(&pod_name(name, salt), port, pod_mac(port), addresses))
}

pub fn pod_name(name: &str, salt: u32) -> String {
    format!("default/{name}-{salt}")
}

/// A backend of a service port.
pub fn backend(name: &str, family: u8, l4_port: u16, state: BackendState) -> Backend {
    Backend {
        addr: BackendAddr { addr: addr(name, family), l4_port },
        state,
        weight: 100,
        node: None,
    }
}

/// The backend sets of a service, both families and protocols.
pub fn backend_sets(service: &str, backends: &[(&str, BackendState)]) -> Vec<Object> {
    let mut objects = Vec::new();
    for family in [4, 6] {
        for (protocol, l4_port, target) in PORTS {
            let row = |&(name, state): &(&str, BackendState)| backend(name, family, target, state);
            objects.push(Object::BackendSet {
                name: set_name(service, l4_port, family),
                protocol,
                algorithm: Algorithm::Maglev,
                backends: backends.iter().map(row).collect(),
            });
        }
    }
    objects
}

/// The frontends of a service, both families and protocols.
pub fn frontends(service: &str) -> Vec<Frontend> {
    let mut rows = Vec::new();
    for family in [4, 6] {
        for (protocol, l4_port, _) in PORTS {
            rows.push(Frontend::new(
                FrontendKey { addr: addr(service, family), l4_port, protocol },
                &format!("default/{service}"),
                FrontendType::ClusterIp,
                &set_name(service, l4_port, family),
            ));
        }
    }
    rows
}

fn set_name(service: &str, l4_port: u16, family: u8) -> String {
    format!("default/{service}:{l4_port}/v{family}")
}

/// What the kernel of the node knows.
pub fn network() -> Network {
    let mut network = Network {
        host: Some(HostPort { port: HOST_PORT, mac: HOST_MAC, mtu: 1500 }),
        uplinks: vec![Uplink { port: UPLINK_PORT, mac: UPLINK_MAC, mtu: UPLINK_MTU }],
        ..Network::default()
    };
    for (family, all, link, docker, nowhere) in [(4, 0, 24, 16, 10), (6, 0, 64, 64, 64)] {
        let default = if family == 4 { Addr::from_v4([0; 4]) } else { Addr::UNSPECIFIED };
        let router = addr("router", family);
        let via = |gateway| RouteTarget::Uplink { port: UPLINK_PORT, gateway };
        let mut route = |dst: Addr, length, target| {
            let prefix = Prefix::new(dst, length).expect("not too long");
            network.routes.push(Route { prefix, target, metric: 0 });
        };
        route(default, all, via(Some(router)));
        route(router, link, via(None));
        route(addr("docker", family), docker, RouteTarget::Kernel);
        route(addr("nowhere", family), nowhere, RouteTarget::Unreachable);
        network.addresses.extend(["host", "weir0", "loopback"].map(|name| addr(name, family)));
        network.uplink_addresses.push(addr("host", family));
        network.neighbours.insert(NextHop { port: UPLINK_PORT, addr: router }, ROUTER_MAC);
    }
    network
}

/// Everything above in tables for `workers` workers.
pub fn tables(workers: u8, salt: u32) -> Tables {
    let mut tables = Tables::new(workers);
    let mut objects = vec![Object::Node(NodeConfig {
        name: "node".into(),
        maglev: weir_tables::MaglevParams::new(251, &[]).expect("a size that exists"),
        ..NodeConfig::default()
    })];
    objects.extend(PODS.map(|(name, port)| pod(name, salt, PortId(port))));
    for (service, backends) in SERVICES {
        let rows: Vec<_> = backends.iter().map(|name| (*name, BackendState::Active)).collect();
        objects.extend(backend_sets(service, &rows));
        objects.extend(frontends(service).into_iter().map(Object::Frontend));
    }
    for object in objects {
        tables.upsert(object).expect("a valid object");
    }
    tables.set_network(network());
    tables
}
