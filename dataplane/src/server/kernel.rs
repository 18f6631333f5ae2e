//! What the kernel must do for the tables: know our addresses, carry our ports, route to our pods.
//!
//! Every call is idempotent; a failure names the object and undoes nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weir_packet::Addr;
use weir_tables::{
    Endpoint, FailureMode, FrontendKey, NextHop, NodeConfig, PortId, Prefix, WorkerId,
};
use weir_xdp_redirect::{AddressClass, L4Port, PortEntry, Settings};

use super::host::{HostView, OwnAddresses, Touched, l4_port};
use crate::attach::{AttachError, Interface, Maps, PortKind, Programs};
use crate::netlink::{
    self, HostPaths, KernelState, KernelWatch, Netlink, PortRange, Trunk, port_ranges,
};

mod cluster;
mod network;

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
    /// What the maps shall hold.
    view: HostView,
    /// What the map of addresses holds.
    addresses: BTreeMap<Addr, u32>,
    /// What the map of the node's L4 ports holds.
    l4_ports: BTreeSet<(u8, u16)>,
    settings: Settings,
    /// What the node was started with.
    failure_mode: weir_xdp_redirect::FailureMode,
    own: OwnAddresses,
    /// Where the host's sysctls are kept for [`remove_all`].
    saved_sysctls: PathBuf,
    /// The ranges that they were set for.
    cleared: Option<(PortRange, PortRange)>,
    cluster: cluster::Cluster,
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
    pub run_dir: PathBuf,
}

impl Kernel {
    /// Takes over the maps as an earlier process left them, so that its traffic goes on.
    pub fn new(parts: KernelParts) -> Result<Kernel, KernelError> {
        let mut programs = parts.programs;
        let mut maps = programs.maps()?;
        // The SNAT range stays as it was: the configuration comes with the state.
        let before = maps.settings()?;
        let settings = Settings {
            failure_mode: parts.failure_mode,
            snat_port_min: before.snat_port_min,
            snat_port_max: before.snat_port_max,
            ..Settings::DEFAULT
        };
        maps.set_settings(settings)?;
        let outer = Interface::by_index(parts.host.outer.ifindex)?;
        programs.attach_port(&outer, PortKind::Host)?;
        let addresses = maps.addresses()?.into_iter();
        let l4_ports = maps.node_l4_ports()?.into_iter();
        let mut kernel = Kernel {
            programs,
            netlink: parts.netlink,
            watch: parts.watch,
            trunks: parts.trunks,
            host: parts.host,
            uplinks: parts.uplinks,
            view: HostView::default(),
            addresses: addresses.map(|(ip, class)| (Addr::from(ip), class.0)).collect(),
            l4_ports: l4_ports.map(|key: L4Port| (key.protocol, key.l4_port())).collect(),
            maps,
            settings,
            failure_mode: parts.failure_mode,
            own: OwnAddresses::default(),
            saved_sysctls: saved_sysctls(&parts.run_dir),
            cleared: None,
            cluster: cluster::Cluster::default(),
        };
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
        self.write_pod(endpoint)
    }

    /// Makes another form of an endpoint of the one that there is. Where only its policy differs,
    /// its packets go on.
    pub async fn replace_endpoint(
        &mut self,
        old: &Endpoint,
        new: &Endpoint,
        worker: WorkerId,
    ) -> Result<(), KernelError> {
        if old.port != new.port {
            self.remove_endpoint(old).await?;
            return self.add_endpoint(new, worker).await;
        }
        if (old.mac, &old.addresses) != (new.mac, &new.addresses) {
            // The programs stay: once detached, they keep their place on the hook for a while.
            self.remove_addresses(old).await?;
            return self.add_endpoint(new, worker).await;
        }
        if old.failure_mode != new.failure_mode {
            self.maps.set_port(new.port.0, self.port_entry(worker, new.failure_mode))?;
            self.write_pod(new)?;
        }
        Ok(())
    }

