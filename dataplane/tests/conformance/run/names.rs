//! A name for every address of the cluster, so that scripts need no numbers.
//!
//! ```text
//!  web-1           a pod           web        a Service's cluster IP
//!  node-1          a node          web/lb     its load balancer's address
//!  node-1/external its other       web/external  its external IP
//!  client client-2 outside         hairpin    whom a pod sees that reaches itself
//!  router          of the uplink   host-peer  whom the host's own backends see
//! ```
//! Addresses may be written out, too.

use std::net::IpAddr;

use weir_control::model::{Node, Object};
use weir_dataplane::pipeline::{hairpin_addr, host_peer_addr};
use weir_packet::{Addr, Mac, Parsed, parse};
use weir_tables::Prefix;

use super::cluster::short;

pub const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 2, 0]);
pub const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 9, 0]);
pub use weir_dataplane::pipeline::GATEWAY_MAC;

/// Names that every cluster has.
const OUTSIDE: [(&str, &str, &str); 4] = [
    ("client", "198.51.100.7", "2001:db8:ffff::7"),
    ("client-2", "198.51.100.8", "2001:db8:ffff::8"),
    ("router", "192.0.2.1", "2001:db8::1"),
    ("other-router", "203.0.113.254", "2001:db8:eeee::fe"),
];

/// Addresses and their names; of two names for an address the first is written.
#[derive(Clone, Debug, Default)]
pub struct Names {
    rows: Vec<(String, Addr)>,
    /// What is reached by another node, and its MAC.
    nodes: Vec<(Prefix, Mac)>,
}

impl Names {
    /// The names of these objects. `extra` are names of the script's own: name, IPv4, IPv6.
    pub fn new<'a>(objects: impl Iterator<Item = &'a Object> + Clone, extra: &[String]) -> Names {
        let mut names = Names::default();
        for is_v4 in [true, false] {
            names.add("hairpin", hairpin_addr(is_v4));
            names.add("host-peer", host_peer_addr(is_v4));
        }
        for (name, v4, v6) in OUTSIDE {
            names.add(name, v4.parse().expect("an address"));
            names.add(name, v6.parse().expect("an address"));
        }
        let nodes = objects.clone().filter_map(|object| match object {
            Object::Node(node) => Some(node),
            _ => None,
        });
        for (at, node) in nodes.enumerate() {
            names.add_node(node, at as u8);
        }
        for object in objects.clone() {
            if let Object::Pod(pod) = object {
                names.add_all(&short(&pod.name), &pod.addresses);
            }
        }
        for object in objects {
            if let Object::Service(service) = object {
                let name = &service.name.name;
                names.add_all(name, &service.cluster_ips);
                names.add_all(&format!("{name}/lb"), &service.load_balancer_ips);
                names.add_all(&format!("{name}/external"), &service.external_ips);
            }
        }
        for line in extra {
            let mut words = line.split_whitespace();
            let name = words.next().expect("a name");
            words.for_each(|word| names.add(name, word.parse().expect("an address")));
        }
        names
    }

    fn add(&mut self, name: &str, addr: Addr) {
        self.rows.push((name.to_owned(), addr));
    }

    fn add_all(&mut self, name: &str, addresses: &[IpAddr]) {
        for address in addresses {
            self.add(name, Addr::from(*address));
        }
    }

    fn add_node(&mut self, node: &Node, at: u8) {
        let name = &node.name.name;
        self.add_all(name, &node.internal_addresses);
        let external = node.addresses.iter().filter(|it| !node.internal_addresses.contains(it));
        let external: Vec<IpAddr> = external.copied().collect();
        self.add_all(&format!("{name}/external"), &external);
        let mac = node_mac(at);
        let own = node.addresses.iter().map(|it| Prefix::of_addr(Addr::from(*it)));
        self.nodes.extend(own.chain(pod_ranges(node)).map(|prefix| (prefix, mac)));
    }

    /// The address of a name in a family, or one that is written out.
    pub fn addr(&self, name: &str, family: u8) -> Result<Addr, String> {
        let is_it = |row: &&(String, Addr)| row.0 == name && row.1.family() == family;
        match self.rows.iter().find(is_it) {
            Some(row) => Ok(row.1),
            None => name.parse().map_err(|_| format!("  nobody is called {name} in IPv{family}")),
        }
    }

    /// The name of an address, or the address.
    pub fn name(&self, addr: &Addr) -> String {
        let row = self.rows.iter().find(|row| row.1 == *addr);
        row.map_or_else(|| addr.to_string(), |row| row.0.clone())
    }

    /// The MAC to which a frame must leave by the uplink: another node's, or the router's.
    pub fn next_hop_mac(&self, frame: &[u8]) -> Mac {
        let Ok(Parsed::Ip(packet)) = parse(frame) else { return ROUTER_MAC };
        let node = self.nodes.iter().find(|row| row.0.contains(&packet.key.dst));
        node.map_or(ROUTER_MAC, |row| row.1)
    }
}

/// The MAC of a node, by its place among the nodes.
pub fn node_mac(at: u8) -> Mac {
    Mac([2, 0, 0, 0, 3, at])
}

/// Where a node's pods are.
pub fn pod_ranges(node: &Node) -> impl Iterator<Item = Prefix> {
    let prefix = |range: &weir_control::model::Cidr| {
        let wire = range.to_prefix();
        let address = weir_api::convert::parse_address(&wire.address).expect("a range of a node");
        Prefix::new(Addr::from(address), wire.length as u8).expect("a range of a node")
    };
    node.pod_ranges.iter().map(prefix)
}
