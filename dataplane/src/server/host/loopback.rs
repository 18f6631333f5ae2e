//! hostPorts at loopback addresses, for the node's own sockets. A hostPort on every address of the
//! node is at 127.0.0.1 as well; NodePorts are not, though they have the same frontends: they are
//! told apart by their range. IPv4 alone: see [`crate::netlink::host_path`].

use std::net::{IpAddr, Ipv4Addr};

use weir_packet::Addr;

use super::HostView;
use crate::netlink::{HostPaths, PortRule, host_path};

/// 127.0.0.0/8, both ends included.
const FIRST: Addr = Addr::from_v4([127, 0, 0, 0]);
const LAST: Addr = Addr::from_v4([127, 255, 255, 255]);

impl HostView {
    /// Which of the host's packets to loopback are for hostPorts, and how many rules more than
    /// possible there are; rules for the node's own addresses go first.
    pub fn loopback(&self) -> (HostPaths, usize) {
        let mut paths = HostPaths::default();
        let on_all = self.frontends.get_key_value(&Addr::unspecified(true));
        for (addr, ports) in self.frontends.range(FIRST..=LAST).chain(on_all) {
            for &(protocol, l4_port) in ports.keys() {
                if !self.is_on_loopback(addr, l4_port) {
                    continue;
                }
                let (min, max) = (l4_port, l4_port);
                paths.rules.insert(PortRule { is_ipv4: true, protocol, min, max });
                paths.addresses.insert(match addr.is_unspecified() {
                    true => Ipv4Addr::LOCALHOST.into(),
                    false => IpAddr::from(*addr),
                });
            }
        }
        let (own, _) = self.rules();
        let room = host_path::RULES_MAX - own.len();
        let too_many = paths.rules.len().saturating_sub(room);
        paths.rules = paths.rules.into_iter().take(room).collect();
        (paths, too_many)
    }

    /// Whether the node's sockets reach a frontend at a loopback address.
    pub(super) fn is_on_loopback(&self, addr: &Addr, l4_port: u16) -> bool {
        let is_on_all = addr.is_unspecified() && !self.node_port_range.contains(l4_port);
        addr.is_v4() && (addr.is_loopback() || is_on_all)
    }
}
