//! A cluster's hosts, links, addresses and routes.

use super::{ClusterOptions, Topology, node_name};
use crate::{
    Host, Lab, Link, LinkOptions, Result,
    testbed::{Addresses, UPLINK},
};

/// The client's address (RFC 5737, RFC 3849).
pub const OUTSIDE: Addresses =
    Addresses::new([198, 51, 100, 10], [0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x10]);

/// Of the hop between two routers, in bytes.
pub const NARROW_MTU: u32 = 1400;

/// The address of a node, from 0.
#[must_use]
pub const fn node_addresses(number: u8) -> Addresses {
    let group = number as u16;
    Addresses::new([192, 0, 2, 16 * number + 10], [0x2001, 0xdb8, 1, group, 0, 0, 0, 0x10])
}

/// The router's address on the segment of a node.
const fn gateway(number: u8) -> Addresses {
    let group = number as u16;
    Addresses::new([192, 0, 2, 16 * number + 1], [0x2001, 0xdb8, 1, group, 0, 0, 0, 1])
}

/// The router's address on the client's network.
const OUTSIDE_GATEWAY: Addresses =
    Addresses::new([198, 51, 100, 1], [0x2001, 0xdb8, 5, 0, 0, 0, 0, 1]);

/// Both ends of the `number`-th hop between two routers (RFC 2544).
const fn hop(number: u8) -> [Addresses; 2] {
    let group = number as u16;
    [
        Addresses::new([198, 18, number, 1], [0x2001, 0xdb8, 6, group, 0, 0, 0, 1]),
        Addresses::new([198, 18, number, 2], [0x2001, 0xdb8, 6, group, 0, 0, 0, 2]),
    ]
}

/// Load balancer addresses and external IPs: the router sends them to the first node.
const SERVICES: [&str; 2] = ["203.0.113.0/24", "2001:db8:2::/64"];

const BRIDGE: &str = "br0";

#[derive(Debug)]
pub(super) struct Network {
    pub(super) client: Host,
    pub(super) router: Host,
    pub(super) nodes: Vec<Host>,
    pub(super) links: Vec<Link>,
}

impl Network {
    pub(super) fn new(lab: &Lab, options: &ClusterOptions) -> Result<Self> {
        let (client, router) = (lab.host("client")?, add_router(lab, "router")?);
        let mut network = Self { client, router, nodes: Vec::new(), links: Vec::new() };
        network.add_client(lab, options.has_narrow_client)?;
        if options.topology == Topology::Segment {
            network.add_bridge()?;
        }
        for number in 0..options.nodes {
            network.add_node(lab, number, options)?;
        }
        if options.topology == Topology::Segment {
            network.route_between_nodes(options.nodes)?;
        }
        let first = node_addresses(0);
        network.router.route(&format!("{} via {}", SERVICES[0], first.v4))?;
        network.router.route(&format!("{} via {}", SERVICES[1], first.v6))?;
        Ok(network)
    }

    /// The client on the router, or on a second one that a narrow hop divides from the first.
    fn add_client(&self, lab: &Lab, is_narrow: bool) -> Result<()> {
        let before = if is_narrow { add_router(lab, "edge")? } else { self.router.clone() };
        lab.link(&before, "outside", &self.client, "eth0", &LinkOptions::default())?;
        give(&before, "outside", OUTSIDE_GATEWAY, [24, 64])?;
        give(&self.client, "eth0", OUTSIDE, [24, 64])?;
        default_via(&self.client, OUTSIDE_GATEWAY)?;
        if is_narrow {
            self.join_by_narrow_hop(lab, &before, 0)?;
            let [_, edge] = hop(0);
            route_both(&self.router, ["198.51.100.0/24", "2001:db8:5::/64"], edge)?;
        }
        Ok(())
    }

