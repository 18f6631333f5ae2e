//! What a cluster looks like: names, addresses and ranges. Nothing here touches the machine.
//!
//! Every cluster lives in namespaces of its own, so all clusters use the same addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Nodes that have an address in the plan.
pub const NODES_MAX: u8 = 20;

/// Of pods; each node gets a /24 and a /64 of it from the controller manager.
pub const POD_CIDRS: &str = "10.244.0.0/16,fd00:10:244::/56";
/// Of ClusterIPs.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// The ClusterIP of the API server: the first of its range.
pub const API_SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1)),
];
/// The ClusterIP of kube-dns, by convention the tenth.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The control plane, on the segment of the nodes; also their gateway to everything outside.
pub const CONTROL: Addresses = Addresses::of(1);
pub const API_PORT: u16 = 6443;

/// Of the segment, for `ip addr`.
pub const PREFIX_LENGTHS: [u8; 2] = [24, 64];

/// One of each family on the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Addresses {
    const fn of(number: u8) -> Self {
        Self {
            v4: Ipv4Addr::new(172, 30, 0, number),
            v6: Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, number as u16),
        }
    }
}

/// A node as it is planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// From 1.
    pub number: u8,
    pub addresses: Addresses,
}

impl NodePlan {
    pub fn new(number: u8) -> Self {
        Self { number, addresses: Addresses::of(10 + number) }
    }

    /// Of the Node object, the network namespace and the state's folder.
    pub fn name(&self) -> String {
        format!("node-{}", self.number)
    }
}

/// The nodes of a cluster, from 1.
pub fn plan_nodes(count: u8) -> Result<Vec<NodePlan>> {
    ensure!((1..=NODES_MAX).contains(&count), "--nodes {count}: use 1 to {NODES_MAX}");
    Ok((1..=count).map(NodePlan::new).collect())
}

/// Names become parts of namespaces, cgroups and paths.
pub fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_good = (1..=16).contains(&name.len()) && name.chars().all(good);
    ensure!(is_good, "--name {name:?}: use 1 to 16 of a-z and 0-9");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_distinct_addresses_on_the_segment() {
        let nodes = plan_nodes(NODES_MAX).unwrap();
        let mut seen = vec![CONTROL.v4];
        for node in &nodes {
            assert_eq!(node.addresses.v4.octets()[..3], CONTROL.v4.octets()[..3]);
            assert!(!seen.contains(&node.addresses.v4));
            seen.push(node.addresses.v4);
        }
        assert_eq!(nodes[1].name(), "node-2");
        assert!(plan_nodes(0).is_err() && plan_nodes(NODES_MAX + 1).is_err());
    }

    #[test]
    fn names_that_would_break_paths_are_refused() {
        assert!(check_name("weir").is_ok() && check_name("e2e3").is_ok());
        for bad in ["", "a-b", "../x", "UP", "longerthansixteen"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
