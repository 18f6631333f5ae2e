//! What the kernel knows of the network, in the form of the tables.

use weir_packet::{Addr, Mac};
use weir_tables::{HostPort, Network, NextHop, PortId, Prefix, Route, RouteTarget, Uplink};

use super::Kernel;
use crate::netlink::state::{MAIN_TABLE, RouteKind};
use crate::netlink::{self, KernelState};

impl Kernel {
    /// What the kernel knows, in the form of the tables.
    pub fn network(&self, state: &KernelState) -> Network {
        let link = |ifindex: &u32| state.links.get(ifindex).filter(|link| link.up);
        let uplinks = self.uplinks.iter().filter_map(link).map(|link| Uplink {
            port: PortId(link.ifindex),
            mac: Mac(link.mac),
            mtu: link.mtu.min(u32::from(u16::MAX)) as u16,
        });
        let neighbours = state.neighbours.iter().filter_map(|((ifindex, ip), neighbour)| {
            let hop = NextHop { port: PortId(*ifindex), addr: Addr::from(*ip) };
            let is_uplink = self.uplinks.contains(ifindex);
            neighbour.usable_mac().filter(|_| is_uplink).map(|mac| (hop, Mac(mac)))
        });
        let others = state
            .links
            .values()
            .filter(|link| !self.uplinks.contains(&link.ifindex) && !link.name.starts_with("weir"));
        let host = &self.host;
        Network {
            host: Some(HostPort {
                port: PortId(host.outer.ifindex),
                mac: Mac(host.host.mac),
                mtu: host.host.mtu.min(u32::from(u16::MAX)) as u16,
            }),
            uplinks: uplinks.collect(),
            addresses: state.addresses.keys().map(|(ip, _)| Addr::from(*ip)).collect(),
            uplink_addresses: state
                .addresses
                .keys()
                .filter(|(_, ifindex)| self.uplinks.contains(ifindex))
                .map(|(ip, _)| Addr::from(*ip))
                .collect(),
            other_macs: others.map(|link| Mac(link.mac)).filter(|mac| mac.0 != [0; 6]).collect(),
            routes: state.routes.iter().filter_map(|route| self.route(route)).collect(),
            neighbours: neighbours.collect(),
        }
    }

    fn route(&self, route: &netlink::state::Route) -> Option<Route> {
        if route.table != MAIN_TABLE {
            return None;
        }
        let target = match route.kind {
            RouteKind::Local | RouteKind::Throw => return None,
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                RouteTarget::Unreachable
            }
            // Of several ways the first is taken, for all packets: flows are not spread.
            RouteKind::Unicast => match route.hops.first() {
                Some(hop) if self.uplinks.contains(&hop.ifindex) => RouteTarget::Uplink {
                    port: PortId(hop.ifindex),
                    gateway: hop.gateway.map(Addr::from),
                },
                // The service routes lead back to us: what reaches them here has no frontend.
                Some(hop) if hop.ifindex == self.host.host.ifindex => RouteTarget::Unreachable,
                _ => RouteTarget::Kernel,
            },
        };
        let addr = Addr::from(route.destination.address);
        let prefix = Prefix::new(addr, route.destination.len)?;
        Some(Route { prefix, target, metric: route.metric })
    }
}