    /// Makes the pod's addresses ours, with what happens to them while no worker runs.
    fn write_pod(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let class = AddressClass::pod(endpoint.failure_mode == FailureMode::Closed);
        for addr in &endpoint.addresses {
            self.view.set_pod(*addr, Some(class));
            self.write_address(*addr)?;
        }
        Ok(())
    }

    /// Undoes `add_endpoint`. The interface may be gone; what is left is removed.
    pub async fn remove_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.remove_addresses(endpoint).await?;
        self.programs.detach(endpoint.port.0)?;
        self.maps.remove_port(endpoint.port.0)?;
        Ok(())
    }

    async fn remove_addresses(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        for addr in &endpoint.addresses {
            self.view.set_pod(*addr, None);
            self.write_address(*addr)?;
        }
        let ips: Vec<IpAddr> = endpoint.addresses.iter().map(|addr| IpAddr::from(*addr)).collect();
        Ok(self.netlink.remove_pod_route(endpoint.port.0, &ips).await?)
    }

    /// Makes the packets of a frontend ours. One that does not fit into the maps leaves nothing.
    pub fn set_frontend(&mut self, key: &FrontendKey, is_dsr: bool) -> Result<(), KernelError> {
        let touched = self.view.set_frontend(key, is_dsr);
        let done = self.write(&touched);
        if done.is_err() {
            let touched = self.view.remove_frontend(key);
            self.write(&touched)?;
        }
        done
    }

    /// Undoes `set_frontend`.
    pub fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), KernelError> {
        let touched = self.view.remove_frontend(key);
        self.write(&touched)
    }

    /// Follows the node's own addresses.
    pub fn set_network(&mut self, state: &KernelState) -> Result<(), KernelError> {
        let host_port = self.host.host.ifindex;
        self.take_own(self.own.clone().with_network(state, &self.uplinks, host_port))
    }

    /// Follows the node's configuration and makes the host's rules, routes and sysctls agree with
    /// everything set before. What fails is logged and tried again with the next change.
    pub async fn sync_host(&mut self, node: &NodeConfig) {
        if let Err(error) = self.set_node(node) {
            tracing::warn!(%error, "not all packets to the node's own addresses are served");
        }
        self.clear_ports(node);
        self.sync_ways(node).await;
        if self.view.is_routes_dirty {
            let routes = self.view.service_routes();
            match self.set_service_ranges(&routes).await {
                Ok(()) => self.view.is_routes_dirty = false,
                Err(error) => tracing::warn!(%error, "the host does not reach all services"),
            }
        }
        if self.view.is_rules_dirty {
            match self.set_host_paths().await {
                Ok(()) => self.view.is_rules_dirty = false,
                Err(error) => tracing::warn!(
                    %error, "the host does not reach all NodePorts and hostPorts of its own"
                ),
            }
        }
        // Last: the kernel answers for what it routes into the host port.
        self.sync_announced(node).await;
    }

    /// Forgets addresses and L4 ports that nobody has claimed since an earlier process left them,
    /// and ports that `keep_port` does not name.
    pub fn prune(&mut self, keep_port: impl Fn(PortId) -> bool) -> Result<(), KernelError> {
        let stale = Touched {
            addrs: self.addresses.keys().copied().collect(),
            l4_ports: self.l4_ports.clone(),
        };
        self.write(&stale)?;
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

    fn set_node(&mut self, node: &NodeConfig) -> Result<(), KernelError> {
        let settings = Settings {
            failure_mode: match self.failure_mode {
                // Policies stop nothing, so that no pod is closed for their sake either.
                weir_xdp_redirect::FailureMode::AUTO if node.policy_audit => {
                    weir_xdp_redirect::FailureMode::OPEN
                }
                mode => mode,
            },
            snat_port_min: node.snat_ports.min,
            snat_port_max: node.snat_ports.max,
            ..self.settings
        };
        if settings != self.settings {
            self.maps.set_settings(settings)?;
            self.settings = settings;
        }
        let touched = self.view.set_node(node);
        self.write(&touched)?;
        self.take_own(self.own.clone().with_configured(&node.addresses))
    }

    fn take_own(&mut self, own: OwnAddresses) -> Result<(), KernelError> {
        // The rules' table holds them, and a new one may be the source of answers.
        self.view.is_rules_dirty |= own != self.own;
        let touched = self.view.set_own(own.reachable());
        self.own = own;
        self.write(&touched)
    }

    /// Keeps the host's own sockets off our L4 ports, once per pair of ranges.
    fn clear_ports(&mut self, node: &NodeConfig) {
        let snat = PortRange { min: node.snat_ports.min, max: node.snat_ports.max };
        let node_ports = PortRange { min: node.node_ports.min, max: node.node_ports.max };
        if self.cleared == Some((snat, node_ports)) {
            return;
        }
        self.cleared = Some((snat, node_ports));
        let (_, warnings) = port_ranges::keep_clear(snat, node_ports, &self.saved_sysctls);
        for warning in warnings.into_iter().chain(port_ranges::warn_of_held_ports(snat)) {
            tracing::warn!("{warning}");
        }
    }

    async fn set_service_ranges(&self, ranges: &[Prefix]) -> Result<(), KernelError> {
        let ranges: Vec<netlink::Prefix> = ranges
            .iter()
            .map(|range| netlink::Prefix::new(IpAddr::from(range.addr()), range.length()))
            .collect();
        Ok(self.netlink.set_service_ranges(&self.host, &ranges, &[]).await?)
    }

    async fn set_host_paths(&self) -> Result<(), KernelError> {
        let (rules, left_out) = self.view.rules();
        let (loopback, left_out_too) = self.view.loopback();
        if left_out + left_out_too > 0 {
            let max = netlink::host_path::RULES_MAX;
            tracing::warn!(
                "the host itself does not reach {left_out} of its L4 ports outside the range of \
                 NodePorts (hostPorts, externalIPs of the node), and {left_out_too} at 127.0.0.1: \
                 {max} is the most of both, the highest port numbers are left out"
            );
        }
        self.netlink.set_host_peer(&self.host, &self.own.primary()).await?;
        let addresses = self.own.local.iter().map(|addr| IpAddr::from(*addr)).collect();
        let own = HostPaths { rules, addresses };
        Ok(self.netlink.set_host_paths(&self.host, &own, &loopback).await?)
    }

    /// Brings the maps' entries to what the view says. All of them are tried.
    fn write(&mut self, touched: &Touched) -> Result<(), KernelError> {
        let mut first_error = Ok(());
        for addr in &touched.addrs {
            first_error = first_error.and(self.write_address(*addr));
        }
        for port in &touched.l4_ports {
            first_error = first_error.and(self.write_l4_port(*port));
        }
        first_error
    }

    fn write_address(&mut self, addr: Addr) -> Result<(), KernelError> {
        let ip = IpAddr::from(addr);
        match self.view.class(&addr) {
            Some(class) if self.addresses.get(&addr) != Some(&class.0) => {
                self.maps.set_address(ip, class)?;
                self.addresses.insert(addr, class.0);
            }
            None if self.addresses.contains_key(&addr) => {
                self.maps.remove_address(ip)?;
                self.addresses.remove(&addr);
            }
            _ => {}
        }
        Ok(())
    }

    fn write_l4_port(&mut self, port: (u8, u16)) -> Result<(), KernelError> {
        match (self.view.has_l4_port(port), self.l4_ports.contains(&port)) {
            (true, false) => {
                self.maps.set_node_l4_port(l4_port(port))?;
                self.l4_ports.insert(port);
            }
            (false, true) => {
                self.maps.remove_node_l4_port(l4_port(port))?;
                self.l4_ports.remove(&port);
            }
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

/// Removes everything that a node set up: programs, maps, links, rules and routes of `pin_dir`, and
/// the sysctls that `run_dir` has noted.
pub async fn remove_all(pin_dir: &Path, run_dir: &Path) -> Result<(), KernelError> {
    crate::attach::remove_all(pin_dir)?;
    let netlink = Netlink::open()?;
    netlink.remove_all().await?;
    port_ranges::restore(&saved_sysctls(run_dir))?;
    Ok(())
}

fn saved_sysctls(run_dir: &Path) -> PathBuf {
    run_dir.join("host-sysctls.json")
}
