//! What the kernel must do for the tables: know our addresses, carry our ports, route to our pods.
//!
//! Every call is idempotent; a failure names the object and undoes nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use weir_packet::{Addr, Mac};
use weir_tables::{
    Endpoint, FailureMode, HostPort, Network, NextHop, PortId, Prefix, Route, RouteTarget, Uplink,
    WorkerId,
};
use weir_xdp_redirect::{AddressClass, PortEntry, Settings};

use crate::attach::{AttachError, Interface, Maps, PortKind, Programs};
use crate::netlink::state::{MAIN_TABLE, RouteKind};
use crate::netlink::{self, KernelState, KernelWatch, Netlink, Trunk};

/// Why the kernel does not do what an object needs.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// The kernel's side of a running node.
pub struct Kernel {
    programs: Programs,
    maps: Maps,
    netlink: Netlink,
    watch: KernelWatch,
    /// By worker.
    trunks: Vec<Trunk>,
    host: netlink::HostPort,
    uplinks: Vec<u32>,
    /// What the map of addresses holds.
    addresses: BTreeMap<Addr, u32>,
}

/// What a node's kernel side is made of.
pub struct KernelParts {
    pub programs: Programs,
    pub netlink: Netlink,
    pub watch: KernelWatch,
    pub trunks: Vec<Trunk>,
    pub host: netlink::HostPort,
    /// Interface indices.
    pub uplinks: Vec<u32>,
    pub failure_mode: weir_xdp_redirect::FailureMode,
}

impl Kernel {
    /// Takes over the maps as an earlier process left them, so that its traffic goes on.
    pub fn new(parts: KernelParts) -> Result<Kernel, KernelError> {
        let KernelParts { mut programs, netlink, watch, trunks, host, uplinks, failure_mode } =
            parts;
        let mut maps = programs.maps()?;
        maps.set_settings(Settings { failure_mode, ..Settings::DEFAULT })?;
        let outer = Interface::by_index(host.outer.ifindex)?;
        programs.attach_port(&outer, PortKind::Host)?;
        let held = maps.addresses()?;
        let addresses = held.into_iter().map(|(ip, class)| (Addr::from(ip), class.0)).collect();
        let mut kernel =
            Kernel { programs, maps, netlink, watch, trunks, host, uplinks, addresses };
        let entry = kernel.port_entry(WorkerId(0), FailureMode::Open);
        kernel.maps.set_port(kernel.host.outer.ifindex, entry)?;
        Ok(kernel)
    }

    /// Follows the kernel's news.
    pub fn watch(&self) -> &KernelWatch {
        &self.watch
    }

    /// The eBPF maps, for counters.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Makes an interface a port of `worker` and routes the pod's addresses to it.
    pub async fn add_endpoint(
        &mut self,
        endpoint: &Endpoint,
        worker: WorkerId,
    ) -> Result<(), KernelError> {
        let ifindex = endpoint.port.0;
        let device = Interface::by_index(ifindex)?;
        self.maps.set_port(ifindex, self.port_entry(worker, endpoint.failure_mode))?;
        self.programs.attach_port(&device, PortKind::Pod)?;
        let ips: Vec<IpAddr> = endpoint.addresses.iter().map(|addr| IpAddr::from(*addr)).collect();
        let gateway = Settings::DEFAULT.gateway_mac;
        self.netlink.ensure_pod_route(ifindex, &ips, endpoint.mac.0, gateway).await?;
        let class = AddressClass::pod(endpoint.failure_mode == FailureMode::Closed);
        for addr in &endpoint.addresses {
            self.set_address(*addr, Some(class))?;
        }
        Ok(())
    }

    /// Undoes `add_endpoint`. The interface may be gone; what is left is removed.
    pub async fn remove_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let ifindex = endpoint.port.0;
        for addr in &endpoint.addresses {
            self.set_address(*addr, None)?;
        }
        let ips: Vec<IpAddr> = endpoint.addresses.iter().map(|addr| IpAddr::from(*addr)).collect();
        self.netlink.remove_pod_route(ifindex, &ips).await?;
        self.programs.detach(ifindex)?;
        self.maps.remove_port(ifindex)?;
        Ok(())
    }

    /// Says whether an address is a service's.
    pub fn set_service_address(&mut self, addr: Addr, is_service: bool) -> Result<(), KernelError> {
        self.set_address(addr, is_service.then_some(AddressClass::SERVICE))
    }

    /// Routes the host's traffic to these ranges into its port.
    pub async fn set_service_ranges(&self, ranges: &[Prefix]) -> Result<(), KernelError> {
        let ranges: Vec<netlink::Prefix> = ranges
            .iter()
            .map(|range| netlink::Prefix::new(IpAddr::from(range.addr()), range.length()))
            .collect();
        Ok(self.netlink.set_service_ranges(&self.host, &ranges, &[]).await?)
    }

    /// Forgets addresses and ports that `keep_addr` and `keep_port` do not name: what an earlier
    /// process left and nobody has claimed since.
    pub fn prune(
        &mut self,
        keep_addr: impl Fn(&Addr) -> bool,
        keep_port: impl Fn(PortId) -> bool,
    ) -> Result<(), KernelError> {
        let stale: Vec<Addr> =
            self.addresses.keys().filter(|addr| !keep_addr(addr)).copied().collect();
        for addr in stale {
            self.set_address(addr, None)?;
        }
        for (ifindex, _) in self.maps.ports()? {
            if ifindex != self.host.outer.ifindex && !keep_port(PortId(ifindex)) {
                self.programs.detach(ifindex)?;
                self.maps.remove_port(ifindex)?;
            }
        }
        Ok(())
    }

    /// Asks the kernel to resolve a next hop and to keep it resolved.
    pub fn resolve(&self, hop: NextHop) {
        if let Err(error) = self.watch.request_neighbour(hop.port.0, IpAddr::from(hop.addr)) {
            tracing::warn!(%error, next_hop = %hop.addr, "the kernel will not resolve it");
        }
    }

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
        let host = &self.host;
        Network {
            host: Some(HostPort {
                port: PortId(host.outer.ifindex),
                mac: Mac(host.host.mac),
                mtu: host.host.mtu.min(u32::from(u16::MAX)) as u16,
            }),
            uplinks: uplinks.collect(),
            addresses: state.addresses.keys().map(|(ip, _)| Addr::from(*ip)).collect(),
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

    fn set_address(&mut self, addr: Addr, class: Option<AddressClass>) -> Result<(), KernelError> {
        let ip = IpAddr::from(addr);
        match class {
            Some(class) if self.addresses.get(&addr) != Some(&class.0) => {
                self.maps.set_address(ip, class)?;
                self.addresses.insert(addr, class.0);
            }
            None if self.addresses.remove(&addr).is_some() => self.maps.remove_address(ip)?,
            _ => {}
        }
        Ok(())
    }

    fn port_entry(&self, worker: WorkerId, mode: FailureMode) -> PortEntry {
        let closed = mode == FailureMode::Closed;
        PortEntry {
            trunk_ifindex: self.trunks[worker.index()].outer.ifindex,
            xsk_slot: u32::from(worker.0),
            flags: if closed { PortEntry::FLAG_FAIL_CLOSED } else { 0 },
        }
    }
}

/// Removes everything that a node set up: programs, maps, links and routes of `pin_dir`.
pub async fn remove_all(pin_dir: &Path) -> Result<(), KernelError> {
    crate::attach::remove_all(pin_dir)?;
    let netlink = Netlink::open()?;
    Ok(netlink.remove_all().await?)
}