    /// Another router behind this one, which is its way to everywhere.
    fn join_by_narrow_hop(&self, lab: &Lab, other: &Host, number: u8) -> Result<()> {
        let name = format!("hop{number}");
        let narrow = LinkOptions { mtu: Some(NARROW_MTU), ..Default::default() };
        lab.link(&self.router, &name, other, &name, &narrow)?;
        let [own, others] = hop(number);
        give(&self.router, &name, own, [30, 64])?;
        give(other, &name, others, [30, 64])?;
        default_via(other, own)
    }

    fn add_bridge(&self) -> Result<()> {
        let words = "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0";
        self.router.ip(words)?;
        self.router.ip(&format!("link set dev {BRIDGE} up"))?;
        give(&self.router, BRIDGE, gateway(0), [24, 48])
    }

    fn add_node(&mut self, lab: &Lab, number: u8, options: &ClusterOptions) -> Result<()> {
        let node = lab.host(&node_name(number))?;
        let is_narrow = options.narrow_node == Some(number);
        let before = if is_narrow {
            let narrow = add_router(lab, "narrow")?;
            self.join_by_narrow_hop(lab, &narrow, number + 1)?;
            let [_, others] = hop(number + 1);
            route_both(&self.router, segment(number), others)?;
            route_both(&self.router, pod_ranges(number), others)?;
            narrow
        } else {
            self.router.clone()
        };
        let name = node_name(number);
        let link = LinkOptions::default();
        match options.impairment {
            Some((seed, impairment)) => self.links.push(lab.impaired_link(
                &before,
                &name,
                &node,
                UPLINK,
                &link,
                seed + u64::from(number),
                impairment,
            )?),
            None => lab.link(&before, &name, &node, UPLINK, &link)?,
        }
        match options.topology {
            Topology::Segment => {
                before.ip(&format!("link set dev {name} master {BRIDGE}"))?;
                give(&node, UPLINK, node_addresses(number), [24, 48])?;
                default_via(&node, gateway(0))?;
            }
            Topology::Apart => {
                give(&before, &name, gateway(number), [28, 64])?;
                give(&node, UPLINK, node_addresses(number), [28, 64])?;
                default_via(&node, gateway(number))?;
            }
        }
        route_both(&before, pod_ranges(number), node_addresses(number))?;
        self.nodes.push(node);
        Ok(())
    }

    fn route_between_nodes(&self, count: u8) -> Result<()> {
        for (node, own) in self.nodes.iter().zip(0..) {
            for other in (0..count).filter(|it| *it != own) {
                route_both(node, pod_ranges(other), node_addresses(other))?;
            }
        }
        Ok(())
    }
}

fn add_router(lab: &Lab, name: &str) -> Result<Host> {
    let host = lab.host(name)?;
    host.sysctl("net.ipv4.ip_forward", "1")?;
    host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    // A test may want many ICMP errors at once.
    host.sysctl("net.ipv4.icmp_ratelimit", "0")?;
    host.sysctl("net.ipv6.icmp.ratelimit", "0")?;
    Ok(host)
}

pub(super) fn pod_ranges(number: u8) -> [String; 2] {
    [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number:x}::/64")]
}

fn segment(number: u8) -> [String; 2] {
    [format!("192.0.2.{}/28", 16 * number), format!("2001:db8:1:{number:x}::/64")]
}

fn give(host: &Host, interface: &str, own: Addresses, lengths: [u8; 2]) -> Result<()> {
    host.addr(interface, &format!("{}/{}", own.v4, lengths[0]))?;
    host.addr(interface, &format!("{}/{}", own.v6, lengths[1]))
}

fn default_via(host: &Host, gateway: Addresses) -> Result<()> {
    host.route(&format!("default via {}", gateway.v4))?;
    host.route(&format!("default via {}", gateway.v6))
}

/// An IPv4 and an IPv6 range.
fn route_both<R: AsRef<str>>(host: &Host, ranges: [R; 2], via: Addresses) -> Result<()> {
    host.route(&format!("{} via {}", ranges[0].as_ref(), via.v4))?;
    host.route(&format!("{} via {}", ranges[1].as_ref(), via.v6))
}
